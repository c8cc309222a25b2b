/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
/*
 * DJLBSR_WEIGHT_INT8_BLOCKS against what djlbsr.h specifies: bit by bit against the same arithmetic
 * written plainly, and within the documented bound of the weight that was not quantized.
 */
#include <limits>

#include "support.h"

using namespace test;

namespace {

struct Case {
  int64_t tokens;
  int64_t x_pad; /* x_stride - cols; -1 repeats one row (stride 0) */
  int64_t y_pad; /* y_stride - rows */
  bool bias;
  int32_t activation;
  int32_t threads;
};

struct Quantized {
  float scale;
  std::vector<int> q;
};

/* Symmetric, 127 steps for the largest magnitude; a maximum below 2^-100 counts as 0. */
Quantized quantize(const std::vector<float>& values) {
  float most = 0;
  for (float value : values) most = std::fmax(most, std::fabs(value));
  Quantized result = {0.0f, std::vector<int>(values.size(), 0)};
  if (most < std::ldexp(1.0f, -100)) return result;
  result.scale = most / 127.0f;
  const float inverse = 127.0f / most;
  for (size_t i = 0; i < values.size(); ++i) {
    result.q[i] = static_cast<int>(std::nearbyint(values[i] * inverse));
  }
  return result;
}

size_t index(int64_t i) { return static_cast<size_t>(i); }

/* The outputs before the activation as the specification has them, and how far off they may be. */
struct Expected {
  std::vector<float> z;
  std::vector<double> exact; /* of the weight that was not quantized */
  std::vector<double> bound;
};

Expected expect(const Matrix& m, const Array& x, int64_t x_stride, int64_t tokens,
                const Array* bias) {
  const int64_t size = m.block_rows * m.block_cols;
  std::vector<Quantized> blocks;
  std::vector<char> used(index(m.cols), 0);
  for (int64_t b = 0; b < static_cast<int64_t>(m.col.size()); ++b) {
    std::vector<float> values(index(size));
    for (int64_t i = 0; i < size; ++i) values[index(i)] = m.values.get(b * size + i);
    blocks.push_back(quantize(values));
    for (int64_t k = 0; k < m.block_cols; ++k) used[index(m.col[index(b)] * m.block_cols + k)] = 1;
  }
  const Reference exact = reference(m, x, x_stride, tokens, bias);
  Expected e;
  e.exact = exact.z;
  for (int64_t t = 0; t < tokens; ++t) {
    std::vector<float> row(index(m.cols));
    bool finite = true;
    for (int64_t c = 0; c < m.cols; ++c) {
      row[index(c)] = used[index(c)] ? x.get(t * x_stride + c) : 0.0f;
      finite = finite && std::isfinite(row[index(c)]);
    }
    if (!finite) row.assign(row.size(), 0.0f);
    const Quantized q = quantize(row);
    const float scale = finite ? q.scale : NAN;
    for (int64_t r = 0; r < m.rows; ++r) {
      const int64_t i = r / m.block_rows;
      float sum = 0;
      double bound = 0;
      for (int64_t b = m.crow[index(i)]; b < m.crow[index(i + 1)]; ++b) {
        const int64_t first = m.col[index(b)] * m.block_cols;
        int64_t dot = 0;
        const double e_w = blocks[index(b)].scale / 2.0;
        const double e_x = scale / 2.0;
        for (int64_t k = 0; k < m.block_cols; ++k) {
          const int64_t at = r % m.block_rows * m.block_cols + k;
          dot += blocks[index(b)].q[index(at)] * q.q[index(first + k)];
          bound += std::fabs(m.values.get(b * size + at)) * e_x +
                   std::fabs(row[index(first + k)]) * e_w + e_w * e_x;
        }
        sum = std::fma(static_cast<float>(dot), blocks[index(b)].scale, sum);
      }
      const float z = scale * sum;
      e.z.push_back(z + (bias != nullptr ? bias->get(r) : 0.0f));
      const size_t at = index(t * m.rows + r);
      /* fp32: the chain over the blocks, and a few roundings of scales and products. */
      const double n = static_cast<double>(exact.terms[index(r)]) + 8;
      e.bound.push_back(bound * (1 + 1e-5) +
                        n * std::ldexp(1.0, -24) * (exact.magnitude[at] + bound) + 1e-28);
    }
  }
  return e;
}

void compare(const Matrix& m, const Case& c, const Array& x, const Array& bias, int64_t x_stride,
             int64_t y_stride, const Array& y, const char* what) {
  const Expected e = expect(m, x, x_stride, c.tokens, c.bias ? &bias : nullptr);
  for (int64_t i = 0; i < y.count(); ++i) {
    const int64_t t = y_stride > 0 ? i / y_stride : c.tokens;
    const int64_t r = y_stride > 0 ? i % y_stride : 0;
    const float actual = y.get(i);
    if (t >= c.tokens || r >= m.rows) {
      EXPECT(actual == kCanary, "%s: wrote outside y at %lld", m.describe().c_str(), (long long)i);
      continue;
    }
    const size_t at = index(t * m.rows + r);
    const double expected = activate(e.z[at], c.activation);
    /* Without an activation that is computed, to the bit. */
    const double allowed =
        c.activation > DJLBSR_RELU ? std::ldexp(8 * std::fabs(e.z[at]), -24) + 1e-37 : 0;
    EXPECT(std::isnan(expected) ? std::isnan(actual) : std::fabs(actual - expected) <= allowed,
           "%s %s tokens %lld activation %d bias %d threads %d: token %lld row %lld is %.9g, "
           "expected %.9g, allowed %.3g",
           m.describe().c_str(), what, (long long)c.tokens, c.activation, c.bias, c.threads,
           (long long)t, (long long)r, actual, expected, allowed);
    if (c.activation == DJLBSR_NONE && !std::isnan(expected)) {
      EXPECT(std::fabs(actual - e.exact[at]) <= e.bound[at],
             "%s %s: token %lld row %lld is %.9g, unquantized %.9g, allowed %.3g",
             m.describe().c_str(), what, (long long)t, (long long)r, actual, e.exact[at],
             e.bound[at]);
    }
  }
}

Array run(const Matrix& m, const Packed& packed, const Case& c, const Array& x, const Array& bias,
          int64_t x_stride, int64_t y_stride) {
  Array y(DJLBSR_FLOAT32, c.tokens * y_stride + 64);
  for (int64_t i = 0; i < y.count(); ++i) {
    const bool inside = i < c.tokens * y_stride && i % y_stride < m.rows;
    y.set(i, inside ? NAN : kCanary);
  }
  djlbsr_linear_args args = {};
  args.x = x.data();
  args.bias = c.bias ? bias.data() : nullptr;
  args.y = y.data();
  args.tokens = c.tokens;
  args.x_stride = x_stride;
  args.y_stride = y_stride;
  args.activation = c.activation;
  args.threads = c.threads;
  EXPECT(djlbsr_linear(&packed.meta, packed.bytes, &args) == DJLBSR_OK, "%s", djlbsr_last_error());
  return y;
}

void check(Rng& rng, Matrix& m, const Case& c, const char* pattern) {
  m.weight_format = DJLBSR_WEIGHT_INT8_BLOCKS;
  std::normal_distribution<float> normal;
  const int64_t x_stride = c.x_pad < 0 ? 0 : m.cols + c.x_pad;
  Array x(DJLBSR_FLOAT32, c.tokens * (m.cols + std::max<int64_t>(c.x_pad, 0)));
  for (int64_t i = 0; i < x.count(); ++i) {
    const bool inside = x_stride == 0 || i % x_stride < m.cols;
    x.set(i, inside ? normal(rng) : NAN);
  }
  Array bias(DJLBSR_FLOAT32, m.rows);
  bias.fill([&] { return normal(rng); });
  const Packed packed(m);
  EXPECT(packed.info.weight_format == DJLBSR_WEIGHT_INT8_BLOCKS, "weight_format is %d",
         packed.info.weight_format);
  const int64_t y_stride = m.rows + c.y_pad;
  compare(m, c, x, bias, x_stride, y_stride, run(m, packed, c, x, bias, x_stride, y_stride),
          pattern);
}

/* Block shapes whose comments say which code they reach. */
const int64_t kBlocks[][2] = {
    {1, 1},   {1, 32},  {1, 7},  /* one lane of a strip; columns padded to 4 and to 8 */
    {2, 3},   {4, 4},   {5, 7},  /* a low strip */
    {8, 8},   {9, 4},   {20, 4}, /* whole AVX2 vectors, one more row, a whole strip and a low one */
    {16, 16}, {32, 1},  {48, 6}, /* one strip, two, three */
    {32, 32}, {64, 64}, {72, 12}};

const int64_t kTokens[] = {0, 1, 2, 3, 4, 5, 7, 8, 12, 13, 33, 130};

void shapes() {
  Rng rng(7);
  for (const auto& block : kBlocks) {
    for (int64_t tokens : kTokens) {
      Matrix m(rng, 3, 4, block[0], block[1], DJLBSR_FLOAT32, "random");
      check(rng, m, Case{tokens, 0, 0, true, DJLBSR_NONE, 2}, "random");
    }
  }
}

void random_cases(uint64_t seed, int rounds) {
  Rng rng(seed);
  for (int round = 0; round < rounds; ++round) {
    for (const auto& block : kBlocks) {
      const char* pattern = kPatterns[uniform(rng, 0, 6)];
      const int64_t most = block[0] >= 64 ? 3 : 9;
      Matrix m(rng, uniform(rng, 0, most), uniform(rng, 0, most), block[0], block[1],
               DJLBSR_FLOAT32, pattern);
      const Case c = {kTokens[uniform(rng, 0, 11)],
                      uniform(rng, -1, 3),
                      uniform(rng, 0, 3),
                      uniform(rng, 0, 1) == 1,
                      static_cast<int32_t>(uniform(rng, 0, 4)),
                      static_cast<int32_t>(uniform(rng, 0, 3))};
      check(rng, m, c, pattern);
    }
  }
}

/* Every number of rows that tiles and strips end with, by every number of tokens that their tiles,
   panels of 16 and pairs of panels end with; columns that fill groups of 4 and that do not. */
void every_size() {
  Rng rng(29);
  for (int64_t rows = 1; rows <= 36; ++rows) {
    for (int64_t tokens = 1; tokens <= 40; ++tokens) {
      const int64_t cols = 1 + (rows * 7 + tokens * 3) % 20;
      /* Block-rows that end within, at and after the 32 rows that are stored together. */
      Matrix m(rng, rows <= 10 ? 7 : 3, 4, rows, cols, DJLBSR_FLOAT32, "random", 0.6);
      const Case c = {tokens, tokens % 3, rows % 3, true, DJLBSR_NONE, 1};
      check(rng, m, c, "every size");
    }
  }
}

/* Rows so long that a call takes x in several panels, on several threads. */
void panels() {
  Rng rng(23);
  Matrix m(rng, 2, 2000, 16, 20, DJLBSR_FLOAT32, "random", 0.02);
  check(rng, m, Case{130, 0, 0, true, DJLBSR_NONE, 3}, "long rows");
  Matrix wide(rng, 1, 2, 3, 70001, DJLBSR_FLOAT32, "full");
  check(rng, wide, Case{3, 0, 0, false, DJLBSR_NONE, 1}, "wide blocks");
  check(rng, wide, Case{21, 0, 0, false, DJLBSR_NONE, 2}, "wide blocks");
  /* More blocks in a block-row than all tiles of its rows go through together. */
  Matrix narrow(rng, 2, 700, 16, 1, DJLBSR_FLOAT32, "random", 0.9);
  check(rng, narrow, Case{40, 0, 0, true, DJLBSR_GELU, 1}, "narrow blocks");
}

/* Tokens of zeros, of numbers too small and too large, and of none. */
void extremes() {
  Rng rng(13);
  for (const auto& block : {std::pair{4, 4}, {8, 6}, {16, 6}, {32, 32}}) {
    Matrix m(rng, 3, 6, block.first, block.second, DJLBSR_FLOAT32, "none");
    m.weight_format = DJLBSR_WEIGHT_INT8_BLOCKS;
    m.crow = {0, 3, 3, 5};
    m.col = {0, 1, 4, 1, 2};
    const int64_t size = m.block_rows * m.block_cols;
    m.values = Array(DJLBSR_FLOAT32, 5 * size);
    std::normal_distribution<float> normal;
    m.values.fill([&] { return normal(rng); });
    for (int64_t i = 0; i < size; ++i) {
      m.values.set(size + i, 0.0f);                         /* a block of zeros */
      m.values.set(2 * size + i, m.values.get(i) * 1e-36f); /* counts as zeros */
      m.values.set(3 * size + i, m.values.get(i) * 1e30f);
    }
    const float factors[] = {1.0f, 0.0f, 1e-38f, 1e-25f, 1e5f, 1.0f, 1.0f, 1.0f};
    const int64_t tokens = 8;
    Array x(DJLBSR_FLOAT32, tokens * m.cols);
    for (int64_t i = 0; i < x.count(); ++i) {
      const int64_t t = i / m.cols;
      /* Block columns 3 and 5 meet no block: what they hold is ignored. */
      const int64_t j = i % m.cols / m.block_cols;
      x.set(i, j == 3 ? NAN : j == 5 ? INFINITY : normal(rng) * factors[t]);
    }
    x.set(5 * m.cols + 2 * m.block_cols, NAN);
    x.set(6 * m.cols + m.block_cols + 1, -INFINITY);
    const Array bias(DJLBSR_FLOAT32, m.rows);
    const Packed packed(m);
    const Case c = {tokens, 0, 0, false, DJLBSR_RELU, 1};
    const Array y = run(m, packed, c, x, bias, m.cols, m.rows);
    compare(m, c, x, bias, m.cols, m.rows, y, "extremes");
    for (int64_t i = 0; i < tokens * m.rows; ++i) {
      const int64_t t = i / m.rows;
      EXPECT(std::isnan(y.get(i)) == (t == 5 || t == 6), "token %lld row %lld is %g", (long long)t,
             (long long)(i % m.rows), y.get(i));
    }
  }
}

void refusals() {
  Rng rng(3);
  djlbsr_meta meta;
  for (int32_t dtype : {DJLBSR_FLOAT16, DJLBSR_BFLOAT16}) {
    Matrix m(rng, 2, 2, 4, 4, dtype, "full");
    m.weight_format = DJLBSR_WEIGHT_INT8_BLOCKS;
    const djlbsr_matrix view = m.view();
    expect_error(djlbsr_pack_query(&view, DJLBSR_CPU, &meta), DJLBSR_UNSUPPORTED,
                 {"weight_format is 1", "float16 on cpu", "float32"}, "dtype");
  }
  Matrix m(rng, 2, 2, 4, 4, DJLBSR_FLOAT32, "full");
  m.weight_format = DJLBSR_WEIGHT_INT8_BLOCKS;
  djlbsr_matrix view = m.view();
  expect_error(djlbsr_pack_query(&view, DJLBSR_CUDA, &meta), DJLBSR_UNSUPPORTED,
               {"weight_format is 1", "on cuda", "weight_format 0"}, "device");
  Packed packed(m);
  m.values.set(2 * 16 + 4 + 3, NAN);
  view = m.view();
  expect_error(djlbsr_pack(&view, &packed.meta, packed.bytes, nullptr), DJLBSR_INVALID_ARGUMENT,
               {"values[2][1][3] is nan", "finite"}, "NaN");
  Matrix wide(rng, 1, 1, 1, 131073, DJLBSR_FLOAT32, "full");
  wide.weight_format = DJLBSR_WEIGHT_INT8_BLOCKS;
  view = wide.view();
  expect_error(djlbsr_pack_query(&view, DJLBSR_CPU, &meta), DJLBSR_UNSUPPORTED,
               {"block_cols 131073", "131072"}, "wide block");
}

}  // namespace

int main() {
  skip_without_isa();
  shapes();
  every_size();
  random_cases(20261122, 12);
  panels();
  extremes();
  refusals();
  return finish("test_int8");
}
