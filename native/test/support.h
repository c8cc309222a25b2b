/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "djlbsr.h"

/* What the native tests share: checks, random matrices by pattern and a float64 reference. */
namespace test {

inline int failures = 0;

/* What a call must leave alone is filled with it. */
constexpr float kCanary = 12345.0f;

#define EXPECT(condition, ...)                                             \
  do {                                                                     \
    if (!(condition)) {                                                    \
      ++::test::failures;                                                  \
      std::fprintf(stderr, "%s:%d: %s: ", __FILE__, __LINE__, #condition); \
      std::fprintf(stderr, __VA_ARGS__);                                   \
      std::fprintf(stderr, "\n");                                          \
      if (::test::failures > 20) std::exit(1);                             \
    }                                                                      \
  } while (0)

/* The call must fail with this status and its text must hold every fragment. */
inline void expect_error(int32_t status, int32_t expected, std::vector<std::string> fragments,
                         const char* what) {
  EXPECT(status == expected, "%s: status %d, expected %d", what, status, expected);
  for (const std::string& fragment : fragments) {
    EXPECT(std::strstr(djlbsr_last_error(), fragment.c_str()) != nullptr,
           "%s: no '%s' in the message '%s'", what, fragment.c_str(), djlbsr_last_error());
  }
}

using Rng = std::mt19937_64;

inline int64_t uniform(Rng& rng, int64_t low, int64_t high) {
  return std::uniform_int_distribution<int64_t>(low, high)(rng);
}

/* ---- 16-bit floats, bit by bit ---- */

inline float bfloat16_to_float(uint16_t b) {
  const uint32_t bits = static_cast<uint32_t>(b) << 16;
  float f;
  std::memcpy(&f, &bits, 4);
  return f;
}

inline float half_to_float(uint16_t h) {
  const int exponent = (h >> 10) & 31;
  const int mantissa = h & 1023;
  float f;
  if (exponent == 31) {
    f = mantissa == 0 ? INFINITY : NAN;
  } else if (exponent == 0) {
    f = std::ldexp(static_cast<float>(mantissa), -24);
  } else {
    f = std::ldexp(static_cast<float>(mantissa + 1024), exponent - 25);
  }
  return h & 0x8000 ? -f : f;
}

/* Truncates: the data of a test need not be rounded well, only known exactly. */
inline uint16_t float_to_half(float f) {
  if (std::isnan(f)) return 0x7e00;
  const uint16_t sign = std::signbit(f) ? 0x8000 : 0;
  f = std::fabs(f);
  if (std::isinf(f) || f >= 65520.0f) return sign | 0x7c00;
  if (f < 6.103515625e-5f) return sign | static_cast<uint16_t>(std::ldexp(f, 24));
  int exponent;
  const float fraction = std::frexp(f, &exponent);
  return sign | static_cast<uint16_t>(((exponent + 14) << 10) +
                                      (static_cast<int>(std::ldexp(fraction, 11)) - 1024));
}

inline uint16_t float_to_bfloat16(float f) {
  uint32_t bits;
  std::memcpy(&bits, &f, 4);
  if (std::isnan(f)) return 0x7fc0;
  return static_cast<uint16_t>(bits >> 16);
}

/* An array of elements of a djlbsr_dtype. */
class Array {
 public:
  Array(int32_t dtype, int64_t count) : dtype_(dtype), count_(count) {
    bytes_.resize(static_cast<size_t>(count) * size() + 64);
    const auto address = reinterpret_cast<uintptr_t>(bytes_.data());
    offset_ = (64 - address % 64) % 64;
  }
  Array(const Array&) = delete;
  Array(Array&&) = default;
  Array& operator=(Array&&) = default;
  size_t size() const { return dtype_ == DJLBSR_FLOAT32 ? 4 : 2; }
  int64_t count() const { return count_; }
  int32_t dtype() const { return dtype_; }
  void* data() { return bytes_.data() + offset_; }
  const void* data() const { return bytes_.data() + offset_; }
  float get(int64_t i) const {
    const char* p = static_cast<const char*>(data()) + i * static_cast<int64_t>(size());
    if (dtype_ == DJLBSR_FLOAT32) {
      float f;
      std::memcpy(&f, p, 4);
      return f;
    }
    uint16_t h;
    std::memcpy(&h, p, 2);
    return dtype_ == DJLBSR_FLOAT16 ? half_to_float(h) : bfloat16_to_float(h);
  }
  void set(int64_t i, float f) {
    char* p = static_cast<char*>(data()) + i * static_cast<int64_t>(size());
    if (dtype_ == DJLBSR_FLOAT32) {
      std::memcpy(p, &f, 4);
      return;
    }
    const uint16_t h = dtype_ == DJLBSR_FLOAT16 ? float_to_half(f) : float_to_bfloat16(f);
    std::memcpy(p, &h, 2);
  }
  void fill(const std::function<float()>& value) {
    for (int64_t i = 0; i < count_; ++i) set(i, value());
  }

 private:
  int32_t dtype_;
  int64_t count_;
  size_t offset_;
  std::vector<char> bytes_;
};

inline const char* const kPatterns[] = {"random",    "banded", "heavy row", "empty rows",
                                        "one block", "none",   "full"};

/* A matrix that owns its arrays. */
struct Matrix {
  int64_t rows, cols, block_rows, block_cols;
  int32_t dtype;
  int32_t weight_format = DJLBSR_WEIGHT_AS_GIVEN;
  std::vector<int32_t> crow{0};
  std::vector<int32_t> col;
  Array values{DJLBSR_FLOAT32, 0};

  Matrix(Rng& rng, int64_t block_row_count, int64_t block_col_count, int64_t br, int64_t bc,
         int32_t type, const std::string& pattern, double density = 0.3)
      : rows(block_row_count * br),
        cols(block_col_count * bc),
        block_rows(br),
        block_cols(bc),
        dtype(type) {
    const int64_t chosen_row = block_row_count > 0 ? uniform(rng, 0, block_row_count - 1) : 0;
    const int64_t chosen_col = block_col_count > 0 ? uniform(rng, 0, block_col_count - 1) : 0;
    std::bernoulli_distribution coin(density);
    for (int64_t i = 0; i < block_row_count; ++i) {
      for (int64_t j = 0; j < block_col_count; ++j) {
        bool stored = coin(rng);
        if (pattern == "banded") {
          stored = std::llabs(i * block_col_count - j * block_row_count) <= block_row_count;
        } else if (pattern == "heavy row") {
          stored = i == chosen_row || (stored && uniform(rng, 0, 3) == 0);
        } else if (pattern == "empty rows") {
          stored = stored && i % 2 == 1 && j % 3 != 0;
        } else if (pattern == "one block") {
          stored = i == chosen_row && j == chosen_col;
        } else if (pattern == "none") {
          stored = false;
        } else if (pattern == "full") {
          stored = true;
        }
        if (stored) col.push_back(static_cast<int32_t>(j));
      }
      crow.push_back(static_cast<int32_t>(col.size()));
    }
    values = Array(dtype, static_cast<int64_t>(col.size()) * br * bc);
    std::normal_distribution<float> normal;
    values.fill([&] { return normal(rng); });
  }

  djlbsr_matrix view() const {
    djlbsr_matrix m = {};
    m.rows = rows;
    m.cols = cols;
    m.block_rows = block_rows;
    m.block_cols = block_cols;
    m.nnzb = static_cast<int64_t>(col.size());
    m.crow_indices = crow.data();
    m.col_indices = col.data();
    m.values = values.data();
    m.dtype = dtype;
    m.weight_format = weight_format;
    return m;
  }

  std::string describe() const {
    return std::to_string(rows) + "x" + std::to_string(cols) + " block " +
           std::to_string(block_rows) + "x" + std::to_string(block_cols) + " nnzb " +
           std::to_string(col.size()) + " dtype " + std::to_string(dtype);
  }
};

inline double activate(double z, int32_t activation) {
  switch (activation) {
    case DJLBSR_RELU:
      return z < 0 ? 0 : z;
    case DJLBSR_GELU:
      return 0.5 * z * std::erfc(-z / std::sqrt(2.0));
    case DJLBSR_GELU_TANH:
      return z / (1 + std::exp(-2 * std::sqrt(2 / M_PI) * (z + 0.044715 * z * z * z)));
    case DJLBSR_SILU:
      return z / (1 + std::exp(-z));
    default:
      return z;
  }
}

/* y = act(z) in float64 with z's |summands| for the error bound, one entry an output. */
struct Reference {
  std::vector<double> z;
  std::vector<double> magnitude; /* sum of |w * x| + |bias| */
  std::vector<int64_t> terms;    /* summands, a row */
};

inline std::vector<double> decoded(const Array& array) {
  std::vector<double> result(static_cast<size_t>(array.count()));
  for (int64_t i = 0; i < array.count(); ++i) result[static_cast<size_t>(i)] = array.get(i);
  return result;
}

inline Reference reference(const Matrix& m, const Array& x, int64_t x_stride, int64_t tokens,
                           const Array* bias) {
  Reference ref;
  ref.z.resize(static_cast<size_t>(tokens * m.rows));
  ref.magnitude.resize(ref.z.size());
  ref.terms.resize(static_cast<size_t>(m.rows));
  const std::vector<double> values = decoded(m.values);
  const std::vector<double> inputs = decoded(x);
  for (int64_t row = 0; row < m.rows; ++row) {
    const auto i = static_cast<size_t>(row / m.block_rows);
    const int64_t r = row % m.block_rows;
    ref.terms[static_cast<size_t>(row)] = (m.crow[i + 1] - m.crow[i]) * m.block_cols + 1;
    for (int64_t t = 0; t < tokens; ++t) {
      double sum = bias != nullptr ? bias->get(row) : 0.0;
      double magnitude = std::fabs(sum);
      for (int32_t b = m.crow[i]; b < m.crow[i + 1]; ++b) {
        const double* const w = values.data() + (b * m.block_rows + r) * m.block_cols;
        const double* const v =
            inputs.data() + t * x_stride + m.col[static_cast<size_t>(b)] * m.block_cols;
        for (int64_t k = 0; k < m.block_cols; ++k) {
          const double term = w[k] * v[k];
          sum += term;
          magnitude += std::fabs(term);
        }
      }
      ref.z[static_cast<size_t>(t * m.rows + row)] = sum;
      ref.magnitude[static_cast<size_t>(t * m.rows + row)] = magnitude;
    }
  }
  return ref;
}

/*
 * The error that an output may have: gamma_n * sum |w x| for a chain of n fp32 operations (Higham,
 * Accuracy and Stability of Numerical Algorithms, 3.1), carried through the activation, whose slope
 * is at most 1.13, plus the activation's own 8 ulp and the output's rounding.
 */
inline double error_bound(double z, double magnitude, int64_t terms, int32_t activation,
                          int32_t dtype) {
  const double u = std::ldexp(1.0, -24);
  const double n = static_cast<double>(terms) + 1;
  const double y = std::fabs(activate(z, activation));
  double bound = n * u / (1 - n * u) * magnitude;
  if (activation > DJLBSR_RELU) bound = 1.13 * bound + 8 * u * std::fabs(z);
  if (dtype == DJLBSR_FLOAT16) bound += std::ldexp(y + bound, -11) + std::ldexp(1.0, -25);
  if (dtype == DJLBSR_BFLOAT16) bound += std::ldexp(y + bound, -8);
  return bound + 1e-37;
}

/* A packed weight on the CPU, 64-byte aligned. */
class Packed {
 public:
  explicit Packed(const Matrix& m) {
    const djlbsr_matrix view = m.view();
    EXPECT(djlbsr_pack_query(&view, DJLBSR_CPU, &meta) == DJLBSR_OK, "%s", djlbsr_last_error());
    EXPECT(djlbsr_meta_decode(&meta, &info) == DJLBSR_OK, "%s", djlbsr_last_error());
    bytes = static_cast<char*>(std::aligned_alloc(64, static_cast<size_t>(info.packed_bytes)));
    EXPECT(djlbsr_pack(&view, &meta, bytes, nullptr) == DJLBSR_OK, "%s", djlbsr_last_error());
  }
  ~Packed() { std::free(bytes); }
  Packed(const Packed&) = delete;

  djlbsr_meta meta = {};
  djlbsr_info info = {};
  char* bytes = nullptr;
};

/* Ends the program as skipped (77) where the machine lacks the ISA that the environment asks for.
 */
inline void skip_without_isa() {
  const char* wanted = std::getenv("DJLBSR_MAX_ISA");
  if (wanted != nullptr && std::strcmp(wanted, djlbsr_active_isa()) != 0) {
    std::printf("skipped: this machine has no %s\n", wanted);
    std::exit(77);
  }
}

inline int finish(const char* name) {
  std::printf("%s [%s]: %s\n", name, djlbsr_active_isa(), failures == 0 ? "passed" : "FAILED");
  return failures == 0 ? 0 : 1;
}

}  // namespace test
