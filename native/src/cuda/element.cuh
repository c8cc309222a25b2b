/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

namespace djlbsr::cuda {

__device__ inline float to_float(float v) { return v; }
__device__ inline float to_float(__half v) { return __half2float(v); }
__device__ inline float to_float(__nv_bfloat16 v) { return __bfloat162float(v); }

template <typename Element>
__device__ inline Element from_float(float v);
template <>
__device__ inline float from_float<float>(float v) {
  return v;
}
template <>
__device__ inline __half from_float<__half>(float v) {
  return __float2half_rn(v);
}
template <>
__device__ inline __nv_bfloat16 from_float<__nv_bfloat16>(float v) {
  return __float2bfloat16_rn(v);
}

/* Two 16-bit elements, the first in the low half. */
template <typename Element>
__device__ inline uint32_t pack_pair(float low, float high) {
  const Element pair[2] = {from_float<Element>(low), from_float<Element>(high)};
  uint32_t bits;
  memcpy(&bits, pair, 4);
  return bits;
}

__device__ inline int32_t clamp(int32_t v, int32_t low, int32_t high) {
  return min(max(v, low), high);
}

/*
 * A block's first column as it is packed. Of altered bytes too it is one of x, and, as the width of
 * a block is, a multiple of the kVector elements that are read at a time.
 */
template <int kVector>
__device__ inline int32_t first_column(int32_t start, int32_t cols, int32_t block_cols) {
  return clamp(start, 0, cols - block_cols) & -kVector;
}

}  // namespace djlbsr::cuda
