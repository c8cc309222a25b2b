/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
#include <immintrin.h>

#include "cpu/strips_impl.h"

namespace djlbsr::cpu {
namespace {

/*
 * vdpbf16ps: two exact products a lane, added to fp32 in turn. It rounds to nearest even whatever
 * MXCSR says, takes subnormal inputs for 0 and flushes subnormal results.
 */
struct Bf16Ops {
  using Element = Bfloat16;
  using Words = __m512bh;
  using X = __m512bh;
  using Sum = __m512;
  using Acc = Sum;

  static constexpr bool kInt8 = false;
  static constexpr int kLanes = 16;
  static constexpr int kTokens1 = 14;
  /* 14 x 2 sums, 2 weights and 1 broadcast fill 31 of the 32 registers. */
  static constexpr int kTokens2 = 14;
  static constexpr int kXColBytes = 2;
  static constexpr int kXBytes = 4;

  static Words load(const char* p) { return (__m512bh)_mm512_loadu_si512(p); }
  static X broadcast(const char* p) {
    int pair;
    std::memcpy(&pair, p, 4);
    return (__m512bh)_mm512_set1_epi32(pair);
  }
  static Sum zero() { return _mm512_setzero_ps(); }
  static Sum dot(Sum sum, Words w, X x) { return _mm512_dpbf16_ps(sum, w, x); }
  static void store(Sum sum, float* to) { _mm512_storeu_ps(to, sum); }
};

}  // namespace

const StripKernel kBf16Avx512Bf16 = {"bf16_avx512_bf16",       1, Bf16Ops::kXColBytes,
                                     Bf16Ops::kTokens2,        8, copy_rows,
                                     StripRunner<Bf16Ops>::run};

}  // namespace djlbsr::cpu
