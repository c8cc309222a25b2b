/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 *
 * The mma.sync kernel for fp16 and bf16, any block shape, many tokens.
 *
 * A CTA computes 11 * 32 weight rows for 128 tokens. It walks along the columns in panels of 128:
 * a producer warp copies a panel of x to shared memory, where it serves the blocks of all
 * block-rows of the tile; panels in which none of them has a block are left out. Tokens lie on M
 * and weight rows on N. Each of the 11 other warps has four n-tiles of 8 rows; kGroup adjacent
 * ones lie in one block-row, a slice, and walk its stored columns together, in steps of 16 and as
 * far as they lie in the panel. Which of the 16 columns an mma calls its k-th is free as long as
 * both operands agree, so that lane t of four takes columns 4t to 4t + 3: a lane copies its own
 * operands of the weight, some steps ahead, to a queue that no other lane reads.
 *
 * Panels go round a ring of stages, which evens out the warps' different numbers of blocks. Each
 * output is one chain of mma steps in stored order.
 */
#pragma once

#include <cstdint>

#include "cuda/activation.cuh"
#include "cuda/element.cuh"
#include "cuda/linear_params.h"
#include "cuda/mma_ptx.cuh"
#include "cuda/sm80_panels.cuh"

namespace djlbsr::cuda {

struct MmaParams {
  LinearParams linear; /* tiles is not used */
  int32_t stages;
  int32_t row_tiles;
  bool y_pairs; /* two adjacent rows of y may be written as one */
};

/*
 * A slice, how far its stored columns have been multiplied, and this lane's queue of its next
 * steps. Elements are read kVector at a time: 4, or 1 where the width of blocks is no multiple of
 * 4, which cannot be copied asynchronously.
 */
template <int kGroup, int kVector>
struct SliceWalk {
  static constexpr int kRuns = 4 / kVector;
  static constexpr int kDepth = kVector == 4 ? 4 : 1;
  /* A step in the queue: the lanes' operands of each n-tile, then their columns of x. */
  static constexpr int kColBytes = kRuns * 4 * 32;
  static constexpr int kStepBytes = kGroup * 8 * 32 + kColBytes;
  static constexpr int kBytes = kDepth * kStepBytes;

  const char* values;       /* of this lane's first row in the block-row's first block */
  const int32_t* col_start; /* of the block-row */
  int32_t stored_cols;
  int32_t step; /* the first that is not done */
  int32_t rows; /* from this lane's first one to the slice's end; not above 0 past the last slice */
  uint32_t queue;
  int32_t cols[kRuns]; /* of x, of the step; kNoCol past the last stored column */

  __device__ uint32_t slot(int32_t s) const { return queue + s % kDepth * kStepBytes; }

  __device__ static int32_t block_of(const LinearParams& l, int32_t k) {
    return l.block_cols_shift >= 0 ? k >> l.block_cols_shift : k / l.block_cols;
  }

  /* Puts a step in the queue. */
  __device__ void fetch(const LinearParams& l, int32_t s) const {
    const int lane = threadIdx.x % 32;
    const uint32_t block_elements = l.block_rows * l.block_cols;
    const int32_t first = s * kStepCols + lane % 4 * 4;
    uint32_t parts[kGroup][4];
#pragma unroll
    for (int i = 0; i < kRuns; ++i) {
      const int32_t k = first + i * kVector;
      const bool exists = k < stored_cols;
      const int32_t block = exists ? block_of(l, k) : 0;
      const int32_t in_block = exists ? k - block * l.block_cols : 0;
      const uint32_t offset = block * block_elements + in_block;
      const uint32_t cols_at = slot(s) + kGroup * 8 * 32 + lane * (kRuns * 4);
#pragma unroll
      for (int j = 0; j < kGroup; ++j) {
        const bool read = exists && j * 8 < rows;
        const char* const at =
            values + 2 * static_cast<uint64_t>(read ? offset + j * 8 * l.block_cols : 0);
        if constexpr (kVector == 4) {
          ptx::copy_small<8>(slot(s) + j * 8 * 32 + lane * 8, at, read);
        } else {
          parts[j][i] = read ? __ldg(reinterpret_cast<const uint16_t*>(at)) : 0;
        }
      }
      if constexpr (kVector == 4) {
        ptx::copy_small<4>(cols_at, col_start + block, exists);
      } else {
        const int32_t col = exists ? __ldg(col_start + block) : 0;
        ptx::store_shared_4(cols_at + i * 4, col);
      }
    }
    if constexpr (kVector == 4) {
      ptx::commit_copies();
    } else {
#pragma unroll
      for (int j = 0; j < kGroup; ++j) {
        ptx::store_shared_8(slot(s) + j * 8 * 32 + lane * 8,
                            {parts[j][0] | parts[j][1] << 16, parts[j][2] | parts[j][3] << 16});
      }
    }
  }

  /* Waits for the step's place in the queue to be filled and reads its columns. */
  __device__ void read_cols(const LinearParams& l) {
    if constexpr (kVector == 4) ptx::wait_copies<kDepth - 1>();
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int i = 0; i < kRuns; ++i) {
      const int32_t k = step * kStepCols + lane % 4 * 4 + i * kVector;
      const int32_t start =
          ptx::load_shared_4(slot(step) + kGroup * 8 * 32 + lane * (kRuns * 4) + i * 4);
      cols[i] = k < stored_cols ? first_column<kVector>(start, l.cols, l.block_cols) + k -
                                      block_of(l, k) * l.block_cols
                                : kNoCol;
    }
  }

  /* The step's first column of x. */
  __device__ int32_t first_col() const { return __shfl_sync(~0u, cols[0], 0); }
};

/*
 * Multiplies the step of a walk as far as it lies in the panel, whose first column is start, and
 * goes on to the next step unless some of this one lies further on. Elements outside are 0 on both
 * sides, as neither operand may bring its NaN in.
 */
template <typename Element, int kGroup, int kVector>
__device__ inline bool multiply_step(const LinearParams& l, SliceWalk<kGroup, kVector>& s,
                                     uint32_t stage, int32_t start,
                                     float (&sums)[kTokenTiles][kWarpTiles][4], int first_tile) {
  constexpr int kRuns = 4 / kVector;
  const int lane = threadIdx.x % 32;
  uint2 w[kGroup];
#pragma unroll
  for (int i = 0; i < kGroup; ++i) {
    w[i] = ptx::load_shared_8(s.slot(s.step) + i * 8 * 32 + lane * 8);
  }
  uint32_t at[kRuns];
  bool inside[kRuns];
  bool further = false;
#pragma unroll
  for (int i = 0; i < kRuns; ++i) {
    const uint32_t col = static_cast<uint32_t>(s.cols[i]) - static_cast<uint32_t>(start);
    inside[i] = col < kPanelCols;
    further |= s.cols[i] != kNoCol && s.cols[i] >= start + kPanelCols;
    at[i] = stage + panel_offset(lane / 4, inside[i] ? col : 0);
  }
  if constexpr (kVector == 4) {
    if (!inside[0]) {
#pragma unroll
      for (int i = 0; i < kGroup; ++i) w[i] = {0, 0};
    }
  } else {
    const uint32_t x_mask = (inside[0] ? 0xffffu : 0) | (inside[1] ? 0xffff0000u : 0);
    const uint32_t y_mask = (inside[2] ? 0xffffu : 0) | (inside[3] ? 0xffff0000u : 0);
#pragma unroll
    for (int i = 0; i < kGroup; ++i) w[i] = {w[i].x & x_mask, w[i].y & y_mask};
  }
#pragma unroll
  for (int m = 0; m < kTokenTiles; ++m) {
    uint2 v[2]; /* of tokens g and g + 8 */
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const uint32_t row = (16 * m + 8 * h) * kPanelRowBytes;
      if constexpr (kVector == 4) {
        v[h] = ptx::load_shared_8(at[0] + row);
        if (!inside[0]) v[h] = {0, 0};
      } else {
        uint32_t parts[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) parts[i] = inside[i] ? ptx::load_shared_2(at[i] + row) : 0;
        v[h] = {parts[0] | parts[1] << 16, parts[2] | parts[3] << 16};
      }
    }
#pragma unroll
    for (int i = 0; i < kGroup; ++i) {
      ptx::mma_16x8x16<Element>(sums[m][first_tile + i], v[0].x, v[1].x, v[0].y, v[1].y, w[i].x,
                                w[i].y);
    }
  }
  if (__any_sync(~0u, further)) return false;
  s.fetch(l, s.step + SliceWalk<kGroup, kVector>::kDepth);
  ++s.step;
  s.read_cols(l);
  return true;
}

template <typename Element, int kGroup>
__device__ inline void store_sums(const MmaParams& p,
                                  const float (&sums)[kTokenTiles][kWarpTiles][4],
                                  int64_t first_slice, int64_t token0, int tokens) {
  const LinearParams& l = p.linear;
  const int g = threadIdx.x % 32 / 4;
  const int t = threadIdx.x % 4;
  const auto* const bias = static_cast<const Element*>(l.bias);
  auto* const y = static_cast<Element*>(l.y);
#pragma unroll
  for (int n = 0; n < kWarpTiles; ++n) {
    const int64_t slice = first_slice + n / kGroup;
    if (slice >= l.slices) break;
    const auto block_row = static_cast<int32_t>(slice / l.slices_per_block_row);
    const int32_t in_block =
        static_cast<int32_t>(slice % l.slices_per_block_row) * kGroup * 8 + n % kGroup * 8 + 2 * t;
    const int64_t row = static_cast<int64_t>(block_row) * l.block_rows + in_block;
    const bool first = in_block < l.block_rows;
    const bool second = in_block + 1 < l.block_rows;
    const float offset0 = bias == nullptr || !first ? 0.0f : to_float(bias[row]);
    const float offset1 = bias == nullptr || !second ? 0.0f : to_float(bias[row + 1]);
#pragma unroll
    for (int m = 0; m < kTokenTiles; ++m) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const int token = m * 16 + h * 8 + g;
        if (token >= tokens) continue;
        Element* const out = y + (token0 + token) * l.y_stride + row;
        const Element pair[2] = {
            from_float<Element>(activate<Element>(l.activation, sums[m][n][2 * h] + offset0)),
            from_float<Element>(activate<Element>(l.activation, sums[m][n][2 * h + 1] + offset1))};
        if (p.y_pairs && second) {
          uint32_t bits;
          memcpy(&bits, pair, 4);
          *reinterpret_cast<uint32_t*>(out) = bits;
        } else {
          if (first) out[0] = pair[0];
          if (second) out[1] = pair[1];
        }
      }
    }
  }
}

template <typename Element, int kGroup, int kVector, bool kAligned>
__global__ void __launch_bounds__(kMmaThreads, 1)
    sm80_f16_mma_kernel(const __grid_constant__ MmaParams p) {
  using Walk = SliceWalk<kGroup, kVector>;
  constexpr int kWalks = kWarpTiles / kGroup;
  constexpr int kSlices = kMmaConsumers * kWalks;
  extern __shared__ __align__(128) char shared[];
  const LinearParams& l = p.linear;
  const int warp = threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  const int64_t tile_slice = static_cast<int64_t>(blockIdx.x % p.row_tiles) * kSlices;
  const int64_t token0 = static_cast<int64_t>(blockIdx.x / p.row_tiles) * kPanelTokens;
  const int tokens = static_cast<int>(min(int64_t{kPanelTokens}, l.tokens - token0));
  const uint32_t full = ptx::shared_address(shared);
  const uint32_t empty = full + kMaxStages * 8;
  const uint32_t stages = ptx::shared_address(shared + kPanelStages);
  const auto* const list = reinterpret_cast<const uint16_t*>(shared + kPanelList);

  if (threadIdx.x == 0) {
    for (int i = 0; i < p.stages; ++i) {
      ptx::barrier_init(full + 8 * i, 32);
      ptx::barrier_init(empty + 8 * i, kMmaConsumers);
    }
  }
  const int panels = list_panels(l, shared, tile_slice, min(tile_slice + kSlices, l.slices) - 1);
  int stage = 0;
  uint32_t parity = 0;
  const auto advance = [&] {
    if (++stage == p.stages) {
      stage = 0;
      parity ^= 1;
    }
  };

  if (warp == kMmaConsumers) {
    for (int i = 0; i < panels; ++i) {
      ptx::barrier_wait(empty + 8 * stage, parity ^ 1);
      load_panel<kAligned>(l, stages + stage * kPanelBytes, list[i] * kPanelCols, token0, tokens);
      if constexpr (kAligned) {
        ptx::arrive_after_copies(full + 8 * stage);
      } else {
        ptx::barrier_arrive(full + 8 * stage);
      }
      advance();
    }
    ptx::wait_copies<0>();
    return;
  }

  Walk walks[kWalks];
  const int64_t own_slice = tile_slice + warp * kWalks;
#pragma unroll
  for (int i = 0; i < kWalks; ++i) {
    Walk& s = walks[i];
    const int64_t slice = own_slice + i;
    const bool exists = slice < l.slices;
    const auto block_row = static_cast<int32_t>(exists ? slice / l.slices_per_block_row : 0);
    const int32_t in_block =
        exists ? static_cast<int32_t>(slice % l.slices_per_block_row) * kGroup * 8 + lane / 4 : 0;
    const int32_t begin = clamp(__ldg(l.crow + block_row), 0, l.nnzb);
    const int32_t end = clamp(__ldg(l.crow + block_row + 1), 0, l.nnzb);
    s.stored_cols = exists ? clamp(end - begin, 0, l.cols / l.block_cols) * l.block_cols : 0;
    s.rows = exists ? l.block_rows - in_block : 0;
    s.values = static_cast<const char*>(l.values) +
               2 * ((static_cast<int64_t>(begin) * l.block_rows + in_block) * l.block_cols);
    s.col_start = l.col_start + begin;
    s.queue = stages + p.stages * kPanelBytes + (warp * kWalks + i) * Walk::kBytes;
    s.step = 0;
  }
  for (int32_t d = 0; d < Walk::kDepth; ++d) {
#pragma unroll
    for (int i = 0; i < kWalks; ++i) walks[i].fetch(l, d);
  }
#pragma unroll
  for (int i = 0; i < kWalks; ++i) walks[i].read_cols(l);

  float sums[kTokenTiles][kWarpTiles][4] = {};
  for (int i = 0; i < panels; ++i) {
    ptx::barrier_wait(full + 8 * stage, parity);
    const int32_t start = list[i] * kPanelCols;
#pragma unroll
    for (int walk = 0; walk < kWalks; ++walk) {
      while (walks[walk].first_col() < start + kPanelCols) {
        if (!multiply_step<Element>(l, walks[walk], stages + stage * kPanelBytes, start, sums,
                                    walk * kGroup)) {
          break;
        }
      }
    }
    __syncwarp();
    if (lane == 0) ptx::barrier_arrive(empty + 8 * stage);
    advance();
  }
  ptx::wait_copies<0>();
  store_sums<Element, kGroup>(p, sums, own_slice, token0, tokens);
}

}  // namespace djlbsr::cuda
