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
 * of 512 tokens that share the weight.
 *
 * Tiles are ordered by panels of tokens whose x fits in half of L2, inside a panel by falling
 * number of stored blocks. A scheduler warp of every CTA deals them out, gridDim.x at a time, the
 * longest to the CTA with the least work so far: all CTAs compute the same deal, so that none has
 * to tell another and no counter in global memory is needed. Each output is one chain of wgmma
 * steps of 16 columns in stored order: its bits depend on neither tile nor batch.
 */
#pragma once

#include "cuda/activation.cuh"
#include "cuda/element.cuh"
#include "cuda/hopper_ptx.cuh"

namespace djlbsr::cuda {

constexpr int kStepCols = 64; /* 128 bytes, a row of the swizzle */
constexpr int kWarpgroup = 128;
constexpr int kConsumers = 2;
constexpr int kConsumerRows = 64;
constexpr int kConsumerTokens = 256;
constexpr int kHopperThreads = (1 + kConsumers) * kWarpgroup;
constexpr int kMaxSortedRows = 512;
constexpr int kMaxGrid = 160;         /* CTAs that the scheduler knows; an H100 has 132 */
constexpr int kTileOverheadSteps = 2; /* of a tile's start and end, in steps of 64 columns */
constexpr int kSlots = 8;             /* of tiles dealt and not yet begun */

struct HopperParams {
  CUtensorMap values; /* [nnzb * block_rows, block_cols] in boxes of tile rows x 64 */
  CUtensorMap x;      /* [tokens, cols] in boxes of 256 x 64 */
  const int32_t* crow;
  const int32_t* col_start;
  const void* bias; /* or null */
  void* y;
  int64_t y_stride;
  int32_t tokens;
  int32_t cols;
  int32_t block_rows;
  int32_t block_cols;
  int32_t block_row_count;
  int32_t nnzb;
  int32_t activation;
  int32_t slices_per_block_row;
  int32_t token_tiles;
  int32_t panel_token_tiles;
  int32_t tiles;
};

template <int kTileRows>
struct HopperTile {
  static constexpr int kTokens = kConsumers * kConsumerRows * kConsumerTokens / kTileRows;
  static constexpr int kStages = kTileRows == 128 ? 4 : 3;
  static constexpr int kValueBytes = kTileRows * kStepCols * 2;
  static constexpr int kXBoxBytes = kConsumerTokens * kStepCols * 2;
  static constexpr int kStageBytes = kValueBytes + kTokens * kStepCols * 2;
  /* Tokens that a consumer turns at a time from sums to rows of y. */
  static constexpr int kStoreTokens = kTileRows == 128 ? 128 : 32;
  static constexpr int kStoreBytes = kStoreTokens * kConsumerRows * 2;

  static constexpr int kStores = kStages * kStageBytes;
  static constexpr int kBarriers = kStores + kConsumers * kStoreBytes;
  static constexpr int kSlotBarriers = kBarriers + 2 * kStages * 8;
  static constexpr int kSlotTiles = kSlotBarriers + 2 * kSlots * 8;
  static constexpr int kOrder = kSlotTiles + kSlots * 4;
  static constexpr int kSharedBytes = kOrder + kMaxSortedRows * 4;
  static_assert(kSharedBytes <= 227 * 1024, "shared memory of a CTA");
};

/* One tile of work. What is loaded is clamped at its use, so that a load can stay in flight. */
struct HopperWork {
  int32_t begin;
  int32_t end;
  int32_t block_row;
  int32_t row_in_block;
  int32_t token;

  __device__ int32_t first(const HopperParams& p) const { return clamp(begin, 0, p.nnzb); }
  __device__ int32_t blocks(const HopperParams& p) const {
    return clamp(clamp(end, 0, p.nnzb) - first(p), 0, p.cols / p.block_cols);
  }
};

/* A block-row, and the number of its blocks up to 65535. */
struct RankedRow {
  uint16_t row;
  uint16_t blocks;
};

/* Where a tile lies, from its number in the order of the schedule. */
struct HopperPlace {
  uint32_t token_tile;
  uint32_t position; /* of its block-row among those ranked */
  uint32_t slice;    /* of that block-row */
};

__device__ inline HopperPlace place_of(const HopperParams& p, uint32_t tile) {
  const uint32_t slices = p.block_row_count * p.slices_per_block_row;
  const uint32_t panel_tiles = slices * p.panel_token_tiles;
  const uint32_t first_token_tile = tile / panel_tiles * p.panel_token_tiles;
  const uint32_t in_panel = tile % panel_tiles;
  const uint32_t width = min(p.panel_token_tiles, p.token_tiles - first_token_tile);
  const uint32_t slice = in_panel / width;
  return {first_token_tile + in_panel % width, slice / p.slices_per_block_row,
          slice % p.slices_per_block_row};
}

template <int kTileRows>
__device__ inline HopperWork work_of(const HopperParams& p, const RankedRow* order, uint32_t tile) {
  HopperWork work = {};
  if (tile >= static_cast<uint32_t>(p.tiles)) return work;
  const HopperPlace place = place_of(p, tile);
  work.block_row = p.block_row_count <= kMaxSortedRows ? order[place.position].row : place.position;
  work.row_in_block = place.slice * kTileRows;
  work.token = place.token_tile * HopperTile<kTileRows>::kTokens;
  work.begin = __ldg(p.crow + work.block_row);
  work.end = __ldg(p.crow + work.block_row + 1);
  return work;
}

/* Ranks the block-rows by falling number of blocks. lengths is scratch. */
__device__ inline void rank_block_rows(const HopperParams& p, int32_t* lengths, RankedRow* order) {
  for (int row = threadIdx.x; row < p.block_row_count; row += kHopperThreads) {
    lengths[row] = clamp(p.crow[row + 1], 0, p.nnzb) - clamp(p.crow[row], 0, p.nnzb);
  }
  __syncthreads();
  for (int row = threadIdx.x; row < p.block_row_count; row += kHopperThreads) {
    const int32_t length = lengths[row];
    int rank = 0;
#pragma unroll 8
    for (int other = 0; other < p.block_row_count; ++other) {
      rank += lengths[other] > length || (lengths[other] == length && other < row);
    }
    order[rank] = {static_cast<uint16_t>(row), static_cast<uint16_t>(clamp(length, 0, 0xffff))};
  }
}

/* The stages of the ring in turn, with the parity of the round. */
template <int kStages>
struct Ring {
  int stage = 0;
  uint32_t parity = 0;
  __device__ void advance() {
    if (++stage == kStages) {
      stage = 0;
      parity ^= 1;
    }
  }
};

/* The tiles of this CTA, from its scheduler warp to its other warps; p.tiles ends them. */
struct TileQueue {
  uint32_t barriers; /* kSlots full ones, kSlots empty ones */
  volatile uint32_t* tiles;
  Ring<kSlots> ring;

  __device__ void push(uint32_t tile) {
    ptx::mbarrier_wait(barriers + (kSlots + ring.stage) * 8, ring.parity ^ 1);
    if (threadIdx.x % 32 == 0) {
      tiles[ring.stage] = tile;
      ptx::mbarrier_arrive(barriers + ring.stage * 8);
    }
    __syncwarp();
    ring.advance();
  }

  __device__ uint32_t pop() {
    ptx::mbarrier_wait(barriers + ring.stage * 8, ring.parity);
    const uint32_t tile = tiles[ring.stage];
    __syncwarp();
    if (threadIdx.x % 32 == 0) ptx::mbarrier_arrive(barriers + (kSlots + ring.stage) * 8);
    ring.advance();
    return tile;
  }
};

/* One warp: deals the tiles of all CTAs and queues those of this one. */
__device__ inline void schedule(const HopperParams& p, const RankedRow* order, TileQueue queue) {
  constexpr int kPerLane = kMaxGrid / 32;
  const uint32_t lane = threadIdx.x % 32;
  const uint32_t tiles = p.tiles;
  const uint32_t steps_per_block = p.block_cols / kStepCols;
  const uint32_t panel_tiles = p.block_row_count * p.slices_per_block_row * p.panel_token_tiles;
  /* Steps so far of CTA 32j + lane, above the CTA's number in 8 bits, which decides between equals.
   */
  uint32_t keys[kPerLane];
#pragma unroll
  for (int j = 0; j < kPerLane; ++j) {
    keys[j] = j * 32 + lane < gridDim.x ? j * 32 + lane : ~0u;
  }
  for (uint32_t begin = 0; begin < tiles;) {
    const uint32_t panel_end = min(tiles, (begin / panel_tiles + 1) * panel_tiles);
    const uint32_t count = min(gridDim.x, panel_end - begin);
    uint32_t ranks[kPerLane];
#pragma unroll
    for (int j = 0; j < kPerLane; ++j) ranks[j] = begin == 0 ? keys[j] : 0;
    if (begin > 0) {
#pragma unroll
      for (int k = 0; k < kPerLane; ++k) {
#pragma unroll 8
        for (int other = 0; other < 32; ++other) {
          const uint32_t key = __shfl_sync(~0u, keys[k], other);
#pragma unroll
          for (int j = 0; j < kPerLane; ++j) ranks[j] += key < keys[j];
        }
      }
    }
    uint32_t own = ~0u;
#pragma unroll
    for (int j = 0; j < kPerLane; ++j) {
      if (ranks[j] >= count || keys[j] == ~0u) continue;
      const uint32_t tile = begin + ranks[j];
      const uint32_t position = place_of(p, tile).position;
      const uint32_t blocks =
          p.block_row_count <= kMaxSortedRows
              ? order[position].blocks
              : clamp(p.crow[position + 1], 0, p.nnzb) - clamp(p.crow[position], 0, p.nnzb);
      keys[j] += (blocks * steps_per_block + kTileOverheadSteps) << 8;
      if (j * 32 + lane == blockIdx.x) own = tile;
    }
    own = __reduce_min_sync(~0u, own);
    if (own != ~0u) queue.push(own);
    begin += count;
  }
  queue.push(tiles);
}

template <int kTileRows>
__device__ inline void produce(const HopperParams& p, const RankedRow* order, TileQueue queue,
                               uint32_t stages, uint32_t full, uint32_t empty) {
  using Tile = HopperTile<kTileRows>;
  const int lane = threadIdx.x % 32;
  const int32_t last_start = p.cols - p.block_cols;
  const auto load_starts = [&](const HopperWork& work, int32_t base) {
    const int32_t block = base + lane;
    return block < work.blocks(p) ? __ldg(p.col_start + work.first(p) + block) : 0;
  };
  Ring<Tile::kStages> ring;
  uint32_t tile = queue.pop();
  HopperWork work = work_of<kTileRows>(p, order, tile);
  int32_t starts = load_starts(work, 0);
  while (tile < static_cast<uint32_t>(p.tiles)) {
    /* Not before this tile is on its way: at the start the scheduler is still dealing the next. */
    HopperWork next;
    const auto look_ahead = [&] {
      tile = queue.pop();
      next = work_of<kTileRows>(p, order, tile);
    };
    const int32_t blocks = work.blocks(p);
    for (int32_t i = 0; i < blocks; ++i) {
      if (i > 0 && i % 32 == 0) starts = load_starts(work, i);
      const int32_t start = clamp(__shfl_sync(~0u, starts, i % 32), 0, last_start);
      const int32_t row = (work.first(p) + i) * p.block_rows + work.row_in_block;
      for (int32_t col = 0; col < p.block_cols; col += kStepCols) {
        ptx::mbarrier_wait(empty + ring.stage * 8, ring.parity ^ 1);
        if (lane == 0) {
          const uint32_t barrier = full + ring.stage * 8;
          const uint32_t stage = stages + ring.stage * Tile::kStageBytes;
          ptx::mbarrier_expect_bytes(barrier, Tile::kStageBytes);
          ptx::load_box(stage, &p.values, col, row, barrier);
#pragma unroll
          for (int box = 0; box < Tile::kTokens / kConsumerTokens; ++box) {
            ptx::load_box(stage + Tile::kValueBytes + box * Tile::kXBoxBytes, &p.x, start + col,
                          work.token + box * kConsumerTokens, barrier);
          }
        }
        __syncwarp();
        ring.advance();
      }
      if (i == blocks / 2) look_ahead();
    }
    if (blocks == 0) look_ahead();
    work = next;
    starts = load_starts(work, 0);
  }
}

/*
 * Activates sums in place, 16 at a time: the registers rotate past one copy of the code, which
 * would not fit into the instruction cache 128 times.
 */
template <int kActivation>
__device__ inline void activate_all(float (&sums)[128]) {
  constexpr int kGroup = 16;
#pragma unroll 1
  for (int round = 0; round < 128 / kGroup; ++round) {
    float group[kGroup];
#pragma unroll
    for (int i = 0; i < kGroup; ++i) group[i] = activate(kActivation, sums[i]);
#pragma unroll
    for (int i = 0; i < 128 - kGroup; ++i) sums[i] = sums[i + kGroup];
#pragma unroll
    for (int i = 0; i < kGroup; ++i) sums[128 - kGroup + i] = group[i];
  }
}

__device__ inline void activate_all(int activation, float (&sums)[128]) {
  switch (activation) {
    case DJLBSR_RELU:
#pragma unroll
      for (float& sum : sums) sum = activate(DJLBSR_RELU, sum);
      break;
    case DJLBSR_GELU:
      activate_all<DJLBSR_GELU>(sums);
      break;
    case DJLBSR_GELU_TANH:
      activate_all<DJLBSR_GELU_TANH>(sums);
      break;
    case DJLBSR_SILU:
      activate_all<DJLBSR_SILU>(sums);
      break;
    default:
      break;
  }
}

template <typename Element>
__device__ inline uint32_t pack_pair(float low, float high) {
  const Element pair[2] = {from_float<Element>(low), from_float<Element>(high)};
  uint32_t bits;
  memcpy(&bits, pair, 4);
  return bits;
}

/*
 * Writes a consumer's sums to y: row is its first weight row, token its first token. Through shared
 * memory, where they are turned so that eight threads write the 128 bytes of a token. y is not read
 * again here: its lines should leave L2 before those of x and the weight.
 */
template <typename Element, int kTileRows>
__device__ inline void store(const HopperParams& p, const float (&sums)[128], char* buffer,
                             int64_t row, int32_t token, int barrier_id) {
  using Tile = HopperTile<kTileRows>;
  const int thread = threadIdx.x % kWarpgroup;
  const int lane = thread % 32;
  const int warp = thread / 32;
  /* 16-byte chunks of 8 rows; the xor spreads the tokens of a chunk over the banks. */
  const int turn_token = lane / 16 * 8 + lane % 8;
  const int turn_chunk = (warp * 2 + lane / 8 % 2) ^ (turn_token % 8);
  const uint32_t turn = ptx::shared_address(buffer) + turn_token * 128 + turn_chunk * 16;
  const int out_token = thread / 8;
  const int out_chunk = thread % 8;
  const char* const out = buffer + out_token * 128 + (out_chunk ^ (out_token % 8)) * 16;
  auto* const y =
      static_cast<Element*>(p.y) + (token + out_token) * p.y_stride + row + out_chunk * 8;
#pragma unroll
  for (int first = 0; first < kConsumerTokens; first += Tile::kStoreTokens) {
    ptx::warpgroup_sync(barrier_id);
#pragma unroll
    for (int t = 0; t < Tile::kStoreTokens; t += 16) {
      const int r = (first + t) / 2;
      ptx::store_matrices_transposed(turn + t * 128, pack_pair<Element>(sums[r], sums[r + 1]),
                                     pack_pair<Element>(sums[r + 2], sums[r + 3]),
                                     pack_pair<Element>(sums[r + 4], sums[r + 5]),
                                     pack_pair<Element>(sums[r + 6], sums[r + 7]));
    }
    ptx::warpgroup_sync(barrier_id);
#pragma unroll
    for (int t = 0; t < Tile::kStoreTokens; t += 16) {
      if (token + first + t + out_token < p.tokens) {
        __stcs(reinterpret_cast<uint4*>(y + (first + t) * p.y_stride),
               *reinterpret_cast<const uint4*>(out + t * 128));
      }
    }
  }
}

template <typename Element, int kTileRows>
__device__ inline void consume(const HopperParams& p, const RankedRow* order, TileQueue queue,
                               char* shared, uint32_t full, uint32_t empty, int consumer) {
  using Tile = HopperTile<kTileRows>;
  constexpr bool kSplitsRows = kTileRows > kConsumerRows;
  const int thread = threadIdx.x % kWarpgroup;
  const int32_t own_row = kSplitsRows ? consumer * kConsumerRows : 0;
  const int32_t own_token = kSplitsRows ? 0 : consumer * kConsumerTokens;
  const uint32_t own_values = ptx::shared_address(shared) + own_row * 128;
  const uint32_t own_x = ptx::shared_address(shared) + Tile::kValueBytes + own_token * 128;
  char* const buffer = shared + Tile::kStores + consumer * Tile::kStoreBytes;
  const auto* const bias = static_cast<const Element*>(p.bias);
  const auto release = [&](int stage) {
    if (thread % 32 == 0) ptx::mbarrier_arrive(empty + stage * 8);
  };
  Ring<Tile::kStages> ring;
  uint32_t tile = queue.pop();
  HopperWork work = work_of<kTileRows>(p, order, tile);
  while (tile < static_cast<uint32_t>(p.tiles)) {
    const int32_t steps = work.blocks(p) * (p.block_cols / kStepCols);
    const int64_t row = int64_t{work.block_row} * p.block_rows + work.row_in_block + own_row;
    const int thread_row = thread / 32 * 16 + thread % 32 / 4;
    const float low = bias == nullptr ? 0.0f : to_float(bias[row + thread_row]);
    const float high = bias == nullptr ? 0.0f : to_float(bias[row + thread_row + 8]);

    float sums[128];
#pragma unroll
    for (float& sum : sums) sum = 0.0f;
    int previous = -1;
    for (int32_t step = 0; step < steps; ++step) {
      ptx::mbarrier_wait(full + ring.stage * 8, ring.parity);
      const uint64_t a = ptx::operand(own_values + ring.stage * Tile::kStageBytes);
      const uint64_t b = ptx::operand(own_x + ring.stage * Tile::kStageBytes);
      ptx::wgmma_fence();
#pragma unroll
      for (int k = 0; k < kStepCols / 16; ++k) {
        ptx::wgmma_64x256x16<Element>(sums, a + 2 * k, b + 2 * k);
      }
      ptx::wgmma_commit();
      ptx::wgmma_wait<1>(); /* the step before is done with its stage */
      if (previous >= 0) release(previous);
      previous = ring.stage;
      ring.advance();
    }
    ptx::wgmma_wait<0>();
    if (previous >= 0) release(previous);
    tile = queue.pop();
    const HopperWork next = work_of<kTileRows>(p, order, tile);

#pragma unroll
    for (int i = 0; i < 128; i += 4) {
      sums[i] += low;
      sums[i + 1] += low;
      sums[i + 2] += high;
      sums[i + 3] += high;
    }
    activate_all(p.activation, sums);
    store<Element, kTileRows>(p, sums, buffer, row, work.token + own_token, 1 + consumer);
    work = next;
  }
}

template <typename Element, int kTileRows>
__global__ void __launch_bounds__(kHopperThreads, 1)
    hopper_kernel(const __grid_constant__ HopperParams p) {
  using Tile = HopperTile<kTileRows>;
  extern __shared__ __align__(1024) char shared[];
  const uint32_t full = ptx::shared_address(shared + Tile::kBarriers);
  const uint32_t empty = full + Tile::kStages * 8;
  auto* const order = reinterpret_cast<RankedRow*>(shared + Tile::kOrder);
  const TileQueue queue = {ptx::shared_address(shared + Tile::kSlotBarriers),
                           reinterpret_cast<volatile uint32_t*>(shared + Tile::kSlotTiles),
                           {}};

  if (threadIdx.x == 0) {
    ptx::prefetch_tensor_map(&p.values);
    ptx::prefetch_tensor_map(&p.x);
    for (int stage = 0; stage < Tile::kStages; ++stage) {
      ptx::mbarrier_init(full + stage * 8, 1);
      ptx::mbarrier_init(empty + stage * 8, kConsumers * kWarpgroup / 32);
    }
    for (int slot = 0; slot < kSlots; ++slot) {
      ptx::mbarrier_init(queue.barriers + slot * 8, 1);
      ptx::mbarrier_init(queue.barriers + (kSlots + slot) * 8, 1 + kConsumers * kWarpgroup / 32);
    }
    ptx::fence_mbarrier_init();
  }
  if (p.block_row_count <= kMaxSortedRows) {
    rank_block_rows(p, reinterpret_cast<int32_t*>(shared), order);
    ptx::fence_proxy_async(); /* lengths lay where copies will */
  }
  __syncthreads();

  const int warpgroup = threadIdx.x / kWarpgroup;
  if (warpgroup == 0) {
    ptx::give_registers<40>();
    if (threadIdx.x < 32) {
      produce<kTileRows>(p, order, queue, ptx::shared_address(shared), full, empty);
    } else if (threadIdx.x < 64) {
      schedule(p, order, queue);
    }
  } else {
    ptx::take_registers<232>();
    consume<Element, kTileRows>(p, order, queue, shared, full, empty, warpgroup - 1);
  }
}

}  // namespace djlbsr::cuda
