/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
#pragma once

#include <cuda_runtime.h>

#include <cstring>
#include <limits>
#include <memory>

#include "cuda/kernel_choice.h"
#include "support.h"

/* What the tests on a GPU share: device memory, packed weights, and a case against float64. */
namespace test {

#define CUDA(call)                                                       \
  do {                                                                   \
    const cudaError_t status = (call);                                   \
    if (status != cudaSuccess) {                                         \
      std::fprintf(stderr, "%s:%d: %s: %s\n", __FILE__, __LINE__, #call, \
                   cudaGetErrorString(status));                          \
      std::exit(1);                                                      \
    }                                                                    \
  } while (0)

/* A copy of host memory on the device that ends where its allocation ends, as the sanitizer sees.
 */
class DeviceBytes {
 public:
  explicit DeviceBytes(size_t bytes) : bytes_(bytes) {
    CUDA(cudaMalloc(&data_, std::max<size_t>(bytes, 1)));
  }
  DeviceBytes(const void* host, size_t bytes) : DeviceBytes(bytes) {
    CUDA(cudaMemcpy(data_, host, bytes, cudaMemcpyHostToDevice));
  }
  explicit DeviceBytes(const Array& array)
      : DeviceBytes(array.data(), static_cast<size_t>(array.count()) * array.size()) {}
  ~DeviceBytes() { cudaFree(data_); }
  DeviceBytes(const DeviceBytes&) = delete;
  void* get() const { return data_; }
  void read(void* host) const { CUDA(cudaMemcpy(host, data_, bytes_, cudaMemcpyDeviceToHost)); }

 private:
  void* data_ = nullptr;
  size_t bytes_;
};

class CudaPacked {
 public:
  explicit CudaPacked(const Matrix& m) : values_(m.values) {
    djlbsr_matrix view = m.view();
    view.values = values_.get();
    EXPECT(djlbsr_pack_query(&view, DJLBSR_CUDA, &meta) == DJLBSR_OK, "%s", djlbsr_last_error());
    EXPECT(djlbsr_meta_decode(&meta, &info) == DJLBSR_OK, "%s", djlbsr_last_error());
    bytes = std::make_unique<DeviceBytes>(static_cast<size_t>(info.packed_bytes));
    EXPECT(djlbsr_pack(&view, &meta, bytes->get(), nullptr) == DJLBSR_OK, "%s",
           djlbsr_last_error());
  }
  djlbsr_meta meta = {};
  djlbsr_info info = {};
  std::unique_ptr<DeviceBytes> bytes;

 private:
  DeviceBytes values_;
};

inline djlbsr_linear_args arguments(const Matrix& m, const void* x, void* y, int64_t tokens) {
  djlbsr_linear_args args = {};
  args.x = x;
  args.y = y;
  args.tokens = tokens;
  args.x_stride = m.cols;
  args.y_stride = m.rows;
  return args;
}

inline void run(const CudaPacked& packed, const djlbsr_linear_args& args) {
  EXPECT(djlbsr_linear(&packed.meta, packed.bytes->get(), &args) == DJLBSR_OK, "%s",
         djlbsr_last_error());
}

inline int compute_capability() {
  int major = 0;
  int minor = 0;
  if (djlbsr_cuda_device_count() > 0) {
    CUDA(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0));
    CUDA(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, 0));
  }
  return 10 * major + minor;
}

/* The kernel that DJLBSR_CUDA_KERNEL names. */
inline std::optional<djlbsr::cuda::Kernel> forced_kernel() {
  const char* name = std::getenv("DJLBSR_CUDA_KERNEL");
  return name == nullptr ? std::nullopt : djlbsr::cuda::kernel_named(name);
}

/* The kernel that serves a call of this process. */
inline djlbsr::cuda::Kernel served_by(const CudaPacked& packed, const djlbsr_linear_args& args) {
  static const int capability = compute_capability();
  return djlbsr::cuda::kernel_choice(packed.info, args, capability, forced_kernel());
}

/*
 * Fills packed with junk, or parts of it, so that what leads to them is intact; applies it, and
 * leaves it to the sanitizer and the clock to object.
 */
inline void apply_altered_bytes(Rng& rng, const CudaPacked& packed,
                                const djlbsr_linear_args& args) {
  const auto bytes = static_cast<int64_t>(packed.info.packed_bytes);
  std::vector<char> original(static_cast<size_t>(bytes));
  packed.bytes->read(original.data());
  const DeviceBytes values(
      Array(packed.info.dtype, packed.info.nnzb * packed.info.block_rows * packed.info.block_cols));
  for (int round = 0; round < 18; ++round) {
    std::vector<char> junk = original;
    const int64_t begin = round < 3 ? 0 : uniform(rng, 0, bytes / 4 - 1) * 4;
    const int64_t end = round < 3 ? bytes : uniform(rng, begin / 4 + 1, bytes / 4) * 4;
    for (int64_t i = begin; i < end; ++i) {
      junk[static_cast<size_t>(i)] = static_cast<char>(round % 3 == 0   ? 0x7f
                                                       : round % 3 == 1 ? 0xff
                                                                        : uniform(rng, 0, 255));
    }
    CUDA(cudaMemcpy(packed.bytes->get(), junk.data(), junk.size(), cudaMemcpyHostToDevice));
    run(packed, args);
    EXPECT(
        djlbsr_update_values(&packed.meta, packed.bytes->get(), values.get(), nullptr) == DJLBSR_OK,
        "%s", djlbsr_last_error());
    CUDA(cudaDeviceSynchronize());
  }
  /* Words that, as a row of W, lie past the last one or have rows of their square there. */
  const auto rows = static_cast<int32_t>(packed.info.rows);
  for (int32_t word : {std::numeric_limits<int32_t>::max(), rows - 8, rows - 1, -8}) {
    for (bool everywhere : {true, false}) {
      std::vector<int32_t> junk(static_cast<size_t>(bytes / 4));
      std::memcpy(junk.data(), original.data(), 4 * junk.size());
      const int64_t begin = everywhere ? 0 : uniform(rng, 0, bytes / 4 - 1);
      std::fill(junk.begin() + begin, junk.end(), word);
      CUDA(cudaMemcpy(packed.bytes->get(), junk.data(), 4 * junk.size(), cudaMemcpyHostToDevice));
      run(packed, args);
      CUDA(cudaDeviceSynchronize());
    }
  }
}

/*
 * The same bits alone and in a larger batch, wherever the same kernel serves both; off is the
 * distance of x from 16 bytes in elements.
 */
inline void check_deterministic(Rng& rng, const Matrix& m, int64_t tokens,
                                const std::vector<int64_t>& counts, int64_t off,
                                int32_t activation) {
  std::normal_distribution<float> normal;
  Array x(m.dtype, tokens * m.cols + off);
  x.fill([&] { return normal(rng); });
  const auto size = static_cast<int64_t>(x.size());
  const CudaPacked packed(m);
  const DeviceBytes x_memory(x);
  djlbsr_linear_args args = {};
  const auto apply = [&](int64_t first, int64_t count) {
    Array y(m.dtype, count * m.rows);
    y.fill([] { return NAN; });
    const DeviceBytes y_memory(y);
    args = arguments(m, static_cast<char*>(x_memory.get()) + (first * m.cols + off) * size,
                     y_memory.get(), count);
    args.activation = activation;
    run(packed, args);
    y_memory.read(y.data());
    return y;
  };
  const Array whole = apply(0, tokens);
  const auto kernel = served_by(packed, args);
  for (int64_t count : counts) {
    const int64_t first = uniform(rng, 0, tokens - count);
    const Array part = apply(first, count);
    if (served_by(packed, args) != kernel) continue;
    for (int64_t i = 0; i < part.count(); ++i) {
      EXPECT(
          std::memcmp(static_cast<const char*>(part.data()) + i * size,
                      static_cast<const char*>(whole.data()) + (first * m.rows + i) * size,
                      static_cast<size_t>(size)) == 0,
          "%s by %s: %lld tokens from %lld: token %lld row %lld is %.9g, in the whole batch %.9g",
          m.describe().c_str(), djlbsr::cuda::kernel_name(kernel), (long long)count,
          (long long)first, (long long)(i / m.rows), (long long)(i % m.rows), part.get(i),
          whole.get(first * m.rows + i));
    }
  }
}

/* error_bound, and what a GPU's GELU for 16-bit results adds (djlbsr_activation in djlbsr.h). */
inline double device_error_bound(double z, double magnitude, int64_t terms, int32_t activation,
                                 int32_t dtype) {
  const bool fast =
      dtype != DJLBSR_FLOAT32 && (activation == DJLBSR_GELU || activation == DJLBSR_GELU_TANH);
  const double y = std::fabs(activate(z, activation));
  return error_bound(z, magnitude, terms, activation, dtype) +
         (fast ? std::ldexp(y, dtype == DJLBSR_FLOAT16 ? -13 : -11) + std::ldexp(1.0, -26) : 0.0);
}

struct Case {
  int64_t tokens;
  int64_t x_pad; /* x_stride - cols; -1 repeats one row (stride 0) */
  int64_t y_pad; /* y_stride - rows */
  bool bias;
  int32_t activation;
  bool integers = false; /* small whole numbers, whose sums are exact */
};

/*
 * Runs a case into NaN-poisoned memory and compares every element and every canary. Columns of x
 * that no block stores are NaN.
 */
inline void check(Rng& rng, Matrix& m, const Case& c, const char* pattern) {
  std::normal_distribution<float> normal;
  const auto value = [&] {
    return c.integers ? static_cast<float>(uniform(rng, -2, 2)) : normal(rng);
  };
  if (c.integers) m.values.fill(value);
  std::vector<bool> stored(static_cast<size_t>(m.cols / m.block_cols));
  for (int32_t col : m.col) stored[static_cast<size_t>(col)] = true;
  const int64_t x_stride = c.x_pad < 0 ? 0 : m.cols + c.x_pad;
  const int64_t y_stride = m.rows + c.y_pad;
  const int64_t x_count = c.tokens == 0   ? 0
                          : x_stride == 0 ? m.cols
                                          : (c.tokens - 1) * x_stride + m.cols;
  Array x(m.dtype, x_count);
  for (int64_t i = 0; i < x.count(); ++i) {
    const int64_t col = x_stride == 0 ? i : i % x_stride;
    x.set(i, col < m.cols && stored[static_cast<size_t>(col / m.block_cols)] ? value() : NAN);
  }
  Array bias(m.dtype, m.rows);
  bias.fill(value);
  Array y(m.dtype, c.tokens * y_stride + 64);
  for (int64_t i = 0; i < y.count(); ++i) {
    y.set(i, i < c.tokens * y_stride && i % y_stride < m.rows ? NAN : kCanary);
  }
  Array canary(m.dtype, 1);
  canary.set(0, kCanary);

  const CudaPacked packed(m);
  const DeviceBytes x_memory(x);
  const DeviceBytes bias_memory(bias);
  const DeviceBytes y_memory(y);
  djlbsr_linear_args args = arguments(m, x_memory.get(), y_memory.get(), c.tokens);
  args.bias = c.bias ? bias_memory.get() : nullptr;
  args.x_stride = x_stride;
  args.y_stride = y_stride;
  args.activation = c.activation;
  run(packed, args);
  y_memory.read(y.data());

  const Reference ref = reference(m, x, x_stride, c.tokens, c.bias ? &bias : nullptr);
  for (int64_t i = 0; i < y.count(); ++i) {
    const int64_t t = y_stride == 0 ? c.tokens : i / y_stride;
    const int64_t r = y_stride == 0 ? 0 : i % y_stride;
    if (t >= c.tokens || r >= m.rows) {
      EXPECT(y.get(i) == canary.get(0), "%s: wrote outside y at %lld", m.describe().c_str(),
             (long long)i);
      continue;
    }
    const auto at = static_cast<size_t>(t * m.rows + r);
    const double expected = activate(ref.z[at], c.activation);
    /* The whole numbers that the dtype holds all of. */
    const double whole = m.dtype == DJLBSR_FLOAT32   ? 1 << 24
                         : m.dtype == DJLBSR_FLOAT16 ? 2048
                                                     : 256;
    const bool exact = c.integers && c.activation <= DJLBSR_RELU && std::fabs(expected) <= whole;
    const double bound =
        exact ? 0.0
              : device_error_bound(ref.z[at], ref.magnitude[at], ref.terms[static_cast<size_t>(r)],
                                   c.activation, m.dtype);
    EXPECT(std::fabs(y.get(i) - expected) <= bound,
           "%s %s by %s tokens %lld activation %d bias %d: token %lld row %lld block-row %lld is "
           "%.9g, expected %.9g, allowed %.3g",
           m.describe().c_str(), pattern, djlbsr::cuda::kernel_name(served_by(packed, args)),
           (long long)c.tokens, c.activation, c.bias, (long long)t, (long long)r,
           (long long)(r / m.block_rows), y.get(i), expected, bound);
  }
}

}  // namespace test
