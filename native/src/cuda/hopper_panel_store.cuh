/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
#pragma once

#include "cuda/hopper_activation.cuh"
#include "cuda/hopper_panel_tile.cuh"
#include "cuda/hopper_store.cuh"

namespace djlbsr::cuda {

/* Writes the sums of a consumer: each warp turns 8 tokens x 64 rows so that lanes write 16 bytes.
 */
template <typename Element>
__device__ inline void store_panel(const PanelParams& p, const float (&sums)[128], char* buffer,
                                   int32_t row, int32_t token) {
  const int lane = threadIdx.x % 32;
  const int warp = threadIdx.x % 128 / 32;
  const auto swizzled = [](int t, int octet) { return t * 128 + (octet ^ t) * 16; };
  const uint32_t turn = ptx::shared_address(buffer);
  auto* const y = static_cast<Element*>(p.y);
#pragma unroll
  for (int part = 0; part < 8; ++part) {
    const int half = part / 4;
    const int col = part / 2 % 2 * 64;
    const int eight = part % 2; /* of the warp's tokens */
    __syncwarp();
#pragma unroll
    for (int octet = 0; octet < 8; octet += 4) {
      const int i = half * 64 + col / 2 + octet * 4 + eight * 2;
      ptx::store_matrices(turn + swizzled(lane % 8, octet + lane / 8),
                          pack_pair<Element>(sums[i], sums[i + 1]),
                          pack_pair<Element>(sums[i + 4], sums[i + 5]),
                          pack_pair<Element>(sums[i + 8], sums[i + 9]),
                          pack_pair<Element>(sums[i + 12], sums[i + 13]));
    }
    __syncwarp();
#pragma unroll
    for (int t = 0; t < 8; t += 4) {
      const int from = t + lane / 8;
      const uint4 out = *reinterpret_cast<const uint4*>(buffer + swizzled(from, lane % 8));
      const int32_t out_row = row + col + lane % 8 * 8;
      const int32_t out_token = token + half * 64 + warp * 16 + eight * 8 + from;
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

}  // namespace djlbsr::cuda
