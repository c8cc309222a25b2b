/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
#include <algorithm>
#include <cmath>
#include <cstring>

#include "choice/cost_model.h"
#include "choice/decide.h"
#include "common/fp32_terms.h"
#include "common/meta.h"
#include "cuda/kernel_choice.h"

namespace djlbsr::choice {
namespace {

constexpr double kMultiprocessors = kFittedMachine.multiprocessors;

struct Costs {
  const char* kernel;
  int64_t block;        /* for blocks whose smaller side is at least this; rows fall */
  double call_us;       /* launch, first loads and last stores */
  double stored_tflops; /* rate of the stored elements */
  double panel_tflops;  /* rate, in dense-equivalent operations, of streaming x */
  double weight_tbs;    /* bandwidth of the weight */
  int64_t tile_rows;
  int64_t tile_tokens;
};

/*
 * H100 80GB HBM3; fp16 and bf16. Printed by bench/fit_cuda_costs.py where NOTES-choice.md does not
 * call them provisional.
 */
constexpr Costs kHalfCosts[] = {
    {"hopper_128x256", 128, 5.9, 813, 16152, 1.01, 128, 256},
    {"hopper_64x512", 64, 7.4, 521, 22597, 0.63, 64, 512},
    {"hopper_panels", 64, 5.0, 697, 4024, 1.0, 384, 128},
    {"hopper_panels", 32, 5.0, 516, 3945, 1.0, 384, 128},
    {"hopper_panels", 16, 5.0, 350, 3280, 1.0, 384, 128},
    {"sm80_f16_stream", 16, 2.3, 50, 20000, 2.2, 64, 16},
    {"sm80_f16_stream", 8, 2.3, 40, 20000, 1.8, 64, 16},
    {"sm80_f16_stream", 4, 2.3, 15, 20000, 0.8, 64, 16},
    {"sm80_f16_stream", 1, 2.3, 6, 20000, 0.28, 64, 16},
    {"sm80_f16_mma", 128, 5.0, 200, 1960, 1.0, 352, 128},
    {"sm80_f16_mma", 64, 5.0, 186, 1640, 1.0, 352, 128},
    {"sm80_f16_mma", 32, 5.0, 170, 1590, 1.0, 352, 128},
    {"sm80_f16_mma", 16, 5.0, 128, 1510, 1.0, 352, 128},
    {"sm80_f16_mma", 8, 5.0, 45, 1510, 0.5, 352, 128},
    {"sm80_f16_mma", 4, 5.0, 19, 1510, 0.2, 352, 128},
    {"sm80_f16_mma", 1, 5.0, 5, 1510, 0.1, 352, 128},
    {"portable", 128, 48.0, 38, 906, 0.13, 64, 64},
    {"portable", 64, 17.2, 37, 1125, 0.13, 64, 64},
    {"portable", 32, 39.9, 22, 9197, 0.20, 32, 64},
    {"portable", 16, 22.0, 19, 563, 0.21, 16, 64},
    {"portable", 8, 32.9, 19, 563, 0.07, 8, 64},
    {"portable", 1, 30.0, 5, 500, 0.05, 8, 64},
};
constexpr Costs kFloatCosts[] = {
    {"hopper_fp32_256", 64, 5.0, 112, 30000, 1.3, 64, 256},
    {"hopper_fp32_256", 32, 5.0, 84, 30000, 1.3, 32, 256},
    {"hopper_fp32_256", 16, 5.0, 46, 30000, 1.3, 16, 256},
    {"hopper_fp32_128", 64, 5.0, 90, 30000, 1.3, 64, 128},
    {"hopper_fp32_128", 32, 5.0, 65, 30000, 1.3, 32, 128},
    {"hopper_fp32_128", 16, 5.0, 40, 30000, 1.3, 16, 128},
    {"hopper_fp32_fast_256", 64, 5.0, 170, 30000, 1.3, 64, 256},
    {"hopper_fp32_fast_256", 32, 5.0, 112, 30000, 1.3, 32, 256},
    {"hopper_fp32_fast_256", 16, 5.0, 45, 30000, 1.3, 16, 256},
    {"hopper_fp32_fast_128", 64, 5.0, 140, 30000, 1.3, 64, 128},
    {"hopper_fp32_fast_128", 32, 5.0, 95, 30000, 1.3, 32, 128},
    {"hopper_fp32_fast_128", 16, 5.0, 40, 30000, 1.3, 16, 128},
    {"f32_stream", 16, 2.0, 5.6, 20000, 2.6, 64, 16},
    {"f32_stream", 1, 2.0, 2, 20000, 0.5, 64, 16},
    {"portable", 64, 10.0, 27, 2000, 0.3, 64, 64},
    {"portable", 32, 10.0, 27, 867, 0.3, 32, 64},
    {"portable", 16, 10.0, 20, 575, 0.3, 16, 64},
    {"portable", 1, 10.0, 5, 500, 0.1, 8, 64},
};

struct DenseCosts {
  double call_us;
  double tflops;
  double weight_tbs;
};
constexpr DenseCosts kHalfDense = {0.7, 755, 2.82};
constexpr DenseCosts kFloatDense = {2.0, 51, 2.70};

/* cuBLAS reaches its rate with many tokens alone, but no fewer than these are computed. */
constexpr int64_t kDenseTokens = 16;

/* A pass that reads and writes y, from the L2 cache where it fits. */
constexpr double kActivationCallUs = 2.0;
constexpr double kActivationTbs = 2.5;

template <size_t n>
const Costs& find(const Costs (&table)[n], const char* kernel, int64_t block) {
  for (const Costs& costs : table) {
    if (std::strcmp(costs.kernel, kernel) == 0 && block >= costs.block) return costs;
  }
  return table[n - 1];
}

template <size_t n>
bool holds(const Costs (&table)[n], const char* kernel) {
  return std::any_of(std::begin(table), std::end(table),
                     [&](const Costs& costs) { return std::strcmp(costs.kernel, kernel) == 0; });
}

double round_up(int64_t value, int64_t step) {
  return static_cast<double>((value + step - 1) / step * step);
}

/* The kernel for rows of x and y that lie one after the other, 256-byte aligned. */
const char* kernel_for(const djlbsr_info& info, int64_t tokens, const CudaMachine& machine) {
  djlbsr_linear_args args = {};
  args.tokens = tokens;
  args.x_stride = info.cols;
  args.y_stride = info.rows;
  return cuda::kernel_name(cuda::kernel_choice(info, args, machine.compute_capability));
}

double bsr_seconds(const djlbsr_info& info, int64_t tokens, const Costs& costs, double scale) {
  const double t = round_up(tokens, std::min<int64_t>(costs.tile_tokens, 64));
  const double block_size = static_cast<double>(info.block_rows * info.block_cols);
  const double stored = static_cast<double>(info.nnzb) * block_size;
  const double all = static_cast<double>(info.rows) * static_cast<double>(info.cols);
  const double work =
      2 * t * (stored / costs.stored_tflops + all / costs.panel_tflops) * 1e-12 * scale;
  const double tiles =
      std::ceil(static_cast<double>(info.rows) / static_cast<double>(costs.tile_rows)) *
      std::ceil(t / static_cast<double>(costs.tile_tokens));
  const double tile = work * kMultiprocessors / scale / std::max(tiles, 1.0);
  /* How much heavier than the mean the heaviest block-row is. */
  const double block_rows = static_cast<double>(info.rows / info.block_rows);
  const double skew = info.nnzb == 0 ? 1
                                     : static_cast<double>(info.max_blocks_in_row) * block_rows /
                                           static_cast<double>(info.nnzb);
  const double bytes = stored * static_cast<double>(dtype_size(info.dtype));
  return costs.call_us * 1e-6 +
         std::max({bytes / costs.weight_tbs * 1e-12 * scale, work + 0.5 * tile, skew * tile});
}

}  // namespace

bool knows_kernel(const char* kernel_name) {
  return holds(kHalfCosts, kernel_name) || holds(kFloatCosts, kernel_name);
}

djlbsr_prediction predict_cuda(const djlbsr_info& info, int64_t tokens, int32_t activation,
                               const CudaMachine& machine) {
  if (tokens == 0 || info.rows == 0 || info.cols == 0) return decide(0, 0);
  const double scale = kMultiprocessors / std::max(machine.multiprocessors, 1);
  const char* kernel = kernel_for(info, tokens, machine);
  const bool is_float = info.dtype == DJLBSR_FLOAT32;
  /* The side of what the kernel cuts its blocks into. */
  int64_t block = std::min(info.block_rows, info.block_cols);
  if (std::strcmp(kernel, "hopper_panels") == 0) block = info.panel_block;
  if (std::strncmp(kernel, "hopper_fp32", 11) == 0) block = Fp32Terms::slice_rows(info.block_rows);
  const Costs& costs =
      is_float ? find(kFloatCosts, kernel, block) : find(kHalfCosts, kernel, block);
  const DenseCosts& dense = is_float ? kFloatDense : kHalfDense;
  const double size = static_cast<double>(dtype_size(info.dtype));
  const double rows = static_cast<double>(info.rows);
  const double all = rows * static_cast<double>(info.cols);
  double dense_seconds =
      dense.call_us * 1e-6 + scale *
                                 std::max(all * size / dense.weight_tbs,
                                          2 * all * round_up(tokens, kDenseTokens) / dense.tflops) *
                                 1e-12;
  if (activation != DJLBSR_NONE) {
    dense_seconds += kActivationCallUs * 1e-6 +
                     scale * 2 * rows * static_cast<double>(tokens) * size / kActivationTbs * 1e-12;
  }
  return decide(bsr_seconds(info, tokens, costs, scale), dense_seconds);
}

}  // namespace djlbsr::choice
