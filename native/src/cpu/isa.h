/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
#pragma once

namespace djlbsr::cpu {

enum class Isa { kPortable, kAvx2, kAvx512 };

/* "portable", "avx2" or "avx512", also the values of DJLBSR_MAX_ISA. */
const char* isa_name(Isa isa);

/* The best ISA that this build has and the machine runs. */
Isa supported_isa();

/*
 * supported_isa() capped by the environment variable DJLBSR_MAX_ISA, read once. Throws if the
 * variable names no ISA.
 */
Isa active_isa();

}  // namespace djlbsr::cpu
