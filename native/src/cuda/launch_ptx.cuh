/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 *
 * Kernels that overlap in a stream. They do nothing before compute capability 9.0.
 */
#pragma once

namespace djlbsr::cuda::ptx {

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

}  // namespace djlbsr::cuda::ptx
