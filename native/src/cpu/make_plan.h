/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
/* Included by kernels_impl.h. */
#pragma once

namespace djlbsr::cpu {
namespace {

/* The share of a vector's lanes that `count` items in steps of `step` keep busy. */
inline double lane_use(int64_t count, int64_t step) {
  return static_cast<double>(count) / static_cast<double>(round_up(count, step));
}

/* Vector operations that it takes to transpose a vector of x. */
constexpr double kTransposeCost = 4.0;

/* Lanes of the vectors that rows in lanes uses for a weight. */
inline int64_t row_lanes(const Weight& w) {
  if (w.block_rows <= Vec4::kLanes) return Vec4::kLanes;
  return w.block_rows <= RowVec::kLanes ? RowVec::kLanes : Vec::kLanes;
}

/*
 * Whether tokens in lanes is the faster kernel. Costs are in vector operations a token: the stored
 * elements over the busy lanes, and what it takes to transpose each column.
 */
inline bool prefer_tokens_in_lanes(const Weight& w, int64_t tokens) {
  /* Full vectors of rows: measured faster at any number of tokens, less x is read. */
  if (Vec::kLanes >= 8 && w.block_rows % 16 == 0) return false;
  /* Where a lane is a column: measured. */
  constexpr double kByFourLanes = Vec::kLanes == 16 ? 7.0 : 0.75 * Vec::kLanes;
  const double elements =
      static_cast<double>(w.nnzb * w.block_rows) * static_cast<double>(w.block_cols);
  const bool by_four = w.block_rows == 1 && w.block_cols % 4 == 0;
  const double rows_cost = elements / (by_four ? kByFourLanes
                                               : static_cast<double>(row_lanes(w)) *
                                                     lane_use(w.block_rows, row_lanes(w)));
  const int64_t step = w.block_rows == 1 ? kSingleTokens : Vec::kLanes;
  const double token_lanes = static_cast<double>(Vec::kLanes) * lane_use(tokens, step);
  const double tokens_cost =
      (elements + kTransposeCost * static_cast<double>(w.cols)) / token_lanes;
  return tokens_cost < rows_cost;
}

/*
 * Threads that share a panel of x each transpose it. Whether that, with panels of so many tokens,
 * takes more than an eighth of a thread's multiply-adds: narrower panels are better then.
 */
inline bool transposes_too_often(const Weight& w, const djlbsr_linear_args& args,
                                 int64_t panel_tokens) {
  const int64_t threads = max_of(1, args.threads);
  if (div_up(args.tokens, panel_tokens) >= threads) return false;
  const double work = static_cast<double>(w.nnzb * w.block_rows) *
                      static_cast<double>(w.block_cols) * static_cast<double>(args.tokens) /
                      static_cast<double>(threads);
  return kTransposeCost * static_cast<double>(w.cols * panel_tokens) > work / 8;
}

/* Equal panels of at most `most` tokens, a multiple of step. */
inline int64_t equal_panels(int64_t tokens, int64_t most, int64_t step) {
  const int64_t panels = div_up(tokens, max_of(most, step));
  return max_of(step, round_up(div_up(tokens, max_of(1, panels)), step));
}

Plan make_plan(const Weight& w, const djlbsr_linear_args& args) {
  Plan plan = {};
  plan.tasks_per_thread = kTasksPerThread;
  const bool tokens_in_lanes = prefer_tokens_in_lanes(w, args.tokens);
  const bool by_four = w.block_rows == 1 && w.block_cols % 4 == 0;
  if (w.block_rows == 1 && tokens_in_lanes) {
    plan.algorithm = Algorithm::kSingleRows;
    /* Every task transposes x for itself: few, wide ones, split by tokens first. */
    plan.tasks_per_thread = 1;
    plan.panel_tokens =
        equal_panels(args.tokens, min_of(4 * kSingleTokens, args.tokens / max_of(1, args.threads)),
                     kSingleTokens);
    plan.scratch_bytes = SingleRows<float>::scratch_bytes(w);
    return plan;
  }
  if (tokens_in_lanes) {
    plan.algorithm = Algorithm::kTokensInLanes;
    const int64_t vector_bytes = w.cols * Vec::kLanes * 4;
    const int64_t vectors = max_of(1, kPanelBytes / max_of(1, vector_bytes));
    plan.tile_vectors = static_cast<int>(min_of(vectors, kMaxTokenVectors));
    if (transposes_too_often(w, args, plan.tile_vectors * Vec::kLanes)) plan.tile_vectors = 1;
    plan.panel_tokens = equal_panels(args.tokens, plan.tile_vectors * Vec::kLanes, Vec::kLanes);
    plan.scratch_bytes =
        static_cast<size_t>(max_of(64, plan.panel_tokens / Vec::kLanes * vector_bytes));
    return plan;
  }
  /* An odd number of cache lines between rows keeps the rows of a tile in different cache sets. */
  plan.panel_stride = (round_up(w.cols, 16) / 16 | 1) * 16;
  const int64_t row_bytes = plan.panel_stride * 4;
  if (by_four) {
    plan.algorithm = Algorithm::kSingleRowsFewTokens;
    plan.panel_tokens = equal_panels(args.tokens, kPanelBytes / row_bytes, 4);
    plan.scratch_bytes =
        static_cast<size_t>((min_of(plan.panel_tokens, args.tokens) + 1) * row_bytes);
    return plan;
  }
  plan.algorithm = Algorithm::kRowsInLanes;
  /* Of very many columns only narrow panels stay in the cache. */
  plan.tile_tokens = kTileTokens;
  for (const int64_t narrower : {int64_t{8}, int64_t{kMostRowsOfX}}) {
    if (4 * tile_floats(plan.tile_tokens, plan.panel_stride) > 2 * kPanelBytes) {
      plan.tile_tokens = min_of(plan.tile_tokens, narrower);
    }
  }
  if (transposes_too_often(w, args, plan.tile_tokens)) {
    plan.tile_tokens = min_of(plan.tile_tokens, 8);
  }
  const int64_t tile_bytes = 4 * tile_floats(plan.tile_tokens, plan.panel_stride);
  const bool fewer_than_threads = div_up(args.tokens, plan.tile_tokens) < args.threads;
  const int64_t tiles = fewer_than_threads ? 1 : max_of(1, min_of(8, kPanelBytes / tile_bytes));
  plan.panel_tokens = equal_panels(args.tokens, tiles * plan.tile_tokens, 2);
  const int64_t most = min_of(plan.panel_tokens, args.tokens);
  const int64_t tile = tile_tokens(most, plan.tile_tokens);
  plan.scratch_bytes = 64;
  if (args.tokens > tile || !reads_x_itself(w, tile)) {
    plan.scratch_bytes = static_cast<size_t>(
        max_of(64, 4 * div_up(most, max_of(1, tile)) * tile_floats(tile, plan.panel_stride)));
  }
  return plan;
}

}  // namespace
}  // namespace djlbsr::cpu
