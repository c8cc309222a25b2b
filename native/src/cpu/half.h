/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
#pragma once

#include <cstdint>
#include <cstring>

/* 16-bit floats as memory; arithmetic is always in fp32. */
namespace djlbsr::cpu {
namespace {

struct Half {
  uint16_t bits;
};

struct Bfloat16 {
  uint16_t bits;
};

[[maybe_unused]] inline float to_float(Bfloat16 b) {
  const uint32_t bits = static_cast<uint32_t>(b.bits) << 16;
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

/* Rounds to nearest even; NaN stays NaN. */
[[maybe_unused]] inline Bfloat16 to_bfloat16(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  if ((bits & 0x7fffffffu) > 0x7f800000u) {
    return {static_cast<uint16_t>((bits >> 16) | 0x40u)};
  }
  return {static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16)};
}

}  // namespace
}  // namespace djlbsr::cpu
