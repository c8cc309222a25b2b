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

/* Of columns that no block meets too, where the integer may be any. */
template <typename Int, int kOffset>
inline Int quantized(float value) {
  return static_cast<Int>(static_cast<uint32_t>(round_to_int(value)) +
                          static_cast<uint32_t>(kOffset));
}

template <typename Int, int kOffset>
inline void quantize_run(const float* __restrict x, int64_t count, float inverse,
                         Int* __restrict to) {
  int64_t c = 0;
  for (; c + kQuantizeStep <= count; c += kQuantizeStep) {
    for (int64_t j = 0; j < kQuantizeStep; ++j) {
      to[c + j] = quantized<Int, kOffset>(x[c + j] * inverse);
    }
  }
  for (; c < count; ++c) to[c] = quantized<Int, kOffset>(x[c] * inverse);
}

constexpr int64_t kChunkGroups = 16;

/* Some groups of 4 columns that follow each other, in x and in its quantized copy. */
struct Chunk {
  int64_t column; /* the first */
  int64_t count;  /* columns */
  int64_t groups;
  int64_t from[kChunkGroups]; /* where each group starts in them, if some are not full */
};

/* At most kChunkGroups from `group` on. */
inline Chunk chunk_at(const StripWeight& w, int64_t group, int64_t group_end) {
  int64_t in_block = group % w.groups * 4;
  Chunk chunk = {
      group / w.groups * w.block_cols + in_block, 0, std::min(kChunkGroups, group_end - group), {}};
  if (w.padded_cols == w.block_cols) {
    chunk.count = chunk.groups * 4;
    return chunk;
  }
  for (int64_t g = 0; g < chunk.groups; ++g) {
    chunk.from[g] = chunk.count;
    const int64_t left = w.block_cols - in_block;
    chunk.count += std::min<int64_t>(4, left);
    in_block = left > 4 ? in_block + 4 : 0;
  }
  return chunk;
}

/* Padding holds anything: it meets weights of 0. */
template <typename Int, int kOffset>
inline void quantize_chunk(const Chunk& chunk, const float* x, float inverse, Int* to) {
  if (chunk.count == chunk.groups * 4) {
    quantize_run<Int, kOffset>(x + chunk.column, chunk.count, inverse, to);
    return;
  }
  Int columns[2 * kChunkGroups * 4] = {}; /* whole groups are copied from anywhere in the half */
  quantize_run<Int, kOffset>(x + chunk.column, chunk.count, inverse, columns);
  for (int64_t g = 0; g < chunk.groups; ++g) {
    std::memcpy(to + g * 4, columns + chunk.from[g], 4 * sizeof(Int));
  }
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

/* Rows of Int(q + kOffset); padding holds anything, columns without a stored block kOffset. */
template <typename Int, int kOffset>
void quantize_rows(const StripWeight& w, const djlbsr_linear_args& args, int64_t token_begin,
                   int64_t token_end, char* to, int64_t stride, float* scales) {
  for (int64_t t = token_begin; t < token_end; ++t, to += stride, ++scales) {
    const float* x = static_cast<const float*>(args.x) + t * args.x_stride;
    const Quantizer q = row_quantizer(w, x);
    *scales = q.scale;
    Int* row = reinterpret_cast<Int*>(to);
    each_run(w, [&](int64_t first, int64_t end, bool used) {
      if (!used || q.inverse == 0.0f) {
        std::fill(row + first * w.padded_cols, row + end * w.padded_cols,
                  static_cast<Int>(kOffset));
      } else if (w.padded_cols == w.block_cols) {
        quantize_run<Int, kOffset>(x + first * w.block_cols, (end - first) * w.block_cols,
                                   q.inverse, row + first * w.block_cols);
      } else {
        for (int64_t g = first * w.groups; g < end * w.groups; g += kChunkGroups) {
          quantize_chunk<Int, kOffset>(chunk_at(w, g, end * w.groups), x, q.inverse, row + g * 4);
        }
      }
    });
  }
}

}  // namespace
}  // namespace djlbsr::cpu
