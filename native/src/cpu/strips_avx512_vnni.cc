/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
#include <immintrin.h>

#include "cpu/int8_rows.h"
#include "cpu/strips_impl.h"
#include "cpu/transpose_avx512.h"

namespace djlbsr::cpu {
namespace {

/* vpdpbusd takes x unsigned, 128 more than it is: sums start at -128 times the row's weights. */
struct Int8Ops {
  using Element = float;
  using Words = __m512i;
  using X = __m512i;
  using Sum = __m512;
  using Acc = __m512i;

  static constexpr bool kInt8 = true;
  static constexpr int kLanes = 16;
  /* As many integer as fp32 sums: 12 and 12. */
  static constexpr int kTokens1 = 12;
  static constexpr int kTokens2 = 6;
  static constexpr int kXColBytes = 1;
  static constexpr int kXBytes = 4;

  static Words load(const char* p) { return _mm512_loadu_si512(p); }
  static X broadcast(const char* p) {
    int quad;
    std::memcpy(&quad, p, 4);
    return _mm512_set1_epi32(quad);
  }
  static Sum zero() { return _mm512_setzero_ps(); }
  static Acc start(const int32_t* offsets) { return _mm512_loadu_si512(offsets); }
  /* The intrinsic costs GCC 12 a copy of each sum before and after it. */
  static Acc dot(Acc acc, Words w, X x) {
    asm("vpdpbusd %2, %1, %0" : "+v"(acc) : "v"(x), "v"(w));
    return acc;
  }
  static Sum flush(Sum sum, Acc acc, float scale) {
    return _mm512_fmadd_ps(_mm512_cvtepi32_ps(acc), _mm512_set1_ps(scale), sum);
  }
  static void store(Sum sum, float* to) { _mm512_storeu_ps(to, sum); }
};

/* For strips of up to 8 rows: half as wide, and on some machines twice as many a cycle. */
struct Int8LowOps {
  using Element = float;
  using Words = __m256i;
  using X = __m256i;
  using Sum = __m256;
  using Acc = __m256i;

  static constexpr bool kInt8 = true;
  static constexpr int kLanes = 8;
  static constexpr int kTokens1 = 12;
  static constexpr int kTokens2 = 6;
  static constexpr int kXColBytes = 1;
  static constexpr int kXBytes = 4;

  static Words load(const char* p) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  }
  static X broadcast(const char* p) {
    int quad;
    std::memcpy(&quad, p, 4);
    return _mm256_set1_epi32(quad);
  }
  static Sum zero() { return _mm256_setzero_ps(); }
  static Acc start(const int32_t* offsets) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(offsets));
  }
  static Acc dot(Acc acc, Words w, X x) {
    asm("vpdpbusd %2, %1, %0" : "+v"(acc) : "v"(x), "v"(w));
    return acc;
  }
  static Sum flush(Sum sum, Acc acc, float scale) {
    return _mm256_fmadd_ps(_mm256_cvtepi32_ps(acc), _mm256_set1_ps(scale), sum);
  }
  static void store(Sum sum, float* to) { _mm256_storeu_ps(to, sum); }
};

/* Tokens that lie together in a panel, panel[group][token], as words of 4 columns. */
constexpr int64_t kPanelTokens = 16;

/* The panel of some tokens; lanes beyond the last are 0. */
void quantize_panel(const StripWeight& w, const djlbsr_linear_args& args, int64_t token_begin,
                    int64_t token_end, char* to, int64_t, float* scales) {
  const int64_t tokens = token_end - token_begin;
  const float* x = static_cast<const float*>(args.x) + token_begin * args.x_stride;
  float inverse[kPanelTokens];
  for (int64_t t = 0; t < tokens; ++t) {
    const Quantizer q = row_quantizer(w, x + t * args.x_stride);
    scales[t] = q.scale;
    inverse[t] = q.inverse;
  }
  alignas(64) uint8_t words[kPanelTokens][kChunkGroups * 4] = {};
  const int64_t groups = w.block_col_count * w.groups;
  for (int64_t g = 0; g < groups; g += kChunkGroups) {
    const Chunk chunk = chunk_at(w, g, groups);
    for (int64_t t = 0; t < tokens; ++t) {
      quantize_chunk<uint8_t, 128>(chunk, x + t * args.x_stride, inverse[t], words[t]);
    }
    transpose_16x16([&](int t) { return reinterpret_cast<const float*>(words[t]); },
                    reinterpret_cast<float*>(to + g * kPanelTokens * 4), kPanelTokens);
  }
}

constexpr int64_t kSlabRows = 32; /* rows that are gathered before they are stored */

/* Groups of columns that all tiles of a slab do before the next: these blocks, their part of x and
   the sums stay in the L1 cache. */
constexpr int64_t kGroupsAtOnce = 128;

/* By which words and offsets are prefetched: the tiles of a group keep the hardware from seeing
   them as one stream. */
constexpr int64_t kAheadBytes = 4096;

/*
 * A lane is a token, words of W are broadcast: for blocks whose rows do not fill two vectors. A
 * tile is some rows of a block-row by up to kMostPanels panels.
 */
class TokensInLanes {
 public:
  static void run(const StripWeight& w, const djlbsr_linear_args& args, const StripRows& x,
                  const StripTask& task) {
    TokensInLanes(w, args, x, task).run();
  }

  static constexpr int64_t kMostPanels = 2;
  static constexpr int64_t kTileTokens = kMostPanels * kPanelTokens;

 private:
  TokensInLanes(const StripWeight& w, const djlbsr_linear_args& args, const StripRows& x,
                const StripTask& task)
      : w_(w),
        args_(args),
        x_(x),
        task_(task),
        panel_bytes_(x.stride * kPanelTokens),
        block_bytes_(w.groups * w.block_rows * 4),
        col_limit_((w.block_col_count - 1) * w.padded_cols) {}

  void run() {
    const int64_t row_end = task_.block_row_end * w_.block_rows;
    for (int64_t row = task_.block_row_begin * w_.block_rows; row < row_end; row += kSlabRows) {
      const int64_t rows = std::min(kSlabRows, row_end - row);
      for (int64_t t = task_.token_begin; t < task_.token_end; t += kTileTokens) {
        const int64_t tokens = std::min(kTileTokens, task_.token_end - t);
        const char* x = x_.rows + (t - x_.first_token) * x_.stride;
        /* y may be in memory, and its lines are far from each other. */
        for (int64_t a = 0; a < tokens; ++a) {
          const float* y = static_cast<float*>(args_.y) + (t + a) * args_.y_stride + row;
          __builtin_prefetch(y, 1, 2);
          __builtin_prefetch(y + 16, 1, 2);
        }
        if (tokens > kPanelTokens) {
          slab<2>(x, row, rows);
        } else {
          slab<1>(x, row, rows);
        }
        for (int64_t p = 0; p < tokens; p += kPanelTokens) {
          store(sums_ + p, t + p, std::min(kPanelTokens, tokens - p), row, rows);
        }
      }
    }
  }

  /* Sums some rows, which may be of several block-rows. */
  template <int kPanels>
  void slab(const char* x, int64_t row, int64_t rows) {
    constexpr int kRows = 8 / kPanels;
    for (int64_t r = 0; r < rows;) {
      const int64_t i = (row + r) / w_.block_rows;
      const int64_t offset = (row + r) % w_.block_rows;
      const int64_t count = std::min(rows - r, w_.block_rows - offset);
      const int64_t begin = strip_clamp(w_.crow[i], w_.nnzb);
      const int64_t stored = strip_clamp(w_.crow[i + 1], w_.nnzb);
      const int64_t end = std::min(stored, begin + w_.block_col_count);
      const int64_t most = count > kRows ? std::max<int64_t>(1, kGroupsAtOnce / w_.groups) : end;
      int64_t b = begin;
      do {
        const Blocks blocks = {b, std::min(b + most, end), b == begin};
        for (int64_t done = 0; done < count;) {
          /* A tile lies in one strip. */
          const int64_t at = offset + done;
          const int64_t left = std::min(count - done, kStripRows - at % kStripRows);
          done += tile_of<kRows, kPanels>(x, blocks, at, left, sums_ + (r + done) * kTileTokens);
        }
        b = blocks.end;
      } while (b < end);
      r += count;
    }
  }

  /* Blocks of a block-row, the first of it or not. */
  struct Blocks {
    int64_t begin;
    int64_t end;
    bool first;
  };

  /* One tile of kRows rows or of the largest half of it that still fits; returns its rows. */
  template <int kRows, int kPanels>
  int64_t tile_of(const char* x, const Blocks& blocks, int64_t r, int64_t rows, float* sums) {
    if constexpr (kRows > 1) {
      if (rows < kRows) return tile_of<kRows / 2, kPanels>(x, blocks, r, rows, sums);
    }
    tile<kRows, kPanels>(x, blocks, r, sums);
    return kRows;
  }

  /* Adds some blocks to the sums of a tile, or starts those. */
  template <int kRows, int kPanels>
  __attribute__((noinline)) void tile(const char* panel, const Blocks& blocks, int64_t r,
                                      float* sums) const {
    const int64_t strip = r / kStripRows * kStripRows;
    const int64_t step = std::min(kStripRows, w_.block_rows - strip) * 4;
    const int64_t panel_bytes = panel_bytes_;
    const int64_t x_bytes = w_.groups * kPanelTokens * 4;
    const int64_t block_rows = w_.block_rows;
    const int64_t block_bytes = block_bytes_;
    const int64_t col_limit = col_limit_;
    const char* block =
        w_.words + blocks.begin * block_bytes_ + strip * w_.groups * 4 + (r - strip) * 4;
    const int32_t* offsets = w_.offsets + blocks.begin * block_rows + r;
    const float* scales = w_.scales + blocks.begin;
    const int32_t* columns = w_.col_start + blocks.begin;
    const int32_t* const last = w_.col_start + blocks.end;
    __m512 sum[kRows][kPanels];
#pragma GCC unroll 8
    for (int j = 0; j < kRows; ++j) {
#pragma GCC unroll 4
      for (int p = 0; p < kPanels; ++p) {
        const float* from = sums + j * kTileTokens + p * kPanelTokens;
        sum[j][p] = blocks.first ? _mm512_setzero_ps() : _mm512_load_ps(from);
      }
    }
    for (; columns < last; block += block_bytes, offsets += block_rows) {
      const char* x = panel + strip_clamp(*columns++, col_limit) * kPanelTokens;
      const char* const x_end = x + x_bytes;
      const char* words = block;
      __m512i acc[kRows][kPanels];
#pragma GCC unroll 8
      for (int j = 0; j < kRows; ++j) {
#pragma GCC unroll 4
        for (int p = 0; p < kPanels; ++p) acc[j][p] = _mm512_set1_epi32(offsets[j]);
      }
      /* A block has a group: a loop that could end at once costs GCC copies of all sums. */
      do {
        __m512i xv[kPanels];
#pragma GCC unroll 4
        for (int p = 0; p < kPanels; ++p) xv[p] = _mm512_loadu_si512(x + p * panel_bytes);
#pragma GCC unroll 8
        for (int j = 0; j < kRows; ++j) {
          const __m512i wv = Int8Ops::broadcast(words + j * 4);
#pragma GCC unroll 4
          for (int p = 0; p < kPanels; ++p) acc[j][p] = Int8Ops::dot(acc[j][p], wv, xv[p]);
        }
        x += kPanelTokens * 4;
        __builtin_prefetch(words + kAheadBytes);
        words += step;
      } while (x < x_end);
      __builtin_prefetch(offsets + kAheadBytes / 4);
      const float scale = *scales++;
#pragma GCC unroll 8
      for (int j = 0; j < kRows; ++j) {
#pragma GCC unroll 4
        for (int p = 0; p < kPanels; ++p) sum[j][p] = Int8Ops::flush(sum[j][p], acc[j][p], scale);
      }
    }
#pragma GCC unroll 8
    for (int j = 0; j < kRows; ++j) {
#pragma GCC unroll 4
      for (int p = 0; p < kPanels; ++p) {
        Int8Ops::store(sum[j][p], sums + j * kTileTokens + p * kPanelTokens);
      }
    }
  }

  /* The rows of a slab for the tokens of one panel. */
  void store(const float* sums, int64_t token, int64_t tokens, int64_t row, int64_t rows) const {
    alignas(64) float z[kPanelTokens * kSlabRows];
    alignas(64) float bias[kSlabRows] = {};
    const __mmask16 masks[] = {mask_of(rows), mask_of(rows - 16)};
    const int64_t whole = rows > 16 ? 32 : 16;
    for (int64_t r = 0; r < kSlabRows; r += 16) {
      transpose_16x16([&](int j) { return sums + (r + j) * kTileTokens; }, z + r, kSlabRows);
      if (args_.bias == nullptr) continue;
      const float* from = static_cast<const float*>(args_.bias) + row + r;
      _mm512_store_ps(bias + r, _mm512_maskz_loadu_ps(masks[r / 16], from));
    }
    for (int64_t t = 0; t < tokens; ++t) {
      float* of_token = z + t * kSlabRows;
      const float scale = x_.scales[token + t - x_.first_token];
      for (int64_t r = 0; r < whole; r += 16) {
        const __m512 sum = _mm512_load_ps(of_token + r);
        _mm512_store_ps(of_token + r, _mm512_mul_ps(sum, _mm512_set1_ps(scale)));
      }
      finish(of_token, bias, whole, args_.activation);
      float* y = static_cast<float*>(args_.y) + (token + t) * args_.y_stride + row;
      for (int64_t r = 0; r < kSlabRows; r += 16) {
        _mm512_mask_storeu_ps(y + r, masks[r / 16], _mm512_load_ps(of_token + r));
      }
    }
  }

  static __mmask16 mask_of(int64_t count) {
    return static_cast<__mmask16>(count >= 16 ? 0xffff : count <= 0 ? 0 : (1 << count) - 1);
  }

  const StripWeight& w_;
  const djlbsr_linear_args& args_;
  const StripRows& x_;
  const StripTask& task_;
  const int64_t panel_bytes_;
  const int64_t block_bytes_;
  const int64_t col_limit_;
  alignas(64) float sums_[kSlabRows * kTileTokens] = {}; /* [row][token] */
};

}  // namespace

const StripKernel kInt8Avx512VnniLow = {"int8_avx512_vnni_low",      1, Int8LowOps::kXColBytes,
                                        Int8LowOps::kTokens1,        0, quantize_rows<uint8_t, 128>,
                                        StripRunner<Int8LowOps>::run};
const StripKernel kInt8Avx512Vnni = {"int8_avx512_vnni",       1, Int8Ops::kXColBytes,
                                     Int8Ops::kTokens1,        0, quantize_rows<uint8_t, 128>,
                                     StripRunner<Int8Ops>::run};
const StripKernel kInt8Avx512VnniTokens = {
    "int8_avx512_vnni_tokens", kPanelTokens, 1, TokensInLanes::kTileTokens, 0, quantize_panel,
    TokensInLanes::run};

}  // namespace djlbsr::cpu
