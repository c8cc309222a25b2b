/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
/*
 * Four and eight floats in a register, for the files of the x86 ISAs with AVX2, FMA and F16C. What
 * a Vec is: see kernels_impl.h.
 */
#pragma once

#include <immintrin.h>

#include "cpu/half.h"

namespace djlbsr::cpu {
namespace {

/* The first `count` of at most 8 16-bit elements. AVX2 has no masked access to them: they are put
   together from whole words, the last of which may overlap the one before. */
template <typename T>
inline __m128i gather_16bit(const T* p, int64_t count) {
  const auto word = [p](int64_t i, size_t bytes) {
    uint64_t value = 0;
    std::memcpy(&value, p + i, bytes);
    return value;
  };
  uint64_t low;
  uint64_t high = 0;
  if (count >= 4) {
    low = word(0, 8);
    if (count > 4) high = word(count - 4, 8) >> (16 * (8 - count));
  } else if (count >= 2) {
    low = word(0, 4) | (count == 3 ? word(2, 2) << 32 : 0);
  } else {
    low = word(0, 2);
  }
  return _mm_set_epi64x(static_cast<int64_t>(high), static_cast<int64_t>(low));
}

template <typename T>
inline void scatter_16bit(__m128i lanes, T* p, int64_t count) {
  alignas(16) T buffer[8];
  _mm_store_si128(reinterpret_cast<__m128i*>(buffer), lanes);
  for (int64_t i = 0; i < count; ++i) p[i] = buffer[i];
}

struct Vec8 {
  static constexpr int kLanes = 8;

  __m256 v;

  static Vec8 zero() { return {_mm256_setzero_ps()}; }
  static Vec8 mul(Vec8 a, Vec8 b) { return {_mm256_mul_ps(a.v, b.v)}; }
  static Vec8 add(Vec8 a, Vec8 b) { return {_mm256_add_ps(a.v, b.v)}; }
  static Vec8 fma(Vec8 a, Vec8 b, Vec8 c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }

  static __m256i mask(int64_t count) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(count)),
                              _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  }
  static Vec8 load(const float* p) { return {_mm256_loadu_ps(p)}; }
  static Vec8 load_partial(const float* p, int64_t count) {
    return {_mm256_maskload_ps(p, mask(count))};
  }
  static Vec8 broadcast(const float* p) { return {_mm256_broadcast_ss(p)}; }
  void store(float* p) const { _mm256_storeu_ps(p, v); }
  void store_partial(float* p, int64_t count) const { _mm256_maskstore_ps(p, mask(count), v); }

  static Vec8 load(const Half* p) {
    return {_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))};
  }
  static Vec8 load_partial(const Half* p, int64_t count) {
    return {_mm256_cvtph_ps(gather_16bit(p, count))};
  }
  static Vec8 broadcast(const Half* p) { return {_mm256_set1_ps(_cvtsh_ss(p->bits))}; }
  __m128i to_half() const { return _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT); }
  void store(Half* p) const { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), to_half()); }
  void store_partial(Half* p, int64_t count) const { scatter_16bit(to_half(), p, count); }

  static Vec8 of_bfloat16(__m128i b) {
    return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(b), 16))};
  }
  static Vec8 load(const Bfloat16* p) {
    return of_bfloat16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  static Vec8 load_partial(const Bfloat16* p, int64_t count) {
    return of_bfloat16(gather_16bit(p, count));
  }
  static Vec8 broadcast(const Bfloat16* p) { return {_mm256_set1_ps(to_float(*p))}; }
  __m128i to_bfloat16_bits() const {
    const __m256i bits = _mm256_castps_si256(v);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const __m256i rounded =
        _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    const __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
    const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q));
    const __m256i chosen = _mm256_srli_epi32(_mm256_blendv_epi8(rounded, quiet, nan), 16);
    return _mm_packus_epi32(_mm256_castsi256_si128(chosen), _mm256_extracti128_si256(chosen, 1));
  }
  void store(Bfloat16* p) const {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), to_bfloat16_bits());
  }
  void store_partial(Bfloat16* p, int64_t count) const {
    scatter_16bit(to_bfloat16_bits(), p, count);
  }

  /* to[c][r] = row_at(r)[c] for 8 x 8 floats. The halves of four rows each are put together by
     loads, so that only two rounds of shuffles are left. */
  template <typename Row>
  static void transpose(Row row_at, float* to, int64_t to_stride) {
    for (int half = 0; half < 2; ++half) {
      __m256 row[4];
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) {
        row[i] = _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(row_at(i) + 4 * half)),
                                      _mm_loadu_ps(row_at(i + 4) + 4 * half), 1);
      }
      const __m256 a = _mm256_unpacklo_ps(row[0], row[1]);
      const __m256 b = _mm256_unpackhi_ps(row[0], row[1]);
      const __m256 c = _mm256_unpacklo_ps(row[2], row[3]);
      const __m256 d = _mm256_unpackhi_ps(row[2], row[3]);
      float* q = to + 4 * half * to_stride;
      _mm256_storeu_ps(q, _mm256_shuffle_ps(a, c, 0x44));
      _mm256_storeu_ps(q + to_stride, _mm256_shuffle_ps(a, c, 0xee));
      _mm256_storeu_ps(q + 2 * to_stride, _mm256_shuffle_ps(b, d, 0x44));
      _mm256_storeu_ps(q + 3 * to_stride, _mm256_shuffle_ps(b, d, 0xee));
    }
  }
};

struct Vec4 {
  static constexpr int kLanes = 4;

  __m128 v;

  static Vec4 zero() { return {_mm_setzero_ps()}; }
  static Vec4 mul(Vec4 a, Vec4 b) { return {_mm_mul_ps(a.v, b.v)}; }
  static Vec4 fma(Vec4 a, Vec4 b, Vec4 c) { return {_mm_fmadd_ps(a.v, b.v, c.v)}; }
  /* (v0 + v2) + (v1 + v3) */
  float sum() const {
    const __m128 pairs = _mm_add_ps(v, _mm_movehl_ps(v, v));
    return _mm_cvtss_f32(_mm_add_ss(pairs, _mm_movehdup_ps(pairs)));
  }

  static __m128i mask(int64_t count) {
    return _mm_cmpgt_epi32(_mm_set1_epi32(static_cast<int>(count)), _mm_setr_epi32(0, 1, 2, 3));
  }
  template <typename T>
  static __m128i load_4(const T* p) {
    return _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p));
  }
  static Vec4 load(const float* p) { return {_mm_loadu_ps(p)}; }
  static Vec4 load_partial(const float* p, int64_t count) {
    return {_mm_maskload_ps(p, mask(count))};
  }
  static Vec4 broadcast(const float* p) { return {_mm_broadcast_ss(p)}; }
  void store(float* p) const { _mm_storeu_ps(p, v); }
  void store_partial(float* p, int64_t count) const { _mm_maskstore_ps(p, mask(count), v); }

  static Vec4 load(const Half* p) { return {_mm_cvtph_ps(load_4(p))}; }
  static Vec4 load_partial(const Half* p, int64_t count) {
    return {_mm_cvtph_ps(gather_16bit(p, count))};
  }

  static Vec4 of_bfloat16(__m128i b) {
    return {_mm_castsi128_ps(_mm_slli_epi32(_mm_cvtepu16_epi32(b), 16))};
  }
  static Vec4 load(const Bfloat16* p) { return of_bfloat16(load_4(p)); }
  static Vec4 load_partial(const Bfloat16* p, int64_t count) {
    return of_bfloat16(gather_16bit(p, count));
  }
};

}  // namespace
}  // namespace djlbsr::cpu
