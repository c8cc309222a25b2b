/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
#pragma once

#include "cuda/activation.cuh"

namespace djlbsr::cuda {

/*
 * Activates sums in place, up to 16 at a time: the registers rotate past one copy of the code,
 * which would not fit into the instruction cache once a sum.
 */
template <typename Element, int kActivation, int kCount>
__device__ inline void activate_all(float (&sums)[kCount]) {
  constexpr int kGroup = kCount < 16 ? kCount : 16;
  static_assert(kCount % kGroup == 0, "whole groups");
#pragma unroll 1
  for (int round = 0; round < kCount / kGroup; ++round) {
    float group[kGroup];
#pragma unroll
    for (int i = 0; i < kGroup; ++i) group[i] = activate<Element>(kActivation, sums[i]);
#pragma unroll
    for (int i = 0; i < kCount - kGroup; ++i) sums[i] = sums[i + kGroup];
#pragma unroll
    for (int i = 0; i < kGroup; ++i) sums[kCount - kGroup + i] = group[i];
  }
}

template <typename Element, int kCount>
__device__ inline void activate_all(int activation, float (&sums)[kCount]) {
  switch (activation) {
    case DJLBSR_RELU:
#pragma unroll
      for (float& sum : sums) sum = activate<Element>(DJLBSR_RELU, sum);
      break;
    case DJLBSR_GELU:
      activate_all<Element, DJLBSR_GELU>(sums);
      break;
    case DJLBSR_GELU_TANH:
      activate_all<Element, DJLBSR_GELU_TANH>(sums);
      break;
    case DJLBSR_SILU:
      activate_all<Element, DJLBSR_SILU>(sums);
      break;
    default:
      break;
  }
}

}  // namespace djlbsr::cuda
