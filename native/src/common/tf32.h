/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
#pragma once

namespace djlbsr {

constexpr const char* kTf32Variable = "DJLBSR_ALLOW_TF32";

/* Whether fp32 products may be as in TF32: what was set last, at first what the variable says. */
bool tf32_allowed();
void allow_tf32(bool allow);

}  // namespace djlbsr
