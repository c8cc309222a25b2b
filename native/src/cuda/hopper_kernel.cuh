/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 *
 * The Hopper kernel for blocks whose sides are multiples of 64.
 *
 * A persistent CTA has one producer warpgroup and two consumer warpgroups. The producer streams the
 * stored columns of a slice of weight rows, 64 at a time and in their order, into a ring of
 * shared-memory stages: the weight's elements from the values as they were packed, and the same
 * columns of x for the tile's tokens, both by bulk tensor copies with the 128-byte swizzle. Each
 * consumer holds 64 rows x 256 tokens of sums: two halves of 128 rows that share x, or two halves
 * of 512 tokens that share the weight. hopper_schedule.cuh deals the tiles. CTAs are launched in
 * clusters of two, though they share nothing: so neighbors, which begin with tiles of the same
 * block-row, run side by side.
 *
 * Sums become rows of y through shared memory, with bias and activation on the way: for 128 rows
 * through a buffer and by stores of 16 bytes; for 64 rows, where the stages leave no room for a
 * buffer, in the stage read last and by bulk tensor stores, whose wait is not the threads'.
 *
 * Each output is one chain of wgmma steps of 16 columns in stored order: its bits depend on neither
 * tile nor batch.
 */
#pragma once

#include "cuda/element.cuh"
#include "cuda/hopper_ptx.cuh"
#include "cuda/hopper_schedule.cuh"
#include "cuda/hopper_store.cuh"

namespace djlbsr::cuda {

constexpr int kStepCols = 64; /* 128 bytes, a row of the swizzle */
constexpr int kConsumers = 2;
constexpr int kConsumerRows = 64;
constexpr int kConsumerTokens = 256;
constexpr int kHopperThreads = (1 + kConsumers) * kWarpgroup;

struct HopperParams : ScheduleParams {
  CUtensorMap values; /* [nnzb * block_rows, block_cols] in boxes of tile rows x 64 */
  CUtensorMap x;      /* [tokens, cols] in boxes of kXBoxTokens x 64 */
  CUtensorMap y_map;  /* [tokens, rows] in boxes of kBulkTokens x 64, where used */
  const int32_t* col_start;
  const void* bias; /* or null */
  void* y;
  int64_t y_stride;
  int32_t activation;
};

template <int kTileRows>
struct HopperTile {
  static constexpr int kRows = kTileRows;
  static constexpr int kTokens = kConsumers * kConsumerRows * kConsumerTokens / kTileRows;
  static constexpr int kStages = kTileRows == 128 ? 4 : 3;
  static constexpr int kValueBytes = kTileRows * kStepCols * 2;
  static constexpr int kXBoxTokens = 128;
  static constexpr int kXBoxBytes = kXBoxTokens * kStepCols * 2;
  static constexpr int kStageBytes = kValueBytes + kTokens * kStepCols * 2;
  /*
   * With 64 rows a consumer turns its sums to rows of y in its own part of x in the last stage that
   * it read, with 128 in a buffer.
   */
  static constexpr bool kStoresFromStage = kTileRows == 64;
  static constexpr int kStoreBytes = kStoresFromStage ? 0 : kTurnTokens * kConsumerRows * 2;

  static constexpr int kStores = kStages * kStageBytes;
  static constexpr int kBarriers = kStores + kConsumers * kStoreBytes;
  static constexpr int kQueue = kBarriers + 2 * kStages * 8;
  static constexpr int kLengths = kQueue + TileQueue::kBytes;
  static constexpr int kKeys = kLengths + kMaxSharedLengths * 2;
  static constexpr int kSharedBytes = kKeys + kMaxGrid * 4;
  static_assert(kSharedBytes <= 227 * 1024, "shared memory of a CTA");
};

template <typename Tile>
__device__ inline void produce(const HopperParams& p, TileQueue queue, uint32_t stages,
                               uint32_t full, uint32_t empty) {
  const int lane = threadIdx.x % 32;
  const int32_t last_start = p.cols - p.block_cols;
  const auto load_starts = [&](const BlockRange& range, int32_t base) {
    const int32_t block = base + lane;
    return block < range.count ? __ldg(p.col_start + range.first + block) : 0;
  };
  Ring<Tile::kStages> ring;
  TilePlace tile = queue.pop();
  TileWork work = work_of<Tile>(p, tile);
  while (!tile.last()) {
    const BlockRange range = work.range(p);
    int32_t starts = load_starts(range, 0);
    /* Not before this tile is on its way: at the start the scheduler is still dealing the next. */
    TileWork next;
    const auto look_ahead = [&] {
      tile = queue.pop();
      next = work_of<Tile>(p, tile);
    };
    const int32_t tokens = min(Tile::kTokens >> work.narrow, p.tokens);
    const int32_t boxes = (tokens - 1) / Tile::kXBoxTokens + 1;
    const uint32_t stage_bytes = Tile::kValueBytes + boxes * Tile::kXBoxBytes;
    for (int32_t i = 0; i < range.count; ++i) {
      if (i > 0 && i % 32 == 0) starts = load_starts(range, i);
      const int32_t start = clamp(__shfl_sync(~0u, starts, i % 32), 0, last_start);
      const int32_t row = (range.first + i) * p.block_rows + work.row_in_block;
      for (int32_t col = 0; col < p.block_cols; col += kStepCols) {
        ptx::mbarrier_wait(empty + ring.stage * 8, ring.parity ^ 1);
        if (lane == 0) {
          const uint32_t barrier = full + ring.stage * 8;
          const uint32_t stage = stages + ring.stage * Tile::kStageBytes;
          ptx::mbarrier_expect_bytes(barrier, stage_bytes);
          ptx::load_box(stage, &p.values, col, row, barrier);
#pragma unroll
          for (int box = 0; box < Tile::kTokens / Tile::kXBoxTokens; ++box) {
            if (box >= boxes) break;
            ptx::load_box(stage + Tile::kValueBytes + box * Tile::kXBoxBytes, &p.x, start + col,
                          work.token + box * Tile::kXBoxTokens, barrier);
          }
        }
        __syncwarp();
        ring.advance();
      }
      if (i == range.count / 2) look_ahead();
    }
    if (range.count == 0) {
      if constexpr (Tile::kStoresFromStage) { /* the consumers need one nevertheless */
        ptx::mbarrier_wait(empty + ring.stage * 8, ring.parity ^ 1);
        if (lane == 0) ptx::mbarrier_arrive(full + ring.stage * 8);
        __syncwarp();
        ring.advance();
      }
      look_ahead();
    }
    work = next;
  }
}

template <typename Element, typename Tile>
__device__ inline void consume(const HopperParams& p, TileQueue queue, char* shared, uint32_t full,
                               uint32_t empty, int consumer) {
  constexpr bool kSplitsRows = Tile::kRows > kConsumerRows;
  const int thread = threadIdx.x % kWarpgroup;
  const int32_t own_row = kSplitsRows ? consumer * kConsumerRows : 0;
  const uint32_t own_values = ptx::shared_address(shared) + own_row * 128;
  const uint32_t x = ptx::shared_address(shared) + Tile::kValueBytes;
  char* const own_buffer = shared + Tile::kStores + consumer * Tile::kStoreBytes;
  const auto* const bias = static_cast<const Element*>(p.bias);
  const auto release = [&](int stage) {
    if (thread % 32 == 0) ptx::mbarrier_arrive(empty + stage * 8);
  };
  Ring<Tile::kStages> ring;
  TilePlace tile = queue.pop();
  TileWork work = work_of<Tile>(p, tile);
  while (!tile.last()) {
    const BlockRange range = work.range(p);
    const int32_t steps = range.count * (p.block_cols / kStepCols);
    const int32_t row = range.block_row * p.block_rows + work.row_in_block + own_row;
    /* A narrow tile has half the tokens, of the CTA and of the consumer. */
    const int32_t own_tokens = kConsumerTokens >> work.narrow;
    const int32_t own_token = kSplitsRows ? 0 : consumer * own_tokens;
    const int32_t token = work.token + own_token;
    const uint32_t own_x = x + own_token * 128;
    const int thread_row = thread / 32 * 16 + thread % 32 / 4;
    const float low = bias == nullptr ? 0.0f : to_float(bias[row + thread_row]);
    const float high = bias == nullptr ? 0.0f : to_float(bias[row + thread_row + 8]);

    float sums[128];
    int last = 0; /* stage of the tile */
    for (int32_t step = 0; step < steps; ++step) {
      ptx::mbarrier_wait(full + ring.stage * 8, ring.parity);
      const uint64_t a = ptx::operand(own_values + ring.stage * Tile::kStageBytes);
      const uint64_t b = ptx::operand(own_x + ring.stage * Tile::kStageBytes);
      if (work.narrow) {
        ptx::wgmma_fence();
#pragma unroll
        for (int k = 0; k < kStepCols / 16; ++k) {
          ptx::wgmma_64x128x16<Element>(sums, a + 2 * k, b + 2 * k, k > 0 || step > 0);
        }
        ptx::wgmma_commit();
      } else {
        ptx::wgmma_fence();
#pragma unroll
        for (int k = 0; k < kStepCols / 16; ++k) {
          ptx::wgmma_64x256x16<Element>(sums, a + 2 * k, b + 2 * k, k > 0 || step > 0);
        }
        ptx::wgmma_commit();
      }
      /* The other consumer multiplies meanwhile, and the stage is free at once. */
      ptx::wgmma_wait<0>();
      if (!Tile::kStoresFromStage || step + 1 < steps) release(ring.stage);
      last = ring.stage;
      ring.advance();
    }
    ptx::wgmma_wait<0>(); /* where ptxas looks for it (else C7515) */
    ptx::use_after_wait(sums);
    if (steps == 0) {
#pragma unroll
      for (float& sum : sums) sum = 0.0f;
    }
    if (Tile::kStoresFromStage && steps == 0) {
      ptx::mbarrier_wait(full + ring.stage * 8, ring.parity);
      last = ring.stage;
      ring.advance();
    }
    tile = queue.pop();
    const TileWork next = work_of<Tile>(p, tile);

    if constexpr (Tile::kStoresFromStage) {
      ptx::warpgroup_sync(1 + consumer); /* all warps have multiplied by that x */
      store_bulk<Element>(p.activation, p.y_map, sums, low, high, own_x + last * Tile::kStageBytes,
                          row, token, own_tokens, 1 + consumer);
      if (thread == 0) ptx::wait_stores_read();
      __syncwarp();
      release(last);
    } else {
      store_transposed<Element>(p.activation, static_cast<Element*>(p.y), p.y_stride, p.tokens,
                                sums, low, high, own_buffer, row, token, own_tokens, 1 + consumer);
    }
    work = next;
  }
  if (Tile::kStoresFromStage && thread == 0) ptx::wait_stores();
}

template <typename Element, int kTileRows>
__global__ void __launch_bounds__(kHopperThreads, 1)
    hopper_kernel(const __grid_constant__ HopperParams p) {
  using Tile = HopperTile<kTileRows>;
  extern __shared__ __align__(1024) char shared[];
  const uint32_t full = ptx::shared_address(shared + Tile::kBarriers);
  const uint32_t empty = full + Tile::kStages * 8;
  BlockRowLengths lengths(p, reinterpret_cast<uint16_t*>(shared + Tile::kLengths));
  auto* const keys = reinterpret_cast<uint32_t*>(shared + Tile::kKeys);
  const TileQueue queue(ptx::shared_address(shared) + Tile::kQueue);

  if (threadIdx.x == 0) {
    ptx::prefetch_tensor_map(&p.values);
    ptx::prefetch_tensor_map(&p.x);
    if (Tile::kStoresFromStage) ptx::prefetch_tensor_map(&p.y_map);
    for (int stage = 0; stage < Tile::kStages; ++stage) {
      ptx::mbarrier_init(full + stage * 8, 1);
      ptx::mbarrier_init(empty + stage * 8, kConsumers * kWarpgroup / 32);
    }
    queue.init(1 + kConsumers * kWarpgroup / 32);
    ptx::fence_mbarrier_init();
  }
  ptx::launch_dependents(); /* whose CTAs find room when these end */
  ptx::dependency_wait();
  lengths.load(p.row_count);
  __syncthreads();

  const int warpgroup = threadIdx.x / kWarpgroup;
  if (warpgroup == 0) {
    ptx::give_registers<56>();
    if (threadIdx.x < 32) {
      produce<Tile>(p, queue, ptx::shared_address(shared), full, empty);
    } else if (threadIdx.x < 64) {
      Scheduler<1, BlockRowLengths>(p, lengths, queue, keys).run();
    }
  } else {
    ptx::take_registers<224>();
    consume<Element, Tile>(p, queue, shared, full, empty, warpgroup - 1);
  }
}

}  // namespace djlbsr::cuda
