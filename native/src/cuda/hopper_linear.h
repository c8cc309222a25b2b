/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
#pragma once

#include "choice/cost_model.h"
#include "common/meta.h"
#include "cuda/kernel_choice.h"
#include "djlbsr.h"

namespace djlbsr::cuda {

/* Launches a Hopper kernel that kernel_choice gave for these arguments. */
void hopper_linear(Kernel kernel, const djlbsr_info& info, const void* packed,
                   const djlbsr_linear_args& args, const choice::CudaMachine& device);

/* The same for the kernels of fp32. */
void hopper_fp32_linear(Kernel kernel, const djlbsr_info& info, const void* packed,
                        const djlbsr_linear_args& args, int multiprocessors);

}  // namespace djlbsr::cuda
