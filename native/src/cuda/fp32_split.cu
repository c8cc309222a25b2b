/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
#include "cuda/fp32_split.cuh"

#include <cuda_runtime.h>

#include <algorithm>

#include "cuda/cuda_check.h"
#include "cuda/fp32_split.h"

namespace djlbsr::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kMaxGrid = 1 << 16;
constexpr int kCols = 8; /* of a thread */

struct SplitParams {
  const int32_t* crow;
  const float* values;
  char* terms;
  int64_t threads;
  int64_t nnzb;
  int64_t block_row_count;
  int32_t block_rows;
  int32_t block_cols;
};

/* The block-row of a block; of altered crow_indices any one. */
__device__ int64_t block_row_of(const SplitParams& p, int64_t block) {
  int64_t low = 0;
  int64_t high = p.block_row_count - 1;
  while (low < high) {
    const int64_t middle = (low + high + 1) / 2;
    if (p.crow[middle] <= block) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  return low;
}

__global__ void __launch_bounds__(kThreads) split_kernel(const SplitParams p) {
  const int64_t stride = int64_t{gridDim.x} * kThreads;
  const int32_t per_row = p.block_cols / kCols;
  const int slice_rows = Fp32Terms::slice_rows(p.block_rows);
  const int32_t slices = p.block_rows / slice_rows;
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < p.threads; i += stride) {
    const int64_t stored_row = i / per_row;
    const int64_t block = stored_row / p.block_rows;
    const auto row = static_cast<int32_t>(stored_row % p.block_rows);
    const int64_t block_row = block_row_of(p, block);
    const int64_t first = min(max(int64_t{p.crow[block_row]}, int64_t{0}), block);
    /* Eights of columns since the start of the block-row. */
    const int64_t eighth = (block - first) * per_row + i % per_row;
    const int64_t step = Fp32Terms::first_step(first, block_row, p.block_cols) + eighth / 4;

    const auto* const values = reinterpret_cast<const float4*>(p.values + i * kCols);
    const float4 a = values[0];
    const float4 b = values[1];
    const SplitPair<3> pairs[4] = {split<3>(a.x, b.x), split<3>(a.y, b.y), split<3>(a.z, b.z),
                                   split<3>(a.w, b.w)};
    const int row_in_slice = row % slice_rows;
    const int64_t slice = step * slices + row / slice_rows;
    char* const out =
        p.terms + (slice * Fp32Terms::kTerms * slice_rows + row_in_slice) * Fp32Terms::kRowBytes +
        (eighth % 4 ^ row_in_slice / 2 % 4) * 16;
#pragma unroll
    for (int term = 0; term < Fp32Terms::kTerms; ++term) {
      *reinterpret_cast<uint4*>(out + term * slice_rows * Fp32Terms::kRowBytes) = {
          pairs[0].terms[term], pairs[1].terms[term], pairs[2].terms[term], pairs[3].terms[term]};
    }
  }
}

}  // namespace

void split_values(const djlbsr_info& info, void* packed, cudaStream_t stream) {
  const Layout layout = layout_of(info);
  auto* base = static_cast<char*>(packed);
  SplitParams p = {};
  p.crow = reinterpret_cast<const int32_t*>(base + layout.crow);
  p.values = reinterpret_cast<const float*>(base + layout.values);
  p.terms = base + layout.terms;
  p.nnzb = info.nnzb;
  p.block_row_count = info.rows / info.block_rows;
  p.block_rows = static_cast<int32_t>(info.block_rows);
  p.block_cols = static_cast<int32_t>(info.block_cols);
  p.threads = info.nnzb * info.block_rows * (info.block_cols / kCols);
  const auto grid =
      static_cast<unsigned>(std::min<int64_t>((p.threads + kThreads - 1) / kThreads, kMaxGrid));
  void* arguments[] = {&p};
  DJLBSR_CUDA(cudaLaunchKernel(reinterpret_cast<const void*>(split_kernel), dim3(grid),
                               dim3(kThreads), arguments, 0, stream));
}

}  // namespace djlbsr::cuda
