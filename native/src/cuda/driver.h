/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
#pragma once

#include <cstdint>

namespace djlbsr::cuda {

/* A function of the driver that the runtime has loaded, as of CUDA 12.0: nothing links to libcuda.
 */
void* driver_address(const char* name);

template <typename Function>
Function driver_function(const char* name) {
  return reinterpret_cast<Function>(driver_address(name));
}

/*
 * A number of the current context that no other one of the process has, later ones included; 0
 * where the thread has no context yet.
 */
uint64_t current_context();

}  // namespace djlbsr::cuda
