/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
#pragma once

#include <string>

#include "choice/cost_model.h"

namespace djlbsr::choice {

/* The profile in use for a dtype: the one that djlbsr_set_profile gave, else the built-in one. */
const CpuProfile& current_profile(int32_t dtype);

/* Predicts for the device of the weight; cuda_device counts on CUDA and threads,
   0 for OpenMP's setting, on the CPU. */
djlbsr_prediction predict(const djlbsr_info& info, int64_t tokens, int32_t activation,
                          int32_t cuda_device, int32_t threads);

/* Which dtypes have a measured profile, on one line; for djlbsr_capabilities. */
std::string describe();

}  // namespace djlbsr::choice
