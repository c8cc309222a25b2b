/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
/* float16 and bfloat16 in and out: every bit pattern, rounding to even, overflow and NaN. */
#include "support.h"

using namespace test;

namespace {

/* y = x * W^T for a one-column W of `rows` rows in blocks of block_rows x block_cols. */
Array run(Matrix& m, const Array& x, int64_t tokens) {
  Array y(m.dtype, tokens * m.rows);
  Packed packed(m);
  djlbsr_linear_args args = {};
  args.x = x.data();
  args.y = y.data();
  args.tokens = tokens;
  args.x_stride = m.cols;
  args.y_stride = m.rows;
  EXPECT(djlbsr_linear(&packed.meta, packed.bytes, &args) == DJLBSR_OK, "%s", djlbsr_last_error());
  return y;
}

uint16_t bits_at(const Array& a, int64_t i) {
  uint16_t bits;
  std::memcpy(&bits, static_cast<const char*>(a.data()) + 2 * i, 2);
  return bits;
}

void put_bits(Array& a, int64_t i, uint16_t bits) {
  std::memcpy(static_cast<char*>(a.data()) + 2 * i, &bits, 2);
}

void expect_same(const Array& y, int64_t i, uint16_t pattern, const char* what, const Matrix& m) {
  const uint16_t expected = pattern == 0x8000 ? 0 : pattern; /* 0 + -0 is 0 */
  const bool nan =
      std::isnan(m.dtype == DJLBSR_FLOAT16 ? half_to_float(pattern) : bfloat16_to_float(pattern));
  EXPECT(nan ? std::isnan(y.get(i)) : bits_at(y, i) == expected, "%s %s: %04x became %04x",
         m.describe().c_str(), what, pattern, bits_at(y, i));
}

/* Every pattern once as x and once as a weight, times 1, through both kernels. */
void every_pattern() {
  Rng rng(23);
  const int64_t patterns = 1 << 16;
  for (int32_t dtype : {DJLBSR_FLOAT16, DJLBSR_BFLOAT16}) {
    for (int64_t block_rows : {1, 4, 5, 16}) {
      Matrix ones(rng, 1, 1, block_rows, 1, dtype, "full");
      ones.values.fill([] { return 1.0f; });
      Array x(dtype, patterns);
      for (int64_t i = 0; i < patterns; ++i) put_bits(x, i, static_cast<uint16_t>(i));
      const Array y = run(ones, x, patterns);
      for (int64_t i = 0; i < y.count(); ++i) {
        expect_same(y, i, static_cast<uint16_t>(i / block_rows), "as x", ones);
      }
      Matrix all(rng, (patterns + block_rows - 1) / block_rows, 1, block_rows, 1, dtype, "full");
      for (int64_t i = 0; i < all.rows; ++i) put_bits(all.values, i, static_cast<uint16_t>(i));
      for (int64_t tokens : {1, 6, 40}) {
        Array one(dtype, tokens);
        one.fill([] { return 1.0f; });
        const Array z = run(all, one, tokens);
        for (int64_t i = 0; i < z.count(); ++i) {
          expect_same(z, i, static_cast<uint16_t>(i % all.rows), "as a weight", all);
        }
      }
    }
  }
}

/* Round to nearest even, in float64. */
double rounded(double v, int32_t dtype) {
  if (v == 0) return v;
  const int digits = dtype == DJLBSR_FLOAT16 ? 10 : 7;
  const int smallest = dtype == DJLBSR_FLOAT16 ? -14 : -126;
  const double quantum = std::ldexp(1.0, std::max(std::ilogb(v), smallest) - digits);
  const double r = std::nearbyint(v / quantum) * quantum;
  const double overflow = dtype == DJLBSR_FLOAT16 ? 65520.0 : 3.4e38;
  return std::fabs(r) >= overflow ? std::copysign(INFINITY, v) : r;
}

/* Sums of two values that fp32 holds exactly, many of them halfway between two results. */
void rounding() {
  Rng rng(29);
  const int64_t tokens = 60000;
  for (int32_t dtype : {DJLBSR_FLOAT16, DJLBSR_BFLOAT16}) {
    for (int64_t block_rows : {1, 5, 16}) {
      Matrix ones(rng, 1, 1, block_rows, 2, dtype, "full");
      ones.values.fill([] { return 1.0f; });
      Array x(dtype, 2 * tokens);
      for (int64_t t = 0; t < tokens; ++t) {
        const int exponent = static_cast<int>(uniform(rng, -24, 15));
        const float a = std::ldexp(static_cast<float>(uniform(rng, 64, 127)), exponent - 6);
        const int lower = static_cast<int>(uniform(rng, 6, 12));
        const float b = std::ldexp(static_cast<float>(uniform(rng, -3, 3)), exponent - lower);
        x.set(2 * t, t % 2 == 0 ? a : -a);
        x.set(2 * t + 1, b);
      }
      x.set(0, 60000.0f); /* beyond float16's range */
      x.set(1, 60000.0f);
      const Array y = run(ones, x, tokens);
      for (int64_t i = 0; i < y.count(); ++i) {
        const int64_t t = i / block_rows;
        const double sum = static_cast<double>(x.get(2 * t)) + x.get(2 * t + 1);
        EXPECT(y.get(i) == rounded(sum, dtype), "%s: %.9g + %.9g became %.9g, expected %.9g",
               ones.describe().c_str(), x.get(2 * t), x.get(2 * t + 1), y.get(i),
               rounded(sum, dtype));
      }
    }
  }
}

}  // namespace

int main() {
  skip_without_isa();
  every_pattern();
  rounding();
  return finish("test_half");
}
