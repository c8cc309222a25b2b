/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
#include <immintrin.h>

#include "cpu/half.h"

namespace djlbsr::cpu {
namespace {

struct Vec {
  static constexpr int kLanes = 8;
  /* 6 x 2 sums, 2 weights and 1 broadcast fill 15 of the 16 registers. */
  static constexpr int kTileTokens = 6;
  static constexpr bool kWideTile = false;

  __m256 v;

  static Vec zero() { return {_mm256_setzero_ps()}; }
  static Vec fma(Vec a, Vec b, Vec c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }

  static __m256i mask(int64_t count) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(count)),
                              _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  }
  static Vec load(const float* p) { return {_mm256_loadu_ps(p)}; }
  static Vec load_partial(const float* p, int64_t count) {
    return {_mm256_maskload_ps(p, mask(count))};
  }
  static Vec broadcast(const float* p) { return {_mm256_broadcast_ss(p)}; }
  void store(float* p) const { _mm256_storeu_ps(p, v); }
  void store_partial(float* p, int64_t count) const { _mm256_maskstore_ps(p, mask(count), v); }

  /*
   * AVX2 has no masked access to 16-bit lanes: fewer than 8 of them are put together from whole
   * words, the last of which may overlap the one before.
   */
  template <typename T>
  static __m128i gather(const T* p, int64_t count) {
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
  static void scatter(__m128i lanes, T* p, int64_t count) {
    alignas(16) T buffer[kLanes];
    _mm_store_si128(reinterpret_cast<__m128i*>(buffer), lanes);
    for (int64_t i = 0; i < count; ++i) p[i] = buffer[i];
  }

  static Vec load(const Half* p) {
    return {_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))};
  }
  static Vec load_partial(const Half* p, int64_t count) {
    return {_mm256_cvtph_ps(gather(p, count))};
  }
  static Vec broadcast(const Half* p) { return {_mm256_set1_ps(_cvtsh_ss(p->bits))}; }
  __m128i to_half() const { return _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT); }
  void store(Half* p) const { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), to_half()); }
  void store_partial(Half* p, int64_t count) const { scatter(to_half(), p, count); }

  static Vec of_bfloat16(__m128i b) {
    return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(b), 16))};
  }
  static Vec load(const Bfloat16* p) {
    return of_bfloat16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  static Vec load_partial(const Bfloat16* p, int64_t count) {
    return of_bfloat16(gather(p, count));
  }
  static Vec broadcast(const Bfloat16* p) { return {_mm256_set1_ps(to_float(*p))}; }
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
  void store_partial(Bfloat16* p, int64_t count) const { scatter(to_bfloat16_bits(), p, count); }
};

}  // namespace
}  // namespace djlbsr::cpu

#include "cpu/kernels_impl.h"

namespace djlbsr::cpu {
const Kernels kAvx2Kernels = {make_plan, run_task};
}
