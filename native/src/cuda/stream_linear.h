/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
#pragma once

#include <cuda_runtime.h>

#include "choice/cost_model.h"
#include "common/meta.h"
#include "cuda/linear_params.h"
#include "djlbsr.h"

namespace djlbsr::cuda {

/* Launch the kernels for few tokens; params are those of the weight and the call, device
 * the current one. */
void sm80_f16_stream(const djlbsr_info& info, const LinearParams& params, cudaStream_t stream,
                     const choice::CudaMachine& device);
void f32_stream(const djlbsr_info& info, const LinearParams& params, cudaStream_t stream,
                const choice::CudaMachine& device);

}  // namespace djlbsr::cuda
