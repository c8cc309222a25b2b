/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "cuda/cuda_check.h"
#include "cuda/driver.h"

namespace djlbsr::cuda {

/*
 * Lets a kernel be launched with so many bytes of dynamic shared memory, which has to be asked for
 * where they are more than 48 KB. Once a thread and context, as asking costs a tenth of a launch;
 * so the bytes are the most that any launch of the kernel takes.
 */
template <auto kKernel>
void allow_dynamic_shared(int most_bytes) {
  thread_local uint64_t allowed_context = 0;
  const uint64_t context = current_context();
  if (allowed_context != 0 && allowed_context == context) return;
  DJLBSR_CUDA(cudaFuncSetAttribute(reinterpret_cast<const void*>(kKernel),
                                   cudaFuncAttributeMaxDynamicSharedMemorySize, most_bytes));
  allowed_context = context;
}

}  // namespace djlbsr::cuda
