/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 *
 * wgmma with the left operand in registers. PTX ISA 8.0.
 */
#pragma once

#include <cstdint>

#include "cuda/hopper_ptx.cuh"

namespace djlbsr::cuda::ptx {

/*
 * d = (add ? d : 0) + a * b^T, where d is 64 x 2 kCount. Register 4j + 2i + c of d in lane l of
 * warp w is row 16w + l / 4 + 8i, column 8j + 2 (l % 4) + c.
 * Half c of register 2j + i of a is row 16w + l / 4 + 8i, column 8j + 2 (l % 4) + c of 16.
 */
template <int kCount>
__device__ void wgmma_bf16(float (&d)[kCount], const uint32_t (&a)[4], uint64_t b, bool add);

#define DJLBSR_8(d, i)                                                                        \
  "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), \
      "+f"(d[i + 6]), "+f"(d[i + 7])
#define DJLBSR_IN(a, b, add) "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(int{add})
#define DJLBSR_WGMMA(add, shape_and_operands) \
  "{\n"                                       \
  ".reg .pred add;\n"                         \
  "setp.ne.b32 add, " add                     \
  ", 0;\n"                                    \
  "wgmma.mma_async.sync.aligned." shape_and_operands ";\n}"

template <>
__device__ inline void wgmma_bf16<8>(float (&d)[8], const uint32_t (&a)[4], uint64_t b, bool add) {
  asm volatile(DJLBSR_WGMMA("%13",
                            "m64n16k16.f32.bf16.bf16 {%0, %1, %2, %3, %4, %5, %6, %7}, {%8, %9, "
                            "%10, %11}, %12, add, 1, 1, 0")
               : DJLBSR_8(d, 0)
               : DJLBSR_IN(a, b, add));
}

template <>
__device__ inline void wgmma_bf16<16>(float (&d)[16], const uint32_t (&a)[4], uint64_t b,
                                      bool add) {
  asm volatile(DJLBSR_WGMMA("%21",
                            "m64n32k16.f32.bf16.bf16 {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, "
                            "%11, %12, %13, %14, %15}, {%16, %17, %18, %19}, %20, add, 1, 1, 0")
               : DJLBSR_8(d, 0), DJLBSR_8(d, 8)
               : DJLBSR_IN(a, b, add));
}

template <>
__device__ inline void wgmma_bf16<32>(float (&d)[32], const uint32_t (&a)[4], uint64_t b,
                                      bool add) {
  asm volatile(
      DJLBSR_WGMMA("%37",
                   "m64n64k16.f32.bf16.bf16 {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, "
                   "%12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, "
                   "%27, %28, %29, %30, %31}, {%32, %33, %34, %35}, %36, add, 1, 1, 0")
      : DJLBSR_8(d, 0), DJLBSR_8(d, 8), DJLBSR_8(d, 16), DJLBSR_8(d, 24)
      : DJLBSR_IN(a, b, add));
}

#undef DJLBSR_WGMMA
#undef DJLBSR_IN
#undef DJLBSR_8

}  // namespace djlbsr::cuda::ptx
