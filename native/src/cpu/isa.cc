/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
#include "cpu/isa.h"

#include <cstdlib>
#include <cstring>

#include "common/error.h"
#include "djlbsr.h"

namespace djlbsr::cpu {
namespace {

Isa read_active_isa() {
  const Isa supported = supported_isa();
  const char* cap = std::getenv("DJLBSR_MAX_ISA");
  if (cap == nullptr || *cap == '\0') return supported;
  for (Isa isa : {Isa::kPortable, Isa::kAvx2, Isa::kAvx512}) {
    if (std::strcmp(cap, isa_name(isa)) == 0) return isa < supported ? isa : supported;
  }
  fail(DJLBSR_INVALID_ARGUMENT,
       "environment variable DJLBSR_MAX_ISA is '%s'; use portable, avx2 or avx512", cap);
}

}  // namespace

const char* isa_name(Isa isa) {
  switch (isa) {
    case Isa::kAvx512:
      return "avx512";
    case Isa::kAvx2:
      return "avx2";
    default:
      return "portable";
  }
}

Isa supported_isa() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
      __builtin_cpu_supports("f16c")) {
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
      return Isa::kAvx512;
    }
    return Isa::kAvx2;
  }
#endif
  return Isa::kPortable;
}

Isa active_isa() {
  static const Isa isa = read_active_isa();
  return isa;
}

}  // namespace djlbsr::cpu

const char* djlbsr_active_isa(void) {
  try {
    return djlbsr::cpu::isa_name(djlbsr::cpu::active_isa());
  } catch (...) {
    djlbsr::record_current_exception();
    return "none";
  }
}
