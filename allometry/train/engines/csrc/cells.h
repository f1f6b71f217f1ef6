// A layer of LSTM cells (Hochreiter and Schmidhuber 1997, with the forget gate of Gers et al. 2000), forward and back:
//
//   i, f, g, o = W x_t + U h_(t-1) + b,   c_t = sigmoid(f) c_(t-1) + sigmoid(i) tanh(g),   h_t = sigmoid(o) tanh(c_t)
//
// Rows are (time, sequence): those of one position lie together, so that a step of the recurrence is one product of a
// few rows with U, and what does not wait for the step before (W x, all gradients of weights) is one product over all.
#pragma once
#include "network.h"

namespace allometry {

struct CellOffsets {  // where a layer's parameters start in the flat buffers
  int64_t input, recurrent, bias;
};

struct PackedCells {
  PackedWeight input, recurrent;
};

// What a layer's forward pass leaves for its backward pass.
struct CellsSaved {
  const float* x;  // the layer's input: the output of the one below, behind its dropout
  float* gates;    // i, f, g, o behind their nonlinearities; in the backward pass the gradients before them
  float* cell;     // c
  float* shown;    // tanh(c)
  float* h;
};

// One layer on the rows of a group.
struct CellLayer {
  int width, sequences, length;
  ptrdiff_t stride, wide;  // of rows of d and of 4 d numbers
  PackedCells packed;
  CellsSaved saved;

  int rows() const { return sequences * length; }
  float* gates(int t) const { return saved.gates + static_cast<ptrdiff_t>(t) * sequences * wide; }
  // Start of position t in a buffer of rows of d numbers.
  float* at(float* buffer, int t) const { return buffer + static_cast<ptrdiff_t>(t) * sequences * stride; }
};

// Row by row from the gates before their nonlinearities and c of the position before (null at the first).
inline void cells_step(const CellLayer& l, float* gates, const float* before, float* cell, float* shown, float* h) {
  const int d = l.width;
  for (int s = 0; s < l.sequences; s++) {
    float *row = gates + s * l.wide;
    const ptrdiff_t start = s * l.stride;
    each_vector(d, [&](int j, int n) {
      const Vec i = sigmoid(load(row + j, n)), f = sigmoid(load(row + d + j, n));
      const Vec g = tanh(load(row + 2 * d + j, n)), o = sigmoid(load(row + 3 * d + j, n));
      const Vec c = before ? f * load(before + start + j, n) + i * g : i * g;
      const Vec seen = tanh(c);
      store(row + j, i, n), store(row + d + j, f, n), store(row + 2 * d + j, g, n), store(row + 3 * d + j, o, n);
      store(cell + start + j, c, n), store(shown + start + j, seen, n), store(h + start + j, o * seen, n);
    });
  }
}

inline void cells_forward(const CellLayer& l, const float* bias) {
  const int d = l.width;
  const CellsSaved& s = l.saved;
  product(l.rows(), 4 * d, d, rows_of(s.x, l.stride), packed(l.packed.input.forward, d),
          plus_bias(s.gates, l.wide, bias));
  for (int t = 0; t < l.length; t++) {
    if (t > 0) {
      product(l.sequences, 4 * d, d, rows_of(l.at(s.h, t - 1), l.stride), packed(l.packed.recurrent.forward, d),
              add_to(l.gates(t), l.wide));
    }
    cells_step(l, l.gates(t), t > 0 ? l.at(s.cell, t - 1) : nullptr, l.at(s.cell, t), l.at(s.shown, t), l.at(s.h, t));
  }
}

// Row by row: gates to gradients before their nonlinearities. `cell_grad` is what reaches c from the position after; it
// becomes what reaches c of the position before.
inline void cells_step_backward(const CellLayer& l, float* gates, const float* before, const float* shown,
                                const float* h_grad, float* cell_grad) {
  const int d = l.width;
  for (int s = 0; s < l.sequences; s++) {
    float* row = gates + s * l.wide;
    const ptrdiff_t start = s * l.stride;
    each_vector(d, [&](int j, int n) {
      const Vec i = load(row + j, n), f = load(row + d + j, n), g = load(row + 2 * d + j, n);
      const Vec o = load(row + 3 * d + j, n), seen = load(shown + start + j, n), dh = load(h_grad + start + j, n);
      const Vec dc = load(cell_grad + start + j, n) + dh * o * (1.0f - seen * seen);
      const Vec old = before ? load(before + start + j, n) : Vec{};
      store(row + j, dc * g * i * (1.0f - i), n);
      store(row + d + j, dc * old * f * (1.0f - f), n);
      store(row + 2 * d + j, dc * i * (1.0f - g * g), n);
      store(row + 3 * d + j, dh * seen * o * (1.0f - o), n);
      store(cell_grad + start + j, dc * f, n);
    });
  }
}

// In place: gates to their gradients, and `h_grad`, what reaches h from above, to all that reaches it. `cell_grad` is
// space for one position.
inline void cells_backward(const CellLayer& l, float* h_grad, float* cell_grad) {
  const int d = l.width;
  const CellsSaved& s = l.saved;
  std::memset(cell_grad, 0, l.sequences * l.stride * sizeof(float));
  for (int t = l.length - 1; t >= 0; t--) {
    if (t + 1 < l.length) {
      product(l.sequences, d, 4 * d, rows_of(l.gates(t + 1), l.wide), packed(l.packed.recurrent.backward, 4 * d),
              add_to(l.at(h_grad, t), l.stride));
    }
    cells_step_backward(l, l.gates(t), t > 0 ? l.at(s.cell, t - 1) : nullptr, l.at(s.shown, t), l.at(h_grad, t),
                        cell_grad);
  }
}

// From the gates' gradients: those of the weights, added up, and of the layer's input.
inline void cells_gradients(const CellLayer& l, float* input, float* recurrent, float* bias, float* x_grad) {
  const int d = l.width, later = l.rows() - l.sequences;  // rows from the second position on
  const CellsSaved& s = l.saved;
  product(4 * d, d, l.rows(), columns_of(s.gates, l.wide), in_place(s.x, l.stride), add_to(input, d));
  product(4 * d, d, later, columns_of(l.gates(1), l.wide), in_place(s.h, l.stride), add_to(recurrent, d));
  add_rows(l.rows(), 4 * d, s.gates, l.wide, bias);
  product(l.rows(), d, 4 * d, rows_of(s.gates, l.wide), packed(l.packed.input.backward, 4 * d),
          into(x_grad, l.stride));
}

}  // namespace allometry
