/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
#pragma once

#include <cuda.h>

#include <cstdint>

namespace djlbsr::cuda {

/*
 * A row-major matrix of a djlbsr_dtype in boxes of box_rows x box_cols for the bulk copy engine;
 * rows of a box are 128 or 64 bytes and swizzled by as many. data and the stride's bytes are
 * multiples of 16. name is for the error text.
 */
CUtensorMap tensor_map(const char* name, const void* data, int32_t dtype, int64_t rows,
                       int64_t cols, int64_t stride, int box_rows, int box_cols);

}  // namespace djlbsr::cuda
