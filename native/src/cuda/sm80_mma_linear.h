/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
#pragma once

#include <cuda_runtime.h>

#include "cuda/linear_params.h"
#include "djlbsr.h"

namespace djlbsr::cuda {

/* Launches the mma.sync kernel; params are those of the weight and the call. */
void sm80_f16_mma(const djlbsr_info& info, const LinearParams& params, cudaStream_t stream);

}  // namespace djlbsr::cuda
