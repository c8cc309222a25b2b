/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 *
 * The Hopper kernel for few to middling tokens and blocks whose sides are multiples of 32.
 *
 * A CTA computes one tile: a slice of 64 or 128 rows of a block-row, by 32 to 256 tokens. A
 * producer warp streams the stored columns of the slice, a step of 64 at a time, in order, into a
 * ring of stages: the weight's elements from the values as they were packed, and the same columns
 * of x, both by bulk tensor copies with the 128-byte swizzle. One warpgroup for 64 rows multiplies.
 * Of blocks that are not multiples of 64 a slice has 32 rows and a step 32 columns; the other half
 * of wgmma's rows multiplies what lies behind them, to no end and at no cost.
 * CTAs are small, so that two to four on a multiprocessor cover each other's first loads and
 * stores, and most calls are a single wave.
 *
 * Where a weight has few slices, the CTAs of a cluster share a tile: each takes an equal part of
 * its steps, and their sums are added through distributed shared memory in the order of the CTAs.
 *
 * An output's bits depend on the weight, its row of x and how many CTAs share a tile, not on the
 * tile.
 */
#pragma once

#include "cuda/cluster_sums.cuh"
#include "cuda/element.cuh"
#include "cuda/hopper_ptx.cuh"
#include "cuda/hopper_schedule.cuh"
#include "cuda/hopper_store.cuh"
#include "cuda/launch_ptx.cuh"
#include "cuda/linear_params.h"

namespace djlbsr::cuda {

struct NarrowParams {
  CUtensorMap values; /* [nnzb * block_rows, block_cols] in boxes of tile rows x step columns */
  CUtensorMap x;      /* [tokens, cols] in boxes of box_tokens x step columns */
  const int32_t* crow;
  const int32_t* col_start;
  L2Prefetch prefetch;
  const BlockRow* rows; /* the order in which they are computed, or null for their own */
  const void* bias;     /* or null */
  void* y;
  int64_t y_stride;
  int32_t nnzb;
  int32_t cols;
  int32_t block_rows;
  int32_t block_cols;
  int32_t block_row_count;
  int32_t slices_per_block_row;
  int32_t token_tiles;
  int32_t tokens;
  int32_t box_tokens; /* of a tile, or all there are */
  int32_t activation;
};

/*
 * kTileGroups warpgroups of 64 rows each, or one of kTileUnit = 32 rows. kTileResident CTAs shall
 * fit on a multiprocessor, in registers and in shared memory.
 */
template <int kTileGroups, int kTileTokens, int kTileStages, int kTileResident, int kTileUnit = 64>
struct NarrowTile {
  static constexpr int kGroups = kTileGroups;
  static constexpr int kGroupRows = kTileUnit;
  static constexpr int kRows = kGroups * kGroupRows;
  static constexpr int kStepCols = kTileUnit;
  static constexpr int kStepBytes = kStepCols * 2; /* of a row: that of the swizzle */
  static constexpr int kTokens = kTileTokens;
  static constexpr int kStages = kTileStages;
  static constexpr int kResident = kTileResident;
  static constexpr int kThreads = kGroups * 128 + 32;
  static constexpr int kSums = kTokens / 2; /* of a thread */
  static constexpr int kValueBytes = kRows * kStepBytes;
  static constexpr int kStageBytes = kValueBytes + kTokens * kStepBytes;
  static constexpr int kBarriers = kStages * kStageBytes; /* full ones, then empty ones */
  static constexpr int kSharedBytes = kBarriers + 2 * kStages * 8;
  static_assert(kResident * (kSharedBytes + 1024) <= 228 * 1024, "a multiprocessor's memory");
  static_assert(kTileUnit == 64 || (kTileUnit == 32 && kGroups == 1), "a unit of rows and columns");
  static_assert(kGroups * kTokens * 128 <= kBarriers, "the stages become the memory of the sums");
};

/* The steps of a CTA: a part of those of its slice. */
struct NarrowWork {
  int32_t first_block; /* of the block-row */
  int32_t begin;       /* steps of the slice */
  int32_t end;
  int32_t block_row;
  int32_t row_in_block;
  int32_t token;
};

template <typename Tile, int kSplit>
__device__ inline NarrowWork narrow_work(const NarrowParams& p) {
  const int32_t tile = blockIdx.x / kSplit;
  const int32_t slice = tile / p.token_tiles;
  const int32_t position = slice / p.slices_per_block_row;
  int4 row;
  if (p.rows != nullptr) {
    row = __ldg(reinterpret_cast<const int4*>(p.rows + position));
  } else {
    const int32_t begin = __ldg(p.crow + position);
    row = {position, begin, __ldg(p.crow + position + 1) - begin, 0};
  }
  NarrowWork work;
  work.row_in_block = (slice - position * p.slices_per_block_row) * Tile::kRows;
  work.token = first_token((tile - slice * p.token_tiles) * Tile::kTokens, Tile::kTokens, p.tokens);
  /* The clamps keep a packed weight of altered bytes inside its buffers. */
  work.block_row = clamp(row.x, 0, p.block_row_count - 1);
  work.first_block = clamp(row.y, 0, p.nnzb);
  const int32_t most = min(p.nnzb - work.first_block, p.cols / p.block_cols);
  const int32_t steps = clamp(row.z, 0, most) * (p.block_cols / Tile::kStepCols);
  const int32_t part = kSplit == 1 ? 0 : static_cast<int32_t>(ptx::cluster_rank());
  work.begin = steps * part / kSplit;
  work.end = steps * (part + 1) / kSplit;
  return work;
}

/* One warp. */
template <typename Tile>
__device__ inline void narrow_produce(const NarrowParams& p, const NarrowWork& work,
                                      uint32_t stages, uint32_t full, uint32_t empty) {
  const int lane = threadIdx.x % 32;
  const int32_t steps_per_block = p.block_cols / Tile::kStepCols;
  const int32_t last_start = p.cols - p.block_cols;
  const int32_t first = work.begin / steps_per_block;
  const int32_t blocks = work.end == work.begin ? 0 : (work.end - 1) / steps_per_block + 1;
  const auto load_starts = [&](int32_t base) {
    const int32_t block = base + lane;
    return block < blocks ? __ldg(p.col_start + work.first_block + block) : 0;
  };
  int32_t starts = load_starts(first);
  const auto load_values = [&](int32_t block, int32_t col, const Ring<Tile::kStages>& ring) {
    const uint32_t barrier = full + ring.stage * 8;
    ptx::mbarrier_expect_bytes(barrier, Tile::kValueBytes + p.box_tokens * Tile::kStepBytes);
    const int32_t row = (work.first_block + block) * p.block_rows + work.row_in_block;
    ptx::load_box(stages + ring.stage * Tile::kStageBytes, &p.values, col, row, barrier);
  };

  const int32_t first_col = (work.begin - first * steps_per_block) * Tile::kStepCols;
  const int32_t ahead = min(Tile::kStages, work.end - work.begin);
  /* The weight of the first stages does not have to wait for the columns. */
  Ring<Tile::kStages> ring;
  if (lane == 0) {
    int32_t block = first;
    int32_t col = first_col;
#pragma unroll 1
    for (int32_t i = 0; i < ahead; ++i) {
      load_values(block, col, ring);
      ring.advance();
      col += Tile::kStepCols;
      if (col == p.block_cols) {
        col = 0;
        ++block;
      }
    }
  }
  ring = {};
  int32_t block = first;
  int32_t col = first_col;
#pragma unroll 1
  for (int32_t i = work.begin; i < work.end; ++i) {
    if (col == 0 && (block - first) % 32 == 0 && block > first) starts = load_starts(block);
    const int32_t start = clamp(__shfl_sync(~0u, starts, (block - first) % 32), 0, last_start);
    const bool again = i - work.begin >= ahead;
    if (again) ptx::mbarrier_wait(empty + ring.stage * 8, ring.parity ^ 1);
    if (lane == 0) {
      if (again) load_values(block, col, ring);
      ptx::load_box(stages + ring.stage * Tile::kStageBytes + Tile::kValueBytes, &p.x, start + col,
                    work.token, full + ring.stage * 8);
    }
    __syncwarp();
    ring.advance();
    col += Tile::kStepCols;
    if (col == p.block_cols) {
      col = 0;
      ++block;
    }
  }
}

template <typename Element, int kTokens>
__device__ __forceinline__ void narrow_multiply(float (&sums)[kTokens / 2], uint64_t a,
                                                uint64_t b) {
  if constexpr (kTokens == 256) {
    ptx::wgmma_64x256x16<Element>(sums, a, b);
  } else {
    ptx::WgmmaSmall<Element, kTokens>::run(
        sums, {static_cast<uint32_t>(a), static_cast<uint32_t>(a >> 32), static_cast<uint32_t>(b),
               static_cast<uint32_t>(b >> 32)});
  }
}

/*
 * Activates and writes a warpgroup's outputs of kRows rows x kTokens to y, through kTokens x 128
 * bytes of shared memory where they are turned so that a thread writes 16 bytes of a token.
 */
template <typename Element, int kActivation, int kRows, int kTokens>
__device__ __forceinline__ void narrow_store(const NarrowParams& p,
                                             const float (&sums)[kTokens / 2], char* buffer,
                                             int64_t row, int32_t token, int barrier_id) {
  const int thread = threadIdx.x % 128;
  const int lane = thread % 32;
  const int warp = thread / 32;
  /* 16-byte chunks of 8 rows; the xor spreads the tokens of a chunk over the banks. */
  const int turn_token = lane / 16 * 8 + lane % 8;
  const int turn_chunk = (warp * 2 + lane / 8 % 2) ^ (turn_token % 8);
  const uint32_t turn = ptx::shared_address(buffer) + turn_token * 128 + turn_chunk * 16;
#pragma unroll
  for (int t = 0; t < kTokens; t += 16) {
    const int s = t / 2;
    const auto pair = [&](int i) {
      return pack_pair<Element>(activate<Element>(kActivation, sums[s + i]),
                                activate<Element>(kActivation, sums[s + i + 1]));
    };
    if constexpr (kTokens % 16 == 0) {
      ptx::store_matrices_transposed(turn + t * 128, pair(0), pair(2), pair(4), pair(6));
    } else {
      static_assert(kTokens == 8, "eights of tokens");
      ptx::store_two_matrices_transposed(turn, pair(0), pair(2));
    }
  }
  ptx::warpgroup_sync(barrier_id);
  const int out_token = thread / 8;
  const int out_chunk = thread % 8;
  const char* const out = buffer + out_token * 128 + (out_chunk ^ (out_token % 8)) * 16;
  Element* const y =
      static_cast<Element*>(p.y) + (token + out_token) * p.y_stride + row + out_chunk * 8;
#pragma unroll
  for (int t = 0; t < kTokens; t += 16) {
    if (out_chunk * 8 < kRows && t + out_token < kTokens && token + t + out_token < p.tokens) {
      *reinterpret_cast<uint4*>(y + t * p.y_stride) =
          *reinterpret_cast<const uint4*>(out + t * 128);
    }
  }
}

template <int kCount>
__device__ __forceinline__ void add_bias(float low, float high, float (&sums)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; i += 4) {
    sums[i] += low;
    sums[i + 1] += low;
    sums[i + 2] += high;
    sums[i + 3] += high;
  }
}

/* A warpgroup: its rows of the tile. */
template <typename Element, typename Tile, int kSplit>
__device__ inline void narrow_consume(const NarrowParams& p, const NarrowWork& work, char* shared,
                                      uint32_t full, uint32_t empty) {
  constexpr int kTokens = Tile::kTokens;
  const int group = threadIdx.x / 128;
  const int thread = threadIdx.x % 128;
  const int64_t row =
      int64_t{work.block_row} * p.block_rows + work.row_in_block + group * Tile::kGroupRows;
  const int thread_row = thread / 32 * 16 + thread % 32 / 4;
  const auto* const bias = static_cast<const Element*>(p.bias);
  const bool has_bias = bias != nullptr && thread_row < Tile::kGroupRows;
  const float low = has_bias ? to_float(bias[row + thread_row]) : 0.0f;
  const float high = has_bias ? to_float(bias[row + thread_row + 8]) : 0.0f;
  const uint32_t values = ptx::shared_address(shared) + group * Tile::kGroupRows * Tile::kStepBytes;
  const uint32_t x = ptx::shared_address(shared) + Tile::kValueBytes;
  const auto release = [&](int stage) {
    if (thread % 32 == 0) ptx::mbarrier_arrive(empty + stage * 8);
  };
  /* The stages of later steps are not filled again. */
  const int32_t last_release = work.end - Tile::kStages;
  float sums[Tile::kSums];
#pragma unroll
  for (int i = 0; i < Tile::kSums; ++i) sums[i] = 0.0f;
  Ring<Tile::kStages> ring;
  int previous = -1;
#pragma unroll 1
  for (int32_t step = work.begin; step < work.end; ++step) {
    ptx::mbarrier_wait(full + ring.stage * 8, ring.parity);
    const uint64_t a =
        ptx::swizzled_operand<Tile::kStepBytes>(values + ring.stage * Tile::kStageBytes);
    const uint64_t b = ptx::swizzled_operand<Tile::kStepBytes>(x + ring.stage * Tile::kStageBytes);
    ptx::wgmma_fence();
#pragma unroll
    for (int k = 0; k < Tile::kStepCols / 16; ++k) {
      narrow_multiply<Element, kTokens>(sums, a + 2 * k, b + 2 * k);
    }
    ptx::wgmma_commit();
    ptx::wgmma_wait<1>(); /* the step before is done with its stage */
    if (previous >= 0 && step <= last_release) release(previous);
    previous = ring.stage;
    ring.advance();
  }
  ptx::wgmma_wait<0>();
  ptx::use_after_wait(sums);
  /* Every copy has arrived and every operand is read, so that the stages are free for sums. */
  ptx::warps_sync(1 + Tile::kGroups, Tile::kGroups * 128);
  if constexpr (kSplit == 1) {
    add_bias(low, high, sums);
    with_activation(p.activation, [&](auto kind) {
      narrow_store<Element, decltype(kind)::value, Tile::kGroupRows, kTokens>(
          p, sums, shared + group * kTokens * 128, row, work.token, 1 + group);
    });
  } else {
    /* float4 [groups][token eights][threads] */
    constexpr int kEights = kTokens / 8;
    static_assert(Tile::kGroups * kEights * 128 * 16 <= Tile::kBarriers, "the stages' memory");
    float4* const partial = reinterpret_cast<float4*>(shared) + group * kEights * 128 + thread;
#pragma unroll
    for (int j = 0; j < kEights; ++j) {
      partial[j * 128] = {sums[4 * j], sums[4 * j + 1], sums[4 * j + 2], sums[4 * j + 3]};
    }
    ptx::cluster_sync();
    constexpr int kOwnEights = kEights / kSplit;
    const int part = ptx::cluster_rank();
    float own[kOwnEights * 4];
    const uint32_t source = ptx::shared_address(partial + part * kOwnEights * 128);
    add_over_cluster<kSplit, kOwnEights>(own, source, [](int i) { return i * 128 * 16; });
    ptx::cluster_sync(); /* nobody's sums are needed any more */
    add_bias(low, high, own);
    with_activation(p.activation, [&](auto kind) {
      narrow_store<Element, decltype(kind)::value, Tile::kGroupRows, kTokens / kSplit>(
          p, own, shared + group * kTokens * 128, row, work.token + part * (kTokens / kSplit),
          1 + group);
    });
  }
}

template <typename Element, typename Tile, int kSplit>
__global__ void __launch_bounds__(Tile::kThreads, Tile::kResident)
    hopper_narrow_kernel(const __grid_constant__ NarrowParams p) {
  extern __shared__ __align__(1024) char shared[];
  const uint32_t full = ptx::shared_address(shared) + Tile::kBarriers;
  const uint32_t empty = full + Tile::kStages * 8;
  const int warp = threadIdx.x / 32;
  constexpr int kProducerWarp = Tile::kGroups * 4;

  if (warp == kProducerWarp) {
    if (threadIdx.x % 32 == 0) {
      ptx::prefetch_tensor_map(&p.values);
      ptx::prefetch_tensor_map(&p.x);
    }
    if (threadIdx.x % 32 < Tile::kStages) {
      ptx::mbarrier_init(full + threadIdx.x % 32 * 8, 1);
      ptx::mbarrier_init(empty + threadIdx.x % 32 * 8, Tile::kGroups * 4);
    }
    ptx::fence_mbarrier_init();
  }
  __syncthreads();
  if (warp == kProducerWarp) prefetch_to_l2(p.prefetch, blockIdx.x);
  ptx::dependency_wait();
  const NarrowWork work = narrow_work<Tile, kSplit>(p);
  if (warp == kProducerWarp) {
    narrow_produce<Tile>(p, work, ptx::shared_address(shared), full, empty);
    /* Any earlier, and the next kernel's first CTAs would crowd onto what this one leaves free. */
    ptx::launch_dependents();
    if constexpr (kSplit > 1) {
      ptx::cluster_sync();
      ptx::cluster_sync();
    }
    return;
  }

  narrow_consume<Element, Tile, kSplit>(p, work, shared, full, empty);
}

}  // namespace djlbsr::cuda
