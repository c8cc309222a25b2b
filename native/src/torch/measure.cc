/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
/*
 * Times a profile's points: PyTorch's linear against djlbsr_linear, on random data. Everything runs
 * on one thread and its CPU time counts, so that a busy machine gives nearly the same profile as an
 * idle one; cost_model.h adds the threads.
 */
#include <dlfcn.h>
#include <time.h>

#include <algorithm>
#include <cstdlib>
#include <exception>
#include <limits>
#include <memory>
#include <new>
#include <thread>

#include "choice/cost_model.h"
#include "common/error.h"
#include "common/meta.h"
#include "torch/dense.h"
#include "torch/tensor.h"

namespace djlbsr::torch {
namespace {

using choice::kBlocks;
using choice::kDense;
using choice::kKinds;
using choice::kSize;
using choice::kSizes;
using choice::kTokenCounts;
using choice::kTokens;
using choice::point;

/* A point of more multiply-adds counts as in proportion to the one with fewer elements. */
constexpr int64_t kMaxWork = int64_t{1} << 28;
/* The shortest of a few samples: what disturbs one only makes it longer. */
constexpr int kMaxSamples = 7;
constexpr double kSecondsPerPoint = 0.004;
/* A sample is as many calls as the clock needs. */
constexpr double kSecondsPerSample = 2e-5;
/* One of four blocks is stored. */
constexpr int64_t kStep = 4;
/* tokens * columns and tokens * rows of every point that is timed fit into so many elements. */
constexpr int64_t kMaxActivations = int64_t{1} << 20;

uint32_t next(uint32_t* state) { return *state = *state * 1664525u + 1013904223u; }

/* Random numbers of magnitude 1 to 2: no denormals, no zeros, nothing that a CPU does faster. */
void fill(void* memory, int64_t count, int32_t dtype) {
  uint32_t state = 1;
  for (int64_t i = 0; i < count; ++i) {
    const uint32_t random = next(&state);
    if (dtype == DJLBSR_FLOAT32) {
      static_cast<uint32_t*>(memory)[i] = (random & 0x807fffffu) | 0x3f800000u;
    } else {
      const uint32_t one = dtype == DJLBSR_FLOAT16 ? 0x3c00u : 0x3f80u;
      const uint32_t mantissa = dtype == DJLBSR_FLOAT16 ? 0x03ffu : 0x007fu;
      static_cast<uint16_t*>(memory)[i] =
          static_cast<uint16_t>((random >> 16 & (0x8000u | mantissa)) | one);
    }
  }
}

double thread_seconds() {
  timespec now = {};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

template <typename Call>
double shortest(Call&& call) {
  call();
  int calls = 1;
  double best = std::numeric_limits<double>::infinity();
  double total = 0;
  for (int i = 0; i < kMaxSamples && (i < 2 || total < kSecondsPerPoint);) {
    const double start = thread_seconds();
    for (int c = 0; c < calls; ++c) call();
    const double seconds = thread_seconds() - start;
    total += seconds;
    if (seconds < kSecondsPerSample) {
      calls *= 2;
      continue;
    }
    best = std::min(best, seconds / calls);
    ++i;
  }
  return best;
}

/* Makes PyTorch's CPU operators in this thread run on it alone. OpenMP's setting is a thread's own;
   MKL, where PyTorch has it, is asked for a setting of that kind. */
void use_one_thread() {
  void* torch = dlopen("libtorch_cpu.so", RTLD_LAZY | RTLD_NOLOAD);
  if (torch == nullptr) return;
  /* Through libtorch: its OpenMP need not be ours. */
  if (void* set = dlsym(torch, "omp_set_num_threads")) reinterpret_cast<void (*)(int)>(set)(1);
  if (void* set = dlsym(torch, "MKL_Set_Num_Threads_Local")) {
    reinterpret_cast<int (*)(int)>(set)(1);
  }
  dlclose(torch);
}

struct Free {
  void operator()(void* p) const { std::free(p); }
};
using Memory = std::unique_ptr<void, Free>;

Memory aligned(int64_t bytes) {
  Memory memory(std::aligned_alloc(64, static_cast<size_t>((bytes + 63) / 64 * 64)));
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}

int32_t torch_dtype(int32_t dtype) {
  const Abi& torch = abi();
  if (dtype == DJLBSR_FLOAT32) return torch.dtype_float32();
  return dtype == DJLBSR_FLOAT16 ? torch.dtype_float16() : torch.dtype_bfloat16();
}

class Measurement {
 public:
  explicit Measurement(int32_t dtype)
      : dtype_(dtype),
        size_(static_cast<int64_t>(dtype_size(dtype))),
        values_(aligned(kSize[kSizes - 1] * size_)),
        x_(aligned(kMaxActivations * size_)),
        y_(aligned(kMaxActivations * size_)) {
    fill(values_.get(), kSize[kSizes - 1], dtype);
    fill(x_.get(), kMaxActivations, dtype);
  }

  void run(double* seconds) {
    for (int kind = 0; kind < kKinds; ++kind) {
      for (int size = 0; size < kSizes; ++size) {
        if (kind == kDense) {
          time_dense(size, seconds);
        } else {
          time_blocks(kind, size, seconds);
        }
        for (int t = 0; t < kTokenCounts; ++t) {
          if (is_timed(size, t)) continue;
          seconds[point(kind, size, t)] = seconds[point(kind, size - 1, t)] *
                                          static_cast<double>(kSize[size]) /
                                          static_cast<double>(kSize[size - 1]);
        }
      }
    }
  }

 private:
  static bool is_timed(int size, int t) { return kSize[size] * kTokens[t] <= kMaxWork; }

  /* The power of two nearest above the root, so that rows * cols = elements. */
  static int64_t cols_of(int64_t elements) {
    int64_t cols = 1;
    while (cols * cols < elements) cols *= 2;
    return cols;
  }

  OwnedTensor tensor_of(int64_t rows, int64_t cols, const void* data) const {
    OwnedTensor tensor = empty({rows, cols}, torch_dtype(dtype_), false, 0);
    std::copy_n(static_cast<const char*>(data), rows * cols * size_,
                static_cast<char*>(Tensor("made", tensor.get()).data()));
    return tensor;
  }

  void time_dense(int size, double* seconds) const {
    const int64_t cols = cols_of(kSize[size]);
    const OwnedTensor weight = tensor_of(kSize[size] / cols, cols, values_.get());
    for (int t = 0; t < kTokenCounts; ++t) {
      if (!is_timed(size, t)) continue;
      const OwnedTensor input = tensor_of(kTokens[t], cols, x_.get());
      seconds[point(kDense, size, t)] =
          shortest([&] { dense_linear(input.get(), weight.get(), nullptr); });
    }
  }

  void time_blocks(int kind, int size, double* seconds) const {
    djlbsr_matrix matrix = {};
    matrix.cols = cols_of(kSize[size] * kStep);
    matrix.rows = kSize[size] * kStep / matrix.cols;
    matrix.block_rows = kBlocks[kind].rows;
    matrix.block_cols = kBlocks[kind].cols;
    matrix.dtype = dtype_;
    const int64_t in_row = matrix.cols / matrix.block_cols / kStep;
    const int64_t block_rows = matrix.rows / matrix.block_rows;
    matrix.nnzb = block_rows * in_row;
    std::vector<int32_t> crow(static_cast<size_t>(block_rows) + 1);
    std::vector<int32_t> col(static_cast<size_t>(matrix.nnzb));
    uint32_t state = 2;
    for (int64_t i = 0; i < block_rows; ++i) {
      crow[static_cast<size_t>(i) + 1] = static_cast<int32_t>((i + 1) * in_row);
      for (int64_t j = 0; j < in_row; ++j) {
        col[static_cast<size_t>(i * in_row + j)] =
            static_cast<int32_t>(j * kStep + (next(&state) >> 16) % kStep);
      }
    }
    matrix.crow_indices = crow.data();
    matrix.col_indices = col.data();
    matrix.values = values_.get();
    djlbsr_meta meta;
    check(djlbsr_pack_query(&matrix, DJLBSR_CPU, &meta));
    const Memory packed = aligned(decode(meta).packed_bytes);
    check(djlbsr_pack(&matrix, &meta, packed.get(), nullptr));
    djlbsr_linear_args args = {};
    args.x = x_.get();
    args.y = y_.get();
    args.x_stride = matrix.cols;
    args.y_stride = matrix.rows;
    args.threads = 1;
    for (int t = 0; t < kTokenCounts; ++t) {
      if (!is_timed(size, t)) continue;
      args.tokens = kTokens[t];
      seconds[point(kind, size, t)] =
          shortest([&] { check(djlbsr_linear(&meta, packed.get(), &args)); });
    }
  }

  static void check(int32_t status) {
    if (status != DJLBSR_OK) throw Error(status, djlbsr_last_error());
  }

  int32_t dtype_;
  int64_t size_;
  Memory values_;
  Memory x_;
  Memory y_;
};

}  // namespace
}  // namespace djlbsr::torch

using namespace djlbsr;

int32_t djlbsr_torch_measure_profile(int32_t dtype, double* seconds) {
  return guarded([&] {
    DJLBSR_CHECK(seconds != nullptr, "seconds is null; pass room for %d numbers",
                 DJLBSR_PROFILE_POINTS);
    dtype_name(dtype);
    double measured[DJLBSR_PROFILE_POINTS];
    std::exception_ptr failure;
    std::thread([&] {
      try {
        djlbsr::torch::use_one_thread();
        djlbsr::torch::Measurement(dtype).run(measured);
      } catch (...) {
        failure = std::current_exception();
      }
    }).join();
    if (failure) std::rethrow_exception(failure);
    std::copy_n(measured, DJLBSR_PROFILE_POINTS, seconds);
  });
}
