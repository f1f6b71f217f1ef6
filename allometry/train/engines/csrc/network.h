// What every family is to the training step: parameters in flat buffers, a head tied to the token embedding, and a way
// to run a few sequences forward and backward.
#pragma once
#include "buffers.h"
#include "gemm_bf16.h"
#include "optimiser.h"

namespace allometry {

struct Shape {  // filled in by Python (bindings.py), field by field
  int32_t layers, width, heads, hidden, vocab, context;
  int32_t threads;  // to begin with; any number gives the same bits
  int32_t stack;  // layers in a stack that is repeated with a signal for the time step; 0 without signals
  int32_t bf16;   // whether matrix products round their factors to bf16
  float dropout;
  uint64_t seed;
};

// Token windows (sequences, length + 1): each row's last token is only a target.
struct Batch {
  const int32_t* windows;
  int64_t sequences;
  int32_t length;
  const float* weights;  // (sequences, length): of each position in the loss; null for the mean over all
  float* losses;         // (sequences, length): receives each position's loss; may be null

  const int32_t* token(int64_t sequence, int t) const { return windows + sequence * (length + 1) + t; }
};

// The sequences that are worked on together, where they are in the batch, and which rows of the buffers are whose.
struct Group {
  int sequences, length;
  int64_t first;  // index of the first sequence in the batch
  bool training;
  Dropout dropout;
  bool time_major = false;  // rows are (time, sequence) instead of (sequence, time)

  int rows() const { return sequences * length; }
  int time(int row) const { return time_major ? row / sequences : row % length; }
  int64_t sequence(int row) const { return first + (time_major ? row % sequences : row / length); }
};

// y = x * mask for all rows of the group; y may be x.
inline void drop_rows(const Group& g, uint64_t place, int d, const float* x, float* y, ptrdiff_t stride) {
  for (int i = 0; i < g.rows(); i++)
    g.dropout.row(g.dropout.stream(place, g.sequence(i)), g.time(i), d, x + i * stride, y + i * stride);
}

// A parameter in a flat buffer, null if the model has none.
inline float* part(float* flat, int64_t offset) { return offset < 0 ? nullptr : flat + offset; }

// What a thread has in every family.
struct Worker {
  Arena arena;
  float* logits;
  float* gradients;        // where those of the part of the batch that it works on are added up
  float* spare = nullptr;  // a buffer of its own for them, made when it is needed first
  double loss;
};

struct Network {
  Shape shape;
  int64_t embed_at;                            // where the token embedding starts in the flat buffers
  int64_t size;                                // parameters
  float *params, *first, *second, *gradients;  // flat, owned by the caller
  std::vector<int64_t> bounds;                 // parameter tensor i lies in [bounds[i], bounds[i + 1])
  std::vector<uint8_t> shrinks;                // whether weight decay falls on it
  Arena arena;
  PackedWeight head;

  virtual ~Network() = default;
  // Makes packed weights.
  virtual void allocate() = 0;
  // Brings every n-th of the packed weights up to date with the parameters, from the first on.
  virtual void pack_weights(int first, int n) = 0;
  // Makes the buffers of one more thread.
  virtual void add_worker() = 0;
  virtual Worker& worker(int thread) = 0;
  virtual int worker_count() const = 0;
  // How many of a batch's sequences make a group.
  virtual int together(int64_t sequences) const = 0;
  // Forward: losses are added up and kept. In training also backward: gradients are added to the worker's.
  virtual void run(int thread, const Group& group, const Batch& batch) = 0;

  // A packed weight as the right factor of `linear`.
  Right weights(const float* at, int depth) const { return shape.bf16 ? as_tiles(at) : packed(at, depth); }

  // A product with weights, or of a gradient of weights.
  void linear(int rows, int columns, int depth, Left a, Right b, Out c) const {
    if (shape.bf16) product_bf16(rows, columns, depth, a, b, c);
    else product(rows, columns, depth, a, b, c);
  }

  ptrdiff_t stride() const { return row_stride(shape.width); }
  ptrdiff_t vocab_stride() const { return row_stride(shape.vocab); }

 protected:
  void allocate_common(Worker& w, size_t rows) const { w.logits = w.arena.take(rows * vocab_stride()); }
};

}  // namespace allometry
