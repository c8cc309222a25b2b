/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
/* The panel copy's tables, taken apart again: every square once, at its place and in its order. */
#include <algorithm>
#include <map>
#include <numeric>
#include <tuple>

#include "common/meta.h"
#include "cuda/panels.h"
#include "support.h"

using namespace test;
using namespace djlbsr;
using namespace djlbsr::cuda;

namespace {

using Place = std::pair<int64_t, int64_t>; /* row and column, in squares */

/* Where a square of the stored blocks lies in the matrix. */
std::map<Place, std::tuple<int32_t, int32_t, int32_t>> squares_of(const Matrix& m, int32_t side) {
  std::map<Place, std::tuple<int32_t, int32_t, int32_t>> squares;
  for (int64_t block_row = 0; block_row < m.rows / m.block_rows; ++block_row) {
    const auto at = static_cast<size_t>(block_row);
    for (int32_t i = m.crow[at]; i < m.crow[at + 1]; ++i) {
      for (int64_t r = 0; r < m.block_rows; r += side) {
        for (int64_t c = 0; c < m.block_cols; c += side) {
          const int64_t col = m.col[static_cast<size_t>(i)] * m.block_cols + c;
          squares[{(block_row * m.block_rows + r) / side, col / side}] = {
              i, static_cast<int32_t>(r), static_cast<int32_t>(c)};
        }
      }
    }
  }
  return squares;
}

void check(const Matrix& m, int32_t side, const char* pattern) {
  const djlbsr_matrix view = m.view();
  djlbsr_info info = decode(make_meta(view, DJLBSR_CUDA));
  const std::string what = m.describe() + " " + pattern;
  EXPECT(info.panel_block == (m.col.empty() ? 0 : side), "%s: squares of %d", what.c_str(),
         info.panel_block);
  if (info.panel_block == 0) return;
  const PanelShape shape = panel_shape(info);
  const PanelLayout layout = panel_layout(info);
  const djlbsr_info before = info;
  const PanelPlan plan = plan_panels(view, info);
  EXPECT(info.panel_entries == before.panel_entries && info.panel_steps == before.panel_steps,
         "%s: a second plan has other sizes", what.c_str());
  EXPECT(layout_of(info).panels + layout.bytes == info.packed_bytes, "%s: packed bytes",
         what.c_str());
  EXPECT(static_cast<int64_t>(plan.sources.size()) == layout.squares &&
             static_cast<int64_t>(plan.steps.size()) == info.panel_steps &&
             static_cast<int64_t>(plan.entries.size()) == info.panel_entries + 1 &&
             static_cast<int64_t>(plan.tiles.size()) == 2 * layout.pair_count &&
             static_cast<int64_t>(plan.rows.size()) == layout.row_places &&
             static_cast<int64_t>(plan.pairs.size()) == layout.pair_count,
         "%s: a table's length", what.c_str());

  std::vector<PanelPair> pairs(plan.pairs.size()); /* in their order */
  for (size_t i = 0; i < plan.pairs.size(); ++i) {
    const PanelPair& pair = plan.pairs[i];
    EXPECT(pair.cost >= 1 && pair.cost <= 0xffff, "%s: a pair costs %d", what.c_str(), pair.cost);
    EXPECT(i == 0 || plan.pairs[i - 1].cost >= pair.cost, "%s: pairs are not by falling cost",
           what.c_str());
    pairs.at(static_cast<size_t>(pair.pair)) = pair;
  }

  std::vector<int32_t> rows = plan.rows; /* each once, ascending in a consumer */
  const auto down = static_cast<size_t>(shape.squares_down());
  const auto stride = static_cast<size_t>(shape.place_stride());
  for (size_t i = 0; i < rows.size(); ++i) {
    EXPECT(i % stride % down == 0 || rows[i - 1] < rows[i] || rows[i] == m.rows,
           "%s: place %zu has row %d", what.c_str(), i, rows[i]);
  }
  std::sort(rows.begin(), rows.end());
  for (size_t i = 0; i < rows.size(); ++i) {
    EXPECT(rows[i] == std::min<int64_t>(static_cast<int64_t>(i) * side, m.rows),
           "%s: rows of places have %d at %zu", what.c_str(), rows[i], i);
  }

  auto expected = squares_of(m, side);
  size_t source = 0;
  uint32_t chunk = 0;
  for (int tile = 0; tile < 2; ++tile) {
    for (size_t pair = 0; pair < pairs.size(); ++pair) {
      const PanelTileSteps& steps = plan.tiles[2 * pair + static_cast<size_t>(tile)];
      int32_t next_step = steps.begin;
      EXPECT(pairs[pair].begin == (pair == 0 ? 0 : pairs[pair - 1].end),
             "%s: pair %zu begins at entry %d", what.c_str(), pair, pairs[pair].begin);
      std::map<int64_t, int64_t> last_col; /* of a row of squares */
      for (int32_t e = pairs[pair].begin; e < pairs[pair].end; ++e) {
        const PanelEntry& entry = plan.entries[static_cast<size_t>(e)];
        EXPECT(
            e == pairs[pair].begin || entry.panel > plan.entries[static_cast<size_t>(e) - 1].panel,
            "%s: entry %d is out of order", what.c_str(), e);
        const int32_t end = plan.entries[static_cast<size_t>(e) + 1].step[tile];
        for (int32_t s = entry.step[tile]; s < end; ++s) {
          const PanelStep& step = plan.steps[static_cast<size_t>(s)];
          EXPECT(step.chunk == chunk, "%s: step %d leaves a gap", what.c_str(), s);
          EXPECT(s == next_step++ && step.panel == entry.panel,
                 "%s: step %d of panel %d is not the tile's next", what.c_str(), s, step.panel);
          EXPECT(s < entry.step[tile] + shape.most_steps(), "%s: step %d is one too many",
                 what.c_str(), s);
          uint32_t slot = 0;
          for (int consumer = 0; consumer < kPanelConsumers; ++consumer) {
            EXPECT(step.header[consumer].first == slot, "%s: step %d consumer %d begins at %u",
                   what.c_str(), s, consumer, step.header[consumer].first);
            uint64_t mask = step.header[consumer].mask;
            for (int at = 0; at < shape.squares_down() * shape.squares_across(); ++at) {
              const int r = at / shape.squares_across();
              const int k = at % shape.squares_across();
              const uint64_t bit = uint64_t{1} << shape.bit(r, k);
              if ((mask & bit) == 0) continue;
              mask ^= bit;
              const PanelSource& from = plan.sources[source++];
              const size_t place = (2 * pair + static_cast<size_t>(tile)) * stride +
                                   static_cast<size_t>(consumer) * down + static_cast<size_t>(r);
              const int64_t row = plan.rows[place] / side;
              const int64_t col = int64_t{entry.panel} * shape.squares_across() + k;
              const auto found = expected.find({row, col});
              EXPECT(found != expected.end() &&
                         found->second == std::make_tuple(from.stored_block, from.row, from.col),
                     "%s: step %d has a wrong square at (%lld, %lld)", what.c_str(), s,
                     (long long)row, (long long)col);
              if (found != expected.end()) expected.erase(found);
              EXPECT(last_col.count(row) == 0 || last_col[row] < col,
                     "%s: row %lld of squares is not in stored order", what.c_str(),
                     (long long)row);
              last_col[row] = col;
              EXPECT(from.target * kPanelUnit ==
                         chunk * kPanelUnit + static_cast<uint32_t>(shape.header_bytes()) +
                             slot * static_cast<uint32_t>(shape.slot_bytes()),
                     "%s: step %d slot %u lies elsewhere", what.c_str(), s, slot);
              ++slot;
            }
            EXPECT(mask == 0, "%s: step %d consumer %d has a bit of no square", what.c_str(), s,
                   consumer);
          }
          EXPECT(slot >= 1 && slot <= static_cast<uint32_t>(shape.slots),
                 "%s: step %d has %u squares", what.c_str(), s, slot);
          EXPECT(step.bytes == static_cast<uint32_t>(shape.header_bytes()) +
                                   slot * static_cast<uint32_t>(shape.slot_bytes()),
                 "%s: step %d has %u bytes", what.c_str(), s, step.bytes);
          chunk += step.bytes / kPanelUnit;
        }
      }
      EXPECT(next_step == steps.end, "%s: a tile's steps end at %d", what.c_str(), steps.end);
    }
  }
  EXPECT(expected.empty(), "%s: %zu squares are missing", what.c_str(), expected.size());
  EXPECT(int64_t{chunk} * kPanelUnit == layout.chunk_bytes, "%s: chunk bytes", what.c_str());
}

PanelPlan plan_of(const Matrix& m) {
  const djlbsr_matrix view = m.view();
  djlbsr_info info = decode(make_meta(view, DJLBSR_CUDA));
  return plan_panels(view, info);
}

/* Equal rows stay neighbors; of unequal ones every consumer gets as many long ones. */
void rows_of_consumers() {
  Rng rng(5);
  for (bool skewed : {false, true}) {
    Matrix m(rng, 512, 64, 16, 16, DJLBSR_FLOAT16, "none");
    m.crow.assign(1, 0);
    std::vector<int32_t> cols(64);
    std::iota(cols.begin(), cols.end(), 0);
    const auto is_long = [&](int64_t block_row) { return skewed && block_row % 20 == 7; };
    for (int64_t block_row = 0; block_row < 512; ++block_row) {
      std::shuffle(cols.begin(), cols.end(), rng);
      const int64_t count = is_long(block_row) ? 60 : 4;
      m.col.insert(m.col.end(), cols.begin(), cols.begin() + count);
      std::sort(m.col.end() - count, m.col.end());
      m.crow.push_back(static_cast<int32_t>(m.col.size()));
    }
    m.values = Array(m.dtype, static_cast<int64_t>(m.col.size()) * 256);
    const PanelPlan plan = plan_of(m);
    int64_t fewest = 8;
    int64_t most = 0;
    for (size_t consumer = 0; consumer < 64; ++consumer) {
      int64_t longs = 0;
      for (size_t i = 0; i < 8; ++i) longs += is_long(plan.rows[consumer * 8 + i] / 16);
      fewest = std::min(fewest, longs);
      most = std::max(most, longs);
    }
    EXPECT(std::is_sorted(plan.rows.begin(), plan.rows.end()) != skewed, "%s rows are %s",
           skewed ? "skewed" : "equal", skewed ? "neighbors" : "spread");
    EXPECT(most - fewest <= 1, "a consumer has %lld long rows, another %lld", (long long)most,
           (long long)fewest);
  }
}

/* A pair with four times the squares costs more and goes first, but not four times: x is the same.
 */
void costs_of_pairs() {
  Rng rng(6);
  Matrix m(rng, 48, 32, 32, 32, DJLBSR_FLOAT16, "none");
  m.crow.assign(1, 0);
  for (int64_t block_row = 0; block_row < 48; ++block_row) {
    for (int32_t col = 0; col < 32; col += block_row < 24 ? 4 : 1) m.col.push_back(col);
    m.crow.push_back(static_cast<int32_t>(m.col.size()));
  }
  m.values = Array(m.dtype, static_cast<int64_t>(m.col.size()) * 1024);
  const PanelPlan plan = plan_of(m);
  EXPECT(plan.pairs.size() == 2 && plan.pairs[0].pair == 1, "the heavier pair is not the first");
  EXPECT(plan.pairs[0].cost > plan.pairs[1].cost && plan.pairs[0].cost < 4 * plan.pairs[1].cost,
         "pairs cost %d and %d", plan.pairs[0].cost, plan.pairs[1].cost);
}

/* What the kernel relies on: the first deal, whose result it knows, gives every cluster a tile. */
void grids() {
  Rng rng(7);
  for (int i = 0; i < 20000; ++i) {
    const int64_t pairs = uniform(rng, 1, 40);
    const int64_t cols = 16 * uniform(rng, 1, 1000);
    const int64_t tokens = uniform(rng, 1, 1 << uniform(rng, 1, 17));
    const auto most = static_cast<int32_t>(uniform(rng, 1, 80));
    const PanelGrid grid = panel_grid(pairs, cols, tokens, 128, most);
    EXPECT(grid.clusters >= 1 && grid.clusters <= most &&
               grid.clusters <= pairs * grid.panel_token_tiles &&
               grid.panel_token_tiles <= grid.token_tiles &&
               grid.token_tiles == (tokens - 1) / 128 + 1 &&
               (grid.clusters == most || grid.clusters == pairs * grid.token_tiles),
           "%lld pairs, %lld columns, %lld tokens, %d clusters: %d clusters, panels of %d of %d "
           "token tiles",
           (long long)pairs, (long long)cols, (long long)tokens, most, grid.clusters,
           grid.panel_token_tiles, grid.token_tiles);
  }
  for (int i = 0; i < 20000; ++i) {
    const int64_t tiles = uniform(rng, 1, 200);
    const int64_t least = uniform(rng, 1, tiles);
    const int64_t most = uniform(rng, 0, 250);
    const int32_t width = token_panel(tiles, least, most);
    /* As many panels as the widest would be, and no narrower ones would do. */
    const int64_t panels = (tiles - 1) / width + 1;
    EXPECT(width >= least && width <= std::min(std::max(most, least), tiles) &&
               (width == least || panels * (width - 1) < tiles) &&
               panels <= (tiles - 1) / std::clamp(most, least, tiles) + 1,
           "%lld tiles, at least %lld and at most %lld: %d", (long long)tiles, (long long)least,
           (long long)most, width);
  }
  /* 8 token tiles of 8192 columns are 16 MB, 6 of twice the tokens 24 MB; 20 are 7, 7 and 6. */
  EXPECT(panel_grid(11, 8192, 8192, 128, 66).panel_token_tiles == 8 &&
             panel_grid(22, 8192, 8192, 256, 66).panel_token_tiles == 6 &&
             panel_grid(11, 8192, 20 * 128, 128, 66).panel_token_tiles == 7 &&
             panel_grid(9, 8192, 9 * 128, 128, 66).panel_token_tiles == 8,
         "panels of x have another size");
}

}  // namespace

int main() {
  const struct {
    int64_t rows, cols;
    int32_t side; /* of the squares where at least 0.45 of the blocks are stored */
  } blocks[] = {{16, 16, 16}, {16, 48, 16}, {64, 16, 16}, {48, 32, 16},  {32, 32, 32},
                {96, 32, 32}, {32, 64, 32}, {64, 64, 64}, {64, 128, 64}, {192, 64, 64}};
  Rng rng(384);
  for (const auto& block : blocks) {
    for (const char* pattern : kPatterns) {
      for (double density : {0.02, 0.2, 0.5}) {
        /* Up to five tiles of rows, an odd number or even. */
        const int64_t rows = uniform(rng, 1, 1900 / block.rows + 1);
        const Matrix m(rng, rows, uniform(rng, 1, 900 / block.cols + 1), block.rows, block.cols,
                       uniform(rng, 0, 1) == 0 ? DJLBSR_FLOAT16 : DJLBSR_BFLOAT16, pattern,
                       density);
        const double stored = static_cast<double>(m.col.size()) /
                              static_cast<double>(m.rows / m.block_rows * (m.cols / m.block_cols));
        check(m, block.side == 64 && stored < 0.45 ? 0 : block.side, pattern);
      }
    }
  }
  /* Other kernels serve these. */
  check(Matrix(rng, 3, 3, 128, 64, DJLBSR_FLOAT16, "full"), 0, "full");
  check(Matrix(rng, 3, 3, 32, 32, DJLBSR_FLOAT32, "full"), 0, "full");
  check(Matrix(rng, 3, 3, 8, 16, DJLBSR_FLOAT16, "full"), 0, "full");
  rows_of_consumers();
  costs_of_pairs();
  grids();
  return finish("test_panels");
}
