// The transformer as a network: embedding, layers, normalisation, head, and back. The Universal Transformer (Dehghani
// et al. 2019) is the same with layers that share parameters, whose gradients add up over their uses, and perhaps a
// signal for the time step.
#pragma once
#include "ends.h"
#include "layers.h"

namespace allometry {

class Transformer final : public Model {
 public:
  // `offsets`: embed, position, norm, norm_bias, then the twelve of each layer (see model.h).
  explicit Transformer(const int64_t* offsets_of_parameters, int layers) {
    std::memcpy(&offsets, offsets_of_parameters, sizeof offsets);
    layer_offsets.resize(layers);
    std::memcpy(layer_offsets.data(), offsets_of_parameters + 4, layers * sizeof(LayerOffsets));
    embed_at = offsets.embed;
  }

  void allocate() override {
    head.allocate(arena, shape.vocab, shape.width, shape.bf16);
    allocate_packed_layers(*this);
  }

  void pack_weights(int first, int n) override {
    if (first == 0) head.fill(params + embed_at, shape.vocab, shape.width);
    for (int l = n - 1 - first; l < shape.layers; l += n) pack_layer(*this, l);
  }

  void add_worker() override {
    Workspace& w = workers.emplace_back();
    allocate_common(w, static_cast<size_t>(most_together()) * shape.context);
    allocate_workspace(*this, w);
  }

  Worker& worker(int thread) override { return workers[thread]; }
  int worker_count() const override { return static_cast<int>(workers.size()); }

  int together(int64_t) const override { return most_together(); }

  void run(int thread, const Group& g, const Batch& batch) override {
    Workspace& w = workers[thread];
    forward(w, g, batch);
    if (g.training) backward(w, g, batch);
  }

 private:
  void forward(Workspace& w, const Group& g, const Batch& batch) {
    const int layers = shape.layers;
    embed(*this, g, batch, params + offsets.position, w.layers[0].x);
    if (g.dropout.on()) drop_rows(g, 0, shape.width, w.layers[0].x, w.layers[0].x, stride());
    for (int l = 0; l < layers; l++) {
      if (shape.stack > 0 && l % shape.stack == 0) add_signal(g, l / shape.stack, w.layers[l].x);
      attention_branch(*this, w, g, l, w.layers[l]);
      mlp_branch(*this, w, g, l, w.layers[l], w.layers[l + 1].x);
    }
    norm_forward(g.rows(), shape.width, w.layers[layers].x, w.normed, stride(), params + offsets.norm,
                 part(params, offsets.norm_bias), w.moments);
    head_forward(*this, w, g, batch, w.normed);
  }

  void backward(Workspace& w, const Group& g, const Batch& batch) {
    const int layers = shape.layers;
    head_backward(*this, w, g, w.normed, w.branch_grad);
    std::memset(w.stream_grad, 0, g.rows() * stride() * sizeof(float));
    norm_backward(g.rows(), shape.width, w.layers[layers].x, w.branch_grad, w.stream_grad, stride(),
                  params + offsets.norm, w.moments, w.gradients + offsets.norm, part(w.gradients, offsets.norm_bias));
    for (int l = layers - 1; l >= 0; l--) {
      mlp_backward(*this, w, g, l, w.layers[l]);
      attention_branch_backward(*this, w, g, l, w.layers[l]);
    }
    if (g.dropout.on()) drop_rows(g, 0, shape.width, w.stream_grad, w.stream_grad, stride());
    embed_backward(*this, w, g, batch, w.stream_grad, w.gradients + offsets.position);
  }

  // Dehghani et al. 2019, equation 5, of the time step: sines and cosines of it at d / 2 wavelengths, over sqrt(d).
  void add_signal(const Group& g, int repetition, float* x) const {
    const int d = shape.width;
    std::vector<float> signal(row_stride(d));
    for (int j = 0; j < d / 2; j++) {
      const double angle = (repetition + 1) * std::pow(10000.0, -2.0 * j / d), share = std::sqrt(1.0 / d);
      signal[j] = static_cast<float>(std::sin(angle) * share);
      signal[d / 2 + j] = static_cast<float>(std::cos(angle) * share);
    }
    for (int i = 0; i < g.rows(); i++) add_rows(1, d, signal.data(), 0, x + i * stride());
  }
};

}  // namespace allometry
