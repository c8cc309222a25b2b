/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "djlbsr.h"

namespace djlbsr::cuda {

/* The kernels of `linear`; numbers are weight rows and tokens of a tile, or its tokens. */
enum class Kernel {
  kPortable,
  kF32Stream,
  kSm80F16Stream,
  kSm80F16Mma,
  kHopper128x256,
  kHopper64x512,
  kHopperNarrow,
  kHopperNarrowSplit,
  kHopperPanels,
  kHopperPanelsNarrow,
  kHopperPanelsSplit2,
  kHopperPanelsSplit4,
  kHopperPanelsSplit8,
  kHopperFp32x256,
  kHopperFp32x128,
  kHopperFp32Fastx256,
  kHopperFp32Fastx128
};

/* Pieces of 128 rows x 64 tokens that hopper_panel_narrow_kernel.cuh cuts a call into. */
int64_t panel_pieces(const djlbsr_info& info, const djlbsr_linear_args& args);

/*
 * How many CTAs share a tile of hopper_narrow_split: a function of the weight alone, like an
 * output's bits.
 */
int narrow_split_ctas(const djlbsr_info& info);

/* As many of its CTAs as paid: 43 clusters of 8. */
constexpr int64_t kMostPanelCtas = 344;

const char* kernel_name(Kernel kernel);
std::optional<Kernel> kernel_named(const char* name);

/* All names, in order of preference: "a, b and c". */
std::string kernel_names();

/* Whether a kernel can serve a call, be it the best for it or not. */
bool kernel_serves(Kernel kernel, const djlbsr_info& info, const djlbsr_linear_args& args,
                   int compute_capability);

/*
 * The kernel that serves a call: a function of its arguments alone, pointers counting by their
 * alignment only. forced serves every call that it can. compute_capability is 10 * major + minor.
 * allow_tf32 lets a fast kernel take the place of one for fp32.
 */
Kernel kernel_choice(const djlbsr_info& info, const djlbsr_linear_args& args,
                     int compute_capability, std::optional<Kernel> forced = std::nullopt,
                     bool allow_tf32 = false);

}  // namespace djlbsr::cuda
