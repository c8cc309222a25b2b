/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 *
 * The panels of x that the mma.sync kernel walks along: which ones a tile of weight rows needs, and
 * how they come to shared memory.
 */
#pragma once

#include <cstdint>

#include "cuda/element.cuh"
#include "cuda/linear_params.h"
#include "cuda/mma_ptx.cuh"

namespace djlbsr::cuda {

constexpr int kMmaWarps = 12; /* the last one is the producer */
constexpr int kMmaConsumers = kMmaWarps - 1;
constexpr int kMmaThreads = kMmaWarps * 32;
constexpr int kPanelCols = 128;
constexpr int kPanelTokens = 128;
constexpr int kPanelRowBytes = kPanelCols * 2;
constexpr int kPanelBytes = kPanelTokens * kPanelRowBytes;
constexpr int kMaxPanels = 4096;
constexpr int kMaxStages = 6;
constexpr int kWarpTiles = 4; /* n-tiles of 8 rows */
constexpr int kTokenTiles = kPanelTokens / 16;
constexpr int kStepCols = 16;
constexpr int32_t kNoCol = 0x7fffffff;
/* Shared memory: barriers, the mask and the list of the panels, the stages, the queues. */
constexpr int kPanelCount = 112;
constexpr int kPanelMask = 128;
constexpr int kPanelList = kPanelMask + kMaxPanels / 8;
constexpr int kPanelStages = kPanelList + kMaxPanels * 2;

/* Where column col of the panel lies in a row of a stage; rows are apart by their number mod 4. */
__device__ inline uint32_t panel_offset(int token, int32_t col) {
  return token * kPanelRowBytes + ((col * 2) ^ (token % 4 * 32));
}

/* The panels in which a block of the tile lies, in order; gives their number. */
__device__ inline int list_panels(const LinearParams& l, char* shared, int64_t first_slice,
                                  int64_t last_slice) {
  auto* const mask = reinterpret_cast<uint32_t*>(shared + kPanelMask);
  auto* const list = reinterpret_cast<uint16_t*>(shared + kPanelList);
  auto* const count = reinterpret_cast<int*>(shared + kPanelCount);
  for (int i = threadIdx.x; i < kMaxPanels / 32; i += kMmaThreads) mask[i] = 0;
  __syncthreads();
  if (first_slice <= last_slice) {
    const int32_t begin = clamp(__ldg(l.crow + first_slice / l.slices_per_block_row), 0, l.nnzb);
    const int32_t end = clamp(__ldg(l.crow + last_slice / l.slices_per_block_row + 1), 0, l.nnzb);
    for (int32_t block = begin + threadIdx.x; block < end; block += kMmaThreads) {
      const int32_t col = first_column<1>(__ldg(l.col_start + block), l.cols, l.block_cols);
      const int32_t last = (col + l.block_cols - 1) / kPanelCols;
      for (int32_t panel = col / kPanelCols; panel <= last; ++panel) {
        atomicOr(mask + panel / 32, 1u << panel % 32);
      }
    }
  }
  __syncthreads();
  const int words = (l.cols - 1) / kPanelCols / 32 + 1;
  if (threadIdx.x < 32) {
    int before = 0;
    for (int first = 0; first < words; first += 32) {
      const int word = first + threadIdx.x;
      uint32_t bits = word < words ? mask[word] : 0;
      int sum = __popc(bits); /* inclusive over the lanes */
#pragma unroll
      for (int offset = 1; offset < 32; offset *= 2) {
        const int other = __shfl_up_sync(~0u, sum, offset);
        if (static_cast<int>(threadIdx.x) >= offset) sum += other;
      }
      int position = before + sum - __popc(bits);
      for (; bits != 0; bits &= bits - 1) {
        list[position++] = static_cast<uint16_t>(word * 32 + __ffs(bits) - 1);
      }
      before += __shfl_sync(~0u, sum, 31);
    }
    if (threadIdx.x == 0) *count = before;
  }
  __syncthreads();
  return *count;
}

/* One warp: starts the copies of a panel, or copies where x lies off 16 bytes. */
template <bool kAligned>
__device__ inline void load_panel(const LinearParams& l, uint32_t stage, int32_t start,
                                  int64_t token0, int tokens) {
  constexpr int kChunks = kPanelRowBytes / 16;
  const int lane = threadIdx.x % 32;
  const int32_t col = start + lane % kChunks * 8;
  const int exist = clamp(l.cols - col, 0, 8);
  const auto* const x = static_cast<const char*>(l.x);
  const char* source = x + 2 * ((token0 + lane / kChunks) * l.x_stride + (exist > 0 ? col : 0));
#pragma unroll 8
  for (int token = lane / kChunks; token < kPanelTokens; token += 32 / kChunks) {
    const uint32_t destination = stage + panel_offset(token, lane % kChunks * 8);
    const bool read = token < tokens;
    if constexpr (kAligned) {
      ptx::copy_16(destination, read ? source : x, read ? exist * 2 : 0);
    } else {
      uint32_t e[8];
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        e[j] = read && j < exist ? __ldg(reinterpret_cast<const uint16_t*>(source) + j) : 0;
      }
      ptx::store_shared_16(destination, {e[0] | e[1] << 16, e[2] | e[3] << 16, e[4] | e[5] << 16,
                                         e[6] | e[7] << 16});
    }
    source += 32 / kChunks * 2 * l.x_stride;
  }
}

}  // namespace djlbsr::cuda
