/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
#pragma once

#include <cuda_runtime.h>

#include "common/meta.h"
#include "djlbsr.h"

namespace djlbsr::cuda {

/* Writes the terms of a packed weight that has them, and at least one block, from its values. */
void split_values(const djlbsr_info& info, void* packed, cudaStream_t stream);

}  // namespace djlbsr::cuda
