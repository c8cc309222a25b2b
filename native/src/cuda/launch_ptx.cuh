/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 *
 * Kernels that overlap in a stream: one begins before the one ahead of it ends, has its first CTAs
 * ask L2 for the weight, and waits for the one ahead before it reads anything. All of this does
 * nothing before compute capability 9.0.
 */
#pragma once

#include <cstdint>

namespace djlbsr::cuda {

/* What a kernel asks L2 for; wherever it was written last, in L2 it is up to date. */
struct L2Prefetch {
  const char* begin; /* as the bytes, a multiple of 16 */
  uint32_t bytes;
  uint32_t ctas; /* so many ask, which bounds the rate */
};

/*
 * Measured on an H100: a copy engine asks for 0.17 TB/s, and from 40 CTAs on the requests are in
 * the way of the kernel ahead.
 */
constexpr int64_t kPrefetchingCtas = 24;

/*
 * Of a weight with so many bytes, which begins with its structure: all, or of more than half of an
 * H100's L2 the structure alone, since a part of the values gained nothing.
 */
constexpr uint32_t prefetch_bytes(int64_t all, int64_t structure) {
  constexpr int64_t kMost = 24 << 20;
  return static_cast<uint32_t>((all <= kMost        ? all
                                : structure < kMost ? structure
                                                    : kMost) /
                               16 * 16);
}

/*
 * What the kernels for more tokens ask for, few of them (128) and of a small weight: there it saves
 * 0.3 us of 4 to 8. Beside the ring of a larger one it costs up to 1 us.
 */
inline L2Prefetch prefetch_of_few_tokens(const char* begin, int64_t bytes, int64_t tokens,
                                         int64_t ctas) {
  if (tokens > 128 || bytes > 4 << 20) return {};
  return {begin, static_cast<uint32_t>(bytes / 16 * 16),
          static_cast<uint32_t>(ctas < kPrefetchingCtas ? ctas : kPrefetchingCtas)};
}

namespace ptx {

/* Lets the next kernel of the stream begin, as far as its dependency_wait. */
__device__ inline void launch_dependents() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

/* Returns when the kernels before are complete and what they wrote can be read. */
__device__ inline void dependency_wait() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

/* Asks L2 for memory; address and bytes are multiples of 16. */
__device__ inline void prefetch_l2(const void* address, uint32_t bytes) {
#if __CUDA_ARCH__ >= 900
  asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(address), "r"(bytes) : "memory");
#endif
}

}  // namespace ptx

/* One warp of every CTA, before dependency_wait. */
__device__ inline void prefetch_to_l2(const L2Prefetch& p, uint32_t cta) {
  constexpr uint32_t kPiece = 4096;
  if (cta >= p.ctas) return;
  const uint32_t lane = threadIdx.x % 32;
  for (uint32_t i = (lane * p.ctas + cta) * kPiece; i < p.bytes; i += p.ctas * 32 * kPiece) {
    ptx::prefetch_l2(p.begin + i, min(kPiece, p.bytes - i));
  }
}

}  // namespace djlbsr::cuda
