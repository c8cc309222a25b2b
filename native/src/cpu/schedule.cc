/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
#include "cpu/schedule.h"

#include <omp.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>

#include "cpu/cpu_backend.h"

namespace djlbsr::cpu {
namespace {

/* Multiply-adds that are worth a further thread. On 16 cores, one token of 768 x 3072 at 50 %: 2^18
   takes 1.8 to 2.1 times as long as 2^16, 2^14 as long. */
constexpr int64_t kWorkPerThread = 1 << 16;

/* The first block-row of part `part` out of `parts`, by bisection: crow[i] + i grows with both the
   blocks and the rows before block-row i. */
int64_t part_begin(const djlbsr_info& info, const int32_t* crow, int64_t part, int64_t parts) {
  const int64_t block_rows = info.rows / info.block_rows;
  const int64_t target =
      (info.nnzb + block_rows) / parts * part + (info.nnzb + block_rows) % parts * part / parts;
  int64_t low = 0;
  int64_t high = block_rows;
  while (low < high) {
    const int64_t middle = low + (high - low) / 2;
    if (crow[middle] + middle < target) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}

/* The parts that were asked for, up to twice as many where that makes rounds of tasks fuller. */
int64_t part_count(int64_t panels, int threads, int tasks_per_thread) {
  if (threads == 1 || panels == 0) return 1;
  const int64_t least = std::max<int64_t>(1, (threads * tasks_per_thread + panels - 1) / panels);
  int64_t best = least;
  double best_share = 0;
  for (int64_t parts = least; parts <= 2 * least; ++parts) {
    const int64_t rounds = (panels * parts + threads - 1) / threads;
    const double share =
        static_cast<double>(panels * parts) / static_cast<double>(rounds * threads);
    if (share > best_share + 0.01) {
      best = parts;
      best_share = share;
    }
  }
  return best;
}

}  // namespace

void* Scratch::at_least(size_t bytes) {
  if (bytes > size_) {
    memory_.reset();
    size_ = 0;
    memory_.reset(std::aligned_alloc(64, (bytes + 63) / 64 * 64));
    if (memory_ == nullptr) return nullptr;
    size_ = bytes;
  }
  return memory_.get();
}

void Scratch::shrink() {
  if (size_ <= kKeptScratchBytes) return;
  memory_.reset();
  size_ = 0;
}

Scratch& thread_scratch() {
  thread_local Scratch scratch;
  return scratch;
}

void expect_writes([[maybe_unused]] void* begin, [[maybe_unused]] size_t bytes) {
#if defined(MADV_HUGEPAGE)
  constexpr uintptr_t kPage = 2 << 20;
  const uintptr_t first = (reinterpret_cast<uintptr_t>(begin) + kPage - 1) / kPage * kPage;
  const uintptr_t end = (reinterpret_cast<uintptr_t>(begin) + bytes) / kPage * kPage;
  /* A hint: whether the system follows it changes no result. */
  if (first < end) madvise(reinterpret_cast<void*>(first), end - first, MADV_HUGEPAGE);
#endif
}

size_t level2_bytes() {
  static const size_t bytes = [] {
#if defined(_SC_LEVEL2_CACHE_SIZE)
    const long known = sysconf(_SC_LEVEL2_CACHE_SIZE);
    if (known > 0) return static_cast<size_t>(known);
#endif
    return size_t{1} << 20;
  }();
  return bytes;
}

double useful_threads(const djlbsr_info& info, int64_t tokens) {
  const double work =
      static_cast<double>(info.nnzb * info.block_rows * info.block_cols + info.rows) *
      static_cast<double>(tokens);
  return std::max(1.0, work / kWorkPerThread);
}

int thread_count(const djlbsr_info& info, const djlbsr_linear_args& args) {
  /* OpenMP ends the process when it cannot start a thread: never ask for more than can help. */
  const int64_t most = std::min<int64_t>(std::max(omp_get_num_procs(), omp_get_max_threads()),
                                         omp_get_thread_limit());
  const int64_t allowed =
      args.threads > 0 ? std::min<int64_t>(args.threads, most) : omp_get_max_threads();
  const double wanted = useful_threads(info, args.tokens);
  return wanted < static_cast<double>(allowed) ? static_cast<int>(wanted)
                                               : static_cast<int>(allowed);
}

std::vector<int64_t> part_bounds(const djlbsr_info& info, const int32_t* crow, int64_t panels,
                                 int threads, int tasks_per_thread) {
  const int64_t block_rows = info.rows / info.block_rows;
  const int64_t parts = std::min(block_rows, part_count(panels, threads, tasks_per_thread));
  std::vector<int64_t> bounds(static_cast<size_t>(parts) + 1);
  for (int64_t part = 1; part < parts; ++part) {
    const size_t at = static_cast<size_t>(part);
    bounds[at] = std::max(bounds[at - 1], part_begin(info, crow, part, parts));
  }
  bounds[static_cast<size_t>(parts)] = block_rows;
  return bounds;
}

TaskRuns::TaskRuns(int64_t tokens, int64_t task_tokens, int64_t parts, int threads)
    : runs_(static_cast<size_t>(threads)) {
  /* The task that begins nearest to thread i's share of tokens times parts. */
  const auto begin = [=](int64_t i) {
    const int64_t position = tokens * parts * i / threads;
    const int64_t range = position / (task_tokens * parts);
    const int64_t left = tokens - range * task_tokens;
    if (left <= 0) return range * parts;
    const int64_t size = std::min(task_tokens, left);
    return range * parts + (position - range * task_tokens * parts + size / 2) / size;
  };
  for (int64_t i = 0; i < threads; ++i) {
    runs_[static_cast<size_t>(i)].next = begin(i);
    runs_[static_cast<size_t>(i)].end = begin(i + 1);
  }
}

int64_t TaskRuns::next(int thread) {
  for (size_t n = 0; n < runs_.size(); ++n) {
    Run& run = runs_[(static_cast<size_t>(thread) + n) % runs_.size()];
    if (run.next.load(std::memory_order_relaxed) >= run.end) continue;
    const int64_t task = run.next.fetch_add(1, std::memory_order_relaxed);
    if (task < run.end) return task;
  }
  return -1;
}

}  // namespace djlbsr::cpu
