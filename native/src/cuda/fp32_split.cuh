/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
#pragma once

#include <cuda_bf16.h>

#include <cstdint>
#include <cstring>

#include "common/fp32_terms.h"

namespace djlbsr::cuda {

/* Pairs of bf16, the first float's in the low halves. */
template <int kTerms>
struct SplitPair {
  uint32_t terms[kTerms];
};

/*
 * Two floats as sums of bf16: the first term is the float rounded, the next the rest rounded. Three
 * terms are exact, if the float is at least 2^-110. Of a float that is infinite, NaN, or rounds to
 * infinity, some term is not finite.
 */
template <int kTerms>
__device__ inline SplitPair<kTerms> split(float low, float high) {
  SplitPair<kTerms> pair;
#pragma unroll
  for (int term = 0; term < kTerms; ++term) {
    const __nv_bfloat162 rounded = __floats2bfloat162_rn(low, high);
    memcpy(&pair.terms[term], &rounded, 4);
    low = __fsub_rn(low, __uint_as_float(pair.terms[term] << 16));
    high = __fsub_rn(high, __uint_as_float(pair.terms[term] & 0xffff0000u));
  }
  return pair;
}

}  // namespace djlbsr::cuda
