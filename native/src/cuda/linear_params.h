/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
#pragma once

#include <cstdint>

namespace djlbsr::cuda {

/* A block-row. A packed weight has them by falling number of blocks, equal ones in their order. */
struct BlockRow {
  int32_t block_row;
  int32_t first_block;
  int32_t blocks;
  int32_t reserved; /* 0 */
};

/* A weight and a call, as the kernels see them that read the values as they were packed. */
struct LinearParams {
  const int32_t* crow;
  const int32_t* col_start;
  const void* values; /* [nnzb, block_rows, block_cols] */
  const void* x;
  const void* bias; /* or null */
  void* y;
  int64_t tokens;
  int64_t x_stride;
  int64_t y_stride;
  int64_t tiles;                /* slices * token tiles */
  int64_t slices;               /* block_row_count * slices_per_block_row */
  int32_t slices_per_block_row; /* of at most a tile's rows each */
  int32_t cols;
  int32_t block_rows;
  int32_t block_cols;
  int32_t block_cols_shift; /* its logarithm, or -1 where it is no power of 2 */
  int32_t nnzb;
  int32_t activation;
};

}  // namespace djlbsr::cuda
