/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
#pragma once

#include "common/meta.h"
#include "cuda/kernel_choice.h"
#include "cuda/panels.h"
#include "djlbsr.h"

namespace djlbsr::cuda {

/* The panel copy of a packed weight; for those who write it and for those who do not. */
struct PanelSection {
  PanelLayout layout;
  char* base;

  PanelSection(const djlbsr_info& info, const void* packed)
      : layout(panel_layout(info)),
        base(static_cast<char*>(const_cast<void*>(packed)) + layout_of(info).panels) {}

  template <typename T>
  T* at(int64_t offset) const {
    return reinterpret_cast<T*>(base + offset);
  }
};

/* Writes the tables of the panel copy; plan must outlive what is queued on stream. */
void pack_panels(const djlbsr_info& info, const PanelPlan& plan, void* packed, void* stream);

/* Fills the panel copy from the packed values. */
void update_panels(const djlbsr_info& info, void* packed, void* stream);

/* Launches hopper_panel_kernel.cuh for a weight with a panel copy. */
void hopper_panels(const djlbsr_info& info, const void* packed, const djlbsr_linear_args& args,
                   int multiprocessors);

/* Launches hopper_panel_narrow_kernel.cuh for one with squares of 16 or 32. */
void hopper_panels_narrow(Kernel kernel, const djlbsr_info& info, const void* packed,
                          const djlbsr_linear_args& args, int multiprocessors);

}  // namespace djlbsr::cuda
