/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
#include "machine.h"

#include <omp.h>
#include <unistd.h>

#include <cstdint>
#include <cstring>
#include <fstream>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "timing.h"

namespace bench {
namespace {

constexpr int kChains = 12; /* more than latency times ports, fewer than the registers of AVX2 */
constexpr int64_t kRounds = 2000000;

/* Each returns the FLOP that it did. The empty asm keeps the compiler from leaving work out. */
#if defined(__x86_64__)
__attribute__((target("avx512f"))) double avx512_chains() {
  __m512 sum[kChains];
  __m512 factor = _mm512_set1_ps(0.999f);
  __m512 term = _mm512_set1_ps(1e-3f);
  __asm__ volatile("" : "+v"(factor), "+v"(term));
  for (int i = 0; i < kChains; ++i) sum[i] = _mm512_set1_ps(static_cast<float>(i));
  for (int64_t n = 0; n < kRounds; ++n) {
#pragma GCC unroll 16
    for (int i = 0; i < kChains; ++i) sum[i] = _mm512_fmadd_ps(sum[i], factor, term);
  }
  for (int i = 0; i < kChains; ++i) __asm__ volatile("" : : "v"(sum[i]));
  return 2.0 * kRounds * kChains * 16;
}

__attribute__((target("avx2,fma"))) double avx2_chains() {
  __m256 sum[kChains];
  __m256 factor = _mm256_set1_ps(0.999f);
  __m256 term = _mm256_set1_ps(1e-3f);
  __asm__ volatile("" : "+x"(factor), "+x"(term));
  for (int i = 0; i < kChains; ++i) sum[i] = _mm256_set1_ps(static_cast<float>(i));
  for (int64_t n = 0; n < kRounds; ++n) {
#pragma GCC unroll 16
    for (int i = 0; i < kChains; ++i) sum[i] = _mm256_fmadd_ps(sum[i], factor, term);
  }
  for (int i = 0; i < kChains; ++i) __asm__ volatile("" : : "x"(sum[i]));
  return 2.0 * kRounds * kChains * 8;
}
#endif

/* Four lanes of the compiler's own vectors, as the portable kernels have them. */
double portable_chains() {
  typedef float Vector __attribute__((vector_size(16)));
  Vector sum[kChains];
  Vector factor = Vector{} + 0.999f;
  Vector term = Vector{} + 1e-3f;
  for (int i = 0; i < kChains; ++i) sum[i] = Vector{} + static_cast<float>(i);
  for (int64_t n = 0; n < kRounds; ++n) {
#pragma GCC unroll 16
    for (int i = 0; i < kChains; ++i) sum[i] = sum[i] * factor + term;
  }
  float total = 0;
  for (int i = 0; i < kChains; ++i) total += sum[i][0] + sum[i][1] + sum[i][2] + sum[i][3];
  volatile float sink = total;
  (void)sink;
  return 2.0 * kRounds * kChains * 4;
}

}  // namespace

std::string cpu_name() {
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);) {
    const size_t colon = line.find(": ");
    if (line.rfind("model name", 0) == 0 && colon != std::string::npos) {
      return line.substr(colon + 2);
    }
  }
  return "unknown";
}

long long last_level_cache() {
  const long level3 = sysconf(_SC_LEVEL3_CACHE_SIZE);
  return level3 > 0 ? level3 : 0;
}

double fma_peak(const std::string& isa, int threads) {
  double (*chains)() = portable_chains;
#if defined(__x86_64__)
  if (isa != "portable") chains = isa == "avx2" ? avx2_chains : avx512_chains;
#else
  (void)isa;
#endif
  double flop = 0;
  const Times times = measure(0.02, threads, [&] {
    double sum = 0;
#pragma omp parallel num_threads(threads) reduction(+ : sum)
    sum += chains();
    flop = sum;
  });
  return flop / times.median * 1e-9;
}

double read_bandwidth(int threads) {
  constexpr int64_t kLines = 8 << 20; /* of 64 bytes: 512 MiB, far more than any cache */
  typedef uint64_t Vector __attribute__((vector_size(16)));
  std::vector<Vector> memory(static_cast<size_t>(kLines * 4), Vector{1, 2});
  const Vector* p = memory.data();
  const Times times = measure(0.3, threads, [&] {
    uint64_t sum = 0;
#pragma omp parallel num_threads(threads) reduction(+ : sum)
    {
      const int64_t part = kLines / omp_get_num_threads();
      const Vector* line = p + omp_get_thread_num() * part * 4;
      Vector s[4] = {};
      for (const Vector* end = line + part * 4; line < end; line += 4) {
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) s[i] += line[i];
      }
      s[0] += s[1] + s[2] + s[3];
      sum += s[0][0] + s[0][1];
    }
    volatile uint64_t sink = sum;
    (void)sink;
  });
  return 64.0 * static_cast<double>(kLines) / times.best * 1e-9;
}

}  // namespace bench
