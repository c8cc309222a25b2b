/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
#pragma once

#include <cstdint>
#include <memory>
#include <string>

/* The libraries that we are compared with, found at run time. */
namespace bench {

/* y [tokens, rows] = x [tokens, cols] * w^T, w [rows, cols], all dense. */
class DenseGemm {
 public:
  /* Looks for cblas_sgemm or sgemm_ in a library; `why_not` says why there is none. */
  static std::unique_ptr<DenseGemm> load(const std::string& library, std::string* why_not);

  void operator()(int64_t rows, int64_t cols, int64_t tokens, const float* w, const float* x,
                  float* y) const;

 private:
  using Sgemm = void (*)(const char*, const char*, const int*, const int*, const int*, const float*,
                         const float*, const int*, const float*, const int*, const float*, float*,
                         const int*);
  Sgemm sgemm_ = nullptr;
};

/*
 * y = x * W^T block by block with LIBXSMM 1.17's batch-reduce GEMM, the kernel that its authors use
 * for block-sparse layers: a call adds up all blocks of a block-row for some tokens.
 */
class Libxsmm {
 public:
  static std::unique_ptr<Libxsmm> load(const std::string& library, std::string* why_not);

  /* Blocks of values are [block_cols][block_rows]. False if the library has no such kernel. */
  bool operator()(int64_t rows, int64_t cols, int64_t block_rows, int64_t block_cols,
                  const int32_t* crow, const int32_t* col, const float* values, int64_t tokens,
                  const float* x, float* y, int threads) const;

 private:
  void* dispatch_ = nullptr;
};

}  // namespace bench
