// The transformer's parameters, where they lie, and the buffers that its step needs.
#pragma once
#include "network.h"

namespace allometry {

// Where each parameter starts in the flat buffers, -1 if the model has none. Layers may share parameters.
struct LayerOffsets {
  int64_t norm_1, norm_1_bias, qkv, qkv_bias, project, project_bias;
  int64_t norm_2, norm_2_bias, expand, expand_bias, contract, contract_bias;
};

struct Offsets {
  int64_t embed, position, norm, norm_bias;
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
struct Workspace : Worker {
  std::vector<Saved> layers;                      // one more than the model has: the last holds the final stream
  float* normed;                                  // what the head reads
  float *stream_grad, *branch_grad, *hidden_grad, *qkv_grad, *mixed_grad, *branch;
  float *packed, *dropped, *score_grad;           // attention
  Moments moments;
};

struct Model : Network {
  Offsets offsets;
  std::vector<LayerOffsets> layer_offsets;        // layers that share parameters have the same ones
  std::vector<PackedLayer> packed;                // and the same packed copies
  std::vector<Workspace> workers;

  // Sequences in a group: wide models gain from weights that are read half as often.
  int most_together() const { return std::max(1, (shape.width < 128 ? 128 : 256) / shape.context); }

  int head_width() const { return shape.width / shape.heads; }
  ptrdiff_t qkv_stride() const { return row_stride(3 * shape.width); }
  ptrdiff_t hidden_stride() const { return row_stride(shape.hidden); }
  ptrdiff_t square() const { return row_stride(shape.context); }
};

inline Saved saved_for(const Model& m, Arena& arena, size_t rows) {
  const size_t squares = static_cast<size_t>(m.most_together()) * m.shape.heads * m.shape.context * m.square();
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

inline void allocate_workspace(const Model& m, Workspace& w) {
  const size_t rows = static_cast<size_t>(m.most_together()) * m.shape.context;
  for (int l = 0; l < m.shape.layers; l++) w.layers.push_back(saved_for(m, w.arena, rows));
  Saved last{};
  last.x = w.arena.take(rows * m.stride());
  w.layers.push_back(last);
  w.normed = w.arena.take(rows * m.stride());
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
}

// The first layer that has layer l's parameters: l itself unless a Universal Transformer applies them again.
inline int first_use(const Model& m, int l) {
  int first = 0;
  while (m.layer_offsets[first].qkv != m.layer_offsets[l].qkv) first++;
  return first;
}

inline void allocate_packed_layers(Model& m) {
  const int d = m.shape.width, f = m.shape.hidden;
  for (int l = 0; l < m.shape.layers; l++) {
    if (const int first = first_use(m, l); first < l) {
      m.packed.push_back(PackedLayer(m.packed[first]));
      continue;
    }
    PackedLayer layer;
    layer.qkv.allocate(m.arena, 3 * d, d, m.shape.bf16);
    layer.project.allocate(m.arena, d, d, m.shape.bf16);
    layer.expand.allocate(m.arena, f, d, m.shape.bf16);
    layer.contract.allocate(m.arena, d, f, m.shape.bf16);
    m.packed.push_back(layer);
  }
}

// Brings the packed copies of layer l up to date with the parameters.
inline void pack_layer(Model& m, int l) {
  if (first_use(m, l) < l) return;
  const int d = m.shape.width, f = m.shape.hidden;
  const LayerOffsets& at = m.layer_offsets[l];
  m.packed[l].qkv.fill(m.params + at.qkv, 3 * d, d);
  m.packed[l].project.fill(m.params + at.project, d, d);
  m.packed[l].expand.fill(m.params + at.expand, f, d);
  m.packed[l].contract.fill(m.params + at.contract, d, f);
}

}  // namespace allometry
