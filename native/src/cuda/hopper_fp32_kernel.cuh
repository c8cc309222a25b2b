/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 *
 * The Hopper kernel for fp32 and blocks whose sides are multiples of 16.
 *
 * Three bf16 numbers hold an fp32 number: v1 is v rounded to bf16, v2 the rest rounded, v3 what
 * that leaves, exactly. Tensor cores multiply bf16 exactly. Of the nine products of two such
 * numbers six are summed; what is left out (23, 32, 33) is at most 2^-24 of the whole. With kTerms
 * 2 there are three products (12, 21, 11), and errors up to 2^-15.
 *
 * Tensor cores cut off sums instead of rounding them. So the products of 32 columns are summed
 * apart, the small ones first, and added to the running sum by an IEEE addition.
 *
 * A persistent CTA has one producer warpgroup and two consumer warpgroups. One warp streams the
 * stored columns of a slice of weight rows, 32 at a time and in their order, with the same columns
 * of x into a ring of stages: the weight as it was split at packing, in one copy, x by bulk tensor
 * copies. Another deals the tiles (hopper_schedule.cuh). Tokens are on wgmma's M: each consumer
 * owns half of the tile's tokens, reads its x into registers and splits it there. It works on 64
 * tokens at a time: of 128 it prepares one half while the tensor cores multiply the other.
 *
 * Infinities, NaN, and what overflows in rounding always make a sum that is not finite: such an
 * output is computed again, column by column in fp32, as the portable kernel does it.
 */
#pragma once

#include "cuda/fp32_split.cuh"
#include "cuda/hopper_activation.cuh"
#include "cuda/hopper_ptx.cuh"
#include "cuda/hopper_register_ptx.cuh"
#include "cuda/hopper_schedule.cuh"

namespace djlbsr::cuda {

constexpr int kFp32Consumers = 2;
constexpr int kFp32Threads = (1 + kFp32Consumers) * kWarpgroup;

struct Fp32Params : ScheduleParams {
  CUtensorMap x; /* [tokens, cols] in boxes of tile tokens x piece columns */
  const int32_t* col_start;
  const char* terms; /* see Fp32Terms */
  const float* plain_values;
  const float* plain_x;
  const float* bias; /* or null */
  float* y;
  int64_t x_stride;
  int64_t y_stride;
  int32_t activation;
};

/* A stage holds a step of 32 columns, x in pieces that do not pass the end of a block. */
template <int kTileRows, int kPieceWidth, int kTileTokens, int kTermCount>
struct Fp32Tile {
  static constexpr int kRows = kTileRows;
  static constexpr int kTerms = kTermCount;
  static constexpr int kTokens = kTileTokens;
  static constexpr int kConsumerTokens = kTokens / kFp32Consumers;
  static constexpr int kHalves = kConsumerTokens / 64; /* 1 or 2 */
  static constexpr int kSums = kRows / 2;              /* a thread has of 64 tokens */
  static constexpr int kPieceCols = kPieceWidth;
  static constexpr int kPieceBytes = kPieceCols * 4;
  static constexpr int kPieces = Fp32Terms::kStepCols / kPieceCols;
  static constexpr int kXPieceBytes = kTokens * kPieceBytes;
  static constexpr int kXBytes = kPieces * kXPieceBytes;
  static constexpr int kTermBytes = kRows * Fp32Terms::kRowBytes;
  static constexpr int kStageBytes = kXBytes + kTerms * kTermBytes;
  static constexpr int kOtherBytes = 4096;
  static constexpr int kStages = (227 * 1024 - kOtherBytes) / kStageBytes;

  static constexpr int kBarriers = kStages * kStageBytes;
  static constexpr int kQueue = kBarriers + 2 * kStages * 8;
  static constexpr int kLengths = kQueue + TileQueue::kBytes;
  static constexpr int kKeys = kLengths + kMaxSharedLengths * 2;
  static constexpr int kSharedBytes = kKeys + kMaxGrid * 4;
  static_assert(kSharedBytes <= 227 * 1024, "shared memory of a CTA");

  __device__ static int32_t steps(const ScheduleParams& p, const BlockRange& range) {
    return (range.count * (p.block_cols / kPieceCols) + kPieces - 1) / kPieces;
  }
};

template <typename Tile>
__device__ inline void produce(const Fp32Params& p, TileQueue queue, uint32_t stages, uint32_t full,
                               uint32_t empty) {
  const int lane = threadIdx.x % 32;
  const int32_t last_start = p.cols - p.block_cols;
  const auto load_starts = [&](const BlockRange& range, int32_t base) {
    const int32_t block = base + lane;
    return block < range.count ? __ldg(p.col_start + range.first + block) : 0;
  };
  Ring<Tile::kStages> ring;
  TilePlace tile = queue.pop();
  TileWork work = work_of<Tile>(p, tile);
  while (!tile.last()) {
    const BlockRange range = work.range(p);
    int32_t starts = load_starts(range, 0);
    TileWork next;
    const auto look_ahead = [&] {
      tile = queue.pop();
      next = work_of<Tile>(p, tile);
    };
    const int32_t steps = Tile::steps(p, range);
    /* Of this slice in step after step. */
    const int64_t slice_bytes = Fp32Terms::kTerms * Tile::kTermBytes;
    const char* terms =
        p.terms + slice_bytes * (Fp32Terms::first_step(range.first, range.block_row, p.block_cols) *
                                     p.slices_per_row +
                                 work.row_in_block / Tile::kRows);
    int32_t block = 0;
    int32_t col = 0;
    for (int32_t step = 0; step < steps; ++step) {
      ptx::mbarrier_wait(empty + ring.stage * 8, ring.parity ^ 1);
      const uint32_t barrier = full + ring.stage * 8;
      const uint32_t stage = stages + ring.stage * Tile::kStageBytes;
      if (lane == 0) {
        ptx::mbarrier_expect_bytes(barrier, Tile::kStageBytes);
        ptx::load_bytes(stage + Tile::kXBytes, terms, Tile::kTerms * Tile::kTermBytes, barrier);
      }
      terms += slice_bytes * p.slices_per_row;
#pragma unroll
      for (int piece = 0; piece < Tile::kPieces; ++piece) {
        const int32_t start = clamp(__shfl_sync(~0u, starts, block % 32), 0, last_start);
        if (lane == 0) {
          /* Past the last block a piece lies outside x: zeros, as its terms are. */
          const bool exists = Tile::kPieces == 1 || block < range.count;
          ptx::load_box(stage + piece * Tile::kXPieceBytes, &p.x, exists ? start + col : p.cols,
                        work.token, barrier);
        }
        col += Tile::kPieceCols;
        if (col >= p.block_cols) {
          col = 0;
          ++block;
          if (block % 32 == 0) starts = load_starts(range, block);
        }
      }
      __syncwarp();
      ring.advance();
      if (step == steps / 2) look_ahead();
    }
    if (steps == 0) look_ahead();
    work = next;
  }
}

/*
 * The x of 64 tokens and 32 columns as wgmma's left operand: terms[t][k] is columns 16k to 16k
 * + 15.
 */
template <typename Tile>
struct Fp32Operand {
  uint32_t terms[Tile::kTerms][2][4];
};

/* base is of this thread's row, in_row its first element there before the swizzle's exclusive or.
 */
template <typename Tile>
__device__ inline void load_operand(Fp32Operand<Tile>& a, const char* base, uint32_t in_row) {
  constexpr int kChunks = Tile::kPieceBytes / 16;
  const auto load = [&](int chunk, int row) {
    return *reinterpret_cast<const float*>(base + chunk / kChunks * Tile::kXPieceBytes +
                                           (in_row ^ (chunk % kChunks * 16)) +
                                           row * Tile::kPieceBytes);
  };
#pragma unroll
  for (int k = 0; k < 2; ++k) {
#pragma unroll
    for (int r = 0; r < 4; ++r) {
      const int chunk = k * 4 + r / 2 * 2;
      const auto pair = split<Tile::kTerms>(load(chunk, r % 2 * 8), load(chunk + 1, r % 2 * 8));
#pragma unroll
      for (int term = 0; term < Tile::kTerms; ++term) a.terms[term][k][r] = pair.terms[term];
    }
  }
}

/* Starts the products of 64 tokens with the terms of a stage, the small products first. */
template <typename Tile>
__device__ inline void multiply(float (&sums)[Tile::kSums], const Fp32Operand<Tile>& a,
                                uint32_t terms) {
  const uint64_t b = ptx::swizzled_operand<Fp32Terms::kRowBytes>(terms);
  bool add = false;
  ptx::wgmma_fence();
#pragma unroll
  for (int order = Tile::kTerms - 1; order >= 0; --order) {
#pragma unroll
    for (int own = 0; own <= order; ++own) {
#pragma unroll
      for (int k = 0; k < 2; ++k) {
        ptx::wgmma_bf16(sums, a.terms[own][k], b + ((order - own) * Tile::kTermBytes >> 4) + 2 * k,
                        add);
        add = true;
      }
    }
  }
  ptx::wgmma_commit();
}

/* An output before bias and activation, as the portable kernel computes it. */
__device__ __noinline__ float plain_sum(const Fp32Params& p, const TileWork& work,
                                        int32_t row_in_block, int32_t token) {
  float sum = 0.0f;
  const BlockRange range = work.range(p);
  const float* const x = p.plain_x + token * p.x_stride;
  const int32_t end = range.first + range.count;
  for (int32_t i = range.first; i < end && !isnan(sum); ++i) { /* NaN stays NaN */
    const float* const block_x = x + first_column<1>(p.col_start[i], p.cols, p.block_cols);
    const float* const w =
        p.plain_values + (int64_t{i} * p.block_rows + row_in_block) * p.block_cols;
    for (int32_t k = 0; k < p.block_cols; ++k) sum = fmaf(w[k], block_x[k], sum);
  }
  return sum;
}

/* Adds the bias, activates and writes a consumer's sums, of its 128 tokens from token on. */
template <typename Tile>
__device__ inline void store(const Fp32Params& p, float (&sums)[Tile::kHalves * Tile::kSums],
                             const TileWork& work, int32_t token) {
  const int lane = threadIdx.x % 32;
  const int warp = threadIdx.x % kWarpgroup / 32;
  const int32_t first_row = work.range(p).block_row * p.block_rows + work.row_in_block;
  const int lane_row = lane % 4 * 2;
  const int lane_token = warp * 16 + lane / 4;

  float probe = 0.0f;
#pragma unroll
  for (const float sum : sums) probe = fmaf(sum, 0.0f, probe);
  uint64_t not_finite = 0;
  if (probe != 0.0f) {
#pragma unroll
    for (int i = 0; i < Tile::kHalves * Tile::kSums; ++i) {
      not_finite |= uint64_t{!isfinite(sums[i])} << i;
    }
  }
  if (p.bias != nullptr) {
#pragma unroll
    for (int j = 0; j < Tile::kRows / 8; ++j) {
      const float low = __ldg(p.bias + first_row + lane_row + 8 * j);
      const float high = __ldg(p.bias + first_row + lane_row + 8 * j + 1);
#pragma unroll
      for (int i = 4 * j; i < Tile::kHalves * Tile::kSums; i += Tile::kSums) {
        sums[i] += low;
        sums[i + 1] += high;
        sums[i + 2] += low;
        sums[i + 3] += high;
      }
    }
  }
  activate_all<float>(p.activation, sums);
#pragma unroll
  for (int half = 0; half < Tile::kHalves; ++half) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int32_t t = token + half * 64 + lane_token + i * 8;
      if (t >= p.tokens) continue;
      float* const y = p.y + t * p.y_stride + first_row + lane_row;
#pragma unroll
      for (int j = 0; j < Tile::kRows / 8; ++j) {
        const float* const pair = sums + half * Tile::kSums + 4 * j + 2 * i;
        __stcs(reinterpret_cast<float2*>(y + 8 * j), make_float2(pair[0], pair[1]));
      }
    }
  }
  for (; not_finite != 0; not_finite &= not_finite - 1) {
    const int bit = __ffsll(static_cast<int64_t>(not_finite)) - 1;
    const int sum = bit % Tile::kSums;
    const int32_t t = token + bit / Tile::kSums * 64 + lane_token + sum / 2 % 2 * 8;
    if (t >= p.tokens) continue;
    const int32_t row = sum / 4 * 8 + lane_row + sum % 2;
    const float bias = p.bias == nullptr ? 0.0f : p.bias[first_row + row];
    p.y[t * p.y_stride + first_row + row] =
        activate<float>(p.activation, plain_sum(p, work, work.row_in_block + row, t) + bias);
  }
}

template <typename Tile>
__device__ inline void consume(const Fp32Params& p, TileQueue queue, const char* shared,
                               uint32_t full, uint32_t empty, int consumer) {
  constexpr int kSums = Tile::kSums;
  const int lane = threadIdx.x % 32;
  const int warp = threadIdx.x % kWarpgroup / 32;
  const int32_t own_token = consumer * Tile::kConsumerTokens;
  /* Rows of the swizzle: 8 of 128 bytes, or 4 pairs of 64. */
  const uint32_t in_row = (lane / 4 * Tile::kPieceBytes / 128 * 16) | (lane % 4 * 4);
  const char* const own_x = shared + (own_token + warp * 16 + lane / 4) * Tile::kPieceBytes;
  const uint32_t terms = ptx::shared_address(shared) + Tile::kXBytes;
  Ring<Tile::kStages> ring;
  TilePlace tile = queue.pop();
  TileWork work = work_of<Tile>(p, tile);
  while (!tile.last()) {
    const int32_t steps = Tile::steps(p, work.range(p));
    float sums[Tile::kHalves * kSums];
#pragma unroll
    for (float& sum : sums) sum = 0.0f;
    float parts[Tile::kHalves][kSums];
    Fp32Operand<Tile> operands[Tile::kHalves];
    const auto load = [&](int half) {
      load_operand(operands[half],
                   own_x + ring.stage * Tile::kStageBytes + half * 64 * Tile::kPieceBytes, in_row);
    };
    const auto start = [&](int half, int stage) {
      multiply<Tile>(parts[half], operands[half], terms + stage * Tile::kStageBytes);
    };
    const auto add = [&](int half) {
      ptx::use_after_wait(parts[half]);
#pragma unroll
      for (int i = 0; i < kSums; ++i) sums[half * kSums + i] += parts[half][i];
    };
    /* Each half is loaded while the tensor cores multiply the other. */
    if (steps > 0) {
      ptx::mbarrier_wait(full + ring.stage * 8, ring.parity);
      load(0);
    }
    for (int32_t step = 0; step < steps; ++step) {
      const int stage = ring.stage;
      start(0, stage);
      if constexpr (Tile::kHalves > 1) {
        load(1);
        start(1, stage);
        ptx::wgmma_wait<1>();
      } else {
        ptx::wgmma_wait<0>();
      }
      add(0);
      ring.advance();
      if (step + 1 < steps) {
        ptx::mbarrier_wait(full + ring.stage * 8, ring.parity);
        load(0);
      }
      if constexpr (Tile::kHalves > 1) {
        ptx::wgmma_wait<0>();
        add(1);
      }
      if (lane == 0) ptx::mbarrier_arrive(empty + stage * 8);
    }
    tile = queue.pop();
    const TileWork next = work_of<Tile>(p, tile);
    store<Tile>(p, sums, work, work.token + own_token);
    work = next;
  }
}

template <typename Tile>
__global__ void __launch_bounds__(kFp32Threads, 1)
    hopper_fp32_kernel(const __grid_constant__ Fp32Params p) {
  extern __shared__ __align__(1024) char shared[];
  const uint32_t full = ptx::shared_address(shared + Tile::kBarriers);
  const uint32_t empty = full + Tile::kStages * 8;
  BlockRowLengths lengths(p, reinterpret_cast<uint16_t*>(shared + Tile::kLengths));
  auto* const keys = reinterpret_cast<uint32_t*>(shared + Tile::kKeys);
  const TileQueue queue(ptx::shared_address(shared) + Tile::kQueue);
  constexpr int kConsumerWarps = kFp32Consumers * kWarpgroup / 32;

  if (threadIdx.x == 0) {
    ptx::prefetch_tensor_map(&p.x);
    for (int stage = 0; stage < Tile::kStages; ++stage) {
      ptx::mbarrier_init(full + stage * 8, 1);
      ptx::mbarrier_init(empty + stage * 8, kConsumerWarps);
    }
    queue.init(1 + kConsumerWarps);
    ptx::fence_mbarrier_init();
  }
  ptx::launch_dependents(); /* whose CTAs find room when these end */
  ptx::dependency_wait();
  lengths.load(p.row_count);
  __syncthreads();

  const int warpgroup = threadIdx.x / kWarpgroup;
  if (warpgroup == 0) {
    ptx::give_registers<56>();
    if (threadIdx.x < 32) {
      produce<Tile>(p, queue, ptx::shared_address(shared), full, empty);
    } else if (threadIdx.x < 64) {
      Scheduler<1, BlockRowLengths>(p, lengths, queue, keys).run();
    }
  } else {
    ptx::take_registers<224>();
    consume<Tile>(p, queue, shared, full, empty, warpgroup - 1);
  }
}

}  // namespace djlbsr::cuda
