/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
#include <algorithm>

#include "cuda/hopper_panel_narrow_kernel.cuh"
#include "cuda/hopper_panels.h"
#include "cuda/overlapped_launch.h"
#include "cuda/tensor_map.h"

namespace djlbsr::cuda {
namespace {

template <typename Element, typename Tile, int kSplit>
void launch(const Call& call) {
  const djlbsr_info& info = call.info;
  const djlbsr_linear_args& args = call.args;
  const PanelSection section(info, call.packed);
  NarrowPanelParams p = {};
  p.box_tokens = static_cast<int32_t>(std::min<int64_t>(Tile::kTokens, args.tokens));
  p.x =
      tensor_map("x", args.x, info.dtype, args.tokens, info.cols, args.x_stride, p.box_tokens, 64);
  p.rows_of_tiles = section.at<int32_t>(section.layout.rows);
  p.tiles = section.at<PanelTileSteps>(section.layout.tiles);
  p.steps = section.at<PanelStep>(section.layout.steps);
  p.chunks = section.at<char>(section.layout.chunks);
  p.bias = args.bias;
  p.y = args.y;
  p.y_stride = args.y_stride;
  p.chunk_bytes = section.layout.chunk_bytes;
  p.step_count = info.panel_steps;
  p.most_steps =
      static_cast<int32_t>(((info.cols - 1) / Tile::kCols + 1) * panel_shape(info).most_steps());
  p.tokens = static_cast<int32_t>(args.tokens);
  p.rows = static_cast<int32_t>(info.rows);
  p.activation = args.activation;
  p.token_tiles = (p.tokens - 1) / Tile::kTokens + 1;
  const int64_t ctas = ((info.rows - 1) / Tile::kRows + 1) * p.token_tiles * kSplit;
  p.prefetch =
      prefetch_of_few_tokens(section.at<char>(section.layout.tiles),
                             section.layout.bytes - section.layout.tiles, args.tokens, ctas);
  launch_overlapped<hopper_panel_narrow_kernel<Element, Tile, kSplit>>(
      ctas, kSplit, Tile::kThreads, Tile::kSharedBytes, args.stream, &p);
}

/*
 * Small where three CTAs a multiprocessor are wanted, Deep, with a stage more, where two are
 * enough, Wide where each shall have twice the tokens. Measured; NOTES-hopper.md has the times.
 */
template <typename Element, int kBlock, int kSplit>
void launch_for(const Call& call) {
  constexpr int kSlotBytes = kBlock * kBlock * 2;
  using Small = NarrowPanelTile<kBlock, 64, 8 * 1024 / kSlotBytes, 3, 3>;
  using Deep = NarrowPanelTile<kBlock, 64, 12 * 1024 / kSlotBytes, 4, 2>;
  using Wide = NarrowPanelTile<kBlock, 128, 12 * 1024 / kSlotBytes, 2, 2>;
  const int64_t ctas = panel_pieces(call.info, call.args) * kSplit;
  if constexpr (kSplit == 2) {
    if (ctas > kMostPanelCtas) return launch<Element, Wide, kSplit>(call);
  }
  /* Clusters of four do not find room for two CTAs on every multiprocessor. */
  const int64_t deep = int64_t{call.multiprocessors} * (kSplit <= 2 ? 4 : 3) / 2;
  if (ctas <= deep) return launch<Element, Deep, kSplit>(call);
  launch<Element, Small, kSplit>(call);
}

template <typename Element, int kSplit>
void launch_squares(const Call& call) {
  if (call.info.panel_block == 32) return launch_for<Element, 32, kSplit>(call);
  launch_for<Element, 16, kSplit>(call);
}

template <int kSplit>
void launch_split(const Call& call) {
  if (call.info.dtype == DJLBSR_FLOAT16) return launch_squares<__half, kSplit>(call);
  launch_squares<__nv_bfloat16, kSplit>(call);
}

}  // namespace

void hopper_panels_narrow(Kernel kernel, const djlbsr_info& info, const void* packed,
                          const djlbsr_linear_args& args, int multiprocessors) {
  const Call call = {info, packed, args, multiprocessors};
  switch (kernel) {
    case Kernel::kHopperPanelsSplit8:
      return launch_split<8>(call);
    case Kernel::kHopperPanelsSplit4:
      return launch_split<4>(call);
    case Kernel::kHopperPanelsSplit2:
      return launch_split<2>(call);
    default: /* kHopperPanelsNarrow */
      return launch_split<1>(call);
  }
}

}  // namespace djlbsr::cuda
