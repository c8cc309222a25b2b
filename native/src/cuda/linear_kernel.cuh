/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 *
 * The portable kernel: any block shape, any number of tokens, any CUDA device. It is the oracle of
 * the kernels for one architecture.
 *
 * A CTA computes kTileRows outputs of one block-row for kTileTokens tokens. It walks the stored
 * columns of the block-row in their order, kChunk at a time, whatever the block width: a chunk may
 * hold many narrow blocks or a part of a wide one. Each output is one chain of fmaf in that order,
 * so its bits depend on neither the tile nor the number of tokens.
 */
#pragma once

#include <cstdint>

#include "cuda/activation.cuh"
#include "cuda/element.cuh"
#include "cuda/linear_params.h"

namespace djlbsr::cuda {

constexpr int kWarp = 32;
constexpr int kChunk = kWarp; /* a lane loads one stored column */

/*
 * A thread computes kThreadRows x kThreadTokens outputs; rows of a thread are adjacent, its tokens
 * a thread-grid's width apart, so that the lanes of a warp read different banks.
 */
template <typename Element, int kTileRows, int kTileTokens, int kThreadRows, int kThreadTokens>
__global__ void __launch_bounds__((kTileRows / kThreadRows) * (kTileTokens / kThreadTokens))
    linear_kernel(const LinearParams p) {
  constexpr int kThreadsAlongTokens = kTileTokens / kThreadTokens;
  constexpr int kThreads = (kTileRows / kThreadRows) * kThreadsAlongTokens;
  constexpr int kWarps = kThreads / kWarp;
  static_assert(kThreads % kWarp == 0, "lanes load by their number");
  /* One more than the tile: lanes that store a column each hit different banks. */
  __shared__ float x_tile[kChunk][kTileTokens + 1];
  __shared__ float w_tile[kChunk][kTileRows + 1];

  const auto* const x = static_cast<const Element*>(p.x);
  const auto* const values = static_cast<const Element*>(p.values);
  const auto* const bias = static_cast<const Element*>(p.bias);
  auto* const y = static_cast<Element*>(p.y);

  const int lane = threadIdx.x % kWarp;
  const int warp = threadIdx.x / kWarp;
  const int first_row = threadIdx.x / kThreadsAlongTokens * kThreadRows;
  const int first_token = threadIdx.x % kThreadsAlongTokens;
  const int32_t block_col_count = p.cols / p.block_cols;

  for (int64_t tile = blockIdx.x; tile < p.tiles; tile += gridDim.x) {
    const int64_t slice = tile % p.slices;
    const int64_t token0 = tile / p.slices * kTileTokens;
    const int64_t block_row = slice / p.slices_per_block_row;
    const int32_t row0 = static_cast<int32_t>(slice % p.slices_per_block_row) * kTileRows;
    const int tile_rows = min(kTileRows, p.block_rows - row0);
    const int tile_tokens = static_cast<int>(min(int64_t{kTileTokens}, p.tokens - token0));

    /* The clamps cost nothing and keep a packed weight of altered bytes inside its buffers. */
    const int32_t begin = clamp(p.crow[block_row], 0, p.nnzb);
    const int32_t end = clamp(p.crow[block_row + 1], 0, p.nnzb);
    const int32_t blocks = clamp(end - begin, 0, block_col_count);
    const int32_t stored_cols = blocks * p.block_cols; /* at most cols */

    float sums[kThreadRows][kThreadTokens] = {};
    for (int64_t k0 = 0; k0 < stored_cols; k0 += kChunk) {
      const int chunk = static_cast<int>(min(int64_t{kChunk}, stored_cols - k0));
      if (lane < chunk) {
        const auto k = static_cast<int32_t>(k0) + lane;
        const int32_t block = begin + k / p.block_cols;
        const int32_t col_in_block = k % p.block_cols;
        const Element* const x_col =
            x + (first_column<1>(p.col_start[block], p.cols, p.block_cols) + col_in_block);
        const Element* const w_col =
            values + (static_cast<int64_t>(block) * p.block_rows + row0) * p.block_cols +
            col_in_block;
        for (int t = warp; t < kTileTokens; t += kWarps) {
          /* Tokens past the end only reach sums that are not stored. */
          x_tile[lane][t] = t < tile_tokens ? to_float(x_col[(token0 + t) * p.x_stride]) : 0.0f;
        }
        for (int r = warp; r < kTileRows; r += kWarps) {
          w_tile[lane][r] =
              r < tile_rows ? to_float(w_col[static_cast<int64_t>(r) * p.block_cols]) : 0.0f;
        }
      }
      __syncthreads();
      const auto multiply = [&](int k) {
        float w[kThreadRows];
        float v[kThreadTokens];
#pragma unroll
        for (int i = 0; i < kThreadRows; ++i) w[i] = w_tile[k][first_row + i];
#pragma unroll
        for (int j = 0; j < kThreadTokens; ++j) {
          v[j] = x_tile[k][first_token + j * kThreadsAlongTokens];
        }
#pragma unroll
        for (int i = 0; i < kThreadRows; ++i) {
#pragma unroll
          for (int j = 0; j < kThreadTokens; ++j) sums[i][j] = fmaf(w[i], v[j], sums[i][j]);
        }
      };
      if (chunk == kChunk) {
#pragma unroll 8
        for (int k = 0; k < kChunk; ++k) multiply(k);
      } else {
        for (int k = 0; k < chunk; ++k) multiply(k);
      }
      __syncthreads();
    }

#pragma unroll
    for (int i = 0; i < kThreadRows; ++i) {
      const int r = first_row + i;
      if (r >= tile_rows) continue;
      const int64_t row = block_row * p.block_rows + row0 + r;
      const float offset = bias == nullptr ? 0.0f : to_float(bias[row]);
#pragma unroll
      for (int j = 0; j < kThreadTokens; ++j) {
        const int t = first_token + j * kThreadsAlongTokens;
        if (t < tile_tokens) {
          y[(token0 + t) * p.y_stride + row] =
              from_float<Element>(activate<Element>(p.activation, sums[i][j] + offset));
        }
      }
    }
  }
}

}  // namespace djlbsr::cuda
