/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
#pragma once

#include <cstdint>
#include <string>

#include "djlbsr.h"

/*
 * How long a call takes block-sparse and dense: pure functions of the weight, the call and what is
 * known of the machine. Only the ratio of the two counts.
 */
namespace djlbsr::choice {

/* ---- CPU: interpolation between measured times ---- */

/* What is timed: the dense product, and the product by blocks of these shapes. */
enum Kind { kDense, k4x4, k8x8, k16x16, k32x32, k16x1, k1x16, kKinds };

struct BlockShape {
  int64_t rows;
  int64_t cols;
};
constexpr BlockShape kBlocks[kKinds] = {{0, 0},   {4, 4},  {8, 8}, {16, 16},
                                        {32, 32}, {16, 1}, {1, 16}};

/* Elements of the dense weight, or stored ones of a square weight with a quarter of its blocks. */
constexpr int kSizes = 4;
constexpr int64_t kSize[kSizes] = {1 << 14, 1 << 17, 1 << 20, 1 << 23};
constexpr int kTokenCounts = 6;
constexpr int64_t kTokens[kTokenCounts] = {1, 4, 16, 64, 256, 1024};

constexpr int kPoints = kKinds * kSizes * kTokenCounts;
static_assert(kPoints == DJLBSR_PROFILE_POINTS, "djlbsr.h tells the number of points");

constexpr int point(int kind, int size, int tokens) {
  return (kind * kSizes + size) * kTokenCounts + tokens;
}

/* "16x16 blocks, 131072 stored elements, 4 tokens" */
std::string point_name(int index);

/* Seconds at every point, on one thread, for one dtype. */
struct CpuProfile {
  double seconds[kPoints];
};

/* What djlbsr_predict falls back to: measured on an AMD Zen 4 with AVX-512. */
const CpuProfile& builtin_profile(int32_t dtype);

/*
 * The model: the logarithm of the time on one thread is bilinear in the logarithms of size and
 * tokens. Beyond the largest size or token count time is proportional to either, below the smallest
 * size it falls no faster than that. The time is divided by the threads that the call keeps busy,
 * which djlbsr_linear knows and of which PyTorch's dense product uses one for every kDenseWork
 * multiply-adds, and waking them costs kWakeSeconds.
 *
 * A block shape counts as the kind with the most rows that it fills; rows that this kind leaves
 * idle are paid for. Columns and rows of W cost about kIoElements stored elements each, whatever
 * the density: x is laid out for the kernel and y is written.
 */
djlbsr_prediction predict_cpu(const djlbsr_info& info, int64_t tokens, int32_t activation,
                              int32_t threads, const CpuProfile& profile);

/* ---- CUDA: constants fitted by bench/fit_cuda_costs.py ---- */

struct CudaMachine {
  int compute_capability; /* 10 * major + minor */
  int multiprocessors;
  double memory_tbs; /* by its clock and width, in TB/s; 0 if the driver does not tell */
  int l2_bytes;
};

/* An H200, which the rates are for. */
constexpr CudaMachine kFittedMachine = {90, 132, 4.92, 60 << 20};

/*
 * The model of a kernel, with rates for kFittedMachine:
 *   time = call + max(weight bytes / bandwidth,
 *                     work + half a tile, the tile that has the heaviest block-row)
 *   work = 2 * tokens * (stored elements / stored rate + rows * cols / panel rate)
 * with tokens rounded up to whole tiles, or halves of those of more than 128 tokens. The panel rate
 * is what streaming x for all columns costs. A tile takes down to kLoneTile of its share where most
 * multiprocessors have none. Bandwidths scale with the machine's memory, all other rates with its
 * multiprocessors.
 * Dense: time = max(call + walk along the columns, weight bytes / bandwidth,
 *                   a part of call + 2 * tokens * rows * cols / rate).
 */
djlbsr_prediction predict_cuda(const djlbsr_info& info, int64_t tokens, int32_t activation,
                               const CudaMachine& machine);

/* Whether the CUDA model has constants of this kernel's own. */
bool knows_kernel(const char* kernel_name);

}  // namespace djlbsr::choice
