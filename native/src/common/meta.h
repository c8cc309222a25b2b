/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
#pragma once

#include <cstddef>
#include <cstdint>

#include "djlbsr.h"

namespace djlbsr {

const char* dtype_name(int32_t dtype);
const char* device_name(int32_t device);
size_t dtype_size(int32_t dtype);

/*
 * Where the parts of a packed weight lie, in bytes from its start. The order is the same on every
 * device; what `values` looks like inside is the backend's own business.
 */
struct Layout {
  int64_t crow;      /* int32 [block_row_count + 1] */
  int64_t col_start; /* int32 [nnzb]: first column of the block, col_index * block_cols */
  int64_t rows;      /* BlockRow [block_row_count], see cuda/linear_params.h; empty on the CPU */
  int64_t values;    /* nnzb * block_rows * block_cols elements, 256-byte aligned */
  /* int8 weights alone, see cpu/strips.h; empty otherwise */
  int64_t offsets; /* int32 [nnzb, block_rows] */
  int64_t scales;  /* float [nnzb] */
  int64_t used;    /* uint8 [cols / block_cols] */
  int64_t panels;  /* cuda/panels.h, where the weight has a panel copy */
  int64_t terms;   /* see Fp32Terms; empty where they do not exist */
  int64_t bytes;
};

Layout layout_of(const djlbsr_info& info);

/* Throws if matrix breaks the contract in djlbsr.h. */
void validate(const djlbsr_matrix& matrix);

/* The meta of a matrix for a device kind; validates both. */
djlbsr_meta make_meta(const djlbsr_matrix& matrix, int32_t device);

/* Checks and decodes. */
djlbsr_info decode(const djlbsr_meta& meta);

/* Throws unless meta was made from this very structure. */
void check_same_structure(const djlbsr_meta& meta, const djlbsr_matrix& matrix);

}  // namespace djlbsr
