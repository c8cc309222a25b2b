/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
#include "common/error.h"
#include "cuda/cuda_backend.h"

namespace djlbsr::cuda {
namespace {

[[noreturn]] void unavailable() {
  fail(DJLBSR_UNSUPPORTED,
       "this libdjlbsr was built without CUDA; build it where nvcc is found, or keep the weight on "
       "the CPU");
}

}  // namespace

int device_count() { return 0; }

std::string describe() { return "none: built without nvcc"; }

std::string describe_kernels() { return "none: built without nvcc"; }

void pack(const djlbsr_info&, const djlbsr_matrix&, void*, void*) { unavailable(); }

void update_values(const djlbsr_info&, void*, const void*, void*) { unavailable(); }

void linear(const djlbsr_info&, const void*, const djlbsr_linear_args&) { unavailable(); }

const char* kernel_name_for(const djlbsr_info&, const djlbsr_linear_args&) { unavailable(); }
void activate(int32_t, int32_t, void*, int64_t, void*) { unavailable(); }

choice::CudaMachine machine(int) { unavailable(); }

DeviceGuard::DeviceGuard(int) : previous_(0), device_(0) { unavailable(); }

DeviceGuard::~DeviceGuard() = default;

}  // namespace djlbsr::cuda
