// A batch on several threads, with the same bits on any number of them.
//
// The batch is cut into parts; the gradients of each are added up apart, and these sums are added in the order of the
// parts. How many parts there are depends on the batch alone, and threads take turns at them. What follows works on the
// flat buffers number by number, so that it can be cut anywhere.
#pragma once
#include <condition_variable>
#include <mutex>
#include <thread>

#include "network.h"

namespace allometry {

constexpr int MOST_PARTS = 8;                    // each costs a pass over the gradients
constexpr int64_t CHUNK = 4096, SLICE = 1 << 15;  // floats: that are summed at a time, that are worth a thread

// Runs body(thread) on `threads` threads, the first of them this one.
template <class Body>
void on_threads(int threads, Body body) {
  std::vector<std::thread> others;
  for (int t = 1; t < threads; t++) others.emplace_back(body, t);
  body(0);
  for (std::thread& other : others) other.join();
}

// Uses that many threads from now on; returns the number.
inline int use_threads(Network& m, int threads) {
  while (m.worker_count() < threads) m.add_worker();
  return m.shape.threads = threads;
}

// Calls body(begin, end) for slices of the flat buffers that together are all of them.
template <class Body>
void on_slices(Network& m, Body body) {
  const int64_t slices = std::clamp<int64_t>(m.size / SLICE, 1, m.shape.threads);
  const int64_t each = (m.size / slices + CHUNK - 1) / CHUNK * CHUNK;
  on_threads(static_cast<int>(slices), [&](int t) { body(std::min(m.size, t * each), std::min(m.size, (t + 1) * each)); });
}

inline int parts_of(int64_t groups) {
  return static_cast<int>(std::clamp<int64_t>(groups / 2, std::min<int64_t>(groups, 2), MOST_PARTS));
}

// Every n-th group of the batch's sequences, from the first on.
inline void run_groups(Network& m, int thread, int first, int n, const Batch& batch, bool training,
                       const Dropout& dropout) {
  const TilesInUse tiles(m.shape.bf16);
  const int64_t together = m.together(batch.sequences);
  for (int64_t start = first * together; start < batch.sequences; start += n * together) {
    const int count = static_cast<int>(std::min(together, batch.sequences - start));
    m.run(thread, Group{count, batch.length, start, training, dropout}, batch);
  }
}

// A buffer of the thread's own, zeroed, to add gradients up in.
inline float* own_gradients(Network& m, Worker& w) {
  if (!w.spare) w.spare = w.arena.take(m.size);
  return w.spare;
}

// The batch's loss; m.gradients receives its gradient.
inline double train_on(Network& m, const Batch& batch, const Dropout& dropout) {
  const int64_t together = m.together(batch.sequences);
  const int parts = parts_of((batch.sequences + together - 1) / together), threads = std::min<int>(m.shape.threads, parts);
  std::mutex turn;
  std::condition_variable next;
  int added = 0;
  double loss = 0.0;
  on_threads(threads, [&](int t) {
    Worker& w = m.worker(t);
    for (int part = t; part < parts; part += threads) {
      w.loss = 0.0;
      w.gradients = part == 0 ? m.gradients : own_gradients(m, w);
      std::memset(w.gradients, 0, m.size * sizeof(float));
      run_groups(m, t, part, parts, batch, true, dropout);
      std::unique_lock lock(turn);
      next.wait(lock, [&] { return added == part; });
      if (part > 0) add_rows(1, static_cast<int>(m.size), w.gradients, 0, m.gradients);
      loss += w.loss;
      added++;
      next.notify_all();
    }
  });
  return loss;
}

// Losses of all positions, without dropout or gradients.
inline void evaluate_on(Network& m, const Batch& batch) {
  const int threads = m.shape.threads;
  on_threads(threads, [&](int t) { run_groups(m, t, t, threads, batch, false, Dropout{}); });
}

// The norm of the gradient of each sequence's own mean loss, for the gradient noise scale.
inline void sequence_norms(Network& m, const Batch& batch, const Dropout& dropout, double* norms) {
  const int threads = m.shape.threads;
  on_threads(threads, [&](int t) {
    const TilesInUse tiles(m.shape.bf16);
    Worker& w = m.worker(t);
    w.gradients = t == 0 ? m.gradients : own_gradients(m, w);
    for (int64_t i = t; i < batch.sequences; i += threads) {
      std::memset(w.gradients, 0, m.size * sizeof(float));
      m.run(t, Group{1, batch.length, i, true, dropout}, batch);
      norms[i] = std::sqrt(sum_of_squares(w.gradients, m.size)) * static_cast<double>(batch.sequences);
    }
  });
}

// The global norm of m.gradients.
inline double gradient_norm(Network& m) {
  std::vector<double> squares((m.size + CHUNK - 1) / CHUNK);
  on_slices(m, [&](int64_t begin, int64_t end) {
    for (int64_t at = begin; at < end; at += CHUNK)
      squares[at / CHUNK] = sum_of_squares(m.gradients + at, std::min(CHUNK, end - at));
  });
  double total = 0.0;
  for (const double block : squares) total += block;
  return std::sqrt(total);
}

inline void update(Network& m, const Adam& adam, double norm) {
  const float scale = norm > adam.clip ? static_cast<float>(adam.clip / (norm + adam.clip_epsilon)) : 1.0f;
  on_slices(m, [&](int64_t begin, int64_t end) {
    for (size_t i = 0; i + 1 < m.bounds.size(); i++) {
      const int64_t at = std::max(begin, m.bounds[i]), n = std::min(end, m.bounds[i + 1]) - at;
      if (n <= 0) continue;
      adam_update(adam, scale, m.shrinks[i], n, m.params + at, m.first + at, m.second + at, m.gradients + at);
    }
  });
}

// Brings all packed weights up to date with the parameters.
inline void pack_all(Network& m) {
  const int threads = m.size < SLICE ? 1 : m.shape.threads;
  on_threads(threads, [&](int t) { m.pack_weights(t, threads); });
}

}  // namespace allometry
