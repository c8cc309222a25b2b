/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
#include <omp.h>

#include <string>

#include "choice/profiles.h"
#include "cpu/isa.h"
#include "cuda/cuda_backend.h"
#include "djlbsr.h"
#include "torch/operators.h"

const char* djlbsr_version(void) { return DJLBSR_VERSION; }

const char* djlbsr_capabilities(void) {
  thread_local std::string text;
  try {
    text = std::string("version: ") + DJLBSR_VERSION + "\n";
    text += "packed format: " + std::to_string(DJLBSR_FORMAT_VERSION) + "\n";
    text += std::string("compiler: ") + __VERSION__ + "\n";
    text +=
        std::string("cpu supports: ") + djlbsr::cpu::isa_name(djlbsr::cpu::supported_isa()) + "\n";
    text += std::string("cpu active: ") + djlbsr_active_isa() +
            " (cap it with the environment variable DJLBSR_MAX_ISA)\n";
    text += "openmp threads: " + std::to_string(omp_get_max_threads()) + "\n";
    text += "cpu profile: " + djlbsr::choice::describe() + "\n";
    text += "cuda devices: " + djlbsr::cuda::describe() + "\n";
    text += "cuda kernels: " + djlbsr::cuda::describe_kernels() + "\n";
    text += std::string("cuda fp32: ") +
            (djlbsr_allow_tf32() != 0 ? "TF32 allowed" : "full accuracy") +
            " (djlbsr_set_allow_tf32, or the environment variable DJLBSR_ALLOW_TF32=1)\n";
    text += "torch: " + djlbsr::torch::describe() + "\n";
  } catch (...) {
    return "out of memory";
  }
  return text.c_str();
}
