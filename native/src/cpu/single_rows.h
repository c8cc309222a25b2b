/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
/* Included by kernels_impl.h. */
#pragma once

namespace djlbsr::cpu {
namespace {

constexpr int kSingleVectors = kMaxTokenVectors; /* two chains of each for each row of a tile */
constexpr int64_t kSingleTokens = kSingleVectors * Vec::kLanes;
constexpr int64_t kSlabBytes = 24 << 10; /* of x, which should stay in the L1 cache */
constexpr int64_t kGroupRows = 1024;     /* whose sums should stay in the L2 cache */
constexpr int64_t kGroupBlocks = 128 << 10;
constexpr int64_t kAhead = 32; /* blocks by which weights are prefetched */

/* Short of registers, GCC would read a vector of x from memory for each of its multiply-adds. */
ALWAYS_INLINE void keep_in_register([[maybe_unused]] Vec& x) {
#if defined(__x86_64__)
  asm("" : "+v"(x.v));
#endif
}

/* Blocks of x, next to each other, that are transposed at once. */
inline int64_t slab_blocks(const Weight& w) {
  return max_of(1, kSlabBytes / 4 / kSingleTokens / w.block_cols);
}

/*
 * Blocks of one row have no second row that could use the same x. So a group of rows does all its
 * blocks of the same columns before the next columns, several rows at once: a list of the group's
 * blocks by column has them. x is transposed a slab at a time, which the L1 cache holds.
 */
template <typename T>
class SingleRows {
 public:
  explicit SingleRows(const Job<T>& job)
      : job_(job),
        w_(job.w),
        slab_blocks_(slab_blocks(w_)),
        slab_(job.scratch),
        sums_(slab_ + slab_blocks_ * w_.block_cols * kSingleTokens),
        items_(reinterpret_cast<Item*>(sums_ + kGroupRows * kSingleTokens)),
        ends_(reinterpret_cast<int32_t*>(items_ + capacity(w_) + kAhead)) {}

  static size_t scratch_bytes(const Weight& w) {
    return static_cast<size_t>((slab_blocks(w) * w.block_cols + kGroupRows) * kSingleTokens) * 4 +
           static_cast<size_t>(capacity(w) + kAhead) * sizeof(Item) +
           static_cast<size_t>(w.block_col_count) * sizeof(int32_t);
  }

  void run() {
    const int64_t end = job_.task.block_row_end;
    for (int64_t row = job_.task.block_row_begin; row < end;) {
      const int64_t most = clamp_index(w_.crow[row], w_.nnzb) + kGroupBlocks;
      int64_t rows = 1;
      while (row + rows < end && rows < kGroupRows && end_of_row(row + rows, most + 1) <= most) {
        ++rows;
      }
      group(row, rows);
      row += rows;
    }
  }

 private:
  /* A block of the weight, and its row of the group in the upper half: one store. */
  using Item = int64_t;
  static int64_t block_of(Item item) { return static_cast<int32_t>(item); }
  static int64_t row_of(Item item) { return item >> 32; }

  /* One row alone may have more blocks than a group should have. */
  static int64_t capacity(const Weight& w) {
    return min_of(max_of(kGroupBlocks, w.block_col_count), w.nnzb);
  }

  /* Where the blocks of a row end, at most `limit`. */
  int64_t end_of_row(int64_t row, int64_t limit) const {
    return min_of(clamp_index(w_.crow[row + 1], w_.nnzb), limit);
  }

  void group(int64_t row, int64_t rows) {
    list_blocks(row, rows);
    for (int64_t token = 0; token < job_.tokens(); token += kSingleTokens) {
      const int64_t tokens = min_of(kSingleTokens, job_.tokens() - token);
      add_tokens<kSingleVectors>(row, rows, token, tokens);
    }
  }

  /* Some tokens, which fill at most kVectors vectors, by a group of rows. */
  template <int kVectors>
  void add_tokens(int64_t row, int64_t rows, int64_t token, int64_t tokens) {
    constexpr int64_t kTokens = kVectors * Vec::kLanes;
    if constexpr (kVectors > 1) {
      if (tokens <= kTokens - Vec::kLanes) {
        return add_tokens<kVectors - 1>(row, rows, token, tokens);
      }
    }
    const T* x = job_.x_at(token);
    const bool by_four = w_.block_cols % 4 == 0;
    for (int64_t i = 0; i < round_up(rows, kSlabRows) * kTokens; ++i) sums_[i] = 0.0f;
    const Item* item = items_;
    for (int64_t first = 0; first < w_.block_col_count; first += slab_blocks_) {
      const int64_t blocks = min_of(slab_blocks_, w_.block_col_count - first);
      transpose_tokens<Vec>(x + first * w_.block_cols, job_.args.x_stride, blocks * w_.block_cols,
                            tokens, slab_, kTokens);
      for (int64_t b = 0; b < blocks; ++b) {
        const float* xb = slab_ + b * w_.block_cols * kTokens;
        const Item* end = items_ + ends_[first + b];
        if (by_four) {
          add_blocks<kVectors, true>(item, end, xb);
        } else {
          add_blocks<kVectors, false>(item, end, xb);
        }
        item = end;
      }
    }
    for (int64_t r = 0; r < rows; r += kSlabRows) {
      store_slab(job_, sums_ + r * kTokens, kTokens, token, tokens, row + r,
                 min_of(kSlabRows, rows - r));
    }
  }

  /* Blocks that a tile takes at once. */
  template <int kVectors>
  static constexpr int kTileBlocks = static_cast<int>(min_of(4, kMaxSums / 2 / kVectors));

  /* Blocks of the same columns, with their x. */
  template <int kVectors, bool kByFour>
  NOINLINE void add_blocks(const Item* item, const Item* end, const float* x) {
    constexpr int kBlocks = kTileBlocks<kVectors>;
    for (; end - item >= kBlocks; item += kBlocks) add_tile<kVectors, kByFour, kBlocks>(item, x);
    for (; item < end; ++item) add_tile<kVectors, kByFour, 1>(item, x);
  }

  template <int kVectors, bool kByFour, int kBlocks>
  ALWAYS_INLINE void add_tile(const Item* item, const float* x) {
    constexpr int64_t kTokens = kVectors * Vec::kLanes;
    const int64_t columns = w_.block_cols;
    const T* const values = static_cast<const T*>(w_.values);
    const T* w[kBlocks];
    float* sums[kBlocks];
#pragma GCC unroll 4
    for (int i = 0; i < kBlocks; ++i) {
      __builtin_prefetch(values + block_of(item[kAhead + i]) * columns);
      if constexpr (kTokens >= 64) { /* the next tile's sums; narrower ones are no faster */
        const float* next = sums_ + row_of(item[kBlocks + i]) * kTokens;
        for (int64_t t = 0; t < kTokens; t += 16) __builtin_prefetch(next + t);
      }
      w[i] = values + block_of(item[i]) * columns;
      sums[i] = sums_ + row_of(item[i]) * kTokens;
    }
    Vec sum[kBlocks][kVectors];
    if constexpr (kByFour) {
      Vec even[kBlocks][kVectors];
      add_chains<kVectors, kBlocks, 0>(w, x, columns, even);
      add_chains<kVectors, kBlocks, 1>(w, x, columns, sum);
#pragma GCC unroll 4
      for (int i = 0; i < kBlocks; ++i) {
#pragma GCC unroll 8
        for (int v = 0; v < kVectors; ++v) {
          sum[i][v] =
              Vec::add(Vec::load(sums[i] + v * Vec::kLanes), Vec::add(even[i][v], sum[i][v]));
        }
      }
    } else {
#pragma GCC unroll 4
      for (int i = 0; i < kBlocks; ++i) {
#pragma GCC unroll 8
        for (int v = 0; v < kVectors; ++v) sum[i][v] = Vec::load(sums[i] + v * Vec::kLanes);
      }
      for (int64_t k = 0; k < columns; ++k) {
        add_column<kVectors, kBlocks, false>(w, k, x + k * kTokens, sum);
      }
    }
#pragma GCC unroll 4
    for (int i = 0; i < kBlocks; ++i) {
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) sum[i][v].store(sums[i] + v * Vec::kLanes);
    }
  }

  /* Of each block chain kFirst plus chain kFirst + 2. */
  template <int kVectors, int kBlocks, int kFirst>
  static ALWAYS_INLINE void add_chains(const T* const (&w)[kBlocks], const float* x,
                                       int64_t columns, Vec (&sum)[kBlocks][kVectors]) {
    constexpr int64_t kTokens = kVectors * Vec::kLanes;
    Vec other[kBlocks][kVectors];
    x += kFirst * kTokens;
    add_column<kVectors, kBlocks, true>(w, kFirst, x, sum);
    add_column<kVectors, kBlocks, true>(w, kFirst + 2, x + 2 * kTokens, other);
    for (int64_t k = 4; k < columns; k += 4) {
      x += 4 * kTokens;
      add_column<kVectors, kBlocks, false>(w, k + kFirst, x, sum);
      add_column<kVectors, kBlocks, false>(w, k + kFirst + 2, x + 2 * kTokens, other);
    }
#pragma GCC unroll 4
    for (int i = 0; i < kBlocks; ++i) {
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) sum[i][v] = Vec::add(sum[i][v], other[i][v]);
    }
  }

  /* Adds column k of each block, or starts the sums with it. */
  template <int kVectors, int kBlocks, bool kStart>
  static ALWAYS_INLINE void add_column(const T* const (&w)[kBlocks], int64_t k, const float* x,
                                       Vec (&sum)[kBlocks][kVectors]) {
    Vec wv[kBlocks];
#pragma GCC unroll 4
    for (int i = 0; i < kBlocks; ++i) wv[i] = Vec::broadcast(w[i] + k);
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) {
      Vec xv = Vec::load(x + v * Vec::kLanes);
      if constexpr (kBlocks > 1) keep_in_register(xv);
#pragma GCC unroll 4
      for (int i = 0; i < kBlocks; ++i) {
        sum[i][v] = kStart ? Vec::mul(wv[i], xv) : Vec::fma(wv[i], xv, sum[i][v]);
      }
    }
  }

  /*
   * Counting sort: the items of block-column c end before ends_[c], in the order of their rows.
   * Whatever crow holds, both passes see each block of [begin, end) once.
   */
  NOINLINE void list_blocks(int64_t row, int64_t rows) {
    Item* const items = items_;
    int32_t* const ends = ends_;
    const int32_t* const starts = w_.col_start;
    const int64_t begin = clamp_index(w_.crow[row], w_.nnzb);
    const int64_t end = end_of_row(row + rows - 1, begin + capacity(w_));
    const int64_t limit = w_.cols - w_.block_cols;
    /* A division by block_cols, exact for whatever is less than 2^31. */
    const auto divisor = static_cast<uint64_t>(w_.block_cols);
    int shift = 31;
    while (uint64_t{1} << (shift - 31) < divisor) ++shift;
    const uint64_t inverse = ((uint64_t{1} << shift) + divisor - 1) / divisor;
    const auto column_of = [=](int64_t b) __attribute__((always_inline)) {
      return static_cast<uint64_t>(clamp_index(starts[b], limit)) * inverse >> shift;
    };
    for (int64_t c = 0; c < w_.block_col_count; ++c) ends[c] = 0;
#pragma GCC unroll 4
    for (int64_t b = begin; b < end; ++b) ++ends[column_of(b)];
    int32_t sum = 0;
    for (int64_t c = 0; c < w_.block_col_count; ++c) {
      const int32_t count = ends[c];
      ends[c] = sum;
      sum += count;
    }
    int64_t b = begin;
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t row_end = end_of_row(row + r, end);
#pragma GCC unroll 4
      for (; b < row_end; ++b) {
        items[ends[column_of(b)]++] = r << 32 | b;
      }
    }
    for (int64_t i = 0; i < kAhead; ++i) items[sum + i] = 0;
  }

  const Job<T>& job_;
  const Weight& w_;
  const int64_t slab_blocks_; /* of a whole slab */
  float* slab_;               /* [slab_blocks_ * block_cols][kSingleTokens] */
  float* sums_;               /* [kGroupRows][kSingleTokens] */
  Item* items_;               /* the group's blocks by column */
  int32_t* ends_;             /* [block_col_count] */
};

/* Blocks of one row and 4n columns for few tokens: a lane is a column of the block. */
template <typename T>
class SingleRowsFewTokens {
 public:
  explicit SingleRowsFewTokens(const Job<T>& job) : job_(job), w_(job.w) {}

  void run() {
    for (int64_t row = job_.task.block_row_begin; row < job_.task.block_row_end; row += kRows) {
      const int64_t rows = min_of(kRows, job_.task.block_row_end - row);
      job_.load_bias(row, rows, bias_);
      for (int64_t t = 0; t < job_.tokens(); t += kMostRowsOfX) {
        const int64_t tokens = job_.tokens_at(t);
        const bool direct = reads_x_itself(w_, job_.plan, tokens);
        const int64_t stride = direct ? job_.args.x_stride : job_.plan.row_floats;
        const float* xt = direct ? reinterpret_cast<const float*>(job_.x_at(t)) : job_.copy_at(t);
        if (tokens == 1) {
          sum_rows<1>(row, rows, xt, stride);
        } else if (tokens == 2) {
          sum_rows<2>(row, rows, xt, stride);
        } else {
          sum_rows<4>(row, rows, xt, stride); /* three tokens and a row of zeros */
        }
        for (int64_t a = 0; a < tokens; ++a) {
          job_.store(z_ + a * kRows, bias_, t + a, row, rows);
        }
      }
    }
  }

 private:
  static constexpr int64_t kRows = 256;

  template <int kTokens>
  NOINLINE void sum_rows(int64_t row, int64_t rows, const float* x, int64_t stride) {
    for (int64_t r = 0; r < rows; ++r) {
      float sum[kTokens] = {};
      const Blocks blocks = blocks_of(w_, row + r);
      for (int64_t b = blocks.begin; b < blocks.end; ++b) {
        const T* w = job_.block(b);
        const float* xb = x + job_.column(b);
        Vec4 chains[kTokens];
        __builtin_prefetch(w + kAheadBytes / sizeof(T));
        const Vec4 first = Vec4::load(w);
#pragma GCC unroll 4
        for (int a = 0; a < kTokens; ++a) {
          chains[a] = Vec4::mul(first, Vec4::load(xb + a * stride));
        }
        for (int64_t k = 4; k < w_.block_cols; k += 4) {
          const Vec4 wv = Vec4::load(w + k);
#pragma GCC unroll 4
          for (int a = 0; a < kTokens; ++a) {
            chains[a] = Vec4::fma(wv, Vec4::load(xb + a * stride + k), chains[a]);
          }
        }
#pragma GCC unroll 4
        for (int a = 0; a < kTokens; ++a) sum[a] += chains[a].sum();
      }
      for (int a = 0; a < kTokens; ++a) z_[a * kRows + r] = sum[a];
    }
  }

  const Job<T>& job_;
  const Weight& w_;
  alignas(64) float z_[4 * kRows] = {};
  alignas(64) float bias_[kRows];
};

}  // namespace
}  // namespace djlbsr::cpu
