/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
#include "cuda/hopper_linear.h"

#include <cudaTypedefs.h>
#include <cuda_runtime.h>

#include <algorithm>

#include "common/error.h"
#include "cuda/cuda_check.h"
#include "cuda/hopper_kernel.cuh"

namespace djlbsr::cuda {
namespace {

constexpr int64_t kPanelBytes = 16 << 20; /* of x; more than half of L2 loses most of its rate */

/* From the driver that the runtime has loaded: nothing links to libcuda. */
PFN_cuTensorMapEncodeTiled_v12000 tensor_map_encoder() {
  static const PFN_cuTensorMapEncodeTiled_v12000 encoder = [] {
    void* function = nullptr;
    cudaDriverEntryPointQueryResult result = {};
    DJLBSR_CUDA(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000,
                                                 cudaEnableDefault, &result));
    if (result != cudaDriverEntryPointSuccess || function == nullptr) {
      fail(DJLBSR_CUDA_ERROR, "the NVIDIA driver has no cuTensorMapEncodeTiled; update the driver");
    }
    return reinterpret_cast<PFN_cuTensorMapEncodeTiled_v12000>(function);
  }();
  return encoder;
}

/* A row-major matrix of 16-bit elements in boxes of box_rows x 64, swizzled by 128 bytes. */
CUtensorMap tensor_map(const char* name, const void* data, int32_t dtype, int64_t rows,
                       int64_t cols, int64_t stride, int box_rows) {
  const CUtensorMapDataType type =
      dtype == DJLBSR_FLOAT16 ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16 : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
  const cuuint64_t sizes[] = {static_cast<cuuint64_t>(cols), static_cast<cuuint64_t>(rows)};
  const cuuint64_t strides[] = {static_cast<cuuint64_t>(stride) * 2};
  const cuuint32_t box[] = {kStepCols, static_cast<cuuint32_t>(box_rows)};
  const cuuint32_t steps[] = {1, 1};
  CUtensorMap map;
  const CUresult status =
      tensor_map_encoder()(&map, type, 2, const_cast<void*>(data), sizes, strides, box, steps,
                           CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                           CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (status != CUDA_SUCCESS) {
    fail(DJLBSR_CUDA_ERROR,
         "cuTensorMapEncodeTiled gave CUresult %d for %s at %p, %lld rows, %lld columns, stride "
         "%lld; check that it is memory of the current device",
         static_cast<int>(status), name, data, (long long)rows, (long long)cols, (long long)stride);
  }
  return map;
}

template <typename Element, int kTileRows>
void launch(const djlbsr_info& info, const void* packed, const djlbsr_linear_args& args,
            int multiprocessors) {
  using Tile = HopperTile<kTileRows>;
  const Layout layout = layout_of(info);
  const auto* base = static_cast<const char*>(packed);
  HopperParams p = {};
  p.values = tensor_map("values", base + layout.values, info.dtype, info.nnzb * info.block_rows,
                        info.block_cols, info.block_cols, kTileRows);
  p.x = tensor_map("x", args.x, info.dtype, args.tokens, info.cols, args.x_stride, kConsumerTokens);
  p.crow = reinterpret_cast<const int32_t*>(base + layout.crow);
  p.col_start = reinterpret_cast<const int32_t*>(base + layout.col_start);
  p.bias = args.bias;
  p.y = args.y;
  p.y_stride = args.y_stride;
  p.tokens = static_cast<int32_t>(args.tokens);
  p.cols = static_cast<int32_t>(info.cols);
  p.block_rows = static_cast<int32_t>(info.block_rows);
  p.block_cols = static_cast<int32_t>(info.block_cols);
  p.block_row_count = static_cast<int32_t>(info.rows / info.block_rows);
  p.nnzb = static_cast<int32_t>(info.nnzb);
  p.activation = args.activation;
  p.slices_per_block_row = p.block_rows / kTileRows;
  p.token_tiles = (p.tokens - 1) / Tile::kTokens + 1;
  p.panel_token_tiles = static_cast<int32_t>(
      std::clamp<int64_t>(kPanelBytes / (info.cols * 2 * Tile::kTokens), 1, p.token_tiles));
  p.tiles = p.block_row_count * p.slices_per_block_row * p.token_tiles;

  const auto kernel = reinterpret_cast<const void*>(hopper_kernel<Element, kTileRows>);
  DJLBSR_CUDA(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                   Tile::kSharedBytes));
  void* arguments[] = {&p};
  const dim3 grid(static_cast<unsigned>(std::min({p.tiles, multiprocessors, kMaxGrid})));
  DJLBSR_CUDA(cudaLaunchKernel(kernel, grid, dim3(kHopperThreads), arguments, Tile::kSharedBytes,
                               static_cast<cudaStream_t>(args.stream)));
}

}  // namespace

void hopper_linear(Kernel kernel, const djlbsr_info& info, const void* packed,
                   const djlbsr_linear_args& args, int multiprocessors) {
  const bool half = info.dtype == DJLBSR_FLOAT16;
  const auto run = kernel == Kernel::kHopper128x256
                       ? half ? launch<__half, 128> : launch<__nv_bfloat16, 128>
                   : half ? launch<__half, 64>
                          : launch<__nv_bfloat16, 64>;
  run(info, packed, args, multiprocessors);
}

}  // namespace djlbsr::cuda
