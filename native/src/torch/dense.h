/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
#pragma once

#include "djlbsr.h"
#include "torch/tensor.h"

namespace djlbsr::torch {

/* Throws unless dense could stand for the packed weight in a call with this input. */
void check_dense(const djlbsr_info& info, const Tensor& dense, const Tensor& input);

/* Whether a call that is given the dense weight too takes it: the prediction, or DJLBSR_EXECUTION,
   which is read once. */
bool use_dense(const djlbsr_info& info, const Tensor& input, int64_t tokens, int32_t activation);

/* PyTorch's own linear; bias may be null. */
OwnedTensor dense_linear(TensorHandle input, TensorHandle weight, TensorHandle bias);

/* y := act(y) on the current stream of y's device. Throws unless y is contiguous. */
void activate(const Tensor& y, int32_t activation);

/* The tensor, or a contiguous copy, after the activation. */
OwnedTensor activated(OwnedTensor tensor, int32_t activation);

}  // namespace djlbsr::torch
