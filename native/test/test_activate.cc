/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
/* Activations of arrays that another library computed, between canaries. */
#include <cmath>

#include "cpu/cpu_backend.h"
#include "support.h"

using namespace test;

int main() {
  skip_without_isa();
  constexpr float kCanary = 77;
  constexpr int64_t kBefore = 32; /* elements, of either size a multiple of 64 bytes */
  Rng rng(5);
  std::normal_distribution<float> normal(0, 4);
  /* Less than a step, whole steps and beyond; the last two are shared out among threads. */
  for (const int64_t count : {0, 1, 15, 16, 63, 64, 65, 200, 16384, 50001}) {
    for (const int32_t dtype : {DJLBSR_FLOAT32, DJLBSR_FLOAT16, DJLBSR_BFLOAT16}) {
      for (int32_t activation = DJLBSR_NONE; activation <= DJLBSR_SILU; ++activation) {
        Array z(dtype, count);
        z.fill([&] { return normal(rng); });
        if (count > 60) {
          z.set(3, NAN);
          z.set(17, HUGE_VALF);
        }
        Array y(dtype, count + 2 * kBefore);
        y.fill([&] { return kCanary; });
        for (int64_t i = 0; i < count; ++i) y.set(kBefore + i, z.get(i));
        djlbsr::cpu::activate(
            dtype, activation,
            static_cast<char*>(y.data()) + kBefore * static_cast<int64_t>(y.size()), count, 3);
        for (int64_t i = 0; i < kBefore; ++i) {
          EXPECT(y.get(i) == kCanary && y.get(kBefore + count + i) == kCanary,
                 "count %lld, dtype %d: written outside", (long long)count, dtype);
        }
        for (int64_t i = 0; i < count; ++i) {
          const double expected = test::activate(z.get(i), activation);
          const double actual = y.get(kBefore + i);
          const bool right =
              std::isfinite(z.get(i))
                  ? std::fabs(actual - expected) <= error_bound(z.get(i), 0, 0, activation, dtype)
                  : std::isnan(z.get(i)) == std::isnan(actual) &&
                        (std::isnan(actual) || actual == z.get(i));
          EXPECT(right, "element %lld of %lld, dtype %d, activation %d: %g for %g, expected %g",
                 (long long)i, (long long)count, dtype, activation, actual, z.get(i), expected);
        }
      }
    }
  }
  return finish("test_activate");
}
