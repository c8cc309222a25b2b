/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
#include <immintrin.h>

#include "cpu/strips_impl.h"

namespace djlbsr::cpu {
namespace {

/* bf16 weights in fp32 arithmetic: the same sums as the kernels of kernels_impl.h. */
struct Bf16Ops {
  struct Pair {
    __m512 even;
    __m512 odd;
  };
  using Element = Bfloat16;
  using Words = Pair;
  using X = Pair;
  using Sum = __m512;
  using Acc = Sum;

  static constexpr bool kInt8 = false;
  static constexpr int kLanes = 16;
  static constexpr int kTokens1 = 12;
  static constexpr int kTokens2 = 12;
  static constexpr int kXColBytes = 4;
  static constexpr int kXBytes = 8;

  static Words load(const char* p) {
    const __m512i words = _mm512_loadu_si512(p);
    return {_mm512_castsi512_ps(_mm512_slli_epi32(words, 16)),
            _mm512_castsi512_ps(_mm512_and_si512(words, _mm512_set1_epi32(~0xffff)))};
  }
  static X broadcast(const char* p) {
    const float* x = reinterpret_cast<const float*>(p);
    return {_mm512_set1_ps(x[0]), _mm512_set1_ps(x[1])};
  }
  static Sum zero() { return _mm512_setzero_ps(); }
  static Sum dot(Sum sum, Words w, X x) {
    return _mm512_fmadd_ps(w.odd, x.odd, _mm512_fmadd_ps(w.even, x.even, sum));
  }
  static void store(Sum sum, float* to) { _mm512_storeu_ps(to, sum); }
};

}  // namespace

const StripKernel kBf16Avx512 = {"bf16_avx512",
                                 1,
                                 Bf16Ops::kXColBytes,
                                 Bf16Ops::kTokens2,
                                 0,
                                 widen_rows,
                                 StripRunner<Bf16Ops>::run};

}  // namespace djlbsr::cpu
