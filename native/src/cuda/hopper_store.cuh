/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
#pragma once

#include "cuda/element.cuh"
#include "cuda/hopper_ptx.cuh"

namespace djlbsr::cuda {

/*
 * Writes a warpgroup's sums of 64 weight rows x 256 tokens to y: row is the first row, token the
 * first token. Through shared memory, kStoreTokens at a time, where they are turned so that eight
 * threads write the 128 bytes of a token. y is not read again here: its lines should leave L2
 * before those of x and the weight.
 */
template <typename Element, int kStoreTokens>
__device__ inline void store_transposed(Element* y, int64_t y_stride, int32_t tokens,
                                        const float (&sums)[128], char* buffer, int64_t row,
                                        int32_t token, int barrier_id) {
  constexpr int kTokens = 256;
  const int thread = threadIdx.x % 128;
  const int lane = thread % 32;
  const int warp = thread / 32;
  /* 16-byte chunks of 8 rows; the xor spreads the tokens of a chunk over the banks. */
  const int turn_token = lane / 16 * 8 + lane % 8;
  const int turn_chunk = (warp * 2 + lane / 8 % 2) ^ (turn_token % 8);
  const uint32_t turn = ptx::shared_address(buffer) + turn_token * 128 + turn_chunk * 16;
  const int out_token = thread / 8;
  const int out_chunk = thread % 8;
  const char* const out = buffer + out_token * 128 + (out_chunk ^ (out_token % 8)) * 16;
  y += (token + out_token) * y_stride + row + out_chunk * 8;
#pragma unroll
  for (int first = 0; first < kTokens; first += kStoreTokens) {
    ptx::warpgroup_sync(barrier_id);
#pragma unroll
    for (int t = 0; t < kStoreTokens; t += 16) {
      const int r = (first + t) / 2;
      ptx::store_matrices_transposed(turn + t * 128, pack_pair<Element>(sums[r], sums[r + 1]),
                                     pack_pair<Element>(sums[r + 2], sums[r + 3]),
                                     pack_pair<Element>(sums[r + 4], sums[r + 5]),
                                     pack_pair<Element>(sums[r + 6], sums[r + 7]));
    }
    ptx::warpgroup_sync(barrier_id);
#pragma unroll
    for (int t = 0; t < kStoreTokens; t += 16) {
      if (token + first + t + out_token < tokens) {
        __stcs(reinterpret_cast<uint4*>(y + (first + t) * y_stride),
               *reinterpret_cast<const uint4*>(out + t * 128));
      }
    }
  }
}

}  // namespace djlbsr::cuda
