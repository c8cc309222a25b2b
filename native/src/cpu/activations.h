/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
/*
 * Activations in fp32, within 8 * 2^-24 * |z| of the exact value. Written without branches or
 * calls, so that the compiler vectorizes the loops around them for the ISA of the file that
 * includes this one; everything is in an unnamed namespace, so that no ISA's code is linked into
 * another's.
 *
 * The polynomials are minimax fits over the ranges named beside them (Lawson's iteration on
 * Chebyshev nodes, in double).
 */
#pragma once

#include <cstdint>
#include <cstring>

#include "djlbsr.h"

namespace djlbsr::cpu {
namespace {

inline float float_of_bits(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

inline uint32_t bits_of(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  return bits;
}

/* e^x; overflows to Inf, stays at 1.2e-38 below -87.3 and keeps NaN. */
inline float exp_f32(float x) {
  x = x > 89.0f ? 89.0f : x;
  x = x < -87.33f ? -87.33f : x;
  /* Adding 1.5 * 2^23 rounds to an integer and leaves it in the low bits of the sum. */
  const float shift = 12582912.0f;
  const float shifted = x * 1.44269504f + shift;
  const float n = shifted - shift;
  float r = x - n * 0.693145752f;
  r = r - n * 1.42860677e-6f;
  /* (e^r - 1 - r) / r^2 on [-ln2/2, ln2/2], error 2e-10 */
  float p = 1.990704913623631e-4f;
  p = p * r + 1.3932925648987293e-3f;
  p = p * r + 8.333287201821804e-3f;
  p = p * r + 4.166647419333458e-2f;
  p = p * r + 1.666666716337204e-1f;
  p = p * r + 0.5f;
  p = (p * r) * r + r + 1.0f;
  /* 2^n in two factors: 2^128 is no float, e^89 is Inf. */
  const uint32_t whole = bits_of(shifted) - bits_of(shift);
  const uint32_t half = static_cast<uint32_t>(static_cast<int32_t>(whole) >> 1);
  const float scale_a = float_of_bits((half + 127u) << 23);
  const float scale_b = float_of_bits((whole - half + 127u) << 23);
  return p * scale_a * scale_b;
}

inline float silu_f32(float z) { return z / (1.0f + exp_f32(-z)); }

/* z * (1 + tanh u) / 2 = z / (1 + e^-2u), which keeps its relative accuracy where tanh is near -1.
 */
inline float gelu_tanh_f32(float z) {
  const float u = 0.7978845608f * (z + 0.044715f * z * z * z);
  return z / (1.0f + exp_f32(-2.0f * u));
}

/* z/2 * erfc(-z / sqrt 2), by erf near 0 and by the scaled erfc, e^(t^2) erfc(t), elsewhere. */
inline float gelu_f32(float z) {
  const float a = z * 0.7071067812f;
  const float t = a < 0.0f ? -a : a;
  const float s = a * a;
  /* erf(t) / t on [0, 1] in s = t^2, error 3e-11 */
  float p = -9.680138646217529e-6f;
  p = p * s + 1.1270545655861497e-4f;
  p = p * s - 8.4847112884745e-4f;
  p = p * s + 5.221074912697077e-3f;
  p = p * s - 2.686544507741928e-2f;
  p = p * s + 1.1283782869577408e-1f;
  p = p * s - 3.7612637877464294e-1f;
  p = p * s + 1.128379225730896f;
  const float near = 1.0f + p * a;
  /* erfc(t) e^(t^2) (1 + t) on [1, 10.5] in u = 1 / (1 + t), relative error 6e-8 */
  const float u = 1.0f / (1.0f + t);
  float q = 9.16195660829544e-2f;
  q = q * u - 1.242143154144287f;
  q = q * u + 2.504847764968872f;
  q = q * u - 1.7029221057891846f;
  q = q * u - 7.525748014450073e-2f;
  q = q * u + 2.576402425765991e-1f;
  q = q * u + 5.65726101398468e-1f;
  q = q * u + 5.641500353813171e-1f;
  const float tail = exp_f32(-0.5f * z * z) * (u * q);
  const float far = a < 0.0f ? tail : 2.0f - tail;
  return 0.5f * z * (t < 1.0f ? near : far);
}

constexpr int64_t kFinishStep = 16;

/* z := act(z + bias); count is a multiple of kFinishStep, so that no element takes a scalar path.
 */
inline void finish(float* __restrict z, const float* __restrict bias, int64_t count,
                   int32_t activation) {
  for (int64_t i = 0; i < count; i += kFinishStep) {
    for (int64_t j = i; j < i + kFinishStep; ++j) z[j] += bias[j];
  }
  switch (activation) {
    case DJLBSR_RELU:
      for (int64_t i = 0; i < count; i += kFinishStep) {
        /* Not z > 0 ? z : 0, which would turn NaN into 0. */
        for (int64_t j = i; j < i + kFinishStep; ++j) z[j] = z[j] < 0.0f ? 0.0f : z[j];
      }
      break;
    case DJLBSR_GELU:
      for (int64_t i = 0; i < count; i += kFinishStep) {
        for (int64_t j = i; j < i + kFinishStep; ++j) z[j] = gelu_f32(z[j]);
      }
      break;
    case DJLBSR_GELU_TANH:
      for (int64_t i = 0; i < count; i += kFinishStep) {
        for (int64_t j = i; j < i + kFinishStep; ++j) z[j] = gelu_tanh_f32(z[j]);
      }
      break;
    case DJLBSR_SILU:
      for (int64_t i = 0; i < count; i += kFinishStep) {
        for (int64_t j = i; j < i + kFinishStep; ++j) z[j] = silu_f32(z[j]);
      }
      break;
    default:
      break;
  }
}

}  // namespace
}  // namespace djlbsr::cpu
