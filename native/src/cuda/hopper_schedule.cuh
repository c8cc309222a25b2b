/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 *
 * Which CTA of a persistent Hopper kernel computes which tiles, and the pieces that hand them on.
 *
 * Tiles are ordered by panels of tokens whose x fits in half of L2, inside a panel by falling
 * number of stored blocks. A scheduler warp of every CTA deals them out, gridDim.x at a time, the
 * longest to the CTA with the least work so far: all CTAs compute the same deal, so that none has
 * to tell another and no counter in global memory is needed.
 */
#pragma once

#include "cuda/element.cuh"
#include "cuda/hopper_ptx.cuh"

namespace djlbsr::cuda {

constexpr int kWarpgroup = 128;
constexpr int kMaxSortedRows = 512;
constexpr int kMaxGrid = 160;         /* CTAs that the scheduler knows; an H100 has 132 */
constexpr int kTileOverheadSteps = 2; /* of a tile's start and end, in steps */
constexpr int kSlots = 8;             /* of tiles dealt and not yet begun */

/* A weight, and how its product is cut into tiles. */
struct ScheduleParams {
  const int32_t* crow;
  int32_t nnzb;
  int32_t cols;
  int32_t block_rows;
  int32_t block_cols;
  int32_t block_row_count;
  int32_t steps_per_block; /* the length of a block in the kernel's steps */
  int32_t slices_per_block_row;
  int32_t token_tiles;
  int32_t panel_token_tiles;
  int32_t tiles;
};

/* One tile of work. What is loaded is clamped at its use, so that a load can stay in flight. */
struct TileWork {
  int32_t begin;
  int32_t end;
  int32_t block_row;
  int32_t row_in_block;
  int32_t token;

  __device__ int32_t first(const ScheduleParams& p) const { return clamp(begin, 0, p.nnzb); }
  __device__ int32_t blocks(const ScheduleParams& p) const {
    return clamp(clamp(end, 0, p.nnzb) - first(p), 0, p.cols / p.block_cols);
  }
};

/* A block-row, and the number of its blocks up to 65535. */
struct RankedRow {
  uint16_t row;
  uint16_t blocks;
};

/* Where a tile lies, from its number in the order of the schedule. */
struct TilePlace {
  uint32_t token_tile;
  uint32_t position; /* of its block-row among those ranked */
  uint32_t slice;    /* of that block-row */
};

__device__ inline TilePlace place_of(const ScheduleParams& p, uint32_t tile) {
  const uint32_t slices = p.block_row_count * p.slices_per_block_row;
  const uint32_t panel_tiles = slices * p.panel_token_tiles;
  const uint32_t first_token_tile = tile / panel_tiles * p.panel_token_tiles;
  const uint32_t in_panel = tile % panel_tiles;
  const uint32_t width = min(p.panel_token_tiles, p.token_tiles - first_token_tile);
  const uint32_t slice = in_panel / width;
  return {first_token_tile + in_panel % width, slice / p.slices_per_block_row,
          slice % p.slices_per_block_row};
}

template <typename Tile>
__device__ inline TileWork work_of(const ScheduleParams& p, const RankedRow* order, uint32_t tile) {
  TileWork work = {};
  if (tile >= static_cast<uint32_t>(p.tiles)) return work;
  const TilePlace place = place_of(p, tile);
  work.block_row = p.block_row_count <= kMaxSortedRows ? order[place.position].row : place.position;
  work.row_in_block = place.slice * Tile::kRows;
  work.token = place.token_tile * Tile::kTokens;
  work.begin = __ldg(p.crow + work.block_row);
  work.end = __ldg(p.crow + work.block_row + 1);
  return work;
}

/* Ranks the block-rows by falling number of blocks. lengths is scratch. */
__device__ inline void rank_block_rows(const ScheduleParams& p, int32_t* lengths,
                                       RankedRow* order) {
  for (int row = threadIdx.x; row < p.block_row_count; row += blockDim.x) {
    lengths[row] = clamp(p.crow[row + 1], 0, p.nnzb) - clamp(p.crow[row], 0, p.nnzb);
  }
  __syncthreads();
  for (int row = threadIdx.x; row < p.block_row_count; row += blockDim.x) {
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
__device__ inline void schedule(const ScheduleParams& p, const RankedRow* order, TileQueue queue) {
  constexpr int kPerLane = kMaxGrid / 32;
  const uint32_t lane = threadIdx.x % 32;
  const uint32_t tiles = p.tiles;
  const uint32_t steps_per_block = p.steps_per_block;
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

}  // namespace djlbsr::cuda
