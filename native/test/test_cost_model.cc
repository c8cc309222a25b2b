/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
/* The prediction of block-sparse against dense, with made-up profiles and machines; no GPU needed.
 */
#include "choice/cost_model.h"
#include "choice/profiles.h"
#include "cuda/kernel_choice.h"
#include "cuda/panels.h"
#include "support.h"

using namespace djlbsr::choice;

namespace {

using test::expect_error;
using test::Rng;
using test::uniform;

djlbsr_info weight(int64_t rows, int64_t cols, int64_t block_rows, int64_t block_cols,
                   double density, int32_t dtype = DJLBSR_FLOAT32, int32_t device = DJLBSR_CPU) {
  djlbsr_info info = {};
  info.rows = rows;
  info.cols = cols;
  info.block_rows = block_rows;
  info.block_cols = block_cols;
  const int64_t in_row = static_cast<int64_t>(density * static_cast<double>(cols / block_cols));
  info.nnzb = rows / block_rows * in_row;
  info.max_blocks_in_row = in_row;
  info.dtype = dtype;
  info.device = device;
  info.panel_block = djlbsr::cuda::panel_shape(info).block;
  return info;
}

/* A machine whose products take `nanos` for a thousand multiply-adds, whatever their size. */
CpuProfile flat_profile(double dense_nanos, double bsr_nanos) {
  CpuProfile profile;
  for (int kind = 0; kind < kKinds; ++kind) {
    for (int s = 0; s < kSizes; ++s) {
      for (int t = 0; t < kTokenCounts; ++t) {
        profile.seconds[point(kind, s, t)] = (kind == kDense ? dense_nanos : bsr_nanos) * 1e-12 *
                                             static_cast<double>(kSize[s] * kTokens[t]);
      }
    }
  }
  return profile;
}

void expect_near(double actual, double expected, double share, const char* what) {
  EXPECT(std::fabs(actual - expected) <= share * expected, "%s: %g, expected %g", what, actual,
         expected);
}

/* At its points, between and beyond them, the model of a flat machine is exact for dense. */
void interpolation() {
  const CpuProfile profile = flat_profile(20, 40);
  Rng rng(1);
  for (int i = 0; i < 300; ++i) {
    const int64_t rows = uniform(rng, 1, 9000);
    const int64_t cols = uniform(rng, 1, 9000);
    const int64_t tokens = uniform(rng, 1, i % 2 == 0 ? 40 : 70000);
    const double expected = 20e-12 * static_cast<double>(rows * cols * tokens);
    expect_near(predict_cpu(weight(rows, cols, 1, 1, 0.5), tokens, 0, 1, profile).dense_seconds,
                expected, 1e-9, "flat dense time");
  }
  CpuProfile bumpy = builtin_profile(DJLBSR_FLOAT32);
  for (int s = 0; s < kSizes; ++s) {
    for (int t = 0; t < kTokenCounts; ++t) {
      const int64_t cols = int64_t{1} << 7;
      const djlbsr_info info = weight(kSize[s] / cols, cols, 1, 1, 1);
      expect_near(predict_cpu(info, kTokens[t], 0, 1, bumpy).dense_seconds,
                  bumpy.seconds[point(kDense, s, t)], 1e-9, "time at a point");
    }
  }
}

/* A weight like the profile's own costs what the profile says, for every kind. */
void own_points() {
  const CpuProfile& profile = builtin_profile(DJLBSR_FLOAT32);
  for (int kind = kDense + 1; kind < kKinds; ++kind) {
    for (int s = 0; s < kSizes; s += 2) { /* where the weight is square */
      const int64_t side = static_cast<int64_t>(std::sqrt(static_cast<double>(4 * kSize[s])));
      const djlbsr_info info = weight(side, side, kBlocks[kind].rows, kBlocks[kind].cols, 0.25);
      for (int t = 0; t < kTokenCounts; ++t) {
        expect_near(predict_cpu(info, kTokens[t], 0, 1, profile).bsr_seconds,
                    profile.seconds[point(kind, s, t)], 1e-6,
                    point_name(point(kind, s, t)).c_str());
      }
    }
  }
}

void both_directions() {
  const djlbsr_info half = weight(1024, 1024, 16, 16, 0.5);
  const auto choice = [&](double dense, double bsr) {
    return predict_cpu(half, 64, 0, 1, flat_profile(dense, bsr)).dense;
  };
  EXPECT(choice(10, 100) == 1, "a slow kernel was chosen");
  EXPECT(choice(10, 10) == 0, "half the work is not dense's");
  /* The advantage that dense needs lies around equal times: half the elements at twice the cost. */
  const djlbsr_prediction even = predict_cpu(half, 64, 0, 1, flat_profile(10, 20));
  EXPECT(even.dense == (even.dense_seconds * 1.05 < even.bsr_seconds ? 1 : 0), "%g against %g",
         even.dense_seconds, even.bsr_seconds);
  const djlbsr_prediction relu = predict_cpu(half, 64, DJLBSR_GELU, 1, flat_profile(10, 20));
  EXPECT(relu.dense_seconds > even.dense_seconds && relu.bsr_seconds == even.bsr_seconds,
         "an activation costs dense alone: %g and %g", relu.dense_seconds, relu.bsr_seconds);
  const djlbsr_prediction threads = predict_cpu(half, 1024, 0, 8, flat_profile(10, 20));
  EXPECT(threads.dense_seconds < even.dense_seconds * 16 / 7.5, "8 threads: %g after %g",
         threads.dense_seconds, even.dense_seconds);
}

/* More of anything never takes less time; more tokens may have a faster kernel on CUDA. */
void monotone() {
  constexpr double kLess = 1 - 1e-12; /* rounding */
  const CpuProfile profile = flat_profile(20, 40);
  Rng rng(2);
  for (int i = 0; i < 500; ++i) {
    const int64_t block = int64_t{1} << uniform(rng, 0, 7);
    const int64_t rows = block * uniform(rng, 1, 40);
    const int64_t cols = block * uniform(rng, 1, 40);
    const int64_t tokens = uniform(rng, 1, 5000);
    for (const int32_t dtype : {DJLBSR_FLOAT32, DJLBSR_FLOAT16, DJLBSR_BFLOAT16}) {
      for (const bool cuda : {false, true}) {
        const auto predict = [&](double density, int64_t t) {
          const djlbsr_info info =
              weight(rows, cols, block, block, density, dtype, cuda ? DJLBSR_CUDA : DJLBSR_CPU);
          const djlbsr_prediction p = cuda ? predict_cuda(info, t, 0, {80, 108, 0, 40 << 20})
                                           : predict_cpu(info, t, 0, 1, profile);
          EXPECT(std::isfinite(p.bsr_seconds) && std::isfinite(p.dense_seconds) &&
                     p.bsr_seconds > 0 && p.dense_seconds > 0,
                 "%g and %g seconds", p.bsr_seconds, p.dense_seconds);
          return p;
        };
        const djlbsr_prediction one = predict(0.5, tokens);
        const djlbsr_prediction more = predict(0.5, 3 * tokens);
        const djlbsr_prediction full = predict(1, tokens);
        const auto kernel = [&](int64_t t) {
          djlbsr_linear_args args = {};
          args.tokens = t;
          args.x_stride = cols;
          args.y_stride = rows;
          return djlbsr::cuda::kernel_choice(
              weight(rows, cols, block, block, 0.5, dtype, DJLBSR_CUDA), args, 80);
        };
        const bool same = !cuda || kernel(tokens) == kernel(3 * tokens);
        EXPECT((!same || more.bsr_seconds >= one.bsr_seconds * kLess) &&
                   more.dense_seconds >= one.dense_seconds * kLess,
               "%lldx%lld, %lld tokens take longer than three times as many", (long long)rows,
               (long long)cols, (long long)tokens);
        EXPECT(
            full.bsr_seconds >= one.bsr_seconds * kLess && full.dense_seconds == one.dense_seconds,
            "%lldx%lld: half the blocks take longer than all", (long long)rows, (long long)cols);
      }
    }
  }
}

void edges() {
  const CpuProfile& profile = builtin_profile(DJLBSR_FLOAT32);
  const djlbsr_info none = weight(64, 64, 16, 16, 0);
  EXPECT(predict_cpu(none, 1, 0, 1, profile).bsr_seconds > 0, "a call costs something");
  EXPECT(predict_cpu(none, 0, 0, 1, profile).bsr_seconds == 0, "no tokens cost nothing");
  EXPECT(predict_cpu(weight(0, 64, 16, 16, 0), 5, 0, 1, profile).dense == 0, "no rows");
  EXPECT(predict_cpu(weight(64, 0, 16, 16, 0), 5, 0, 1, profile).dense == 0, "no columns");
  EXPECT(predict_cuda(none, 0, 0, kFittedMachine).dense == 0, "no tokens on CUDA");
  EXPECT(predict_cuda(none, 1, 0, kFittedMachine).bsr_seconds > 0, "an empty weight on CUDA");
}

/* Odd blocks pay for the rows that they leave idle. */
void padding() {
  const CpuProfile profile = flat_profile(20, 40);
  const double even = predict_cpu(weight(4080, 4096, 16, 16, 0.5), 64, 0, 1, profile).bsr_seconds;
  const double odd = predict_cpu(weight(4080, 4096, 17, 16, 0.5), 64, 0, 1, profile).bsr_seconds;
  expect_near(odd / even, 32.0 / 17, 0.02, "17 rows for 32");
}

void cuda_choice() {
  struct Case {
    const char* what;
    djlbsr_info info;
    int64_t tokens;
    CudaMachine machine;
    int dense;
  };
  const auto half = [](int64_t rows, int64_t cols, int64_t block, double density) {
    return weight(rows, cols, block, block, density, DJLBSR_FLOAT16, DJLBSR_CUDA);
  };
  const Case cases[] = {
      {"128, 87.5 % removed", half(8192, 8192, 128, 0.125), 8192, kFittedMachine, 0},
      {"64, 87.5 % removed", half(8192, 8192, 64, 0.125), 8192, kFittedMachine, 0},
      {"64, half removed", half(8192, 8192, 64, 0.5), 8192, kFittedMachine, 0},
      {"64, nothing removed", half(8192, 8192, 64, 1), 8192, kFittedMachine, 1},
      {"32, 87.5 % removed", half(8192, 8192, 32, 0.125), 8192, kFittedMachine, 0},
      {"16, half removed", half(8192, 8192, 16, 0.5), 8192, kFittedMachine, 1},
      {"112 in 16s, half removed", half(7168, 7168, 112, 0.5), 8192, kFittedMachine, 1},
      {"64, no Hopper", half(8192, 8192, 64, 0.5), 8192, {80, 108, 0, 40 << 20}, 1},
      {"1x1, half removed", half(4096, 4096, 1, 0.5), 512, kFittedMachine, 1},
  };
  for (const Case& c : cases) {
    const djlbsr_prediction p = predict_cuda(c.info, c.tokens, 0, c.machine);
    std::printf("%-24s T=%-5lld sm_%d: BSR %8.1f us, dense %8.1f us: %s\n", c.what,
                (long long)c.tokens, c.machine.compute_capability, p.bsr_seconds * 1e6,
                p.dense_seconds * 1e6, p.dense ? "dense" : "BSR");
    EXPECT(p.dense == c.dense, "%s", c.what);
  }
  /* A skewed weight takes longer than an even one of as many blocks. */
  djlbsr_info skewed = half(8192, 8192, 64, 0.125);
  const double even = predict_cuda(skewed, 512, 0, kFittedMachine).bsr_seconds;
  skewed.max_blocks_in_row = 128;
  EXPECT(predict_cuda(skewed, 512, 0, kFittedMachine).bsr_seconds > 1.5 * even,
         "a heavy row costs nothing");
  /* hopper_narrow cuts blocks that are no multiples of 64 to slices of 32 rows, whatever their
   * side. */
  const auto narrow = [](int64_t side) {
    const djlbsr_info info = weight(3072, 768, side, side, 0.25, DJLBSR_FLOAT16, DJLBSR_CUDA);
    return predict_cuda(info, 128, 0, kFittedMachine).bsr_seconds;
  };
  expect_near(narrow(96), narrow(32), 0.05, "blocks of 96 against 32");
}

/* Every kernel that the choice can give has constants of its own. */
void all_kernels_known() {
  for (const int64_t block : {1, 4, 8, 16, 32, 48, 64, 96, 128, 256}) {
    for (const int32_t dtype : {DJLBSR_FLOAT32, DJLBSR_FLOAT16, DJLBSR_BFLOAT16}) {
      for (const int64_t tokens : {1, 2, 8, 16, 32, 63, 64, 128, 512, 8192}) {
        for (const int capability : {70, 80, 89, 90, 100}) {
          const djlbsr_info info =
              weight(block * 40, block * 40, block, block, 0.25, dtype, DJLBSR_CUDA);
          djlbsr_linear_args args = {};
          args.tokens = tokens;
          args.x_stride = info.cols;
          args.y_stride = info.rows;
          const char* name =
              djlbsr::cuda::kernel_name(djlbsr::cuda::kernel_choice(info, args, capability));
          EXPECT(knows_kernel(name), "no constants for the kernel %s in cuda_model.cc", name);
        }
      }
    }
  }
}

/* Through the contract: profiles are set for a dtype, checked, and taken back. */
void set_and_get() {
  std::vector<int32_t> crow = {0, 1, 2};
  std::vector<int32_t> col = {0, 1};
  djlbsr_matrix matrix = {};
  matrix.rows = matrix.cols = 32;
  matrix.block_rows = matrix.block_cols = 16;
  matrix.nnzb = 2;
  matrix.crow_indices = crow.data();
  matrix.col_indices = col.data();
  djlbsr_meta meta;
  EXPECT(djlbsr_pack_query(&matrix, DJLBSR_CPU, &meta) == DJLBSR_OK, "%s", djlbsr_last_error());
  const auto chosen = [&] {
    djlbsr_prediction p = {};
    EXPECT(djlbsr_predict(&meta, 4096, 0, -1, 1, &p) == DJLBSR_OK, "%s", djlbsr_last_error());
    return p.dense;
  };
  const CpuProfile slow = flat_profile(1, 1000);
  const CpuProfile fast = flat_profile(1000, 1);
  EXPECT(djlbsr_set_profile(DJLBSR_FLOAT32, slow.seconds) == DJLBSR_OK, "%s", djlbsr_last_error());
  EXPECT(chosen() == 1, "the profile is not used");
  double read[DJLBSR_PROFILE_POINTS];
  EXPECT(djlbsr_get_profile(DJLBSR_FLOAT32, read) == DJLBSR_OK &&
             std::equal(read, read + DJLBSR_PROFILE_POINTS, slow.seconds),
         "the profile reads back otherwise");
  EXPECT(std::strstr(djlbsr_capabilities(), "cpu profile: measured for float32") != nullptr,
         "capabilities:\n%s", djlbsr_capabilities());
  EXPECT(djlbsr_set_profile(DJLBSR_FLOAT32, fast.seconds) == DJLBSR_OK && chosen() == 0,
         "the second profile is not used");
  CpuProfile broken = slow;
  for (const double bad : {0.0, -1.0, std::nan(""), HUGE_VAL, 1e6}) {
    broken.seconds[30] = bad;
    expect_error(djlbsr_set_profile(DJLBSR_FLOAT32, broken.seconds), DJLBSR_INVALID_ARGUMENT,
                 {"seconds[30]", point_name(30)}, "a broken profile");
  }
  EXPECT(chosen() == 0, "a refused profile was taken");
  EXPECT(djlbsr_set_profile(DJLBSR_FLOAT32, nullptr) == DJLBSR_OK, "%s", djlbsr_last_error());
  EXPECT(djlbsr_get_profile(DJLBSR_FLOAT32, read) == DJLBSR_OK &&
             read[0] == builtin_profile(DJLBSR_FLOAT32).seconds[0],
         "null does not return to the built-in profile");
  djlbsr_prediction p;
  expect_error(djlbsr_set_profile(3, slow.seconds), DJLBSR_INVALID_ARGUMENT, {"dtype is 3"},
               "dtype");
  expect_error(djlbsr_get_profile(0, nullptr), DJLBSR_INVALID_ARGUMENT, {"seconds is null"}, "get");
  expect_error(djlbsr_predict(nullptr, 1, 0, 0, 0, &p), DJLBSR_INVALID_ARGUMENT, {"meta is null"},
               "predict");
  expect_error(djlbsr_predict(&meta, 1, 0, 0, 0, nullptr), DJLBSR_INVALID_ARGUMENT,
               {"prediction is null"}, "predict");
  expect_error(djlbsr_predict(&meta, -1, 0, 0, 0, &p), DJLBSR_INVALID_ARGUMENT,
               {"tokens is -1", "0 or more"}, "predict");
  expect_error(djlbsr_predict(&meta, 1, 9, 0, 0, &p), DJLBSR_INVALID_ARGUMENT, {"activation is 9"},
               "predict");
  EXPECT(std::strcmp(djlbsr_profile_point(0), "dense, 16384 elements, 1 token") == 0, "%s",
         djlbsr_profile_point(0));
  EXPECT(std::strcmp(djlbsr_profile_point(DJLBSR_PROFILE_POINTS - 1),
                     "1x16 blocks, 8388608 stored elements, 1024 tokens") == 0,
         "%s", djlbsr_profile_point(DJLBSR_PROFILE_POINTS - 1));
  EXPECT(*djlbsr_profile_point(-1) == 0 && *djlbsr_profile_point(DJLBSR_PROFILE_POINTS) == 0,
         "points out of range have names");
}

}  // namespace

int main() {
  interpolation();
  own_points();
  both_directions();
  monotone();
  edges();
  padding();
  cuda_choice();
  all_kernels_known();
  set_and_get();
  std::printf("test_cost_model: %s\n", test::failures == 0 ? "passed" : "FAILED");
  return test::failures == 0 ? 0 : 1;
}
