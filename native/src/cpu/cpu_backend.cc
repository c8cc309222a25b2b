/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
#include "cpu/cpu_backend.h"

#include <omp.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <vector>

#include "common/error.h"
#include "cpu/kernels.h"

namespace djlbsr::cpu {
namespace {

constexpr int64_t kTasksPerThread = 4;
/* Multiply-adds that are worth a further thread. With 2^20, one token on 16 cores was slower than
   dense in 28 more of the 240 cases of bench/cpu_linear.py. */
constexpr int64_t kWorkPerThread = 1 << 18;
/* Scratch memory that a thread keeps from one call to the next. */
constexpr size_t kKeptScratchBytes = 4 << 20;

/* A thread's scratch memory: copies of x, nothing that is a result. */
class Scratch {
 public:
  void* at_least(size_t bytes) {
    if (bytes > size_) {
      memory_.reset();
      size_ = 0;
      memory_.reset(std::aligned_alloc(64, (bytes + 63) / 64 * 64));
      if (memory_ == nullptr) return nullptr;
      size_ = bytes;
    }
    return memory_.get();
  }

  void shrink() {
    if (size_ <= kKeptScratchBytes) return;
    memory_.reset();
    size_ = 0;
  }

 private:
  struct Free {
    void operator()(void* p) const { std::free(p); }
  };
  std::unique_ptr<void, Free> memory_;
  size_t size_ = 0;
};

thread_local Scratch thread_scratch;

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

/* The first block-row of part `part` out of `parts`, by bisection. */
int64_t part_begin(const Weight& w, int64_t part, int64_t parts) {
  const int64_t target = (w.nnzb + w.block_row_count) / parts * part +
                         (w.nnzb + w.block_row_count) % parts * part / parts;
  int64_t low = 0;
  int64_t high = w.block_row_count;
  while (low < high) {
    const int64_t middle = low + (high - low) / 2;
    if (w.crow[middle] + middle < target) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}

/*
 * Cuts the block-rows into parts of about equally many blocks: crow[i] + i grows with both the
 * blocks and the rows before block-row i. Whatever crow holds, the parts cover every row once.
 */
std::vector<int64_t> part_bounds(const Weight& w, int64_t parts) {
  std::vector<int64_t> bounds(static_cast<size_t>(parts) + 1);
  for (int64_t part = 1; part < parts; ++part) {
    const size_t at = static_cast<size_t>(part);
    bounds[at] = std::max(bounds[at - 1], part_begin(w, part, parts));
  }
  bounds[static_cast<size_t>(parts)] = w.block_row_count;
  return bounds;
}
int thread_count(const Weight& w, const djlbsr_linear_args& args) {
  /* OpenMP ends the process when it cannot start a thread: never ask for more than can help. */
  const int64_t most = std::min<int64_t>(std::max(omp_get_num_procs(), omp_get_max_threads()),
                                         omp_get_thread_limit());
  const int64_t allowed =
      args.threads > 0 ? std::min<int64_t>(args.threads, most) : omp_get_max_threads();
  const double work = static_cast<double>(w.nnzb * w.block_rows * w.block_cols + w.rows) *
                      static_cast<double>(args.tokens);
  const double wanted = std::max(1.0, work / kWorkPerThread);
  return wanted < static_cast<double>(allowed) ? static_cast<int>(wanted)
                                               : static_cast<int>(allowed);
}

}  // namespace

const Kernels& kernels_for(Isa isa) {
#if defined(__x86_64__)
  if (isa == Isa::kAvx512) return kAvx512Kernels;
  if (isa == Isa::kAvx2) return kAvx2Kernels;
#endif
  return kPortableKernels;
}

void update_values(const djlbsr_info& info, void* packed, const void* values) {
  void* target = static_cast<char*>(packed) + layout_of(info).values;
  if (info.dtype == DJLBSR_FLOAT32) {
    transpose_blocks<uint32_t>(info, values, target);
  } else {
    transpose_blocks<uint16_t>(info, values, target);
  }
}

void pack(const djlbsr_info& info, const djlbsr_matrix& matrix, void* packed) {
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
  const Weight w = weight_of(info, packed);
  const Kernels& kernels = kernels_for(active_isa());
  const Plan plan = kernels.plan(w, args);
  const int threads = thread_count(w, args);
  const int64_t panels = (args.tokens + plan.panel_tokens - 1) / plan.panel_tokens;
  const int64_t tasks_wanted = threads == 1 ? 1 : threads * kTasksPerThread;
  const int64_t parts =
      std::min(w.block_row_count, std::max<int64_t>(1, (tasks_wanted + panels - 1) / panels));
  const std::vector<int64_t> bounds = part_bounds(w, parts);

  std::atomic<bool> out_of_memory{false};
#pragma omp parallel num_threads(threads) if (threads > 1)
  {
    void* scratch = thread_scratch.at_least(plan.scratch_bytes);
    if (scratch == nullptr) out_of_memory = true;
    int64_t loaded_panel = -1;
#pragma omp for schedule(dynamic, 1) nowait
    for (int64_t task = 0; task < panels * parts; ++task) {
      if (scratch == nullptr) continue;
      const int64_t panel = task / parts;
      const size_t part = static_cast<size_t>(task % parts);
      Task t;
      t.token_begin = panel * plan.panel_tokens;
      t.token_end = std::min(args.tokens, t.token_begin + plan.panel_tokens);
      t.block_row_begin = bounds[part];
      t.block_row_end = bounds[part + 1];
      t.load_panel = loaded_panel != panel;
      if (t.block_row_begin < t.block_row_end) {
        kernels.run(w, args, plan, t, scratch);
        loaded_panel = panel;
      }
    }
    thread_scratch.shrink();
  }
  if (out_of_memory) throw std::bad_alloc();
}

}  // namespace djlbsr::cpu
