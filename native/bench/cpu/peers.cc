/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
#include "peers.h"

#include <dlfcn.h>

#include <algorithm>
#include <vector>

namespace bench {
namespace {

void* open(const std::string& library, std::string* why_not) {
  if (library.empty()) {
    *why_not = "no library given";
    return nullptr;
  }
  void* handle = dlopen(library.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) *why_not = dlerror();
  return handle;
}

using BatchReduce = void (*)(const float**, const float**, float*, const unsigned long long*);
using Dispatch = BatchReduce (*)(int, int, int, const int*, const int*, const int*, const float*,
                                 const float*, const int*, const int*);

/* Tokens of a call: as many as LIBXSMM's own layers give to one. */
constexpr int64_t kTokens = 64;

}  // namespace

std::unique_ptr<DenseGemm> DenseGemm::load(const std::string& library, std::string* why_not) {
  void* handle = open(library, why_not);
  if (handle == nullptr) return nullptr;
  auto gemm = std::make_unique<DenseGemm>();
  gemm->sgemm_ = reinterpret_cast<Sgemm>(dlsym(handle, "sgemm_"));
  if (gemm->sgemm_ == nullptr) {
    *why_not = library + " exports no sgemm_";
    return nullptr;
  }
  return gemm;
}

void DenseGemm::operator()(int64_t rows, int64_t cols, int64_t tokens, const float* w,
                           const float* x, float* y) const {
  const int m = static_cast<int>(rows);
  const int n = static_cast<int>(tokens);
  const int k = static_cast<int>(cols);
  const float one = 1.0f;
  const float zero = 0.0f;
  /* Row-major matrices are the transposes of column-major ones. */
  sgemm_("T", "N", &m, &n, &k, &one, w, &k, x, &k, &zero, y, &m);
}

std::unique_ptr<Libxsmm> Libxsmm::load(const std::string& library, std::string* why_not) {
  void* handle = open(library, why_not);
  if (handle == nullptr) return nullptr;
  auto xsmm = std::make_unique<Libxsmm>();
  xsmm->dispatch_ = dlsym(handle, "libxsmm_smmdispatch_reducebatch_addr");
  if (xsmm->dispatch_ == nullptr) {
    *why_not = library + " exports no libxsmm_smmdispatch_reducebatch_addr (LIBXSMM 1.17 has it)";
    return nullptr;
  }
  return xsmm;
}

bool Libxsmm::operator()(int64_t rows, int64_t cols, int64_t block_rows, int64_t block_cols,
                         const int32_t* crow, const int32_t* col, const float* values,
                         int64_t tokens, const float* x, float* y, int threads) const {
  const auto dispatch = reinterpret_cast<Dispatch>(dispatch_);
  const int lda = static_cast<int>(block_rows);
  const int ldb = static_cast<int>(cols);
  const int ldc = static_cast<int>(rows);
  const float one = 1.0f;
  const float zero = 0.0f;
  const auto kernel_for = [&](int64_t n) {
    return dispatch(lda, static_cast<int>(n), static_cast<int>(block_cols), &lda, &ldb, &ldc, &one,
                    &zero, nullptr, nullptr);
  };
  const int64_t step = std::min(tokens, kTokens);
  const BatchReduce whole = kernel_for(step);
  const BatchReduce rest = tokens % step == 0 ? whole : kernel_for(tokens % step);
  if (whole == nullptr || rest == nullptr) return false;
  const int64_t panels = (tokens + step - 1) / step;
  const int64_t block_rows_count = rows / block_rows;
#pragma omp parallel num_threads(threads)
  {
    std::vector<const float*> a;
    std::vector<const float*> b;
#pragma omp for collapse(2) schedule(dynamic, 4)
    for (int64_t panel = 0; panel < panels; ++panel) {
      for (int64_t i = 0; i < block_rows_count; ++i) {
        const int64_t first = panel * step;
        float* to = y + first * rows + i * block_rows;
        a.clear();
        b.clear();
        for (int32_t k = crow[i]; k < crow[i + 1]; ++k) {
          a.push_back(values + k * block_rows * block_cols);
          b.push_back(x + first * cols + col[k] * block_cols);
        }
        const unsigned long long count = a.size();
        if (count == 0) {
          for (int64_t t = 0; t < std::min(step, tokens - first); ++t) {
            std::fill(to + t * rows, to + t * rows + block_rows, 0.0f);
          }
          continue;
        }
        (tokens - first < step ? rest : whole)(a.data(), b.data(), to, &count);
      }
    }
  }
  return true;
}

}  // namespace bench
