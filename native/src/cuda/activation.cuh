/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

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
 * factor's tail, erfc(a / sqrt 2) / 2. log2 Q is nearly a parabola. The polynomials were fitted for
 * least error of GELU, and fall on past the fit.
 */
template <typename Element>
__device__ float gelu_tail(float a);

/*
 * On [0, 6]; up to 5.3 Q's relative error is below 3e-5. Errors, in units of 2^-24: the fit 1.0,
 * its evaluation 0.7, ex2 2.0, which leaves GELU within 5 units in the last place of z.
 */
template <>
__device__ inline float gelu_tail<float>(float a) {
  constexpr float kLog2[] = {-8.32284968e-7f, 1.42643838e-5f, -6.28567941e-5f,
                             -4.38976334e-4f, 7.45421927e-3f, -5.27572669e-2f,
                             -4.59126860e-1f, -1.15111434f,   -9.99999821e-1f};
  return exp2_of_polynomial(kLog2, a);
}

/* GELU is off by at most 2^-14 of itself and 2^-26. */
template <>
__device__ inline float gelu_tail<__half>(float a) {
  constexpr float kLog2[] = {-0.000349565962f, 0.00610610656f, -0.0491550528f,
                             -0.4629215f,      -1.14969802f,   -1.00009227f};
  return exp2_of_polynomial(kLog2, a);
}

/* GELU is off by at most 2^-11.6 of itself down to -4 and 2^-8.6 of itself down to -8. */
template <>
__device__ inline float gelu_tail<__nv_bfloat16>(float a) {
  constexpr float kLog2[] = {9.76412139e-06f, -0.000356325734f, 0.00536774099f, -0.0451914854f,
                             -0.470074117f,   -1.14549577f,     -1.00046396f};
  return exp2_of_polynomial(kLog2, a);
}

/*
 * Q of the tanh form, (1 - tanh(u)) / 2 as in djlbsr.h, for 16-bit results: off by at most 2^-13 of
 * itself up to 4, 2^-11.2 up to 5 and 2^-9.5 up to 6.
 */
__device__ inline float gelu_tanh_tail_16(float a) {
  constexpr float kLog2[] = {-5.39804532e-05f, 0.00119637442f, -0.00986553263f, 0.0317680016f,
                             -0.0802468956f,   -0.443107247f,  -1.15447533f,    -0.999884963f};
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
  switch (activation) {
    case DJLBSR_RELU:
      return z < 0.0f ? 0.0f : z; /* NaN stays NaN */
    case DJLBSR_GELU:
      return without_tail(z, [](float a) { return gelu_tail<Element>(a); });
    case DJLBSR_GELU_TANH: {
      if constexpr (sizeof(Element) == 2)
        return without_tail(z, [](float a) { return gelu_tanh_tail_16(a); });
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
