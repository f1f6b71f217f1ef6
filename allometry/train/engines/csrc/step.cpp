// One training step of a small language model on a CPU, behind a plain C interface.
//
// A few sequences at a time go forward through all layers and backward again, so that their activations stay in the
// caches; gradients add up in fp32; then one flat pass clips and updates. Threads take parts of the batch (parts.h).
#include "lstm.h"
#include "parts.h"
#include "transformer.h"

namespace allometry {

Dropout dropout_at(const Network& m, int64_t step) {
  return {m.shape.dropout, Dropout::mix64(m.shape.seed ^ Dropout::mix64(static_cast<uint64_t>(step)))};
}

enum Family : int32_t { TRANSFORMER = 0, LSTM = 1 };  // numbered as in bindings.py

std::unique_ptr<Network> make(int32_t family, const Shape& shape, const int64_t* offsets) {
  if (family == LSTM) return std::make_unique<Lstm>(offsets, shape.layers);
  return std::make_unique<Transformer>(offsets, shape.layers);
}

}  // namespace allometry

using allometry::Adam;
using allometry::Batch;
using allometry::Network;

extern "C" {

// Whether this machine multiplies in bf16: the processor has the tiles and the system lets this process use them.
int32_t allometry_has_bf16() { return allometry::tiles_allowed(); }

// A model over the caller's flat buffers of `bounds[tensors]` floats each; null if memory runs out. `offsets` says
// where the family's parameters start.
void* allometry_new(int32_t family, const allometry::Shape* shape, const int64_t* offsets, const int64_t* bounds,
                    const uint8_t* shrinks, int32_t tensors, float* params, float* first, float* second,
                    float* gradients) try {
  auto m = allometry::make(family, *shape, offsets);
  m->shape = *shape;
  m->bounds.assign(bounds, bounds + tensors + 1);
  m->shrinks.assign(shrinks, shrinks + tensors);
  m->size = bounds[tensors];
  m->params = params, m->first = first, m->second = second, m->gradients = gradients;
  m->allocate();
  allometry::use_threads(*m, shape->threads);
  allometry::pack_all(*m);
  return m.release();
} catch (...) {
  return nullptr;
}

void allometry_free(void* model) { delete static_cast<Network*>(model); }

// To be called after the caller has changed `params`.
void allometry_changed(void* model) { allometry::pack_all(*static_cast<Network*>(model)); }

// How many threads to use from now on, which changes no bit of any result; 0 if memory for more runs out.
int32_t allometry_use_threads(void* model, int32_t threads) try {
  return allometry::use_threads(*static_cast<Network*>(model), threads);
} catch (...) {
  return 0;
}

// Fills `gradients` without an update; returns the loss. `step` decides the dropout masks.
double allometry_gradients(void* model, const Batch* batch, int64_t step) {
  Network& m = *static_cast<Network*>(model);
  return allometry::train_on(m, *batch, allometry::dropout_at(m, step));
}

// Norms of each sequence's gradient: (sequences,). `gradients` is overwritten.
void allometry_sequence_norms(void* model, const Batch* batch, int64_t step, double* norms) {
  Network& m = *static_cast<Network*>(model);
  allometry::sequence_norms(m, *batch, allometry::dropout_at(m, step), norms);
}

// One update; returns the loss before it. `norm` receives the global gradient norm before clipping.
double allometry_step(void* model, const Batch* batch, const Adam* adam, double* norm) {
  Network& m = *static_cast<Network*>(model);
  const double loss = allometry_gradients(model, batch, adam->step);
  *norm = allometry::gradient_norm(m);
  allometry::update(m, *adam, *norm);
  allometry::pack_all(m);
  return loss;
}

// Losses of every position without dropout or gradients.
void allometry_losses(void* model, const Batch* batch) {
  allometry::evaluate_on(*static_cast<Network*>(model), *batch);
}

}  // extern "C"
