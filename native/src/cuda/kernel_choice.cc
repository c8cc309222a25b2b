/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
#include "cuda/kernel_choice.h"

#include <algorithm>
#include <cstring>
#include <iterator>
#include <limits>

#include "cuda/panels.h"

namespace djlbsr::cuda {
namespace {

constexpr int64_t kMaxCoordinate = std::numeric_limits<int32_t>::max();

using Predicate = bool (*)(const djlbsr_info& info, const djlbsr_linear_args& args,
                           int compute_capability);

bool always(const djlbsr_info&, const djlbsr_linear_args&, int) { return true; }

bool sixteen_bit(const djlbsr_info& info) {
  return info.dtype == DJLBSR_FLOAT16 || info.dtype == DJLBSR_BFLOAT16;
}

/*
 * Of elements of this size. The bulk copy engine reads rows of x, and 16-byte stores write rows of
 * y, at such addresses.
 */
bool aligned_16(const void* address, int64_t stride_elements, int size) {
  return reinterpret_cast<uintptr_t>(address) % 16 == 0 && stride_elements % (16 / size) == 0;
}

template <int64_t kUnit> /* that both sides of a block are multiples of */
bool hopper_serves(const djlbsr_info& info, const djlbsr_linear_args& args,
                   int compute_capability) {
  const bool served = compute_capability == 90 && sixteen_bit(info) &&
                      info.block_rows % kUnit == 0 && info.block_cols % kUnit == 0 &&
                      info.nnzb > 0 && args.x_stride >= info.cols &&
                      aligned_16(args.x, args.x_stride, 2) && aligned_16(args.y, args.y_stride, 2);
  /* Tensor maps have 32-bit coordinates and strides below 2^40 bytes; tiles are counted in 32 bits.
   */
  return served && info.nnzb <= kMaxCoordinate / info.block_rows && info.rows <= kMaxCoordinate &&
         args.tokens <= kMaxCoordinate - 512 && args.x_stride < int64_t{1} << 39 &&
         args.y_stride < int64_t{1} << 39 &&
         args.tokens / 256 + 1 <= kMaxCoordinate / 4 / (info.rows / kUnit);
}

/* The same, but for its tiles of as few as 32 x 32 outputs in clusters of 4. */
bool hopper_narrow_serves(const djlbsr_info& info, const djlbsr_linear_args& args,
                          int compute_capability) {
  return hopper_serves<32>(info, args, compute_capability) &&
         args.tokens / 32 + 1 <= kMaxCoordinate / 4 / (info.rows / 32);
}

bool hopper_panels_serve(const djlbsr_info& info, const djlbsr_linear_args& args,
                         int compute_capability) {
  return compute_capability == 90 && info.panel_block != 0 && args.x_stride >= info.cols &&
         aligned_16(args.x, args.x_stride, 2) && aligned_16(args.y, args.y_stride, 2) &&
         args.tokens <= kMaxCoordinate - 512 && args.x_stride < int64_t{1} << 39 &&
         info.cols <= 1 << 29 && info.rows <= kMaxCoordinate - 768 &&
         args.tokens / 128 + 1 <= kMaxCoordinate / (info.rows / 768 + 1);
}

/* The same, but for its pieces of 128 x 64 outputs in clusters of 8. */
bool hopper_panels_narrow_serve(const djlbsr_info& info, const djlbsr_linear_args& args,
                                int compute_capability) {
  return hopper_panels_serve(info, args, compute_capability) && info.panel_block != 64 &&
         args.tokens / 64 + 1 <= kMaxCoordinate / 8 / (info.rows / 128 + 1);
}

bool hopper_128_serves(const djlbsr_info& info, const djlbsr_linear_args& args,
                       int compute_capability) {
  return info.block_rows % 128 == 0 && hopper_serves<64>(info, args, compute_capability);
}

bool hopper_fp32_serves(const djlbsr_info& info, const djlbsr_linear_args& args,
                        int compute_capability) {
  const bool served = compute_capability == 90 && info.dtype == DJLBSR_FLOAT32 &&
                      info.block_rows % 16 == 0 && info.block_cols % 16 == 0 && info.nnzb > 0 &&
                      args.x_stride >= info.cols && aligned_16(args.x, args.x_stride, 4) &&
                      aligned_16(args.y, args.y_stride, 4);
  return served && info.nnzb <= kMaxCoordinate / info.block_rows &&
         args.tokens <= kMaxCoordinate - 512 && args.x_stride < int64_t{1} << 38 &&
         args.tokens / 128 + 1 <= kMaxCoordinate / 4 / (info.rows / 16);
}

bool never(const djlbsr_info&, const djlbsr_linear_args&, int) { return false; }

/* Where hopper_narrow is not for a call: fewer tokens leave most of a tile unused. */
bool above_64_tokens(const djlbsr_info&, const djlbsr_linear_args& args, int) {
  return args.tokens > 64;
}

bool multiples_of_64(const djlbsr_info& info) {
  return info.block_rows % 64 == 0 && info.block_cols % 64 == 0;
}

/* Steps of so many columns that a block-row has on average, in blocks of whole steps. */
double mean_steps(const djlbsr_info& info, int64_t step_cols) {
  return static_cast<double>(info.nnzb * (info.block_cols / step_cols)) /
         static_cast<double>(info.rows / info.block_rows);
}

/* The same of the longest block-row. */
double most_steps(const djlbsr_info& info, int64_t step_cols) {
  return static_cast<double>(info.max_blocks_in_row * (info.block_cols / step_cols));
}

/* How hopper_narrow cuts a call where blocks are not multiples of 64. */
struct SlicesOf32 {
  int64_t tiles;        /* of 32 rows x 128 tokens */
  double steps;         /* of 32 columns, that a tile has on average */
  double stored;        /* share of the blocks */
  bool outlasts_others; /* a tile of the longest block-row, in which nothing else has a part */
};

SlicesOf32 slices_of_32(const djlbsr_info& info, int64_t tokens) {
  const double steps = mean_steps(info, 32);
  return {info.rows / 32 * ((tokens - 1) / 128 + 1), steps, stored_share(info),
          most_steps(info, 32) > std::max(24.0, 2.5 * steps)};
}

/*
 * Where hopper_narrow is faster for them than the kernels that share x between rows: each of its
 * steps loads x anew, so of few steps. Up to 64 tokens, with about one tile a multiprocessor,
 * sm80_f16_stream is faster yet.
 */
bool few_tiles_of_32(const djlbsr_info& info, int64_t tokens) {
  const SlicesOf32 s = slices_of_32(info, tokens);
  if (s.outlasts_others) return false;
  const bool one_wave = s.tiles >= 128 && s.tiles < 300;
  if (s.steps <= 12) {
    const int64_t most = info.cols <= 1024 ? 512 : s.steps < 7 ? 4000 : 600;
    return (tokens > 64 || !one_wave) && s.tiles <= most;
  }
  if (s.stored > 0.2 || s.tiles < 250) return false;
  if (tokens <= 64) return s.steps <= 20 && !one_wave && (tokens <= 32 || s.tiles <= 800);
  return s.tiles <= (s.stored < 0.07 ? 4000 : s.steps > 40 ? 400 : 800);
}

/* The same where the CTAs of a cluster share a tile. */
bool few_slices_of_32(const djlbsr_info& info, int64_t tokens) {
  const SlicesOf32 s = slices_of_32(info, tokens);
  if (s.outlasts_others) return false;
  if (s.tiles <= 48) return tokens <= 256 && s.steps >= (tokens <= 128 ? 4 : 12);
  if (tokens > 128 || s.tiles > 132 || s.steps < 6) return false;
  if (tokens > 64 || s.steps <= 12) return true;
  return s.stored < 0.27 && (tokens > 48 || s.steps >= 32);
}

/*
 * Where hopper_panels is for a weight with squares of 64: its clusters compute their tiles, of 384
 * rows x 256 tokens, in rounds, of which a quarter may be idle clusters and tokens that there are
 * not.
 */
bool fills_rounds_of_64(const djlbsr_info& info, const djlbsr_linear_args& args) {
  constexpr int64_t kClusters = 66;
  const int64_t row_tiles = (info.rows - 1) / 384 + 1;
  const int64_t rounds = (row_tiles * ((args.tokens - 1) / 256 + 1) - 1) / kClusters + 1;
  return args.tokens > 64 && 4 * row_tiles * args.tokens >= 3 * kClusters * rounds * 256;
}

/*
 * From 17 tokens on hopper_narrow is faster than sm80_f16_stream, and than the persistent kernels
 * where these have few tiles a multiprocessor or short ones. With long ones and blocks of 128 rows
 * it is not: a lone CTA has too little under way, and each of two waves takes its time.
 */
bool few_tiles(const djlbsr_info& info, const djlbsr_linear_args& args, int) {
  if (args.tokens <= 16) return false;
  if (!multiples_of_64(info)) return few_tiles_of_32(info, args.tokens);
  if (args.tokens <= 128) return true;
  if (info.panel_block == 64 && fills_rounds_of_64(info, args)) return false;
  const auto tokens = static_cast<double>(args.tokens);
  /* Persistent tiles, of 128 x 256 or 64 x 512, a multiprocessor, and steps of 64 columns a tile.
   */
  const double tiles = static_cast<double>(info.rows) / 128 * tokens / 256 / 132;
  const double steps = mean_steps(info, 64);
  if (info.block_rows % 128 != 0) return tokens <= 320 || tiles <= (steps < 5 ? 5 : 1.7);
  if (steps >= 24 && tokens > 256) return tiles > 0.5 && tiles < 1.1;
  return tiles <= (steps < 4 ? 16 : steps < 7 ? 3 : 1.5);
}

/* The steps of the longest block-row, if it is long and few are; else 0. */
double outlasting_steps(const djlbsr_info& info) {
  const double steps = most_steps(info, 64);
  return steps >= std::max(24.0, 2.5 * mean_steps(info, 64)) ? steps : 0;
}

/*
 * Where a far longer block-row would set the time of hopper_narrow, and sharing its tiles takes
 * less, in microseconds: measured with 32 to 512 tokens.
 */
bool outlasts_the_split(const djlbsr_info& info, int64_t tokens) {
  const int split = narrow_split_ctas(info);
  const int64_t ctas = info.rows / 64 * ((tokens - 1) / 128 + 1) * split;
  const double of_cta = std::max(0.032, 0.011 + 0.0026 * mean_steps(info, 64) / split);
  return tokens <= 512 && of_cta * static_cast<double>(ctas) + 2.9 < 0.37 * outlasting_steps(info);
}

/*
 * Where hopper_narrow leaves multiprocessors idle and waits for its longest slice of 64 rows, which
 * has a step of 64 columns for every CTA, or is far longer than the others.
 */
bool few_slices(const djlbsr_info& info, const djlbsr_linear_args& args, int) {
  if (args.tokens <= 16) return false;
  if (!multiples_of_64(info)) return few_slices_of_32(info, args.tokens);
  if (outlasts_the_split(info, args.tokens)) return true;
  return args.tokens <= 128 && info.rows / 64 * ((args.tokens - 1) / 64 + 1) <= 132 &&
         mean_steps(info, 64) >= 4;
}

/*
 * Whether sm80_f16_stream, whose time grows with the squares and not with the panels, is faster
 * than clusters of four or eight on so few pieces. Measured, as all numbers here, with 132
 * multiprocessors.
 */
bool few_squares(const djlbsr_info& info, int64_t pieces) {
  return pieces <= 64 && stored_share(info) < (info.panel_block == 32 && pieces > 12 ? 0.3 : 0.07);
}

/*
 * How many CTAs shall share a piece: as many as kMostPanelCtas allow while each has three panels or
 * more. 0 where sm80_f16_stream is faster (few tokens, or few squares), or the persistent kernel,
 * which wants many pieces and more than 64 tokens.
 */
int panel_split(const djlbsr_info& info, const djlbsr_linear_args& args) {
  if (args.tokens <= 32) return 0;
  const int64_t pieces = panel_pieces(info, args);
  const int64_t panels = (info.cols - 1) / 128 + 1;
  for (int split : {8, 4, 2}) {
    if (pieces * split <= kMostPanelCtas && panels >= 3 * split) {
      return split >= 4 && few_squares(info, pieces) ? 0 : split;
    }
  }
  /* Long pieces gain by twice the tokens in two CTAs each. */
  if (args.tokens > 64 && pieces <= 264 && panels >= 48) return 2;
  return args.tokens <= 64 || pieces <= 400 ? 1 : 0;
}

template <int kSplit>
bool split_of_panels(const djlbsr_info& info, const djlbsr_linear_args& args, int) {
  return panel_split(info, args) == kSplit;
}

/* With fewer tiles of kTileRows x 128 most multiprocessors would be idle. */
template <int64_t kTileRows, int64_t kLeast>
bool enough_tiles(const djlbsr_info& info, const djlbsr_linear_args& args, int) {
  return args.tokens > 64 &&
         ((info.rows - 1) / kTileRows + 1) * ((args.tokens - 1) / 128 + 1) >= kLeast;
}

bool enough_panel_tiles(const djlbsr_info& info, const djlbsr_linear_args& args,
                        int compute_capability) {
  return info.panel_block == 64 ? fills_rounds_of_64(info, args)
                                : enough_tiles<768, 32>(info, args, compute_capability);
}

/*
 * The values of a block-row and its stored columns are counted in 32 bits, the latter some steps
 * past their end; slices of a block-row and tiles of tokens are counted in 16 bits.
 */
bool stream_serves(const djlbsr_info& info, const djlbsr_linear_args& args, int64_t tile_tokens) {
  return args.tokens <= 65535 * tile_tokens && info.cols <= kMaxCoordinate - 4096 &&
         info.block_rows <= kMaxCoordinate / std::max<int64_t>(info.cols, 1) &&
         info.block_rows <= 65535;
}

bool f16_stream_serves(const djlbsr_info& info, const djlbsr_linear_args& args,
                       int compute_capability) {
  return compute_capability >= 80 && sixteen_bit(info) && stream_serves(info, args, 64);
}

bool f32_stream_serves(const djlbsr_info& info, const djlbsr_linear_args& args, int) {
  return info.dtype == DJLBSR_FLOAT32 && stream_serves(info, args, 4);
}

template <int64_t kTokens>
bool up_to_tokens(const djlbsr_info&, const djlbsr_linear_args& args, int) {
  return args.tokens <= kTokens;
}

/*
 * Panels of x and queues of the weight need 140 KB of shared memory, which 8.6, 8.9 and 12.x lack.
 * A panel of 128 columns has a number below 4096; the values of a block-row and tiles are counted
 * in 32 bits.
 */
bool f16_mma_serves(const djlbsr_info& info, const djlbsr_linear_args& args,
                    int compute_capability) {
  const bool fits = compute_capability == 80 || compute_capability == 87 ||
                    (compute_capability >= 90 && compute_capability < 120);
  return fits && sixteen_bit(info) && info.cols > 0 && info.cols <= 4096 * 128 &&
         info.block_rows <= kMaxCoordinate / info.cols &&
         args.tokens / 128 + 1 <= kMaxCoordinate / (info.rows / 11 + 1);
}

bool from_513_tokens(const djlbsr_info&, const djlbsr_linear_args& args, int) {
  return args.tokens > 512;
}

/* The kernel that takes the place of another where TF32 will do. */
Kernel fast_kernel(Kernel kernel) {
  return kernel == Kernel::kHopperFp32x256   ? Kernel::kHopperFp32Fastx256
         : kernel == Kernel::kHopperFp32x128 ? Kernel::kHopperFp32Fastx128
                                             : kernel;
}

struct Entry {
  Kernel kernel;
  const char* name;
  Predicate serves; /* can compute the call */
  Predicate suits;  /* is wanted for it, if no entry before is */
};

/* In order of preference; the last serves and suits every call. */
constexpr Entry kKernels[] = {
    {Kernel::kHopperNarrowSplit, "hopper_narrow_split", hopper_narrow_serves, few_slices},
    {Kernel::kHopperNarrow, "hopper_narrow", hopper_narrow_serves, few_tiles},
    {Kernel::kHopper128x256, "hopper_128x256", hopper_128_serves, above_64_tokens},
    {Kernel::kHopperPanelsSplit8, "hopper_panels_split8", hopper_panels_narrow_serve,
     split_of_panels<8>},
    {Kernel::kHopperPanelsSplit4, "hopper_panels_split4", hopper_panels_narrow_serve,
     split_of_panels<4>},
    {Kernel::kHopperPanelsSplit2, "hopper_panels_split2", hopper_panels_narrow_serve,
     split_of_panels<2>},
    {Kernel::kHopperPanelsNarrow, "hopper_panels_narrow", hopper_panels_narrow_serve,
     split_of_panels<1>},
    {Kernel::kHopperPanels, "hopper_panels", hopper_panels_serve, enough_panel_tiles},
    {Kernel::kHopper64x512, "hopper_64x512", hopper_serves<64>, above_64_tokens},
    {Kernel::kSm80F16Mma, "sm80_f16_mma", f16_mma_serves, enough_tiles<352, 128>},
    {Kernel::kSm80F16Stream, "sm80_f16_stream", f16_stream_serves, always},
    {Kernel::kF32Stream, "f32_stream", f32_stream_serves, up_to_tokens<16>},
    {Kernel::kHopperFp32x256, "hopper_fp32_256", hopper_fp32_serves, from_513_tokens},
    {Kernel::kHopperFp32x128, "hopper_fp32_128", hopper_fp32_serves, always},
    {Kernel::kHopperFp32Fastx256, "hopper_fp32_fast_256", hopper_fp32_serves,
     never}, /* see fast_kernel */
    {Kernel::kHopperFp32Fastx128, "hopper_fp32_fast_128", hopper_fp32_serves, never},
    {Kernel::kPortable, "portable", always, always},
};

const Entry& entry_of(Kernel kernel) {
  for (const Entry& entry : kKernels) {
    if (entry.kernel == kernel) return entry;
  }
  return *(std::end(kKernels) - 1);
}

}  // namespace

int narrow_split_ctas(const djlbsr_info& info) {
  if (info.rows <= 32 * 64) return 4;
  return multiples_of_64(info) && info.rows <= 96 * 64 && outlasting_steps(info) > 0 ? 4 : 2;
}

int64_t panel_pieces(const djlbsr_info& info, const djlbsr_linear_args& args) {
  return ((info.rows - 1) / 128 + 1) * ((args.tokens - 1) / 64 + 1);
}

const char* kernel_name(Kernel kernel) { return entry_of(kernel).name; }

std::optional<Kernel> kernel_named(const char* name) {
  for (const Entry& entry : kKernels) {
    if (std::strcmp(entry.name, name) == 0) return entry.kernel;
  }
  return std::nullopt;
}

std::string kernel_names() {
  std::string names;
  const size_t count = std::size(kKernels);
  for (size_t i = 0; i < count; ++i) {
    names += i == 0 ? "" : i + 1 < count ? ", " : " and ";
    names += kKernels[i].name;
  }
  return names;
}

bool kernel_serves(Kernel kernel, const djlbsr_info& info, const djlbsr_linear_args& args,
                   int compute_capability) {
  return entry_of(kernel).serves(info, args, compute_capability);
}

Kernel kernel_choice(const djlbsr_info& info, const djlbsr_linear_args& args,
                     int compute_capability, std::optional<Kernel> forced, bool allow_tf32) {
  if (forced && kernel_serves(*forced, info, args, compute_capability)) return *forced;
  for (const Entry& entry : kKernels) {
    if (entry.serves(info, args, compute_capability) &&
        entry.suits(info, args, compute_capability)) {
      return allow_tf32 ? fast_kernel(entry.kernel) : entry.kernel;
    }
  }
  return Kernel::kPortable;
}

}  // namespace djlbsr::cuda
