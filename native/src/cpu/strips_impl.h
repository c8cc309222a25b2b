/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
/*
 * The strip kernels for any ISA. A file includes this and instantiates `StripRunner` with a type
 * Ops, in an unnamed namespace, that has
 *
 *   kLanes, kTokens1, kTokens2       lanes of a vector; tokens of a tile of one and of two vectors
 *   kXColBytes, kXBytes              bytes of x that meet one column, one group of columns
 *   Element, kInt8                   what x, bias and y are; whether weights are int8
 *   Words load(p), X broadcast(p)    kLanes words of W, one group of x
 *   Acc dot(Acc, Words, X)           adds the products of a group
 *   Sum, store(Sum, float*)          fp32 lanes
 *   Acc zero() (bf16; Acc is Sum) or Acc start(offsets) and Sum flush(Sum, Acc, scale) (int8)
 *
 * Lanes past a strip's last row compute on whatever follows in packed memory and are never stored.
 * Nothing here may be visible outside the file, as in kernels_impl.h.
 */
#include <cstring>

#include "cpu/activations.h"
#include "cpu/half.h"
#include "cpu/strips.h"

namespace djlbsr::cpu {
namespace {

[[maybe_unused]] inline float float_of(float value) { return value; }
[[maybe_unused]] inline float float_of(Bfloat16 value) { return to_float(value); }
[[maybe_unused]] inline void put(float value, float* to) { *to = value; }
[[maybe_unused]] inline void put(float value, Bfloat16* to) { *to = to_bfloat16(value); }

/* Indices come from packed memory, which may have been altered: they must not lead outside. */
inline int64_t strip_clamp(int32_t index, int64_t limit) {
  const int64_t i = static_cast<uint32_t>(index);
  return i < limit ? i : limit;
}

template <class Ops>
class StripRunner {
 public:
  static void run(const StripWeight& w, const djlbsr_linear_args& args, const StripRows& x,
                  const StripTask& task) {
    StripRunner(w, args, x, task).run();
  }

 private:
  using T = typename Ops::Element;
  static constexpr int kMaxVectors = 4;
  static constexpr int kMaxFloats =
      kMaxVectors * Ops::kLanes < kFinishStep ? kFinishStep : kMaxVectors * Ops::kLanes;

  StripRunner(const StripWeight& w, const djlbsr_linear_args& args, const StripRows& x,
              const StripTask& task)
      : w_(w),
        args_(args),
        x_(x),
        task_(task),
        block_bytes_(w.groups * w.block_rows * 4),
        col_limit_(w.block_col_count * w.padded_cols - w.padded_cols) {}

  void run() {
    for (int64_t i = task_.block_row_begin; i < task_.block_row_end; ++i) {
      const int64_t whole = w_.block_rows / kStripRows * kStripRows;
      /* With few tokens more rows at once keep enough sums in flight. */
      const int64_t most =
          (task_.token_end - task_.token_begin <= 2 ? kMaxVectors : 2) * Ops::kLanes;
      for (int64_t r = 0; r < whole;) {
        const int64_t rows = whole - r < most ? whole - r : most;
        rows_of(i, r, rows, kStripRows);
        r += rows;
      }
      for (int64_t r = whole; r < w_.block_rows; r += Ops::kLanes) {
        const int64_t left = w_.block_rows - r;
        rows_of(i, r, left < Ops::kLanes ? left : Ops::kLanes, w_.block_rows - whole);
      }
    }
  }

  /* Rows [r, r + rows) of block-row i, in strips of `height` rows. */
  void rows_of(int64_t i, int64_t r, int64_t rows, int64_t height) {
    for (int64_t j = 0; j < kMaxFloats; ++j) bias_[j] = 0.0f;
    if (args_.bias != nullptr) {
      const T* bias = static_cast<const T*>(args_.bias) + i * w_.block_rows + r;
      for (int64_t j = 0; j < rows; ++j) bias_[j] = float_of(bias[j]);
    }
    switch ((rows + Ops::kLanes - 1) / Ops::kLanes) {
      case 1:
        return tokens_of<1>(i, r, rows, height);
      case 2:
        return tokens_of<2>(i, r, rows, height);
      case 3:
        return tokens_of<3>(i, r, rows, height);
      default:
        return tokens_of<4>(i, r, rows, height);
    }
  }

  template <int kVectors>
  void tokens_of(int64_t i, int64_t r, int64_t rows, int64_t height) {
    int64_t t = task_.token_begin;
    if constexpr (kVectors <= 2) {
      constexpr int kMost = kVectors == 1 ? Ops::kTokens1 : Ops::kTokens2;
      for (; t + kMost <= task_.token_end; t += kMost) tile<kMost, kVectors>(i, r, rows, height, t);
      if constexpr (kMost > 8) {
        for (; t + 8 <= task_.token_end; t += 8) tile<8, kVectors>(i, r, rows, height, t);
      }
      for (; t + 4 <= task_.token_end; t += 4) tile<4, kVectors>(i, r, rows, height, t);
    }
    for (; t + 2 <= task_.token_end; t += 2) tile<2, kVectors>(i, r, rows, height, t);
    for (; t < task_.token_end; ++t) tile<1, kVectors>(i, r, rows, height, t);
  }

  /* What some tokens and some rows of a block-row read. */
  struct Tile {
    const int32_t* columns; /* of its stored blocks */
    const int32_t* columns_end;
    int64_t col_limit;
    const char* x;          /* of the first token */
    const char* words;      /* of the first row in the first block */
    const int32_t* offsets; /* likewise */
    const float* scales;
    int64_t block_rows;
    int64_t block_bytes;
    int64_t strip_bytes;
    int64_t groups;
    int64_t step; /* bytes from group to group */
  };

  template <int kTokens, int kVectors>
  void tile(int64_t i, int64_t r, int64_t rows, int64_t height, int64_t t) {
    const int64_t begin = strip_clamp(w_.crow[i], w_.nnzb);
    const int64_t stored = strip_clamp(w_.crow[i + 1], w_.nnzb);
    const int64_t most = begin + w_.block_col_count;
    Tile tile = {};
    tile.columns = w_.col_start + begin;
    tile.columns_end = w_.col_start + (stored < most ? stored : most);
    tile.col_limit = col_limit_;
    tile.x = x_.rows + (t - x_.first_token) * x_.stride;
    tile.strip_bytes = kStripRows * w_.groups * 4;
    tile.words =
        w_.words + begin * block_bytes_ + r / kStripRows * tile.strip_bytes + r % kStripRows * 4;
    if constexpr (Ops::kInt8) {
      tile.offsets = w_.offsets + begin * w_.block_rows + r;
      tile.scales = w_.scales + begin;
    }
    tile.block_rows = w_.block_rows;
    tile.block_bytes = block_bytes_;
    tile.groups = w_.groups;
    tile.step = height * 4;
    constexpr int64_t kCount =
        (kVectors * Ops::kLanes + kFinishStep - 1) / kFinishStep * kFinishStep;
    alignas(64) float z[kTokens * kCount];
    if constexpr (kVectors * Ops::kLanes < kCount) std::memset(z, 0, sizeof(z));
    sum_blocks<kTokens, kVectors, kCount>(tile, x_.stride, z);
    for (int64_t a = 0; a < kTokens; ++a) {
      finish_and_store<kCount>(z + a * kCount, t + a, i * w_.block_rows + r, rows);
    }
  }

  template <int kTokens, int kVectors, int64_t kCount>
  static __attribute__((noinline)) void sum_blocks(const Tile& tile, int64_t stride, float* z) {
    typename Ops::Sum sum[kTokens][kVectors];
#pragma GCC unroll 16
    for (int a = 0; a < kTokens; ++a) {
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) sum[a][v] = Ops::zero();
    }
    /* The blocks of a block-row follow each other: all pointers only move on. */
    const char* words = tile.words;
    [[maybe_unused]] const int32_t* offsets = tile.offsets;
    [[maybe_unused]] const float* scales = tile.scales;
    for (const int32_t* columns = tile.columns; columns < tile.columns_end;) {
      /* What a block needs once is read again for each. The compiler would keep it in the registers
         that the rows of x need, and those that it ran out of in vector registers: coming back from
         there waits for the products. */
      asm volatile("" ::: "memory");
      const char* x = tile.x + strip_clamp(*columns++, tile.col_limit) * Ops::kXColBytes;
      if constexpr (Ops::kInt8) {
        typename Ops::Acc acc[kTokens][kVectors];
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; ++v) {
          const typename Ops::Acc start = Ops::start(offsets + v * Ops::kLanes);
#pragma GCC unroll 16
          for (int a = 0; a < kTokens; ++a) acc[a][v] = start;
        }
        multiply<kTokens, kVectors>(acc, words, tile, x, stride);
        const float scale = *scales++;
#pragma GCC unroll 16
        for (int a = 0; a < kTokens; ++a) {
#pragma GCC unroll 4
          for (int v = 0; v < kVectors; ++v) {
            sum[a][v] = Ops::flush(sum[a][v], acc[a][v], scale);
          }
        }
        offsets += tile.block_rows;
      } else {
        multiply<kTokens, kVectors>(sum, words, tile, x, stride);
      }
      words += tile.block_bytes;
    }
#pragma GCC unroll 16
    for (int a = 0; a < kTokens; ++a) {
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) {
        Ops::store(sum[a][v], z + a * kCount + v * Ops::kLanes);
      }
    }
  }

  template <int kTokens, int kVectors, class Acc>
  static inline __attribute__((always_inline)) void multiply(Acc (&acc)[kTokens][kVectors],
                                                             const char* w, const Tile& tile,
                                                             const char* x, int64_t stride) {
    /* A pointer for every three rows of x, which the compiler must not derive from each other: it
       would keep a register for each row. */
    constexpr int kPointers = (kTokens + 2) / 3;
    const char* rows[kPointers];
#pragma GCC unroll 16
    for (int i = 0; i < kPointers; ++i) {
      rows[i] = x;
      x += 3 * stride;
      asm("" : "+r"(rows[i]));
    }
    /* Vectors of one tile may lie in different strips, whole ones then. */
    const int64_t step = kVectors > 1 ? kStripRows * 4 : tile.step;
    const int64_t strip_bytes = tile.strip_bytes;
    int64_t left = tile.groups;
    do { /* a block has a group: a loop that could end at once would cost copies of all sums */
      typename Ops::Words wv[kVectors];
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) {
        constexpr int64_t kLanes = Ops::kLanes;
        wv[v] = Ops::load(w + v * kLanes / kStripRows * strip_bytes + v * kLanes % kStripRows * 4);
      }
#pragma GCC unroll 16
      for (int a = 0; a < kTokens; ++a) {
        const typename Ops::X xv = Ops::broadcast(rows[a / 3] + a % 3 * stride);
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; ++v) acc[a][v] = Ops::dot(acc[a][v], wv[v], xv);
      }
      w += step;
#pragma GCC unroll 16
      for (int i = 0; i < kPointers; ++i) rows[i] += Ops::kXBytes;
    } while (--left > 0);
  }

  template <int64_t kCount>
  void finish_and_store(float* z, int64_t token, int64_t row, int64_t rows) {
    if constexpr (Ops::kInt8) {
      const float scale = x_.scales[token - x_.first_token];
      for (int64_t j = 0; j < kCount; ++j) z[j] *= scale;
    }
    finish(z, bias_, kCount, args_.activation);
    T* y = static_cast<T*>(args_.y) + token * args_.y_stride + row;
    if (rows == kCount) {
      for (int64_t j = 0; j < kCount; ++j) put(z[j], y + j);
    } else {
      for (int64_t j = 0; j < rows; ++j) put(z[j], y + j);
    }
  }

  const StripWeight& w_;
  const djlbsr_linear_args& args_;
  const StripRows& x_;
  const StripTask& task_;
  const int64_t block_bytes_;
  const int64_t col_limit_;
  alignas(64) float bias_[kMaxFloats];
};

/* bf16 rows as they are, but further from each other's cache sets. */
[[maybe_unused]] void copy_rows(const StripWeight& w, const djlbsr_linear_args& args,
                                int64_t token_begin, int64_t token_end, char* to, int64_t stride,
                                float*) {
  for (int64_t t = token_begin; t < token_end; ++t, to += stride) {
    std::memcpy(to, static_cast<const Bfloat16*>(args.x) + t * args.x_stride,
                static_cast<size_t>(w.cols) * 2);
  }
}

/* bf16 rows as fp32, for the ISAs without a bf16 product. */
[[maybe_unused]] void widen_rows(const StripWeight& w, const djlbsr_linear_args& args,
                                 int64_t token_begin, int64_t token_end, char* to, int64_t stride,
                                 float*) {
  for (int64_t t = token_begin; t < token_end; ++t, to += stride) {
    const Bfloat16* from = static_cast<const Bfloat16*>(args.x) + t * args.x_stride;
    float* row = reinterpret_cast<float*>(to);
    for (int64_t c = 0; c < w.cols; ++c) row[c] = to_float(from[c]);
  }
}

}  // namespace
}  // namespace djlbsr::cpu
