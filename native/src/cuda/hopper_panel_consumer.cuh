/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
#pragma once

#include "cuda/hopper_activation.cuh"
#include "cuda/hopper_panel_tile.cuh"
#include "cuda/hopper_store.cuh"

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

/* Waits until at most `groups`, or 7, wgmma groups are open. */
__device__ inline void wait_for_all_but(int groups) {
  switch (groups) {
    case 0:
      return ptx::wgmma_wait<0>();
    case 1:
      return ptx::wgmma_wait<1>();
    case 2:
      return ptx::wgmma_wait<2>();
    case 3:
      return ptx::wgmma_wait<3>();
    case 4:
      return ptx::wgmma_wait<4>();
    case 5:
      return ptx::wgmma_wait<5>();
    case 6:
      return ptx::wgmma_wait<6>();
    default:
      return ptx::wgmma_wait<7>();
  }
}

/* Multiplies the squares of one consumer in one step, each as a wgmma group of its own. */
template <typename Element, typename Tile>
__device__ inline void multiply_squares(float (&sums)[128], uint32_t low, uint32_t high, uint32_t x,
                                        uint32_t squares) {
  constexpr int kAcross = Tile::kSquaresAcross;
  constexpr int kSquaresInBox = 64 / Tile::kBlock;
#pragma unroll
  for (int r = 0; r < Tile::kSquaresDown; ++r) {
    const int bit = r * kAcross;
    uint32_t row_mask = (bit < 32 ? low >> bit : high >> (bit - 32)) & ((1u << kAcross) - 1);
    while (row_mask != 0) {
      const uint32_t k = __ffs(row_mask) - 1;
      row_mask &= row_mask - 1;
      ptx::wgmma_fence();
      const uint32_t a = x + k / kSquaresInBox * (Tile::kBoxBytes >> 4) +
                         k % kSquaresInBox * (Tile::kBlock * 2 >> 4);
#pragma unroll
      for (int step = 0; step < Tile::kBlock / 16; ++step) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          ptx::WgmmaSmall<Element, Tile::kBlock>::run(
              sums + half * 64 + r * (Tile::kBlock / 2),
              {a + half * (64 * 128 >> 4) + 2 * step, kXDescriptor, squares + 2 * step,
               kSquareDescriptor<Tile::kBlock>});
        }
      }
      ptx::wgmma_commit();
      squares += Tile::kSlotBytes >> 4;
    }
  }
}

/* The same with one square at most, and its rows on M. */
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

/* Writes the sums of a consumer: each warp turns 16 tokens x 64 rows so that lanes write 16 bytes.
 */
template <typename Element>
__device__ inline void store_panel(const PanelParams& p, const float (&sums)[128], char* buffer,
                                   int32_t row, int32_t token) {
  const int lane = threadIdx.x % 32;
  const int warp = threadIdx.x % 128 / 32;
  const auto swizzled = [](int t, int chunk) { return t * 128 + (chunk ^ t % 8) * 16; };
  const uint32_t turn = ptx::shared_address(buffer);
  const int out_chunk = lane % 8;
  auto* const y = static_cast<Element*>(p.y);
#pragma unroll
  for (int part = 0; part < 4; ++part) {
    const int half = part / 2;
    const int col = part % 2 * 64;
    __syncwarp();
#pragma unroll
    for (int pair = 0; pair < 4; ++pair) {
      const int i = half * 64 + col / 2 + pair * 8;
      ptx::store_matrices(turn + swizzled(lane % 16, pair * 2 + lane / 16),
                          pack_pair<Element>(sums[i], sums[i + 1]),
                          pack_pair<Element>(sums[i + 2], sums[i + 3]),
                          pack_pair<Element>(sums[i + 4], sums[i + 5]),
                          pack_pair<Element>(sums[i + 6], sums[i + 7]));
    }
    __syncwarp();
#pragma unroll
    for (int t = 0; t < 16; t += 4) {
      const int from = t + lane / 8;
      const uint4 out = *reinterpret_cast<const uint4*>(buffer + swizzled(from, out_chunk));
      const int32_t out_row = row + col + out_chunk * 8;
      const int32_t out_token = token + half * 64 + warp * 16 + from;
      if (out_token < p.tokens && out_row < p.rows) {
        __stcs(reinterpret_cast<uint4*>(y + out_token * p.y_stride + out_row), out);
      }
    }
  }
}

/* Adds the bias of a consumer's rows, activates and stores. */
template <typename Element, typename Tile>
__device__ inline void finish_panel(const PanelParams& p, float (&sums)[128], char* buffer,
                                    int32_t row, int32_t token, int consumer) {
  const int lane = threadIdx.x % 32;
  const int warp = threadIdx.x % 128 / 32;
  const auto* const bias = static_cast<const Element*>(p.bias);
  if constexpr (Tile::kRowsOnM) {
    if (row >= p.rows) return;
    if (bias != nullptr) {
      const int thread_row = row + warp * 16 + lane / 4;
      const float low = to_float(bias[thread_row]);
      const float high = to_float(bias[thread_row + 8]);
#pragma unroll
      for (int i = 0; i < 128; i += 4) {
        sums[i] += low;
        sums[i + 1] += low;
        sums[i + 2] += high;
        sums[i + 3] += high;
      }
    }
    activate_all(p.activation, sums);
    store_transposed<Element, Tile::kStoreTokens>(static_cast<Element*>(p.y), p.y_stride, p.tokens,
                                                  sums, buffer, row, token, 1 + consumer);
  } else {
    if (bias != nullptr) {
#pragma unroll
      for (int octet = 0; octet < 16; ++octet) {
        const int at = row + octet * 8 + lane % 4 * 2;
        if (row + octet * 8 >= p.rows) continue;
        const float first = to_float(bias[at]);
        const float second = to_float(bias[at + 1]);
#pragma unroll
        for (int i = octet * 4; i < 128; i += 64) {
          sums[i] += first;
          sums[i + 1] += second;
          sums[i + 2] += first;
          sums[i + 3] += second;
        }
      }
    }
    activate_all(p.activation, sums);
    store_panel<Element>(p, sums, buffer + warp * Tile::kWarpStoreBytes, row, token);
  }
}

template <typename Element, typename Tile>
__device__ inline void consume_panels(const PanelParams& p, const PanelRings<Tile>& rings,
                                      int consumer) {
  const int lane = threadIdx.x % 32;
  const uint32_t rank = ptx::cluster_rank();
  char* const buffer = rings.shared + Tile::kStores + consumer * Tile::kStoreBytes;
  Ring<Tile::kXStages> x_ring;
  Ring<Tile::kChunkStages> chunk_ring;
  int used_x = -1; /* stages that open wgmma groups may read */
  int used_chunk = -1;
  const auto release_x = [&] {
    __syncwarp(); /* all lanes have read what is released */
    if (used_x >= 0 && lane < 2) ptx::mbarrier_arrive_at(rings.x_empty(used_x), lane);
    used_x = -1;
  };
  const auto release_chunk = [&] {
    __syncwarp();
    if (used_chunk >= 0 && lane == 0) ptx::mbarrier_arrive(rings.chunk_empty(used_chunk));
    used_chunk = -1;
  };
  /* Where data is late, stages must not be held until it comes. */
  const auto wait = [&](uint32_t barrier, uint32_t parity) {
    if (ptx::mbarrier_test(barrier, parity)) return;
    ptx::wgmma_wait<0>();
    release_x();
    release_chunk();
    ptx::mbarrier_wait(barrier, parity);
  };
  for (int32_t tile = blockIdx.x / 2; tile < p.tiles; tile += gridDim.x / 2) {
    float sums[128];
#pragma unroll
    for (float& sum : sums) sum = 0.0f;
    for (bool last = false; !last;) {
      wait(rings.x_full(x_ring.stage), x_ring.parity);
      const uint32_t panel_steps = rings.steps()[x_ring.stage];
      const int32_t steps = panel_steps & ~kLastPanel;
      last = panel_steps >= kLastPanel;
      for (int32_t s = 0; s < steps; ++s) {
        wait(rings.chunk_full(chunk_ring.stage), chunk_ring.parity);
        const uint32_t chunk = rings.chunk(chunk_ring.stage);
        const uint4 header = *reinterpret_cast<const uint4*>(rings.shared + (chunk - rings.base) +
                                                             consumer * sizeof(PanelMask));
        const int count = __popc(header.x) + (Tile::kBlock == 16 ? __popc(header.y) : 0);
        /* False for every chunk as it was packed. */
        const bool altered = header.z > Tile::kPanelSlots || header.z + count > Tile::kPanelSlots;
        /* The reductions tell the compiler what is the same for all lanes. */
        const uint32_t low = __reduce_or_sync(~0u, altered ? 0 : header.x);
        const uint32_t high =
            Tile::kBlock == 16 ? __reduce_or_sync(~0u, altered ? 0 : header.y) : 0;
        const uint32_t squares =
            __reduce_or_sync(~0u, descriptor_low(chunk + Tile::kHeaderBytes +
                                                 (altered ? 0 : header.z) * Tile::kSlotBytes));
        const uint32_t x = descriptor_low(rings.x(x_ring.stage));
        if constexpr (Tile::kRowsOnM) {
          multiply_square<Element>(sums, low, x, squares);
        } else {
          multiply_squares<Element, Tile>(sums, low, high, x, squares);
        }
        /* The step before is done with its stages when no more groups are open than this one's. */
        wait_for_all_but(Tile::kRowsOnM ? low != 0
                                        : __popc(low) + (Tile::kBlock == 16 ? __popc(high) : 0));
        release_chunk();
        used_chunk = chunk_ring.stage;
        chunk_ring.advance();
        if (s == 0) release_x();
        if (s + 1 == steps) used_x = x_ring.stage;
      }
      if (steps == 0) {
        /* Nothing may stay held over panels without a step: the ring would run dry. */
        ptx::wgmma_wait<0>();
        release_x();
        used_x = x_ring.stage;
        release_x();
      }
      x_ring.advance();
    }
    ptx::wgmma_wait<0>();
    release_chunk();
    release_x();
    const PanelPlace place = panel_place<Tile>(p, tile);
    const int32_t row = (2 * place.pair + rank) * Tile::kTileRows + consumer * Tile::kConsumerRows;
    finish_panel<Element, Tile>(p, sums, buffer, row, place.token, consumer);
  }
}

}  // namespace djlbsr::cuda
