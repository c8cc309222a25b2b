/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
/*
 * bf16 on AMX tiles. A is x, 16 tokens by up to 32 columns straight from the caller's rows; B is a
 * piece of a strip, up to 16 groups by 16 rows; C is 16 tokens by 16 rows of y, in fp32. Tiles of C
 * stay in registers over all blocks of a block-row: 2 x 2 of them for blocks of 32 rows and more,
 * 4 x 1 for a strip alone.
 *
 * tdpbf16ps sums the even and the odd columns of a tile apart, then adds both to C; it rounds to
 * nearest even, takes subnormal inputs for 0 and flushes subnormal results.
 */
#include <immintrin.h>

#include <limits>

#include "cpu/activations.h"
#include "cpu/half.h"
#include "cpu/strips.h"

namespace djlbsr::cpu {
namespace {

constexpr int64_t kTileTokens = 16;
constexpr int64_t kMaxTileCols = 32;

/* The largest even divisor of block_cols that a tile takes. */
int64_t tile_cols(int64_t block_cols) {
  for (int64_t cols = kMaxTileCols; cols >= 2; cols -= 2) {
    if (block_cols % cols == 0) return cols;
  }
  return 0;
}

struct alignas(64) TileConfig {
  uint8_t palette = 1;
  uint8_t start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t bytes[16] = {};
  uint8_t rows[16] = {};

  void set(int tile, int64_t row_count, int64_t row_bytes) {
    rows[tile] = static_cast<uint8_t>(row_count);
    bytes[tile] = static_cast<uint16_t>(row_bytes);
  }
};
static_assert(sizeof(TileConfig) == 64);

class AmxRunner {
 public:
  AmxRunner(const StripWeight& w, const djlbsr_linear_args& args, const StripRows& x,
            const StripTask& task)
      : w_(w),
        args_(args),
        x_(x),
        task_(task),
        tile_cols_(tile_cols(w.block_cols)),
        strips_(w.block_rows / kStripRows),
        strip_bytes_(w.groups * kStripRows * 4),
        col_limit_(w.cols - w.block_cols) {}

  /* Whole tiles first, then the tokens left, so that the tiles are configured twice at most. */
  void run() {
    const int64_t tokens = task_.token_end - task_.token_begin;
    const int64_t step = (strips_ == 1 ? 4 : 2) * kTileTokens;
    const int64_t whole = tokens / step * step;
    if (whole > 0) {
      configure(step);
      for (int64_t i = task_.block_row_begin; i < task_.block_row_end; ++i) {
        for (int64_t t = 0; t < whole; t += step) block_row(i, task_.token_begin + t, step);
      }
    }
    if (whole < tokens) {
      configure(tokens - whole);
      for (int64_t i = task_.block_row_begin; i < task_.block_row_end; ++i) {
        block_row(i, task_.token_begin + whole, tokens - whole);
      }
    }
    _tile_release();
  }

 private:
  /* Tokens of tile `tile` where `tokens` are left. */
  static int64_t tile_tokens(int64_t tokens, int64_t tile) {
    const int64_t left = tokens - tile * kTileTokens;
    return left < kTileTokens ? left : kTileTokens;
  }

  /* Tiles 0 to 3 are C. With two strips 4 and 5 are A, 6 and 7 B; with one 4 to 6 are A, 7 is B. */
  void configure(int64_t tokens) const {
    TileConfig config;
    const int64_t a_bytes = tile_cols_ * 2;
    if (strips_ == 1) {
      for (int tile = 0; tile < 4 && tile * kTileTokens < tokens; ++tile) {
        config.set(tile, tile_tokens(tokens, tile), 64);
      }
      /* The last tile of A may be lower than the others: it is never tile 4 unless alone. */
      config.set(4, tile_tokens(tokens, 0), a_bytes);
      const int64_t last = (tokens - 1) / kTileTokens;
      config.set(5, tile_tokens(tokens, last), a_bytes);
      config.set(7, tile_cols_ / 2, 64);
    } else {
      for (int tile = 0; tile < 2 && tile * kTileTokens < tokens; ++tile) {
        config.set(tile * 2, tile_tokens(tokens, tile), 64);
        config.set(tile * 2 + 1, tile_tokens(tokens, tile), 64);
        config.set(4 + tile, tile_tokens(tokens, tile), a_bytes);
      }
      config.set(6, tile_cols_ / 2, 64);
      config.set(7, tile_cols_ / 2, 64);
    }
    /* GCC's intrinsic names the first 8 bytes alone as read. */
    __asm__ volatile("" : : "r"(&config) : "memory");
    _tile_loadconfig(&config);
  }

  void block_row(int64_t i, int64_t token, int64_t tokens) {
    const int tiles = static_cast<int>((tokens + kTileTokens - 1) / kTileTokens);
    if (strips_ == 1) {
      switch (tiles) {
        case 1:
          return one_strip<1>(i, 0, token, tokens);
        case 2:
          return one_strip<2>(i, 0, token, tokens);
        case 3:
          return one_strip<3>(i, 0, token, tokens);
        default:
          return one_strip<4>(i, 0, token, tokens);
      }
    }
    for (int64_t s = 0; s < strips_; s += 2) {
      /* An odd last strip goes with the one before it, which is computed twice. */
      const int64_t strip = s + 2 <= strips_ ? s : strips_ - 2;
      if (tiles == 1) {
        two_strips<1>(i, strip, token, tokens);
      } else {
        two_strips<2>(i, strip, token, tokens);
      }
    }
  }

  struct Blocks {
    int64_t begin;
    int64_t end;
  };
  static int64_t clamp(int32_t index, int64_t limit) {
    const int64_t i = static_cast<uint32_t>(index);
    return i < limit ? i : limit;
  }
  Blocks blocks_of(int64_t i) const {
    const int64_t begin = clamp(w_.crow[i], w_.nnzb);
    const int64_t end = clamp(w_.crow[i + 1], w_.nnzb);
    return {begin, end < begin + w_.block_col_count ? end : begin + w_.block_col_count};
  }

  /* Calls step(a, b) with the addresses of x's and W's tiles, over all stored columns in order. */
  template <typename Step>
  inline __attribute__((always_inline)) void each_tile(int64_t i, int64_t strip, int64_t token,
                                                       Step&& step) const {
    const char* x = x_.rows + (token - x_.first_token) * x_.stride;
    const char* first = w_.words + strip * strip_bytes_;
    const int64_t block_bytes = strips_ * strip_bytes_;
    const Blocks blocks = blocks_of(i);
    for (int64_t b = blocks.begin; b < blocks.end; ++b) {
      const char* wb = first + b * block_bytes;
      const char* xb = x + clamp(w_.col_start[b], col_limit_) * 2;
      for (int64_t k = 0; k < w_.block_cols; k += tile_cols_) {
        step(xb + k * 2, wb + k / 2 * kStripRows * 4);
      }
    }
  }

  template <int kTiles>
  void two_strips(int64_t i, int64_t strip, int64_t token, int64_t tokens) {
    const int64_t stride = x_.stride;
    const int64_t far = stride * kTileTokens;
    _tile_zero(0);
    _tile_zero(1);
    if constexpr (kTiles > 1) {
      _tile_zero(2);
      _tile_zero(3);
    }
    each_tile(i, strip, token, [&](const char* x, const char* w) {
      _tile_loadd(6, w, 64);
      _tile_loadd(4, x, stride);
      _tile_dpbf16ps(0, 4, 6);
      _tile_loadd(7, w + strip_bytes_, 64);
      _tile_dpbf16ps(1, 4, 7);
      if constexpr (kTiles > 1) {
        _tile_loadd(5, x + far, stride);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
      }
    });
    /* [token][32 rows] */
    constexpr int64_t kRow = 2 * kStripRows * 4;
    char* z = reinterpret_cast<char*>(z_);
    _tile_stored(0, z, kRow);
    _tile_stored(1, z + 64, kRow);
    if constexpr (kTiles > 1) {
      _tile_stored(2, z + kTileTokens * kRow, kRow);
      _tile_stored(3, z + kTileTokens * kRow + 64, kRow);
    }
    store<2>(i * w_.block_rows + strip * kStripRows, token, tokens);
  }

  template <int kTiles>
  void one_strip(int64_t i, int64_t strip, int64_t token, int64_t tokens) {
    const int64_t stride = x_.stride;
    const int64_t far = stride * kTileTokens;
    _tile_zero(0);
    if constexpr (kTiles > 1) _tile_zero(1);
    if constexpr (kTiles > 2) _tile_zero(2);
    if constexpr (kTiles > 3) _tile_zero(3);
    each_tile(i, strip, token, [&](const char* x, const char* w) {
      _tile_loadd(7, w, 64);
      if constexpr (kTiles > 1) {
        _tile_loadd(4, x, stride);
        _tile_dpbf16ps(0, 4, 7);
      }
      if constexpr (kTiles > 2) {
        _tile_loadd(4, x + far, stride);
        _tile_dpbf16ps(1, 4, 7);
      }
      if constexpr (kTiles > 3) {
        _tile_loadd(4, x + 2 * far, stride);
        _tile_dpbf16ps(2, 4, 7);
      }
      _tile_loadd(5, x + (kTiles - 1) * far, stride);
      if constexpr (kTiles == 1) _tile_dpbf16ps(0, 5, 7);
      if constexpr (kTiles == 2) _tile_dpbf16ps(1, 5, 7);
      if constexpr (kTiles == 3) _tile_dpbf16ps(2, 5, 7);
      if constexpr (kTiles == 4) _tile_dpbf16ps(3, 5, 7);
    });
    char* z = reinterpret_cast<char*>(z_);
    constexpr int64_t kTileBytes = kTileTokens * 64;
    _tile_stored(0, z, 64);
    if constexpr (kTiles > 1) _tile_stored(1, z + kTileBytes, 64);
    if constexpr (kTiles > 2) _tile_stored(2, z + 2 * kTileBytes, 64);
    if constexpr (kTiles > 3) _tile_stored(3, z + 3 * kTileBytes, 64);
    store<1>(i * w_.block_rows + strip * kStripRows, token, tokens);
  }

  /* Bias, activation and rounding of kStrips strips of rows from `row` on. */
  template <int kStrips>
  void store(int64_t row, int64_t token, int64_t tokens) {
    constexpr int64_t kRows = kStrips * kStripRows;
    alignas(64) float bias[kRows] = {};
    if (args_.bias != nullptr) {
      const Bfloat16* from = static_cast<const Bfloat16*>(args_.bias) + row;
      for (int64_t j = 0; j < kRows; ++j) bias[j] = to_float(from[j]);
    }
    Bfloat16* y = static_cast<Bfloat16*>(args_.y) + token * args_.y_stride + row;
    float* z = z_;
    for (int64_t t = 0; t < tokens; ++t, z += kRows, y += args_.y_stride) {
      finish(z, bias, kRows, args_.activation);
      for (int64_t j = 0; j < kRows; ++j) y[j] = to_bfloat16(z[j]);
    }
  }

  const StripWeight& w_;
  const djlbsr_linear_args& args_;
  const StripRows& x_;
  const StripTask& task_;
  const int64_t tile_cols_;
  const int64_t strips_;
  const int64_t strip_bytes_;
  const int64_t col_limit_;
  alignas(64) float z_[4 * kTileTokens * kStripRows];
};

void run(const StripWeight& w, const djlbsr_linear_args& args, const StripRows& x,
         const StripTask& task) {
  AmxRunner(w, args, x, task).run();
}

}  // namespace

bool amx_serves(const StripWeight& w) {
  return !w.int8 && w.block_rows % kStripRows == 0 && tile_cols(w.block_cols) >= kMaxTileCols / 2;
}

const StripKernel kBf16Amx = {
    "bf16_amx", 1, 2, 4 * kTileTokens, std::numeric_limits<int64_t>::max(), nullptr, run};

}  // namespace djlbsr::cpu
