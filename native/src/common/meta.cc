/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
#include "common/meta.h"

#include <algorithm>
#include <limits>

#include "common/error.h"
#include "common/fp32_terms.h"
#include "cuda/linear_params.h"
#include "cuda/panels.h"

namespace djlbsr {
namespace {

constexpr int64_t kMagic = 0x5253424c4a44; /* "DJLBSR" in memory order */
constexpr int64_t kAlignment = 256;
constexpr int64_t kMaxElements = int64_t{1} << 56;
/* The words are all taken: the weight format shares the dtype's. */
constexpr int kWeightFormatShift = 8;
constexpr int64_t kMaxInt32 = std::numeric_limits<int32_t>::max();

/* Words of a djlbsr_meta; the ones not named are 0. */
enum Word {
  kWordMagic,
  kWordVersion,
  kWordDevice,
  kWordDtype,
  kWordRows,
  kWordCols,
  kWordBlockRows,
  kWordBlockCols,
  kWordNnzb,
  kWordPackedBytes,
  kWordMaxBlocksInRow,
  kWordStructureHash,
  kWordPanelBlock,
  kWordPanelEntries,
  kWordPanelSteps,
  kWordChecksum = DJLBSR_META_WORDS - 1
};

/* FNV-1a, 64 bits, a word at a time. */
class Hash {
 public:
  void add(int64_t word) {
    state_ = (state_ ^ static_cast<uint64_t>(word)) * 0x100000001b3ULL;
    state_ ^= state_ >> 32;
  }
  int64_t value() const { return static_cast<int64_t>(state_); }

 private:
  uint64_t state_ = 0xcbf29ce484222325ULL;
};

int64_t checksum_of(const djlbsr_meta& meta) {
  Hash hash;
  for (int i = 0; i < kWordChecksum; ++i) hash.add(meta.words[i]);
  return hash.value();
}

int64_t structure_hash(const djlbsr_matrix& m) {
  Hash hash;
  for (int64_t i = 0; i <= m.rows / m.block_rows; ++i) hash.add(m.crow_indices[i]);
  for (int64_t i = 0; i < m.nnzb; ++i) hash.add(m.col_indices[i]);
  return hash.value();
}

int64_t align(int64_t offset) { return (offset + kAlignment - 1) / kAlignment * kAlignment; }

void check_sizes(int64_t rows, int64_t cols, int64_t block_rows, int64_t block_cols, int64_t nnzb) {
  DJLBSR_CHECK(block_rows >= 1 && block_rows <= kMaxInt32,
               "block_rows is %lld; a block has 1 to 2147483647 rows", (long long)block_rows);
  DJLBSR_CHECK(block_cols >= 1 && block_cols <= kMaxInt32,
               "block_cols is %lld; a block has 1 to 2147483647 columns", (long long)block_cols);
  DJLBSR_CHECK(rows >= 0 && rows <= kMaxInt32, "rows is %lld; use 0 to 2147483647",
               (long long)rows);
  DJLBSR_CHECK(cols >= 0 && cols <= kMaxInt32, "cols is %lld; use 0 to 2147483647",
               (long long)cols);
  DJLBSR_CHECK(rows % block_rows == 0,
               "rows is %lld, not a multiple of block_rows %lld; pad the matrix or choose a block "
               "that divides it",
               (long long)rows, (long long)block_rows);
  DJLBSR_CHECK(cols % block_cols == 0,
               "cols is %lld, not a multiple of block_cols %lld; pad the matrix or choose a block "
               "that divides it",
               (long long)cols, (long long)block_cols);
  DJLBSR_CHECK(nnzb >= 0 && nnzb <= kMaxInt32, "nnzb is %lld; use 0 to 2147483647",
               (long long)nnzb);
  /* Each factor is below 2^31, so the product is below 2^62. */
  DJLBSR_CHECK(nnzb <= (rows / block_rows) * (cols / block_cols),
               "nnzb is %lld, more than the %lld blocks of the matrix", (long long)nnzb,
               (long long)((rows / block_rows) * (cols / block_cols)));
  /* At most rows * cols < 2^62 elements: their number fits, their bytes need not. */
  DJLBSR_CHECK(nnzb * block_rows * block_cols <= kMaxElements,
               "nnzb is %lld with blocks of %lld x %lld; that is more than memory can hold",
               (long long)nnzb, (long long)block_rows, (long long)block_cols);
}

}  // namespace

const char* dtype_name(int32_t dtype) {
  switch (dtype) {
    case DJLBSR_FLOAT32:
      return "float32";
    case DJLBSR_FLOAT16:
      return "float16";
    case DJLBSR_BFLOAT16:
      return "bfloat16";
    default:
      fail(DJLBSR_INVALID_ARGUMENT, "dtype is %d; use 0 (float32), 1 (float16) or 2 (bfloat16)",
           dtype);
  }
}

size_t dtype_size(int32_t dtype) {
  dtype_name(dtype);
  return dtype == DJLBSR_FLOAT32 ? 4 : 2;
}

const char* device_name(int32_t device) {
  switch (device) {
    case DJLBSR_CPU:
      return "cpu";
    case DJLBSR_CUDA:
      return "cuda";
    default:
      fail(DJLBSR_INVALID_ARGUMENT, "device is %d; use 0 (CPU) or 1 (CUDA)", device);
  }
}

Layout layout_of(const djlbsr_info& info) {
  Layout layout;
  layout.crow = 0;
  layout.col_start = align((info.rows / info.block_rows + 1) * 4);
  layout.rows = align(layout.col_start + info.nnzb * 4);
  layout.values = info.device == DJLBSR_CUDA
                      ? align(layout.rows + info.rows / info.block_rows *
                                                static_cast<int64_t>(sizeof(cuda::BlockRow)))
                      : layout.rows;
  if (info.weight_format == DJLBSR_WEIGHT_INT8_BLOCKS) {
    /* Columns in whole groups of 4. Kernels read whole vectors, up to 60 bytes past the end. */
    constexpr int64_t kSlack = 64;
    const int64_t block_bytes = info.block_rows * ((info.block_cols + 3) / 4 * 4);
    layout.offsets = align(layout.values + info.nnzb * block_bytes + kSlack);
    layout.scales = align(layout.offsets + info.nnzb * info.block_rows * 4 + kSlack);
    layout.used = align(layout.scales + info.nnzb * 4);
    layout.bytes = align(layout.used + info.cols / info.block_cols);
    layout.panels = layout.terms = layout.bytes;
    return layout;
  }
  layout.panels = align(layout.values + info.nnzb * info.block_rows * info.block_cols *
                                            static_cast<int64_t>(dtype_size(info.dtype)));
  layout.offsets = layout.scales = layout.used = layout.panels;
  layout.terms = layout.panels + cuda::panel_layout(info).bytes;
  layout.bytes = layout.terms + (Fp32Terms::exist(info) ? align(Fp32Terms::bytes(info)) : 0);
  return layout;
}

void validate(const djlbsr_matrix& m) {
  dtype_name(m.dtype);
  check_sizes(m.rows, m.cols, m.block_rows, m.block_cols, m.nnzb);
  DJLBSR_CHECK(m.crow_indices != nullptr, "crow_indices is null");
  DJLBSR_CHECK(m.col_indices != nullptr || m.nnzb == 0, "col_indices is null");
  const int64_t block_row_count = m.rows / m.block_rows;
  const int64_t block_col_count = m.cols / m.block_cols;
  DJLBSR_CHECK(m.crow_indices[0] == 0, "crow_indices[0] is %d; it must be 0", m.crow_indices[0]);
  DJLBSR_CHECK(m.crow_indices[block_row_count] == m.nnzb,
               "crow_indices[%lld] is %d; the last one must be nnzb, %lld",
               (long long)block_row_count, m.crow_indices[block_row_count], (long long)m.nnzb);
  for (int64_t i = 0; i < block_row_count; ++i) {
    const int32_t begin = m.crow_indices[i];
    const int32_t end = m.crow_indices[i + 1];
    DJLBSR_CHECK(begin <= end && end <= m.nnzb,
                 "crow_indices[%lld] is %d after %d; they must not decrease or pass nnzb, %lld",
                 (long long)(i + 1), end, begin, (long long)m.nnzb);
    int64_t previous = -1;
    for (int32_t k = begin; k < end; ++k) {
      const int32_t col = m.col_indices[k];
      DJLBSR_CHECK(col >= 0 && col < block_col_count,
                   "col_indices[%d] is %d; block-row %lld has block columns 0 to %lld", k, col,
                   (long long)i, (long long)(block_col_count - 1));
      DJLBSR_CHECK(col != previous,
                   "col_indices[%d] is %d a second time in block-row %lld; sum duplicate blocks", k,
                   col, (long long)i);
      DJLBSR_CHECK(
          col > previous,
          "col_indices[%d] is %d after %lld in block-row %lld; sort the blocks of a row by "
          "column",
          k, col, (long long)previous, (long long)i);
      previous = col;
    }
  }
}

/* An int32 holds 128 * 127 times this. */
constexpr int64_t kMaxInt8BlockCols = 131072;

void check_weight_format(const djlbsr_matrix& m, int32_t device) {
  DJLBSR_CHECK(
      m.weight_format == DJLBSR_WEIGHT_AS_GIVEN || m.weight_format == DJLBSR_WEIGHT_INT8_BLOCKS,
      "weight_format is %d; use 0 (as given) or 1 (int8 with a scale for each block)",
      m.weight_format);
  if (m.weight_format == DJLBSR_WEIGHT_AS_GIVEN) return;
  if (device != DJLBSR_CPU || m.dtype != DJLBSR_FLOAT32) {
    fail(DJLBSR_UNSUPPORTED,
         "weight_format is 1 (int8) with dtype %s on %s; int8 weights work with float32 on the CPU "
         "alone, so convert the values to float32 or keep weight_format 0",
         dtype_name(m.dtype), device_name(device));
  }
  if (m.block_cols > kMaxInt8BlockCols ||
      m.cols / m.block_cols * ((m.block_cols + 3) / 4 * 4) > kMaxInt32) {
    fail(DJLBSR_UNSUPPORTED,
         "weight_format is 1 (int8) with block_cols %lld and cols %lld; blocks have at most %lld "
         "columns there, and columns padded to multiples of 4 in a block at most 2147483647 in "
         "all, so keep weight_format 0",
         (long long)m.block_cols, (long long)m.cols, (long long)kMaxInt8BlockCols);
  }
}

namespace {

/* Validates a matrix for a device kind; its sizes, without those of a panel copy. */
djlbsr_info info_of(const djlbsr_matrix& matrix, int32_t device) {
  device_name(device);
  validate(matrix);
  check_weight_format(matrix, device);
  djlbsr_info info = {};
  info.rows = matrix.rows;
  info.cols = matrix.cols;
  info.weight_format = matrix.weight_format;
  info.block_rows = matrix.block_rows;
  info.block_cols = matrix.block_cols;
  info.nnzb = matrix.nnzb;
  info.dtype = matrix.dtype;
  info.device = device;
  for (int64_t i = 0; i < matrix.rows / matrix.block_rows; ++i) {
    info.max_blocks_in_row = std::max<int64_t>(info.max_blocks_in_row,
                                               matrix.crow_indices[i + 1] - matrix.crow_indices[i]);
  }
  return info;
}

djlbsr_meta encode(const djlbsr_info& info, const djlbsr_matrix& matrix) {
  djlbsr_meta meta = {};
  meta.words[kWordMagic] = kMagic;
  meta.words[kWordVersion] = DJLBSR_FORMAT_VERSION;
  meta.words[kWordDevice] = info.device;
  meta.words[kWordDtype] = info.dtype | info.weight_format << kWeightFormatShift;
  meta.words[kWordRows] = info.rows;
  meta.words[kWordCols] = info.cols;
  meta.words[kWordBlockRows] = info.block_rows;
  meta.words[kWordBlockCols] = info.block_cols;
  meta.words[kWordNnzb] = info.nnzb;
  meta.words[kWordPackedBytes] = layout_of(info).bytes;
  meta.words[kWordMaxBlocksInRow] = info.max_blocks_in_row;
  meta.words[kWordStructureHash] = structure_hash(matrix);
  meta.words[kWordPanelBlock] = info.panel_block;
  meta.words[kWordPanelEntries] = info.panel_entries;
  meta.words[kWordPanelSteps] = info.panel_steps;
  meta.words[kWordChecksum] = checksum_of(meta);
  return meta;
}

}  // namespace

djlbsr_meta make_meta(const djlbsr_matrix& matrix, int32_t device) {
  djlbsr_info info = info_of(matrix, device);
  cuda::plan_panels(matrix, info);
  return encode(info, matrix);
}

djlbsr_info decode(const djlbsr_meta& meta) {
  const int64_t* words = meta.words;
  DJLBSR_CHECK(words[kWordMagic] == kMagic,
               "meta does not start with the mark of a packed weight; pass the meta that "
               "bsr::pack gave, on the CPU and unchanged");
  DJLBSR_CHECK(words[kWordVersion] == DJLBSR_FORMAT_VERSION,
               "the weight was packed in format version %lld, this library reads version %d; pack "
               "it again from its crow_indices, col_indices and values",
               (long long)words[kWordVersion], DJLBSR_FORMAT_VERSION);
  DJLBSR_CHECK(
      words[kWordChecksum] == checksum_of(meta),
      "meta's checksum does not fit its content; it was altered after packing, so pack the "
      "weight again");
  /* The checksum is no signature: a forged meta must not lead outside the buffers either. */
  const int64_t dtype = words[kWordDtype] & ((int64_t{1} << kWeightFormatShift) - 1);
  const int64_t format = words[kWordDtype] >> kWeightFormatShift;
  const int64_t device = words[kWordDevice];
  DJLBSR_CHECK(
      dtype <= DJLBSR_BFLOAT16 && device >= 0 && device <= DJLBSR_CUDA &&
          (format == DJLBSR_WEIGHT_AS_GIVEN || (format == DJLBSR_WEIGHT_INT8_BLOCKS &&
                                                dtype == DJLBSR_FLOAT32 && device == DJLBSR_CPU)),
      "meta has dtype %lld, weight format %lld and device %lld, which this library does not "
      "know; pack the weight again",
      (long long)dtype, (long long)format, (long long)device);
  djlbsr_info info = {};
  info.dtype = static_cast<int32_t>(dtype);
  info.device = static_cast<int32_t>(device);
  info.rows = words[kWordRows];
  info.cols = words[kWordCols];
  info.block_rows = words[kWordBlockRows];
  info.block_cols = words[kWordBlockCols];
  info.nnzb = words[kWordNnzb];
  info.weight_format = static_cast<int32_t>(format);
  info.packed_bytes = words[kWordPackedBytes];
  info.max_blocks_in_row = words[kWordMaxBlocksInRow];
  info.format_version = DJLBSR_FORMAT_VERSION;
  check_sizes(info.rows, info.cols, info.block_rows, info.block_cols, info.nnzb);
  DJLBSR_CHECK(info.max_blocks_in_row >= 0 && info.max_blocks_in_row <= info.cols / info.block_cols,
               "meta has %lld blocks in a block-row of %lld columns in blocks of %lld; pack the "
               "weight again",
               (long long)info.max_blocks_in_row, (long long)info.cols, (long long)info.block_cols);
  const int64_t entries = words[kWordPanelEntries];
  const int64_t steps = words[kWordPanelSteps];
  DJLBSR_CHECK(words[kWordPanelBlock] == cuda::panel_shape(info).block && entries >= 0 &&
                   steps >= 0 && entries < kMaxInt32 && steps < kMaxInt32,
               "meta has panels of %lld with %lld entries and %lld steps, which do not belong to "
               "its sizes; pack the weight again",
               (long long)words[kWordPanelBlock], (long long)entries, (long long)steps);
  info.panel_block = static_cast<int32_t>(words[kWordPanelBlock]);
  info.panel_entries = static_cast<int32_t>(entries);
  info.panel_steps = static_cast<int32_t>(steps);
  DJLBSR_CHECK(info.packed_bytes == layout_of(info).bytes,
               "meta says %lld packed bytes where its sizes need %lld; pack the weight again",
               (long long)info.packed_bytes, (long long)layout_of(info).bytes);
  return info;
}

void check_same_structure(const djlbsr_meta& meta, const djlbsr_matrix& matrix) {
  const djlbsr_info packed = decode(meta);
  djlbsr_info info = info_of(matrix, packed.device);
  /* A structure of the same hash has the same panels: no need to plan them again. */
  if (cuda::panel_shape(info).block == packed.panel_block) {
    info.panel_block = packed.panel_block;
    info.panel_entries = packed.panel_entries;
    info.panel_steps = packed.panel_steps;
  }
  const djlbsr_meta own = encode(info, matrix);
  for (int i = 0; i < DJLBSR_META_WORDS; ++i) {
    DJLBSR_CHECK(own.words[i] == meta.words[i],
                 "meta belongs to another matrix; call djlbsr_pack_query for this one");
  }
}

}  // namespace djlbsr
