// One training step of a small decoder-only transformer on a CPU, behind a plain C interface.
//
// A few sequences at a time go forward through all layers and backward again, so that their activations stay in the
// caches; gradients add up in fp32; then one flat pass clips and updates. Each thread takes every n-th group of
// sequences with buffers of its own, and the sums over threads have a fixed order: a given number of threads
// always gives the same bits.
#include <thread>

#include "layers.h"

namespace allometry {

// Token windows (sequences, length + 1): each row's last token is only a target.
struct Batch {
  const int32_t* windows;
  int64_t sequences;
  int32_t length;
  const float* weights;  // (sequences, length): of each position in the loss; null for the mean over all
  float* losses;         // (sequences, length): receives each position's loss; may be null
};

// (loss, and in place the gradient) of one row of logits: softmax cross-entropy in nats.
float cross_entropy(float* logits, int n, int target, float weight, bool want_gradient) {
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

void embed(const Model& m, const Group& g, const Batch& batch, float* x) {
  const int d = m.shape.width;
  for (int i = 0; i < g.rows(); i++) {
    const int t = i % g.length;
    const int32_t token = batch.windows[(g.first + i / g.length) * (g.length + 1) + t];
    const float* of_token = m.params + m.offsets.embed + static_cast<int64_t>(token) * d;
    const float* of_place = m.params + m.offsets.position + static_cast<int64_t>(t) * d;
    each_vector(d, [&](int j, int n) { store(x + i * m.stride() + j, load(of_token + j, n) + load(of_place + j, n), n); });
  }
  if (g.dropout.on()) drop_rows(g, 0, d, x, x, m.stride());
}

void embed_backward(const Model& m, Workspace& w, const Group& g, const Batch& batch) {
  const int d = m.shape.width;
  if (g.dropout.on()) drop_rows(g, 0, d, w.stream_grad, w.stream_grad, m.stride());
  for (int i = 0; i < g.rows(); i++) {
    const int t = i % g.length;
    const int32_t token = batch.windows[(g.first + i / g.length) * (g.length + 1) + t];
    const float* grad = w.stream_grad + i * m.stride();
    add_rows(1, d, grad, 0, w.gradients + m.offsets.embed + static_cast<int64_t>(token) * d);
    add_rows(1, d, grad, 0, w.gradients + m.offsets.position + static_cast<int64_t>(t) * d);
  }
}

// Losses of all rows; in training the logits become their gradients.
void head_forward(const Model& m, Workspace& w, const Group& g, const Batch& batch, const float* x) {
  const int d = m.shape.width, V = m.shape.vocab;
  norm_forward(g.rows(), d, x, w.normed, m.stride(), m.params + m.offsets.norm, part(m.params, m.offsets.norm_bias),
               w.moments);
  product(g.rows(), V, d, rows_of(w.normed, m.stride()), packed(m.head.forward, d), into(w.logits, m.vocab_stride()));
  const float even = 1.0f / (static_cast<float>(batch.sequences) * batch.length);
  for (int i = 0; i < g.rows(); i++) {
    const int64_t position = g.first * g.length + i;
    const int32_t target = batch.windows[(g.first + i / g.length) * (g.length + 1) + i % g.length + 1];
    const float weight = batch.weights ? batch.weights[position] : even;
    const float loss = cross_entropy(w.logits + i * m.vocab_stride(), V, target, weight, g.training);
    w.loss += static_cast<double>(loss) * weight;
    if (batch.losses) batch.losses[position] = loss;
  }
}

void head_backward(const Model& m, Workspace& w, const Group& g, const float* x) {
  const int d = m.shape.width, V = m.shape.vocab, rows = g.rows();
  product(rows, d, V, rows_of(w.logits, m.vocab_stride()), packed(m.head.backward, V), into(w.branch_grad, m.stride()));
  product(V, d, rows, columns_of(w.logits, m.vocab_stride()), in_place(w.normed, m.stride()),
          add_to(w.gradients + m.offsets.embed, d));
  std::memset(w.stream_grad, 0, rows * m.stride() * sizeof(float));
  norm_backward(rows, d, x, w.branch_grad, w.stream_grad, m.stride(), m.params + m.offsets.norm, w.moments,
                w.gradients + m.offsets.norm, part(w.gradients, m.offsets.norm_bias));
}

// Forward through all layers and, in training, backward. Evaluation alternates between two layers' buffers.
void run_group(const Model& m, Workspace& w, const Group& g, const Batch& batch) {
  const int layers = m.shape.layers;
  embed(m, g, batch, w.layers[0].x);
  for (int l = 0; l < layers; l++) {
    attention_branch(m, w, g, l, w.layers[l]);
    mlp_branch(m, w, g, l, w.layers[l], w.layers[l + 1].x);
  }
  head_forward(m, w, g, batch, w.layers[layers].x);
  if (!g.training) return;
  head_backward(m, w, g, w.layers[layers].x);
  for (int l = layers - 1; l >= 0; l--) {
    mlp_backward(m, w, g, l, w.layers[l]);
    attention_branch_backward(m, w, g, l, w.layers[l]);
  }
  embed_backward(m, w, g, batch);
}

// Runs body(thread) on `threads` threads, the first of them this one.
template <class Body>
void on_threads(int threads, Body body) {
  std::vector<std::thread> others;
  for (int t = 1; t < threads; t++) others.emplace_back(body, t);
  body(0);
  for (std::thread& other : others) other.join();
}

// The batch's total loss; in training, m.gradients receives its gradient.
double run_batch(Model& m, const Batch& batch, bool training, const Dropout& dropout) {
  const int threads = static_cast<int>(m.workers.size());
  on_threads(threads, [&](int t) {
    Workspace& w = m.workers[t];
    w.loss = 0.0;
    if (training) std::memset(w.gradients, 0, m.size * sizeof(float));
    for (int64_t first = static_cast<int64_t>(t) * m.together; first < batch.sequences; first += threads * m.together) {
      const int count = static_cast<int>(std::min<int64_t>(m.together, batch.sequences - first));
      run_group(m, w, Group{count, batch.length, first, training, dropout}, batch);
    }
  });
  double loss = 0.0;
  for (const Workspace& w : m.workers) loss += w.loss;
  for (int t = 1; training && t < threads; t++) add_rows(1, m.size, m.workers[t].gradients, 0, m.gradients);
  return loss;
}

// The norm of the gradient of each sequence's own mean loss, for the gradient noise scale.
void sequence_norms(Model& m, const Batch& batch, const Dropout& dropout, double* norms) {
  const int threads = static_cast<int>(m.workers.size());
  on_threads(threads, [&](int t) {
    Workspace& w = m.workers[t];
    for (int64_t i = t; i < batch.sequences; i += threads) {
      std::memset(w.gradients, 0, m.size * sizeof(float));
      run_group(m, w, Group{1, batch.length, i, true, dropout}, batch);
      norms[i] = std::sqrt(sum_of_squares(w.gradients, m.size)) * static_cast<double>(batch.sequences);
    }
  });
}

void update(Model& m, const Adam& adam, double norm) {
  const float scale = norm > adam.clip ? static_cast<float>(adam.clip / (norm + adam.clip_epsilon)) : 1.0f;
  for (size_t i = 0; i + 1 < m.bounds.size(); i++) {
    const int64_t at = m.bounds[i];
    adam_update(adam, scale, m.shrinks[i], m.bounds[i + 1] - at, m.params + at, m.first + at, m.second + at,
                m.gradients + at);
  }
}

Dropout dropout_at(const Model& m, int64_t step) {
  return {m.shape.dropout, Dropout::mix64(m.shape.seed ^ Dropout::mix64(static_cast<uint64_t>(step)))};
}

}  // namespace allometry

using allometry::Adam;
using allometry::Batch;
using allometry::Model;

extern "C" {

// A model over the caller's flat buffers of `bounds[tensors]` floats each; null if memory runs out.
// `offsets`: embed, position, norm, norm_bias, then the twelve of each layer (see model.h).
void* allometry_new(const allometry::Shape* shape, const int64_t* offsets, const int64_t* bounds, const uint8_t* shrinks,
                    int32_t tensors, float* params, float* first, float* second, float* gradients) try {
  auto m = std::make_unique<Model>();
  m->shape = *shape;
  std::memcpy(&m->offsets, offsets, sizeof m->offsets);
  m->layer_offsets.resize(shape->layers);
  std::memcpy(m->layer_offsets.data(), offsets + 4, shape->layers * sizeof(allometry::LayerOffsets));
  m->bounds.assign(bounds, bounds + tensors + 1);
  m->shrinks.assign(shrinks, shrinks + tensors);
  m->size = bounds[tensors];
  m->params = params, m->first = first, m->second = second, m->gradients = gradients;
  m->together = std::max(1, (shape->width < 128 ? 128 : 256) / shape->context);
  allometry::allocate_packed(*m);
  m->workers.resize(std::max(1, shape->threads));
  for (size_t t = 0; t < m->workers.size(); t++) allometry::allocate(*m, m->workers[t], t > 0);
  allometry::pack_weights(*m);
  return m.release();
} catch (...) {
  return nullptr;
}

void allometry_free(void* model) { delete static_cast<Model*>(model); }

// To be called after the caller has changed `params`.
void allometry_changed(void* model) { allometry::pack_weights(*static_cast<Model*>(model)); }

// Fills `gradients` without an update; returns the loss. `step` decides the dropout masks.
double allometry_gradients(void* model, const Batch* batch, int64_t step) {
  Model& m = *static_cast<Model*>(model);
  return allometry::run_batch(m, *batch, true, allometry::dropout_at(m, step));
}

// Norms of each sequence's gradient: (sequences,). `gradients` is overwritten.
void allometry_sequence_norms(void* model, const Batch* batch, int64_t step, double* norms) {
  Model& m = *static_cast<Model*>(model);
  allometry::sequence_norms(m, *batch, allometry::dropout_at(m, step), norms);
}

// One update; returns the loss before it. `norm` receives the global gradient norm before clipping.
double allometry_step(void* model, const Batch* batch, const Adam* adam, double* norm) {
  Model& m = *static_cast<Model*>(model);
  const double loss = allometry_gradients(model, batch, adam->step);
  *norm = std::sqrt(allometry::sum_of_squares(m.gradients, m.size));
  allometry::update(m, *adam, *norm);
  allometry::pack_weights(m);
  return loss;
}

// Losses of every position without dropout or gradients.
void allometry_losses(void* model, const Batch* batch) {
  allometry::run_batch(*static_cast<Model*>(model), *batch, false, allometry::Dropout{});
}

}  // extern "C"
