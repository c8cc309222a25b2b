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
 * Threads that share tokens each transpose their x. Whether that, with tiles of so many tokens,
 * takes more than an eighth of a thread's multiply-adds: narrower tiles are better then.
 */
inline bool transposes_too_often(const Weight& w, const djlbsr_linear_args& args, int64_t tokens) {
  const int64_t threads = max_of(1, args.threads);
  if (div_up(args.tokens, tokens) >= threads) return false;
  const double work = static_cast<double>(w.nnzb * w.block_rows) *
                      static_cast<double>(w.block_cols) * static_cast<double>(args.tokens) /
                      static_cast<double>(threads);
  return kTransposeCost * static_cast<double>(w.cols * tokens) > work / 8;
}

/* Whether rows in lanes reads copies of x; of very many columns they would not stay in a cache. */
inline bool copies_rows(const Weight& w, const djlbsr_linear_args& args) {
  const int64_t rows = most_rows_of_x(w, args);
  return min_of(args.tokens, kTileTokens) > rows &&
         4 * tile_floats(rows, 8, w.cols) <= 2 * kPanelBytes;
}

/*
 * Whether tokens in lanes is the faster kernel. Costs are in vector operations a token: the stored
 * elements over the busy lanes, and what it takes to transpose each column.
 */
inline bool prefer_tokens_in_lanes(const Weight& w, const djlbsr_linear_args& args) {
  const int64_t tokens = args.tokens;
  /* Two full vectors of rows: measured faster at any number of tokens, less x is read. */
  if (Vec::kLanes >= 8 && w.block_rows % 16 == 0 && w.block_rows > Vec::kLanes) return false;
  const double elements =
      static_cast<double>(w.nnzb * w.block_rows) * static_cast<double>(w.block_cols);
  const double transposing = kTransposeCost * static_cast<double>(w.cols);
  /* Where a lane is a column, 6 tokens take as long as a vector of them without what it takes to
     transpose that for each thread: measured, with AVX2 and AVX-512 alike. */
  if (w.block_rows == 1 && w.block_cols % 4 == 0) {
    return static_cast<double>(tokens - 6) * elements >
           2 * transposing * static_cast<double>(max_of(1, args.threads));
  }
  double rows_cost =
      elements / (static_cast<double>(row_lanes(w)) * lane_use(w.block_rows, row_lanes(w)));
  /* One vector of rows takes a load for each multiply-add and more, two of tokens about half of
     one: measured, as is what a block costs. */
  if (w.block_rows <= Vec::kLanes && tokens > Vec::kLanes &&
      !transposes_too_often(w, args, 2 * Vec::kLanes)) {
    rows_cost *= 1.17 + 0.25 / static_cast<double>(w.block_cols);
  }
  if (copies_rows(w, args)) rows_cost += transposing / Vec::kLanes;
  const int64_t step = w.block_rows == 1 ? kSingleTokens : Vec::kLanes;
  const double token_lanes = static_cast<double>(Vec::kLanes) * lane_use(tokens, step);
  return (elements + transposing) / token_lanes < rows_cost;
}

/* A larger weight comes from memory, or from afar, each time that it is read. */
constexpr int64_t kCachedWeightBytes = 12 << 20;
constexpr int64_t kMostTaskBytes = 2 << 20; /* of x */

/* The tiles whose copies of x stay in the L2 cache and are kept for the next call. */
inline int64_t cached_tiles(const Plan& plan) {
  const auto cached =
      min_of(static_cast<int64_t>(level2_bytes()) / 2, static_cast<int64_t>(kKeptScratchBytes) / 2);
  return max_of(1, min_of(cached / (4 * max_of(1, plan.tile_floats)), kMostTilesOfTask));
}

/* The tiles of a task of a weight that is read from afar: many tokens for each time that it is
   read; their x may come from the L3 cache. No thread may be left without a task, which is a
   block-row of such tokens at least. */
inline int64_t distant_tiles(const Weight& w, const djlbsr_linear_args& args, const Plan& plan) {
  const int64_t tiles = div_up(args.tokens, plan.tile_tokens);
  const int64_t most = min_of(kMostTaskBytes / (4 * max_of(1, plan.tile_floats)),
                              tiles * w.block_row_count / max_of(1, args.threads));
  return max_of(1, min_of(most, kMostTilesOfTask));
}

/* Multiply-adds of a thread in a call that is long. */
constexpr double kLongWork = 4 << 20;

/* From so many vectors of tokens on a thread has tokens of its own: with AVX2 two are a much slower
   tile than three. */
constexpr int64_t kOwnVectors = Vec::kLanes == 16 ? 2 : 2 * kMaxTokenVectors;

/* Completes a plan whose tiles are known. */
inline Plan with_tasks(const Weight& w, const djlbsr_linear_args& args, Plan plan) {
  const bool by_tokens = plan.algorithm == Algorithm::kTokensInLanes;
  const bool distant =
      plan.algorithm == Algorithm::kRowsInLanes &&
      w.nnzb * w.block_rows * w.block_cols * static_cast<int64_t>(dtype_size(w.dtype)) >
          kCachedWeightBytes;
  const int64_t threads = max_of(1, args.threads);
  const int64_t tiles = div_up(args.tokens, plan.tile_tokens);
  const int64_t share = div_up(args.tokens, threads);
  if (threads > 1 && !distant && share >= (by_tokens ? kOwnVectors * Vec::kLanes : kTileTokens)) {
    /* Each thread has tokens of its own, whose x no other transposes. */
    const int64_t ranges = div_up(share, cached_tiles(plan) * plan.tile_tokens);
    const int64_t step = by_tokens                           ? Vec::kLanes
                         : plan.tile_tokens > plan.rows_of_x ? 2
                                                             : plan.tile_tokens;
    plan.task_tokens = round_up(div_up(share, ranges), step);
    const int64_t whole = round_up(plan.task_tokens, plan.tile_tokens);
    if (whole * ranges <= share + share / 32) plan.task_tokens = whole;
    const int64_t own = div_up(plan.task_tokens, plan.tile_tokens);
    plan.tile_tokens = round_up(div_up(plan.task_tokens, own), step);
  } else {
    const int64_t most = distant ? distant_tiles(w, args, plan)
                                 : max_of(1, min_of(cached_tiles(plan), tiles / threads));
    plan.task_tokens = div_up(tiles, div_up(tiles, most)) * plan.tile_tokens;
  }
  const int64_t copies = div_up(plan.task_tokens, plan.tile_tokens);
  plan.scratch_bytes = static_cast<size_t>(max_of(64, 4 * copies * plan.tile_floats));
  return plan;
}

/* More tokens share a list of blocks, fewer even out: tiles of 512 tokens share it well enough. */
constexpr int64_t kMostTilesOfList = div_up(512, kSingleTokens);

/*
 * Tokens of a task of single rows, which transposes its x and lists its blocks for itself: those
 * with which all threads are done first, in at most as many ranges as there are threads or tiles.
 * Costs are in multiply-adds: for each element one a vector of tokens and one more a tile, about 8
 * to transpose a vector, 14 to list a block.
 */
inline int64_t single_rows_tokens(const Weight& w, const djlbsr_linear_args& args) {
  const int64_t threads = max_of(1, args.threads);
  const int64_t fewest = max_of(1, div_up(args.tokens, kMostTilesOfList * kSingleTokens));
  const int64_t most =
      max_of(div_up(args.tokens, kSingleTokens), min_of(div_up(args.tokens, Vec::kLanes), threads));
  int64_t best = kSingleTokens;
  double least = -1;
  for (int64_t ranges = fewest; ranges <= most; ++ranges) {
    const int64_t tokens = max_of(1, round_up(div_up(args.tokens, ranges), Vec::kLanes));
    const int64_t parts = div_up(threads, ranges);
    const auto blocks = static_cast<double>(w.nnzb) / static_cast<double>(parts);
    const auto vectors = static_cast<double>(tokens / Vec::kLanes);
    const auto tiles = static_cast<double>(div_up(tokens, kSingleTokens));
    const double cost = static_cast<double>(div_up(ranges * parts, threads)) *
                        ((vectors + tiles) * blocks * static_cast<double>(w.block_cols) +
                         vectors * 8 * static_cast<double>(w.cols) + 14 * blocks);
    if (least < 0 || cost < least) {
      least = cost;
      best = tokens;
    }
  }
  return best;
}

Plan make_plan(const Weight& w, const djlbsr_linear_args& args) {
  Plan plan = {};
  plan.rows_of_x = kMostRowsOfX;
  const double work = static_cast<double>(w.nnzb * w.block_rows) *
                      static_cast<double>(w.block_cols) * static_cast<double>(args.tokens);
  /* Measured on 16 cores: more tasks end more evenly, in a short call they cost more than that. */
  const bool is_long = work > kLongWork * static_cast<double>(args.threads);
  plan.tasks_per_thread = is_long ? 2 * kTasksPerThread : kTasksPerThread;
  const bool tokens_in_lanes = prefer_tokens_in_lanes(w, args);
  if (w.block_rows == 1 && tokens_in_lanes) {
    plan.algorithm = Algorithm::kSingleRows;
    plan.tile_tokens = kSingleTokens;
    plan.tasks_per_thread = 1;
    plan.task_tokens = single_rows_tokens(w, args);
    plan.scratch_bytes = SingleRows<float>::scratch_bytes(w);
    return plan;
  }
  if (tokens_in_lanes) {
    plan.algorithm = Algorithm::kTokensInLanes;
    const int64_t vector_floats = w.cols * Vec::kLanes;
    const int64_t fitting = kPanelBytes / max_of(1, 4 * vector_floats);
    int64_t most = max_of(1, min_of(fitting, kMaxTokenVectors));
    if (transposes_too_often(w, args, most * Vec::kLanes)) most = 1;
    const int64_t vectors = div_up(args.tokens, Vec::kLanes);
    const int64_t width = div_up(vectors, div_up(vectors, most));
    plan.tile_tokens = width * Vec::kLanes;
    plan.tile_floats = width * vector_floats;
    return with_tasks(w, args, plan);
  }
  /* An odd number of cache lines between rows keeps the rows of a tile in different cache sets. */
  plan.row_floats = (round_up(w.cols, 16) / 16 | 1) * 16;
  const bool by_four = w.block_rows == 1 && w.block_cols % 4 == 0;
  if (by_four) {
    plan.algorithm = Algorithm::kSingleRowsFewTokens;
    plan.tile_tokens = kMostRowsOfX;
  } else {
    plan.algorithm = Algorithm::kRowsInLanes;
    plan.rows_of_x = most_rows_of_x(w, args);
    /* Of very many columns only narrow copies stay in the cache. */
    plan.tile_tokens = kTileTokens;
    for (const int64_t narrower : {int64_t{8}, kMostRowsOfX}) {
      if (4 * tile_floats(plan.rows_of_x, plan.tile_tokens, plan.row_floats) > 2 * kPanelBytes) {
        plan.tile_tokens = min_of(plan.tile_tokens, narrower);
      }
    }
    if (transposes_too_often(w, args, plan.tile_tokens)) {
      plan.tile_tokens = min_of(plan.tile_tokens, 8);
    }
    plan.tile_tokens = tile_tokens(args.tokens, plan.tile_tokens);
  }
  const int64_t last = args.tokens % plan.tile_tokens;
  const int64_t first = min_of(args.tokens, plan.tile_tokens);
  if (!reads_x_itself(w, plan, first) || !reads_x_itself(w, plan, last)) {
    plan.tile_floats = tile_floats(plan.rows_of_x, first, plan.row_floats);
  }
  return with_tasks(w, args, plan);
}

}  // namespace
}  // namespace djlbsr::cpu
