/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
#include "cpu/transpose_avx512.h"
#include "cpu/vec_x86.h"

namespace djlbsr::cpu {
namespace {

struct Vec {
  static constexpr int kLanes = 16;

  __m512 v;

  static __mmask16 mask(int64_t count) { return static_cast<__mmask16>((1u << count) - 1u); }

  static Vec zero() { return {_mm512_setzero_ps()}; }
  static Vec mul(Vec a, Vec b) { return {_mm512_mul_ps(a.v, b.v)}; }
  static Vec add(Vec a, Vec b) { return {_mm512_add_ps(a.v, b.v)}; }
  static Vec fma(Vec a, Vec b, Vec c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }

  static Vec load(const float* p) { return {_mm512_loadu_ps(p)}; }
  static Vec load_partial(const float* p, int64_t count) {
    return {_mm512_maskz_loadu_ps(mask(count), p)};
  }
  static Vec broadcast(const float* p) { return {_mm512_set1_ps(*p)}; }
  void store(float* p) const { _mm512_storeu_ps(p, v); }
  void store_partial(float* p, int64_t count) const { _mm512_mask_storeu_ps(p, mask(count), v); }

  static Vec of_half(__m256i h) { return {_mm512_cvtph_ps(h)}; }
  static Vec load(const Half* p) {
    return of_half(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  static Vec load_partial(const Half* p, int64_t count) {
    return of_half(_mm256_maskz_loadu_epi16(mask(count), p));
  }
  static Vec broadcast(const Half* p) { return {_mm512_set1_ps(_cvtsh_ss(p->bits))}; }
  __m256i to_half() const { return _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT); }
  void store(Half* p) const { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), to_half()); }
  void store_partial(Half* p, int64_t count) const {
    _mm256_mask_storeu_epi16(p, mask(count), to_half());
  }

  static Vec of_bfloat16(__m256i b) {
    return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(b), 16))};
  }
  static Vec load(const Bfloat16* p) {
    return of_bfloat16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  static Vec load_partial(const Bfloat16* p, int64_t count) {
    return of_bfloat16(_mm256_maskz_loadu_epi16(mask(count), p));
  }
  static Vec broadcast(const Bfloat16* p) { return {_mm512_set1_ps(to_float(*p))}; }
  __m256i to_bfloat16_bits() const {
    const __m512i bits = _mm512_castps_si512(v);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const __m512i rounded =
        _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    const __m512i quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x400000));
    const __mmask16 nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
    return _mm512_cvtepi32_epi16(
        _mm512_srli_epi32(_mm512_mask_blend_epi32(nan, rounded, quiet), 16));
  }
  void store(Bfloat16* p) const {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), to_bfloat16_bits());
  }
  void store_partial(Bfloat16* p, int64_t count) const {
    _mm256_mask_storeu_epi16(p, mask(count), to_bfloat16_bits());
  }

  template <typename Row>
  static void transpose(Row row_at, float* to, int64_t to_stride) {
    transpose_16x16(row_at, to, to_stride);
  }
};

using RowVec = Vec8; /* for 5 to 8 rows */

/* 14 x 2 sums, 2 weights and 1 broadcast fill 31 of the 32 registers. */
constexpr int kTileTokens = 14;
constexpr int kMaxSums = 24;
constexpr int kMaxTokenVectors = 4;

}  // namespace
}  // namespace djlbsr::cpu

#include "cpu/kernels_impl.h"

namespace djlbsr::cpu {
const Kernels kAvx512Kernels = {make_plan, copy_x, run_task, activate_array};
}
