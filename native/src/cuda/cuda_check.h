/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
#pragma once

#include <cuda_runtime.h>

namespace djlbsr::cuda {

/* Throws Error(DJLBSR_CUDA_ERROR) that names the call, its place, CUDA's error and a remedy. */
void check_cuda(cudaError_t status, const char* call, const char* file, int line);

}  // namespace djlbsr::cuda

#define DJLBSR_CUDA(call) ::djlbsr::cuda::check_cuda((call), #call, __FILE__, __LINE__)
