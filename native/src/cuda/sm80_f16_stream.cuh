/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 *
 * The kernel for few tokens in fp16 and bf16, for any block shape, on mma.sync with the tokens on
 * M and the weight rows on N.
 *
 * A step is 32 stored columns. Which of them an mma calls its k-th is free as long as both operands
 * agree, so that lane t of four takes columns 8t to 8t + 7: 16 bytes of global memory are a row's
 * operand for two mma.
 *
 * A warp has kDepth steps under way, by asynchronous copies to a ring of stages in shared memory. A
 * lane reads what it copied itself, so that no barrier is needed, and a step under way takes no
 * registers.
 */
#pragma once

#include "cuda/stream.cuh"

namespace djlbsr::cuda {

constexpr int kMmaTokens = 16;
constexpr int kMmaRows = 8;
constexpr int kStreamStep = 32;

/*
 * Eight stored columns of a lane, in runs of kVector 16-bit elements that are read at a time, at
 * such an alignment. At least one column of the block-row exists.
 */
template <int kVector>
struct LaneCols {
  static constexpr int kRuns = 8 / kVector;
  int32_t valid;         /* leading runs that exist; the others are the first column's */
  uint32_t value[kRuns]; /* offset of the run's values from row 0 of the block-row's first block */
  int32_t col[kRuns];    /* within its block */
  int32_t start[kRuns];  /* the block's col_start as it was read: nothing has waited for it yet */

  __device__ void find(const LinearParams& l, int32_t begin, int32_t k, int32_t end) {
    valid = static_cast<int32_t>(
        min(static_cast<uint32_t>(max(end - k, 0)) / kVector, uint32_t{kRuns}));
#pragma unroll
    for (int i = 0; i < kRuns; ++i) {
      const auto run = static_cast<uint32_t>(i < valid ? k + i * kVector : 0);
      const auto block =
          static_cast<int32_t>(l.block_cols_shift >= 0 ? run >> l.block_cols_shift
                                                       : run / static_cast<uint32_t>(l.block_cols));
      col[i] = static_cast<int32_t>(run) - block * l.block_cols;
      value[i] = static_cast<uint32_t>(block * l.block_rows * l.block_cols + col[i]);
      start[i] = __ldg(l.col_start + (begin + block));
    }
  }

  __device__ uint32_t x_col(const LinearParams& l, int i) const {
    return static_cast<uint32_t>(clamp(start[i], 0, l.cols - l.block_cols) + col[i]);
  }
};

/* The elements that begin at runs[i] + offset, 0 where they do not exist. */
template <int kVector>
__device__ uint4 load_cols(const char* const (&runs)[8 / kVector], int64_t offset, int valid) {
  if constexpr (kVector == 8) {
    return valid > 0 ? __ldg(reinterpret_cast<const uint4*>(runs[0] + offset)) : uint4{0, 0, 0, 0};
  } else if constexpr (kVector == 4) {
    uint2 parts[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      parts[i] = i < valid ? __ldg(reinterpret_cast<const uint2*>(runs[i] + offset)) : uint2{0, 0};
    }
    return {parts[0].x, parts[0].y, parts[1].x, parts[1].y};
  } else {
    uint32_t elements[8];
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      elements[i] =
          i < valid ? __ldg(reinterpret_cast<const uint16_t*>(runs[i] + offset)) : uint16_t{0};
    }
    return {elements[0] | elements[1] << 16, elements[2] | elements[3] << 16,
            elements[4] | elements[5] << 16, elements[6] | elements[7] << 16};
  }
}

/* The same to shared memory; by asynchronous copies but for single elements. */
template <int kVector>
__device__ void copy_cols(uint32_t to, const char* const (&runs)[8 / kVector], int64_t offset,
                          int valid) {
  if constexpr (kVector == 8) {
    ptx::copy_16(to, runs[0] + offset, valid > 0 ? 16 : 0);
  } else if constexpr (kVector == 4) {
#pragma unroll
    for (int i = 0; i < 2; ++i) ptx::copy_small<8>(to + 8 * i, runs[i] + offset, i < valid);
  } else {
    ptx::store_shared_16(to, load_cols<1>(runs, offset, valid));
  }
}

/*
 * A stage has room for a warp's step: pieces of 16 bytes a lane, kRowTiles of W and one for every
 * eight tokens, without what is past the last token.
 */
constexpr int kStreamPiece = kWarp * 16;

template <int kTokenEights, int kRowTiles>
__host__ __device__ constexpr int stream_stage_bytes(int64_t tokens) {
  constexpr int kTokens = kTokenEights * 8;
  return kRowTiles * kStreamPiece +
         static_cast<int>(tokens < kTokens ? tokens : kTokens) * (kStreamPiece / 8);
}

/* Lanes that store a pair of sums each hit different banks. */
__host__ __device__ constexpr int stream_pitch(int row_tiles) { return row_tiles * kMmaRows + 8; }

/* A warp's stages, whose place its sums take at the end. */
template <int kTokenEights, int kRowTiles, int kDepth>
__host__ __device__ constexpr int stream_warp_bytes(int64_t tokens) {
  constexpr int kSums = kMmaTokens * stream_pitch(kRowTiles) * static_cast<int>(sizeof(float));
  const int stages = kDepth * stream_stage_bytes<kTokenEights, kRowTiles>(tokens);
  return stages > kSums ? stages : kSums;
}

/*
 * CTAs that a multiprocessor's registers suffice for; four where four have room for their stages,
 * so that CTAs of the next kernel begin beside three.
 */
__host__ __device__ constexpr int stream_ctas(int vector, int token_eights, int depth) {
  if (vector == 1) return token_eights > 2 ? 1 : 2;
  return token_eights > 2 ? 2 : token_eights == 1 && depth <= 3 ? 4 : 3;
}

template <typename Element, int kVector, int kTokenEights, int kRowTiles, int kDepth>
__global__ void __launch_bounds__(kStreamThreads, stream_ctas(kVector, kTokenEights, kDepth))
    sm80_f16_stream_kernel(const __grid_constant__ StreamParams p) {
  constexpr int kTokenTiles = (kTokenEights + 1) / 2;
  constexpr int kTokens = kTokenEights * 8;
  constexpr int kRows = kRowTiles * kMmaRows;
  constexpr int kPitch = stream_pitch(kRowTiles);
  extern __shared__ __align__(128) char stream_shared[];

  const LinearParams& l = p.linear;
  ptx::launch_dependents();
  prefetch_weight(p);
  ptx::dependency_wait();
  const int warp = threadIdx.x / kWarp;
  const int lane = threadIdx.x % kWarp;
  const int g = lane / 4;
  const int t = lane % 4;
  const StreamWork work = stream_work<kRows>(p);
  const int64_t token0 = static_cast<int64_t>(blockIdx.z) * kTokens;
  const int tokens = static_cast<int>(min(int64_t{kTokens}, l.tokens - token0));
  const char* const values = static_cast<const char*>(l.values) +
                             2 * (work.begin * static_cast<int64_t>(l.block_rows * l.block_cols) +
                                  work.row_in_block * l.block_cols);
  const char* const x = static_cast<const char*>(l.x) + 2 * (token0 + g) * l.x_stride;
  uint32_t row_offsets[kRowTiles]; /* past the slice's last row that one, whose sums stay unused */
#pragma unroll
  for (int i = 0; i < kRowTiles; ++i) {
    row_offsets[i] = 2 * static_cast<uint32_t>(min(i * kMmaRows + g, work.rows - 1) * l.block_cols);
  }

  const int stage_bytes = stream_stage_bytes<kTokenEights, kRowTiles>(l.tokens);
  const int warp_bytes = stream_warp_bytes<kTokenEights, kRowTiles, kDepth>(l.tokens);
  char* const own = stream_shared + warp * warp_bytes;
  const uint32_t first_stage = ptx::shared_address(own) + lane * 16;
  const auto token_exists = [&](int i) { return i * 8 + g < tokens; };
  const auto step_exists = [&](int32_t step) { return step * kStreamStep < work.stored_cols; };
  using Cols = LaneCols<kVector>;
  constexpr bool kFindEarly = /* where registers suffice */
      kVector == 8 && stream_ctas(kVector, kTokenEights, kDepth) == 3;
  const auto find = [&](Cols& cols, int32_t step) {
    cols.find(l, work.begin, step * kStreamStep + 8 * t, work.stored_cols);
  };
  const auto copy_values = [&](const Cols& cols, uint32_t stage) {
    const char* runs[Cols::kRuns];
#pragma unroll
    for (int r = 0; r < Cols::kRuns; ++r) runs[r] = values + 2 * uint64_t{cols.value[r]};
#pragma unroll
    for (int i = 0; i < kRowTiles; ++i) {
      copy_cols<kVector>(stage + i * kStreamPiece, runs, row_offsets[i], cols.valid);
    }
  };
  const auto x_runs = [&](const Cols& cols, const char*(&runs)[Cols::kRuns]) {
#pragma unroll
    for (int r = 0; r < Cols::kRuns; ++r) runs[r] = x + 2 * uint64_t{cols.x_col(l, r)};
  };
  const int64_t x_stride_8 = 16 * l.x_stride;
  const auto copy_x = [&](const Cols& cols, uint32_t stage) {
    const char* runs[Cols::kRuns];
    x_runs(cols, runs);
#pragma unroll
    for (int i = 0; i < kTokenEights; ++i) {
      if (token_exists(i)) {
        copy_cols<kVector>(stage + (kRowTiles + i) * kStreamPiece, runs, i * x_stride_8,
                           cols.valid);
      }
    }
  };

  /*
   * The first steps: all values before any x, which waits for col_start. A group of copies is
   * complete after those before it, so that x by copies of its own would wait for all values; up to
   * 16 tokens it comes through registers.
   */
  {
    Cols cols[kDepth];
    const auto exists = [&](int u) { return step_exists(work.first_step + u * work.steps_apart); };
#pragma unroll
    for (int u = 0; u < kDepth; ++u) {
      if (exists(u)) {
        find(cols[u], work.first_step + u * work.steps_apart);
        copy_values(cols[u], first_stage + u * stage_bytes);
      }
      ptx::commit_copies();
    }
    if constexpr (kTokenEights > 2) {
#pragma unroll
      for (int u = 0; u < kDepth; ++u) {
        if (exists(u)) copy_x(cols[u], first_stage + u * stage_bytes);
        ptx::commit_copies();
      }
    } else {
      uint4 v[kDepth][kTokenEights];
#pragma unroll
      for (int u = 0; u < kDepth; ++u) {
        if (!exists(u)) continue;
        const char* runs[Cols::kRuns];
        x_runs(cols[u], runs);
#pragma unroll
        for (int i = 0; i < kTokenEights; ++i) {
          if (token_exists(i)) v[u][i] = load_cols<kVector>(runs, i * x_stride_8, cols[u].valid);
        }
      }
#pragma unroll
      for (int u = 0; u < kDepth; ++u) {
#pragma unroll
        for (int i = 0; i < kTokenEights; ++i) {
          if (exists(u) && token_exists(i)) {
            ptx::store_shared_16(first_stage + u * stage_bytes + (kRowTiles + i) * kStreamPiece,
                                 v[u][i]);
          }
        }
      }
    }
  }

  float sums[kTokenTiles][kRowTiles][4] = {};
  uint32_t stage = first_stage;
  for (int32_t step = work.first_step; step_exists(step); step += work.steps_apart) {
    const int32_t next = step + kDepth * work.steps_apart;
    Cols next_cols;
    if (kFindEarly && step_exists(next)) find(next_cols, next);
    ptx::wait_copies<kDepth - 1>();
    uint4 w[kRowTiles];
#pragma unroll
    for (int i = 0; i < kRowTiles; ++i) w[i] = ptx::load_shared_16(stage + i * kStreamPiece);
#pragma unroll
    for (int i = 0; i < kTokenTiles; ++i) {
      uint4 v[2] = {}; /* of tokens g and g + 8 */
#pragma unroll
      for (int h = 0; h < 2 && 2 * i + h < kTokenEights; ++h) {
        if (token_exists(2 * i + h)) {
          v[h] = ptx::load_shared_16(stage + (kRowTiles + 2 * i + h) * kStreamPiece);
        }
      }
#pragma unroll
      for (int j = 0; j < kRowTiles; ++j) {
        ptx::mma_16x8x16<Element>(sums[i][j], v[0].x, v[1].x, v[0].y, v[1].y, w[j].x, w[j].y);
        ptx::mma_16x8x16<Element>(sums[i][j], v[0].z, v[1].z, v[0].w, v[1].w, w[j].z, w[j].w);
      }
    }
    if (step_exists(next)) {
      if (!kFindEarly) find(next_cols, next);
      copy_values(next_cols, stage);
      copy_x(next_cols, stage);
    }
    ptx::commit_copies(); /* maybe of none, so that every step counts as a group */
    stage += stage_bytes;
    if (stage == first_stage + kDepth * stage_bytes) stage = first_stage;
  }

  /* All copies are complete, as the last step's are. */
  __syncwarp();
  float* const partial = reinterpret_cast<float*>(own) + g * kPitch + 2 * t;
#pragma unroll
  for (int i = 0; i < kTokenTiles; ++i) {
    if (i * kMmaTokens >= tokens) break;
    if (i > 0) __syncthreads();
#pragma unroll
    for (int j = 0; j < kRowTiles; ++j) {
      *reinterpret_cast<float2*>(partial + j * kMmaRows) = {sums[i][j][0], sums[i][j][1]};
      if (kTokenEights > 1) {
        *reinterpret_cast<float2*>(partial + j * kMmaRows + 8 * kPitch) = {sums[i][j][2],
                                                                           sums[i][j][3]};
      }
    }
    __syncthreads();
    stream_store<Element, kRows, kPitch>(p, reinterpret_cast<const float*>(stream_shared),
                                         warp_bytes / 4, token0 + i * kMmaTokens,
                                         min(kMmaTokens, tokens - i * kMmaTokens));
  }
}

}  // namespace djlbsr::cuda
