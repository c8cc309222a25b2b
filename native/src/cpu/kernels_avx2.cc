/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
#include "cpu/vec_x86.h"

namespace djlbsr::cpu {
namespace {

using Vec = Vec8;
using RowVec = Vec8; /* for more than four rows */

/* 6 x 2 sums, 2 weights and 1 broadcast fill 15 of the 16 registers. */
constexpr int kTileTokens = 6;
constexpr int kMaxSums = 12;
constexpr int kMaxTokenVectors = 3;

}  // namespace
}  // namespace djlbsr::cpu

#include "cpu/kernels_impl.h"

namespace djlbsr::cpu {
const Kernels kAvx2Kernels = {make_plan, copy_x, run_task, activate_array};
}
