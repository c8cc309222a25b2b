/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
#pragma once

#include "cuda/hopper_panel_tile.cuh"

namespace djlbsr::cuda {

/* One warp: loads this CTA's half of every panel of x for both CTAs. */
template <typename Tile>
__device__ inline void produce_x(const PanelParams& p, const PanelRings<Tile>& rings,
                                 TileQueue queue) {
  const int lane = threadIdx.x % 32;
  const uint32_t rank = ptx::cluster_rank();
  Ring<Tile::kXStages> ring;
  for (TilePlace tile = queue.pop(); !tile.last(); tile = queue.pop()) {
    const PanelPlace place = panel_place<Tile>(p, tile);
    if (place.begin == place.end) {
      ptx::mbarrier_wait(rings.x_empty(ring.stage), ring.parity ^ 1);
      if (lane == 0) ptx::mbarrier_arrive(rings.x_full(ring.stage));
      ring.advance();
      continue;
    }
    int32_t panel = 0;
    for (int32_t i = place.begin; i < place.end; ++i) {
      const int from = (i - place.begin) % 32;
      if (from == 0) {
        panel = clamp(__ldg(&p.entries[min(i + lane, p.entry_count - 1)].panel), 0, 1 << 23);
      }
      const int32_t col = __shfl_sync(~0u, panel, from) * Tile::kCols;
      ptx::mbarrier_wait(rings.x_empty(ring.stage), ring.parity ^ 1);
      if (lane == 0) {
        const uint32_t barrier = rings.x_full(ring.stage);
        ptx::mbarrier_expect_bytes(barrier, 2 * p.box_tokens * 128);
        ptx::load_box_for_pair(rings.x(ring.stage) + rank * Tile::kBoxBytes, &p.x,
                               Tile::kRowsOnM ? col : col + rank * 64,
                               Tile::kRowsOnM ? place.token + rank * 128 : place.token, barrier);
      }
      __syncwarp();
      ring.advance();
    }
  }
}

/* Hands the consumers a chunk, or a panel without one. */
template <typename Tile>
__device__ inline void push_chunk(const PanelRings<Tile>& rings, Ring<Tile::kChunkStages>& ring,
                                  uint32_t flags, const char* chunk, uint32_t bytes) {
  ptx::mbarrier_wait(rings.chunk_empty(ring.stage), ring.parity ^ 1);
  if (threadIdx.x % 32 == 0) {
    const uint32_t barrier = rings.chunk_full(ring.stage);
    ptx::store_shared(rings.flags(ring.stage), flags, bytes > 0 ? ~0u : 0);
    ptx::mbarrier_expect_bytes(barrier, bytes);
    if (bytes > 0) ptx::load_bytes(rings.chunk(ring.stage), chunk, bytes, barrier);
  }
  __syncwarp();
  ring.advance();
}

/* One warp: loads the chunks of this CTA's tiles, and which rows they have. */
template <typename Tile>
__device__ inline void produce_chunks(const PanelParams& p, const PanelRings<Tile>& rings,
                                      TileQueue queue) {
  const int lane = threadIdx.x % 32;
  const uint32_t rank = ptx::cluster_rank();
  /* Of altered tables too, no more than there is. */
  const auto most = static_cast<uint32_t>(min(int64_t{Tile::kChunkBytes}, p.chunk_bytes));
  Ring<Tile::kChunkStages> ring;
  for (TilePlace tile = queue.pop(); !tile.last(); tile = queue.pop()) {
    const PanelPlace place = panel_place<Tile>(p, tile);
    if (lane == 0) {
      const uint32_t barrier = rings.rows_full(queue.last_slot());
      ptx::mbarrier_expect_bytes(barrier, Tile::kRowBytes);
      ptx::load_bytes(rings.rows(queue.last_slot()),
                      p.rows_of_tiles + (2 * place.pair + rank) * Tile::kRowStride, Tile::kRowBytes,
                      barrier);
    }
    if (place.begin == place.end) {
      const uint32_t of_all = queue.front().last() ? kLastOfAll : 0;
      push_chunk<Tile>(rings, ring, kLastOfPanel | kLastOfTile | of_all, nullptr, 0);
      continue;
    }
    /* The steps of a tile follow each other. */
    for (int32_t first = place.begin; first < place.end; first += 32) {
      const int32_t own = min(first + lane, place.end - 1);
      const int32_t own_begin = clamp(__ldg(&p.entries[own].step[rank]), 0, p.step_count);
      const int32_t own_end = clamp(__ldg(&p.entries[own + 1].step[rank]), own_begin,
                                    min(own_begin + Tile::kMostSteps, p.step_count));
      PanelStep step = {};
      int32_t step_base = -32; /* of the 32 steps that the lanes hold */
      for (int entry = 0; entry < min(32, place.end - first); ++entry) {
        int32_t s = __shfl_sync(~0u, own_begin, entry);
        const int32_t end = __shfl_sync(~0u, own_end, entry);
        uint32_t of_tile = 0;
        if (first + entry + 1 == place.end) {
          of_tile = queue.front().last() ? kLastOfTile | kLastOfAll : kLastOfTile;
        }
        if (s == end) {
          push_chunk<Tile>(rings, ring, kLastOfPanel | of_tile, nullptr, 0);
        }
        for (; s < end; ++s) {
          if (s < step_base || s - step_base >= 32) {
            step_base = s;
            const int32_t at = min(s + lane, p.step_count - 1);
            step.chunk = __ldg(&p.steps[at].chunk);
            step.bytes = __ldg(&p.steps[at].bytes);
          }
          const int64_t offset = int64_t{__shfl_sync(~0u, step.chunk, s - step_base)} * kPanelUnit;
          const uint32_t bytes =
              min(__shfl_sync(~0u, step.bytes, s - step_base) / kPanelUnit * kPanelUnit, most);
          push_chunk<Tile>(rings, ring, s + 1 == end ? kLastOfPanel | of_tile : 0,
                           p.chunks + min(offset, p.chunk_bytes - bytes), bytes);
        }
      }
    }
  }
}

}  // namespace djlbsr::cuda
