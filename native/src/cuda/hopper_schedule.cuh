/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 *
 * Which CTA of a persistent Hopper kernel computes which tiles, and the pieces that hand them on;
 * first_token() is for all Hopper kernels.
 *
 * Tiles are ordered by panels of tokens whose x fits in half of L2, inside a panel by falling
 * number of stored blocks. Block-rows that would end long after all others go first, in all panels;
 * those that would outlast everything are cut to half tiles of tokens. A scheduler warp of every
 * CTA deals the tiles out, the longest to the CTA with the least work so far: all CTAs compute the
 * same deal, so that none has to tell another and no counter in global memory is needed.
 */
#pragma once

#include <algorithm>

#include "cuda/element.cuh"
#include "cuda/hopper_ptx.cuh"
#include "cuda/launch_ptx.cuh"
#include "cuda/linear_params.h"

namespace djlbsr::cuda {

constexpr int kWarpgroup = 128;
constexpr int kMaxSharedLengths = 1024; /* of block-rows; of more, lengths come from L2 */
constexpr int kMaxGrid = 160;           /* CTAs that the scheduler knows; an H100 has 132 */
constexpr int kSlots = 8;               /* of tiles dealt and not yet begun */
/* What a CTA's time goes into: a step, one of a half tile, and a tile's start and end. */
constexpr int kStepCost = 8;
constexpr int kHalfStepCost = 5;
constexpr int kTileCost = 16;
constexpr int kDealCost = 24; /* what all CTAs do while the scheduler deals once */

/* A weight, and how its product is cut into tiles. */
struct ScheduleParams {
  const BlockRow* rows; /* by falling number of blocks */
  int32_t nnzb;
  int32_t cols;
  int32_t block_rows;
  int32_t block_cols;
  int32_t block_row_count;
  int32_t steps_per_block; /* the length of a block in the kernel's steps */
  int32_t slices_per_block_row;
  int32_t tokens;
  int32_t token_tiles;
  int32_t
      token_halves; /* half tiles that have tokens, or 2 * token_tiles where none shall be cut */
  int32_t panel_token_tiles;
  int32_t long_blocks;   /* a block-row of more goes before all others */
  int32_t narrow_blocks; /* a block-row of more is cut to half tiles */
};

/* Sets the last two, for so many CTAs; the others are set. */
inline void balance(ScheduleParams& p, int64_t ctas) {
  const double steps_cost = static_cast<double>(p.steps_per_block) * kStepCost;
  const auto blocks_of = [&](double cost) {
    return static_cast<int32_t>(std::clamp((cost - kTileCost) / steps_cost, 0.0, 1e9));
  };
  const double slices = static_cast<double>(p.block_row_count) * p.slices_per_block_row;
  const double mean = static_cast<double>(p.nnzb) / p.block_row_count;
  /* A CTA's share of a tile of tokens. */
  const double share = (mean * steps_cost + kTileCost) * slices / static_cast<double>(ctas);
  /* In the last panel it would end later than the others by a panel and a tenth of everything. */
  const double panel = share * p.panel_token_tiles;
  p.long_blocks = blocks_of(panel + std::max(panel, 0.1 * share * p.token_tiles));
  /* Beyond a CTA's share and the mean, and longer than a tile's own cost makes up for. */
  const double narrow =
      std::max({1.5 * share * p.token_tiles, 2.5 * mean * steps_cost, 8.0 * kTileCost});
  p.narrow_blocks = slices * p.token_tiles <= static_cast<double>(ctas)
                        ? -1 /* all of them: there are CTAs for twice the tiles */
                        : blocks_of(narrow);
}

/* One tile of work. What is loaded is clamped at its use, so that a load can stay in flight. */
struct TileWork {
  int4 loaded; /* a BlockRow */
  int32_t row_in_block;
  int32_t token;
  bool narrow; /* half the tokens */

  __device__ int32_t block_row(const ScheduleParams& p) const {
    return clamp(loaded.x, 0, p.block_row_count - 1);
  }
  __device__ int32_t first(const ScheduleParams& p) const { return clamp(loaded.y, 0, p.nnzb); }
  __device__ int32_t blocks(const ScheduleParams& p) const {
    return clamp(loaded.z, 0, min(p.nnzb - first(p), p.cols / p.block_cols));
  }
};

/* A tile, as it is dealt. */
struct TilePlace {
  uint32_t slice;  /* of the block-rows as ranked; kNoTile ends them */
  uint32_t tokens; /* the first half tile of tokens, and kNarrow where it is just that */

  static constexpr uint32_t kNoTile = ~0u;
  static constexpr uint32_t kNarrow = 1u << 31;
  __device__ bool last() const { return slice == kNoTile; }
};

/*
 * The first token of a tile: the last tile reaches back over tokens of the one before, whose bits
 * it writes again, since rows past the last of x take the copy engine longer than rows that exist.
 */
__device__ inline int32_t first_token(int32_t token, int32_t tile_tokens, int32_t tokens) {
  return max(min(token, tokens - tile_tokens), 0);
}

template <typename Tile>
__device__ inline TileWork work_of(const ScheduleParams& p, TilePlace place) {
  TileWork work = {};
  if (place.last()) return work;
  const uint32_t position = place.slice / p.slices_per_block_row;
  work.loaded = __ldg(reinterpret_cast<const int4*>(p.rows + position));
  work.row_in_block = place.slice % p.slices_per_block_row * Tile::kRows;
  work.narrow = (place.tokens & TilePlace::kNarrow) != 0;
  work.token = first_token((place.tokens & ~TilePlace::kNarrow) * (Tile::kTokens / 2),
                           Tile::kTokens >> work.narrow, p.tokens);
  return work;
}

/* The number of blocks of the block-row of this rank, up to 65535. */
__device__ inline uint32_t loaded_length(const ScheduleParams& p, int32_t position) {
  return static_cast<uint32_t>(clamp(__ldg(&p.rows[position].blocks), 0, 0xffff));
}

/* All threads: copies the lengths of the block-rows, where there is room for them. */
__device__ inline void load_lengths(const ScheduleParams& p, uint16_t* lengths) {
  if (p.block_row_count > kMaxSharedLengths) return;
  for (int32_t i = static_cast<int32_t>(threadIdx.x); i < p.block_row_count; i += blockDim.x) {
    lengths[i] = static_cast<uint16_t>(loaded_length(p, i));
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

/* The tiles of this CTA, from its scheduler warp to its other warps. */
struct TileQueue {
  uint32_t barriers; /* kSlots full ones, kSlots empty ones */
  volatile TilePlace* places;
  Ring<kSlots> ring;

  __device__ void push(TilePlace place) {
    ptx::mbarrier_wait(barriers + (kSlots + ring.stage) * 8, ring.parity ^ 1);
    if (threadIdx.x % 32 == 0) {
      places[ring.stage].slice = place.slice;
      places[ring.stage].tokens = place.tokens;
      ptx::mbarrier_arrive(barriers + ring.stage * 8);
    }
    __syncwarp();
    ring.advance();
  }

  __device__ TilePlace pop() {
    ptx::mbarrier_wait(barriers + ring.stage * 8, ring.parity);
    const TilePlace place = {places[ring.stage].slice, places[ring.stage].tokens};
    __syncwarp();
    if (threadIdx.x % 32 == 0) ptx::mbarrier_arrive(barriers + (kSlots + ring.stage) * 8);
    ring.advance();
    return place;
  }
};

/* A warp that deals the tiles of all CTAs and queues those of its own. */
class Scheduler {
 public:
  /* shared_keys is scratch of kMaxGrid. */
  __device__ Scheduler(const ScheduleParams& p, const uint16_t* lengths, TileQueue queue,
                       uint32_t* shared_keys)
      : p_(p), lengths_(lengths), queue_(queue), shared_keys_(shared_keys) {
#pragma unroll
    for (int j = 0; j < kPerLane; ++j) {
      keys_[j] = j * 32 + lane() < gridDim.x ? j * 32 + lane() : ~0u;
    }
  }

  __device__ __forceinline__ void run() {
    const int32_t long_rows = rows_above(p_.long_blocks);
    const int32_t narrow_rows = rows_above(p_.narrow_blocks);
#pragma unroll 1 /* one copy of the code */
    for (int pass = 0; pass < 2; ++pass) {
      const bool first = pass == 0;
      const int32_t begin = first ? 0 : long_rows;
      const int32_t end = first ? long_rows : p_.block_row_count;
      if (begin == end) continue;
      const int32_t narrow_end = clamp(narrow_rows, begin, end);
      /* A few long block-rows of one panel would not give every CTA a tile. */
      const int32_t slices = (end - begin) * p_.slices_per_block_row;
      const int32_t panel =
          first ? max(p_.panel_token_tiles, gridDim.x / slices + 1) : p_.panel_token_tiles;
      for (int32_t tokens = 0; tokens < p_.token_tiles; tokens += panel) {
        const int32_t width = min(panel, p_.token_tiles - tokens);
        const int32_t wide = min(width, p_.token_halves / 2 - tokens); /* not half empty */
#pragma unroll 1
        for (int part = 0; part < 3; ++part) {
          const int32_t from = part == 0 ? begin : narrow_end;
          const int32_t to = part == 0 ? narrow_end : end;
          const int32_t first_tile = part < 2 ? tokens : tokens + wide;
          deal(from, to - from, first_tile,
               part == 0   ? width
               : part == 1 ? wide
                           : width - wide,
               part != 1);
        }
      }
    }
    queue_.push({TilePlace::kNoTile, 0});
  }

 private:
  static constexpr int kPerLane = kMaxGrid / 32;

  __device__ static uint32_t lane() { return threadIdx.x % 32; }

  __device__ uint32_t length(int32_t position) const {
    return p_.block_row_count <= kMaxSharedLengths ? lengths_[position]
                                                   : loaded_length(p_, position);
  }

  /* How many block-rows have more blocks; they are the first of the order. */
  __device__ int32_t rows_above(int32_t blocks) const {
    int32_t rows = 0;
    for (int32_t base = 0; base < p_.block_row_count; base += 32) {
      const int32_t row = base + static_cast<int32_t>(lane());
      const bool above = row<p_.block_row_count&& static_cast<int32_t>(length(row))> blocks;
      rows += __popc(__ballot_sync(~0u, above));
    }
    return rows;
  }

  __device__ uint32_t cost(int32_t position, bool narrow) const {
    return length(position) * p_.steps_per_block * (narrow ? kHalfStepCost : kStepCost) + kTileCost;
  }

  /* All tiles of block-rows by their rank and of `width` tiles of tokens. */
  __device__ __forceinline__ void deal(int32_t position, int32_t positions, int32_t token_tile,
                                       int32_t width, bool narrow) {
    if (positions <= 0 || width <= 0) return;
    const uint32_t across = narrow ? min(2 * width, p_.token_halves - 2 * token_tile) : width;
    const uint32_t row_tiles = p_.slices_per_block_row * across;
    const uint32_t tiles = positions * row_tiles;
    for (uint32_t begin = 0; begin < tiles;) {
      uint32_t count = min(gridDim.x, tiles - begin);
      uint32_t ranks[kPerLane];
      rank_ctas(ranks, count, cost(position + begin / row_tiles, narrow));
      uint32_t own = ~0u;
#pragma unroll
      for (int j = 0; j < kPerLane; ++j) {
        if (ranks[j] >= count) continue;
        const uint32_t tile = begin + ranks[j];
        if (j * 32 + lane() == blockIdx.x) own = tile;
        keys_[j] += cost(position + tile / row_tiles, narrow) << 8;
      }
      own = __reduce_min_sync(~0u, own);
      if (own != ~0u) {
        const uint32_t half = own % across;
        queue_.push({position * p_.slices_per_block_row + own / across,
                     2 * token_tile + (narrow ? half | TilePlace::kNarrow : 2 * half)});
      }
      begin += count;
    }
  }

  /*
   * Ranks the CTAs by their work so far, at first by their numbers. Those that the least busy one,
   * given a tile of this cost, would not catch up with get none: count may fall, as long as a deal
   * gives out more work than is done meanwhile.
   */
  __device__ __forceinline__ void rank_ctas(uint32_t (&ranks)[kPerLane], uint32_t& count,
                                            uint32_t cost) {
    if (idle_) {
      idle_ = false;
#pragma unroll
      for (int j = 0; j < kPerLane; ++j) ranks[j] = keys_[j];
      return;
    }
    uint32_t least = ~0u;
#pragma unroll
    for (int j = 0; j < kPerLane; ++j) least = min(least, keys_[j]);
    least = __reduce_min_sync(~0u, least) / 256;
    uint32_t within = 0;
    __syncwarp();
#pragma unroll
    for (int j = 0; j < kPerLane; ++j) {
      if (keys_[j] != ~0u) keys_[j] -= least * 256; /* so that no sum overflows */
      within += keys_[j] / 256 <= cost;             /* the sentinels are above */
      ranks[j] = 0;
      shared_keys_[j * 32 + lane()] = keys_[j];
    }
    const uint32_t fair = __reduce_add_sync(~0u, within);
    count = min(count, max(fair, gridDim.x * kDealCost / cost));
    __syncwarp();
#pragma unroll 4
    for (uint32_t first = 0; first < gridDim.x; first += 4) {
      const uint4 others = *reinterpret_cast<const uint4*>(shared_keys_ + first);
#pragma unroll
      for (int j = 0; j < kPerLane; ++j) {
        ranks[j] += others.x < keys_[j];
        ranks[j] += others.y < keys_[j];
        ranks[j] += others.z < keys_[j];
        ranks[j] += others.w < keys_[j];
      }
    }
  }

  const ScheduleParams& p_;
  const uint16_t* lengths_;
  TileQueue queue_;
  uint32_t* shared_keys_;
  /* Work of CTA 32j + lane, beyond the least busy one's, above its number in 8 bits, which
   * decides between equals; ~0 where there is none. */
  uint32_t keys_[kPerLane];
  bool idle_ = true; /* nobody has a tile yet */
};

}  // namespace djlbsr::cuda
