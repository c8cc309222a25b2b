/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
/*
 * Quantizing rows of x; djlbsr.h says how, and every ISA does exactly that. Vectorized by the
 * compiler for the ISA of the file that includes it, so nothing may be visible outside that file.
 */
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>

#include "cpu/strips.h"
#include "cpu/strips_quantize.h"

namespace djlbsr::cpu {
namespace {

/* Steps of whole vectors, for the compiler to unroll. */
constexpr int64_t kQuantizeStep = 64;

/* The bits of the largest |x| of a run: for floats without their sign, order of bits is order. */
inline uint32_t max_magnitude(const float* __restrict x, int64_t count) {
  uint32_t most = 0;
  for (int64_t c = 0; c < count; ++c) {
    uint32_t bits;
    std::memcpy(&bits, x + c, 4);
    bits &= 0x7fffffffu;
    most = bits > most ? bits : most;
  }
  return most;
}

template <typename Int, int kOffset>
inline void quantize_run(const float* __restrict x, int64_t count, float inverse,
                         Int* __restrict to) {
  int64_t c = 0;
  for (; c + kQuantizeStep <= count; c += kQuantizeStep) {
    for (int64_t j = 0; j < kQuantizeStep; ++j) {
      to[c + j] = static_cast<Int>(round_to_int(x[c + j] * inverse) + kOffset);
    }
  }
  for (; c < count; ++c) to[c] = static_cast<Int>(round_to_int(x[c] * inverse) + kOffset);
}

/* Calls body(first, end, used) for each run of block columns that blocks meet, or do not. */
template <typename Body>
inline void each_run(const StripWeight& w, Body&& body) {
  for (int64_t j = 0; j < w.block_col_count;) {
    const int64_t first = j;
    while (j < w.block_col_count && (w.used[j] != 0) == (w.used[first] != 0)) ++j;
    body(first, j, w.used[first] != 0);
  }
}

/* For a row with a NaN or an Inf that counts the scale is NaN, which makes all its outputs NaN. */
inline Quantizer row_quantizer(const StripWeight& w, const float* x) {
  uint32_t bits = 0;
  each_run(w, [&](int64_t first, int64_t end, bool used) {
    if (!used) return;
    const uint32_t most = max_magnitude(x + first * w.block_cols, (end - first) * w.block_cols);
    bits = most > bits ? most : bits;
  });
  if (bits >= 0x7f800000u) return {std::numeric_limits<float>::quiet_NaN(), 0.0f};
  float most;
  std::memcpy(&most, &bits, 4);
  return quantizer_of(most);
}

/* Rows of Int(q + kOffset); padding and columns without a stored block hold kOffset. */
template <typename Int, int kOffset>
void quantize_rows(const StripWeight& w, const djlbsr_linear_args& args, int64_t token_begin,
                   int64_t token_end, char* to, int64_t stride, float* scales) {
  for (int64_t t = token_begin; t < token_end; ++t, to += stride, ++scales) {
    const float* x = static_cast<const float*>(args.x) + t * args.x_stride;
    const Quantizer q = row_quantizer(w, x);
    *scales = q.scale;
    Int* row = reinterpret_cast<Int*>(to);
    each_run(w, [&](int64_t first, int64_t end, bool used) {
      const bool zero = !used || q.inverse == 0.0f;
      if (zero || w.padded_cols != w.block_cols) {
        std::fill(row + first * w.padded_cols, row + end * w.padded_cols,
                  static_cast<Int>(kOffset));
      }
      if (zero) return;
      if (w.padded_cols == w.block_cols) {
        quantize_run<Int, kOffset>(x + first * w.block_cols, (end - first) * w.block_cols,
                                   q.inverse, row + first * w.block_cols);
        return;
      }
      for (int64_t j = first; j < end; ++j) {
        quantize_run<Int, kOffset>(x + j * w.block_cols, w.block_cols, q.inverse,
                                   row + j * w.padded_cols);
      }
    });
  }
}

}  // namespace
}  // namespace djlbsr::cpu
