/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
#include "cuda/activation.cuh"
#include "cuda/cuda_backend.h"
#include "cuda/cuda_check.h"
#include "cuda/element.cuh"

namespace djlbsr::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kMaxGrid = 4096; /* more elements take turns */

template <typename Element>
__global__ void __launch_bounds__(kThreads)
    activate_kernel(int activation, Element* y, int64_t count) {
  const int64_t step = int64_t{gridDim.x} * kThreads;
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < count; i += step) {
    y[i] = from_float<Element>(activate<Element>(activation, to_float(y[i])));
  }
}

template <typename Element>
void launch(int32_t activation, void* y, int64_t count, void* stream) {
  const int64_t wanted = (count + kThreads - 1) / kThreads;
  const auto grid = static_cast<unsigned>(wanted < kMaxGrid ? wanted : kMaxGrid);
  activate_kernel<Element><<<grid, kThreads, 0, static_cast<cudaStream_t>(stream)>>>(
      activation, static_cast<Element*>(y), count);
  DJLBSR_CUDA(cudaGetLastError());
}

}  // namespace

void activate(int32_t dtype, int32_t activation, void* y, int64_t count, void* stream) {
  if (count == 0) return;
  switch (dtype) {
    case DJLBSR_FLOAT16:
      return launch<__half>(activation, y, count, stream);
    case DJLBSR_BFLOAT16:
      return launch<__nv_bfloat16>(activation, y, count, stream);
    default:
      return launch<float>(activation, y, count, stream);
  }
}

}  // namespace djlbsr::cuda
