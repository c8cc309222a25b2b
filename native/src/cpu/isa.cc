/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
#include "cpu/isa.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(__x86_64__) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "common/error.h"
#include "djlbsr.h"

namespace djlbsr::cpu {
namespace {

#if defined(__x86_64__)

/* __builtin_cpu_supports does not know it in Clang 14. AVX, which goes with it, is checked there. */
bool has_f16c() {
  unsigned a, b, c, d;
  return __get_cpuid(1, &a, &b, &c, &d) != 0 && (c & bit_F16C) != 0;
}

bool has_amx_bf16() {
#if defined(__linux__)
  unsigned a, b, c, d;
  /* CPUID.7.0:EDX: 22 AMX-BF16, 24 AMX-TILE. */
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || (d >> 22 & 1) == 0 || (d >> 24 & 1) == 0) {
    return false;
  }
  /* XCR0 17 and 18: the operating system saves the tile configuration and the tiles. */
  if (!__get_cpuid_count(1, 0, &a, &b, &c, &d) || (c >> 27 & 1) == 0) return false;
  uint32_t low, high;
  __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  if ((low >> 17 & 3) != 3) return false;
  /* Linux grants the tiles to a process that asks: ARCH_REQ_XCOMP_PERM for XTILEDATA. It refuses
     where a thread's alternative signal stack is too small to hold them. */
  constexpr long kRequestPermission = 0x1023;
  constexpr long kTileData = 18;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}

/* __builtin_cpu_supports checks XCR0 too. */
Isa detect() {
  __builtin_cpu_init();
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma") ||
      !has_f16c()) {
    return Isa::kPortable;
  }
  if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") ||
      !__builtin_cpu_supports("avx512dq") || !__builtin_cpu_supports("avx512vl")) {
    return Isa::kAvx2;
  }
  if (!__builtin_cpu_supports("avx512vnni")) return Isa::kAvx512;
  if (!__builtin_cpu_supports("avx512bf16")) return Isa::kAvx512Vnni;
  return has_amx_bf16() ? Isa::kAmx : Isa::kAvx512Bf16;
}

#else

Isa detect() { return Isa::kPortable; }

#endif

Isa read_active_isa() {
  const Isa supported = supported_isa();
  const char* cap = std::getenv("DJLBSR_MAX_ISA");
  if (cap == nullptr || *cap == '\0') return supported;
  for (Isa isa : kAllIsas) {
    if (std::strcmp(cap, isa_name(isa)) == 0) return isa < supported ? isa : supported;
  }
  fail(DJLBSR_INVALID_ARGUMENT,
       "environment variable DJLBSR_MAX_ISA is '%s'; use portable, avx2, avx512, avx512_vnni, "
       "avx512_bf16 or amx",
       cap);
}

}  // namespace

const char* isa_name(Isa isa) {
  switch (isa) {
    case Isa::kAmx:
      return "amx";
    case Isa::kAvx512Bf16:
      return "avx512_bf16";
    case Isa::kAvx512Vnni:
      return "avx512_vnni";
    case Isa::kAvx512:
      return "avx512";
    case Isa::kAvx2:
      return "avx2";
    default:
      return "portable";
  }
}

Isa supported_isa() {
  static const Isa isa = detect();
  return isa;
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
