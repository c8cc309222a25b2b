/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <vector>

#include "djlbsr.h"

/* How a call on the CPU is cut up, whatever the kernel. */
namespace djlbsr::cpu {

/* A thread's scratch memory: copies of x, nothing that is a result. */
class Scratch {
 public:
  /* 64-byte aligned, or null where there is not so much memory. */
  void* at_least(size_t bytes);
  /* Gives back what is more than a thread may keep from one call to the next. */
  void shrink();

 private:
  struct Free {
    void operator()(void* p) const { std::free(p); }
  };
  std::unique_ptr<void, Free> memory_;
  size_t size_ = 0;
};

constexpr size_t kKeptScratchBytes = 4 << 20;

Scratch& thread_scratch();

/* A y of so many bytes is fresh memory in most calls: malloc maps it anew each time. */
constexpr size_t kFreshBytes = 32 << 20;

/* Asks for large pages for memory that is about to be written: a page fault for each 4 KiB of a y
   of 64 MiB takes as long as the products of a sparse layer. */
void expect_writes(void* begin, size_t bytes);

/* Bytes of a core's L2 cache, or a guess where the system does not tell. */
size_t level2_bytes();

/* The threads that a call is worth, at most as many as its arguments and OpenMP allow. */
int thread_count(const djlbsr_info& info, const djlbsr_linear_args& args);

/* More tasks even out, fewer share more of their preparations. */
constexpr int kTasksPerThread = 4;

/*
 * Cuts the block-rows into parts of about equally many blocks, as many as give each thread
 * tasks_per_thread tasks or some more with `panels` panels of tokens, so that all threads end
 * together: part p is [bounds[p], bounds[p + 1]). Whatever crow holds, the parts cover every
 * block-row once.
 */
std::vector<int64_t> part_bounds(const djlbsr_info& info, const int32_t* crow, int64_t panels,
                                 int threads, int tasks_per_thread = kTasksPerThread);

/*
 * Tasks by thread: each has a run of its own, in order; one that is done helps the next that is
 * not. All tasks are done even if OpenMP starts fewer threads. Task n is part n % parts of the
 * block-rows by the n / parts-th range of task_tokens tokens, of which the last may be smaller:
 * runs have equally many tokens.
 */
class TaskRuns {
 public:
  TaskRuns(int64_t tokens, int64_t task_tokens, int64_t parts, int threads);

  /* A task for this thread, or -1 if none is left. */
  int64_t next(int thread);

 private:
  struct alignas(64) Run { /* a cache line each: threads mostly touch their own */
    std::atomic<int64_t> next{0};
    int64_t end = 0;
  };
  std::vector<Run> runs_;
};

}  // namespace djlbsr::cpu
