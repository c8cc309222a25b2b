/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
#pragma once

#include <string>

namespace djlbsr::torch {

/* The PyTorch of this process and whether the operators are registered with it, or why not, on one
   line; for djlbsr_capabilities. */
std::string describe();

}  // namespace djlbsr::torch
