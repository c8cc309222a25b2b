/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
#include "cuda/hopper_panels.h"

#include <cuda_runtime.h>

#include <algorithm>

#include "cuda/cuda_check.h"
#include "cuda/hopper_panel_kernel.cuh"
#include "cuda/overlapped_launch.h"
#include "cuda/tensor_map.h"

namespace djlbsr::cuda {
namespace {

constexpr int kGatherThreads = 256;

/* A warp a square: its rows from the values to the chunk, swizzled in units of 16 bytes. */
__global__ void gather_squares(const PanelSource* sources, int64_t squares, int block,
                               const char* values, int32_t nnzb, int64_t block_rows,
                               int64_t block_cols, char* chunks, int64_t chunk_bytes) {
  const int64_t square = (int64_t{blockIdx.x} * blockDim.x + threadIdx.x) / 32;
  if (square >= squares) return;
  PanelSource source = sources[square];
  /* Of altered tables too, nothing outside the packed weight. */
  source.stored_block = clamp(source.stored_block, 0, nnzb - 1);
  source.row = clamp(source.row, 0, static_cast<int32_t>(block_rows) - block);
  source.col = clamp(source.col, 0, static_cast<int32_t>(block_cols) - block) / 8 * 8;
  const int64_t target =
      min(int64_t{source.target} * kPanelUnit, chunk_bytes - int64_t{block} * block * 2);
  const int across = block / 8;
  for (int i = threadIdx.x % 32; i < block * across; i += 32) {
    const int row = i / across;
    const int unit = i % across;
    const int64_t from =
        (source.stored_block * block_rows + source.row + row) * block_cols + source.col;
    const int swizzled = unit ^ (row * across / 8) % across;
    *reinterpret_cast<uint4*>(chunks + target + (row * across + swizzled) * 16) =
        *reinterpret_cast<const uint4*>(values + from * 2 + unit * 16);
  }
}

__global__ void write_headers(const PanelStep* steps, int count, char* chunks) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= count) return;
  auto* const header = reinterpret_cast<PanelMask*>(chunks + int64_t{steps[i].chunk} * kPanelUnit);
  for (int consumer = 0; consumer < kPanelConsumers; ++consumer) {
    header[consumer] = steps[i].header[consumer];
  }
}

template <typename T>
void upload(char* target, const std::vector<T>& source, cudaStream_t stream) {
  if (source.empty()) return;
  DJLBSR_CUDA(cudaMemcpyAsync(target, source.data(), source.size() * sizeof(T),
                              cudaMemcpyHostToDevice, stream));
}

template <typename Element, int kBlock, int kChunkSlots>
void launch(const djlbsr_info& info, const void* packed, const djlbsr_linear_args& args,
            int multiprocessors) {
  using Tile = PanelTile<kBlock, kChunkSlots>;
  const PanelSection section(info, packed);
  PanelParams p = {};
  p.box_tokens = static_cast<int32_t>(std::min<int64_t>(128, args.tokens));
  p.x =
      tensor_map("x", args.x, info.dtype, args.tokens, info.cols, args.x_stride, p.box_tokens, 64);
  p.rows_of_tiles = section.at<int32_t>(section.layout.rows);
  p.pairs = section.at<PanelPair>(section.layout.pairs);
  p.entries = section.at<PanelEntry>(section.layout.entries);
  p.steps = section.at<PanelStep>(section.layout.steps);
  p.chunks = section.at<char>(section.layout.chunks);
  p.bias = args.bias;
  p.y = args.y;
  p.y_stride = args.y_stride;
  p.chunk_bytes = section.layout.chunk_bytes;
  p.panels = static_cast<int32_t>((info.cols - 1) / Tile::kCols + 1);
  p.entry_count = info.panel_entries;
  p.step_count = info.panel_steps;
  p.tokens = static_cast<int32_t>(args.tokens);
  p.rows = static_cast<int32_t>(info.rows);
  p.activation = args.activation;
  p.row_count = static_cast<int32_t>(section.layout.pair_count);
  p.slices_per_row = 1;
  p.length_cost = 1;
  const PanelGrid grid = panel_grid(section.layout.pair_count, info.cols, args.tokens,
                                    Tile::kTokens, std::min(multiprocessors, kMaxGrid) / 2);
  p.token_tiles = grid.token_tiles;
  p.token_halves = 2 * p.token_tiles;
  p.panel_token_tiles = grid.panel_token_tiles;
  p.long_length = kNoRowIsLonger;
  p.narrow_length = kNoRowIsLonger;

  launch_overlapped<hopper_panel_kernel<Element, kBlock, kChunkSlots>>(
      2 * grid.clusters, 2, kPanelThreads, Tile::kSharedBytes, args.stream, &p);
}

}  // namespace

void pack_panels(const djlbsr_info& info, const PanelPlan& plan, void* packed, void* stream) {
  const PanelSection section(info, packed);
  const auto cuda_stream = static_cast<cudaStream_t>(stream);
  upload(section.at<char>(section.layout.rows), plan.rows, cuda_stream);
  upload(section.at<char>(section.layout.pairs), plan.pairs, cuda_stream);
  upload(section.at<char>(section.layout.entries), plan.entries, cuda_stream);
  upload(section.at<char>(section.layout.tiles), plan.tiles, cuda_stream);
  upload(section.at<char>(section.layout.steps), plan.steps, cuda_stream);
  upload(section.at<char>(section.layout.sources), plan.sources, cuda_stream);
  const int blocks = (info.panel_steps + kGatherThreads - 1) / kGatherThreads;
  write_headers<<<blocks, kGatherThreads, 0, cuda_stream>>>(
      section.at<PanelStep>(section.layout.steps), info.panel_steps,
      section.at<char>(section.layout.chunks));
  DJLBSR_CUDA(cudaGetLastError());
}

void update_panels(const djlbsr_info& info, void* packed, void* stream) {
  const PanelSection section(info, packed);
  constexpr int kWarps = kGatherThreads / 32;
  const auto blocks = static_cast<unsigned>((section.layout.squares + kWarps - 1) / kWarps);
  gather_squares<<<blocks, kGatherThreads, 0, static_cast<cudaStream_t>(stream)>>>(
      section.at<PanelSource>(section.layout.sources), section.layout.squares, info.panel_block,
      static_cast<char*>(packed) + layout_of(info).values, static_cast<int32_t>(info.nnzb),
      info.block_rows, info.block_cols, section.at<char>(section.layout.chunks),
      section.layout.chunk_bytes);
  DJLBSR_CUDA(cudaGetLastError());
}

void hopper_panels(const djlbsr_info& info, const void* packed, const djlbsr_linear_args& args,
                   int multiprocessors) {
  const PanelShape shape = panel_shape(info);
  const auto run = [&](auto element) {
    using Element = decltype(element);
    switch (shape.block) {
      case 64:
        return launch<Element, 64, 3>;
      case 32:
        return shape.slots == 10 ? launch<Element, 32, 10> : launch<Element, 32, 14>;
      default:
        return shape.slots == 40 ? launch<Element, 16, 40> : launch<Element, 16, 56>;
    }
  };
  const auto function = info.dtype == DJLBSR_FLOAT16 ? run(__half()) : run(__nv_bfloat16());
  function(info, packed, args, multiprocessors);
}

}  // namespace djlbsr::cuda
