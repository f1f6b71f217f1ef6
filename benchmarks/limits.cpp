// The loops of limits.py: what one core multiplies at most, from registers, in GF/s.
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

static double now() { timespec t; clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t); return t.tv_sec + 1e-9 * t.tv_nsec; }

template <class Loop> void rate(const char* name, double flops, Loop loop) {
  const long rounds = 300000;
  double best = 1e9;
  for (int turn = 0; turn < 12; turn++) { const double t = now(); loop(rounds); best = std::min(best, (now() - t) / rounds); }
  std::printf("%s\t%.0f\n", name, flops / best / 1e9);
}

#define TWELVE(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11)
#define TWELVE_MORE(X) X(12) X(13) X(14) X(15) X(16) X(17) X(18) X(19) X(20) X(21) X(22) X(23)
#define FMA8(i) "vfmadd231ps %%ymm14, %%ymm15, %%ymm" #i "\n"
#define FMA16(i) "vfmadd231ps %%zmm30, %%zmm31, %%zmm" #i "\n"
#define PAIRS(i) "vdpbf16ps %%zmm30, %%zmm31, %%zmm" #i "\n"
#define REPEAT(body) [](long n) { __asm__ volatile("vzeroall\n1:\n" body "dec %0\njnz 1b\nvzeroupper\n" : "+r"(n) : : "memory"); }

int main() {
#if defined(__AVX2__) && defined(__FMA__)
  rate("fp32, 8 lanes", 12 * 8 * 2, REPEAT(TWELVE(FMA8)));
#endif
#if defined(__AVX512F__)
  rate("fp32, 16 lanes", 24 * 16 * 2, REPEAT(TWELVE(FMA16) TWELVE_MORE(FMA16)));
#endif
#if defined(__AVX512BF16__)
  rate("bf16, pairs", 24 * 32 * 2, REPEAT(TWELVE(PAIRS) TWELVE_MORE(PAIRS)));
#endif
#if defined(__AMX_BF16__)
  if (syscall(SYS_arch_prctl, 0x1023, 18) == 0) {  // the system hands out tiles when asked
    struct alignas(64) { unsigned char palette = 1, start = 0, none[14] = {}; unsigned short bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
      unsigned char rows[16] = {16, 16, 16, 16, 16, 16, 16, 16}; } config;
    alignas(64) static char memory[4096];
    _tile_loadconfig(&config);
    _tile_zero(0); _tile_zero(1); _tile_zero(2); _tile_zero(3);
    _tile_loadd(4, memory, 64); _tile_loadd(5, memory, 64); _tile_loadd(6, memory, 64); _tile_loadd(7, memory, 64);
    rate("bf16, tiles", 4 * 16384, [](long n) {
      while (n--) { _tile_dpbf16ps(0, 4, 6); _tile_dpbf16ps(1, 4, 7); _tile_dpbf16ps(2, 5, 6); _tile_dpbf16ps(3, 5, 7); }
    });
    rate("bf16, tiles loaded from the first cache", 4 * 16384, [](long n) {
      while (n--) {
        _tile_loadd(4, memory, 64); _tile_loadd(6, memory + 1024, 64); _tile_loadd(7, memory + 2048, 64); _tile_loadd(5, memory + 3072, 64);
        _tile_dpbf16ps(0, 4, 6); _tile_dpbf16ps(1, 4, 7); _tile_dpbf16ps(2, 5, 6); _tile_dpbf16ps(3, 5, 7);
      }
    });
    _tile_release();
  }
#endif
}
