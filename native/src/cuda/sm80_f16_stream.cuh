/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 *
 * The kernel for few tokens in fp16 and bf16, for any block shape, on mma.sync with the tokens on
 * M and the weight rows on N.
 *
 * A step is 32 stored columns. Which of them an mma calls its k-th is free as long as both operands
 * agree, so that lane t of four takes columns 8t to 8t + 7: one 16-byte load from global memory
 * gives a row's operand for two mma, and no operand passes through shared memory.
 */
#pragma once

#include "cuda/stream.cuh"

namespace djlbsr::cuda {

constexpr int kMmaTokens = 16;
constexpr int kMmaRows = 8;
constexpr int kStreamStep = 32;

/* Eight 16-bit elements; kVector of them are read at a time, at such an alignment. */
template <int kVector>
struct LaneCols {
  static constexpr int kRuns = 8 / kVector;
  StoredCols runs[kRuns];
  int32_t valid; /* leading runs that exist */

  __device__ LaneCols(const LinearParams& l, int32_t begin, int32_t k, int32_t end) {
    valid = clamp((end - k) / kVector, 0, kRuns);
#pragma unroll
    for (int i = 0; i < kRuns; ++i) {
      runs[i] = i < valid ? stored_cols<kVector>(l, begin, k + i * kVector) : StoredCols{0, 0};
    }
  }

  /* The elements at base + offset(run), 0 where they do not exist. */
  template <typename Offset>
  __device__ uint4 load(bool exists, const char* base, Offset offset) const {
    uint4 result = {0, 0, 0, 0};
    if constexpr (kVector == 8) {
      if (exists && valid > 0) {
        result = __ldg(
            reinterpret_cast<const uint4*>(base + 2 * static_cast<uint64_t>(offset(runs[0]))));
      }
    } else if constexpr (kVector == 4) {
      uint2 parts[2] = {{0, 0}, {0, 0}};
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        if (exists && i < valid) {
          parts[i] = __ldg(
              reinterpret_cast<const uint2*>(base + 2 * static_cast<uint64_t>(offset(runs[i]))));
        }
      }
      result = {parts[0].x, parts[0].y, parts[1].x, parts[1].y};
    } else {
      uint32_t elements[8] = {};
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        if (exists && i < valid) {
          elements[i] = __ldg(
              reinterpret_cast<const uint16_t*>(base + 2 * static_cast<uint64_t>(offset(runs[i]))));
        }
      }
      result = {elements[0] | elements[1] << 16, elements[2] | elements[3] << 16,
                elements[4] | elements[5] << 16, elements[6] | elements[7] << 16};
    }
    return result;
  }
};

template <typename Element, int kVector, int kTokenEights, int kRowTiles, int kUnroll>
__global__ void __launch_bounds__(kStreamThreads)
    sm80_f16_stream_kernel(const __grid_constant__ StreamParams p) {
  constexpr int kTokenTiles = (kTokenEights + 1) / 2;
  constexpr int kTokens = kTokenEights * 8;
  constexpr int kRows = kRowTiles * kMmaRows;
  constexpr int kPitch = kRows + 8; /* lanes that store a pair each hit different banks */
  __shared__ float partial[kStreamWarps * kMmaTokens * kPitch];

  const LinearParams& l = p.linear;
  ptx::launch_dependents();
  prefetch_weight(p);
  ptx::dependency_wait();
  const int lane = threadIdx.x % kWarp;
  const int g = lane / 4;
  const int t = lane % 4;
  const StreamWork work = stream_work<kRows>(p);
  const int64_t token0 = static_cast<int64_t>(blockIdx.z) * kTokens;
  const int tokens = static_cast<int>(min(int64_t{kTokens}, l.tokens - token0));
  const char* const values =
      static_cast<const char*>(l.values) +
      2 * (static_cast<int64_t>(work.begin) * l.block_rows + work.row_in_block + g) * l.block_cols;
  const char* const x = static_cast<const char*>(l.x) + 2 * (token0 + g) * l.x_stride;

  float sums[kTokenTiles][kRowTiles][4] = {};
  for (int32_t step = work.first_step; step * kStreamStep < work.stored_cols;
       step += kUnroll * work.steps_apart) {
    uint4 w[kUnroll][kRowTiles];
    uint4 v[kUnroll][kTokenTiles][2] = {};
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const int32_t k = (step + u * work.steps_apart) * kStreamStep + 8 * t;
      const LaneCols<kVector> cols(l, work.begin, k, work.stored_cols);
#pragma unroll
      for (int i = 0; i < kRowTiles; ++i) {
        w[u][i] = cols.load(i * kMmaRows + g < work.rows, values, [&](const StoredCols& run) {
          return run.value + static_cast<uint32_t>(i * kMmaRows * l.block_cols);
        });
      }
#pragma unroll
      for (int i = 0; i < kTokenEights; ++i) {
        v[u][i / 2][i % 2] =
            cols.load(i * 8 + g < tokens, x + i * 16 * l.x_stride,
                      [&](const StoredCols& run) { return static_cast<uint32_t>(run.col); });
      }
    }
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
#pragma unroll
      for (int i = 0; i < kTokenTiles; ++i) {
        const uint4 low = v[u][i][0];
        const uint4 high = v[u][i][1];
#pragma unroll
        for (int j = 0; j < kRowTiles; ++j) {
          ptx::mma_16x8x16<Element>(sums[i][j], low.x, high.x, low.y, high.y, w[u][j].x, w[u][j].y);
          ptx::mma_16x8x16<Element>(sums[i][j], low.z, high.z, low.w, high.w, w[u][j].z, w[u][j].w);
        }
      }
    }
  }

#pragma unroll
  for (int i = 0; i < kTokenTiles; ++i) {
    if (i * kMmaTokens >= tokens) break;
    if (i > 0) __syncthreads();
    float* const own = partial + threadIdx.x / kWarp * kMmaTokens * kPitch + g * kPitch + 2 * t;
#pragma unroll
    for (int j = 0; j < kRowTiles; ++j) {
      *reinterpret_cast<float2*>(own + j * kMmaRows) = {sums[i][j][0], sums[i][j][1]};
      if (kTokenEights > 1) {
        *reinterpret_cast<float2*>(own + j * kMmaRows + 8 * kPitch) = {sums[i][j][2],
                                                                       sums[i][j][3]};
      }
    }
    __syncthreads();
    stream_store<Element, kMmaTokens, kRows, kPitch>(p, partial, token0 + i * kMmaTokens,
                                                     min(kMmaTokens, tokens - i * kMmaTokens));
  }
}

}  // namespace djlbsr::cuda
