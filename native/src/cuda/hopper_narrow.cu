/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
#include "cuda/hopper_narrow.h"

#include <algorithm>

#include "common/meta.h"
#include "cuda/hopper_narrow_kernel.cuh"
#include "cuda/kernel_choice.h"
#include "cuda/overlapped_launch.h"
#include "cuda/tensor_map.h"

namespace djlbsr::cuda {
namespace {

template <typename Element, typename Tile, int kSplit>
void launch(const Call& call) {
  const djlbsr_info& info = call.info;
  const djlbsr_linear_args& args = call.args;
  const Layout layout = layout_of(info);
  const auto* base = static_cast<const char*>(call.packed);
  NarrowParams p = {};
  p.values = tensor_map("values", base + layout.values, info.dtype, info.nnzb * info.block_rows,
                        info.block_cols, info.block_cols, Tile::kRows, Tile::kStepCols);
  p.box_tokens = static_cast<int32_t>(std::min<int64_t>(Tile::kTokens, args.tokens));
  p.x = tensor_map("x", args.x, info.dtype, args.tokens, info.cols, args.x_stride, p.box_tokens,
                   Tile::kStepCols);
  p.crow = reinterpret_cast<const int32_t*>(base + layout.crow);
  p.col_start = reinterpret_cast<const int32_t*>(base + layout.col_start);
  p.bias = args.bias;
  p.y = args.y;
  p.y_stride = args.y_stride;
  p.nnzb = static_cast<int32_t>(info.nnzb);
  p.cols = static_cast<int32_t>(info.cols);
  p.block_rows = static_cast<int32_t>(info.block_rows);
  p.block_cols = static_cast<int32_t>(info.block_cols);
  p.block_row_count = static_cast<int32_t>(info.rows / info.block_rows);
  p.slices_per_block_row = p.block_rows / Tile::kRows;
  p.tokens = static_cast<int32_t>(args.tokens);
  p.token_tiles = (p.tokens - 1) / Tile::kTokens + 1;
  p.activation = args.activation;
  const int64_t ctas = info.rows / Tile::kRows * p.token_tiles * kSplit;
  p.prefetch = prefetch_of_few_tokens(
      base + layout.crow,
      layout.values - layout.crow + info.nnzb * info.block_rows * info.block_cols * 2, args.tokens,
      ctas);
  /* In a single wave the order saves nothing, and long rows would lie beside each other. */
  if (ctas > int64_t{Tile::kResident} * call.multiprocessors) {
    p.rows = reinterpret_cast<const BlockRow*>(base + layout.rows);
  }

  /* Tiles of the same rows side by side take up to 4 % less, but those of 128 rows more. */
  const bool pairs = kSplit == 1 && Tile::kRows <= 64 && p.token_tiles % 2 == 0;
  const int cluster = pairs ? 2 : kSplit;
  launch_overlapped<hopper_narrow_kernel<Element, Tile, kSplit>>(
      ctas, cluster, Tile::kThreads, Tile::kSharedBytes, args.stream, &p);
}

/* Measured; NOTES-hopper.md has the times of other tiles. */
template <typename Element, int kSplit>
void launch_for(const Call& call) {
  const djlbsr_info& info = call.info;
  const int64_t tokens = call.args.tokens;
  if (info.block_rows % 64 != 0 || info.block_cols % 64 != 0) {
    if (tokens <= 32) return launch<Element, NarrowTile<1, 32, 12, 4, 32>, kSplit>(call);
    if (tokens <= 64) return launch<Element, NarrowTile<1, 64, 10, 3, 32>, kSplit>(call);
    /* The more CTAs, the more of them on a multiprocessor, with fewer stages each. */
    const int64_t ctas = info.rows / 32 * ((tokens - 1) / 128 + 1) * kSplit;
    if (ctas <= 264) return launch<Element, NarrowTile<1, 128, 8, 2, 32>, kSplit>(call);
    if (ctas <= 1000) return launch<Element, NarrowTile<1, 128, 6, 3, 32>, kSplit>(call);
    return launch<Element, NarrowTile<1, 128, 5, 4, 32>, kSplit>(call);
  }
  if (tokens <= 32) return launch<Element, NarrowTile<1, 32, 4, 4>, kSplit>(call);
  if (tokens <= 64) return launch<Element, NarrowTile<1, 64, 4, 3>, kSplit>(call);
  if constexpr (kSplit == 1) {
    if (tokens > 256 && info.block_rows % 128 == 0) {
      return launch<Element, NarrowTile<2, 128, 3, 2>, kSplit>(call);
    }
    /* Of long slices the first loads and the stores count less, and the weight read twice more. */
    const int64_t steps = info.nnzb * (info.block_cols / 64);
    if (tokens > 256 && steps > 16 * (info.rows / info.block_rows)) {
      return launch<Element, NarrowTile<1, 256, 5, 1>, kSplit>(call);
    }
    if (tokens > 256) return launch<Element, NarrowTile<1, 128, 3, 3>, kSplit>(call);
  }
  launch<Element, NarrowTile<1, 128, 4, 2>, kSplit>(call);
}

}  // namespace

void hopper_narrow(Kernel kernel, const djlbsr_info& info, const void* packed,
                   const djlbsr_linear_args& args, int multiprocessors) {
  const bool half = info.dtype == DJLBSR_FLOAT16;
  const bool quads = narrow_split_ctas(info) == 4;
  const auto run = kernel == Kernel::kHopperNarrow
                       ? half ? launch_for<__half, 1> : launch_for<__nv_bfloat16, 1>
                   : quads ? half ? launch_for<__half, 4> : launch_for<__nv_bfloat16, 4>
                   : half ? launch_for<__half, 2>
                           : launch_for<__nv_bfloat16, 2>;
  run({info, packed, args, multiprocessors});
}

}  // namespace djlbsr::cuda
