/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
#pragma once

#include <cstddef>
#include <cstdint>

#include "common/meta.h"
#include "cpu/isa.h"
#include "djlbsr.h"

/*
 * Packed weights for dot products of 2 bf16 or 4 int8 at a time. The rows of a block are cut into
 * strips of 16 (the last may be lower); a strip lies as 32-bit words
 *
 *     words[strip][group][row of the strip]
 *
 * a word being the row's 2 bf16 or 4 int8 of a group of adjacent columns. That is what vdpbf16ps
 * and vpdpbusd take, and a B tile of AMX: 16 words a cache line, a tile of 16 groups in one piece.
 * The other operand is x as the caller has it, so neither is transposed in a call; only int8 with
 * tokens in lanes transposes its copy of x, by whole words. Columns are padded with zeros to whole
 * groups (int8 alone, whose copy of x is padded too).
 */
namespace djlbsr::cpu {

constexpr int64_t kStripRows = 16;

/* Whether the packed weight is in strips; layout_of and the kernels follow. */
inline bool uses_strips(const djlbsr_info& info) {
  if (info.device != DJLBSR_CPU) return false;
  return info.weight_format == DJLBSR_WEIGHT_INT8_BLOCKS ||
         (info.dtype == DJLBSR_BFLOAT16 && info.block_rows % kStripRows == 0 &&
          info.block_cols % 2 == 0);
}

struct StripWeight {
  const int32_t* crow;
  const int32_t* col_start; /* first column of the block in padded columns */
  const char* words;
  const int32_t* offsets; /* int8: -128 * sum of the row's weights, [nnzb][block_rows] */
  const float* scales;    /* int8: [nnzb] */
  const uint8_t* used;    /* int8: whether any block is stored in a block column */
  bool int8;
  int64_t rows;
  int64_t cols;
  int64_t block_rows;
  int64_t block_cols;
  int64_t block_row_count;
  int64_t block_col_count;
  int64_t nnzb;
  int64_t groups;      /* of a block */
  int64_t padded_cols; /* of a block */
};

/* What a kernel reads of x: the caller's rows, or the copy that prepare made. */
struct StripRows {
  int64_t first_token; /* the one that rows and scales start with */
  const char* rows;
  int64_t stride;      /* bytes */
  const float* scales; /* int8: one a token */
};

/* Tokens by block-rows. */
struct StripTask {
  int64_t token_begin;
  int64_t token_end;
  int64_t block_row_begin;
  int64_t block_row_end;
};

/*
 * A kernel gives each output the same bits whatever the other tokens, rows and threads are; int8
 * the same bits on every ISA.
 */
struct StripKernel {
  const char* name;
  int64_t x_tokens;      /* that lie together in prepared x: 1 where it is in rows */
  int64_t x_col_bytes;   /* of a prepared column */
  int64_t tile_tokens;   /* tasks are best cut at multiples of it */
  int64_t direct_tokens; /* a call with at most so many reads the caller's x, unprepared */
  /* Writes the rows of x of some tokens to `to`, and their scales, for a start at token_begin.
     Where x_tokens lie together, these are at most so many. */
  void (*prepare)(const StripWeight&, const djlbsr_linear_args&, int64_t token_begin,
                  int64_t token_end, char* to, int64_t stride, float* scales);
  void (*run)(const StripWeight&, const djlbsr_linear_args&, const StripRows& x, const StripTask&);
};

/* A pure function of the ISA and the block shape, and for int8, whose results are the same bits by
   any kernel, of the number of tokens. */
const StripKernel& strip_kernel_for(Isa isa, const StripWeight& w, int64_t tokens);

/* Whether AMX serves: whole 16-row strips, and columns that fill at least half of a tile. */
bool amx_serves(const StripWeight& w);

StripWeight strip_weight_of(const djlbsr_info& info, const void* packed);
void pack_strips(const djlbsr_info& info, const djlbsr_matrix& matrix, void* packed);
void update_strips(const djlbsr_info& info, void* packed, const void* values);
void linear_strips(const djlbsr_info& info, const void* packed, const djlbsr_linear_args& args);

extern const StripKernel kBf16Portable;
extern const StripKernel kInt8Portable;
#if defined(__x86_64__)
extern const StripKernel kBf16Avx2;
extern const StripKernel kBf16Avx512;
extern const StripKernel kBf16Avx512Bf16;
extern const StripKernel kBf16Amx;
extern const StripKernel kInt8Avx2;
extern const StripKernel kInt8Avx512Vnni;
extern const StripKernel kInt8Avx512VnniLow;
extern const StripKernel kInt8Avx512VnniTokens;
#endif

}  // namespace djlbsr::cpu
