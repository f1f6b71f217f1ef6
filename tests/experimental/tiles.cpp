// What surrounds the tile instructions, on a processor that has them (tools/experimental/emulate_x86.py): permission, other users of
// the tiles, threads, forks and signals. Prints whether the same product comes out with the same bits in each case.
#include <signal.h>
#include <sys/time.h>
#include <sys/wait.h>

#include <cstdio>
#include <random>
#include <thread>

#include "gemm_bf16.h"

using namespace allometry;

constexpr int SIDE = 37, DEPTH = 131;
static std::vector<float> a(SIDE * row_stride(DEPTH)), b(DEPTH * row_stride(SIDE) + PANEL), first;

static std::vector<float> multiply() {
  const TilesInUse tiles(true);
  std::vector<float> c(SIDE * row_stride(SIDE));
  const Left left{a.data(), row_stride(DEPTH), false};
  product_bf16(SIDE, SIDE, DEPTH, left, in_place(b.data(), row_stride(SIDE)), {c.data(), row_stride(SIDE)});
  return c;
}

static bool same(int times = 1) {
  bool all = true;
  for (int i = 0; i < times; i++) all &= multiply() == first;
  return all;
}

// Runs body() in a child process, which may die of it.
template <class Body>
static void attempt(const char* name, Body body) {
  std::fflush(stdout);
  const pid_t child = fork();
  if (child == 0) _exit(body());
  int status;
  waitpid(child, &status, 0);
  if (WIFSIGNALED(status)) std::printf("%s: signal %d\n", name, WTERMSIG(status));
  else std::printf("%s: %d\n", name, WEXITSTATUS(status));
}

static void configure_otherwise() {
  alignas(64) uint8_t config[64] = {1};
  for (int i = 0; i < 8; i++) config[16 + 2 * i] = 32, config[48 + i] = 7;
  tiles_fence(config);
  _tile_loadconfig(config);
}

static bool in_threads() {
  bool each[4];
  std::vector<std::thread> threads;
  for (bool& one : each) threads.emplace_back([&one] { one = same(100); });
  for (std::thread& thread : threads) thread.join();
  return each[0] && each[1] && each[2] && each[3];
}

static volatile sig_atomic_t ticks;

static bool under_signals() {
  signal(SIGALRM, [](int) { ticks = ticks + 1; });
  const itimerval often{{0, 4000}, {0, 4000}};
  setitimer(ITIMER_REAL, &often, nullptr);
  bool all = true;
  while (ticks < 30) all &= same();
  return all;
}

int main() {
  std::mt19937 generator(1);
  for (float& x : a) x = std::uniform_real_distribution<float>(-1.0f, 1.0f)(generator);
  for (float& x : b) x = std::uniform_real_distribution<float>(-1.0f, 1.0f)(generator);
  attempt("before permission", [] { return same(); });
  if (!tiles_allowed()) return std::puts("bf16 refused"), 0;
  first = multiply();
  attempt("after a fork", [] { return same(); });
  attempt("after another's release", [] { return _tile_release(), same(); });
  attempt("after another's configuration", [] { return configure_otherwise(), same(); });
  attempt("in threads", in_threads);
  attempt("under signals", under_signals);
}
