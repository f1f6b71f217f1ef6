// The eight tile registers of AMX: 16 rows of 64 bytes each. ALLOMETRY_EMULATE_AMX replaces the instructions by loops
// that do what Intel's manual says of them, so that layouts and sums can be tested on any processor.
#pragma once
#include <cstdint>
#include <cstring>

#include "vector.h"

#if defined(ALLOMETRY_EMULATE_AMX)
#define ALLOMETRY_TILES 1
#elif defined(__AMX_BF16__) && defined(__AMX_TILE__) && defined(__linux__)
#define ALLOMETRY_TILES 1
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>
#else
#define ALLOMETRY_TILES 0
#endif

namespace allometry {

constexpr int TILE = 16;       // rows of a tile, and fp32 numbers in a row
constexpr int TILE_DEPTH = 32; // bf16 numbers in a row

#if defined(ALLOMETRY_EMULATE_AMX)

struct EmulatedTile {
  uint8_t row[TILE][64];
};

inline EmulatedTile& emulated_tile(int number) {
  static thread_local EmulatedTile tiles[8];
  return tiles[number];
}

inline bool tiles_allowed() { return true; }
inline void tiles_configure() {}
inline void tiles_release() {}
inline void tiles_fence(const void*) {}

inline void tile_zero(int tile) { std::memset(&emulated_tile(tile), 0, sizeof(EmulatedTile)); }

inline void tile_load(int tile, const void* from, ptrdiff_t stride) {
  const char* row = static_cast<const char*>(from);
  for (int i = 0; i < TILE; i++) std::memcpy(emulated_tile(tile).row[i], row + i * stride, 64);
}

inline void tile_store(int tile, void* to, ptrdiff_t stride) {
  char* row = static_cast<char*>(to);
  for (int i = 0; i < TILE; i++) std::memcpy(row + i * stride, emulated_tile(tile).row[i], 64);
}

inline float bf16_at(const uint8_t* row, int j) {
  uint16_t half;
  std::memcpy(&half, row + 2 * j, sizeof half);
  const uint32_t bits = static_cast<uint32_t>(half) << 16;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

// TDPBF16PS: C(m, n) += sum of A(m, 2k) B(k, 2n) + sum of A(m, 2k + 1) B(k, 2n + 1), over the 16 pairs k of a row. The
// two sums are kept apart, as there; that numbers under 1e-38 count as zero there is left out.
inline void tile_multiply(int c, int a, int b) {
  for (int m = 0; m < TILE; m++) {
    float even[TILE] = {}, odd[TILE] = {}, sums[TILE];
    for (int k = 0; k < TILE; k++) {
      const uint8_t *left = emulated_tile(a).row[m], *right = emulated_tile(b).row[k];
      for (int n = 0; n < TILE; n++) {
        even[n] = std::fma(bf16_at(left, 2 * k), bf16_at(right, 2 * n), even[n]);
        odd[n] = std::fma(bf16_at(left, 2 * k + 1), bf16_at(right, 2 * n + 1), odd[n]);
      }
    }
    std::memcpy(sums, emulated_tile(c).row[m], sizeof sums);
    for (int n = 0; n < TILE; n++) sums[n] += even[n] + odd[n];
    std::memcpy(emulated_tile(c).row[m], sums, sizeof sums);
  }
}

#elif ALLOMETRY_TILES

// Linux gives a process the tiles only when asked to.
inline bool tiles_allowed() {
  constexpr long REQUEST_PERMISSION = 0x1023, TILE_DATA = 18;
  return syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0;
}

// GCC's intrinsics do not say that they read and write memory: no access may be moved across a fence.
inline void tiles_fence(const void* where) { __asm__ volatile("" : : "r"(where) : "memory"); }

// All eight tiles with 16 rows of 64 bytes, for the calling thread.
inline void tiles_configure() {
  struct alignas(64) {
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    uint8_t rows[16] = {TILE, TILE, TILE, TILE, TILE, TILE, TILE, TILE};
  } config;
  static_assert(sizeof config == 64);
  tiles_fence(&config);
  _tile_loadconfig(&config);
}

inline void tiles_release() { _tile_release(); }

// Macros, because the compiler writes a tile's number, which must be a literal, into the name of its register.
#define tile_zero(tile) _tile_zero(tile)
#define tile_load(tile, from, stride) _tile_loadd(tile, from, stride)
#define tile_store(tile, to, stride) _tile_stored(tile, to, stride)
#define tile_multiply(c, a, b) _tile_dpbf16ps(c, a, b)

#else

inline bool tiles_allowed() { return false; }
inline void tiles_configure() {}
inline void tiles_release() {}

#endif

}  // namespace allometry
