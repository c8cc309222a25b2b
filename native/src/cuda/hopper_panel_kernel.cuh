/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 *
 * The Hopper kernel for blocks that are cut into squares of 16, 32 or 64.
 *
 * One load of x a square would bind the rate at L2's. Here the rows of a tile, up to 384 (with
 * squares of 64: 192), share each panel of columns of x, and two CTAs of a cluster, on the tiles of
 * a pair, share its load: each loads one half for both. The weight comes as chunks of the panel
 * copy (panels.h), each with masks that tell which squares it has, and with a table of the rows,
 * which need not be neighbors. Of each CTA one warp loads x, one the chunks, one deals the tiles
 * (hopper_schedule.cuh), and three consumer warpgroups walk their masks.
 *
 * Squares of 16 and 32: a consumer holds 128 weight rows x 128 tokens of sums, with tokens on
 * wgmma's M and the rows of a square on its N. It takes all squares of a row, then those of the
 * next, so that the registers of the sums are known at compile time. Squares of 64: 64 weight rows
 * on M x 256 tokens on N.
 *
 * Each output is one chain of wgmma steps of 16 columns in stored order: its bits depend on neither
 * tile nor batch.
 */
#pragma once

#include "cuda/hopper_panel_consumer.cuh"
#include "cuda/hopper_panel_producers.cuh"

namespace djlbsr::cuda {

template <typename Element, int kBlock, int kChunkSlots>
__global__ void __launch_bounds__(kPanelThreads, 1)
    hopper_panel_kernel(const __grid_constant__ PanelParams p) {
  using Tile = PanelTile<kBlock, kChunkSlots>;
  using PanelScheduler = Scheduler<2, PairCosts>;
  extern __shared__ __align__(1024) char shared[];
  const PanelRings<Tile> rings(shared);
  const TileQueue queue(rings.base + Tile::kQueue);
  if (threadIdx.x == 0) {
    ptx::prefetch_tensor_map(&p.x);
    for (int stage = 0; stage < Tile::kXStages; ++stage) {
      ptx::mbarrier_init(rings.x_full(stage), 1);
      ptx::mbarrier_init(rings.x_empty(stage), 2 * kPanelConsumers * 4);
    }
    for (int stage = 0; stage < Tile::kChunkStages; ++stage) {
      ptx::mbarrier_init(rings.chunk_full(stage), 1);
      ptx::mbarrier_init(rings.chunk_empty(stage), kPanelConsumers * 4);
    }
    for (int slot = 0; slot < kQueueSlots; ++slot) ptx::mbarrier_init(rings.rows_full(slot), 1);
    queue.init(2 + kPanelConsumers * 4);
    queue.start(PanelScheduler::first_tile(p));
    ptx::fence_mbarrier_init();
  }
  ptx::launch_dependents(); /* whose CTAs find room when these end */
  ptx::dependency_wait();
  ptx::cluster_sync();

  const int warpgroup = threadIdx.x / 128;
  if (warpgroup == 0) {
    ptx::give_registers<32>();
    if (threadIdx.x < 32) {
      produce_x<Tile>(p, rings, queue);
    } else if (threadIdx.x < 64) {
      produce_chunks<Tile>(p, rings, queue);
    } else if (threadIdx.x < 96) {
      auto* const keys = reinterpret_cast<uint32_t*>(shared + Tile::kKeys);
      PanelScheduler(p, {p.pairs}, queue, keys, true).run();
    }
  } else {
    ptx::take_registers<160>();
    consume_panels<Element, Tile>(p, rings, queue, warpgroup - 1);
  }
  __syncwarp();
  ptx::cluster_sync(); /* the other CTA may still load and arrive here */
}

}  // namespace djlbsr::cuda
