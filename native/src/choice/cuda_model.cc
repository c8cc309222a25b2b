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

/* How much longer the fitted times are on a machine. */
struct Scale {
  double compute;
  double memory;

  explicit Scale(const CudaMachine& machine)
      : compute(kMultiprocessors / std::max(machine.multiprocessors, 1)),
        memory(machine.memory_tbs > 0 ? kFittedMachine.memory_tbs / machine.memory_tbs : compute) {}
};

struct Costs {
  const char* kernel;
  int64_t block;        /* for blocks whose smaller side is at least this */
  int64_t tokens;       /* and from so many tokens on */
  double call_us;       /* launch, first loads and last stores */
  double stored_tflops; /* rate of the stored elements */
  double panel_tflops;  /* rate, in dense-equivalent operations, of streaming x */
  double weight_tbs;    /* bandwidth of the weight */
  int64_t tile_rows;
  int64_t tile_tokens;
};

/*
 * H200; fp16 and bf16. Printed by bench/fit_cuda_costs.py where NOTES-choice.md does not
 * call them provisional.
 */
constexpr Costs kHalfCosts[] = {
    {"hopper_narrow_split", 128, 65, 3.6, 351, 6065, 3.00, 16, 64},
    {"hopper_narrow_split", 64, 65, 3.5, 353, 5469, 2.38, 16, 64},
    {"hopper_narrow_split", 32, 65, 4.9, 173, 144000, 1.41, 8, 64},
    {"hopper_narrow_split", 128, 1, 2.5, 217, 3529, 3.00, 16, 64},
    {"hopper_narrow_split", 64, 1, 2.7, 231, 3167, 3.00, 16, 64},
    {"hopper_narrow_split", 32, 1, 3.8, 98, 140914, 2.00, 8, 64},
    {"hopper_narrow", 128, 129, 4.6, 627, 28062, 1.96, 64, 128},
    {"hopper_narrow", 64, 129, 2.7, 516, 27760, 1.68, 64, 128},
    {"hopper_narrow", 32, 129, 3.2, 218, 8957, 3.00, 32, 128},
    {"hopper_narrow", 128, 65, 2.1, 415, 40996, 2.33, 64, 128},
    {"hopper_narrow", 64, 65, 2.1, 415, 24114, 2.38, 64, 128},
    {"hopper_narrow", 32, 65, 3.0, 181, 11616, 3.00, 32, 128},
    {"hopper_narrow", 128, 1, 1.9, 190, 92367, 2.38, 64, 128},
    {"hopper_narrow", 64, 1, 2.1, 217, 20182, 3.00, 64, 128},
    {"hopper_narrow", 32, 1, 3.2, 97, 12057, 2.00, 32, 128},
    {"hopper_128x256", 128, 1, 0.2, 795, 16868, 0.96, 128, 256},
    {"hopper_64x512", 64, 1, 12.9, 607, 36614, 3.00, 64, 512},
    {"hopper_panels", 64, 1, 2.4, 1000, 3029, 3.00, 384, 128},
    {"hopper_panels", 32, 1, 4.2, 590, 5500, 3.00, 384, 128},
    {"hopper_panels", 16, 1, 3.4, 383, 4383, 3.00, 384, 128},
    {"hopper_panels_narrow", 32, 1, 8.3, 320, 24642, 0.59, 128, 64},
    {"hopper_panels_narrow", 16, 1, 3.8, 136, 5623, 3.00, 128, 64},
    {"hopper_panels_split2", 32, 1, 10.2, 317, 10091, 1.78, 64, 64},
    {"hopper_panels_split2", 16, 1, 5.7, 155, 6094, 0.89, 64, 64},
    {"hopper_panels_split4", 32, 1, 3.0, 205, 1397, 2.28, 32, 64},
    {"hopper_panels_split4", 16, 1, 5.2, 126, 2825, 2.00, 32, 64},
    {"hopper_panels_split8", 32, 1, 4.0, 144, 4289, 3.00, 16, 64},
    {"hopper_panels_split8", 16, 1, 5.4, 100, 3807, 3.00, 16, 64},
    {"sm80_f16_mma", 128, 1, 5.0, 200, 1960, 1.0, 352, 128},
    {"sm80_f16_mma", 64, 1, 5.0, 186, 1640, 1.0, 352, 128},
    {"sm80_f16_mma", 32, 1, 5.0, 170, 1590, 1.0, 352, 128},
    {"sm80_f16_mma", 16, 1, 5.0, 128, 1510, 1.0, 352, 128},
    {"sm80_f16_mma", 8, 1, 64.0, 62, 942, 3.00, 352, 128},
    {"sm80_f16_mma", 4, 1, 5.0, 19, 1510, 0.2, 352, 128},
    {"sm80_f16_mma", 1, 1, 5.0, 5, 1510, 0.1, 352, 128},
    {"sm80_f16_stream", 32, 129, 5.7, 186, 142449, 1.00, 64, 16},
    {"sm80_f16_stream", 16, 129, 6.1, 73, 2202, 1.00, 64, 16},
    {"sm80_f16_stream", 8, 129, 6.8, 50, 481, 3.00, 64, 16},
    {"sm80_f16_stream", 32, 65, 5.6, 171, 16251, 3.00, 64, 16},
    {"sm80_f16_stream", 16, 65, 6.3, 600, 9000, 0.43, 64, 16},
    {"sm80_f16_stream", 8, 65, 5.1, 52, 486, 3.00, 64, 16},
    {"sm80_f16_stream", 32, 17, 2.1, 138, 3000, 1.58, 64, 16},
    {"sm80_f16_stream", 16, 17, 6.5, 600, 9000, 0.81, 64, 16},
    {"sm80_f16_stream", 8, 17, 4.4, 50, 525, 3.00, 64, 16},
    {"sm80_f16_stream", 128, 1, 2.3, 201, 142449, 2.59, 64, 16},
    {"sm80_f16_stream", 64, 1, 2.3, 188, 142449, 2.71, 64, 16},
    {"sm80_f16_stream", 32, 1, 2.3, 153, 142449, 2.74, 64, 16},
    {"sm80_f16_stream", 16, 1, 2.3, 111, 144000, 2.62, 64, 16},
    {"sm80_f16_stream", 8, 1, 2.4, 114, 47483, 2.01, 64, 16},
    {"sm80_f16_stream", 4, 1, 2.3, 15, 20000, 0.8, 64, 16},
    {"sm80_f16_stream", 1, 1, 2.3, 6, 20000, 0.28, 64, 16},
    {"portable", 128, 1, 48.0, 38, 906, 0.13, 64, 64},
    {"portable", 64, 1, 17.2, 37, 1125, 0.13, 64, 64},
    {"portable", 32, 1, 39.9, 22, 9197, 0.20, 32, 64},
    {"portable", 16, 1, 22.0, 19, 563, 0.21, 16, 64},
    {"portable", 8, 1, 32.9, 19, 563, 0.07, 8, 64},
    {"portable", 1, 1, 30.0, 5, 500, 0.05, 8, 64},
};
constexpr Costs kFloatCosts[] = {
    {"hopper_fp32_256", 64, 1, 5.0, 112, 30000, 1.3, 64, 256},
    {"hopper_fp32_256", 32, 1, 5.0, 84, 30000, 1.3, 32, 256},
    {"hopper_fp32_256", 16, 1, 5.0, 46, 30000, 1.3, 16, 256},
    {"hopper_fp32_128", 64, 1, 5.0, 90, 30000, 1.3, 64, 128},
    {"hopper_fp32_128", 32, 1, 5.0, 65, 30000, 1.3, 32, 128},
    {"hopper_fp32_128", 16, 1, 5.0, 40, 30000, 1.3, 16, 128},
    {"hopper_fp32_fast_256", 64, 1, 5.0, 170, 30000, 1.3, 64, 256},
    {"hopper_fp32_fast_256", 32, 1, 5.0, 112, 30000, 1.3, 32, 256},
    {"hopper_fp32_fast_256", 16, 1, 5.0, 45, 30000, 1.3, 16, 256},
    {"hopper_fp32_fast_128", 64, 1, 5.0, 140, 30000, 1.3, 64, 128},
    {"hopper_fp32_fast_128", 32, 1, 5.0, 95, 30000, 1.3, 32, 128},
    {"hopper_fp32_fast_128", 16, 1, 5.0, 40, 30000, 1.3, 16, 128},
    {"f32_stream", 16, 1, 2.0, 5.6, 20000, 2.6, 64, 16},
    {"f32_stream", 1, 1, 2.0, 2, 20000, 0.5, 64, 16},
    {"portable", 64, 1, 10.0, 27, 2000, 0.3, 64, 64},
    {"portable", 32, 1, 10.0, 27, 867, 0.3, 32, 64},
    {"portable", 16, 1, 10.0, 20, 575, 0.3, 16, 64},
    {"portable", 1, 1, 10.0, 5, 500, 0.1, 8, 64},
};

struct DenseCosts {
  double call_us;
  double column_ns; /* cuBLAS walks along the columns: in small layers that is its time */
  double weight_tbs;
  double tflops;
};
constexpr DenseCosts kHalfDense = {3.8, 1.23, 3.52, 775};
constexpr DenseCosts kFloatDense = {2.0, 0, 1.80, 51};

/* cuBLAS reaches its rate with many tokens alone, but no fewer than these are computed. */
constexpr int64_t kDenseTokens = 16;

/* A tile's time where most multiprocessors have none: the others have more of L2's bandwidth. */
constexpr double kLoneTile = 0.8;

/* The part of call_us that does not overlap with a large product. */
constexpr double kDenseStart = 0.75;

/* A pass that reads and writes y, from the L2 cache where it fits. */
constexpr double kActivationCallUs = 2.0;
constexpr double kActivationTbs = 2.5;

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

double bsr_seconds(const djlbsr_info& info, int64_t tokens, const Costs& costs,
                   const Scale& scale) {
  /* The last tile may be a half of a wide one; up to 64 tokens there are tiles of so many. */
  const int64_t unit = tokens <= 64              ? std::min<int64_t>(costs.tile_tokens, 64)
                       : costs.tile_tokens > 128 ? costs.tile_tokens / 2
                                                 : costs.tile_tokens;
  const double t = round_up(tokens, unit);
  const double block_size = static_cast<double>(info.block_rows * info.block_cols);
  const double stored = static_cast<double>(info.nnzb) * block_size;
  const double all = static_cast<double>(info.rows) * static_cast<double>(info.cols);
  const double work =
      2 * t * (stored / costs.stored_tflops + all / costs.panel_tflops) * 1e-12 * scale.compute;
  const double tiles =
      std::ceil(static_cast<double>(info.rows) / static_cast<double>(costs.tile_rows)) *
      std::ceil(t / static_cast<double>(costs.tile_tokens));
  const double tile = work * kMultiprocessors / scale.compute / std::max(tiles, 1.0) *
                      std::clamp(tiles * scale.compute / kMultiprocessors, kLoneTile, 1.0);
  /* How much heavier than the mean the heaviest block-row is, and a tile with it and others. */
  const double block_rows = static_cast<double>(info.rows / info.block_rows);
  const double heaviest = info.nnzb == 0 ? 1
                                         : static_cast<double>(info.max_blocks_in_row) *
                                               block_rows / static_cast<double>(info.nnzb);
  const double together =
      std::max(1.0, static_cast<double>(costs.tile_rows) / static_cast<double>(info.block_rows));
  const double skew = (heaviest + together - 1) / together;
  const double bytes = stored * static_cast<double>(dtype_size(info.dtype));
  return costs.call_us * 1e-6 + std::max({bytes / costs.weight_tbs * 1e-12 * scale.memory,
                                          work + 0.5 * tile, skew * tile});
}

/*
 * By the row for that many tokens, but no less than the rows for fewer say of the most that they
 * hold for: each was fitted alone.
 */
template <size_t n>
double bsr_seconds(const Costs (&table)[n], const char* kernel, int64_t block,
                   const djlbsr_info& info, int64_t tokens, const Scale& scale) {
  double seconds = 0;
  for (const Costs& costs : table) {
    if (std::strcmp(costs.kernel, kernel) != 0 || block < costs.block || tokens < costs.tokens) {
      continue;
    }
    seconds = std::max(seconds, bsr_seconds(info, tokens, costs, scale));
    tokens = costs.tokens - 1;
  }
  return seconds;
}

double dense_seconds_of(const djlbsr_info& info, int64_t tokens, const DenseCosts& costs,
                        const Scale& scale) {
  const double all = static_cast<double>(info.rows) * static_cast<double>(info.cols);
  const double bytes = all * static_cast<double>(dtype_size(info.dtype));
  const double operations = 2 * all * round_up(tokens, kDenseTokens);
  return std::max(
      {costs.call_us * 1e-6 + costs.column_ns * 1e-9 * static_cast<double>(info.cols),
       scale.memory * bytes / costs.weight_tbs * 1e-12,
       kDenseStart * costs.call_us * 1e-6 + scale.compute * operations / costs.tflops * 1e-12});
}

}  // namespace

bool knows_kernel(const char* kernel_name) {
  return holds(kHalfCosts, kernel_name) || holds(kFloatCosts, kernel_name);
}

djlbsr_prediction predict_cuda(const djlbsr_info& info, int64_t tokens, int32_t activation,
                               const CudaMachine& machine) {
  if (tokens == 0 || info.rows == 0 || info.cols == 0) return decide(0, 0);
  const Scale scale(machine);
  const char* kernel = kernel_for(info, tokens, machine);
  const bool is_float = info.dtype == DJLBSR_FLOAT32;
  /* The side of what the kernel cuts its blocks into. */
  int64_t block = std::min(info.block_rows, info.block_cols);
  if (std::strncmp(kernel, "hopper_panels", 13) == 0) block = info.panel_block;
  const bool by_64 = info.block_rows % 64 == 0 && info.block_cols % 64 == 0;
  if (std::strncmp(kernel, "hopper_narrow", 13) == 0 && !by_64) block = 32;
  if (std::strncmp(kernel, "hopper_fp32", 11) == 0) block = Fp32Terms::slice_rows(info.block_rows);
  double dense_seconds = dense_seconds_of(info, tokens, is_float ? kFloatDense : kHalfDense, scale);
  if (activation != DJLBSR_NONE) {
    const double y_bytes = static_cast<double>(info.rows) * static_cast<double>(tokens) *
                           static_cast<double>(dtype_size(info.dtype));
    dense_seconds += kActivationCallUs * 1e-6 + scale.memory * 2 * y_bytes / kActivationTbs * 1e-12;
  }
  const double seconds = is_float ? bsr_seconds(kFloatCosts, kernel, block, info, tokens, scale)
                                  : bsr_seconds(kHalfCosts, kernel, block, info, tokens, scale);
  return decide(seconds, dense_seconds);
}

}  // namespace djlbsr::choice
