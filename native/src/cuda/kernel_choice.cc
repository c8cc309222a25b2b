/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
#include "cuda/kernel_choice.h"

#include <limits>

namespace djlbsr::cuda {
namespace {

constexpr int64_t kMaxCoordinate = std::numeric_limits<int32_t>::max();

/* The bulk copy engine reads rows of x, and 16-byte stores write rows of y, at such addresses. */
bool aligned_16(const void* address, int64_t stride_elements) {
  return reinterpret_cast<uintptr_t>(address) % 16 == 0 && stride_elements % 8 == 0;
}

}  // namespace

const char* kernel_name(Kernel kernel) {
  switch (kernel) {
    case Kernel::kHopper128x256:
      return "hopper_128x256";
    case Kernel::kHopper64x512:
      return "hopper_64x512";
    default:
      return "portable";
  }
}

Kernel kernel_choice(const djlbsr_info& info, const djlbsr_linear_args& args,
                     int compute_capability) {
  const bool served = compute_capability == 90 &&
                      (info.dtype == DJLBSR_FLOAT16 || info.dtype == DJLBSR_BFLOAT16) &&
                      info.block_rows % 64 == 0 && info.block_cols % 64 == 0 && info.nnzb > 0 &&
                      args.tokens >= 64 && args.x_stride >= info.cols &&
                      aligned_16(args.x, args.x_stride) && aligned_16(args.y, args.y_stride);
  /* Tensor maps have 32-bit coordinates and strides below 2^40 bytes; tiles are counted in 32 bits.
   */
  const bool small = served && info.nnzb <= kMaxCoordinate / info.block_rows &&
                     args.tokens <= kMaxCoordinate - 512 && args.x_stride < int64_t{1} << 39 &&
                     args.tokens / 256 + 1 <= kMaxCoordinate / 4 / (info.rows / 64);
  if (!small) return Kernel::kPortable;
  return info.block_rows % 128 == 0 ? Kernel::kHopper128x256 : Kernel::kHopper64x512;
}

}  // namespace djlbsr::cuda
