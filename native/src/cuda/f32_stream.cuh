/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 *
 * The kernel for few tokens in fp32, for any block shape and device.
 *
 * The lanes of a warp form a grid of kLaneRows rows by 32 / kLaneRows runs of kVector columns. A
 * lane sums kThreadRows rows for kTokens tokens in one chain of fmaf each; the lanes of a row are
 * added in a tree.
 */
#pragma once

#include "cuda/stream.cuh"

namespace djlbsr::cuda {

constexpr int kF32StreamUnroll = 2; /* steps whose loads are under way at once */

template <int kVector>
struct Vector {
  float v[kVector];
};

template <int kVector>
__device__ inline Vector<kVector> load_vector(const float* p) {
  Vector<kVector> result;
  if constexpr (kVector == 4) {
    const float4 v = __ldg(reinterpret_cast<const float4*>(p));
    result = {v.x, v.y, v.z, v.w};
  } else if constexpr (kVector == 2) {
    const float2 v = __ldg(reinterpret_cast<const float2*>(p));
    result = {v.x, v.y};
  } else {
    result.v[0] = __ldg(p);
  }
  return result;
}

template <int kVector, int kLaneRows, int kThreadRows, int kTokens>
__global__ void __launch_bounds__(kStreamThreads)
    f32_stream_kernel(const __grid_constant__ StreamParams p) {
  constexpr int kLaneCols = kWarp / kLaneRows;
  constexpr int kStep = kLaneCols * kVector;
  constexpr int kRows = kLaneRows * kThreadRows;
  constexpr int kUnroll = kF32StreamUnroll;
  __shared__ float partial[kStreamWarps * kTokens * kRows];

  const LinearParams& l = p.linear;
  ptx::launch_dependents();
  prefetch_weight(p);
  ptx::dependency_wait();
  const int lane = threadIdx.x % kWarp;
  const int warp = threadIdx.x / kWarp;
  const int lane_row = lane / kLaneCols;
  const int lane_col = lane % kLaneCols;
  const StreamWork work = stream_work<kRows>(p);
  const int64_t token0 = static_cast<int64_t>(blockIdx.z) * kTokens;
  const int tokens = static_cast<int>(min(int64_t{kTokens}, l.tokens - token0));
  const float* const values =
      static_cast<const float*>(l.values) +
      (static_cast<int64_t>(work.begin) * l.block_rows + work.row_in_block + lane_row) *
          l.block_cols;
  const float* const x = static_cast<const float*>(l.x) + token0 * l.x_stride;

  float sums[kThreadRows][kTokens] = {};
  for (int32_t step = work.first_step; step * kStep < work.stored_cols;
       step += kUnroll * work.steps_apart) {
    Vector<kVector> w[kUnroll][kThreadRows];
    Vector<kVector> v[kUnroll][kTokens];
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const int32_t k = (step + u * work.steps_apart) * kStep + lane_col * kVector;
      const bool exists = k < work.stored_cols;
      const StoredCols run = exists ? stored_cols<kVector>(l, work.begin, k) : StoredCols{0, 0};
#pragma unroll
      for (int i = 0; i < kThreadRows; ++i) {
        const int r = i * kLaneRows + lane_row;
        w[u][i] = {};
        if (exists && r < work.rows) {
          w[u][i] = load_vector<kVector>(
              values + (run.value + static_cast<uint32_t>(i * kLaneRows * l.block_cols)));
        }
      }
#pragma unroll
      for (int j = 0; j < kTokens; ++j) {
        v[u][j] = {};
        if (exists && j < tokens) {
          v[u][j] = load_vector<kVector>(x + j * l.x_stride + run.col);
        }
      }
    }
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
#pragma unroll
      for (int k = 0; k < kVector; ++k) {
#pragma unroll
        for (int i = 0; i < kThreadRows; ++i) {
#pragma unroll
          for (int j = 0; j < kTokens; ++j) {
            sums[i][j] = fmaf(w[u][i].v[k], v[u][j].v[k], sums[i][j]);
          }
        }
      }
    }
  }

#pragma unroll
  for (int i = 0; i < kThreadRows; ++i) {
#pragma unroll
    for (int j = 0; j < kTokens; ++j) {
#pragma unroll
      for (int offset = kLaneCols / 2; offset > 0; offset /= 2) {
        sums[i][j] += __shfl_xor_sync(~0u, sums[i][j], offset);
      }
      if (lane_col == 0) {
        partial[(warp * kTokens + j) * kRows + i * kLaneRows + lane_row] = sums[i][j];
      }
    }
  }
  __syncthreads();
  stream_store<float, kTokens, kRows, kRows>(p, partial, token0, tokens);
}

}  // namespace djlbsr::cuda
