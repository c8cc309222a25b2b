/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
/* Included by kernels_impl.h. */
#pragma once

namespace djlbsr::cpu {
namespace {

constexpr int64_t kChunkFloats = 4096; /* outputs that are gathered before they are stored */
constexpr int64_t kChunkRows = 1024;
/* With several tiles of tokens, W's part of a chunk should stay in the L2 cache. */
constexpr int64_t kChunkRowsOfTiles = 64;
/* Block-rows that are summed side by side: enough chains for the FMA units, few enough pointers. */
constexpr int slots_of(int sums) {
  const int slots = power_of_two(kMaxSums / sums);
  return slots > 4 ? 4 : sums >= 8 ? 1 : slots;
}

/* Tiles of more tokens read x from a panel [cols][8 or 16], so that all addresses of a column of x
   are one register and constants; the others read rows of x. */
constexpr int64_t kMostRowsOfX = 4;

/* Tokens of a tile of at most `most`: equal shares, even, so that few tile sizes are needed. */
inline int64_t tile_tokens(int64_t tokens, int64_t most) {
  const int64_t tiles = max_of(1, div_up(tokens, most));
  return min_of(tokens, round_up(div_up(tokens, tiles), 2));
}

/* Whether a tile reads the caller's x. A tile of three is computed as four. */
inline bool reads_x_itself(const Weight& w, int64_t tokens) {
  return w.dtype == DJLBSR_FLOAT32 && tokens <= kMostRowsOfX && tokens != 3;
}

/* Floats of scratch for a tile's part of x. */
inline int64_t tile_floats(int64_t tile, int64_t row_floats) {
  return (tile > 8 ? 16 : tile > kMostRowsOfX ? 8 : tile + 1) * row_floats;
}

/*
 * A lane is a row of W, x is broadcast. A tile is some tokens by up to four vectors of rows. A
 * small tile alone would wait for its few chains of multiply-adds: several slots, each with its own
 * block-row, go on side by side.
 */
template <typename T>
class RowsInLanes {
 public:
  explicit RowsInLanes(const Job<T>& job)
      : job_(job),
        w_(job.w),
        tile_(tile_tokens(job.tokens(), job.plan.tile_tokens)),
        tile_floats_(tile_floats(tile_, job.plan.panel_stride)) {}

  void run() {
    if (job_.task.load_panel) {
      for (int64_t t = 0; t < job_.tokens(); t += tile_) load_x(t);
    }
    const int64_t most = job_.tokens() > tile_
                             ? kChunkRowsOfTiles
                             : min_of(kChunkRows, kChunkFloats / round_up(tile_, 2));
    const int64_t height = min_of(w_.block_rows, most / kFinishStep * kFinishStep);
    const int64_t count = max_of(1, most / w_.block_rows);
    for (int64_t i = job_.task.block_row_begin; i < job_.task.block_row_end; i += count) {
      for (int64_t r = 0; r < w_.block_rows; r += height) {
        chunk(
            {i, min_of(i + count, job_.task.block_row_end), r, min_of(height, w_.block_rows - r)});
      }
    }
  }

 private:
  /* Rows [first, first + height) of each block-row in [begin, end). */
  struct Chunk {
    int64_t begin;
    int64_t end;
    int64_t first;
    int64_t height;
    int64_t rows() const { return (end - begin) * height; }
  };

  /* Some tokens by the rows [row, row + rows) of each block-row of a chunk. */
  struct Tile {
    const Chunk& chunk;
    int64_t tokens;
    const float* x;
    int64_t x_stride; /* of tiles that read rows of x */
    int64_t row;
    int64_t rows;
  };

  int64_t tokens_at(int64_t t) const { return min_of(tile_, job_.tokens() - t); }
  float* panel_at(int64_t t) const { return job_.scratch + t / tile_ * tile_floats_; }

  void load_x(int64_t t) const {
    const int64_t tokens = tokens_at(t);
    const T* x =
        static_cast<const T*>(job_.args.x) + (job_.task.token_begin + t) * job_.args.x_stride;
    if (reads_x_itself(w_, tokens)) return;
    if (tokens > 8) {
      transpose_tokens<Vec>(x, job_.args.x_stride, w_.cols, tokens, panel_at(t), 16);
    } else if (tokens > kMostRowsOfX) {
      transpose_tokens<RowVec>(x, job_.args.x_stride, w_.cols, tokens, panel_at(t), 8);
    } else {
      copy_rows(x, job_.args.x_stride, w_.cols, tokens, panel_at(t), job_.plan.panel_stride);
    }
  }

  void chunk(const Chunk& c) {
    const int64_t row = c.begin * w_.block_rows + c.first;
    job_.load_bias(row, c.rows(), bias_);
    z_stride_ = whole_steps(c.rows());
    for (int64_t t = 0; t < job_.tokens(); t += tile_) {
      const int64_t tokens = tokens_at(t);
      if (reads_x_itself(w_, tokens)) {
        compute(c, tokens,
                static_cast<const float*>(job_.args.x) +
                    (job_.task.token_begin + t) * job_.args.x_stride,
                job_.args.x_stride);
      } else {
        compute(c, tokens, panel_at(t), job_.plan.panel_stride);
      }
      for (int64_t a = 0; a < tokens; ++a) {
        job_.store(z_ + a * z_stride_, bias_, t + a, row, c.rows());
      }
    }
  }

  void compute(const Chunk& c, int64_t tokens, const float* x, int64_t stride) {
    if (w_.block_rows <= Vec4::kLanes) {
      return tile<Vec4, 1>({c, tokens, x, stride, c.first, c.height});
    }
    if (w_.block_rows <= RowVec::kLanes) {
      return tile<RowVec, 1>({c, tokens, x, stride, c.first, c.height});
    }
    for (int64_t r = 0; r < c.height;) {
      const int64_t left = c.height - r;
      Tile t = {c, tokens, x, stride, c.first + r, 0};
      if (tokens <= 2 && left > 3 * Vec::kLanes) {
        t.rows = min_of(left, 4 * Vec::kLanes);
        tile<Vec, 4>(t);
      } else if (left > Vec::kLanes) {
        t.rows = min_of(left, 2 * Vec::kLanes);
        tile<Vec, 2>(t);
      } else {
        t.rows = left;
        tile<Vec, 1>(t);
      }
      r += t.rows;
    }
  }

  template <typename V, int kVectors>
  void tile(const Tile& t) {
    if (t.rows == kVectors * V::kLanes) return tile_of<V, kVectors, false, 1>(t);
    return tile_of<V, kVectors, true, 1>(t);
  }

  /* Finds the tile that has the tokens: 1, 2, 4, 6 ... An odd number leaves one row unused. */
  template <typename V, int kVectors, bool kPartial, int kTokens>
  void tile_of(const Tile& t) {
    if constexpr (kTokens < (kVectors > 2 ? 2 : kTileTokens)) {
      if (t.tokens > kTokens) {
        return tile_of < V, kVectors, kPartial, kTokens == 1 ? 2 : kTokens + 2 > (t);
      }
    }
    sum_blocks<V, kVectors, kPartial, kTokens>(t);
  }

  /* A block-row that is being summed. */
  template <typename V, int kVectors, int kTokens>
  struct Slot {
    V sum[kTokens][kVectors];
    int64_t block;
    int64_t end;
    float* z;
  };

  template <typename V, int kVectors, bool kPartial, int kTokens>
  void sum_blocks(const Tile& t) {
    constexpr int kSlots = slots_of(kVectors * kTokens);
    Slot<V, kVectors, kTokens> slots[kSlots];
    int running = 0;
    for (int64_t i = t.chunk.begin; i < t.chunk.end; ++i) {
      const Blocks blocks = blocks_of(w_, i);
      auto& slot = slots[running];
      slot = {{},
              blocks.begin,
              blocks.end,
              z_ + (i - t.chunk.begin) * t.chunk.height + (t.row - t.chunk.first)};
      if (blocks.begin >= blocks.end) {
        store_sums<kPartial>(t, slot);
      } else if (++running == kSlots) {
        int64_t count = slots[0].end - slots[0].block;
        for (int s = 1; s < kSlots; ++s) count = min_of(count, slots[s].end - slots[s].block);
        add_blocks<kPartial, kSlots>(t, slots, count);
        for (int s = kSlots - 1; s >= 0; --s) {
          if (slots[s].block < slots[s].end) continue;
          store_sums<kPartial>(t, slots[s]);
          slots[s] = slots[--running];
        }
      }
    }
    for (int s = 0; s < running; ++s) {
      add_blocks<kPartial, 1>(t, slots + s, slots[s].end - slots[s].block);
      store_sums<kPartial>(t, slots[s]);
    }
  }

  /* The next `count` blocks of each of kSlots block-rows. */
  template <bool kPartial, int kSlots, typename V, int kVectors, int kTokens>
  NOINLINE void add_blocks(const Tile& t, Slot<V, kVectors, kTokens>* slots, int64_t count) {
    constexpr int64_t kWidth = kTokens > 8 ? 16 : kTokens > kMostRowsOfX ? 8 : 1;
    const int64_t stride = kWidth > 1 ? 1 : t.x_stride;
    const int64_t last = t.rows - (kVectors - 1) * V::kLanes;
    const int64_t block_rows = w_.block_rows;
    const int64_t block_cols = w_.block_cols;
    const int64_t block_size = block_rows * block_cols;
    const int64_t col_limit = w_.cols - block_cols;
    const float* const panel = t.x;
    V sum[kSlots][kTokens][kVectors];
    const T* blocks[kSlots];
    const int32_t* columns[kSlots];
#pragma GCC unroll 4
    for (int s = 0; s < kSlots; ++s) {
      blocks[s] = job_.block(slots[s].block) + t.row;
      columns[s] = w_.col_start + slots[s].block;
      slots[s].block += count;
#pragma GCC unroll 16
      for (int a = 0; a < kTokens; ++a) {
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; ++v) sum[s][a][v] = slots[s].sum[a][v];
      }
    }
    for (int64_t b = 0; b < count; ++b) {
      const T* w[kSlots];
      const float* x[kSlots];
#pragma GCC unroll 4
      for (int s = 0; s < kSlots; ++s) {
        w[s] = blocks[s] + b * block_size;
        if (kTokens <= 2 && V::kLanes == Vec4::kLanes)
          __builtin_prefetch(w[s] + kAheadBytes / sizeof(T));
        x[s] = panel + clamp_index(columns[s][b], col_limit) * kWidth;
      }
      for (int64_t k = 0; k < block_cols; ++k) {
#pragma GCC unroll 4
        for (int s = 0; s < kSlots; ++s) {
          V wv[kVectors];
#pragma GCC unroll 4
          for (int v = 0; v < kVectors; ++v) {
            wv[v] = kPartial && v == kVectors - 1 ? V::load_partial(w[s] + v * V::kLanes, last)
                                                  : V::load(w[s] + v * V::kLanes);
          }
          w[s] += block_rows;
#pragma GCC unroll 16
          for (int a = 0; a < kTokens; ++a) {
            const V xv = V::broadcast(x[s] + k * kWidth + a * stride);
#pragma GCC unroll 4
            for (int v = 0; v < kVectors; ++v) sum[s][a][v] = V::fma(wv[v], xv, sum[s][a][v]);
          }
        }
      }
    }
#pragma GCC unroll 4
    for (int s = 0; s < kSlots; ++s) {
#pragma GCC unroll 16
      for (int a = 0; a < kTokens; ++a) {
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; ++v) slots[s].sum[a][v] = sum[s][a][v];
      }
    }
  }

  template <bool kPartial, typename V, int kVectors, int kTokens>
  void store_sums(const Tile& t, const Slot<V, kVectors, kTokens>& slot) {
    for (int a = 0; a < kTokens; ++a) {
      for (int v = 0; v < kVectors; ++v) {
        float* to = slot.z + a * z_stride_ + v * V::kLanes;
        if (kPartial && v == kVectors - 1) {
          slot.sum[a][v].store_partial(to, t.rows - v * V::kLanes);
        } else {
          slot.sum[a][v].store(to);
        }
      }
    }
  }

  const Job<T>& job_;
  const Weight& w_;
  const int64_t tile_;
  const int64_t tile_floats_;
  int64_t z_stride_ = 0;
  alignas(64) float z_[kChunkFloats + kTileTokens * kFinishStep];
  alignas(64) float bias_[kChunkRows];
};

}  // namespace
}  // namespace djlbsr::cpu
