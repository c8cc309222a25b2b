/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
#pragma once

#include "djlbsr.h"

namespace djlbsr::cuda {

/* 2 to the polynomial in a with these coefficients, the highest first. */
template <int kCount>
__device__ inline float exp2_of_polynomial(const float (&coefficients)[kCount], float a) {
  float exponent = coefficients[0];
#pragma unroll
  for (int i = 1; i < kCount; ++i) exponent = fmaf(exponent, a, coefficients[i]);
  float power;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(exponent));
  return power;
}

/*
 * GELU's z times a factor that goes from 0 to 1 is max(z, 0) - a Q(a) with a = |z| and Q the
 * factor's tail. log2 Q is nearly a parabola (a cubic for the tanh form): fitted for least error of
 * the result, it falls on past the fit.
 */

/*
 * Q(a) = erfc(a / sqrt 2) / 2 on [0, 6]; up to 5.3 its relative error is below 3e-5. Errors, in
 * units of 2^-24: the fit 1.0, its evaluation 0.7, ex2 2.0, which leaves GELU within 5 units in the
 * last place of z.
 */
__device__ inline float gelu_tail(float a) {
  constexpr float kLog2[] = {-8.32284968e-7f, 1.42643838e-5f, -6.28567941e-5f,
                             -4.38976334e-4f, 7.45421927e-3f, -5.27572669e-2f,
                             -4.59126860e-1f, -1.15111434f,   -9.99999821e-1f};
  return exp2_of_polynomial(kLog2, a);
}

/* The same for 16-bit results: GELU's relative error is below 2^-14 down to -4, and what it loses
 * below is less than 2^-26. */
__device__ inline float gelu_tail_16(float a) {
  constexpr float kLog2[] = {-0.000349565962f, 0.00610610656f, -0.0491550528f,
                             -0.4629215f,      -1.14969802f,   -1.00009227f};
  return exp2_of_polynomial(kLog2, a);
}

/* Q(a) = (1 - tanh(u)) / 2 as in djlbsr.h, with errors as those of gelu_tail_16. */
__device__ inline float gelu_tanh_tail_16(float a) {
  constexpr float kLog2[] = {-2.52596656e-05f, 0.00079572486f, -0.00769648654f, 0.0260262396f,
                             -0.0725780055f,   -0.447869003f,  -1.15341663f,    -0.99991411f};
  return exp2_of_polynomial(kLog2, a);
}

/* max(z, 0) - |z| tail(|z|); 20 is so far in the tail that Inf stays, without a NaN. */
template <typename Tail>
__device__ inline float without_tail(float z, const Tail& tail) {
  const float a = fminf(fabsf(z), 20.0f);
  float positive;
  asm("max.NaN.f32 %0, %1, 0f00000000;" : "=f"(positive) : "f"(z));
  return fmaf(-a, tail(a), positive);
}

/*
 * The formulas of djlbsr.h in a form that does not cancel where the result is small, for results of
 * type Element. The fast exponential and quotient add at most 4 units in the last place of z: what
 * the exponential loses for large arguments, the result no longer shows.
 */
template <typename Element>
__device__ inline float activate(int activation, float z) {
  constexpr bool kShort = sizeof(Element) == 2;
  switch (activation) {
    case DJLBSR_RELU:
      return z < 0.0f ? 0.0f : z; /* NaN stays NaN */
    case DJLBSR_GELU:
      return without_tail(z, [](float a) { return kShort ? gelu_tail_16(a) : gelu_tail(a); });
    case DJLBSR_GELU_TANH: {
      if constexpr (kShort) return without_tail(z, [](float a) { return gelu_tanh_tail_16(a); });
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
