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

/* How many threads a call keeps busy, where it has them. */
double useful_threads(const djlbsr_info& info, int64_t tokens);

/* y := act(y) for count elements; at most `threads` threads, 0 for OpenMP's setting. */
void activate(int32_t dtype, int32_t activation, void* y, int64_t count, int32_t threads);

}  // namespace djlbsr::cpu
