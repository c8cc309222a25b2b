/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
#pragma once

#include "cuda/hopper_activation.cuh"
#include "cuda/hopper_panel_tile.cuh"
#include "cuda/hopper_store.cuh"

namespace djlbsr::cuda {

/* The rows of W of a consumer's sums, or of a part of them from row `first` on. */
template <int kBlock>
struct PanelRows {
  const int32_t* of_squares; /* the first of each row of squares, in shared memory */
  int first;

  __device__ explicit PanelRows(const int32_t* rows, int first_row = 0)
      : of_squares(rows), first(first_row) {}

  /* Of altered tables too in a whole row of squares, or past the last one. */
  __device__ int32_t operator()(int row) const {
    const int32_t of_square = of_squares[(first + row) / kBlock];
    return (max(of_square, 0) & ~(kBlock - 1)) + (first + row) % kBlock;
  }
};

/*
 * A consumer's sums of 64-token halves on wgmma's M x kRows rows of W on its N: register
 * half * kRows / 2 + 4 * octet + 2 * eight + i of a lane is row 8 * octet + 2 * (lane % 4) + i of
 * token 64 * half + 16 * warp + 8 * eight + lane / 4.
 */
template <int kRows, int kCount>
constexpr int kHalvesOf = kCount / (kRows / 2);

/*
 * Activates and writes those of a warp: it turns 8 tokens x 64 rows, or 16 tokens x 32 or 16 rows,
 * so that lanes write 16 bytes.
 */
template <typename Element, int kActivation, int kRows, bool kStreaming, typename Params,
          typename Rows, int kCount>
__device__ inline void store_panel(const Params& p, const float (&sums)[kCount], char* buffer,
                                   const Rows& rows, int32_t token, int warp) {
  constexpr int kWide = kRows < 64 ? kRows : 64;
  constexpr int kOctets = kWide / 8;
  constexpr int kEights = kWide < 64 ? 2 : 1; /* of tokens that are turned together */
  constexpr int kTokensOfBanks = 8 / kOctets; /* 128 bytes */
  const int lane = threadIdx.x % 32;
  const auto swizzled = [](int t, int octet) {
    return t * kWide * 2 + (octet ^ t / kTokensOfBanks % kOctets) * 16;
  };
  const uint32_t turn = ptx::shared_address(buffer);
  auto* const y = static_cast<Element*>(p.y);
#pragma unroll
  for (int half = 0; half < kHalvesOf<kRows, kCount>; ++half) {
#pragma unroll
    for (int col = 0; col < kRows; col += kWide) {
#pragma unroll
      for (int eight = 0; eight < 2; eight += kEights) {
        __syncwarp();
#pragma unroll
        for (int matrix = 0; matrix < kEights * kOctets; matrix += 4) {
          /* Four of 8 tokens x 8 rows, by octets, then eights. */
          uint32_t pairs[4];
#pragma unroll
          for (int m = 0; m < 4; ++m) {
            const int octet = (matrix + m) % kOctets;
            const int from = eight + (matrix + m) / kOctets;
            const int i = half * (kRows / 2) + col / 2 + octet * 4 + from * 2;
            pairs[m] = pack_pair<Element>(activate<Element>(kActivation, sums[i]),
                                          activate<Element>(kActivation, sums[i + 1]));
          }
          const int own = matrix + lane / 8;
          ptx::store_matrices(turn + swizzled(own / kOctets * 8 + lane % 8, own % kOctets),
                              pairs[0], pairs[1], pairs[2], pairs[3]);
        }
        __syncwarp();
#pragma unroll
        for (int first = 0; first < 8 * kEights * kOctets; first += 32) {
          const int from = (first + lane) / kOctets;
          const int octet = lane % kOctets;
          const uint4 out = *reinterpret_cast<const uint4*>(buffer + swizzled(from, octet));
          const int32_t out_row = rows(col + octet * 8);
          const int32_t out_token = token + half * 64 + warp * 16 + eight * 8 + from;
          if (out_token >= p.tokens || out_row >= p.rows) continue;
          auto* const to = reinterpret_cast<uint4*>(y + out_token * p.y_stride + out_row);
          if constexpr (kStreaming) {
            __stcs(to, out);
          } else {
            *to = out;
          }
        }
      }
    }
  }
}

/* Adds the bias of their rows, activates and stores. */
template <typename Element, int kRows, bool kStreaming, typename Params, typename Rows, int kCount>
__device__ inline void finish_panel(const Params& p, float (&sums)[kCount], char* buffer,
                                    const Rows& rows, int32_t token, int warp) {
  const auto* const bias = static_cast<const Element*>(p.bias);
  if (bias != nullptr) {
#pragma unroll
    for (int octet = 0; octet < kRows / 8; ++octet) {
      const int32_t row = rows(octet * 8);
      if (row >= p.rows) continue;
      const float first = to_float(bias[row + threadIdx.x % 4 * 2]);
      const float second = to_float(bias[row + threadIdx.x % 4 * 2 + 1]);
#pragma unroll
      for (int i = octet * 4; i < kCount; i += kRows / 2) {
        sums[i] += first;
        sums[i + 1] += second;
        sums[i + 2] += first;
        sums[i + 3] += second;
      }
    }
  }
  with_activation(p.activation, [&](auto kind) {
    store_panel<Element, decltype(kind)::value, kRows, kStreaming>(p, sums, buffer, rows, token,
                                                                   warp);
  });
}

/* The same for 64 rows of W on M x 256 tokens on N. */
template <typename Element, typename Tile>
__device__ inline void finish_panel_of_rows(const PanelParams& p, float (&sums)[128], char* buffer,
                                            int32_t row, int32_t token, int consumer) {
  if (row >= p.rows) return;
  const auto* const bias = static_cast<const Element*>(p.bias);
  if (bias != nullptr) {
    const int thread_row = row + threadIdx.x % 128 / 32 * 16 + threadIdx.x % 32 / 4;
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
  activate_all<Element>(p.activation, sums);
  store_transposed<Element, Tile::kStoreTokens>(static_cast<Element*>(p.y), p.y_stride, p.tokens,
                                                sums, buffer, row, token, 1 + consumer);
}

}  // namespace djlbsr::cuda
