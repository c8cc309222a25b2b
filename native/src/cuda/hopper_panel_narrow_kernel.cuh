/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 *
 * The Hopper kernel for few to middling tokens and blocks that are cut into squares of 16 or 32.
 *
 * It walks the panel copy (panels.h) as hopper_panel_kernel.cuh does, in smaller pieces: a CTA, of
 * one producer warp and one warpgroup, computes the rows of one consumer of a packed tile by 64 or
 * 128 tokens. It is not persistent; two or three CTAs on a multiprocessor cover each other's waits.
 * Of a step it loads what it needs: its squares, and the halves of the panel of x that these
 * multiply. For that the masks come from the table of steps, not from the chunk.
 *
 * Where a weight has few tiles, the CTAs of a cluster share a piece: each takes an equal part of
 * the tile's steps, and their sums are added through distributed shared memory in the order of the
 * CTAs.
 *
 * An output's bits depend on the weight, its row of x and the size of the cluster, not on the
 * piece; without clusters they are those of hopper_panel_kernel.cuh.
 */
#pragma once

#include "cuda/cluster_sums.cuh"
#include "cuda/hopper_panel_consumer.cuh"
#include "cuda/launch_ptx.cuh"

namespace djlbsr::cuda {

struct NarrowPanelParams {
  CUtensorMap x; /* [tokens, cols] in boxes of box_tokens x 64 */
  L2Prefetch prefetch;
  const int32_t* rows_of_tiles; /* PanelLayout::rows */
  const PanelTileSteps* tiles;
  const PanelStep* steps;
  const char* chunks;
  const void* bias; /* or null */
  void* y;
  int64_t y_stride;
  int64_t chunk_bytes;
  int32_t step_count;
  int32_t most_steps; /* of a tile */
  int32_t tokens;
  int32_t box_tokens; /* of a piece, or all there are */
  int32_t rows;
  int32_t activation;
  int32_t token_tiles;
};

/*
 * kPieceSlots squares fit into a stage; a step with more takes several. kPieceResident CTAs shall
 * fit on a multiprocessor.
 */
template <int kBlockSide, int kPieceTokens, int kPieceSlots, int kPieceStages, int kPieceResident>
struct NarrowPanelTile {
  static constexpr int kBlock = kBlockSide;
  static constexpr PanelShape kShape = {kBlockSide, kPieceSlots};
  static constexpr int kTokens = kPieceTokens;
  static constexpr int kHalves = kTokens / 64;
  static constexpr int kRows = kShape.consumer_rows();
  static constexpr int kCols = kShape.cols();
  static constexpr int kSums = kHalves * kRows / 2; /* of a thread */
  static constexpr int kSquaresDown = kShape.squares_down();
  static constexpr int kRowStride = kShape.place_stride(); /* of a packed tile */
  static constexpr int kSquaresAcross = kShape.squares_across();
  static constexpr int kSlots = kPieceSlots;
  static constexpr int kSlotBytes = kShape.slot_bytes();
  static constexpr int kHeaderBytes = kShape.header_bytes(); /* of a packed chunk */
  static constexpr int kStages = kPieceStages;
  static constexpr int kResident = kPieceResident;
  static constexpr int kThreads = 128 + 32;
  /* The squares of a mask that read the first half of a panel's columns. */
  static constexpr uint32_t kFirstHalf = kBlock == 32 ? 0xccccccccu : 0xf0f0f0f0u;
  static constexpr uint32_t kLowMask = kBlock == 32 ? 0xffff0000u : ~0u;

  /* x first: its swizzle's period is 1024 bytes. */
  static constexpr int kBoxBytes = kTokens * 128;
  static constexpr int kXBytes = 2 * kBoxBytes;
  static constexpr int kStageBytes = kXBytes + (kSlots * kSlotBytes + 1023) / 1024 * 1024;
  static constexpr int kMasks = kStages * kStageBytes;   /* uint2 [stages] */
  static constexpr int kBarriers = kMasks + kStages * 8; /* full ones, then empty ones */
  static constexpr int kRowsOfSquares = kBarriers + 2 * kStages * 8; /* int32 [squares down] */
  static constexpr int kSharedBytes = kRowsOfSquares + kSquaresDown * 4;
  static_assert(kResident * (kSharedBytes + 1024) <= 228 * 1024, "a multiprocessor's memory");
  static_assert(kRows * kTokens * 4 <= kMasks, "the stages become the memory of a cluster's sums");
};

/* The steps of a CTA and where its outputs lie. */
struct NarrowPanelWork {
  int32_t begin;
  int32_t end;
  int32_t consumer;    /* of the packed tile */
  const int32_t* rows; /* the consumer's, by rows of squares */
  int32_t token;
};

template <typename Tile, int kSplit>
__device__ inline NarrowPanelWork narrow_panel_work(const NarrowPanelParams& p) {
  const int32_t piece = blockIdx.x / kSplit;
  const int32_t consumer = piece / p.token_tiles; /* of all tiles */
  const int2 steps = __ldg(reinterpret_cast<const int2*>(p.tiles + consumer / kPanelConsumers));
  NarrowPanelWork work;
  work.consumer = consumer % kPanelConsumers;
  work.rows = p.rows_of_tiles + consumer / kPanelConsumers * Tile::kRowStride +
              work.consumer * Tile::kSquaresDown;
  work.token =
      first_token((piece - consumer * p.token_tiles) * Tile::kTokens, Tile::kTokens, p.tokens);
  /* The clamps keep a packed weight of altered bytes inside its buffers, and its calls short. */
  const int32_t begin = clamp(steps.x, 0, p.step_count);
  const int32_t count = clamp(steps.y - begin, 0, min(p.step_count - begin, p.most_steps));
  const int32_t part = kSplit == 1 ? 0 : static_cast<int32_t>(ptx::cluster_rank());
  work.begin = begin + static_cast<int32_t>(int64_t{count} * part / kSplit);
  work.end = begin + static_cast<int32_t>(int64_t{count} * (part + 1) / kSplit);
  return work;
}

/* What is left to load of a step. */
template <typename Tile>
struct NarrowPanelStep {
  uint64_t mask;
  int64_t source; /* of the first square, in bytes from the first chunk */
  int32_t col;

  __device__ NarrowPanelStep(const NarrowPanelParams& p, int32_t index, int32_t consumer) {
    const auto* const step = reinterpret_cast<const uint4*>(p.steps + index);
    const uint4 place = __ldg(step);
    const uint4 header = __ldg(step + 1 + consumer);
    mask = uint64_t{Tile::kBlock == 16 ? header.y : 0} << 32 | (header.x & Tile::kLowMask);
    source = int64_t{place.x} * kPanelUnit + Tile::kHeaderBytes +
             int64_t{min(header.z, 255u)} * Tile::kSlotBytes;
    col = clamp(static_cast<int32_t>(place.z), 0, 1 << 23) * Tile::kCols;
  }

  __device__ int stages() const { return (__popcll(mask) + Tile::kSlots - 1) / Tile::kSlots; }

  /* The squares of the next stage: the first ones, in the order of memory. */
  __device__ uint64_t take() {
    uint64_t taken = mask;
    for (int count = __popcll(taken); count > Tile::kSlots; --count) {
      /* The last are the lowest bits of the high word, then those of the low word. */
      const auto high = static_cast<uint32_t>(taken >> 32);
      taken ^= high != 0 ? uint64_t{high & (0 - high)} << 32 : taken & (0 - taken);
    }
    mask ^= taken;
    return taken;
  }
};

/* One warp. */
template <typename Tile>
__device__ inline void narrow_panel_produce(const NarrowPanelParams& p, const NarrowPanelWork& work,
                                            uint32_t base) {
  const int lane = threadIdx.x % 32;
  const uint32_t full = base + Tile::kBarriers;
  const uint32_t empty = full + Tile::kStages * 8;
  Ring<Tile::kStages> ring;
  for (int32_t first = work.begin; first < work.end; first += 32) {
    /* A lane a step. */
    NarrowPanelStep<Tile> step(p, min(first + lane, work.end - 1), work.consumer);
    const int own_stages = step.stages();
    for (int from = 0; from < min(32, work.end - first); ++from) {
      for (int i = __shfl_sync(~0u, own_stages, from); i > 0; --i) {
        ptx::mbarrier_wait(empty + ring.stage * 8, ring.parity ^ 1);
        if (lane == from) {
          const uint64_t taken = step.take();
          const auto low = static_cast<uint32_t>(taken);
          const auto high = static_cast<uint32_t>(taken >> 32);
          /* Of altered tables too, no more than there is. */
          const auto bytes = static_cast<uint32_t>(
              min(int64_t{__popcll(taken)} * Tile::kSlotBytes, p.chunk_bytes));
          const bool needs[2] = {((low | high) & Tile::kFirstHalf) != 0,
                                 ((low | high) & ~Tile::kFirstHalf) != 0};
          const uint32_t barrier = full + ring.stage * 8;
          const uint32_t x = base + ring.stage * Tile::kStageBytes;
          ptx::store_shared(base + Tile::kMasks + ring.stage * 8, low, high);
          ptx::mbarrier_expect_bytes(barrier, bytes + (needs[0] + needs[1]) * p.box_tokens * 128);
#pragma unroll
          for (int half = 0; half < 2; ++half) {
            if (!needs[half]) continue;
            ptx::load_box(x + half * Tile::kBoxBytes, &p.x, step.col + half * 64, work.token,
                          barrier);
          }
          ptx::load_bytes(x + Tile::kXBytes, p.chunks + min(step.source, p.chunk_bytes - bytes),
                          bytes, barrier);
          step.source += bytes;
        }
        __syncwarp();
        ring.advance();
      }
    }
  }
  /* A stage without a square ends the work. */
  ptx::mbarrier_wait(empty + ring.stage * 8, ring.parity ^ 1);
  if (lane == 0) {
    ptx::store_shared(base + Tile::kMasks + ring.stage * 8, 0, 0);
    ptx::mbarrier_arrive(full + ring.stage * 8);
  }
}

/* One warpgroup. */
template <typename Element, typename Tile>
__device__ inline void narrow_panel_multiply(float (&sums)[Tile::kSums], uint32_t base) {
  const int lane = threadIdx.x % 32;
  const uint32_t full = base + Tile::kBarriers;
  const uint32_t empty = full + Tile::kStages * 8;
#pragma unroll
  for (float& sum : sums) sum = 0.0f;
  Ring<Tile::kStages> ring;
  for (;;) {
    ptx::mbarrier_wait(full + ring.stage * 8, ring.parity);
    /* Lane 0, which also frees the stage, reads for all lanes. */
    const uint2 mask = ptx::load_shared_pair_if(lane == 0, base + Tile::kMasks + ring.stage * 8);
    const uint32_t low = warp_uniform(mask.x);
    const uint32_t high = Tile::kBlock == 16 ? warp_uniform(mask.y) : 0;
    if ((low | high) == 0) break;
    const uint32_t stage = base + ring.stage * Tile::kStageBytes;
    uint32_t square = descriptor_low(stage + Tile::kXBytes);
    multiply_squares<Element, Tile, 0, Tile::kSquaresDown>(sums, low, high, descriptor_low(stage),
                                                           square);
    ptx::wgmma_wait<0>();
    if (lane == 0) ptx::mbarrier_arrive(empty + ring.stage * 8);
    ring.advance();
  }
}

/*
 * How the CTAs of a cluster share a piece's outputs: each takes 1 / kRowParts of its rows, and of
 * eight CTAs half of its tokens too. Then a thread has the sums of the thread in the same place of
 * that half, and of its rows the half that its own place stands for.
 */
template <typename Tile, int kSplit>
struct ClusterShare {
  static constexpr int kRowParts = kSplit < 8 ? kSplit : 4;
  static constexpr bool kHalvesTokens = kSplit == 8;
  static constexpr int kRows = Tile::kRows / kRowParts / (kHalvesTokens ? 2 : 1); /* of a thread */
  int row;                                                                        /* of the piece */
  int thread; /* whose sums it takes: the first ones are the first tokens' */

  __device__ ClusterShare() {
    const int rank = ptx::cluster_rank();
    thread = threadIdx.x % 128;
    row = rank % kRowParts * (Tile::kRows / kRowParts);
    if (kHalvesTokens) {
      row += thread / 64 * kRows;
      thread = rank / kRowParts * 64 + thread % 64;
    }
  }
};

/* Adds the sums of a cluster's CTAs, of which each keeps its share. */
template <typename Tile, int kSplit, int kOwn>
__device__ __forceinline__ void add_sums_of_cluster(const ClusterShare<Tile, kSplit>& share,
                                                    const float (&sums)[Tile::kSums],
                                                    float (&own)[kOwn], char* shared) {
  /* float4 [halves][octets of rows][threads] */
  constexpr int kOctets = Tile::kRows / 8;
  constexpr int kOwnOctets = ClusterShare<Tile, kSplit>::kRows / 8;
  float4* const partial = reinterpret_cast<float4*>(shared);
#pragma unroll
  for (int i = 0; i < Tile::kHalves * kOctets; ++i) {
    partial[i * 128 + threadIdx.x % 128] = {sums[4 * i], sums[4 * i + 1], sums[4 * i + 2],
                                            sums[4 * i + 3]};
  }
  ptx::cluster_sync();
  add_over_cluster<kSplit, Tile::kHalves * kOwnOctets>(
      own, ptx::shared_address(partial + share.row / 8 * 128 + share.thread),
      [](int i) { return (i / kOwnOctets * kOctets + i % kOwnOctets) * 128 * 16; });
  ptx::cluster_sync(); /* nobody's sums are needed any more */
}

template <typename Element, typename Tile, int kSplit>
__global__ void __launch_bounds__(Tile::kThreads, Tile::kResident)
    hopper_panel_narrow_kernel(const __grid_constant__ NarrowPanelParams p) {
  extern __shared__ __align__(1024) char shared[];
  uint32_t base;
  /* Opaque: the compiler would compute it again for every use. */
  asm volatile("mov.u32 %0, %1;" : "=r"(base) : "r"(ptx::shared_address(shared)));
  const int warp = threadIdx.x / 32;
  constexpr int kProducerWarp = 4;

  if (warp == kProducerWarp) {
    if (threadIdx.x % 32 == 0) ptx::prefetch_tensor_map(&p.x);
    if (threadIdx.x % 32 < Tile::kStages) {
      const uint32_t full = base + Tile::kBarriers + threadIdx.x % 32 * 8;
      ptx::mbarrier_init(full, 1);
      ptx::mbarrier_init(full + Tile::kStages * 8, 4); /* empty: a warp each */
    }
    ptx::fence_mbarrier_init();
  }
  __syncthreads();
  if (warp == kProducerWarp) prefetch_to_l2(p.prefetch, blockIdx.x);
  ptx::dependency_wait();
  const NarrowPanelWork work = narrow_panel_work<Tile, kSplit>(p);
  if (warp == kProducerWarp) {
    narrow_panel_produce<Tile>(p, work, base);
    /* Any earlier, and the next kernel's first CTAs would crowd onto what this one leaves free. */
    ptx::launch_dependents();
    if constexpr (kSplit > 1) {
      __syncwarp();
      ptx::cluster_sync();
      ptx::cluster_sync();
    }
    return;
  }

  /* Where the outputs go is read now: afterwards it would be waited for. */
  auto* const rows = reinterpret_cast<int32_t*>(shared + Tile::kRowsOfSquares);
  if (threadIdx.x < Tile::kSquaresDown) rows[threadIdx.x] = __ldg(work.rows + threadIdx.x);

  float sums[Tile::kSums];
  narrow_panel_multiply<Element, Tile>(sums, warp_uniform(base));
  /* Every copy has arrived; when every operand is read too, the stages are free. The rows are
   * written. */
  ptx::warpgroup_sync(1);
  char* const buffer = shared + warp * kPanelWarpStoreBytes;
  if constexpr (kSplit == 1) {
    ptx::use_after_wait(sums); /* else they are stored first, which no barrier lets pass */
    finish_panel<Element, Tile::kRows, false>(p, sums, buffer, PanelRows<Tile::kBlock>(rows),
                                              work.token, warp);
  } else {
    using Share = ClusterShare<Tile, kSplit>;
    const Share share;
    float own[Tile::kHalves * Share::kRows / 2];
    add_sums_of_cluster<Tile, kSplit>(share, sums, own, shared);
    finish_panel<Element, Share::kRows, false>(
        p, own, buffer, PanelRows<Tile::kBlock>(rows, share.row), work.token, share.thread / 32);
  }
}

}  // namespace djlbsr::cuda
