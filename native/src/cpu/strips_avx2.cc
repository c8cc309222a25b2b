/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
#include <immintrin.h>

#include "cpu/int8_rows.h"
#include "cpu/strips_impl.h"

namespace djlbsr::cpu {
namespace {

/* bf16 weights in fp32 arithmetic: the same sums as the kernels of kernels_impl.h. */
struct Bf16Ops {
  struct Pair {
    __m256 even;
    __m256 odd;
  };
  using Element = Bfloat16;
  using Words = Pair;
  using X = Pair;
  using Sum = __m256;
  using Acc = Sum;

  static constexpr bool kInt8 = false;
  static constexpr int kLanes = 8;
  static constexpr int kTokens1 = 8;
  static constexpr int kTokens2 = 5;
  static constexpr int kXColBytes = 4;
  static constexpr int kXBytes = 8;

  static Words load(const char* p) {
    const __m256i words = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    return {_mm256_castsi256_ps(_mm256_slli_epi32(words, 16)),
            _mm256_castsi256_ps(_mm256_and_si256(words, _mm256_set1_epi32(~0xffff)))};
  }
  static X broadcast(const char* p) {
    const float* x = reinterpret_cast<const float*>(p);
    return {_mm256_broadcast_ss(x), _mm256_broadcast_ss(x + 1)};
  }
  static Sum zero() { return _mm256_setzero_ps(); }
  static Sum dot(Sum sum, Words w, X x) {
    return _mm256_fmadd_ps(w.odd, x.odd, _mm256_fmadd_ps(w.even, x.even, sum));
  }
  static void store(Sum sum, float* to) { _mm256_storeu_ps(to, sum); }
};

/*
 * int8 as 16-bit lanes: vpmaddubsw would saturate the sum of two products of 8-bit lanes, and
 * vpmaddwd cannot overflow. A vector of 8 words is two of 4 rows by 4 columns; their sums are in
 * pairs until the block ends.
 */
struct Int8Ops {
  struct Halves {
    __m256i low;
    __m256i high;
  };
  using Element = float;
  using Words = Halves;
  using X = __m256i;
  using Sum = __m256;
  using Acc = Halves;

  static constexpr bool kInt8 = true;
  static constexpr int kLanes = 8;
  static constexpr int kTokens1 = 4;
  static constexpr int kTokens2 = 2;
  static constexpr int kXColBytes = 2;
  static constexpr int kXBytes = 8;

  static Words load(const char* p) {
    const __m128i* words = reinterpret_cast<const __m128i*>(p);
    return {_mm256_cvtepi8_epi16(_mm_loadu_si128(words)),
            _mm256_cvtepi8_epi16(_mm_loadu_si128(words + 1))};
  }
  static X broadcast(const char* p) {
    long long quad;
    std::memcpy(&quad, p, 8);
    return _mm256_set1_epi64x(quad);
  }
  static Sum zero() { return _mm256_setzero_ps(); }
  static Acc start(const int32_t*) { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
  static Acc dot(Acc acc, Words w, X x) {
    return {_mm256_add_epi32(acc.low, _mm256_madd_epi16(w.low, x)),
            _mm256_add_epi32(acc.high, _mm256_madd_epi16(w.high, x))};
  }
  static Sum flush(Sum sum, Acc acc, float scale) {
    /* hadd leaves rows 0 1 4 5 2 3 6 7. */
    const __m256i rows =
        _mm256_permute4x64_epi64(_mm256_hadd_epi32(acc.low, acc.high), _MM_SHUFFLE(3, 1, 2, 0));
    return _mm256_fmadd_ps(_mm256_cvtepi32_ps(rows), _mm256_set1_ps(scale), sum);
  }
  static void store(Sum sum, float* to) { _mm256_storeu_ps(to, sum); }
};

}  // namespace

const StripKernel kBf16Avx2 = {"bf16_avx2", 1,          Bf16Ops::kXColBytes,      Bf16Ops::kTokens2,
                               0,           widen_rows, StripRunner<Bf16Ops>::run};
const StripKernel kInt8Avx2 = {"int8_avx2",
                               1,
                               Int8Ops::kXColBytes,
                               Int8Ops::kTokens1,
                               0,
                               quantize_rows<int16_t, 0>,
                               StripRunner<Int8Ops>::run};

}  // namespace djlbsr::cpu
