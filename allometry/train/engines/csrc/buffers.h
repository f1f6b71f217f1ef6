// Memory: the arena that buffers are cut from, and weights packed for the matrix product.
#pragma once
#include <sys/mman.h>

#include <cstdlib>
#include <memory>
#include <new>
#include <vector>

#include "bf16.h"
#include "rows.h"

namespace allometry {

// Zeroed buffers, aligned to cache lines, that live as long as the arena. They are cut from large blocks that ask the
// system for huge pages: a step walks through megabytes in rows far apart, which small pages make slow.
class Arena {
 public:
  float* take(size_t floats) {
    const size_t bytes = std::max<size_t>(64, (floats * sizeof(float) + 63) / 64 * 64);
    if (bytes > left_) grow(bytes);
    float* start = reinterpret_cast<float*>(next_);
    next_ += bytes;
    left_ -= bytes;
    return start;
  }

 private:
#ifdef __SANITIZE_ADDRESS__
  static constexpr size_t PAGE = 64;  // every buffer a block of its own, so that an access beyond its end is seen
#else
  static constexpr size_t PAGE = 2u << 20;
#endif

  void grow(size_t bytes) {
    left_ = (bytes + PAGE - 1) / PAGE * PAGE;
    void* block = std::aligned_alloc(PAGE, left_);
    if (!block) throw std::bad_alloc();
    blocks_.emplace_back(block, &std::free);
#ifdef MADV_HUGEPAGE
    madvise(block, left_, MADV_HUGEPAGE);
#endif
    std::memset(block, 0, left_);
    next_ = static_cast<char*>(block);
  }

  std::vector<std::unique_ptr<void, void (*)(void*)>> blocks_;
  char* next_ = nullptr;
  size_t left_ = 0;
};

// A weight W (out, in) packed for Y = X W^T (forward) and for dX = dY W (backward): as panels, or as tiles in bf16.
struct PackedWeight {
  float *forward, *backward;
  bool bf16;

  void allocate(Arena& arena, int out, int in, bool as_bf16 = false) {
    bf16 = as_bf16;
    forward = arena.take(bf16 ? tiled_size(in, out) : packed_size(in, out));
    backward = arena.take(bf16 ? tiled_size(out, in) : packed_size(out, in));
  }

  void fill(const float* weight, int out, int in) {
    if (bf16) {
      pack_as_tiles(transposed_in_place(weight, in), in, out, forward);
      pack_as_tiles(in_place(weight, in), out, in, backward);
    } else {
      pack_transposed(weight, in, in, out, forward);
      pack(weight, in, out, in, backward);
    }
  }
};

inline Moments moments_for(Arena& arena, int rows) { return {arena.take(rows), arena.take(rows)}; }

}  // namespace allometry
