/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
#include "cpu/half.h"

namespace djlbsr::cpu {
namespace {

/* IEEE binary16 in integer arithmetic, for machines without an instruction for it. */
inline float to_float(Half h) {
  const uint32_t sign = static_cast<uint32_t>(h.bits & 0x8000u) << 16;
  const uint32_t magnitude = h.bits & 0x7fffu;
  float value;
  uint32_t bits;
  if (magnitude < 0x400u) { /* 0 and subnormals: a whole number of 2^-24 */
    value = static_cast<float>(magnitude) * 5.9604644775390625e-8f;
    std::memcpy(&bits, &value, 4);
    bits |= sign;
  } else {
    const uint32_t special = magnitude >= 0x7c00u ? 112u << 23 : 0u;
    bits = sign | ((magnitude << 13) + (112u << 23) + special);
  }
  std::memcpy(&value, &bits, 4);
  return value;
}

/* Rounds to nearest even. */
inline Half to_half(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  const uint16_t sign = static_cast<uint16_t>((bits >> 16) & 0x8000u);
  uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return {static_cast<uint16_t>(sign | 0x7e00u)};
  if (magnitude >= 0x477ff000u) return {static_cast<uint16_t>(sign | 0x7c00u)};
  if (magnitude < 0x38800000u) { /* subnormal: let the FPU round to a whole number of 2^-24 */
    float absolute;
    std::memcpy(&absolute, &magnitude, 4);
    absolute += 0.5f;
    std::memcpy(&magnitude, &absolute, 4);
    return {static_cast<uint16_t>(sign | (magnitude - 0x3f000000u))};
  }
  magnitude += 0xfffu + ((magnitude >> 13) & 1u);
  return {static_cast<uint16_t>(sign | ((magnitude - (112u << 23)) >> 13))};
}

inline float to_float(float value) { return value; }

inline void from_float(float value, float* p) { *p = value; }
inline void from_float(float value, Half* p) { *p = to_half(value); }
inline void from_float(float value, Bfloat16* p) { *p = to_bfloat16(value); }

/* Four lanes of the compiler's own vectors: SSE2 on x86, NEON on arm64. */
struct Vec {
  typedef float Lanes __attribute__((vector_size(16)));

  static constexpr int kLanes = 4;

  Lanes v;

  static Vec zero() { return {Lanes{}}; }
  static Vec mul(Vec a, Vec b) { return {a.v * b.v}; }
  static Vec add(Vec a, Vec b) { return {a.v + b.v}; }
  static Vec fma(Vec a, Vec b, Vec c) { return {a.v * b.v + c.v}; }

  template <typename T>
  static Vec load(const T* p) {
    return {Lanes{to_float(p[0]), to_float(p[1]), to_float(p[2]), to_float(p[3])}};
  }
  template <typename T>
  static Vec load_partial(const T* p, int64_t count) {
    Vec r = zero();
    for (int64_t i = 0; i < count; ++i) r.v[i] = to_float(p[i]);
    return r;
  }
  template <typename T>
  static Vec broadcast(const T* p) {
    const float value = to_float(*p);
    return {Lanes{value, value, value, value}};
  }
  template <typename T>
  void store(T* p) const {
    for (int i = 0; i < kLanes; ++i) from_float(v[i], p + i);
  }
  template <typename T>
  void store_partial(T* p, int64_t count) const {
    for (int64_t i = 0; i < count; ++i) from_float(v[i], p + i);
  }

  /* (v0 + v2) + (v1 + v3) */
  float sum() const { return (v[0] + v[2]) + (v[1] + v[3]); }

  /* to[c][r] = row(r)[c] for 4 x 4 floats */
  template <typename Row>
  static void transpose(Row row, float* to, int64_t to_stride) {
    for (int c = 0; c < kLanes; ++c) {
      for (int r = 0; r < kLanes; ++r) to[c * to_stride + r] = row(r)[c];
    }
  }
};

using RowVec = Vec;
using Vec4 = Vec;

/* 6 x 2 sums, 2 weights and 1 broadcast fill 15 of the 16 registers that x86 has. */
constexpr int kTileTokens = 6;
constexpr int kMaxSums = 12;
constexpr int kMaxTokenVectors = 3;

}  // namespace
}  // namespace djlbsr::cpu

#include "cpu/kernels_impl.h"

namespace djlbsr::cpu {
const Kernels kPortableKernels = {make_plan, copy_x, run_task, activate_array};
}
