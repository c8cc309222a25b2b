/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
/*
 * Times float32, bfloat16 and int8 weights of the same structure against each other, turn by turn:
 *
 *     cpu_formats [ROWS COLS STORED_SHARE THREADS]
 *
 * One thread is timed by its own clock, more by the wall; the least of many repeats counts. Prints
 * useful GFLOP/s, 2 * stored elements * tokens / time.
 */
#include <time.h>

#include "support.h"

using namespace test;

namespace {

double now(int32_t threads) {
  timespec t;
  clock_gettime(threads == 1 ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &t);
  return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_nsec) * 1e-9;
}

/* One side: a weight with its input and output. */
struct Side {
  Side(const Matrix& matrix, Rng& rng, int64_t tokens, int32_t threads)
      : packed(matrix),
        x(matrix.dtype, tokens * matrix.cols),
        y(matrix.dtype, tokens * matrix.rows) {
    std::normal_distribution<float> normal;
    x.fill([&] { return normal(rng); });
    args.x = x.data();
    args.y = y.data();
    args.tokens = tokens;
    args.x_stride = matrix.cols;
    args.y_stride = matrix.rows;
    args.threads = threads;
  }
  void time() {
    const double start = now(args.threads);
    EXPECT(djlbsr_linear(&packed.meta, packed.bytes, &args) == DJLBSR_OK, "%s",
           djlbsr_last_error());
    best = std::min(best, now(args.threads) - start);
  }

  Packed packed;
  Array x, y;
  djlbsr_linear_args args = {};
  double best = 1e9;
};

}  // namespace

int main(int argc, char** argv) {
  const int64_t rows = argc > 1 ? std::atoll(argv[1]) : 1024;
  const int64_t cols = argc > 2 ? std::atoll(argv[2]) : 4096;
  const double share = argc > 3 ? std::atof(argv[3]) : 0.125;
  const int32_t threads = argc > 4 ? std::atoi(argv[4]) : 1;
  std::printf("%s, %lld x %lld, %g stored, %d threads; GFLOP/s\n", djlbsr_active_isa(),
              (long long)rows, (long long)cols, share, threads);
  const int64_t blocks[][2] = {{4, 4}, {8, 8}, {16, 16}, {32, 32}, {64, 64}, {16, 1}, {32, 1}};
  for (const auto& b : blocks) {
    for (int64_t tokens : {1, 8, 64, 512}) {
      Side* sides[3];
      for (int i = 0; i < 3; ++i) {
        Rng rng(1); /* the same structure for all */
        Matrix m(rng, rows / b[0], cols / b[1], b[0], b[1],
                 i == 1 ? DJLBSR_BFLOAT16 : DJLBSR_FLOAT32, "random", share);
        if (i == 2) m.weight_format = DJLBSR_WEIGHT_INT8_BLOCKS;
        sides[i] = new Side(m, rng, tokens, threads);
      }
      for (int64_t repeat = 0; repeat < std::max<int64_t>(6, 200 / tokens); ++repeat) {
        for (Side* side : sides) side->time();
      }
      const djlbsr_info& info = sides[0]->packed.info;
      const double flop = 2e-9 * static_cast<double>(info.nnzb * b[0] * b[1] * tokens);
      const double base = sides[0]->best;
      std::printf(
          "%2lldx%-2lld T=%-4lld float32 %7.1f  bfloat16 %7.1f (%.2fx)  int8 %7.1f (%.2fx)\n",
          (long long)b[0], (long long)b[1], (long long)tokens, flop / base, flop / sides[1]->best,
          base / sides[1]->best, flop / sides[2]->best, base / sides[2]->best);
      for (Side* side : sides) delete side;
    }
  }
  return failures == 0 ? 0 : 1;
}
