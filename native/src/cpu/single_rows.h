/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
/* Included by kernels_impl.h. */
#pragma once

namespace djlbsr::cpu {
namespace {

constexpr int kSingleVectors = kMaxTokenVectors; /* 4 chains of each, and a weight */
constexpr int64_t kSingleTokens = kSingleVectors * Vec::kLanes;
constexpr int64_t kSlabBytes = 24 << 10; /* of x, which should stay in the L1 cache */
constexpr int64_t kGroupRows = 1024;     /* whose sums should stay in the L2 cache */
constexpr int64_t kGroupBlocks = 32 << 10;
constexpr int64_t kAhead = 32; /* blocks by which weights are prefetched */

/* Columns of x that are transposed at once: whole blocks. */
inline int64_t slab_columns(const Weight& w) {
  return max_of(1, kSlabBytes / 4 / kSingleTokens / w.block_cols) * w.block_cols;
}

/*
 * Blocks of one row have no second row that could use the same x: read from the L2 cache, x alone
 * would take most of the time. So the columns are cut into slabs that the L1 cache holds, and a
 * group of rows does all its blocks of one slab before the next is transposed. A list of the
 * group's blocks by slab spares guessing where each row's blocks of a slab end.
 */
template <typename T>
class SingleRows {
 public:
  explicit SingleRows(const Job<T>& job)
      : job_(job),
        w_(job.w),
        columns_(slab_columns(w_)),
        slabs_(div_up(w_.cols, columns_)),
        slab_(job.scratch),
        sums_(slab_ + columns_ * kSingleTokens),
        items_(reinterpret_cast<Item*>(sums_ + kGroupRows * kSingleTokens)),
        ends_(reinterpret_cast<int32_t*>(items_ + capacity(w_) + kAhead)) {}

  static size_t scratch_bytes(const Weight& w) {
    const int64_t columns = slab_columns(w);
    return static_cast<size_t>(columns * kSingleTokens + kGroupRows * kSingleTokens) * 4 +
           static_cast<size_t>(capacity(w) + kAhead) * sizeof(Item) +
           static_cast<size_t>(div_up(w.cols, columns)) * sizeof(int32_t);
  }

  void run() {
    const int64_t end = job_.task.block_row_end;
    for (int64_t row = job_.task.block_row_begin; row < end;) {
      int64_t rows = 0;
      int64_t blocks = 0;
      while (row + rows < end && rows < kGroupRows) {
        const Blocks of_row = blocks_of(w_, row + rows);
        blocks += max_of(0, of_row.end - of_row.begin);
        if (rows > 0 && blocks > kGroupBlocks) break;
        ++rows;
      }
      group(row, rows);
      row += rows;
    }
  }

 private:
  struct Item {
    int32_t block;
    uint16_t row;    /* of the group */
    uint16_t column; /* of the slab, which has far fewer, or only one block */
  };
  static_assert(kGroupRows <= 1 << 16 && kSlabBytes / 4 / kSingleTokens < 1 << 16, "Item");

  /* One row alone may have more blocks than a group should have. */
  static int64_t capacity(const Weight& w) { return max_of(kGroupBlocks, w.block_col_count); }

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
    for (int64_t i = 0; i < round_up(rows, kSlabRows) * kTokens; ++i) sums_[i] = 0.0f;
    for (int64_t s = 0; s < slabs_; ++s) {
      const int64_t first = s * columns_;
      transpose_tokens<Vec>(x + first, job_.args.x_stride, min_of(columns_, w_.cols - first),
                            tokens, slab_, kTokens);
      const Item* items = items_ + (s > 0 ? ends_[s - 1] : 0);
      if (w_.block_cols % 4 == 0) {
        add_blocks<kVectors, true>(items, items_ + ends_[s]);
      } else {
        add_blocks<kVectors, false>(items, items_ + ends_[s]);
      }
    }
    for (int64_t r = 0; r < rows; r += kSlabRows) {
      store_slab(job_, sums_ + r * kTokens, kTokens, token, tokens, row + r,
                 min_of(kSlabRows, rows - r));
    }
  }

  template <int kVectors, bool kByFour>
  NOINLINE void add_blocks(const Item* item, const Item* end) {
    constexpr int64_t kTokens = kVectors * Vec::kLanes;
    /* Copies: the compiler takes stores of sums for changes of whatever it reads by pointer. */
    const T* const values = static_cast<const T*>(w_.values);
    const float* const slab = slab_;
    float* const sums = sums_;
    const int64_t columns = w_.block_cols;
    for (; item < end; ++item) {
      __builtin_prefetch(values + item[kAhead].block * columns);
      const T* w = values + item->block * columns;
      const float* x = slab + item->column * kTokens;
      if constexpr (kByFour) {
        add_block_by_four<kVectors>(w, x, columns, sums + item->row * kTokens);
      } else {
        add_block<kVectors>(w, x, columns, sums + item->row * kTokens);
      }
    }
  }

  /* Counting sort: the items of slab s end before ends_[s], those of a row keep their order. */
  NOINLINE void list_blocks(int64_t row, int64_t rows) {
    Item* const items = items_;
    int32_t* const ends = ends_;
    const int32_t* const starts = w_.col_start;
    const int64_t limit = w_.cols - w_.block_cols;
    const int64_t columns = columns_;
    /* A division by columns, exact for whatever is less than 2^32. */
    __extension__ typedef unsigned __int128 Product;
    const uint64_t inverse = ~uint64_t{0} / static_cast<uint64_t>(columns) + 1;
    const auto for_blocks = [&](auto work) __attribute__((always_inline)) {
      for (int64_t r = 0; r < rows; ++r) {
        const Blocks blocks = blocks_of(w_, row + r);
        for (int64_t b = blocks.begin; b < blocks.end; ++b) {
          const int64_t column = clamp_index(starts[b], limit);
          work(r, b, column, static_cast<int64_t>(static_cast<Product>(column) * inverse >> 64));
        }
      }
    };
    for (int64_t s = 0; s < slabs_; ++s) ends[s] = 0;
    for_blocks([&](int64_t, int64_t, int64_t, int64_t slab) { ++ends[slab]; });
    int32_t begin = 0;
    for (int64_t s = 0; s < slabs_; ++s) {
      const int32_t count = ends[s];
      ends[s] = begin;
      begin += count;
    }
    /* In an altered weight a block may reach beyond its slab. */
    const int64_t most = columns - w_.block_cols;
    for_blocks([&](int64_t r, int64_t b, int64_t column, int64_t slab) {
      const int64_t at = min_of(column - slab * columns, most);
      items[ends[slab]++] = {static_cast<int32_t>(b), static_cast<uint16_t>(r),
                             static_cast<uint16_t>(at)};
    });
    for (int64_t i = 0; i < kAhead; ++i) items[begin + i] = {};
  }

  template <int kVectors>
  static ALWAYS_INLINE void add_block(const T* w, const float* x, int64_t columns, float* sums) {
    Vec sum[kVectors];
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) sum[v] = Vec::load(sums + v * Vec::kLanes);
    for (int64_t k = 0; k < columns; ++k, x += kVectors * Vec::kLanes) {
      const Vec wv = Vec::broadcast(w + k);
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) {
        sum[v] = Vec::fma(wv, Vec::load(x + v * Vec::kLanes), sum[v]);
      }
    }
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) sum[v].store(sums + v * Vec::kLanes);
  }

  template <int kVectors>
  static ALWAYS_INLINE void add_block_by_four(const T* w, const float* x, int64_t columns,
                                              float* sums) {
    constexpr int64_t kTokens = kVectors * Vec::kLanes;
    Vec chain[4][kVectors];
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j, ++w, x += kTokens) {
      const Vec wv = Vec::broadcast(w);
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) {
        chain[j][v] = Vec::mul(wv, Vec::load(x + v * Vec::kLanes));
      }
    }
    for (int64_t k = 4; k < columns; k += 4) {
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j, ++w, x += kTokens) {
        const Vec wv = Vec::broadcast(w);
#pragma GCC unroll 8
        for (int v = 0; v < kVectors; ++v) {
          chain[j][v] = Vec::fma(wv, Vec::load(x + v * Vec::kLanes), chain[j][v]);
        }
      }
    }
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) {
      float* sum = sums + v * Vec::kLanes;
      const Vec block =
          Vec::add(Vec::add(chain[0][v], chain[2][v]), Vec::add(chain[1][v], chain[3][v]));
      Vec::add(Vec::load(sum), block).store(sum);
    }
  }

  const Job<T>& job_;
  const Weight& w_;
  const int64_t columns_;
  const int64_t slabs_;
  float* slab_;   /* [columns_][kSingleTokens] */
  float* sums_;   /* [kGroupRows][kSingleTokens] */
  Item* items_;   /* the group's blocks by slab */
  int32_t* ends_; /* [slabs_] */
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
        const bool direct = reads_x_itself(w_, tokens);
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
