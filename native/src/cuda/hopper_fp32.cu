/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
#include <algorithm>

#include "cuda/hopper_fp32_kernel.cuh"
#include "cuda/hopper_linear.h"
#include "cuda/overlapped_launch.h"
#include "cuda/panels.h"
#include "cuda/tensor_map.h"

namespace djlbsr::cuda {
namespace {

constexpr int64_t kPanelBytes = 16 << 20; /* of x, live in L2 beside the weight */

template <typename Tile>
void launch(const djlbsr_info& info, const void* packed, const djlbsr_linear_args& args,
            int multiprocessors) {
  const Layout layout = layout_of(info);
  const auto* base = static_cast<const char*>(packed);
  Fp32Params p = {};
  p.x = tensor_map("x", args.x, info.dtype, args.tokens, info.cols, args.x_stride, Tile::kTokens,
                   Tile::kPieceCols);
  p.rows = reinterpret_cast<const BlockRow*>(base + layout.rows);
  p.col_start = reinterpret_cast<const int32_t*>(base + layout.col_start);
  p.terms = base + layout.terms;
  p.plain_values = reinterpret_cast<const float*>(base + layout.values);
  p.plain_x = static_cast<const float*>(args.x);
  p.bias = static_cast<const float*>(args.bias);
  p.y = static_cast<float*>(args.y);
  p.x_stride = args.x_stride;
  p.y_stride = args.y_stride;
  p.tokens = static_cast<int32_t>(args.tokens);
  p.activation = args.activation;
  p.cols = static_cast<int32_t>(info.cols);
  p.block_rows = static_cast<int32_t>(info.block_rows);
  p.block_cols = static_cast<int32_t>(info.block_cols);
  p.row_count = static_cast<int32_t>(info.rows / info.block_rows);
  p.most_blocks = p.cols / p.block_cols;
  p.nnzb = static_cast<int32_t>(info.nnzb);
  p.length_cost = ((p.block_cols - 1) / Fp32Terms::kStepCols + 1) * kStepCost;
  p.slices_per_row = p.block_rows / Tile::kRows;
  p.token_tiles = (p.tokens - 1) / Tile::kTokens + 1;
  p.token_halves = 2 * p.token_tiles;
  p.panel_token_tiles =
      token_panel(p.token_tiles, 1, kPanelBytes / (info.cols * 4 * Tile::kTokens));
  const int tiles = p.row_count * p.slices_per_row * p.token_tiles;
  const int ctas = std::min({tiles, multiprocessors, kMaxGrid});
  balance(p, ctas);
  p.narrow_length = kNoRowIsLonger;

  launch_overlapped<hopper_fp32_kernel<Tile>>(ctas, 1, kFp32Threads, Tile::kSharedBytes,
                                              args.stream, &p);
}

using Launch = void (*)(const djlbsr_info&, const void*, const djlbsr_linear_args&, int);

template <int kRows, int kTokens, int kTerms>
Launch launch_of_rows(bool wide) {
  return wide ? launch<Fp32Tile<kRows, 32, kTokens, kTerms>>
              : launch<Fp32Tile<kRows, 16, kTokens, kTerms>>;
}

template <int kTokens, int kTerms>
Launch launch_for(const djlbsr_info& info) {
  const bool wide = info.block_cols % 32 == 0;
  return info.block_rows % 64 == 0   ? launch_of_rows<64, kTokens, kTerms>(wide)
         : info.block_rows % 32 == 0 ? launch_of_rows<32, kTokens, kTerms>(wide)
                                     : launch_of_rows<16, kTokens, kTerms>(wide);
}

}  // namespace

void hopper_fp32_linear(Kernel kernel, const djlbsr_info& info, const void* packed,
                        const djlbsr_linear_args& args, int multiprocessors) {
  const Launch run = kernel == Kernel::kHopperFp32x256       ? launch_for<256, 3>(info)
                     : kernel == Kernel::kHopperFp32x128     ? launch_for<128, 3>(info)
                     : kernel == Kernel::kHopperFp32Fastx256 ? launch_for<256, 2>(info)
                                                             : launch_for<128, 2>(info);
  run(info, packed, args, multiprocessors);
}

}  // namespace djlbsr::cuda
