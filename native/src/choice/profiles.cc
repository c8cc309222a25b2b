/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
#include "choice/profiles.h"

#include <omp.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <memory>
#include <mutex>
#include <vector>

#include "common/error.h"
#include "common/meta.h"
#include "cuda/cuda_backend.h"

namespace djlbsr::choice {
namespace {

constexpr int kDtypes = 3;

/* Null for the built-in one. Profiles are never freed: a call may read one that was replaced. */
std::atomic<const CpuProfile*> profiles[kDtypes];

void keep(std::unique_ptr<const CpuProfile> profile) {
  static std::mutex mutex;
  static auto* const kept = new std::vector<std::unique_ptr<const CpuProfile>>;
  std::lock_guard<std::mutex> lock(mutex);
  kept->push_back(std::move(profile));
}

void check_call(int64_t tokens, int32_t activation) {
  DJLBSR_CHECK(tokens >= 0, "tokens is %lld; use 0 or more", (long long)tokens);
  DJLBSR_CHECK(activation >= DJLBSR_NONE && activation <= DJLBSR_SILU,
               "activation is %d; use 0 (none), 1 (ReLU), 2 (GELU), 3 (tanh GELU) or 4 (SiLU)",
               activation);
}

}  // namespace

const CpuProfile& current_profile(int32_t dtype) {
  dtype_name(dtype);
  const CpuProfile* profile = profiles[dtype].load(std::memory_order_acquire);
  return profile == nullptr ? builtin_profile(dtype) : *profile;
}

djlbsr_prediction predict(const djlbsr_info& info, int64_t tokens, int32_t activation,
                          int32_t cuda_device, int32_t threads) {
  check_call(tokens, activation);
  if (info.device == DJLBSR_CUDA) {
    return predict_cuda(info, tokens, activation,
                        cuda_device == -1 ? kFittedMachine : cuda::machine(cuda_device));
  }
  djlbsr_prediction prediction =
      predict_cpu(info, tokens, activation, threads > 0 ? threads : omp_get_max_threads(),
                  current_profile(info.dtype));
  if (info.weight_format != DJLBSR_WEIGHT_AS_GIVEN) prediction.dense = 0;
  return prediction;
}

std::string describe() {
  std::string measured;
  for (int32_t dtype = 0; dtype < kDtypes; ++dtype) {
    if (profiles[dtype].load(std::memory_order_acquire) == nullptr) continue;
    measured += (measured.empty() ? "" : ", ") + std::string(dtype_name(dtype));
  }
  return measured.empty() ? "built in" : "measured for " + measured + ", else built in";
}

}  // namespace djlbsr::choice

using namespace djlbsr;

int32_t djlbsr_predict(const djlbsr_meta* meta, int64_t tokens, int32_t activation,
                       int32_t cuda_device, int32_t threads, djlbsr_prediction* prediction) {
  return guarded([&] {
    DJLBSR_CHECK(meta != nullptr, "meta is null");
    DJLBSR_CHECK(prediction != nullptr, "prediction is null; pass where to put the result");
    *prediction = choice::predict(decode(*meta), tokens, activation, cuda_device, threads);
  });
}

const char* djlbsr_profile_point(int32_t index) {
  thread_local std::string name;
  if (index < 0 || index >= DJLBSR_PROFILE_POINTS) return "";
  try {
    name = choice::point_name(index);
  } catch (...) {
    return "";
  }
  return name.c_str();
}

int32_t djlbsr_get_profile(int32_t dtype, double* seconds) {
  return guarded([&] {
    DJLBSR_CHECK(seconds != nullptr, "seconds is null; pass room for %d numbers",
                 DJLBSR_PROFILE_POINTS);
    std::copy_n(choice::current_profile(dtype).seconds, DJLBSR_PROFILE_POINTS, seconds);
  });
}

int32_t djlbsr_set_profile(int32_t dtype, const double* seconds) {
  return guarded([&] {
    dtype_name(dtype);
    std::unique_ptr<choice::CpuProfile> profile;
    if (seconds != nullptr) {
      for (int i = 0; i < DJLBSR_PROFILE_POINTS; ++i) {
        DJLBSR_CHECK(seconds[i] > 0 && seconds[i] < 1e6,
                     "seconds[%d] (%s) is %g; a time is above 0 and below 1e6, measure again", i,
                     choice::point_name(i).c_str(), seconds[i]);
      }
      profile = std::make_unique<choice::CpuProfile>();
      std::copy_n(seconds, DJLBSR_PROFILE_POINTS, profile->seconds);
    }
    const choice::CpuProfile* current = profile.get();
    if (profile) choice::keep(std::move(profile));
    choice::profiles[dtype].store(current, std::memory_order_release);
  });
}
