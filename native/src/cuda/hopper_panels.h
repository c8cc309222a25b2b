/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
#pragma once

#include "common/meta.h"
#include "cuda/panels.h"
#include "djlbsr.h"

namespace djlbsr::cuda {

/* Writes the tables of the panel copy; plan must outlive what is queued on stream. */
void pack_panels(const djlbsr_info& info, const PanelPlan& plan, void* packed, void* stream);

/* Fills the panel copy from the packed values. */
void update_panels(const djlbsr_info& info, void* packed, void* stream);

/* Launches hopper_panel_kernel.cuh for a weight with a panel copy. */
void hopper_panels(const djlbsr_info& info, const void* packed, const djlbsr_linear_args& args,
                   int multiprocessors);

}  // namespace djlbsr::cuda
