/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
#pragma once

#include "cuda/kernel_choice.h"
#include "djlbsr.h"

namespace djlbsr::cuda {

/* Launches the kernel for few tokens that kernel_choice gave for these arguments. */
void hopper_narrow(Kernel kernel, const djlbsr_info& info, const void* packed,
                   const djlbsr_linear_args& args, int multiprocessors);

}  // namespace djlbsr::cuda
