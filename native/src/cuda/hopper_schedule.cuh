/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 *
 * Which CTA, or cluster, of a persistent Hopper kernel computes which tiles, and the pieces that
 * hand them on; first_token() is for all Hopper kernels.
 *
 * Tiles are ordered by panels of tokens whose x stays in L2, inside a panel by falling
 * length of their row: the stored blocks of a block-row, or what a pair of tiles of panels.h costs.
 * Block-rows that would end long after all others go first, in all panels; those that would outlast
 * everything are cut to half tiles of tokens. A scheduler warp of every CTA deals the tiles out,
 * the longest to the CTA or cluster with the least work so far: all compute the same deal, so that
 * none has to tell another and no counter in global memory is needed.
 */
#pragma once

#include <algorithm>
#include <limits>

#include "cuda/element.cuh"
#include "cuda/hopper_ptx.cuh"
#include "cuda/launch_ptx.cuh"
#include "cuda/linear_params.h"

namespace djlbsr::cuda {

constexpr int kWarpgroup = 128;
constexpr int kMaxSharedLengths = 1024; /* of block-rows; of more, lengths come from L2 */
constexpr int kMaxGrid = 160;           /* CTAs that the scheduler knows; an H100 has 132 */
constexpr int kQueueSlots = 8;          /* of tiles dealt and not yet begun */
/* What a CTA's time goes into: a step, one of a half tile, and a tile's start and end. */
constexpr int kStepCost = 8;
constexpr int kHalfStepCost = 5;
constexpr int kTileCost = 16;
constexpr int kDealCost = 24; /* what all CTAs do while the scheduler deals once */

/* A greater length than any. */
constexpr int32_t kNoRowIsLonger = std::numeric_limits<int32_t>::max();

/* What is dealt: tiles of some tokens by a slice of a row. Rows are ranked by falling length. */
struct DealParams {
  int32_t row_count;
  int32_t slices_per_row;
  int32_t length_cost; /* what a unit of a row's length costs its tiles */
  int32_t token_tiles;
  int32_t
      token_halves; /* half tiles that have tokens, or 2 * token_tiles where none shall be cut */
  int32_t panel_token_tiles;
  int32_t long_length;   /* a longer row goes before all others */
  int32_t narrow_length; /* a longer row is cut to half tiles */
};

/* A weight of block-rows, whose lengths are their numbers of blocks. */
struct ScheduleParams : DealParams {
  const BlockRow* rows; /* by falling number of blocks */
  int32_t nnzb;
  int32_t cols;
  int32_t block_rows;
  int32_t block_cols;
  int32_t most_blocks; /* that a block-row has room for: cols / block_cols */
  int32_t tokens;
};

/* Sets long_length and narrow_length, for so many CTAs; the others are set. */
inline void balance(ScheduleParams& p, int64_t ctas) {
  const auto blocks_of = [&](double cost) {
    return static_cast<int32_t>(std::clamp((cost - kTileCost) / p.length_cost, 0.0, 1e9));
  };
  const double slices = static_cast<double>(p.row_count) * p.slices_per_row;
  const double mean = static_cast<double>(p.nnzb) / p.row_count;
  /* A CTA's share of a tile of tokens. */
  const double share = (mean * p.length_cost + kTileCost) * slices / static_cast<double>(ctas);
  /* In the last panel it would end later than the others by as much, and a tenth of everything. */
  const int32_t last_panel = (p.token_tiles - 1) % p.panel_token_tiles + 1;
  p.long_length =
      blocks_of(share * (last_panel + std::max<double>(last_panel, 0.1 * p.token_tiles)));
  /* Beyond a CTA's share and the mean, and longer than a tile's own cost makes up for. */
  const double narrow =
      std::max({1.5 * share * p.token_tiles, 2.5 * mean * p.length_cost, 8.0 * kTileCost});
  p.narrow_length = slices * p.token_tiles <= static_cast<double>(ctas)
                        ? -1 /* all of them: there are CTAs for twice the tiles */
                        : blocks_of(narrow);
}

/* The stored blocks of a block-row. */
struct BlockRange {
  int32_t block_row;
  int32_t first;
  int32_t count;
};

/* One tile of work. What is loaded is clamped at its use, so that a load can stay in flight. */
struct TileWork {
  int4 loaded; /* a BlockRow */
  int32_t row_in_block;
  int32_t token;
  bool narrow; /* half the tokens */

  __device__ BlockRange range(const ScheduleParams& p) const {
    BlockRange r;
    r.block_row = clamp(loaded.x, 0, p.row_count - 1);
    r.first = clamp(loaded.y, 0, p.nnzb);
    r.count = clamp(loaded.z, 0, min(p.nnzb - r.first, p.most_blocks));
    return r;
  }
};

/* A tile, as it is dealt. */
struct TilePlace {
  uint32_t slice;  /* of the rows as ranked; kNoTile ends them */
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
  uint32_t position = place.slice;
  if (p.slices_per_row > 1) { /* two divisions are part of a short tile's time */
    position = place.slice / p.slices_per_row;
    work.row_in_block = place.slice % p.slices_per_row * Tile::kRows;
  }
  work.loaded = __ldg(reinterpret_cast<const int4*>(p.rows + position));
  work.narrow = (place.tokens & TilePlace::kNarrow) != 0;
  work.token = first_token((place.tokens & ~TilePlace::kNarrow) * (Tile::kTokens / 2),
                           Tile::kTokens >> work.narrow, p.tokens);
  return work;
}

/* A row's length by its rank; they are 16 bits. */
__device__ inline uint32_t loaded_length(const int32_t* length) {
  return static_cast<uint32_t>(clamp(__ldg(length), 0, 0xffff));
}

/* Lengths of block-rows, from shared memory where there is room for them. */
struct BlockRowLengths {
  const BlockRow* rows;
  uint16_t* shared; /* kMaxSharedLengths */
  bool fit;

  __device__ BlockRowLengths(const ScheduleParams& p, uint16_t* memory)
      : rows(p.rows), shared(memory), fit(p.row_count <= kMaxSharedLengths) {}

  /* All threads. */
  __device__ void load(int32_t count) {
    if (!fit) return;
    for (int32_t i = static_cast<int32_t>(threadIdx.x); i < count; i += blockDim.x) {
      shared[i] = static_cast<uint16_t>(loaded_length(&rows[i].blocks));
    }
  }

  __device__ uint32_t operator()(int32_t position) const {
    return fit ? shared[position] : loaded_length(&rows[position].blocks);
  }
};

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

/* The or of all lanes' values, all the same or 0. The compiler learns that it is uniform. */
__device__ inline uint32_t warp_uniform(uint32_t value) { return __reduce_or_sync(~0u, value); }

/* The tiles of this CTA, from its scheduler warp to its other warps; each has its own copy. */
struct TileQueue {
  uint32_t base; /* in shared memory: kQueueSlots full barriers, as many empty ones, the places */
  uint32_t count = 0;

  static constexpr int kBytes = kQueueSlots * 2 * 8 + kQueueSlots * sizeof(TilePlace);

  __device__ explicit TileQueue(uint32_t address) : base(address) {}
  __device__ uint32_t slot() const { return count % kQueueSlots; }
  /* Of what was popped last. */
  __device__ uint32_t last_slot() const { return (count - 1) % kQueueSlots; }
  __device__ uint32_t full() const { return base + slot() * 8; }
  __device__ uint32_t empty() const { return full() + kQueueSlots * 8; }
  __device__ uint32_t place() const { return full() + 2 * kQueueSlots * 8; }
  __device__ uint32_t parity() const { return count / kQueueSlots & 1; }

  /* One thread, for so many warps that pop. */
  __device__ void init(int readers) const {
    for (int slot = 0; slot < kQueueSlots; ++slot) {
      ptx::mbarrier_init(base + slot * 8, 1);
      ptx::mbarrier_init(base + (kQueueSlots + slot) * 8, readers);
    }
  }

  /* The same thread: the first tile, which the scheduler then leaves out. */
  __device__ void start(TilePlace tile) const {
    ptx::store_shared(place(), tile.slice, tile.tokens);
    ptx::mbarrier_arrive(full());
  }

  __device__ void push(TilePlace tile) {
    ptx::mbarrier_wait(empty(), parity() ^ 1);
    if (threadIdx.x % 32 == 0) {
      ptx::store_shared(place(), tile.slice, tile.tokens);
      ptx::mbarrier_arrive(full());
    }
    __syncwarp();
    ++count;
  }

  /* The next tile, which stays the next. */
  __device__ TilePlace front() const {
    ptx::mbarrier_wait(full(), parity());
    const uint2 tile = ptx::load_shared_pair(place());
    return {warp_uniform(tile.x), warp_uniform(tile.y)};
  }

  __device__ TilePlace pop() {
    const TilePlace tile = front();
    __syncwarp();
    if (threadIdx.x % 32 == 0) ptx::mbarrier_arrive(empty());
    ++count;
    return tile;
  }
};

/* A warp that deals the tiles of all clusters of kCtas and queues those of its own. */
template <int kCtas, typename Lengths>
class Scheduler {
 public:
  /* shared_keys is scratch of kMaxGrid. started: the queue was, with first_tile(). */
  __device__ Scheduler(const DealParams& p, const Lengths& lengths, TileQueue queue,
                       uint32_t* shared_keys, bool started = false)
      : p_(p), lengths_(lengths), queue_(queue), shared_keys_(shared_keys), started_(started) {
#pragma unroll
    for (int j = 0; j < kPerLane; ++j) {
      keys_[j] = j * 32 + lane() < clusters() ? j * 32 + lane() : ~0u;
    }
  }

  /*
   * What the first deal gives this cluster, known without it: where no row is long or cut, and a
   * panel has a tile for every cluster.
   */
  __device__ static TilePlace first_tile(const DealParams& p) {
    const uint32_t across = min(p.panel_token_tiles, p.token_tiles);
    const uint32_t own = blockIdx.x / kCtas;
    return {own / across, 2 * (own % across)};
  }

  __device__ __forceinline__ void run() {
    const int32_t long_rows = rows_above(p_.long_length);
    const int32_t narrow_rows = rows_above(p_.narrow_length);
#pragma unroll 1 /* one copy of the code */
    for (int pass = 0; pass < 2; ++pass) {
      const bool first = pass == 0;
      const int32_t begin = first ? 0 : long_rows;
      const int32_t end = first ? long_rows : p_.row_count;
      if (begin == end) continue;
      const int32_t narrow_end = clamp(narrow_rows, begin, end);
      /* A few long rows of one panel would not give every cluster a tile. */
      const int32_t slices = (end - begin) * p_.slices_per_row;
      const int32_t panel =
          first ? max(p_.panel_token_tiles, clusters() / slices + 1) : p_.panel_token_tiles;
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
  static constexpr int kPerLane = (kMaxGrid / kCtas + 31) / 32;

  __device__ static uint32_t lane() { return threadIdx.x % 32; }
  __device__ static uint32_t clusters() { return gridDim.x / kCtas; }

  /* How many rows are longer; they are the first of the order. */
  __device__ int32_t rows_above(int32_t length) const {
    if (length == kNoRowIsLonger) return 0;
    for (int32_t base = 0; base < p_.row_count; base += 32) {
      const int32_t row = base + static_cast<int32_t>(lane());
      const bool above = row<p_.row_count&& static_cast<int32_t>(lengths_(row))> length;
      const uint32_t of_32 = __ballot_sync(~0u, above);
      if (of_32 != ~0u) return base + __popc(of_32);
    }
    return p_.row_count;
  }

  __device__ uint32_t cost(int32_t position, bool narrow) const {
    const uint32_t of_tokens = lengths_(position) * p_.length_cost;
    return (narrow ? of_tokens * kHalfStepCost / kStepCost : of_tokens) + kTileCost;
  }

  /* All tiles of rows by their rank and of `width` tiles of tokens. */
  __device__ __forceinline__ void deal(int32_t position, int32_t positions, int32_t token_tile,
                                       int32_t width, bool narrow) {
    if (positions <= 0 || width <= 0) return;
    const uint32_t across = narrow ? min(2 * width, p_.token_halves - 2 * token_tile) : width;
    const uint32_t row_tiles = p_.slices_per_row * across;
    const uint32_t tiles = positions * row_tiles;
    for (uint32_t begin = 0; begin < tiles;) {
      uint32_t count = min(clusters(), tiles - begin);
      uint32_t ranks[kPerLane];
      rank_clusters(ranks, count, position + begin / row_tiles, narrow);
      uint32_t own = ~0u;
#pragma unroll
      for (int j = 0; j < kPerLane; ++j) {
        if (ranks[j] < count && j * 32 + lane() == blockIdx.x / kCtas) own = begin + ranks[j];
      }
      own = __reduce_min_sync(~0u, own);
      if (started_) {
        started_ = false;
        ++queue_.count;
      } else if (own != ~0u) {
        const uint32_t half = own % across;
        queue_.push({position * p_.slices_per_row + own / across,
                     2 * token_tile + (narrow ? half | TilePlace::kNarrow : 2 * half)});
      }
#pragma unroll
      for (int j = 0; j < kPerLane; ++j) {
        if (ranks[j] >= count) continue;
        keys_[j] += cost(position + (begin + ranks[j]) / row_tiles, narrow) << 8;
      }
      begin += count;
    }
  }

  /*
   * Ranks the clusters by their work so far. While some have no tile yet, only those are ranked, by
   * their numbers. Those that the least busy one, given a tile of the row at position, would not
   * catch up with get none: count may fall, as long as a deal gives out more work than is done
   * meanwhile.
   */
  __device__ __forceinline__ void rank_clusters(uint32_t (&ranks)[kPerLane], uint32_t& count,
                                                int32_t position, bool narrow) {
    if (idle_from_ < clusters()) {
      count = min(count, clusters() - idle_from_);
#pragma unroll
      for (int j = 0; j < kPerLane; ++j) ranks[j] = j * 32 + lane() - idle_from_; /* or large */
      idle_from_ += count;
      return;
    }
    const uint32_t tile_cost = cost(position, narrow);
    uint32_t least = ~0u;
#pragma unroll
    for (int j = 0; j < kPerLane; ++j) least = min(least, keys_[j]);
    least = __reduce_min_sync(~0u, least) / 256;
    uint32_t within = 0;
    __syncwarp();
#pragma unroll
    for (int j = 0; j < kPerLane; ++j) {
      if (keys_[j] != ~0u) keys_[j] -= least * 256; /* so that no sum overflows */
      within += keys_[j] / 256 <= tile_cost;        /* the sentinels are above */
      ranks[j] = 0;
      shared_keys_[j * 32 + lane()] = keys_[j];
    }
    const uint32_t fair = __reduce_add_sync(~0u, within);
    count = min(count, max(fair, clusters() * kDealCost / tile_cost));
    __syncwarp();
#pragma unroll 4
    for (uint32_t first = 0; first < clusters(); first += 4) {
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

  const DealParams& p_;
  const Lengths lengths_;
  TileQueue queue_;
  uint32_t* shared_keys_;
  /* Work of cluster 32j + lane, beyond the least busy one's, above its number in 8 bits, which
   * decides between equals; ~0 where there is none. */
  uint32_t keys_[kPerLane];
  uint32_t idle_from_ = 0; /* the first cluster without a tile yet; the next tiles go there */
  bool started_;
};

}  // namespace djlbsr::cuda
