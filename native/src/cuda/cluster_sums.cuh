/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
#pragma once

#include "cuda/hopper_ptx.cuh"

namespace djlbsr::cuda {

/*
 * Adds what every CTA of a cluster of kSplit has in its shared memory, in the order of the CTAs:
 * kCount float4, number i of them offset(i) bytes past source.
 */
template <int kSplit, int kCount, typename Offset>
__device__ __forceinline__ void add_over_cluster(float (&sums)[4 * kCount], uint32_t source,
                                                 const Offset& offset) {
#pragma unroll
  for (int cta = 0; cta < kSplit; ++cta) {
    const uint32_t remote = ptx::address_in_cta(source, cta);
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      const float4 v = ptx::load_float4_from_cta(remote + offset(i));
      const float terms[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        sums[4 * i + j] = cta == 0 ? terms[j] : sums[4 * i + j] + terms[j];
      }
    }
  }
}

}  // namespace djlbsr::cuda
