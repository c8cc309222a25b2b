/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
#include "cpu/int8_rows.h"
#include "cpu/strips_impl.h"

namespace djlbsr::cpu {
namespace {

/* Four lanes of the compiler's own vectors, as in kernels_portable.cc. */
typedef float Floats __attribute__((vector_size(16)));
typedef int32_t Ints __attribute__((vector_size(16)));

/* bf16 weights in fp32 arithmetic: the same sums as the kernels of kernels_impl.h. */
struct Bf16Ops {
  struct Pair {
    Floats even;
    Floats odd;
  };
  using Element = Bfloat16;
  using Words = Pair;
  using X = Pair;
  using Sum = Floats;
  using Acc = Sum;

  static constexpr bool kInt8 = false;
  static constexpr int kLanes = 4;
  static constexpr int kTokens1 = 4;
  static constexpr int kTokens2 = 4;
  static constexpr int kXColBytes = 4;
  static constexpr int kXBytes = 8;

  static Words load(const char* p) {
    Bfloat16 pairs[2 * kLanes];
    std::memcpy(pairs, p, sizeof(pairs));
    Pair w;
    for (int j = 0; j < kLanes; ++j) {
      w.even[j] = to_float(pairs[2 * j]);
      w.odd[j] = to_float(pairs[2 * j + 1]);
    }
    return w;
  }
  static X broadcast(const char* p) {
    const float* x = reinterpret_cast<const float*>(p);
    return {Floats{x[0], x[0], x[0], x[0]}, Floats{x[1], x[1], x[1], x[1]}};
  }
  static Sum zero() { return Floats{}; }
  static Sum dot(Sum sum, Words w, X x) { return w.odd * x.odd + (w.even * x.even + sum); }
  static void store(Sum sum, float* to) { std::memcpy(to, &sum, sizeof(sum)); }
};

struct Int8Ops {
  struct Quad {
    Ints column[4];
  };
  using Element = float;
  using Words = Quad;
  using X = Quad;
  using Sum = Floats;
  using Acc = Ints;

  static constexpr bool kInt8 = true;
  static constexpr int kLanes = 4;
  static constexpr int kTokens1 = 4;
  static constexpr int kTokens2 = 2;
  static constexpr int kXColBytes = 2;
  static constexpr int kXBytes = 8;

  static Words load(const char* p) {
    int8_t quads[4 * kLanes];
    std::memcpy(quads, p, sizeof(quads));
    Quad w;
    for (int j = 0; j < kLanes; ++j) {
      for (int k = 0; k < 4; ++k) w.column[k][j] = quads[4 * j + k];
    }
    return w;
  }
  static X broadcast(const char* p) {
    int16_t quad[4];
    std::memcpy(quad, p, sizeof(quad));
    Quad x;
    for (int k = 0; k < 4; ++k) x.column[k] = Ints{quad[k], quad[k], quad[k], quad[k]};
    return x;
  }
  static Sum zero() { return Floats{}; }
  static Acc start(const int32_t*) { return Ints{}; }
  static Acc dot(Acc acc, const Words& w, const X& x) {
    for (int k = 0; k < 4; ++k) acc += w.column[k] * x.column[k];
    return acc;
  }
  /* Fused, as the other ISAs do it: int8 results are the same bits everywhere. */
  static Sum flush(Sum sum, Acc acc, float scale) {
    for (int j = 0; j < kLanes; ++j) {
      sum[j] = __builtin_fmaf(static_cast<float>(acc[j]), scale, sum[j]);
    }
    return sum;
  }
  static void store(Sum sum, float* to) { std::memcpy(to, &sum, sizeof(sum)); }
};

}  // namespace

const StripKernel kBf16Portable = {"bf16_portable",          1, Bf16Ops::kXColBytes,
                                   Bf16Ops::kTokens2,        0, widen_rows,
                                   StripRunner<Bf16Ops>::run};
const StripKernel kInt8Portable = {"int8_portable",          1, Int8Ops::kXColBytes,
                                   Int8Ops::kTokens1,        0, quantize_rows<int16_t, 0>,
                                   StripRunner<Int8Ops>::run};

}  // namespace djlbsr::cpu
