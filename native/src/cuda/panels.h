/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 *
 * The panel copy of a packed weight: a second layout of its values, in the order in which
 * hopper_panel_kernel.cuh walks them. It exists for fp16 and bf16 weights on CUDA whose blocks that
 * kernel serves; everything here runs on the host and needs no GPU.
 *
 * The blocks are cut into squares of `block` (16, 32 or 64). A tile is three consumers' rows of W,
 * up to 128 (with squares of 64: 64) each, two adjacent tiles are a pair, 128 (64) columns a panel.
 * Which rows a consumer has is free, by rows of squares: they are dealt so that the consumers of a
 * pair, which wait for each other, have equally much to do.
 * For every panel in which a pair has a square there is an entry, and for every entry and tile
 * there are steps: at most `slots` squares, in memory one chunk of a header and the squares,
 * swizzled as wgmma reads them. A chunk goes to shared memory in one copy. Its header has a part
 * for each consumer, with a mask: bit(r, k) is the square in row r and column k of the consumer's
 * part of the panel. Squares lie in the order of their consumers, rows and columns.
 */
#pragma once

#include <cstdint>
#include <vector>

#include "djlbsr.h"

namespace djlbsr::cuda {

constexpr int kPanelConsumers = 3;
constexpr int kPanelUnit = 256; /* bytes; every part of the copy starts at a multiple */

/* How a weight is cut. */
struct PanelShape {
  int32_t block;
  int32_t slots; /* squares of a chunk */

  /* Rows of W of a consumer, and columns of a panel. */
  constexpr int32_t consumer_rows() const { return block == 64 ? 64 : 128; }
  constexpr int32_t cols() const { return block == 64 ? 64 : 128; }
  constexpr int32_t tile_rows() const { return kPanelConsumers * consumer_rows(); }
  /* The squares of a consumer's part of a panel. */
  constexpr int32_t squares_down() const { return consumer_rows() / block; }
  constexpr int32_t squares_across() const { return cols() / block; }
  /* The places for rows of squares that a tile has, by consumers, in multiples of 16 bytes. */
  constexpr int32_t place_stride() const { return (kPanelConsumers * squares_down() + 3) / 4 * 4; }

  /* Of a square in the mask. From the highest of 32 bits down: a GPU finds the highest fastest. */
  constexpr int32_t bit(int32_t r, int32_t k) const { return (r * squares_across() + k) ^ 31; }

  /* Steps of a tile in a panel, at most. */
  constexpr int32_t most_steps() const {
    return (kPanelConsumers * squares_down() * squares_across() - 1) / slots + 1;
  }

  constexpr int32_t slot_bytes() const { return block * block * 2; }
  /* 8 rows of a square are the period of its swizzle. */
  constexpr int32_t header_bytes() const { return block * 16; }
  constexpr int32_t chunk_bytes() const { return header_bytes() + slots * slot_bytes(); }
};

/* A pair. A packed weight has them by falling cost, equal ones in their order. */
struct PanelPair {
  int32_t pair;
  int32_t cost;  /* of a tile of tokens, in the units of hopper_schedule.cuh: 1 to 65535 */
  int32_t begin; /* entries */
  int32_t end;
};

/* A panel of a pair; its steps for the pair's tiles end where those of the next entry begin. */
struct PanelEntry {
  int32_t panel;
  int32_t step[2];
  int32_t reserved;
};

/* A consumer's part of a chunk's header. */
struct PanelMask {
  uint64_t mask;
  uint32_t first; /* of its squares in the chunk */
  uint32_t reserved;
};

struct PanelStep {
  uint32_t chunk; /* in kPanelUnit from the first chunk */
  uint32_t bytes;
  int32_t panel;
  int32_t reserved;
  PanelMask header[kPanelConsumers]; /* with which the chunk begins */
};

/* The steps of a tile: it has them one after the other, by panel. */
struct PanelTileSteps {
  int32_t begin;
  int32_t end;
};

/* Where a square comes from. */
struct PanelSource {
  uint32_t target; /* in kPanelUnit from the first chunk */
  int32_t stored_block;
  int32_t row; /* in the stored block */
  int32_t col;
};

/* Where its parts lie, in bytes from its start. */
struct PanelLayout {
  int64_t sources; /* PanelSource [squares]; all that follows is read in calls */
  int64_t rows;    /* int32 [2 * pair count][place stride]: the first row of W of a consumer's row
                      of squares, ascending; rows where it has none */
  int64_t pairs;   /* PanelPair [pair count] */
  int64_t entries; /* PanelEntry [entries + 1] */
  int64_t tiles;   /* PanelTileSteps [2 * pair count] */
  int64_t steps;   /* PanelStep [steps] */
  int64_t chunks;
  int64_t bytes;

  int64_t pair_count;
  int64_t row_places; /* the length of rows */
  int64_t squares;
  int64_t chunk_bytes; /* of all chunks */
};

/* The stored share of a weight's elements. */
inline double stored_share(const djlbsr_info& info) {
  return static_cast<double>(info.nnzb * info.block_rows * info.block_cols) /
         static_cast<double>(info.rows * info.cols);
}

/* All 0 where info has no panel copy. */
PanelLayout panel_layout(const djlbsr_info& info);

/* How a weight is cut, from its sizes and dtype; block is 0 where it gets no panel copy. */
PanelShape panel_shape(const djlbsr_info& info);

/* The host's part of a panel copy. */
struct PanelPlan {
  std::vector<int32_t> rows;
  std::vector<PanelPair> pairs;
  std::vector<PanelEntry> entries;
  std::vector<PanelTileSteps> tiles;
  std::vector<PanelStep> steps;
  std::vector<PanelSource> sources;
};

/*
 * Token tiles of a panel whose x shall stay in L2: up to `most`, at least `least`, of equal width
 * as far as that goes. 1 <= least <= token_tiles.
 */
int32_t token_panel(int64_t token_tiles, int64_t least, int64_t most);

/* How hopper_panel_kernel.cuh cuts a call of a weight of so many pairs and columns. */
struct PanelGrid {
  int32_t clusters;
  int32_t token_tiles;
  int32_t panel_token_tiles; /* token_panel; at first every cluster gets a tile of a panel */
};

PanelGrid panel_grid(int64_t pairs, int64_t cols, int64_t tokens, int32_t tile_tokens,
                     int32_t most_clusters);

/*
 * Plans the panel copy of a validated matrix and writes its sizes to info, which has the matrix's
 * own, its dtype and its device. O(squares * log squares).
 */
PanelPlan plan_panels(const djlbsr_matrix& matrix, djlbsr_info& info);

}  // namespace djlbsr::cuda
