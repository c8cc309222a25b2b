/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
#include "cuda/hopper_linear.h"

#include <algorithm>

#include "cuda/hopper_kernel.cuh"
#include "cuda/overlapped_launch.h"
#include "cuda/panels.h"
#include "cuda/tensor_map.h"

namespace djlbsr::cuda {
namespace {

constexpr int64_t kMegabyte = 1 << 20;
/* Of x that a panel of tokens reads: what measured best. */
constexpr int64_t kPanelBytes = 16 * kMegabyte;
/* Of L2, up to which x is one panel where block-rows are long, so that none has to go first. */
constexpr double kOnePanel = 0.6;
/* As far as panels of far fewer tiles than CTAs grow; more than half of L2 costs more. */
constexpr int64_t kMostPanelBytes = 24 * kMegabyte;

template <typename Element, int kTileRows>
void launch(const djlbsr_info& info, const void* packed, const djlbsr_linear_args& args,
            const choice::CudaMachine& device) {
  using Tile = HopperTile<kTileRows>;
  const Layout layout = layout_of(info);
  const auto* base = static_cast<const char*>(packed);
  HopperParams p = {};
  p.values = tensor_map("values", base + layout.values, info.dtype, info.nnzb * info.block_rows,
                        info.block_cols, info.block_cols, kTileRows, kStepCols);
  p.x = tensor_map("x", args.x, info.dtype, args.tokens, info.cols, args.x_stride,
                   Tile::kXBoxTokens, kStepCols);
  p.rows = reinterpret_cast<const BlockRow*>(base + layout.rows);
  p.col_start = reinterpret_cast<const int32_t*>(base + layout.col_start);
  p.bias = args.bias;
  if constexpr (Tile::kStoresFromStage) {
    p.y_map = tensor_map("y", args.y, info.dtype, args.tokens, info.rows, args.y_stride,
                         kBulkTokens, kConsumerRows);
  }
  p.y = args.y;
  p.y_stride = args.y_stride;
  p.tokens = static_cast<int32_t>(args.tokens);
  p.cols = static_cast<int32_t>(info.cols);
  p.block_rows = static_cast<int32_t>(info.block_rows);
  p.block_cols = static_cast<int32_t>(info.block_cols);
  p.row_count = static_cast<int32_t>(info.rows / info.block_rows);
  p.most_blocks = p.cols / p.block_cols;
  p.nnzb = static_cast<int32_t>(info.nnzb);
  p.activation = args.activation;
  p.length_cost = p.block_cols / kStepCols * kStepCost;
  p.slices_per_row = p.block_rows / kTileRows;
  p.token_tiles = static_cast<int32_t>((args.tokens - 1) / Tile::kTokens + 1);
  p.token_halves = static_cast<int32_t>((args.tokens - 1) / (Tile::kTokens / 2) + 1);
  const int slices = p.row_count * p.slices_per_row;
  const int ctas = std::max(std::min(device.multiprocessors, kMaxGrid) / 2 * 2, 2);
  const int64_t token_tile_bytes = info.cols * 2 * Tile::kTokens;
  const int64_t least =
      std::min<int64_t>(ctas * 9 / 10 / slices + 1, kMostPanelBytes / token_tile_bytes);
  p.panel_token_tiles = token_panel(p.token_tiles, std::clamp<int64_t>(least, 1, p.token_tiles),
                                    kPanelBytes / token_tile_bytes);
  balance(p, ctas);
  const double x_bytes = 2.0 * static_cast<double>(info.cols) * static_cast<double>(args.tokens);
  const bool fits = x_bytes <= kOnePanel * device.l2_bytes;
  if (fits && info.max_blocks_in_row > p.long_length) {
    p.panel_token_tiles = p.token_tiles;
    balance(p, ctas);
  }
  const int tiles = slices * p.token_tiles;

  /* Of half tiles, if need be. */
  launch_overlapped<hopper_kernel<Element, kTileRows>>(std::min(2 * tiles, ctas), 2, kHopperThreads,
                                                       Tile::kSharedBytes, args.stream, &p);
}

}  // namespace

void hopper_linear(Kernel kernel, const djlbsr_info& info, const void* packed,
                   const djlbsr_linear_args& args, const choice::CudaMachine& device) {
  const bool half = info.dtype == DJLBSR_FLOAT16;
  const auto run = kernel == Kernel::kHopper128x256
                       ? half ? launch<__half, 128> : launch<__nv_bfloat16, 128>
                   : half ? launch<__half, 64>
                          : launch<__nv_bfloat16, 64>;
  run(info, packed, args, device);
}

}  // namespace djlbsr::cuda
