/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
#pragma once

namespace djlbsr::cpu {

/*
 * What the kernels may use, each level with all below it. fp32 and fp16 have the same kernels, and
 * so the same bits, from kAvx512 on; kAvx512Vnni adds int8, kAvx512Bf16 bf16 dot products, kAmx
 * bf16 tiles.
 */
enum class Isa { kPortable, kAvx2, kAvx512, kAvx512Vnni, kAvx512Bf16, kAmx };

constexpr Isa kAllIsas[] = {Isa::kPortable,   Isa::kAvx2,       Isa::kAvx512,
                            Isa::kAvx512Vnni, Isa::kAvx512Bf16, Isa::kAmx};

/* "portable", "avx2", "avx512", "avx512_vnni", "avx512_bf16" or "amx", as in DJLBSR_MAX_ISA. */
const char* isa_name(Isa isa);

/*
 * The best ISA that this build has, the machine runs, and the operating system grants: AMX takes a
 * request for its registers, which the first call makes for the whole process.
 */
Isa supported_isa();

/*
 * supported_isa() capped by the environment variable DJLBSR_MAX_ISA, read once. Throws if the
 * variable names no ISA.
 */
Isa active_isa();

}  // namespace djlbsr::cpu
