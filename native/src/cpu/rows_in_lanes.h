/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
/* Included by kernels_impl.h. */
#pragma once

namespace djlbsr::cpu {
namespace {

constexpr int64_t kChunkFloats = 4096; /* outputs that are gathered before they are stored */
constexpr int64_t kChunkRows = 1024;
/* With several tiles of tokens: rows of a chunk, and what all tiles do of W before they go on,
   which stays in the L2 cache. */
constexpr int64_t kChunkRowsOfTiles = 64;
constexpr int64_t kGroupFloats = 16 << 10;
constexpr int64_t kAheadColumns = 16;

/* Block-rows that are summed side by side: enough chains for the FMA units, few enough pointers. */
constexpr int slots_of(int sums) {
  const int slots = power_of_two(kMaxSums / sums);
  return slots > 4 ? 4 : sums >= 8 ? 1 : slots;
}

/* Tokens of a tile of at most `most`: equal shares, even, so that few tile sizes are needed. */
inline int64_t tile_tokens(int64_t tokens, int64_t most) {
  const int64_t tiles = max_of(1, div_up(tokens, most));
  return min_of(tokens, round_up(div_up(tokens, tiles), 2));
}

/* Floats of scratch for a tile's part of x. */
inline int64_t tile_floats(int64_t rows_of_x, int64_t tile, int64_t row_floats) {
  return (tile > 8 ? 16 : tile > rows_of_x ? 8 : rows_of_tile(tile)) * row_floats;
}

/*
 * A lane is a row of W, x is broadcast. A tile is some tokens by up to four vectors of rows. A
 * small tile alone would wait for its few chains of multiply-adds: several slots, each with its own
 * block-row, go on side by side.
 */
template <typename T, int64_t kRowsOfX>
class RowsInLanes {
 public:
  explicit RowsInLanes(const Job<T>& job) : job_(job), w_(job.w), tile_(job.plan.tile_tokens) {}

  void run() {
    const int64_t most = job_.tokens() > tile_
                             ? kChunkRowsOfTiles
                             : min_of(kChunkRows, kChunkFloats / round_up(tile_, 2));
    const int64_t height = min_of(w_.block_rows, most / kFinishStep * kFinishStep);
    const int64_t count = max_of(1, most / w_.block_rows);
    const bool by_groups = job_.tokens() > tile_ && w_.block_rows > RowVec::kLanes;
    for (int64_t i = job_.task.block_row_begin; i < job_.task.block_row_end; i += count) {
      for (int64_t r = 0; r < w_.block_rows; r += height) {
        const Chunk c = {i, min_of(i + count, job_.task.block_row_end), r,
                         min_of(height, w_.block_rows - r)};
        if (by_groups) {
          chunk_by_groups(c);
        } else {
          chunk(c);
        }
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
    const char* ahead; /* what to prefetch: a cache line a column */
  };

  Tile tile_at(const Chunk& c, int64_t t) const {
    const int64_t tokens = job_.tokens_at(t);
    if (reads_x_itself(w_, job_.plan, tokens)) {
      const auto* x = reinterpret_cast<const float*>(job_.x_at(t));
      return {c, tokens, x, job_.args.x_stride, c.first, c.height, nullptr};
    }
    return {c, tokens, job_.copy_at(t), job_.plan.row_floats, c.first, c.height, nullptr};
  }

  void chunk(const Chunk& c) {
    const int64_t row = c.begin * w_.block_rows + c.first;
    job_.load_bias(row, c.rows(), bias_);
    z_stride_ = whole_steps(c.rows());
    for (int64_t t = 0; t < job_.tokens(); t += tile_) {
      compute(tile_at(c, t));
      for (int64_t a = 0; a < job_.tokens_at(t); ++a) {
        job_.store(z_ + a * z_stride_, bias_, t + a, row, c.rows());
      }
    }
  }

  /* All tiles of tokens do a group of blocks before the next. */
  void chunk_by_groups(const Chunk& c) {
    const int64_t row = c.begin * w_.block_rows + c.first;
    job_.load_bias(row, c.rows(), bias_);
    z_stride_ = whole_steps(c.rows());
    const int64_t most = max_of(1, kGroupFloats / (w_.block_rows * w_.block_cols));
    for (int64_t i = c.begin; i < c.end; ++i) {
      const Blocks blocks = blocks_of(w_, i);
      Blocks group = {blocks.begin, 0};
      do {
        group.end = min_of(group.begin + most, max_of(blocks.begin, blocks.end));
        add_group(c, i, group, group.begin != blocks.begin);
        group.begin = group.end;
      } while (group.begin < blocks.end);
    }
    for (int64_t t = 0; t < job_.tokens(); ++t) {
      job_.store(z_ + t * z_stride_, bias_, t, row, c.rows());
    }
  }

  /* Adds some blocks of block-row i to the sums of all tokens, or starts those. */
  void add_group(const Chunk& c, int64_t i, Blocks group, bool started) {
    const int64_t columns = (group.end - group.begin) * w_.block_cols;
    /* The next group follows in memory: tiles share in its prefetching. */
    const char* ahead = reinterpret_cast<const char*>(job_.block(group.end));
    const char* end = ahead + columns * w_.block_rows * static_cast<int64_t>(sizeof(T));
    /* A part of the rows of each block does not follow there. */
    if (c.height < w_.block_rows) end = ahead + columns * kLine;
    for (int64_t t = 0; t < job_.tokens(); t += tile_) {
      Tile part = tile_at(c, t);
      for (int64_t r = 0; r < c.height; r += part.rows) {
        part.row = c.first + r;
        part.rows = min_of(c.height - r, 2 * Vec::kLanes);
        part.ahead = ahead < end ? ahead : end - columns * kLine;
        ahead += columns * kLine;
        Slot slot = {group.begin, z_ + t * z_stride_ + (i - c.begin) * c.height + r, started};
        if (part.rows > Vec::kLanes) {
          group_tile<Vec, 2>(part, slot, group.end - group.begin);
        } else {
          group_tile<Vec, 1>(part, slot, group.end - group.begin);
        }
      }
    }
  }

  void compute(const Tile& all) {
    if (w_.block_rows <= Vec4::kLanes) return tile<Vec4, 1>(all);
    if (w_.block_rows <= RowVec::kLanes) return tile<RowVec, 1>(all);
    Tile t = all;
    for (int64_t left = all.rows; left > 0; left -= t.rows, t.row += t.rows) {
      if (all.tokens <= 2 && left > 3 * Vec::kLanes) {
        t.rows = min_of(left, 4 * Vec::kLanes);
        tile<Vec, 4>(t);
      } else if (left > Vec::kLanes) {
        t.rows = min_of(left, 2 * Vec::kLanes);
        tile<Vec, 2>(t);
      } else {
        t.rows = left;
        tile<Vec, 1>(t);
      }
    }
  }

  /* A block-row that is being summed: its next block, and where its sums are meanwhile. */
  struct Slot {
    int64_t block;
    float* z;
    bool started;
    int64_t end = 0;
  };

  /* Calls work with the number of tokens as a constant: 1, 2, 4, 6 ... An odd number leaves one row
     unused. */
  template <int kMost, int kTokens = 1, typename Work>
  static void with_tokens(int64_t tokens, Work&& work) {
    if constexpr (kTokens < kMost) {
      if (tokens > kTokens)
        return with_tokens < kMost, kTokens == 1 ? 2 : kTokens + 2 > (tokens, work);
    }
    work(std::integral_constant<int, kTokens>());
  }

  template <typename V, int kVectors>
  void tile(const Tile& t) {
    with_tokens<(kVectors > 2 ? 2 : kTileTokens)>(t.tokens, [&](auto tokens) {
      if (t.rows == kVectors * V::kLanes) return sum_blocks<V, kVectors, false, tokens>(t);
      return sum_blocks<V, kVectors, true, tokens>(t);
    });
  }

  template <typename V, int kVectors>
  void group_tile(const Tile& t, Slot slot, int64_t count) {
    with_tokens<kTileTokens>(t.tokens, [&](auto tokens) {
      /* With few columns to a block, or few tokens, it takes more time than it saves. */
      constexpr Loop kLoop = tokens > kTileTokens / 2 ? Loop::kPrefetch : Loop::kPlain;
      if (t.rows == kVectors * V::kLanes) {
        if (w_.block_cols < 8) return add_blocks<V, kVectors, false, tokens, 1>(t, &slot, count);
        return add_blocks<V, kVectors, false, tokens, 1, kLoop>(t, &slot, count);
      }
      return add_blocks<V, kVectors, true, tokens, 1>(t, &slot, count);
    });
  }

  template <typename V, int kVectors, bool kPartial, int kTokens>
  void sum_blocks(const Tile& t) {
    constexpr int kSlots = slots_of(kVectors * kTokens);
    Slot slots[kSlots];
    int running = 0;
    for (int64_t i = t.chunk.begin; i < t.chunk.end; ++i) {
      const Blocks blocks = blocks_of(w_, i);
      slots[running] = {blocks.begin,
                        z_ + (i - t.chunk.begin) * t.chunk.height + (t.row - t.chunk.first), false,
                        max_of(blocks.begin, blocks.end)};
      if (++running < kSlots) continue;
      int64_t count = slots[0].end - slots[0].block;
      for (int s = 1; s < kSlots; ++s) count = min_of(count, slots[s].end - slots[s].block);
      bool done = false;
      if constexpr (kSlots == 4 && kTokens <= 2 && kVectors == 1 && !kPartial && V::kLanes <= 8) {
        done = w_.block_rows == V::kLanes && w_.block_cols == V::kLanes;
        if (done) add_blocks<V, 1, false, kTokens, 4, Loop::kSquare>(t, slots, count);
      }
      if (!done) add_blocks<V, kVectors, kPartial, kTokens, kSlots>(t, slots, count);
      for (int s = kSlots - 1; s >= 0; --s) {
        if (slots[s].block == slots[s].end) slots[s] = slots[--running];
      }
    }
    for (int s = 0; s < running; ++s) {
      add_blocks<V, kVectors, kPartial, kTokens, 1>(t, slots + s, slots[s].end - slots[s].block);
    }
  }

  /* How blocks are gone through: as they come, all V::kLanes by V::kLanes, or with prefetches. */
  enum class Loop { kPlain, kSquare, kPrefetch };

  /* The next `count` blocks of each of kSlots block-rows. */
  template <typename V, int kVectors, bool kPartial, int kTokens, int kSlots,
            Loop kLoop = Loop::kPlain>
  NOINLINE void add_blocks(const Tile& t, Slot* slots, int64_t count) {
    constexpr int64_t kWidth = kTokens > 8 ? 16 : kTokens > kRowsOfX ? 8 : 1;
    const int64_t stride = kWidth > 1 ? 1 : t.x_stride;
    const int64_t last = t.rows - (kVectors - 1) * V::kLanes;
    const int64_t block_rows = kLoop == Loop::kSquare ? V::kLanes : w_.block_rows;
    const int64_t block_cols = kLoop == Loop::kSquare ? V::kLanes : w_.block_cols;
    const int64_t col_limit = w_.cols - block_cols;
    const float* const panel = t.x;
    V sum[kSlots][kTokens][kVectors];
    /* The blocks of a block-row follow each other: all pointers only move on. */
    const T* w[kSlots];
    const int32_t* columns[kSlots];
#pragma GCC unroll 4
    for (int s = 0; s < kSlots; ++s) {
      w[s] = job_.block(slots[s].block) + t.row;
      columns[s] = w_.col_start + slots[s].block;
      if (slots[s].started) {
#pragma GCC unroll 16
        for (int a = 0; a < kTokens; ++a) {
#pragma GCC unroll 4
          for (int v = 0; v < kVectors; ++v) {
            const float* from = slots[s].z + a * z_stride_ + v * V::kLanes;
            sum[s][a][v] =
                kPartial && v == kVectors - 1 ? V::load_partial(from, last) : V::load(from);
          }
        }
      } else {
#pragma GCC unroll 16
        for (int a = 0; a < kTokens; ++a) {
#pragma GCC unroll 4
          for (int v = 0; v < kVectors; ++v) sum[s][a][v] = V::zero();
        }
      }
    }
    const char* ahead = t.ahead;
    for (const int32_t* const end = columns[0] + count; columns[0] < end;) {
      const float* x[kSlots];
#pragma GCC unroll 4
      for (int s = 0; s < kSlots; ++s) {
        if (kTokens <= 2 && V::kLanes == Vec4::kLanes)
          __builtin_prefetch(w[s] + kAheadBytes / sizeof(T));
        x[s] = panel + clamp_index(*columns[s]++, col_limit) * kWidth;
      }
      /* The copies of x may be in the L3 cache, the next group's weights in memory. */
      const float* next_x = x[0];
      if (kLoop == Loop::kPrefetch && columns[0] < end) {
        next_x = panel + clamp_index(*columns[0], col_limit) * kWidth;
        if constexpr (kWidth == 1) {
          for (int64_t k = 0; k < block_cols; k += kLine / 4) {
#pragma GCC unroll 16
            for (int a = 0; a < kTokens; ++a) __builtin_prefetch(next_x + a * stride + k);
          }
        }
      }
      const auto add_column = [&](int64_t k) __attribute__((always_inline)) {
        if constexpr (kLoop == Loop::kPrefetch) {
          if constexpr (kWidth > 1) __builtin_prefetch(next_x + k * kWidth);
          __builtin_prefetch(ahead, 0, 2);
          ahead += kLine;
          /* From blocks of many rows the hardware does not see what comes next. */
          for (int v = 0; v < (Vec::kLanes > 8 ? kVectors : 0); ++v) {
            __builtin_prefetch(w[0] + kAheadColumns * block_rows + v * V::kLanes);
          }
        }
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
      };
      if constexpr (kLoop == Loop::kSquare) {
#pragma GCC unroll 8
        for (int64_t k = 0; k < block_cols; ++k) add_column(k);
      } else {
        for (int64_t k = 0; k < block_cols; ++k) add_column(k);
      }
    }
#pragma GCC unroll 4
    for (int s = 0; s < kSlots; ++s) {
      slots[s].block += count;
      slots[s].started = true;
#pragma GCC unroll 16
      for (int a = 0; a < kTokens; ++a) {
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; ++v) {
          float* to = slots[s].z + a * z_stride_ + v * V::kLanes;
          if (kPartial && v == kVectors - 1) {
            sum[s][a][v].store_partial(to, last);
          } else {
            sum[s][a][v].store(to);
          }
        }
      }
    }
  }

  const Job<T>& job_;
  const Weight& w_;
  const int64_t tile_;
  int64_t z_stride_ = 0;
  alignas(64) float z_[max_of(kChunkFloats + kTileTokens * kFinishStep,
                              kMostTilesOfTask* kTileTokens* kChunkRowsOfTiles)];
  alignas(64) float bias_[kChunkRows];
};

}  // namespace
}  // namespace djlbsr::cpu
