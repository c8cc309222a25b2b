/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
/*
 * The CPU kernels, for any ISA. A file includes this after defining, in an unnamed namespace, the
 * vector types Vec (the widest), RowVec and Vec4: kLanes floats with load, load_partial, store,
 * broadcast, zero, mul and fma, overloaded for float, Half and Bfloat16 memory, and the limits
 * kTileTokens, kMaxSums and kMaxTokenVectors. Nothing here may be visible outside that file: the
 * same template compiled for two ISAs would be merged by the linker.
 *
 *   rows in lanes    a lane is a row of W; x is broadcast. Few tokens need no rearranged x, more
 *                    read a copy of it; wants few tokens or block_rows that fill two vectors.
 *   tokens in lanes  a lane is a token; W is broadcast. Works for every block shape, wants many
 *                    tokens; x is transposed into a panel first.
 *   single rows      blocks of one row: the same for many tokens, ordered so that rows with blocks
 *                    of the same columns share x; for few tokens a lane is a column.
 */
#pragma once

#include <initializer_list>
#include <type_traits>

#include "common/meta.h"
#include "cpu/activations.h"
#include "cpu/kernels.h"
#include "cpu/schedule.h"

namespace djlbsr::cpu {
namespace {

#define ALWAYS_INLINE inline __attribute__((always_inline))
/* Apart from its callers a loop gets all registers. */
#define NOINLINE __attribute__((noinline))

constexpr int64_t kPanelBytes = 512 << 10; /* of x, which should stay in half of an L2 cache */
constexpr int64_t kMostTilesOfTask = 8;

/* By which small blocks are prefetched with few tokens: the hardware does larger ones. */
constexpr int64_t kAheadBytes = 2048;

constexpr int64_t min_of(int64_t a, int64_t b) { return a < b ? a : b; }
constexpr int64_t max_of(int64_t a, int64_t b) { return a > b ? a : b; }
constexpr int64_t div_up(int64_t a, int64_t b) { return (a + b - 1) / b; }
constexpr int64_t round_up(int64_t a, int64_t step) { return div_up(a, step) * step; }

/* The largest power of two that is at most n and at most 8. */
constexpr int power_of_two(int n) { return n >= 8 ? 8 : n >= 4 ? 4 : n >= 2 ? 2 : 1; }

/* Buffers for `finish` have this many floats. */
constexpr int64_t whole_steps(int64_t count) { return round_up(count, kFinishStep); }

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

constexpr int64_t kRowAhead = 64; /* floats by which x is prefetched where it is transposed */

/*
 * to[c][t] = x[t][c] for some columns and tokens, in rows of `lanes` floats, a multiple of
 * V::kLanes; lanes beyond the last token repeat it. A vector of tokens goes through all columns
 * before the next: more rows at once, often multiples of 4 KiB apart, would put each other out of
 * the L1 cache before the line that was fetched ahead is read.
 */
template <typename V, typename T>
void transpose_tokens(const T* x, int64_t x_stride, int64_t columns, int64_t tokens, float* to,
                      int64_t lanes) {
  constexpr int64_t kLanes = V::kLanes;
  alignas(64) float buffer[kLanes * kLanes];
  for (int64_t t = 0; t < lanes; t += kLanes) {
    const T* rows[kLanes];
    for (int64_t i = 0; i < kLanes; ++i) rows[i] = x + min_of(t + i, tokens - 1) * x_stride;
    int64_t c = 0;
    for (; c + kLanes <= columns; c += kLanes) {
      if constexpr (sizeof(T) == sizeof(float)) {
        for (int i = 0; i < kLanes; ++i) __builtin_prefetch(rows[i] + c + kRowAhead);
        V::transpose([&](int i) { return rows[i] + c; }, to + c * lanes + t, lanes);
      } else {
        for (int64_t i = 0; i < kLanes; ++i) V::load(rows[i] + c).store(buffer + i * kLanes);
        V::transpose([&](int i) { return buffer + i * kLanes; }, to + c * lanes + t, lanes);
      }
    }
    for (; c < columns; ++c) {
      for (int64_t i = 0; i < kLanes; ++i) load_row<T>(rows[i], c, to + c * lanes + t + i, 1);
    }
  }
}

constexpr int64_t kLine = 64;     /* bytes of a cache line */
constexpr int64_t kSlabRows = 32; /* rows that are gathered before they are stored */

/* Tiles of more tokens read a transposed copy of x, [cols][8 or 16], so that all addresses of a
   column of x are one register and constants; the others read rows of x. */
constexpr int64_t kMostRowsOfX = 4;

/* The same for tiles of six where blocks read whole lines of x and the call's x is small. A
   transposed copy, whose lines are read in order, takes longer there; it is the faster one by far
   where x comes from further away. */
constexpr int64_t kMostWideRowsOfX = kTileTokens <= 6 ? kTileTokens : kMostRowsOfX;
constexpr int64_t kCachedXBytes = 3 << 20;

inline int64_t most_rows_of_x(const Weight& w, const djlbsr_linear_args& args) {
  const bool whole_lines = w.block_rows > RowVec::kLanes && 4 * w.block_cols >= kLine;
  return whole_lines && 4 * w.cols * args.tokens <= kCachedXBytes ? kMostWideRowsOfX : kMostRowsOfX;
}

/* The rows that a tile of few tokens reads: tiles are of 1, 2, 4 or 6. */
inline int64_t rows_of_tile(int64_t tokens) { return tokens > 2 ? round_up(tokens, 2) : tokens; }

/* Whether a tile reads the caller's x. */
inline bool reads_x_itself(const Weight& w, const Plan& plan, int64_t tokens) {
  return w.dtype == DJLBSR_FLOAT32 && tokens <= plan.rows_of_x && rows_of_tile(tokens) == tokens;
}

/* Copies some columns of rows of x, and zeros for rows that the tile has beyond its tokens. */
template <typename T>
void copy_rows(const T* x, int64_t x_stride, int64_t columns, int64_t tokens, float* to,
               int64_t stride) {
  for (int64_t t = 0; t < tokens; ++t) load_row<T>(x, t * x_stride, to + t * stride, columns);
  for (int64_t t = tokens; t < rows_of_tile(tokens); ++t) {
    for (int64_t c = 0; c < columns; ++c) to[t * stride + c] = 0.0f;
  }
}

/* A task of one call on weights of type T, with what all kernels do alike. */
template <typename T>
struct Job {
  const Weight& w;
  const djlbsr_linear_args& args;
  const Plan& plan;
  const Task& task;
  float* scratch;

  int64_t tokens() const { return task.token_end - task.token_begin; }
  /* Of the tile that begins with token t of the task: its tokens, the caller's x, its copy. */
  int64_t tokens_at(int64_t t) const { return min_of(plan.tile_tokens, tokens() - t); }
  const T* x_at(int64_t t) const {
    return static_cast<const T*>(args.x) + (task.token_begin + t) * args.x_stride;
  }
  const float* copy_at(int64_t t) const {
    return scratch + t / plan.tile_tokens * plan.tile_floats;
  }
  const T* block(int64_t b) const {
    return static_cast<const T*>(w.values) + b * w.block_rows * w.block_cols;
  }
  int64_t column(int64_t b) const { return clamp_index(w.col_start[b], w.cols - w.block_cols); }

  /* bias has room for whole_steps(rows) floats. */
  void load_bias(int64_t row, int64_t rows, float* bias) const {
    for (int64_t i = rows / kFinishStep * kFinishStep; i < whole_steps(rows); ++i) bias[i] = 0.0f;
    if (args.bias != nullptr) {
      load_row<T>(args.bias, row, bias, rows);
    } else {
      for (int64_t i = 0; i < rows; ++i) bias[i] = 0.0f;
    }
  }

  /* y := act(z + bias); both have room for whole_steps(rows) floats. */
  void store(float* z, const float* bias, int64_t token, int64_t row, int64_t rows) const {
    const int64_t to = (task.token_begin + token) * args.y_stride + row;
    if (args.activation == DJLBSR_NONE && rows % Vec::kLanes == 0) {
      T* y = static_cast<T*>(args.y) + to;
      for (int64_t i = 0; i < rows; i += Vec::kLanes) {
        Vec::add(Vec::load(z + i), Vec::load(bias + i)).store(y + i);
      }
      return;
    }
    finish(z, bias, whole_steps(rows), args.activation);
    store_row<T>(z, args.y, to, rows);
  }
};

}  // namespace
}  // namespace djlbsr::cpu

#include "cpu/tokens_in_lanes.h"

/* Needs the one before. */
#include "cpu/rows_in_lanes.h"
#include "cpu/single_rows.h"

/* After all of them. */
#include "cpu/make_plan.h"

namespace djlbsr::cpu {
namespace {

template <typename T>
void copy_tokens(const Weight& w, const djlbsr_linear_args& args, const Plan& plan,
                 const Task& task, float* to) {
  for (int64_t t = task.token_begin; t < task.token_end; t += plan.tile_tokens) {
    const int64_t tokens = min_of(plan.tile_tokens, task.token_end - t);
    const T* x = static_cast<const T*>(args.x) + t * args.x_stride;
    if (plan.algorithm == Algorithm::kTokensInLanes) {
      transpose_tokens<Vec>(x, args.x_stride, w.cols, tokens, to, round_up(tokens, Vec::kLanes));
    } else if (tokens > 8) {
      transpose_tokens<Vec>(x, args.x_stride, w.cols, tokens, to, 16);
    } else if (tokens > plan.rows_of_x) {
      transpose_tokens<RowVec>(x, args.x_stride, w.cols, tokens, to, 8);
    } else if (!reads_x_itself(w, plan, tokens)) {
      copy_rows(x, args.x_stride, w.cols, tokens, to, plan.row_floats);
    }
    to += plan.tile_floats;
  }
}

void copy_x(const Weight& w, const djlbsr_linear_args& args, const Plan& plan, const Task& task,
            float* scratch) {
  switch (w.dtype) {
    case DJLBSR_FLOAT16:
      return copy_tokens<Half>(w, args, plan, task, scratch);
    case DJLBSR_BFLOAT16:
      return copy_tokens<Bfloat16>(w, args, plan, task, scratch);
    default:
      return copy_tokens<float>(w, args, plan, task, scratch);
  }
}

template <typename T>
void run_job(const Job<T>& job) {
  switch (job.plan.algorithm) {
    case Algorithm::kRowsInLanes:
      return job.plan.rows_of_x == kMostRowsOfX ? RowsInLanes<T, kMostRowsOfX>(job).run()
                                                : RowsInLanes<T, kMostWideRowsOfX>(job).run();
    case Algorithm::kTokensInLanes:
      return TokensInLanes<T>(job).run();
    case Algorithm::kSingleRows:
      return SingleRows<T>(job).run();
    case Algorithm::kSingleRowsFewTokens:
      return SingleRowsFewTokens<T>(job).run();
  }
}

void run_task(const Weight& w, const djlbsr_linear_args& args, const Plan& plan, const Task& task,
              float* scratch) {
  switch (w.dtype) {
    case DJLBSR_FLOAT16:
      return run_job(Job<Half>{w, args, plan, task, scratch});
    case DJLBSR_BFLOAT16:
      return run_job(Job<Bfloat16>{w, args, plan, task, scratch});
    default:
      return run_job(Job<float>{w, args, plan, task, scratch});
  }
}

/* y := act(y), for products that another library computed. */
template <typename T>
void activate_as(int32_t activation, void* y, int64_t count) {
  constexpr int64_t kStep = 4 * kFinishStep;
  alignas(64) static constexpr float kNoBias[kStep] = {};
  alignas(64) float z[kStep] = {};
  for (int64_t i = 0; i < count; i += kStep) {
    const int64_t step = min_of(kStep, count - i);
    load_row<T>(y, i, z, step);
    finish(z, kNoBias, kStep, activation);
    store_row<T>(z, y, i, step);
  }
}

void activate_array(int32_t dtype, int32_t activation, void* y, int64_t count) {
  switch (dtype) {
    case DJLBSR_FLOAT16:
      return activate_as<Half>(activation, y, count);
    case DJLBSR_BFLOAT16:
      return activate_as<Bfloat16>(activation, y, count);
    default:
      return activate_as<float>(activation, y, count);
  }
}

}  // namespace
}  // namespace djlbsr::cpu
