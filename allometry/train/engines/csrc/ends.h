// The two ends of every model: token embeddings at the bottom, softmax cross-entropy over the tied head at the top.
#pragma once
#include "network.h"

namespace allometry {

// (loss, and in place the gradient) of one row of logits: softmax cross-entropy in nats.
inline float cross_entropy(float* logits, int n, int target, float weight, bool want_gradient) {
  Vec top = broadcast(-INFINITY), total{};
  each_vector(n, [&](int j, int count) { top = larger(top, load(logits + j, count, -INFINITY)); });
  const float highest = largest(top), hit = logits[target];
  each_vector(n, [&](int j, int count) {
    const Vec e = keep(exp(load(logits + j, count) - highest), count);
    total += e;
    store(logits + j, e, count);
  });
  const float all = sum(total);
  if (want_gradient) {
    const float scale = weight / all;
    each_vector(n, [&](int j, int count) { store(logits + j, load(logits + j, count) * scale, count); });
    logits[target] -= weight;
  }
  return std::log(all) + highest - hit;
}

// Rows of token embeddings; `position`, if not null, starts the embeddings of positions that are added to them.
inline void embed(const Network& m, const Group& g, const Batch& batch, const float* position, float* x) {
  const int d = m.shape.width;
  for (int i = 0; i < g.rows(); i++) {
    const int t = g.time(i);
    const float* of_token = m.params + m.embed_at + static_cast<int64_t>(*batch.token(g.sequence(i), t)) * d;
    const float* of_place = position ? position + static_cast<int64_t>(t) * d : nullptr;
    each_vector(d, [&](int j, int n) {
      const Vec v = load(of_token + j, n);
      store(x + i * m.stride() + j, of_place ? v + load(of_place + j, n) : v, n);
    });
  }
}

// Adds the rows of dx to the gradients of their tokens' embeddings and, if not null, of their positions'.
inline void embed_backward(const Network& m, Worker& w, const Group& g, const Batch& batch, const float* dx,
                           float* position_grad) {
  const int d = m.shape.width;
  for (int i = 0; i < g.rows(); i++) {
    const int t = g.time(i);
    const int64_t token = *batch.token(g.sequence(i), t);
    add_rows(1, d, dx + i * m.stride(), 0, w.gradients + m.embed_at + token * d);
    if (position_grad) add_rows(1, d, dx + i * m.stride(), 0, position_grad + static_cast<int64_t>(t) * d);
  }
}

// Losses of all rows of x, what the head reads; in training the logits become their gradients.
inline void head_forward(const Network& m, Worker& w, const Group& g, const Batch& batch, const float* x) {
  const int d = m.shape.width, V = m.shape.vocab;
  m.linear(g.rows(), V, d, rows_of(x, m.stride()), m.weights(m.head.forward, d), into(w.logits, m.vocab_stride()));
  const float even = 1.0f / (static_cast<float>(batch.sequences) * batch.length);
  for (int i = 0; i < g.rows(); i++) {
    const int64_t position = g.sequence(i) * g.length + g.time(i);
    const float weight = batch.weights ? batch.weights[position] : even;
    const int32_t target = *batch.token(g.sequence(i), g.time(i) + 1);
    const float loss = cross_entropy(w.logits + i * m.vocab_stride(), V, target, weight, g.training);
    w.loss += static_cast<double>(loss) * weight;
    if (batch.losses) batch.losses[position] = loss;
  }
}

// dx, and the head's part of the embedding's gradient.
inline void head_backward(const Network& m, Worker& w, const Group& g, const float* x, float* dx) {
  const int d = m.shape.width, V = m.shape.vocab, rows = g.rows();
  m.linear(rows, d, V, rows_of(w.logits, m.vocab_stride()), m.weights(m.head.backward, V), into(dx, m.stride()));
  m.linear(V, d, rows, columns_of(w.logits, m.vocab_stride()), in_place(x, m.stride()),
          add_to(w.gradients + m.embed_at, d));
}

}  // namespace allometry
