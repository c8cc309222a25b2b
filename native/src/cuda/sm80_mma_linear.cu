/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
#include "cuda/sm80_mma_linear.h"

#include <algorithm>

#include "cuda/cuda_check.h"
#include "cuda/sm80_f16_mma.cuh"

namespace djlbsr::cuda {
namespace {

/* Asked for at every call; the runtime keeps it. */
int shared_bytes_of_device() {
  int device = 0;
  int bytes = 0;
  DJLBSR_CUDA(cudaGetDevice(&device));
  DJLBSR_CUDA(cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
  return bytes;
}

template <typename Element, int kGroup, int kVector, bool kAligned>
void launch(const djlbsr_info& info, const LinearParams& params, cudaStream_t stream) {
  constexpr int kRows = kGroup * 8;
  constexpr int kSlices = kMmaConsumers * kWarpTiles / kGroup;
  constexpr int kQueueBytes = kSlices * SliceWalk<kGroup, kVector>::kBytes;
  MmaParams p = {};
  p.linear = params;
  p.linear.slices_per_block_row = (params.block_rows - 1) / kRows + 1;
  p.linear.slices = info.rows / info.block_rows * p.linear.slices_per_block_row;
  p.row_tiles = static_cast<int32_t>((p.linear.slices - 1) / kSlices + 1);
  const int64_t token_tiles = (params.tokens - 1) / kPanelTokens + 1;
  p.y_pairs = params.block_rows % 2 == 0 && params.y_stride % 2 == 0 &&
              reinterpret_cast<uintptr_t>(params.y) % 4 == 0;
  p.stages =
      std::min(kMaxStages, (shared_bytes_of_device() - kPanelStages - kQueueBytes) / kPanelBytes);
  const int shared_bytes = kPanelStages + p.stages * kPanelBytes + kQueueBytes;
  const auto kernel =
      reinterpret_cast<const void*>(sm80_f16_mma_kernel<Element, kGroup, kVector, kAligned>);
  DJLBSR_CUDA(
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes));
  void* arguments[] = {&p};
  const dim3 grid(static_cast<unsigned>(p.row_tiles * token_tiles));
  DJLBSR_CUDA(cudaLaunchKernel(kernel, grid, dim3(kMmaThreads), arguments,
                               static_cast<size_t>(shared_bytes), stream));
}

template <typename Element, int kGroup>
void launch_vector(const djlbsr_info& info, const LinearParams& p, cudaStream_t stream) {
  /* Whole 16 bytes alone: the last row of x may end where its memory does. */
  const bool aligned =
      reinterpret_cast<uintptr_t>(p.x) % 16 == 0 && p.x_stride % 8 == 0 && p.cols % 8 == 0;
  if (p.block_cols % 4 == 0) {
    if (aligned) {
      launch<Element, kGroup, 4, true>(info, p, stream);
    } else {
      launch<Element, kGroup, 4, false>(info, p, stream);
    }
  } else if (aligned) {
    launch<Element, kGroup, 1, true>(info, p, stream);
  } else {
    launch<Element, kGroup, 1, false>(info, p, stream);
  }
}

template <typename Element>
void launch_group(const djlbsr_info& info, const LinearParams& p, cudaStream_t stream) {
  if (p.block_rows <= 8) {
    launch_vector<Element, 1>(info, p, stream);
  } else if (p.block_rows <= 16) {
    launch_vector<Element, 2>(info, p, stream);
  } else {
    launch_vector<Element, 4>(info, p, stream);
  }
}

}  // namespace

void sm80_f16_mma(const djlbsr_info& info, const LinearParams& p, cudaStream_t stream) {
  if (info.dtype == DJLBSR_FLOAT16) {
    launch_group<__half>(info, p, stream);
  } else {
    launch_group<__nv_bfloat16>(info, p, stream);
  }
}

}  // namespace djlbsr::cuda
