/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
#include "cuda/driver.h"

#include <cudaTypedefs.h>
#include <cuda_runtime.h>

#include "common/error.h"
#include "cuda/cuda_check.h"

namespace djlbsr::cuda {

void* driver_address(const char* name) {
  void* function = nullptr;
  cudaDriverEntryPointQueryResult result = {};
  DJLBSR_CUDA(cudaGetDriverEntryPointByVersion(name, &function, 12000, cudaEnableDefault, &result));
  if (result != cudaDriverEntryPointSuccess || function == nullptr) {
    fail(DJLBSR_CUDA_ERROR, "the NVIDIA driver has no %s; update the driver", name);
  }
  return function;
}

uint64_t current_context() {
  static const auto get_id = driver_function<PFN_cuCtxGetId_v12000>("cuCtxGetId");
  unsigned long long id = 0;
  return get_id(nullptr, &id) == CUDA_SUCCESS ? id : 0; /* null: of the current one */
}

}  // namespace djlbsr::cuda
