/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
#pragma once

#include <string>

/* What the machine can do at most, measured. */
namespace bench {

std::string cpu_name();

/* The size of the last-level cache in bytes, 0 if the system does not tell. */
long long last_level_cache();

/* GFLOP/s of fp32 multiply-adds on registers alone, `isa` as djlbsr_active_isa() names it. */
double fma_peak(const std::string& isa, int threads);

/* GB/s of reading memory far larger than the caches. */
double read_bandwidth(int threads);

}  // namespace bench
