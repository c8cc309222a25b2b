/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 *
 * What the producers and consumers of hopper_panel_kernel.cuh share: its parameters, how a CTA's
 * shared memory is laid out, and where a tile lies.
 */
#pragma once

#include "cuda/element.cuh"
#include "cuda/hopper_ptx.cuh"
#include "cuda/hopper_schedule.cuh"
#include "cuda/panels.h"

namespace djlbsr::cuda {

constexpr int kPanelThreads = (1 + kPanelConsumers) * 128;
/* In which a warp turns 8 tokens x 64 rows of y. */
constexpr int kPanelWarpStoreBytes = 8 * 128;
/* What the consumers must know of a chunk beside its header: these flags, and in a second word 0
 * where there is no chunk, else ~0. */
constexpr uint32_t kLastOfPanel = 1;
constexpr uint32_t kLastOfTile = 2;
constexpr uint32_t kLastOfAll = 4;

struct PanelParams : DealParams {
  CUtensorMap x;                /* [tokens, cols] in boxes of box_tokens x 64 */
  const int32_t* rows_of_tiles; /* PanelLayout::rows */
  const PanelPair* pairs;
  const PanelEntry* entries;
  const PanelStep* steps;
  const char* chunks;
  const void* bias; /* or null */
  void* y;
  int64_t y_stride;
  int64_t chunk_bytes;
  int32_t panels; /* of the columns */
  int32_t entry_count;
  int32_t step_count;
  int32_t tokens;
  int32_t box_tokens; /* 128, or all there are */
  int32_t rows;
  int32_t activation;
};

/* Lengths of pairs for the scheduler. */
struct PairCosts {
  const PanelPair* pairs;
  __device__ uint32_t operator()(int32_t position) const {
    return loaded_length(&pairs[position].cost);
  }
};

template <int kBlockSide, int kChunkSlots>
struct PanelTile {
  static constexpr int kBlock = kBlockSide;
  static constexpr PanelShape kShape = {kBlockSide, kChunkSlots};
  static constexpr bool kRowsOnM = kBlock == 64;
  static constexpr int kCols = kShape.cols();
  static constexpr int kTokens = kRowsOnM ? 256 : 128;
  static constexpr int kHalves = 2; /* of tokens on wgmma's M, or on its N */
  static constexpr int kConsumerRows = kShape.consumer_rows();
  static constexpr int kSquaresDown = kShape.squares_down();
  static constexpr int kSquaresAcross = kShape.squares_across();
  static constexpr int kPanelSlots = kChunkSlots;
  static constexpr int kMostSteps = kShape.most_steps(); /* of a tile in a panel */
  static constexpr int kSlotBytes = kShape.slot_bytes();
  static constexpr int kHeaderBytes = kShape.header_bytes();
  static constexpr int kChunkBytes = kShape.chunk_bytes();

  /* A panel of x is two boxes: of its halves along the columns, or along the tokens. */
  static constexpr int kBoxBytes = 128 * 128;
  static constexpr int kXBytes = 2 * kBoxBytes;
  static constexpr int kChunkStages = kRowsOnM ? 3 : 4;
  static constexpr int kXStages = kChunkSlots * kSlotBytes > 24 * 1024 ? 3 : 4;
  /* A consumer turns 32 tokens x 64 rows of y, or its warps 8 tokens x 64 rows each. */
  static constexpr int kStoreTokens = 32;
  static constexpr int kStoreBytes = kRowsOnM ? kStoreTokens * 128 : 4 * kPanelWarpStoreBytes;

  /* Chunks first: masks of an altered header lead into x, not past shared memory. */
  static constexpr int kX = (kChunkStages * kChunkBytes + 1023) / 1024 * 1024;
  static constexpr int kStores = kX + kXStages * kXBytes;
  static constexpr int kBarriers = kStores + kPanelConsumers * kStoreBytes;
  static constexpr int kFlags = kBarriers + 2 * (kXStages + kChunkStages) * 8;
  static constexpr int kQueue = kFlags + kChunkStages * 8;
  static constexpr int kKeys = (kQueue + TileQueue::kBytes + 15) / 16 * 16;
  /* Of the tiles in the slots of the queue. */
  static constexpr int kRowStride = kShape.place_stride();
  static constexpr int kRowBytes = kRowStride * 4;
  static constexpr int kRowTables = kKeys + kMaxGrid * 4;
  static constexpr int kRowBarriers = kRowTables + kQueueSlots * kRowBytes;
  static constexpr int kSharedBytes = kRowBarriers + kQueueSlots * 8;
  static_assert(kSharedBytes <= 227 * 1024, "shared memory of a CTA");
  static_assert(kSquaresDown * kSquaresAcross * kSlotBytes <= kXStages * kXBytes, "as said above");
};

/* The rings of a CTA; addresses of shared memory. */
template <typename Tile>
struct PanelRings {
  char* shared;
  uint32_t base;

  __device__ explicit PanelRings(char* memory) : shared(memory) {
    /* Opaque: the compiler would compute it again for every use. */
    asm volatile("mov.u32 %0, %1;" : "=r"(base) : "r"(ptx::shared_address(memory)));
    base = warp_uniform(base);
  }
  __device__ uint32_t chunk(int stage) const { return base + stage * Tile::kChunkBytes; }
  __device__ uint32_t x(int stage) const { return base + Tile::kX + stage * Tile::kXBytes; }
  __device__ uint32_t x_full(int stage) const { return base + Tile::kBarriers + stage * 8; }
  __device__ uint32_t x_empty(int stage) const { return x_full(Tile::kXStages + stage); }
  __device__ uint32_t chunk_full(int stage) const { return x_full(2 * Tile::kXStages + stage); }
  __device__ uint32_t chunk_empty(int stage) const {
    return chunk_full(Tile::kChunkStages + stage);
  }
  __device__ uint32_t rows(int slot) const {
    return base + Tile::kRowTables + slot * Tile::kRowBytes;
  }
  __device__ uint32_t rows_full(int slot) const { return base + Tile::kRowBarriers + slot * 8; }
  __device__ uint32_t flags(int stage) const { return base + Tile::kFlags + stage * 8; }
};

/* Where a tile lies. */
struct PanelPlace {
  int32_t pair;
  int32_t token;
  int32_t begin; /* entries */
  int32_t end;
};

template <typename Tile>
__device__ inline int32_t panel_token(const PanelParams& p, TilePlace tile) {
  return first_token(static_cast<int32_t>(tile.tokens / 2) * Tile::kTokens, Tile::kTokens,
                     p.tokens);
}

template <typename Tile>
__device__ inline PanelPlace panel_place(const PanelParams& p, TilePlace tile) {
  const int4 pair = __ldg(reinterpret_cast<const int4*>(p.pairs + tile.slice));
  PanelPlace place;
  place.pair = clamp(pair.x, 0, p.row_count - 1);
  place.token = panel_token<Tile>(p, tile);
  place.begin = clamp(pair.z, 0, p.entry_count);
  place.end = clamp(pair.w, place.begin, min(place.begin + p.panels, p.entry_count));
  return place;
}

}  // namespace djlbsr::cuda
