/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
#pragma once

#include "common/meta.h"
#include "djlbsr.h"

/* The CPU's side of what cuda/cuda_backend.h describes. */
namespace djlbsr::cpu {

void pack(const djlbsr_info& info, const djlbsr_matrix& matrix, void* packed);
void update_values(const djlbsr_info& info, void* packed, const void* values);
void linear(const djlbsr_info& info, const void* packed, const djlbsr_linear_args& args);

}  // namespace djlbsr::cpu
