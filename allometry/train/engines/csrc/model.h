// The model's shape, where its parameters lie, and the buffers that a step needs.
#pragma once
#include <sys/mman.h>

#include <cstdlib>
#include <memory>
#include <new>
#include <vector>

#include "optimiser.h"
#include "rows.h"

namespace allometry {

struct Shape {  // filled in by Python (native.py), field by field
  int32_t layers, width, heads, hidden, vocab, context, threads;
  float dropout;
  uint64_t seed;
};

// Where each parameter starts in the flat buffers, -1 if the model has none. Layers may share parameters.
struct LayerOffsets {
  int64_t norm_1, norm_1_bias, qkv, qkv_bias, project, project_bias;
  int64_t norm_2, norm_2_bias, expand, expand_bias, contract, contract_bias;
};

struct Offsets {
  int64_t embed, position, norm, norm_bias;
};

inline float* part(float* flat, int64_t offset) { return offset < 0 ? nullptr : flat + offset; }

// Zeroed buffers, aligned to cache lines, that live as long as the arena. They are cut from large blocks that ask the
// system for huge pages: a step walks through megabytes in rows far apart, which small pages make slow.
class Arena {
 public:
  float* take(size_t floats) {
    const size_t bytes = std::max<size_t>(64, (floats * sizeof(float) + 63) / 64 * 64);
    if (bytes > left_) grow(bytes);
    float* start = reinterpret_cast<float*>(next_);
    next_ += bytes;
    left_ -= bytes;
    return start;
  }

 private:
#ifdef __SANITIZE_ADDRESS__
  static constexpr size_t PAGE = 64;  // every buffer a block of its own, so that an access beyond its end is seen
#else
  static constexpr size_t PAGE = 2u << 20;
#endif

  void grow(size_t bytes) {
    left_ = (bytes + PAGE - 1) / PAGE * PAGE;
    void* block = std::aligned_alloc(PAGE, left_);
    if (!block) throw std::bad_alloc();
    blocks_.emplace_back(block, &std::free);
#ifdef MADV_HUGEPAGE
    madvise(block, left_, MADV_HUGEPAGE);
#endif
    std::memset(block, 0, left_);
    next_ = static_cast<char*>(block);
  }

  std::vector<std::unique_ptr<void, void (*)(void*)>> blocks_;
  char* next_ = nullptr;
  size_t left_ = 0;
};

// A weight W (out, in) packed for Y = X W^T (forward) and for dX = dY W (backward).
struct PackedWeight {
  float *forward, *backward;

  void allocate(Arena& arena, int out, int in) {
    forward = arena.take(packed_size(in, out));
    backward = arena.take(packed_size(out, in));
  }

  void fill(const float* weight, int out, int in) {
    pack_transposed(weight, in, in, out, forward);
    pack(weight, in, out, in, backward);
  }
};

struct PackedLayer {
  PackedWeight qkv, project, expand, contract;
};

// What a layer's forward pass leaves for its backward pass; rows are tokens of the sequences worked on together.
struct Saved {
  float *x, *normed_1, *qkv, *probabilities, *mixed;  // attention: input, normalised, q k v, softmax, output
  float *middle, *normed_2, *hidden, *slopes;         // MLP: input, normalised, GELU and its slope
  Moments moments_1, moments_2;
};

// The buffers of one thread.
struct Workspace {
  Arena arena;
  std::vector<Saved> layers;                      // one more than the model has: the last holds the final stream
  float *normed, *logits;                         // what the head reads and makes
  float *stream_grad, *branch_grad, *hidden_grad, *qkv_grad, *mixed_grad, *branch;
  float *packed, *dropped, *score_grad;           // attention
  Moments moments;
  float* gradients;                               // of all parameters; thread 0 uses the caller's buffer
  double loss;
};

struct Model {
  Shape shape;
  Offsets offsets;
  std::vector<LayerOffsets> layer_offsets;
  int64_t size;                                   // parameters
  float *params, *first, *second, *gradients;     // flat, owned by the caller
  std::vector<int64_t> bounds;                    // parameter tensor i lies in [bounds[i], bounds[i + 1])
  std::vector<uint8_t> shrinks;                   // whether weight decay falls on it
  Arena arena;
  std::vector<PackedLayer> packed;                // layers with shared parameters share these
  PackedWeight head;
  int together;                                   // sequences worked on together
  std::vector<Workspace> workers;

  int head_width() const { return shape.width / shape.heads; }
  ptrdiff_t stride() const { return row_stride(shape.width); }
  ptrdiff_t qkv_stride() const { return row_stride(3 * shape.width); }
  ptrdiff_t hidden_stride() const { return row_stride(shape.hidden); }
  ptrdiff_t vocab_stride() const { return row_stride(shape.vocab); }
  ptrdiff_t square() const { return row_stride(shape.context); }
};

inline Moments moments_for(Arena& arena, int rows) { return {arena.take(rows), arena.take(rows)}; }

inline Saved saved_for(const Model& m, Arena& arena, size_t rows) {
  const size_t squares = static_cast<size_t>(m.together) * m.shape.heads * m.shape.context * m.square();
  Saved s{};
  s.x = arena.take(rows * m.stride());
  s.normed_1 = arena.take(rows * m.stride());
  s.qkv = arena.take(rows * m.qkv_stride());
  s.probabilities = arena.take(squares);
  s.mixed = arena.take(rows * m.stride());
  s.middle = arena.take(rows * m.stride());
  s.normed_2 = arena.take(rows * m.stride());
  s.hidden = arena.take(rows * m.hidden_stride());
  s.slopes = arena.take(rows * m.hidden_stride());
  s.moments_1 = moments_for(arena, rows);
  s.moments_2 = moments_for(arena, rows);
  return s;
}

inline void allocate(const Model& m, Workspace& w, bool owns_gradients) {
  const size_t rows = static_cast<size_t>(m.together) * m.shape.context;
  for (int l = 0; l < m.shape.layers; l++) w.layers.push_back(saved_for(m, w.arena, rows));
  Saved last{};
  last.x = w.arena.take(rows * m.stride());
  w.layers.push_back(last);
  w.normed = w.arena.take(rows * m.stride());
  w.logits = w.arena.take(rows * m.vocab_stride());
  w.stream_grad = w.arena.take(rows * m.stride());
  w.branch_grad = w.arena.take(rows * m.stride());
  w.branch = w.arena.take(rows * m.stride());
  w.mixed_grad = w.arena.take(rows * m.stride());
  w.hidden_grad = w.arena.take(rows * m.hidden_stride());
  w.qkv_grad = w.arena.take(rows * m.qkv_stride());
  w.packed = w.arena.take(packed_size(m.head_width(), m.shape.context));
  w.dropped = w.arena.take(m.shape.dropout > 0 ? m.shape.context * m.square() : 0);
  w.score_grad = w.arena.take(m.shape.context * m.square());
  w.moments = moments_for(w.arena, rows);
  w.gradients = owns_gradients ? w.arena.take(m.size) : m.gradients;
}

// The first layer that has layer l's parameters: l itself unless a Universal Transformer applies them again.
inline int first_use(const Model& m, int l) {
  int first = 0;
  while (m.layer_offsets[first].qkv != m.layer_offsets[l].qkv) first++;
  return first;
}

inline void allocate_packed(Model& m) {
  const int d = m.shape.width, f = m.shape.hidden;
  m.head.allocate(m.arena, m.shape.vocab, d);
  for (int l = 0; l < m.shape.layers; l++) {
    if (const int first = first_use(m, l); first < l) {
      m.packed.push_back(PackedLayer(m.packed[first]));
      continue;
    }
    PackedLayer layer;
    layer.qkv.allocate(m.arena, 3 * d, d);
    layer.project.allocate(m.arena, d, d);
    layer.expand.allocate(m.arena, f, d);
    layer.contract.allocate(m.arena, d, f);
    m.packed.push_back(layer);
  }
}

// Brings the packed copies up to date with the parameters.
inline void pack_weights(Model& m) {
  const int d = m.shape.width, f = m.shape.hidden;
  m.head.fill(m.params + m.offsets.embed, m.shape.vocab, d);
  for (int l = 0; l < m.shape.layers; l++) {
    if (first_use(m, l) < l) continue;
    const LayerOffsets& at = m.layer_offsets[l];
    m.packed[l].qkv.fill(m.params + at.qkv, 3 * d, d);
    m.packed[l].project.fill(m.params + at.project, d, d);
    m.packed[l].expand.fill(m.params + at.expand, f, d);
    m.packed[l].contract.fill(m.params + at.contract, d, f);
  }
}

}  // namespace allometry
