/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
#pragma once

#include "cuda/hopper_panel_store.cuh"

namespace djlbsr::cuda {

/* The high half of a descriptor: 8 rows of a square are block * 16 bytes, its swizzle's period. */
template <int kBlock>
constexpr uint32_t kSquareDescriptor = (kBlock == 64   ? 1u
                                        : kBlock == 32 ? 2u
                                                       : 3u)
                                           << 30 |
                                       kBlock;
constexpr uint32_t kXDescriptor = 1u << 30 | 1024 >> 4;

__device__ inline uint32_t descriptor_low(uint32_t address) {
  return (address & 0x3ffff) >> 4 | 1u << 16;
}

/* Waits until at most `groups`, or somewhat fewer, wgmma groups are open. */
__device__ inline void wait_for_all_but(int groups) {
  if (groups >= 4) {
    ptx::wgmma_wait<4>();
  } else if (groups >= 2) {
    ptx::wgmma_wait<2>();
  } else if (groups == 1) {
    ptx::wgmma_wait<1>();
  } else {
    ptx::wgmma_wait<0>();
  }
}

/* Multiplies the squares of one consumer in one step that lie in rows kFrom to kTo, each as a wgmma
 * group of its own, and moves square past them. */
template <typename Element, typename Tile, int kFrom, int kTo, int kCount>
__device__ inline void multiply_squares(float (&sums)[kCount], uint32_t low, uint32_t high,
                                        uint32_t x, uint32_t& square) {
  constexpr int kAcross = Tile::kSquaresAcross;
  /* The bits of a column, complemented in the mask's, say which box of x has it and where in the
   * box. One multiplication takes both to their places in the descriptor. */
  constexpr uint32_t kInBox = Tile::kBlock * 2 >> 4;
  constexpr uint32_t kBox = Tile::kBoxBytes >> 4;
  constexpr uint32_t kPlaces = (64 / Tile::kBlock - 1) * kInBox | kBox;
  constexpr uint32_t kFactor = kInBox | kBox * Tile::kBlock / 64;
  static_assert(32 * kInBox <= kBox * Tile::kBlock / 64, "places do not overlap");
#pragma unroll
  for (int r = kFrom; r < kTo; ++r) {
    const int first = r * kAcross;
    uint32_t row = (first < 32 ? low : high) & ((1u << kAcross) - 1) << (32 - kAcross - first % 32);
    if (row == 0) continue;
    do {
      const uint32_t bit = 31 - __clz(row);
      row ^= 1u << bit;
      const uint32_t a = x + kPlaces - (bit * kFactor & kPlaces);
      ptx::wgmma_fence();
#pragma unroll
      for (int step = 0; step < Tile::kBlock / 16; ++step) {
#pragma unroll
        for (int half = 0; half < Tile::kHalves; ++half) {
          ptx::WgmmaSmall<Element, Tile::kBlock>::run(
              sums + half * 64 + r * (Tile::kBlock / 2),
              {a + half * (64 * 128 >> 4) + 2 * step, kXDescriptor, square + 2 * step,
               kSquareDescriptor<Tile::kBlock>});
        }
      }
      ptx::wgmma_commit();
      square += Tile::kSlotBytes >> 4;
    } while (row != 0);
  }
}

/*
 * Multiplies a step's squares of 16 and calls release as soon as the step before is done with its
 * stages: when no more groups are open than this one's.
 */
template <typename Element, typename Tile, int kCount, typename Release>
__device__ inline void multiply_step(float (&sums)[kCount], uint32_t low, uint32_t high, uint32_t x,
                                     uint32_t square, const Release& release) {
  static_assert(Tile::kBlock == 16, "low has the squares of the first half of the rows");
  constexpr int kHalf = Tile::kSquaresDown / 2;
  multiply_squares<Element, Tile, 0, kHalf>(sums, low, high, x, square);
  wait_for_all_but(__popc(low));
  release();
  multiply_squares<Element, Tile, kHalf, 2 * kHalf>(sums, low, high, x, square);
}

/* One square at most, and its rows on M. */
template <typename Element>
__device__ inline void multiply_square(float (&sums)[128], uint32_t mask, uint32_t x,
                                       uint32_t square) {
  if (mask == 0) return;
  ptx::wgmma_fence();
#pragma unroll
  for (int step = 0; step < 4; ++step) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      ptx::WgmmaSmall<Element, 128>::run(sums + half * 64,
                                         {square + 2 * step, kSquareDescriptor<64>,
                                          x + half * (128 * 128 >> 4) + 2 * step, kXDescriptor});
    }
  }
  ptx::wgmma_commit();
}

template <typename Element, typename Tile>
__device__ inline void consume_panels(const PanelParams& p, const PanelRings<Tile>& rings,
                                      TileQueue queue, int consumer) {
  constexpr bool kTwoWords = Tile::kBlock == 16;
  /* Whether a step waits for its own products: that frees its stages at once, and meanwhile other
   * consumers multiply. Of squares of 16 the next step's instructions take longer than that gains.
   */
  constexpr bool kDrains = Tile::kBlock != 16;
  const int lane = threadIdx.x % 32;
  const uint32_t own_header = warp_uniform(consumer * sizeof(PanelMask));
  /* Lanes 0 and 1 free a panel of x, in both CTAs. */
  const uint32_t lane_x_empty = ptx::address_in_cta(rings.x_empty(0), lane & 1);
  Ring<Tile::kXStages> x_ring;
  Ring<Tile::kChunkStages> chunk_ring;
  /* Stages that open wgmma groups may read: with held 1 used_chunk, with 3 used_x too. */
  int held = 0;
  int used_chunk = 0;
  int used_x = 0;
  const auto release = [&] {
    if (lane == 0 && held != 0) ptx::mbarrier_arrive(rings.chunk_empty(used_chunk));
    if (lane < held - 1) ptx::mbarrier_arrive_in_cluster(lane_x_empty + used_x * 8);
    held = 0;
  };
  uint32_t flags;
  do {
    float sums[128];
#pragma unroll
    for (float& sum : sums) sum = 0.0f;
    do {
      const uint32_t chunk_full = rings.chunk_full(chunk_ring.stage);
      const uint32_t x_full = rings.x_full(x_ring.stage);
      /* Both barriers tested together: mostly neither is late. */
      if (!__all_sync(~0u, ptx::mbarrier_test(chunk_full, chunk_ring.parity) &
                               ptx::mbarrier_test(x_full, x_ring.parity))) {
        ptx::mbarrier_wait(chunk_full, chunk_ring.parity);
        ptx::mbarrier_wait(x_full, x_ring.parity);
      }
      /* Lane 0, which also frees the chunk, reads for all lanes: they take the or of their values.
       */
      const uint4 header =
          ptx::load_shared_if(lane == 0, rings.chunk(chunk_ring.stage) + own_header);
      const uint2 state = ptx::load_shared_pair_if(lane == 0, rings.flags(chunk_ring.stage));
      const uint32_t low = warp_uniform(header.x & state.y);
      const uint32_t high = kTwoWords ? warp_uniform(header.y & state.y) : 0;
      /* More than its slots are squares of an altered header alone. */
      const uint32_t first = warp_uniform(min(header.z, uint32_t{Tile::kPanelSlots}));
      flags = warp_uniform(state.x);
      uint32_t square = descriptor_low(rings.chunk(chunk_ring.stage) + Tile::kHeaderBytes) +
                        first * (Tile::kSlotBytes >> 4);
      const uint32_t x = descriptor_low(rings.x(x_ring.stage));
      if constexpr (Tile::kRowsOnM) {
        multiply_square<Element>(sums, low, x, square);
      } else if constexpr (kDrains) {
        multiply_squares<Element, Tile, 0, Tile::kSquaresDown>(sums, low, high, x, square);
      } else {
        multiply_step<Element, Tile>(sums, low, high, x, square, release);
      }
      held = (flags & kLastOfPanel) != 0 ? 3 : 1;
      used_chunk = chunk_ring.stage;
      used_x = x_ring.stage;
      chunk_ring.advance();
      if ((flags & kLastOfPanel) != 0) x_ring.advance();
      if constexpr (kDrains) {
        ptx::wgmma_wait<0>();
        release();
      }
    } while ((flags & kLastOfTile) == 0);
    ptx::wgmma_wait<0>();
    ptx::use_after_wait(sums);
    release();
    const int32_t token = panel_token<Tile>(p, queue.front());
    ptx::mbarrier_wait(rings.rows_full(queue.slot()), queue.parity());
    const PanelRows<Tile::kBlock> rows(
        reinterpret_cast<const int32_t*>(rings.shared + Tile::kRowTables +
                                         queue.slot() * Tile::kRowBytes) +
        consumer * Tile::kSquaresDown);
    char* const buffer = rings.shared + Tile::kStores + consumer * Tile::kStoreBytes;
    if constexpr (Tile::kRowsOnM) {
      const auto row = static_cast<int32_t>(warp_uniform(rows(0)));
      finish_panel_of_rows<Element, Tile>(p, sums, buffer, row, token, consumer);
    } else {
      const int warp = threadIdx.x % 128 / 32;
      finish_panel<Element, Tile::kConsumerRows, true>(
          p, sums, buffer + warp * kPanelWarpStoreBytes, rows, token, warp);
    }
    queue.pop(); /* whose rows are needed no longer */
  } while ((flags & kLastOfAll) == 0);
}

}  // namespace djlbsr::cuda
