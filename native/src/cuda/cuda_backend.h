/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
#pragma once

#include <string>

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

void pack(const djlbsr_info& info, const djlbsr_matrix& matrix, void* packed, void* stream);
void update_values(const djlbsr_info& info, void* packed, const void* values, void* stream);
void linear(const djlbsr_info& info, const void* packed, const djlbsr_linear_args& args);

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
