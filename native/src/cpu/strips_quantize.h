/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
#pragma once

#include <cstdint>
#include <cstring>

/* Symmetric quantization to [-127, 127], of blocks of W and of rows of x alike. */
namespace djlbsr::cpu {
namespace {

struct Quantizer {
  float scale;   /* what a step is worth */
  float inverse; /* steps in 1 */
};

/* `most` is finite. Below 2^-100 the inverse could overflow: all counts as 0. */
inline Quantizer quantizer_of(float most) {
  if (!(most >= 7.888609052210118e-31f)) return {0.0f, 0.0f};
  return {most / 127.0f, 127.0f / most};
}

/* To the nearest integer, ties to even, for |value| < 2^22; some integer for others. */
inline int32_t round_to_int(float value) {
  const float shift = 12582912.0f; /* 1.5 * 2^23: leaves the integer in the low bits of the sum */
  const float shifted = value + shift;
  uint32_t bits;
  std::memcpy(&bits, &shifted, 4);
  return static_cast<int32_t>(bits - 0x4b400000u);
}

}  // namespace
}  // namespace djlbsr::cpu
