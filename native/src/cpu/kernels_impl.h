/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
/*
 * The two CPU kernels, for any ISA. A file includes this after defining, in an unnamed namespace,
 * the type Vec: kLanes floats with load, load_partial, store, broadcast, zero and fma, overloaded
 * for float, Half and Bfloat16 memory. Nothing here may be visible outside that file: the same
 * template compiled for two ISAs would be merged by the linker.
 *
 *   rows in lanes    a lane is a row of W; x is broadcast. Needs no rearranged x, wants block_rows
 *                    that fill a vector.
 *   tokens in lanes  a lane is a token; W is broadcast. Works for every block shape, wants many
 *                    tokens; x is transposed into a panel first.
 */
#include "common/meta.h"
#include "cpu/activations.h"
#include "cpu/kernels.h"

namespace djlbsr::cpu {
namespace {

constexpr int64_t kCacheBytes = 1 << 20;   /* a panel of x should stay in the L2 cache */
constexpr int64_t kPanelBytes = 256 << 10; /* and leave room for weights where it can be chosen */
constexpr int kSlabRows = 16;              /* rows that tokens-in-lanes gathers before storing */
constexpr int kMaxRowVectors = 4;
constexpr int kMaxTokenVectors = 8;
constexpr int kMaxTokens = Vec::kLanes * kMaxTokenVectors;

inline int64_t min_of(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t max_of(int64_t a, int64_t b) { return a > b ? a : b; }
inline int64_t round_up(int64_t a, int64_t step) { return (a + step - 1) / step * step; }

/* Buffers for `finish` have this many floats. */
constexpr int64_t whole_steps(int64_t count) {
  return (count + kFinishStep - 1) / kFinishStep * kFinishStep;
}

/* Indices come from packed memory, which may have been altered: they must not lead outside. */
inline int64_t clamp_index(int32_t index, int64_t limit) {
  return static_cast<int64_t>(min_of(static_cast<uint32_t>(index), limit));
}

/* The stored blocks [begin, end) of block-row i, at most as many as a row can have. */
struct Blocks {
  int64_t begin;
  int64_t end;
};
inline Blocks blocks_of(const Weight& w, int64_t i) {
  const int64_t begin = clamp_index(w.crow[i], w.nnzb);
  return {begin, min_of(clamp_index(w.crow[i + 1], w.nnzb), begin + w.block_col_count)};
}

/* Reading and writing rows of any dtype as floats. */
template <typename T>
inline void load_row(const void* source, int64_t offset, float* target, int64_t count) {
  const T* from = static_cast<const T*>(source) + offset;
  int64_t i = 0;
  for (; i + Vec::kLanes <= count; i += Vec::kLanes) Vec::load(from + i).store(target + i);
  if (i < count) Vec::load_partial(from + i, count - i).store_partial(target + i, count - i);
}

template <typename T>
inline void store_row(const float* source, void* target, int64_t offset, int64_t count) {
  T* to = static_cast<T*>(target) + offset;
  int64_t i = 0;
  for (; i + Vec::kLanes <= count; i += Vec::kLanes) Vec::load(source + i).store(to + i);
  if (i < count) Vec::load_partial(source + i, count - i).store_partial(to + i, count - i);
}

template <typename T>
class Runner {
 public:
  Runner(const Weight& w, const djlbsr_linear_args& args, const Plan& plan, const Task& task,
         void* scratch)
      : w_(w),
        args_(args),
        plan_(plan),
        task_(task),
        values_(static_cast<const T*>(w.values)),
        block_size_(w.block_rows * w.block_cols),
        col_limit_(w.cols - w.block_cols),
        panel_(static_cast<float*>(scratch)) {}

  void run() {
    if (plan_.tokens_in_lanes) {
      if (task_.load_panel) transpose_panel();
      run_tokens_in_lanes();
    } else {
      if (plan_.copy_x && task_.load_panel) copy_panel();
      run_rows_in_lanes();
    }
  }

 private:
  /* ---- rows in lanes ---- */

  void copy_panel() {
    for (int64_t t = task_.token_begin; t < task_.token_end; ++t) {
      load_row<T>(args_.x, t * args_.x_stride,
                  panel_ + (t - task_.token_begin) * plan_.panel_stride, w_.cols);
    }
  }

  void run_rows_in_lanes() {
    for (int64_t i = task_.block_row_begin; i < task_.block_row_end; ++i) {
      for (int64_t r = 0; r < w_.block_rows;) {
        const int64_t left = w_.block_rows - r;
        const int64_t few = task_.token_end - task_.token_begin <= 2 ? kMaxRowVectors : 2;
        const int64_t rows = min_of(left, few * Vec::kLanes);
        row_chunk(i, r, rows);
        r += rows;
      }
    }
  }

  void row_chunk(int64_t i, int64_t r, int64_t rows) {
    const int vectors = static_cast<int>((rows + Vec::kLanes - 1) / Vec::kLanes);
    const bool partial = rows % Vec::kLanes != 0;
    load_bias(i * w_.block_rows + r, rows);
    switch (vectors * 2 + (partial ? 1 : 0)) {
      case 2:
        return token_tiles<1, false>(i, r, rows);
      case 3:
        return token_tiles<1, true>(i, r, rows);
      case 4:
        return token_tiles<2, false>(i, r, rows);
      case 5:
        return token_tiles<2, true>(i, r, rows);
      case 6:
        return token_tiles<3, false>(i, r, rows);
      case 7:
        return token_tiles<3, true>(i, r, rows);
      case 8:
        return token_tiles<4, false>(i, r, rows);
      default:
        return token_tiles<4, true>(i, r, rows);
    }
  }

  template <int kVectors, bool kPartial>
  void token_tiles(int64_t i, int64_t r, int64_t rows) {
    int64_t t = task_.token_begin;
    if constexpr (kVectors <= 2) {
      for (; t + Vec::kTileTokens <= task_.token_end; t += Vec::kTileTokens) {
        row_tile<Vec::kTileTokens, kVectors, kPartial>(i, r, rows, t);
      }
      for (; t + 4 <= task_.token_end; t += 4) row_tile<4, kVectors, kPartial>(i, r, rows, t);
    }
    for (; t + 2 <= task_.token_end; t += 2) row_tile<2, kVectors, kPartial>(i, r, rows, t);
    for (; t < task_.token_end; ++t) row_tile<1, kVectors, kPartial>(i, r, rows, t);
  }

  template <int kTokens, int kVectors, bool kPartial>
  void row_tile(int64_t i, int64_t r, int64_t rows, int64_t t) {
    Vec sum[kTokens][kVectors];
#pragma GCC unroll 16
    for (int a = 0; a < kTokens; ++a) {
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) sum[a][v] = Vec::zero();
    }
    int64_t stride;
    const float* x = x_rows(t, &stride);
    const int64_t block_rows = w_.block_rows;
    const int64_t last = rows - (kVectors - 1) * Vec::kLanes;
    const Blocks blocks = blocks_of(w_, i);
    for (int64_t b = blocks.begin; b < blocks.end; ++b) {
      const T* w = values_ + b * block_size_ + r;
      const float* xb = x + clamp_index(w_.col_start[b], col_limit_);
      for (int64_t k = 0; k < w_.block_cols; ++k, w += block_rows, ++xb) {
        Vec wv[kVectors];
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; ++v) {
          wv[v] = kPartial && v == kVectors - 1 ? Vec::load_partial(w + v * Vec::kLanes, last)
                                                : Vec::load(w + v * Vec::kLanes);
        }
#pragma GCC unroll 16
        for (int a = 0; a < kTokens; ++a) {
          const Vec xv = Vec::broadcast(xb + a * stride);
#pragma GCC unroll 4
          for (int v = 0; v < kVectors; ++v) sum[a][v] = Vec::fma(wv[v], xv, sum[a][v]);
        }
      }
    }
#pragma GCC unroll 16
    for (int a = 0; a < kTokens; ++a) {
      alignas(64) float z[whole_steps(kVectors * Vec::kLanes)] = {};
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) sum[a][v].store(z + v * Vec::kLanes);
      finish_and_store(z, t + a, i * w_.block_rows + r, rows);
    }
  }

  /* The rows of x from token t on, as floats. */
  const float* x_rows(int64_t t, int64_t* stride) const {
    if (plan_.copy_x) {
      *stride = plan_.panel_stride;
      return panel_ + (t - task_.token_begin) * plan_.panel_stride;
    }
    *stride = args_.x_stride;
    return static_cast<const float*>(args_.x) + t * args_.x_stride;
  }

  /* ---- tokens in lanes ---- */

  /* panel[c][t] = x[t][c]; lanes beyond the last token hold 0 and are never stored. */
  void transpose_panel() {
    constexpr int64_t kColumns = 32;
    alignas(64) float row[kColumns];
    const int64_t tokens = task_.token_end - task_.token_begin;
    const int64_t lanes = plan_.panel_stride;
    for (int64_t c = 0; c < w_.cols; c += kColumns) {
      const int64_t columns = min_of(kColumns, w_.cols - c);
      float* to = panel_ + c * lanes;
      for (int64_t t = 0; t < tokens; ++t) {
        load_row<T>(args_.x, (task_.token_begin + t) * args_.x_stride + c, row, columns);
        for (int64_t j = 0; j < columns; ++j) to[j * lanes + t] = row[j];
      }
      for (int64_t t = tokens; t < lanes; ++t) {
        for (int64_t j = 0; j < columns; ++j) to[j * lanes + t] = 0.0f;
      }
    }
  }

  void run_tokens_in_lanes() {
    alignas(64) float slab[kSlabRows * kMaxTokens];
    const int64_t row_end = task_.block_row_end * w_.block_rows;
    for (int64_t row = task_.block_row_begin * w_.block_rows; row < row_end; row += kSlabRows) {
      const int64_t rows = min_of(kSlabRows, row_end - row);
      for (int64_t r = 0; r < rows;) {
        const int64_t i = (row + r) / w_.block_rows;
        const int64_t offset = (row + r) % w_.block_rows;
        r += slab_rows(i, offset, min_of(rows - r, w_.block_rows - offset),
                       slab + r * plan_.panel_stride);
      }
      load_bias(row, rows);
      for (int64_t t = 0; t < task_.token_end - task_.token_begin; ++t) {
        alignas(64) float z[kSlabRows] = {};
        for (int64_t r = 0; r < rows; ++r) z[r] = slab[r * plan_.panel_stride + t];
        finish_and_store(z, task_.token_begin + t, row, rows);
      }
    }
  }

  /* Computes the first few of `rows` rows of block-row i into the slab; returns how many. */
  int64_t slab_rows(int64_t i, int64_t offset, int64_t rows, float* slab) {
    const int64_t vectors =
        round_up(task_.token_end - task_.token_begin, Vec::kLanes) / Vec::kLanes;
    if (vectors > 4) return token_tiles_of<1, 8>(i, offset, rows, slab);
    if (vectors > 2) return token_tiles_of < Vec::kWideTile ? 4 : 2, 4 > (i, offset, rows, slab);
    if (vectors > 1) return token_tiles_of<4, 2>(i, offset, rows, slab);
    return token_tiles_of<4, 1>(i, offset, rows, slab);
  }

  /* One tile of kMaxRows rows or of the largest half of it that still fits. */
  template <int kMaxRows, int kVectors>
  int64_t token_tiles_of(int64_t i, int64_t offset, int64_t rows, float* slab) {
    if constexpr (kMaxRows > 1) {
      if (rows < kMaxRows) return token_tiles_of<kMaxRows / 2, kVectors>(i, offset, rows, slab);
    }
    token_tile<kMaxRows, kVectors>(i, offset, slab);
    return kMaxRows;
  }

  template <int kRows, int kVectors>
  void token_tile(int64_t i, int64_t offset, float* slab) {
    const int64_t stride = plan_.panel_stride;
    Vec sum[kRows][kVectors];
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) sum[r][v] = Vec::zero();
    }
    const int64_t block_rows = w_.block_rows;
    const Blocks blocks = blocks_of(w_, i);
    for (int64_t b = blocks.begin; b < blocks.end; ++b) {
      const T* w = values_ + b * block_size_ + offset;
      const float* x = panel_ + clamp_index(w_.col_start[b], col_limit_) * stride;
      for (int64_t k = 0; k < w_.block_cols; ++k, w += block_rows, x += stride) {
        Vec xv[kVectors];
#pragma GCC unroll 8
        for (int v = 0; v < kVectors; ++v) xv[v] = Vec::load(x + v * Vec::kLanes);
#pragma GCC unroll 4
        for (int r = 0; r < kRows; ++r) {
          const Vec wv = Vec::broadcast(w + r);
#pragma GCC unroll 8
          for (int v = 0; v < kVectors; ++v) sum[r][v] = Vec::fma(wv, xv[v], sum[r][v]);
        }
      }
    }
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) sum[r][v].store(slab + r * stride + v * Vec::kLanes);
    }
  }

  /* ---- epilogue ---- */

  void load_bias(int64_t row, int64_t rows) {
    if (args_.bias != nullptr) load_row<T>(args_.bias, row, bias_, rows);
  }

  /* z has room for whole_steps(rows) floats; the ones past `rows` are not stored. */
  void finish_and_store(float* z, int64_t token, int64_t row, int64_t rows) {
    finish(z, bias_, whole_steps(rows), args_.activation);
    store_row<T>(z, args_.y, token * args_.y_stride + row, rows);
  }

  const Weight& w_;
  const djlbsr_linear_args& args_;
  const Plan& plan_;
  const Task& task_;
  const T* values_;
  const int64_t block_size_;
  const int64_t col_limit_;
  float* panel_;
  alignas(64) float bias_[whole_steps(kMaxRowVectors * Vec::kLanes)] = {};
};

/* The share of a vector's lanes that `count` items in steps of `step` keep busy. */
inline double lane_use(int64_t count, int64_t step) {
  return static_cast<double>(count) / static_cast<double>(round_up(count, step));
}

/*
 * Whether tokens in lanes is the faster kernel. Costs are in vector operations a token: the stored
 * elements over the busy lanes, and about one for each column that is transposed. A panel that
 * leaves the L2 cache makes each of its loads cost about two.
 */
inline bool prefer_tokens_in_lanes(const Weight& w, int64_t tokens, int64_t panel_bytes) {
  const double elements =
      static_cast<double>(w.nnzb * w.block_rows) * static_cast<double>(w.block_cols) / Vec::kLanes;
  const double rows_cost = elements / lane_use(w.block_rows, Vec::kLanes);
  const double tokens_cost =
      elements / lane_use(tokens, Vec::kLanes) * (panel_bytes > kCacheBytes ? 2.0 : 1.0);
  return tokens_cost + static_cast<double>(w.cols) < rows_cost;
}

Plan make_plan(const Weight& w, const djlbsr_linear_args& args) {
  Plan plan = {};
  /* One row at a time needs more vectors of tokens to fill the FMA pipeline. */
  const int64_t most = (w.block_rows == 1 ? kMaxTokenVectors : 4) * Vec::kLanes;
  /* 1, 2, 4 or 8 vectors: the widths that token_tile has. */
  plan.panel_tokens = Vec::kLanes;
  while (plan.panel_tokens < min_of(args.tokens, most)) plan.panel_tokens *= 2;
  plan.panel_stride = plan.panel_tokens;
  const int64_t panel_bytes = w.cols * plan.panel_stride * 4;
  plan.tokens_in_lanes = prefer_tokens_in_lanes(w, args.tokens, panel_bytes);
  if (plan.tokens_in_lanes) {
    plan.scratch_bytes = static_cast<size_t>(max_of(panel_bytes, 64));
    return plan;
  }
  /* An odd number of cache lines between rows keeps the rows of a tile in different cache sets. */
  plan.panel_stride = (round_up(w.cols, 16) / 16 | 1) * 16;
  const int64_t row_bytes = plan.panel_stride * 4;
  plan.copy_x = w.dtype != DJLBSR_FLOAT32 ||
                (args.tokens >= Vec::kTileTokens && Vec::kTileTokens * row_bytes <= kCacheBytes);
  const int64_t tiles = min_of(kPanelBytes / row_bytes / Vec::kTileTokens, 8);
  plan.panel_tokens = max_of(tiles, 1) * Vec::kTileTokens;
  if (Vec::kTileTokens * row_bytes > kCacheBytes && plan.copy_x) {
    plan.panel_tokens = max_of(kCacheBytes / row_bytes, 1);
  }
  plan.scratch_bytes =
      plan.copy_x ? static_cast<size_t>(min_of(plan.panel_tokens, args.tokens) * row_bytes) : 64;
  return plan;
}

void run_task(const Weight& w, const djlbsr_linear_args& args, const Plan& plan, const Task& task,
              void* scratch) {
  switch (w.dtype) {
    case DJLBSR_FLOAT16:
      return Runner<Half>(w, args, plan, task, scratch).run();
    case DJLBSR_BFLOAT16:
      return Runner<Bfloat16>(w, args, plan, task, scratch).run();
    default:
      return Runner<float>(w, args, plan, task, scratch).run();
  }
}

}  // namespace
}  // namespace djlbsr::cpu
