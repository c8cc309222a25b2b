/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
#pragma once

#include <cstdint>

#include "djlbsr.h"

namespace djlbsr::cuda {

/* The kernels of `linear`; the numbers are weight rows and tokens of a tile. */
enum class Kernel { kPortable, kHopper128x256, kHopper64x512 };

const char* kernel_name(Kernel kernel);

/*
 * The kernel that serves a call: a function of its arguments alone, pointers counting by their
 * alignment only. compute_capability is 10 * major + minor.
 */
Kernel kernel_choice(const djlbsr_info& info, const djlbsr_linear_args& args,
                     int compute_capability);

}  // namespace djlbsr::cuda
