// A transformer block (pre-LN, GPT-2's; Kaplan et al. 2020 section 2) on the rows of a few sequences: forward and back.
#pragma once
#include "attention.h"
#include "model.h"

namespace allometry {

// Places of dropout masks within a layer; the embedding's mask is place 0.
enum Place : uint64_t { ATTENTION = 1, AFTER_PROJECT = 2, AFTER_CONTRACT = 3 };
inline uint64_t place(int layer, Place which) { return 4 * static_cast<uint64_t>(layer) + which; }

// after = before + dropout(X W^T + bias): how a branch returns to the residual stream.
inline void return_to_stream(const Model& m, Workspace& w, const Group& g, uint64_t where, Left x, int depth,
                             const float* weight, const float* bias, const float* before, float* after) {
  const int d = m.shape.width;
  const ptrdiff_t stride = m.stride();
  if (!bias && !g.dropout.on()) {
    m.linear(g.rows(), d, depth, x, m.weights(weight, depth), plus(after, stride, before));
    return;
  }
  m.linear(g.rows(), d, depth, x, m.weights(weight, depth), plus_bias(w.branch, stride, bias));
  if (g.dropout.on()) drop_rows(g, where, d, w.branch, w.branch, stride);
  for (ptrdiff_t i = 0; i < g.rows() * stride; i += LANES) store(after + i, load(before + i) + load(w.branch + i));
}

inline Head head_of(const Model& m, const Group& g, int layer, int sequence, int head) {
  const uint64_t which = static_cast<uint64_t>(g.first + sequence) * m.shape.heads + head;
  return {g.length,   m.head_width(), m.qkv_stride(), m.stride(),
          m.square(), &g.dropout,     g.dropout.stream(place(layer, ATTENTION), which), m.shape.bf16 != 0};
}

inline float* square_of(const Model& m, float* all, int sequence, int head) {
  return all + (static_cast<size_t>(sequence) * m.shape.heads + head) * m.shape.context * m.square();
}

inline void attention_branch(const Model& m, Workspace& w, const Group& g, int layer, Saved& s) {
  const int d = m.shape.width;
  const LayerOffsets& at = m.layer_offsets[layer];
  norm_forward(g.rows(), d, s.x, s.normed_1, m.stride(), m.params + at.norm_1, part(m.params, at.norm_1_bias),
               s.moments_1);
  m.linear(g.rows(), 3 * d, d, rows_of(s.normed_1, m.stride()), m.weights(m.packed[layer].qkv.forward, d),
          plus_bias(s.qkv, m.qkv_stride(), part(m.params, at.qkv_bias)));
  for (int i = 0; i < g.sequences; i++) {
    for (int j = 0; j < m.shape.heads; j++) {
      const float* query = s.qkv + static_cast<ptrdiff_t>(i) * g.length * m.qkv_stride() + j * m.head_width();
      float* out = s.mixed + static_cast<ptrdiff_t>(i) * g.length * m.stride() + j * m.head_width();
      attention_forward(head_of(m, g, layer, i, j), query, query + d, query + 2 * d,
                        square_of(m, s.probabilities, i, j), out, {w.packed, w.dropped, w.score_grad});
    }
  }
  return_to_stream(m, w, g, place(layer, AFTER_PROJECT), rows_of(s.mixed, m.stride()), d,
                   m.packed[layer].project.forward, part(m.params, at.project_bias), s.x, s.middle);
}

// hidden = GELU(slopes), and slopes becomes the slope there. Padding columns are zero and stay harmless.
inline void gelu_rows(int rows, ptrdiff_t stride, int columns, float* hidden, float* slopes) {
  for (int i = 0; i < rows; i++, hidden += stride, slopes += stride) {
    for (int j = 0; j < columns; j += LANES) {
      const Gelu g = gelu(load(slopes + j));
      store(hidden + j, g.value);
      store(slopes + j, g.slope);
    }
  }
}

inline void mlp_branch(const Model& m, Workspace& w, const Group& g, int layer, Saved& s, float* after) {
  const int d = m.shape.width, f = m.shape.hidden;
  const LayerOffsets& at = m.layer_offsets[layer];
  norm_forward(g.rows(), d, s.middle, s.normed_2, m.stride(), m.params + at.norm_2, part(m.params, at.norm_2_bias),
               s.moments_2);
  m.linear(g.rows(), f, d, rows_of(s.normed_2, m.stride()), m.weights(m.packed[layer].expand.forward, d),
          plus_bias(s.slopes, m.hidden_stride(), part(m.params, at.expand_bias)));
  gelu_rows(g.rows(), m.hidden_stride(), f, s.hidden, s.slopes);
  return_to_stream(m, w, g, place(layer, AFTER_CONTRACT), rows_of(s.hidden, m.hidden_stride()), f,
                   m.packed[layer].contract.forward, part(m.params, at.contract_bias), s.middle, after);
}

// dW += dY^T X for a weight of shape (out, in), and the bias gets the sum of dY's rows.
inline void weight_gradient(const Model& m, const Group& g, int out, int in, const float* dy, ptrdiff_t dy_stride,
                            const float* x, ptrdiff_t x_stride, float* weight, float* bias) {
  m.linear(out, in, g.rows(), columns_of(dy, dy_stride), in_place(x, x_stride), add_to(weight, in));
  add_rows(g.rows(), out, dy, dy_stride, bias);
}

// The gradient that enters a branch from the residual stream: the stream's own, behind the dropout if there is any.
inline const float* gradient_into_branch(const Model& m, Workspace& w, const Group& g, uint64_t where) {
  if (!g.dropout.on()) return w.stream_grad;
  drop_rows(g, where, m.shape.width, w.stream_grad, w.branch, m.stride());
  return w.branch;
}

inline void mlp_backward(const Model& m, Workspace& w, const Group& g, int layer, const Saved& s) {
  const int d = m.shape.width, f = m.shape.hidden, rows = g.rows();
  const ptrdiff_t stride = m.stride(), wide = m.hidden_stride();
  const LayerOffsets& at = m.layer_offsets[layer];
  const float* dy = gradient_into_branch(m, w, g, place(layer, AFTER_CONTRACT));
  m.linear(rows, f, d, rows_of(dy, stride), m.weights(m.packed[layer].contract.backward, d),
          times(w.hidden_grad, wide, s.slopes));
  weight_gradient(m, g, d, f, dy, stride, s.hidden, wide, w.gradients + at.contract,
                  part(w.gradients, at.contract_bias));
  m.linear(rows, d, f, rows_of(w.hidden_grad, wide), m.weights(m.packed[layer].expand.backward, f),
          into(w.branch_grad, stride));
  weight_gradient(m, g, f, d, w.hidden_grad, wide, s.normed_2, stride, w.gradients + at.expand,
                  part(w.gradients, at.expand_bias));
  norm_backward(rows, d, s.middle, w.branch_grad, w.stream_grad, stride, m.params + at.norm_2, s.moments_2,
                w.gradients + at.norm_2, part(w.gradients, at.norm_2_bias));
}

inline void attention_branch_backward(const Model& m, Workspace& w, const Group& g, int layer, const Saved& s) {
  const int d = m.shape.width, rows = g.rows();
  const ptrdiff_t stride = m.stride(), wide = m.qkv_stride();
  const LayerOffsets& at = m.layer_offsets[layer];
  const float* dy = gradient_into_branch(m, w, g, place(layer, AFTER_PROJECT));
  m.linear(rows, d, d, rows_of(dy, stride), m.weights(m.packed[layer].project.backward, d), into(w.mixed_grad, stride));
  weight_gradient(m, g, d, d, dy, stride, s.mixed, stride, w.gradients + at.project,
                  part(w.gradients, at.project_bias));
  for (int i = 0; i < g.sequences; i++) {
    for (int j = 0; j < m.shape.heads; j++) {
      const ptrdiff_t start = static_cast<ptrdiff_t>(i) * g.length * wide + j * m.head_width();
      const float* query = s.qkv + start;
      float* grad = w.qkv_grad + start;
      const float* out_grad = w.mixed_grad + static_cast<ptrdiff_t>(i) * g.length * stride + j * m.head_width();
      attention_backward(head_of(m, g, layer, i, j), query, query + d, query + 2 * d,
                         square_of(m, s.probabilities, i, j), out_grad, {grad, grad + d, grad + 2 * d},
                         {w.packed, w.dropped, w.score_grad});
    }
  }
  m.linear(rows, d, 3 * d, rows_of(w.qkv_grad, wide), m.weights(m.packed[layer].qkv.backward, 3 * d),
          into(w.branch_grad, stride));
  weight_gradient(m, g, 3 * d, d, w.qkv_grad, wide, s.normed_1, stride, w.gradients + at.qkv,
                  part(w.gradients, at.qkv_bias));
  norm_backward(rows, d, s.x, w.branch_grad, w.stream_grad, stride, m.params + at.norm_1, s.moments_1,
                w.gradients + at.norm_1, part(w.gradients, at.norm_1_bias));
}

}  // namespace allometry
