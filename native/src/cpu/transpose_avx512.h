/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace djlbsr::cpu {
namespace {

/*
 * to[c][r] = row_at(r)[c] for 16 x 16 floats. Each row is loaded once: rows whose distance is a
 * multiple of 4 KiB would put each other out of the L1 cache.
 */
template <typename Row>
inline void transpose_16x16(Row row_at, float* to, int64_t to_stride) {
  __m512 quads[16]; /* [4 * g + j]: column 4 * q + j of rows 4 * g to 4 * g + 3 in quarter q */
#pragma GCC unroll 4
  for (int g = 0; g < 4; ++g) {
    const __m512 r0 = _mm512_loadu_ps(row_at(4 * g));
    const __m512 r1 = _mm512_loadu_ps(row_at(4 * g + 1));
    const __m512 r2 = _mm512_loadu_ps(row_at(4 * g + 2));
    const __m512 r3 = _mm512_loadu_ps(row_at(4 * g + 3));
    const __m512 a = _mm512_unpacklo_ps(r0, r1);
    const __m512 b = _mm512_unpackhi_ps(r0, r1);
    const __m512 c = _mm512_unpacklo_ps(r2, r3);
    const __m512 d = _mm512_unpackhi_ps(r2, r3);
    quads[4 * g] = _mm512_shuffle_ps(a, c, 0x44);
    quads[4 * g + 1] = _mm512_shuffle_ps(a, c, 0xee);
    quads[4 * g + 2] = _mm512_shuffle_ps(b, d, 0x44);
    quads[4 * g + 3] = _mm512_shuffle_ps(b, d, 0xee);
  }
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    const __m512 low = _mm512_shuffle_f32x4(quads[j], quads[4 + j], 0x88);
    const __m512 high = _mm512_shuffle_f32x4(quads[8 + j], quads[12 + j], 0x88);
    const __m512 low_odd = _mm512_shuffle_f32x4(quads[j], quads[4 + j], 0xdd);
    const __m512 high_odd = _mm512_shuffle_f32x4(quads[8 + j], quads[12 + j], 0xdd);
    float* column = to + j * to_stride;
    _mm512_storeu_ps(column, _mm512_shuffle_f32x4(low, high, 0x88));
    _mm512_storeu_ps(column + 4 * to_stride, _mm512_shuffle_f32x4(low_odd, high_odd, 0x88));
    _mm512_storeu_ps(column + 8 * to_stride, _mm512_shuffle_f32x4(low, high, 0xdd));
    _mm512_storeu_ps(column + 12 * to_stride, _mm512_shuffle_f32x4(low_odd, high_odd, 0xdd));
  }
}

}  // namespace
}  // namespace djlbsr::cpu
