/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
#pragma once

#include "djlbsr.h"

namespace djlbsr::cuda {

/*
 * The normal distribution's tail Q(a) = erfc(a / sqrt 2) / 2 for a >= 0: 2 to a polynomial that was
 * fitted to log2 Q on [0, 6] for least error of Q and, up to 5.3, a relative error below 3e-5.
 * Errors, in units of 2^-24: the fit 1.0, its evaluation 0.7, ex2 2.0, which leaves GELU within 5
 * units in the last place of z. Past 6 the polynomial falls faster than log2 Q, without end.
 */
__device__ inline float normal_tail(float a) {
  float log2_q = -8.32284968e-7f;
  log2_q = fmaf(log2_q, a, 1.42643838e-5f);
  log2_q = fmaf(log2_q, a, -6.28567941e-5f);
  log2_q = fmaf(log2_q, a, -4.38976334e-4f);
  log2_q = fmaf(log2_q, a, 7.45421927e-3f);
  log2_q = fmaf(log2_q, a, -5.27572669e-2f);
  log2_q = fmaf(log2_q, a, -4.59126860e-1f);
  log2_q = fmaf(log2_q, a, -1.15111434f);
  log2_q = fmaf(log2_q, a, -9.99999821e-1f);
  float q;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(q) : "f"(log2_q));
  return q;
}

/*
 * The formulas of djlbsr.h in a form that does not cancel where the result is small. The fast
 * exponential and quotient add at most 4 units in the last place of z: what the exponential loses
 * for large arguments, the result no longer shows.
 */
__device__ inline float activate(int activation, float z) {
  switch (activation) {
    case DJLBSR_RELU:
      return z < 0.0f ? 0.0f : z; /* NaN stays NaN */
    case DJLBSR_GELU: {
      const float a = fminf(fabsf(z), 20.0f); /* the tail is 0 there: Inf stays, without a NaN */
      float positive;
      asm("max.NaN.f32 %0, %1, 0f00000000;" : "=f"(positive) : "f"(z));
      return fmaf(-a, normal_tail(a), positive);
    }
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
