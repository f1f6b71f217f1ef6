// The LSTM as a network: embedding, layers of cells, head, and back through time.
#pragma once
#include "cells.h"
#include "ends.h"

namespace allometry {

class Lstm final : public Network {
 public:
  // `offsets`: embed, then the three of each layer (see cells.h).
  Lstm(const int64_t* offsets, int layers) : offsets_(layers) {
    embed_at = offsets[0];
    std::memcpy(offsets_.data(), offsets + 1, layers * sizeof(CellOffsets));
  }

  void allocate() override {
    const int d = shape.width;
    head.allocate(arena, shape.vocab, d);
    packed_.resize(shape.layers);
    for (PackedCells& p : packed_) p.input.allocate(arena, 4 * d, d), p.recurrent.allocate(arena, 4 * d, d);
  }

  void pack_weights(int first, int n) override {
    const int d = shape.width;
    if (first == 0) head.fill(params + embed_at, shape.vocab, d);
    for (int l = n - 1 - first; l < shape.layers; l += n) {
      packed_[l].input.fill(params + offsets_[l].input, 4 * d, d);
      packed_[l].recurrent.fill(params + offsets_[l].recurrent, 4 * d, d);
    }
  }

  Worker& worker(int thread) override { return spaces_[thread]; }
  int worker_count() const override { return static_cast<int>(spaces_.size()); }

  // As many as the buffers hold, in groups of about one size: the recurrence multiplies as many rows at a time as
  // there are sequences, and few rows leave the multipliers idle.
  int together(int64_t sequences) const override {
    const int64_t most = most_together(), groups = std::max<int64_t>(1, (sequences + most - 1) / most);
    return static_cast<int>(std::max<int64_t>(1, (sequences + groups - 1) / groups));
  }

  void add_worker() override { allocate_space(spaces_.emplace_back()); }

  void run(int thread, const Group& group, const Batch& batch) override {
    Group g = group;
    g.time_major = true;
    Space& w = spaces_[thread];
    const float* top = forward(w, g, batch);
    head_forward(*this, w, g, batch, top);
    if (g.training) backward(w, g, batch, top);
  }

 private:
  struct Space : Worker {  // the buffers of one thread
    std::vector<CellsSaved> layers;
    std::vector<float*> inputs;  // of each layer and the head, where they are not just the output of the layer below
    float *grad, *cell_grad;
  };

  int most_together() const { return std::clamp(1024 / shape.context, 6, 24); }
  ptrdiff_t gates_stride() const { return row_stride(4 * shape.width); }

  void allocate_space(Space& w) const {
    const size_t rows = static_cast<size_t>(most_together()) * shape.context, d = rows * stride();
    allocate_common(w, rows);
    for (int l = 0; l < shape.layers; l++) {
      float* gates = w.arena.take(rows * gates_stride());
      w.layers.push_back({nullptr, gates, w.arena.take(d), w.arena.take(d), w.arena.take(d)});
    }
    for (int l = 0; l <= shape.layers; l++) w.inputs.push_back(l == 0 || shape.dropout > 0 ? w.arena.take(d) : nullptr);
    w.grad = w.arena.take(d);
    w.cell_grad = w.arena.take(most_together() * stride());
  }

  CellLayer layer(const Space& w, const Group& g, int l) const {
    return {shape.width, g.sequences, g.length, stride(), gates_stride(), packed_[l], w.layers[l]};
  }

  // What the head reads.
  const float* forward(Space& w, const Group& g, const Batch& batch) const {
    embed(*this, g, batch, nullptr, w.inputs[0]);
    const float* x = go_up(w, g, 0, w.inputs[0]);
    for (int l = 0; l < shape.layers; l++) {
      w.layers[l].x = x;
      cells_forward(layer(w, g, l), params + offsets_[l].bias);
      x = go_up(w, g, l + 1, w.layers[l].h);
    }
    return x;
  }

  // The input of layer l from the output below it: behind the dropout if there is any.
  const float* go_up(Space& w, const Group& g, int l, const float* below) const {
    if (!g.dropout.on()) return below;
    drop_rows(g, l, shape.width, below, w.inputs[l], stride());
    return w.inputs[l];
  }

  void backward(Space& w, const Group& g, const Batch& batch, const float* top) const {
    head_backward(*this, w, g, top, w.grad);
    for (int l = shape.layers; l >= 0; l--) {
      if (g.dropout.on()) drop_rows(g, l, shape.width, w.grad, w.grad, stride());
      if (l == 0) break;
      const CellLayer cells = layer(w, g, l - 1);
      const CellOffsets& at = offsets_[l - 1];
      cells_backward(cells, w.grad, w.cell_grad);
      cells_gradients(cells, w.gradients + at.input, w.gradients + at.recurrent, w.gradients + at.bias, w.grad);
    }
    embed_backward(*this, w, g, batch, w.grad, nullptr);
  }

  std::vector<CellOffsets> offsets_;
  std::vector<PackedCells> packed_;
  std::vector<Space> spaces_;
};

}  // namespace allometry
