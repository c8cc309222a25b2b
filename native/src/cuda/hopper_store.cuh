/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
#pragma once

#include <type_traits>

#include "cuda/activation.cuh"
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

/* Calls with the activation as a std::integral_constant: one copy of the code for each. */
template <typename Function>
__device__ inline void with_activation(int activation, const Function& function) {
  switch (activation) {
    case DJLBSR_RELU:
      return function(std::integral_constant<int, DJLBSR_RELU>());
    case DJLBSR_GELU:
      return function(std::integral_constant<int, DJLBSR_GELU>());
    case DJLBSR_GELU_TANH:
      return function(std::integral_constant<int, DJLBSR_GELU_TANH>());
    case DJLBSR_SILU:
      return function(std::integral_constant<int, DJLBSR_SILU>());
    default:
      return function(std::integral_constant<int, DJLBSR_NONE>());
  }
}

/*
 * How a warpgroup turns its sums of 64 weight rows x 256 tokens to rows of 128 bytes, one a token,
 * in shared memory with the 128-byte swizzle; with bias (low and high, of the thread's two rows)
 * and activation on the way.
 */
template <typename Element, int kActivation>
struct Turn {
  const float (&sums)[128];
  float low;
  float high;
  uint32_t address;

  __device__ Turn(const float (&sums)[128], float low, float high, uint32_t buffer)
      : sums(sums), low(low), high(high) {
    const int lane = threadIdx.x % 32;
    const int warp = threadIdx.x % 128 / 32;
    const int token = lane / 16 * 8 + lane % 8;
    address = buffer + token * 128 + ((warp * 2 + lane / 8 % 2) ^ (token % 8)) * 16;
  }

  /* 16 tokens, from this one on, to the rows from row on. */
  __device__ void operator()(int token, int row) const {
    uint32_t pairs[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int r = token / 2 + 2 * i;
      const float bias = i % 2 == 0 ? low : high;
      pairs[i] = pack_pair<Element>(activate<Element>(kActivation, sums[r] + bias),
                                    activate<Element>(kActivation, sums[r + 1] + bias));
    }
    ptx::store_matrices_transposed(address + row * 128, pairs[0], pairs[1], pairs[2], pairs[3]);
  }
};

/*
 * Writes the first count, 128 or 256, of the tokens to y by bulk tensor stores, which take the
 * buffer, of count rows, until a wait of thread 0.
 */
constexpr int kBulkTokens = 128;

template <typename Element>
__device__ inline void store_bulk(int activation, const CUtensorMap& y, const float (&sums)[128],
                                  float low, float high, uint32_t buffer, int32_t row,
                                  int32_t token, int32_t count, int barrier_id) {
  with_activation(activation, [&](auto kind) {
    const Turn<Element, decltype(kind)::value> turn(sums, low, high, buffer);
#pragma unroll
    for (int first = 0; first < 256; first += kBulkTokens) {
      if (first >= count) break;
#pragma unroll
      for (int t = 0; t < kBulkTokens; t += 16) turn(first + t, first + t);
      ptx::fence_proxy_async();
      ptx::warpgroup_sync(barrier_id);
      if (threadIdx.x % 128 == 0) {
        ptx::store_box(&y, buffer + first * 128, row, token + first);
        ptx::commit_stores();
      }
    }
  });
}

/* The same by stores of 16 bytes, through a buffer of kTurnTokens rows. */
constexpr int kTurnTokens = 128;

template <typename Element>
__device__ inline void store_transposed(int activation, Element* y, int64_t y_stride,
                                        int32_t tokens, const float (&sums)[128], float low,
                                        float high, char* buffer, int32_t row, int32_t token,
                                        int32_t count, int barrier_id) {
  constexpr int kStores = kTurnTokens / 16;
  const int out_token = threadIdx.x % 128 / 8;
  const int out_chunk = threadIdx.x % 8;
  const char* const out = buffer + out_token * 128 + (out_chunk ^ (out_token % 8)) * 16;
  y += (token + out_token) * y_stride + row + out_chunk * 8;
  const int32_t left = tokens - token - out_token;
  with_activation(activation, [&](auto kind) {
    const Turn<Element, decltype(kind)::value> turn(sums, low, high, ptx::shared_address(buffer));
#pragma unroll
    for (int first = 0; first < 256; first += kTurnTokens) {
      if (first >= count) break;
      ptx::warpgroup_sync(barrier_id);
#pragma unroll
      for (int t = 0; t < kTurnTokens; t += 16) turn(first + t, t);
      ptx::warpgroup_sync(barrier_id);
      uint4 rows[kStores];
#pragma unroll
      for (int i = 0; i < kStores; ++i) {
        rows[i] = *reinterpret_cast<const uint4*>(out + i * 16 * 128);
      }
      const auto store = [&](int i) {
        __stcs(reinterpret_cast<uint4*>(y + (first + i * 16) * y_stride), rows[i]);
      };
      if (token + first + kTurnTokens <= tokens) { /* no branch a store */
#pragma unroll
        for (int i = 0; i < kStores; ++i) store(i);
      } else {
#pragma unroll
        for (int i = 0; i < kStores; ++i) {
          if (first + i * 16 < left) store(i);
        }
      }
    }
  });
}

}  // namespace djlbsr::cuda
