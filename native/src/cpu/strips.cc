/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
#include "cpu/strips.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "common/error.h"
#include "cpu/strips_quantize.h"

namespace djlbsr::cpu {
namespace {

/* words[strip][group][row] := the groups of one row-major block; padding keeps its zeros. */
template <typename T, int kGroupCols, typename Convert>
void pack_block(const StripWeight& w, const T* from, Convert convert, decltype(convert(T{}))* to) {
  for (int64_t r = 0; r < w.block_rows; ++r) {
    const int64_t strip = r / kStripRows * kStripRows;
    const int64_t left = w.block_rows - strip;
    const int64_t height = left < kStripRows ? left : kStripRows;
    auto* column = to + (strip * w.groups + (r - strip)) * kGroupCols;
    for (int64_t c = 0; c < w.block_cols; ++c, ++from) {
      column[c / kGroupCols * height * kGroupCols + c % kGroupCols] = convert(*from);
    }
  }
}

void pack_int8(const StripWeight& w, const float* values) {
  auto* words = reinterpret_cast<int8_t*>(const_cast<char*>(w.words));
  auto* offsets = const_cast<int32_t*>(w.offsets);
  auto* scales = const_cast<float*>(w.scales);
  const int64_t size = w.block_rows * w.block_cols;
  /* All of them before the first is written: a weight keeps its values or gets all new ones. */
  for (int64_t i = 0; i < w.nnzb * size; ++i) {
    DJLBSR_CHECK(std::isfinite(values[i]),
                 "values[%lld][%lld][%lld] is %g; int8 weights must be finite, so mend it or keep "
                 "the weight in its own format",
                 (long long)(i / size), (long long)(i % size / w.block_cols),
                 (long long)(i % size % w.block_cols), static_cast<double>(values[i]));
  }
  for (int64_t b = 0; b < w.nnzb; ++b, values += size) {
    float most = 0.0f;
    for (int64_t i = 0; i < size; ++i) most = std::fmax(most, std::fabs(values[i]));
    const Quantizer q = quantizer_of(most);
    scales[b] = q.scale;
    const auto quantize = [&q](float value) {
      return static_cast<int8_t>(round_to_int(value * q.inverse));
    };
    pack_block<float, 4>(w, values, quantize, words + b * w.groups * w.block_rows * 4);
    for (int64_t r = 0; r < w.block_rows; ++r) {
      int32_t sum = 0;
      for (int64_t c = 0; c < w.block_cols; ++c) sum += quantize(values[r * w.block_cols + c]);
      offsets[b * w.block_rows + r] = -128 * sum;
    }
  }
}

}  // namespace

const StripKernel& strip_kernel_for([[maybe_unused]] Isa isa, const StripWeight& w,
                                    [[maybe_unused]] int64_t tokens) {
#if defined(__x86_64__)
  if (w.int8) {
    if (isa >= Isa::kAvx512Vnni) {
      /* Lanes are what fills them better, tokens or the rows of a block. Measured on Zen 5. */
      const int64_t enough = std::max<int64_t>(2, std::min<int64_t>(w.block_rows, 12));
      if (w.block_rows < 2 * kStripRows && tokens >= enough) return kInt8Avx512VnniTokens;
      return w.block_rows <= 8 ? kInt8Avx512VnniLow : kInt8Avx512Vnni;
    }
    return isa >= Isa::kAvx2 ? kInt8Avx2 : kInt8Portable;
  }
  if (isa >= Isa::kAmx && amx_serves(w)) return kBf16Amx;
  if (isa >= Isa::kAvx512Bf16) return kBf16Avx512Bf16;
  if (isa >= Isa::kAvx512) return kBf16Avx512;
  return isa >= Isa::kAvx2 ? kBf16Avx2 : kBf16Portable;
#else
  return w.int8 ? kInt8Portable : kBf16Portable;
#endif
}

StripWeight strip_weight_of(const djlbsr_info& info, const void* packed) {
  const Layout layout = layout_of(info);
  const char* base = static_cast<const char*>(packed);
  StripWeight w = {};
  w.crow = reinterpret_cast<const int32_t*>(base + layout.crow);
  w.col_start = reinterpret_cast<const int32_t*>(base + layout.col_start);
  w.words = base + layout.values;
  w.int8 = info.weight_format == DJLBSR_WEIGHT_INT8_BLOCKS;
  if (w.int8) {
    w.offsets = reinterpret_cast<const int32_t*>(base + layout.offsets);
    w.scales = reinterpret_cast<const float*>(base + layout.scales);
    w.used = reinterpret_cast<const uint8_t*>(base + layout.used);
  }
  w.rows = info.rows;
  w.cols = info.cols;
  w.block_rows = info.block_rows;
  w.block_cols = info.block_cols;
  w.block_row_count = info.rows / info.block_rows;
  w.block_col_count = info.cols / info.block_cols;
  w.nnzb = info.nnzb;
  const int64_t group_cols = w.int8 ? 4 : 2;
  w.groups = (info.block_cols + group_cols - 1) / group_cols;
  w.padded_cols = w.groups * group_cols;
  return w;
}

void update_strips(const djlbsr_info& info, void* packed, const void* values) {
  const StripWeight w = strip_weight_of(info, packed);
  if (w.int8) {
    pack_int8(w, static_cast<const float*>(values));
    return;
  }
  const auto* from = static_cast<const uint16_t*>(values);
  auto* to = reinterpret_cast<uint16_t*>(const_cast<char*>(w.words));
  const int64_t size = w.block_rows * w.block_cols;
  for (int64_t b = 0; b < w.nnzb; ++b) {
    pack_block<uint16_t, 2>(
        w, from + b * size, [](uint16_t bits) { return bits; }, to + b * size);
  }
}

void pack_strips(const djlbsr_info& info, const djlbsr_matrix& matrix, void* packed) {
  const StripWeight w = strip_weight_of(info, packed);
  const Layout layout = layout_of(info);
  char* base = static_cast<char*>(packed);
  /* Gaps and padding too: equal weights have equal bytes. */
  std::memset(base, 0, static_cast<size_t>(layout.bytes));
  std::memcpy(base + layout.crow, matrix.crow_indices,
              static_cast<size_t>(w.block_row_count + 1) * 4);
  auto* col_start = reinterpret_cast<int32_t*>(base + layout.col_start);
  auto* used = reinterpret_cast<uint8_t*>(base + layout.used);
  for (int64_t b = 0; b < w.nnzb; ++b) {
    col_start[b] = static_cast<int32_t>(matrix.col_indices[b] * w.padded_cols);
    if (w.int8) used[matrix.col_indices[b]] = 1;
  }
  update_strips(info, packed, matrix.values);
}

}  // namespace djlbsr::cpu
