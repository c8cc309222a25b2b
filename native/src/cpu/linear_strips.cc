/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
#include <algorithm>
#include <new>

#include "cpu/schedule.h"
#include "cpu/strips.h"

namespace djlbsr::cpu {
namespace {

/* Rows of x that a task goes over again and again should leave half of the L2 cache free. */
constexpr int64_t kTaskBytes = 512 << 10;
/* Tokens that are prepared at once by one thread. */
constexpr int64_t kPreparedTokens = 4;

int64_t round_up(int64_t a, int64_t step) { return (a + step - 1) / step * step; }

int64_t panel_stride(const StripWeight& w, const StripKernel& kernel) {
  /* An odd number of cache lines keeps the rows of a tile in different cache sets. */
  return (round_up(w.block_col_count * w.padded_cols * kernel.x_col_bytes, 64) / 64 | 1) * 64;
}

}  // namespace

/*
 * Tokens go in panels: x is prepared for a whole panel once, by all threads, then tasks of some
 * tokens by some block-rows are computed from it. A kernel that reads the caller's x has one panel.
 */
void linear_strips(const djlbsr_info& info, const void* packed, const djlbsr_linear_args& args) {
  const StripWeight w = strip_weight_of(info, packed);
  const StripKernel& kernel = strip_kernel_for(active_isa(), w, args.tokens);
  const int threads = thread_count(info, args);
  const bool prepared = args.tokens > kernel.direct_tokens;
  const int64_t stride = prepared ? panel_stride(w, kernel) : args.x_stride * 2;
  const int64_t x_bytes = std::max<int64_t>(panel_stride(w, kernel), 64);

  int64_t panel_tokens = args.tokens;
  char* panel = nullptr;
  float* scales = nullptr;
  if (prepared) {
    const int64_t fitting = static_cast<int64_t>(kKeptScratchBytes) / (x_bytes + 4);
    const int64_t most = fitting / kernel.tile_tokens * kernel.tile_tokens;
    panel_tokens = std::min(args.tokens, std::max(most, kernel.x_tokens));
    const int64_t lanes = round_up(panel_tokens, kernel.x_tokens);
    panel =
        static_cast<char*>(thread_scratch().at_least(static_cast<size_t>(lanes * (x_bytes + 4))));
    if (panel == nullptr) throw std::bad_alloc();
    scales = reinterpret_cast<float*>(panel + lanes * x_bytes);
  }
  const int64_t task_tokens = std::min(
      panel_tokens, round_up(std::max<int64_t>(kTaskBytes / x_bytes, 1), kernel.tile_tokens));
  const int64_t cuts = (panel_tokens + task_tokens - 1) / task_tokens;
  const std::vector<int64_t> bounds = part_bounds(info, w.crow, cuts, threads);
  const int64_t parts = static_cast<int64_t>(bounds.size()) - 1;

  const int64_t step = std::max(kPreparedTokens, kernel.x_tokens);
#pragma omp parallel num_threads(threads) if (threads > 1)
  for (int64_t begin = 0; begin < args.tokens; begin += panel_tokens) {
    const int64_t end = std::min(args.tokens, begin + panel_tokens);
    StripRows x = {0, static_cast<const char*>(args.x), stride, nullptr};
    if (prepared) {
#pragma omp for schedule(static)
      for (int64_t t = begin; t < end; t += step) {
        kernel.prepare(w, args, t, std::min(end, t + step), panel + (t - begin) * stride, stride,
                       scales + (t - begin));
      }
      x = {begin, panel, stride, scales};
    }
#pragma omp for schedule(dynamic, 1)
    for (int64_t task = 0; task < cuts * parts; ++task) {
      StripTask t;
      const size_t part = static_cast<size_t>(task % parts);
      t.token_begin = begin + task / parts * task_tokens;
      t.token_end = std::min(end, t.token_begin + task_tokens);
      t.block_row_begin = bounds[part];
      t.block_row_end = bounds[part + 1];
      if (t.token_begin < t.token_end && t.block_row_begin < t.block_row_end) {
        kernel.run(w, args, x, t);
      }
    }
  }
  if (panel != nullptr) thread_scratch().shrink();
}

}  // namespace djlbsr::cpu
