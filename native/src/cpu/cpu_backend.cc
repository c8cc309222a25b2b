/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
#include "cpu/cpu_backend.h"

#include <omp.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <new>
#include <vector>

#include "common/error.h"
#include "cpu/kernels.h"
#include "cpu/schedule.h"
#include "cpu/strips.h"

namespace djlbsr::cpu {
namespace {

Weight weight_of(const djlbsr_info& info, const void* packed) {
  const Layout layout = layout_of(info);
  const char* base = static_cast<const char*>(packed);
  Weight w = {};
  w.crow = reinterpret_cast<const int32_t*>(base + layout.crow);
  w.col_start = reinterpret_cast<const int32_t*>(base + layout.col_start);
  w.values = base + layout.values;
  w.dtype = info.dtype;
  w.rows = info.rows;
  w.cols = info.cols;
  w.block_rows = info.block_rows;
  w.block_cols = info.block_cols;
  w.block_row_count = info.rows / info.block_rows;
  w.block_col_count = info.cols / info.block_cols;
  w.nnzb = info.nnzb;
  return w;
}

template <typename T>
void transpose_blocks(const djlbsr_info& info, const void* source, void* target) {
  const T* from = static_cast<const T*>(source);
  T* to = static_cast<T*>(target);
  const int64_t rows = info.block_rows;
  const int64_t cols = info.block_cols;
  for (int64_t b = 0; b < info.nnzb; ++b, from += rows * cols, to += rows * cols) {
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t c = 0; c < cols; ++c) to[c * rows + r] = from[r * cols + c];
    }
  }
}

}  // namespace

const Kernels& kernels_for([[maybe_unused]] Isa isa) {
#if defined(__x86_64__)
  if (isa >= Isa::kAvx512) return kAvx512Kernels;
  if (isa >= Isa::kAvx2) return kAvx2Kernels;
#endif
  return kPortableKernels;
}

void update_values(const djlbsr_info& info, void* packed, const void* values) {
  if (uses_strips(info)) return update_strips(info, packed, values);
  void* target = static_cast<char*>(packed) + layout_of(info).values;
  if (info.dtype == DJLBSR_FLOAT32) {
    transpose_blocks<uint32_t>(info, values, target);
  } else {
    transpose_blocks<uint16_t>(info, values, target);
  }
}

void pack(const djlbsr_info& info, const djlbsr_matrix& matrix, void* packed) {
  if (uses_strips(info)) return pack_strips(info, matrix, packed);
  const Layout layout = layout_of(info);
  char* base = static_cast<char*>(packed);
  /* The gaps between the parts too: equal weights have equal bytes. */
  std::memset(base, 0, static_cast<size_t>(layout.values));
  std::memcpy(base + layout.crow, matrix.crow_indices,
              static_cast<size_t>(info.rows / info.block_rows + 1) * 4);
  auto* col_start = reinterpret_cast<int32_t*>(base + layout.col_start);
  for (int64_t b = 0; b < info.nnzb; ++b) {
    col_start[b] = static_cast<int32_t>(matrix.col_indices[b] * info.block_cols);
  }
  const int64_t values_end = layout.values + info.nnzb * info.block_rows * info.block_cols *
                                                 static_cast<int64_t>(dtype_size(info.dtype));
  std::memset(base + values_end, 0, static_cast<size_t>(layout.bytes - values_end));
  update_values(info, packed, matrix.values);
}

void linear(const djlbsr_info& info, const void* packed, const djlbsr_linear_args& args) {
  const auto y_bytes = static_cast<size_t>(args.tokens * info.rows) * dtype_size(info.dtype);
  if (y_bytes >= kFreshBytes && args.y_stride == info.rows) expect_writes(args.y, y_bytes);
  if (uses_strips(info)) return linear_strips(info, packed, args);
  const Weight w = weight_of(info, packed);
  const Kernels& kernels = kernels_for(active_isa());
  const int threads = thread_count(info, args);
  djlbsr_linear_args planned = args;
  planned.threads = threads;
  const Plan plan = kernels.plan(w, planned);
  const int64_t ranges = (args.tokens + plan.task_tokens - 1) / plan.task_tokens;
  const std::vector<int64_t> bounds =
      part_bounds(info, w.crow, ranges, threads, plan.tasks_per_thread);
  const int64_t parts = static_cast<int64_t>(bounds.size()) - 1;

  /* Neighbouring tasks have the same tokens: a thread that does a run of them copies few. */
  TaskRuns runs(args.tokens, plan.task_tokens, parts, threads);
  std::atomic<bool> out_of_memory{false};
#pragma omp parallel num_threads(threads) if (threads > 1)
  {
    auto* scratch = static_cast<float*>(thread_scratch().at_least(plan.scratch_bytes));
    if (scratch == nullptr) out_of_memory = true;
    int64_t copied = -1;
    const int own = omp_get_thread_num();
    for (int64_t task; scratch != nullptr && (task = runs.next(own)) >= 0;) {
      const int64_t range = task / parts;
      const size_t part = static_cast<size_t>(task % parts);
      Task t;
      t.token_begin = range * plan.task_tokens;
      t.token_end = std::min(args.tokens, t.token_begin + plan.task_tokens);
      t.block_row_begin = bounds[part];
      t.block_row_end = bounds[part + 1];
      if (t.block_row_begin == t.block_row_end) continue;
      if (plan.tile_floats > 0 && copied != range) kernels.copy_x(w, args, plan, t, scratch);
      copied = range;
      kernels.run(w, args, plan, t, scratch);
    }
    thread_scratch().shrink();
  }
  if (out_of_memory) throw std::bad_alloc();
}

void activate(int32_t dtype, int32_t activation, void* y, int64_t count, int32_t threads) {
  constexpr int64_t kChunk = 16384;
  const Kernels& kernels = kernels_for(active_isa());
  const int64_t size = static_cast<int64_t>(dtype_size(dtype));
  const int64_t chunks = (count + kChunk - 1) / kChunk;
  const int64_t allowed = threads > 0 ? threads : omp_get_max_threads();
  const int used = static_cast<int>(std::min(allowed, chunks));
#pragma omp parallel for num_threads(used) if (used > 1)
  for (int64_t chunk = 0; chunk < chunks; ++chunk) {
    const int64_t begin = chunk * kChunk;
    kernels.activate(dtype, activation, static_cast<char*>(y) + begin * size,
                     std::min(kChunk, count - begin));
  }
}

}  // namespace djlbsr::cpu
