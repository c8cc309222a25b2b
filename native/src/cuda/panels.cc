/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
#include "cuda/panels.h"

#include <algorithm>
#include <array>
#include <limits>
#include <numeric>

namespace djlbsr::cuda {
namespace {

/* Stored share of the blocks from which 64 x 64 blocks gain by sharing x between block-rows: on an
 * H100 from 0.4 on, on an H200, whose L2 is faster, from 0.46 on. */
constexpr double kSharingPays = 0.45;
/* The same from which chunks of 28 KB pay for the stage of x that their memory costs. */
constexpr double kLongChunksPay = 0.25;

/* Times the mean that a row's blocks may be without a look at what spreading them saves, and the
 * share of the cycles from which that pays for scattered outputs. */
constexpr int64_t kSkewed = 2;
constexpr double kSpreadingPays = 0.95;

/*
 * Of x that the clusters read at a time, with tiles of 128 tokens and, of squares of 64, of 256;
 * more than half of L2 loses most of its rate.
 */
constexpr int64_t kXBytes = 16 << 20;
constexpr int64_t kXBytesOf256 = 24 << 20;

int64_t align(int64_t offset) { return (offset + kPanelUnit - 1) / kPanelUnit * kPanelUnit; }

int64_t square_count(const djlbsr_info& info, int32_t block) {
  return info.nnzb * (info.block_rows / block) * (info.block_cols / block);
}

int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

int64_t pair_count(const djlbsr_info& info, const PanelShape& shape) {
  return divide_up(info.rows, 2 * shape.tile_rows());
}

int64_t row_place_count(const djlbsr_info& info, const PanelShape& shape) {
  return pair_count(info, shape) * 2 * shape.place_stride();
}

/* A square of a tile: its panel, its place there, and its source. */
struct Square {
  int32_t panel;
  int32_t k;
  int32_t row; /* among the tile's places for rows of squares */
  PanelSource source;
};

/*
 * The row of squares of each of the places that consumers have for one, -1 where there is none.
 * Rows are taken by their order: consumers get as many, the first ones one more. spread: every
 * consumer takes one of each length instead.
 */
std::vector<int32_t> place_rows(const djlbsr_info& info, const PanelShape& shape,
                                const std::vector<int32_t>& order, bool spread) {
  const auto rows = static_cast<int64_t>(order.size());
  const int64_t down = shape.squares_down();
  const int64_t consumers = divide_up(rows, down);
  std::vector<int32_t> places(static_cast<size_t>(row_place_count(info, shape)), -1);
  int64_t next = 0;
  for (int64_t consumer = 0; consumer < consumers; ++consumer) {
    const int64_t count = rows / consumers + (consumer < rows % consumers);
    int32_t* const own = places.data() + consumer / kPanelConsumers * shape.place_stride() +
                         consumer % kPanelConsumers * down;
    for (int64_t i = 0; i < count; ++i) {
      own[i] = order[static_cast<size_t>(spread ? i * consumers + consumer : next++)];
    }
    std::sort(own, own + count);
  }
  return places;
}

/* The squares of a tile by panel, in it by column, row in its consumer, and consumer. */
std::vector<Square> squares_of(const djlbsr_info& info, const djlbsr_matrix& matrix, int64_t tile,
                               const PanelShape& shape, const std::vector<int32_t>& places) {
  const int64_t squares_down = info.block_rows / shape.block;
  const int64_t squares_across = info.block_cols / shape.block;
  const int64_t tile_squares = shape.tile_rows() / shape.block;
  std::vector<Square> squares;
  for (int64_t place = 0; place < tile_squares; ++place) {
    const int32_t row = places[static_cast<size_t>(tile * shape.place_stride() + place)];
    if (row < 0) continue;
    const int64_t block_row = row / squares_down;
    for (int32_t i = matrix.crow_indices[block_row]; i < matrix.crow_indices[block_row + 1]; ++i) {
      for (int64_t across = 0; across < squares_across; ++across) {
        const int64_t col = matrix.col_indices[i] * squares_across + across;
        squares.push_back({static_cast<int32_t>(col / shape.squares_across()),
                           static_cast<int32_t>(col % shape.squares_across()),
                           static_cast<int32_t>(place),
                           {0, i, static_cast<int32_t>(row % squares_down * shape.block),
                            static_cast<int32_t>(across * shape.block)}});
      }
    }
  }
  const auto key = [&](const Square& s) {
    return ((int64_t{s.panel} * shape.squares_across() + s.k) * shape.squares_down() +
            s.row % shape.squares_down()) *
               kPanelConsumers +
           s.row / shape.squares_down();
  };
  std::sort(squares.begin(), squares.end(),
            [&](const Square& a, const Square& b) { return key(a) < key(b); });
  return squares;
}

using PairSquares = std::array<std::vector<Square>, 2>; /* of its tiles */

PairSquares squares_of_pair(const djlbsr_info& info, const djlbsr_matrix& matrix, int64_t pair,
                            const PanelShape& shape, const std::vector<int32_t>& places) {
  return {squares_of(info, matrix, 2 * pair, shape, places),
          squares_of(info, matrix, 2 * pair + 1, shape, places)};
}

/* The squares of a pair's tiles in one panel, begin and end of each. */
using PairPanel = Square* [2][2];

/* Calls visit(panel, PairPanel) for every panel in which the pair has a square. */
template <typename Visit>
void for_panels(PairSquares& tiles, const Visit& visit) {
  constexpr int32_t kNone = std::numeric_limits<int32_t>::max();
  Square* ends[2] = {tiles[0].data() + tiles[0].size(), tiles[1].data() + tiles[1].size()};
  PairPanel part = {{nullptr, tiles[0].data()}, {nullptr, tiles[1].data()}};
  const auto panel_of = [&](int tile, const Square* s) {
    return s == ends[tile] ? kNone : s->panel;
  };
  for (;;) {
    const int32_t panel = std::min(panel_of(0, part[0][1]), panel_of(1, part[1][1]));
    if (panel == kNone) return;
    for (int tile = 0; tile < 2; ++tile) {
      part[tile][0] = part[tile][1];
      while (panel_of(tile, part[tile][1]) == panel) ++part[tile][1];
    }
    visit(panel, part);
  }
}

/*
 * Cycles of a tile in a panel. What measured: the instructions of its consumer with most squares
 * are one bound, what all of them read from shared memory (squares of 64: multiply) the other.
 */
int64_t tile_cycles(const PanelShape& shape, const Square* begin, const Square* end) {
  const int64_t of_consumer = shape.block == 64 ? 512 : shape.block == 32 ? 100 : 75;
  const int64_t of_tile = shape.block == 64 ? 512 : shape.block == 32 ? 96 : 40;
  int64_t squares[kPanelConsumers] = {};
  for (const Square* s = begin; s != end; ++s) ++squares[s->row / shape.squares_down()];
  const int64_t steps = std::max<int64_t>(1, divide_up(end - begin, shape.slots));
  return std::max(460 * steps + of_consumer * *std::max_element(squares, squares + kPanelConsumers),
                  350 + of_tile * (end - begin));
}

/* The schedule's unit of cost: kDealCost of them, in hopper_schedule.cuh, take 2 us. */
constexpr int64_t kCyclesOfCost = 146;

/* Cycles of a pair in a panel, whose tiles wait for each other. */
int64_t pair_cycles(const PanelShape& shape, const PairPanel& part) {
  return std::max(tile_cycles(shape, part[0][0], part[0][1]),
                  tile_cycles(shape, part[1][0], part[1][1]));
}

int64_t total_cycles(const djlbsr_info& info, const djlbsr_matrix& matrix, const PanelShape& shape,
                     const std::vector<int32_t>& places) {
  int64_t cycles = 0;
  for (int64_t pair = 0; pair < pair_count(info, shape); ++pair) {
    PairSquares tiles = squares_of_pair(info, matrix, pair, shape, places);
    for_panels(tiles, [&](int32_t, PairPanel& part) { cycles += pair_cycles(shape, part); });
  }
  return cycles;
}

/*
 * Rows stay neighbors, whose outputs are written together, unless lengths differ so much that
 * spreading them saves time. A long row makes all six consumers of a pair wait for one; spread,
 * pairs have a long row for every consumer or for none.
 */
std::vector<int32_t> choose_places(const djlbsr_info& info, const djlbsr_matrix& matrix,
                                   const PanelShape& shape) {
  const int64_t squares_down = info.block_rows / shape.block;
  std::vector<int32_t> order(static_cast<size_t>(info.rows / shape.block));
  std::iota(order.begin(), order.end(), 0);
  const std::vector<int32_t> neighbors = place_rows(info, shape, order, false);
  const int64_t block_rows = info.rows / info.block_rows;
  if (info.max_blocks_in_row * block_rows <= kSkewed * info.nnzb) return neighbors;
  const auto length = [&](int32_t row) {
    const int64_t block_row = row / squares_down;
    return matrix.crow_indices[block_row + 1] - matrix.crow_indices[block_row];
  };
  std::stable_sort(order.begin(), order.end(),
                   [&](int32_t a, int32_t b) { return length(a) > length(b); });
  std::vector<int32_t> spread = place_rows(info, shape, order, true);
  const auto cycles = [&](const std::vector<int32_t>& places) {
    return static_cast<double>(total_cycles(info, matrix, shape, places));
  };
  return cycles(spread) < kSpreadingPays * cycles(neighbors) ? spread : neighbors;
}

/* The steps of one tile in one panel. */
class StepWriter {
 public:
  StepWriter(const PanelShape& shape, PanelPlan& plan) : shape_(shape), plan_(plan) {}

  /* [begin, end) are the squares of a panel; each step takes as many as it has slots for. */
  void write(Square* begin, Square* end) {
    while (begin != end) {
      Square* const step_end = begin + std::min<int64_t>(shape_.slots, end - begin);
      write_step(begin, step_end);
      begin = step_end;
    }
  }

 private:
  int32_t consumer(const Square& s) const { return s.row / shape_.squares_down(); }
  /* Its place in a chunk of all squares. */
  int32_t place(const Square& s) const { return s.row * shape_.squares_across() + s.k; }

  void write_step(Square* begin, Square* end) {
    std::sort(begin, end, [&](const Square& a, const Square& b) { return place(a) < place(b); });
    PanelStep step = {};
    step.chunk = chunk_;
    step.panel = begin->panel;
    uint32_t target = chunk_ + static_cast<uint32_t>(shape_.header_bytes() / kPanelUnit);
    for (Square* s = begin; s != end; ++s) {
      step.header[consumer(*s)].mask |= uint64_t{1}
                                        << shape_.bit(s->row % shape_.squares_down(), s->k);
      for (int c = consumer(*s) + 1; c < kPanelConsumers; ++c) ++step.header[c].first;
      s->source.target = target;
      plan_.sources.push_back(s->source);
      target += static_cast<uint32_t>(shape_.slot_bytes() / kPanelUnit);
    }
    step.bytes = (target - chunk_) * kPanelUnit;
    plan_.steps.push_back(step);
    chunk_ = target;
  }

  const PanelShape shape_;
  PanelPlan& plan_;
  uint32_t chunk_ = 0;
};

}  // namespace

PanelLayout panel_layout(const djlbsr_info& info) {
  PanelLayout layout = {};
  if (info.panel_block == 0) return layout;
  const PanelShape shape = panel_shape(info);
  layout.pair_count = pair_count(info, shape);
  layout.squares = square_count(info, info.panel_block);
  layout.chunk_bytes =
      int64_t{info.panel_steps} * shape.header_bytes() + layout.squares * shape.slot_bytes();
  layout.row_places = row_place_count(info, shape);
  layout.rows = align(layout.squares * sizeof(PanelSource));
  layout.pairs = align(layout.rows + layout.row_places * 4);
  layout.entries = align(layout.pairs + layout.pair_count * sizeof(PanelPair));
  layout.tiles = align(layout.entries + (int64_t{info.panel_entries} + 1) * sizeof(PanelEntry));
  layout.steps = align(layout.tiles + 2 * layout.pair_count * sizeof(PanelTileSteps));
  layout.chunks = align(layout.steps + int64_t{info.panel_steps} * sizeof(PanelStep));
  layout.bytes = layout.chunks + layout.chunk_bytes;
  return layout;
}

PanelShape panel_shape(const djlbsr_info& info) {
  if (info.device != DJLBSR_CUDA || info.nnzb == 0) return {};
  if (info.dtype != DJLBSR_FLOAT16 && info.dtype != DJLBSR_BFLOAT16) return {};
  const double density = stored_share(info);
  const auto divides = [&](int32_t side) {
    return info.block_rows % side == 0 && info.block_cols % side == 0;
  };
  PanelShape shape = {};
  if (divides(64)) {
    shape.block = info.block_rows % 128 != 0 && density >= kSharingPays ? 64 : 0;
  } else {
    shape.block = divides(32) ? 32 : divides(16) ? 16 : 0;
  }
  if (shape.block == 0) return {};
  const int chunk = shape.block == 64 ? 24 : density >= kLongChunksPay ? 28 : 20;
  shape.slots = chunk * 1024 / shape.slot_bytes();
  /* Places in the chunks are 32 bits of units, squares and steps are counted in 31 bits. */
  const int64_t most_bytes = info.nnzb * (info.block_rows / shape.block) *
                             (info.block_cols / shape.block) *
                             (shape.slot_bytes() + shape.header_bytes());
  return most_bytes / kPanelUnit < std::numeric_limits<int32_t>::max() ? shape : PanelShape{};
}

int32_t token_panel(int64_t token_tiles, int64_t least, int64_t most) {
  const int64_t panels = divide_up(token_tiles, std::clamp(most, least, token_tiles));
  return static_cast<int32_t>(std::max(divide_up(token_tiles, panels), least));
}

PanelGrid panel_grid(int64_t pairs, int64_t cols, int64_t tokens, int32_t tile_tokens,
                     int32_t most_clusters) {
  const int64_t token_tiles = divide_up(tokens, tile_tokens);
  const int64_t clusters = std::min<int64_t>(pairs * token_tiles, most_clusters);
  const int64_t most = (tile_tokens == 256 ? kXBytesOf256 : kXBytes) / (cols * 2 * tile_tokens);
  return {static_cast<int32_t>(clusters), static_cast<int32_t>(token_tiles),
          token_panel(token_tiles, divide_up(clusters, pairs), most)};
}

PanelPlan plan_panels(const djlbsr_matrix& matrix, djlbsr_info& info) {
  PanelPlan plan = {};
  const PanelShape shape = panel_shape(info);
  info.panel_block = shape.block;
  info.panel_entries = 0;
  info.panel_steps = 0;
  if (shape.block == 0) return plan;
  const std::vector<int32_t> places = choose_places(info, matrix, shape);
  for (int32_t row : places) {
    plan.rows.push_back(row < 0 ? static_cast<int32_t>(info.rows) : row * shape.block);
  }
  /* First which panels a pair has, with the steps of both tiles in the order of the tiles. */
  StepWriter writer(shape, plan);
  std::vector<int32_t> step_counts[2];
  std::vector<std::vector<Square>> odd_tiles;
  for (int64_t pair = 0; pair < pair_count(info, shape); ++pair) {
    PairSquares tiles = squares_of_pair(info, matrix, pair, shape, places);
    const auto begin = static_cast<int32_t>(plan.entries.size());
    int64_t cycles = 0;
    for_panels(tiles, [&](int32_t panel, PairPanel& part) {
      plan.entries.push_back({panel, {0, 0}, 0});
      for (int tile = 0; tile < 2; ++tile) {
        step_counts[tile].push_back(
            static_cast<int32_t>(divide_up(part[tile][1] - part[tile][0], shape.slots)));
      }
      cycles += pair_cycles(shape, part);
      writer.write(part[0][0], part[0][1]); /* which reorders them */
    });
    odd_tiles.push_back(std::move(tiles[1]));
    plan.pairs.push_back(
        {static_cast<int32_t>(pair),
         static_cast<int32_t>(std::clamp<int64_t>(cycles / kCyclesOfCost, 1, 0xffff)), begin,
         static_cast<int32_t>(plan.entries.size())});
  }
  /* The steps of all odd tiles follow those of all even ones. */
  for (std::vector<Square>& squares : odd_tiles) {
    for (size_t begin = 0, end = 0; begin < squares.size(); begin = end) {
      while (end < squares.size() && squares[end].panel == squares[begin].panel) ++end;
      writer.write(squares.data() + begin, squares.data() + end);
    }
  }
  info.panel_entries = static_cast<int32_t>(plan.entries.size());
  plan.entries.push_back({}); /* where the last one's steps end */
  for (int tile = 0; tile < 2; ++tile) {
    for (size_t i = 0; i < step_counts[tile].size(); ++i) {
      plan.entries[i].step[tile] = info.panel_steps;
      info.panel_steps += step_counts[tile][i];
    }
    plan.entries.back().step[tile] = info.panel_steps;
  }
  for (const PanelPair& pair : plan.pairs) {
    for (int tile = 0; tile < 2; ++tile) {
      plan.tiles.push_back({plan.entries[static_cast<size_t>(pair.begin)].step[tile],
                            plan.entries[static_cast<size_t>(pair.end)].step[tile]});
    }
  }
  std::stable_sort(plan.pairs.begin(), plan.pairs.end(),
                   [](const PanelPair& a, const PanelPair& b) { return a.cost > b.cost; });
  return plan;
}

}  // namespace djlbsr::cuda
