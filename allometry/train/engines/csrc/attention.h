// Causal self-attention of one head over one sequence, forward and backward.
//
// Scores, probabilities and their gradients are lower triangular: tiles above the diagonal are neither computed nor
// read. Within a tile that the diagonal crosses, entries above it are set to zero.
#pragma once
#include "gemm_bf16.h"
#include "rows.h"

namespace allometry {

// One head's part of the buffers; every pointer is to the first token of the sequence and the head's first column.
struct Head {
  int length, width;          // tokens T, columns of a head
  ptrdiff_t stride;           // of query, key, value and their gradients
  ptrdiff_t out_stride;       // of out and its gradient
  ptrdiff_t square;           // of the T x T buffers
  const Dropout* dropout;
  uint64_t stream;            // of the dropout mask
  bool bf16;
};

struct AttentionScratch {
  float* packed;   // the transposed keys or values, unless in bf16
  float* dropped;  // T x T: probabilities after dropout (unused without)
  float* slopes;   // T x T: gradients of the probabilities, then of the scores
};

// Entries after the diagonal that tiles read: the rest of the vector and of a tile's rows, or of a block in bf16.
inline int row_end(const Head& h, int i) {
  const int end = h.bf16 ? round_up(i + 1, BLOCK_SIDE) : round_up(i + 1 + TILE_ROWS, LANES);
  return std::min(end, static_cast<int>(h.square));
}

// The lower triangle of A B^T, for A and B of shape (T, width): scores, or gradients of probabilities.
inline void scores(const Head& h, Left a, const float* b, ptrdiff_t b_stride, float* out, float* scratch) {
  const Out square = into(out, h.square);
  if (h.bf16) {
    product_bf16(h.length, h.length, h.width, a, transposed_in_place(b, b_stride), square, Causal::from_column);
    return;
  }
  pack_transposed(b, b_stride, h.width, h.length, scratch);
  product(h.length, h.length, h.width, a, packed(scratch, h.width), square, Causal::from_column);
}

// A triangle times (T, width).
inline void mix(const Head& h, Left triangle, const float* b, ptrdiff_t b_stride, float* out, ptrdiff_t out_stride) {
  const Causal causal = triangle.transposed ? Causal::from_row : Causal::up_to_row;
  const auto multiply = h.bf16 ? product_bf16 : product;
  multiply(h.length, h.width, h.length, triangle, in_place(b, b_stride), into(out, out_stride), causal);
}

// In place: scores s to probabilities e^(scale s) / sum, over the first `count` entries; zeros up to `end`.
inline void softmax(float* s, int count, int end, float scale) {
  Vec top = broadcast(-INFINITY), total{};
  each_vector(count, [&](int j, int n) { top = larger(top, keep(load(s + j), n, -INFINITY)); });
  const float highest = largest(top);
  each_vector(count, [&](int j, int n) {
    const Vec e = keep(exp((load(s + j) - highest) * scale), n);
    total += e;
    store(s + j, e);
  });
  const float share = 1.0f / sum(total);
  int j = 0;
  for (; j < count; j += LANES) store(s + j, load(s + j) * share);
  for (; j < end; j += LANES) store(s + j, Vec{});
}

// out = softmax(Q K^T / sqrt(width)) V; `p` receives the probabilities.
inline void attention_forward(const Head& h, const float* query, const float* key, const float* value, float* p,
                              float* out, const AttentionScratch& scratch) {
  const int T = h.length;
  scores(h, rows_of(query, h.stride), key, h.stride, p, scratch.packed);
  const float scale = 1.0f / std::sqrt(static_cast<float>(h.width));
  const float* weights = p;
  for (int i = 0; i < T; i++) {
    float* row = p + i * h.square;
    softmax(row, i + 1, row_end(h, i), scale);
    if (h.dropout->on()) {
      h.dropout->row(h.stream, i, row_end(h, i), row, scratch.dropped + i * h.square);
      weights = scratch.dropped;
    }
  }
  mix(h, rows_of(weights, h.square), value, h.stride, out, h.out_stride);
}

// In place: gradients of probabilities to gradients of scores, dS = P (dP - sum(P dP)) scale.
inline void softmax_backward(const float* p, float* slopes, int count, int end, float scale) {
  Vec along{};
  each_vector(count, [&](int j, int n) { along += keep(load(p + j) * load(slopes + j), n); });
  const float mean = sum(along);
  each_vector(count, [&](int j, int n) {
    store(slopes + j, keep(load(p + j) * (load(slopes + j) - mean) * scale, n));
  });
  for (int j = round_up(count, LANES); j < end; j += LANES) store(slopes + j, Vec{});
}

struct HeadGradients {
  float *query, *key, *value;
};

inline void attention_backward(const Head& h, const float* query, const float* key, const float* value, const float* p,
                               const float* out_grad, HeadGradients grad, const AttentionScratch& scratch) {
  const int T = h.length;
  const float scale = 1.0f / std::sqrt(static_cast<float>(h.width));
  scores(h, rows_of(out_grad, h.out_stride), value, h.stride, scratch.slopes, scratch.packed);
  const float* weights = p;
  for (int i = 0; i < T; i++) {
    const float* row = p + i * h.square;
    float* slopes = scratch.slopes + i * h.square;
    const int end = row_end(h, i);
    if (h.dropout->on()) {
      h.dropout->row(h.stream, i, end, row, scratch.dropped + i * h.square);
      h.dropout->row(h.stream, i, i + 1, slopes, slopes);
      weights = scratch.dropped;
    }
    softmax_backward(row, slopes, i + 1, end, scale);
  }
  mix(h, columns_of(weights, h.square), out_grad, h.out_stride, grad.value, h.stride);
  mix(h, rows_of(scratch.slopes, h.square), key, h.stride, grad.query, h.stride);
  mix(h, columns_of(scratch.slopes, h.square), query, h.stride, grad.key, h.stride);
}

}  // namespace allometry
