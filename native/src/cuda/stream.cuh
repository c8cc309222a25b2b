/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 *
 * What the kernels for few tokens share. They are bound by the time that the weight takes from
 * memory and by the chain of loads before it (crow, col_start, x): all blocks of a slice are on
 * their way at once and nothing is copied to shared memory. On compute capability 9.0 kernels
 * overlap (launch_ptx.cuh).
 *
 * A slice is some adjacent rows of one block-row. The warps of a CTA share a slice, or several:
 * warp w of a slice takes every steps_apart-th step of its stored columns, and the warps' sums are
 * added in the order of the warps. So an output's bits depend on the weight alone.
 */
#pragma once

#include <cstdint>

#include "cuda/activation.cuh"
#include "cuda/element.cuh"
#include "cuda/launch_ptx.cuh"
#include "cuda/linear_kernel.cuh"
#include "cuda/mma_ptx.cuh"

namespace djlbsr::cuda {

constexpr int kStreamWarpsLog2 = 3;
constexpr int kStreamWarps = 1 << kStreamWarpsLog2;
constexpr int kStreamThreads = kStreamWarps * kWarp;

struct StreamParams {
  LinearParams linear; /* tiles, slices and slices_per_block_row are not used */
  L2Prefetch prefetch;
  int32_t block_row_count;
  int32_t warps_log2; /* of the warps of a slice: 0 to 3 */
};

/* The part of a slice that a warp sums up. The grid is block-rows x slices of one x token tiles. */
struct StreamWork {
  int32_t row_in_block;
  int32_t rows;        /* of the slice; 0 past the last block-row */
  int32_t begin;       /* the block-row's first block */
  int32_t stored_cols; /* of the block-row */
  int32_t first_step;
  int32_t steps_apart;
};

__device__ inline int32_t stream_block_row(const StreamParams& p, int slice_in_cta) {
  return (static_cast<int32_t>(blockIdx.x) << (kStreamWarpsLog2 - p.warps_log2)) + slice_in_cta;
}

/* While the kernel ahead still runs. */
__device__ inline void prefetch_weight(const StreamParams& p) {
  if (threadIdx.x >= kWarp) return;
  prefetch_to_l2(p.prefetch, (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x);
}

template <int kRows>
__device__ inline StreamWork stream_work(const StreamParams& p) {
  const LinearParams& l = p.linear;
  const int warp = threadIdx.x / kWarp;
  const int32_t block_row = stream_block_row(p, warp >> p.warps_log2);
  StreamWork work = {};
  work.steps_apart = 1 << p.warps_log2;
  work.first_step = warp & (work.steps_apart - 1);
  if (block_row >= p.block_row_count) return work;
  work.row_in_block = blockIdx.y * kRows;
  work.rows = min(kRows, l.block_rows - work.row_in_block);
  /* The clamps keep a packed weight of altered bytes inside its buffers. */
  work.begin = clamp(__ldg(l.crow + block_row), 0, l.nnzb);
  const int32_t end = clamp(__ldg(l.crow + block_row + 1), 0, l.nnzb);
  work.stored_cols = min(max(end - work.begin, 0) * static_cast<int64_t>(l.block_cols),
                         static_cast<int64_t>(l.cols));
  return work;
}

/* A run of kVector stored columns that lie side by side in one block. */
struct StoredCols {
  uint32_t value; /* offset of their first value from row 0 of the block-row's first block */
  int32_t col;    /* of x */
};

template <int kVector>
__device__ inline StoredCols stored_cols(const LinearParams& l, int32_t begin, int32_t k) {
  const int32_t block = l.block_cols_shift >= 0 ? k >> l.block_cols_shift : k / l.block_cols;
  const int32_t col = k - block * l.block_cols;
  return {static_cast<uint32_t>(block) * static_cast<uint32_t>(l.block_rows * l.block_cols) + col,
          first_column<kVector>(__ldg(l.col_start + begin + block), l.cols, l.block_cols) + col};
}

/* Adds up the warps' sums and writes tokens of y; a warp's sums are [kTokens][kPitch]. */
template <typename Element, int kTokens, int kRows, int kPitch>
__device__ inline void stream_store(const StreamParams& p, const float* partial, int64_t token,
                                    int tokens) {
  const LinearParams& l = p.linear;
  const int slices_log2 = kStreamWarpsLog2 - p.warps_log2;
  const auto* const bias = static_cast<const Element*>(l.bias);
  auto* const y = static_cast<Element*>(l.y);
  for (int i = threadIdx.x; i < (tokens * kRows) << slices_log2; i += kStreamThreads) {
    const int r = i % kRows;
    const int slice_in_cta = i / kRows & ((1 << slices_log2) - 1);
    const int t = i / kRows >> slices_log2;
    const int32_t block_row = stream_block_row(p, slice_in_cta);
    const int32_t row_in_block = blockIdx.y * kRows + r;
    if (block_row >= p.block_row_count || row_in_block >= l.block_rows) continue;
    const int32_t row = block_row * l.block_rows + row_in_block;
    const float* const first =
        partial + ((slice_in_cta << p.warps_log2) * kTokens + t) * kPitch + r;
    const float offset = bias == nullptr ? 0.0f : to_float(bias[row]);
    float sum = 0.0f;
    if (p.warps_log2 == kStreamWarpsLog2) {
#pragma unroll
      for (int w = 0; w < kStreamWarps; ++w) sum += first[w * kTokens * kPitch];
    } else {
      for (int w = 0; w < 1 << p.warps_log2; ++w) sum += first[w * kTokens * kPitch];
    }
    y[(token + t) * l.y_stride + row] =
        from_float<Element>(activate<Element>(l.activation, sum + offset));
  }
}

}  // namespace djlbsr::cuda
