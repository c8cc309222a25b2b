/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
#pragma once

#include <functional>

#include "cuda/kernel_choice.h"
#include "device_support.h"

/* What the tests of the fp32 kernels share: one product on the Hopper and the portable kernel. */
namespace test {

/* A weight and an x on the device; x twice, once where only the portable kernel reads it. */
class Product {
 public:
  Product(const Matrix& m, const Array& x)
      : m_(m), tokens_(x.count() / m.cols), packed_(m), x_(x), shifted_x_(shifted(x)) {}

  Array run(bool by_hopper, int32_t activation = DJLBSR_NONE) const {
    return run(by_hopper, activation, 0, tokens_);
  }

  Array run(bool by_hopper, int32_t activation, int64_t first, int64_t count) const {
    Array y(m_.dtype, count * m_.rows);
    y.fill([] { return NAN; });
    const DeviceBytes y_memory(y);
    const auto* x = by_hopper ? static_cast<const float*>(x_.get())
                              : static_cast<const float*>(shifted_x_.get()) + 1;
    djlbsr_linear_args args = arguments(m_, x + first * m_.cols, y_memory.get(), count);
    args.activation = activation;
    EXPECT((djlbsr::cuda::kernel_choice(packed_.info, args, 90) !=
            djlbsr::cuda::Kernel::kPortable) == by_hopper,
           "%s, %lld tokens: the wrong kernel", m_.describe().c_str(), (long long)count);
    EXPECT(djlbsr_linear(&packed_.meta, packed_.bytes->get(), &args) == DJLBSR_OK, "%s",
           djlbsr_last_error());
    y_memory.read(y.data());
    return y;
  }

 private:
  static Array shifted(const Array& x) {
    Array copy(x.dtype(), x.count() + 1);
    std::memcpy(static_cast<char*>(copy.data()) + 4, x.data(), static_cast<size_t>(x.count()) * 4);
    return copy;
  }

  const Matrix& m_;
  int64_t tokens_;
  CudaPacked packed_;
  DeviceBytes x_;
  DeviceBytes shifted_x_;
};

inline Array filled(int64_t count, const std::function<float()>& value) {
  Array array(DJLBSR_FLOAT32, count);
  array.fill(value);
  return array;
}

inline void expect_same_bits(const Matrix& m, const Array& actual, const Array& expected,
                             const char* what) {
  for (int64_t i = 0; i < expected.count(); ++i) {
    const float a = actual.get(i);
    const float b = expected.get(i);
    EXPECT(std::memcmp(&a, &b, 4) == 0 || (std::isnan(a) && std::isnan(b)),
           "%s, %s: token %lld row %lld is %.9g, the portable kernel gives %.9g",
           m.describe().c_str(), what, (long long)(i / m.rows), (long long)(i % m.rows), a, b);
  }
}

inline float from_bits(uint32_t bits) {
  float v;
  std::memcpy(&v, &bits, 4);
  return v;
}

}  // namespace test
