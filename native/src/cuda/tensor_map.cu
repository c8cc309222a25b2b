/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
#include "cuda/tensor_map.h"

#include <cudaTypedefs.h>

#include "common/error.h"
#include "common/meta.h"
#include "cuda/driver.h"

namespace djlbsr::cuda {
namespace {

CUtensorMapDataType element_of(int32_t dtype) {
  return dtype == DJLBSR_FLOAT32   ? CU_TENSOR_MAP_DATA_TYPE_FLOAT32
         : dtype == DJLBSR_FLOAT16 ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16
                                   : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
}

}  // namespace

CUtensorMap tensor_map(const char* name, const void* data, int32_t dtype, int64_t rows,
                       int64_t cols, int64_t stride, int box_rows, int box_cols) {
  const auto size = static_cast<int64_t>(dtype_size(dtype));
  const cuuint64_t sizes[] = {static_cast<cuuint64_t>(cols), static_cast<cuuint64_t>(rows)};
  const cuuint64_t strides[] = {static_cast<cuuint64_t>(stride * size)};
  const cuuint32_t box[] = {static_cast<cuuint32_t>(box_cols), static_cast<cuuint32_t>(box_rows)};
  const cuuint32_t steps[] = {1, 1};
  static const auto encoder =
      driver_function<PFN_cuTensorMapEncodeTiled_v12000>("cuTensorMapEncodeTiled");
  CUtensorMap map;
  const CUresult status =
      encoder(&map, element_of(dtype), 2, const_cast<void*>(data), sizes, strides, box, steps,
              CU_TENSOR_MAP_INTERLEAVE_NONE,
              box_cols * size == 128 ? CU_TENSOR_MAP_SWIZZLE_128B : CU_TENSOR_MAP_SWIZZLE_64B,
              CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (status != CUDA_SUCCESS) {
    fail(DJLBSR_CUDA_ERROR,
         "cuTensorMapEncodeTiled gave CUresult %d for %s at %p, %lld rows, %lld columns, stride "
         "%lld; check that it is memory of the current device",
         static_cast<int>(status), name, data, (long long)rows, (long long)cols, (long long)stride);
  }
  return map;
}

}  // namespace djlbsr::cuda
