/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
#pragma once

#include <cstdint>

#include "djlbsr.h"

#ifdef __CUDACC__
#define DJLBSR_HOST_DEVICE __host__ __device__
#else
#define DJLBSR_HOST_DEVICE
#endif

namespace djlbsr {

/*
 * The split copy of an fp32 weight on CUDA: each number as the sum of three bf16 terms, for the
 * kernel that multiplies those (cuda/hopper_fp32_kernel.cuh).
 *
 * The stored columns of a block-row are cut into steps of 32, each block-row's own; blocks whose
 * width is an odd multiple of 16 may share a step, and the last step may be half empty, then zero.
 * The memory is [step][slice][term][row of slice][32], a slice being kRows rows of the block. A row
 * of 32 bf16 has the 64-byte swizzle, its columns c and c + 4 of each 8 are neighbours.
 */
struct Fp32Terms {
  static constexpr int kTerms = 3;
  static constexpr int kStepCols = 32;
  static constexpr int kRowBytes = kStepCols * 2;

  static bool exist(const djlbsr_info& info) {
    return info.device == DJLBSR_CUDA && info.dtype == DJLBSR_FLOAT32 &&
           info.block_rows % 16 == 0 && info.block_cols % 16 == 0 && info.nnzb > 0;
  }

  /* Rows of a slice: 64, 32 or 16. */
  DJLBSR_HOST_DEVICE static int slice_rows(int64_t block_rows) {
    return block_rows % 64 == 0 ? 64 : block_rows % 32 == 0 ? 32 : 16;
  }

  /* The first step of a block-row whose first block is `block`: those before fill at most these. */
  DJLBSR_HOST_DEVICE static int64_t first_step(int64_t block, int64_t block_row,
                                               int64_t block_cols) {
    return block_cols % kStepCols == 0 ? block * (block_cols / kStepCols)
                                       : (block * (block_cols / 16) + block_row) / 2;
  }

  static int64_t bytes(const djlbsr_info& info) {
    return first_step(info.nnzb, info.rows / info.block_rows, info.block_cols) * info.block_rows *
           kRowBytes * kTerms;
  }
};

}  // namespace djlbsr
