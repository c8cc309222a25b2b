/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
#pragma once

#include <cuda_runtime.h>

#include <memory>

#include "support.h"

/* What the tests on a GPU share: device memory, packed weights, and a case against float64. */
namespace test {

constexpr float kCanary = 12345.0f;

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

struct Case {
  int64_t tokens;
  int64_t x_pad; /* x_stride - cols; -1 repeats one row (stride 0) */
  int64_t y_pad; /* y_stride - rows */
  bool bias;
  int32_t activation;
};

/* Runs a case into NaN-poisoned memory and compares every element and every canary. */
inline void check(Rng& rng, const Matrix& m, const Case& c, const char* pattern) {
  std::normal_distribution<float> normal;
  const auto value = [&] { return normal(rng); };
  const int64_t x_stride = c.x_pad < 0 ? 0 : m.cols + c.x_pad;
  const int64_t y_stride = m.rows + c.y_pad;
  const int64_t x_count = c.tokens == 0   ? 0
                          : x_stride == 0 ? m.cols
                                          : (c.tokens - 1) * x_stride + m.cols;
  Array x(m.dtype, x_count);
  for (int64_t i = 0; i < x.count(); ++i) {
    x.set(i, x_stride == 0 || i % x_stride < m.cols ? value() : NAN);
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
  djlbsr_linear_args args = {};
  args.x = x_memory.get();
  args.bias = c.bias ? bias_memory.get() : nullptr;
  args.y = y_memory.get();
  args.tokens = c.tokens;
  args.x_stride = x_stride;
  args.y_stride = y_stride;
  args.activation = c.activation;
  EXPECT(djlbsr_linear(&packed.meta, packed.bytes->get(), &args) == DJLBSR_OK, "%s",
         djlbsr_last_error());
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
    const double bound = error_bound(ref.z[at], ref.magnitude[at],
                                     ref.terms[static_cast<size_t>(r)], c.activation, m.dtype);
    EXPECT(std::fabs(y.get(i) - expected) <= bound,
           "%s %s tokens %lld activation %d bias %d: token %lld row %lld block-row %lld is %.9g, "
           "expected %.9g, allowed %.3g",
           m.describe().c_str(), pattern, (long long)c.tokens, c.activation, c.bias, (long long)t,
           (long long)r, (long long)(r / m.block_rows), y.get(i), expected, bound);
  }
}

}  // namespace test
