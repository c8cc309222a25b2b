/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
/* Included by kernels_impl.h. */
#pragma once

namespace djlbsr::cpu {
namespace {

/* Columns of W that the tiles of a strip take in turn: these blocks, their part of x and the sums
   stay in the L1 cache. Measured: 64 to 128 are alike, 32 and 256 cost a tenth. */
constexpr int64_t kGroupColumns = 96;

/* By which weights are prefetched: the tiles of a group keep the hardware from seeing them as one
   stream. Measured: half of it costs up to a quarter where the weight comes from memory. */
constexpr int64_t kColumnsAhead = 128;
constexpr int64_t kMostFloatsAhead = 2048;

/* Stores sums[row][token], rows of `lanes` floats, of up to kSlabRows rows from `row` on. */
template <typename T>
void store_slab(const Job<T>& job, const float* sums, int64_t lanes, int64_t token, int64_t tokens,
                int64_t row, int64_t rows) {
  constexpr int64_t kLanes = Vec::kLanes;
  alignas(64) float z[kLanes * kSlabRows];
  alignas(64) float bias[kSlabRows];
  job.load_bias(row, rows, bias);
  for (int64_t t = 0; t < tokens; t += kLanes) {
    for (int64_t r = 0; r < kSlabRows; r += kLanes) {
      Vec::transpose([&](int i) { return sums + (r + i) * lanes + t; }, z + r, kSlabRows);
    }
    for (int64_t a = 0; a < min_of(kLanes, tokens - t); ++a) {
      job.store(z + a * kSlabRows, bias, token + t + a, row, rows);
    }
  }
}

/*
 * A lane is a token, W is broadcast. x is transposed, in tiles of up to kMaxTokenVectors vectors of
 * tokens.
 */
template <typename T>
class TokensInLanes {
 public:
  explicit TokensInLanes(const Job<T>& job) : job_(job), w_(job.w) {}

  void run() {
    const int64_t row_begin = job_.task.block_row_begin * w_.block_rows;
    const int64_t row_end = job_.task.block_row_end * w_.block_rows;
    for (int64_t row = row_begin; row < row_end; row += kSlabRows) {
      const int64_t rows = min_of(kSlabRows, row_end - row);
      for (int64_t t = 0; t < job_.tokens(); t += job_.plan.tile_tokens) {
        const int64_t tokens = job_.tokens_at(t);
        const int64_t vectors = div_up(tokens, Vec::kLanes);
        slab<kMaxTokenVectors>(job_.copy_at(t), static_cast<int>(vectors), row, rows);
        store_slab(job_, slab_, vectors * Vec::kLanes, t, tokens, row, rows);
      }
    }
  }

 private:
  /* Sums some rows, which may be of several block-rows, into the slab. */
  template <int kVectors>
  void slab(const float* panel, int vectors, int64_t row, int64_t rows) {
    if constexpr (kVectors > 1) {
      if (vectors < kVectors) return slab<kVectors - 1>(panel, vectors, row, rows);
    }
    for (int64_t r = 0; r < rows;) {
      const int64_t i = (row + r) / w_.block_rows;
      const int64_t offset = (row + r) % w_.block_rows;
      const int64_t count = min_of(rows - r, w_.block_rows - offset);
      const Blocks blocks = blocks_of(w_, i);
      float* sums = slab_ + r * kVectors * Vec::kLanes;
      /*
       * Where several tiles share the blocks, all of them do some blocks before the next ones,
       * while those and their part of x are in the L1 cache.
       */
      const int64_t group = count > kTileRows<kVectors> ? max_of(1, kGroupColumns / w_.block_cols)
                                                        : max_of(1, blocks.end - blocks.begin);
      int64_t b = blocks.begin;
      do {
        const Blocks some = {b, min_of(b + group, blocks.end)};
        strip<kVectors>(panel, some, offset, count, sums, b == blocks.begin);
        b = some.end;
      } while (b < blocks.end);
      r += count;
    }
  }

  template <int kVectors>
  static constexpr int kTileRows = power_of_two(kMaxSums / kVectors);

  /* Some blocks by some rows of their block-row. */
  template <int kVectors>
  void strip(const float* panel, Blocks blocks, int64_t offset, int64_t rows, float* sums,
             bool first) {
    for (int64_t r = 0; r < rows;) {
      r += tile_of<kTileRows<kVectors>, kVectors>(panel, blocks, offset + r, rows - r,
                                                  sums + r * kVectors * Vec::kLanes, first);
    }
  }

  /* One tile of kRows rows or of the largest half of it that still fits; returns its rows. */
  template <int kRows, int kVectors>
  int64_t tile_of(const float* panel, Blocks blocks, int64_t offset, int64_t rows, float* sums,
                  bool first) {
    if constexpr (kRows > 1) {
      if (rows < kRows) {
        return tile_of<kRows / 2, kVectors>(panel, blocks, offset, rows, sums, first);
      }
    }
    tile<kRows, kVectors>(panel, blocks, offset, sums, first);
    return kRows;
  }

  /* Adds to sums, or starts them if this is their first tile. */
  template <int kRows, int kVectors>
  NOINLINE void tile(const float* panel, Blocks blocks, int64_t offset, float* sums, bool first) {
    constexpr int64_t kStride = kVectors * Vec::kLanes;
    Vec sum[kRows][kVectors];
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) {
        sum[r][v] = first ? Vec::zero() : Vec::load(sums + r * kStride + v * Vec::kLanes);
      }
    }
    const int64_t block_rows = w_.block_rows;
    const int64_t block_cols = w_.block_cols;
    const int64_t ahead = min_of(kColumnsAhead * block_rows, kMostFloatsAhead);
    for (int64_t b = blocks.begin; b < blocks.end; ++b) {
      const T* w = job_.block(b) + offset;
      const float* x = panel + job_.column(b) * kStride;
      for (int64_t k = 0; k < block_cols; ++k, w += block_rows, x += kStride) {
        __builtin_prefetch(w + ahead);
        Vec xv[kVectors];
#pragma GCC unroll 8
        for (int v = 0; v < kVectors; ++v) xv[v] = Vec::load(x + v * Vec::kLanes);
#pragma GCC unroll 8
        for (int r = 0; r < kRows; ++r) {
          const Vec wv = Vec::broadcast(w + r);
#pragma GCC unroll 8
          for (int v = 0; v < kVectors; ++v) sum[r][v] = Vec::fma(wv, xv[v], sum[r][v]);
        }
      }
    }
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) sum[r][v].store(sums + r * kStride + v * Vec::kLanes);
    }
  }

  const Job<T>& job_;
  const Weight& w_;
  alignas(64) float slab_[kSlabRows * kMaxTokenVectors * Vec::kLanes] = {};
};

}  // namespace
}  // namespace djlbsr::cpu
