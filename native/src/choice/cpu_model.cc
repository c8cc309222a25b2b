/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
#include <algorithm>
#include <cmath>

#include "choice/cost_model.h"
#include "choice/decide.h"
#include "common/meta.h"
#include "cpu/cpu_backend.h"
#include "cpu/strips.h"

namespace djlbsr::choice {
namespace {

constexpr double kIoElements = 16;
constexpr double kDenseWork = 1 << 15; /* multiply-adds for which dense uses a further thread */
constexpr double kWakeSeconds = 4e-6;

/* A coordinate on an axis of powers of two: the cell, the place in it, and what lies outside. */
struct Place {
  int cell;
  double fraction;
  double below; /* octaves below the first point */
  double above; /* octaves above the last */
};

Place place(double value, const int64_t* axis, int count) {
  const double x = std::log2(std::max(value, 1.0));
  const double first = std::log2(static_cast<double>(axis[0]));
  const double last = std::log2(static_cast<double>(axis[count - 1]));
  const double inside = std::clamp(x, first, last);
  int cell = 0;
  while (cell + 2 < count && inside >= std::log2(static_cast<double>(axis[cell + 1]))) ++cell;
  const double low = std::log2(static_cast<double>(axis[cell]));
  const double high = std::log2(static_cast<double>(axis[cell + 1]));
  return {cell, (inside - low) / (high - low), std::max(first - x, 0.0), std::max(x - last, 0.0)};
}

double octaves(const int64_t* axis) {
  return std::log2(static_cast<double>(axis[1]) / static_cast<double>(axis[0]));
}

double seconds(const CpuProfile& profile, int kind, double size, double tokens) {
  const Place s = place(size, kSize, kSizes);
  const Place t = place(tokens, kTokens, kTokenCounts);
  const auto at = [&](int si, int ti) {
    return std::log2(profile.seconds[point(kind, s.cell + si, t.cell + ti)]);
  };
  const auto along_tokens = [&](int si) {
    return at(si, 0) * (1 - t.fraction) + at(si, 1) * t.fraction;
  };
  const double low = along_tokens(0);
  const double high = along_tokens(1);
  double log_time = low * (1 - s.fraction) + high * s.fraction;
  log_time += s.above + t.above;
  log_time -= s.below * std::clamp((high - low) / octaves(kSize), 0.0, 1.0);
  return std::exp2(log_time);
}

int kind_of(const djlbsr_info& info) {
  const int64_t block_rows = info.block_rows;
  if (block_rows == 1) return k1x16;
  if (block_rows < 8) return k4x4;
  if (info.block_cols == 1 && block_rows >= 16) return k16x1;
  /* bfloat16 was timed on its dot products there, which not all of these blocks get. */
  if (info.dtype == DJLBSR_BFLOAT16 && !cpu::uses_strips(info)) return k8x8;
  if (block_rows < 16) return k8x8;
  return block_rows < 32 ? k16x16 : k32x32;
}

/* The rows of a block with those that its kind leaves idle. */
double padded_rows(int64_t block_rows) {
  const int64_t step = block_rows == 1 ? 1 : block_rows < 8 ? 4 : block_rows < 16 ? 8 : 16;
  return static_cast<double>((block_rows + step - 1) / step * step);
}

/* The stored elements of the profile's weight, of 4 sqrt(E) rows and columns, that costs as much.
 */
double equivalent_size(double stored, double rows_and_cols) {
  const double half = 2 * kIoElements;
  const double root = std::sqrt(half * half + stored + kIoElements * rows_and_cols) - half;
  return root * root;
}

double with_threads(double seconds, double useful, int32_t threads) {
  const double used = std::clamp(std::floor(useful), 1.0, static_cast<double>(threads));
  return used == 1 ? seconds : seconds / used + kWakeSeconds;
}

/* A pass over y that the block-sparse kernel does on its way; nanoseconds for an element. */
double activation_seconds(const djlbsr_info& info, double tokens, int32_t activation) {
  if (activation == DJLBSR_NONE) return 0;
  const double nanos = activation == DJLBSR_RELU ? 0.15 : 0.6;
  return nanos * 1e-9 * static_cast<double>(info.rows) * tokens;
}

}  // namespace

std::string point_name(int index) {
  const int kind = index / (kSizes * kTokenCounts);
  const int64_t size = kSize[index / kTokenCounts % kSizes];
  const std::string what = kind == kDense ? std::string("dense, ")
                                          : std::to_string(kBlocks[kind].rows) + "x" +
                                                std::to_string(kBlocks[kind].cols) + " blocks, ";
  const std::string of = kind == kDense ? " elements, " : " stored elements, ";
  const int64_t tokens = kTokens[index % kTokenCounts];
  return what + std::to_string(size) + of + std::to_string(tokens) +
         (tokens == 1 ? " token" : " tokens");
}

djlbsr_prediction predict_cpu(const djlbsr_info& info, int64_t tokens, int32_t activation,
                              int32_t threads, const CpuProfile& profile) {
  if (tokens == 0 || info.rows == 0 || info.cols == 0) return decide(0, 0);
  const double t = static_cast<double>(tokens);
  /* A block of one row costs as much as one of 4 columns. */
  const int64_t cols =
      info.block_rows == 1 ? std::max<int64_t>(info.block_cols, 4) : info.block_cols;
  const double stored =
      static_cast<double>(info.nnzb) * padded_rows(info.block_rows) * static_cast<double>(cols);
  const double size = equivalent_size(stored, static_cast<double>(info.rows + info.cols));
  const double all = static_cast<double>(info.rows) * static_cast<double>(info.cols);
  const double bsr = seconds(profile, kind_of(info), size, t);
  const double dense = seconds(profile, kDense, all, t) + activation_seconds(info, t, activation);
  return decide(with_threads(bsr, cpu::useful_threads(info, tokens), threads),
                with_threads(dense, all * t / kDenseWork, threads));
}

}  // namespace djlbsr::choice
