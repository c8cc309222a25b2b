/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
#include <immintrin.h>

#include "cpu/int8_rows.h"
#include "cpu/strips_impl.h"

namespace djlbsr::cpu {
namespace {

/* vpdpbusd takes x unsigned, 128 more than it is: sums start at -128 times the row's weights. */
struct Int8Ops {
  using Element = float;
  using Words = __m512i;
  using X = __m512i;
  using Sum = __m512;
  using Acc = __m512i;

  static constexpr bool kInt8 = true;
  static constexpr int kLanes = 16;
  /* As many integer as fp32 sums: 12 and 12. */
  static constexpr int kTokens1 = 12;
  static constexpr int kTokens2 = 6;
  static constexpr int kXColBytes = 1;
  static constexpr int kXBytes = 4;

  static Words load(const char* p) { return _mm512_loadu_si512(p); }
  static X broadcast(const char* p) {
    int quad;
    std::memcpy(&quad, p, 4);
    return _mm512_set1_epi32(quad);
  }
  static Sum zero() { return _mm512_setzero_ps(); }
  static Acc start(const int32_t* offsets) { return _mm512_loadu_si512(offsets); }
  static Acc dot(Acc acc, Words w, X x) { return _mm512_dpbusd_epi32(acc, x, w); }
  static Sum flush(Sum sum, Acc acc, float scale) {
    return _mm512_fmadd_ps(_mm512_cvtepi32_ps(acc), _mm512_set1_ps(scale), sum);
  }
  static void store(Sum sum, float* to) { _mm512_storeu_ps(to, sum); }
};

/* For strips of up to 8 rows: half as wide, and on some machines twice as many a cycle. */
struct Int8LowOps {
  using Element = float;
  using Words = __m256i;
  using X = __m256i;
  using Sum = __m256;
  using Acc = __m256i;

  static constexpr bool kInt8 = true;
  static constexpr int kLanes = 8;
  static constexpr int kTokens1 = 12;
  static constexpr int kTokens2 = 6;
  static constexpr int kXColBytes = 1;
  static constexpr int kXBytes = 4;

  static Words load(const char* p) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  }
  static X broadcast(const char* p) {
    int quad;
    std::memcpy(&quad, p, 4);
    return _mm256_set1_epi32(quad);
  }
  static Sum zero() { return _mm256_setzero_ps(); }
  static Acc start(const int32_t* offsets) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(offsets));
  }
  static Acc dot(Acc acc, Words w, X x) { return _mm256_dpbusd_epi32(acc, x, w); }
  static Sum flush(Sum sum, Acc acc, float scale) {
    return _mm256_fmadd_ps(_mm256_cvtepi32_ps(acc), _mm256_set1_ps(scale), sum);
  }
  static void store(Sum sum, float* to) { _mm256_storeu_ps(to, sum); }
};

}  // namespace

const StripKernel kInt8Avx512VnniLow = {"int8_avx512_vnni_low",      Int8LowOps::kXColBytes,
                                        Int8LowOps::kTokens1,        0,
                                        quantize_rows<uint8_t, 128>, StripRunner<Int8LowOps>::run};
const StripKernel kInt8Avx512Vnni = {"int8_avx512_vnni",          Int8Ops::kXColBytes,
                                     Int8Ops::kTokens1,           0,
                                     quantize_rows<uint8_t, 128>, StripRunner<Int8Ops>::run};

}  // namespace djlbsr::cpu
