/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
#pragma once

#include "djlbsr.h"

namespace djlbsr::cuda {

/*
 * The formulas of djlbsr.h in a form that does not cancel where the result is small. The fast
 * exponential and quotient add at most 4 units in the last place of z: what the exponential loses
 * for large arguments, the result no longer shows.
 */
__device__ inline float activate(int activation, float z) {
  switch (activation) {
    case DJLBSR_RELU:
      return z < 0.0f ? 0.0f : z; /* NaN stays NaN */
    case DJLBSR_GELU:
      return 0.5f * z * erfcf(-0.70710678118654752f * z);
    case DJLBSR_GELU_TANH: {
      /* (1 + tanh(u)) / 2 = 1 / (1 + exp(-2u)) */
      const float u = 0.79788456080286536f * fmaf(0.044715f * z * z, z, z);
      return __fdividef(z, 1.0f + __expf(-2.0f * u));
    }
    case DJLBSR_SILU:
      return __fdividef(z, 1.0f + __expf(-z));
    default:
      return z;
  }
}

}  // namespace djlbsr::cuda
