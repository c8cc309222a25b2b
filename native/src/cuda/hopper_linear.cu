/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
#include "cuda/hopper_linear.h"

#include <cuda_runtime.h>

#include <algorithm>

#include "cuda/cuda_check.h"
#include "cuda/hopper_kernel.cuh"
#include "cuda/tensor_map.h"

namespace djlbsr::cuda {
namespace {

constexpr int64_t kPanelBytes = 16 << 20; /* of x; more than half of L2 loses most of its rate */

template <typename Element, int kTileRows>
void launch(const djlbsr_info& info, const void* packed, const djlbsr_linear_args& args,
            int multiprocessors) {
  using Tile = HopperTile<kTileRows>;
  const Layout layout = layout_of(info);
  const auto* base = static_cast<const char*>(packed);
  HopperParams p = {};
  p.values = tensor_map("values", base + layout.values, info.dtype, info.nnzb * info.block_rows,
                        info.block_cols, info.block_cols, kTileRows, kStepCols);
  p.x = tensor_map("x", args.x, info.dtype, args.tokens, info.cols, args.x_stride, kConsumerTokens,
                   kStepCols);
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
  p.steps_per_block = p.block_cols / kStepCols;
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
