/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
#pragma once

#include <string>

#include "choice/cost_model.h"
#include "common/meta.h"
#include "djlbsr.h"

/*
 * What a device must offer; api.cc has validated every argument before it calls these. cuda_stub.cc
 * stands in for a build without nvcc.
 */
namespace djlbsr::cuda {

/* Usable devices; 0 without a driver or in a CPU-only build. */
int device_count();

/* One line a device, or the reason why there is none; for djlbsr_capabilities. */
std::string describe();

/* The kernels of linear, and which of them the environment forces; for djlbsr_capabilities. */
std::string describe_kernels();

void pack(const djlbsr_info& info, const djlbsr_matrix& matrix, void* packed, void* stream);
void update_values(const djlbsr_info& info, void* packed, const void* values, void* stream);
void linear(const djlbsr_info& info, const void* packed, const djlbsr_linear_args& args);

/* The name of the kernel that linear takes on the current device. */
const char* kernel_name_for(const djlbsr_info& info, const djlbsr_linear_args& args);
/* y := act(y) for count elements on the current device. */
void activate(int32_t dtype, int32_t activation, void* y, int64_t count, void* stream);

/* What the choice between block-sparse and dense has to know of a device. */
choice::CudaMachine machine(int device);

/* Makes a device current and restores the one before. */
class DeviceGuard {
 public:
  explicit DeviceGuard(int device);
  ~DeviceGuard();
  DeviceGuard(const DeviceGuard&) = delete;
  DeviceGuard& operator=(const DeviceGuard&) = delete;

 private:
  int previous_;
  int device_;
};

}  // namespace djlbsr::cuda
