/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
#pragma once

#include <optional>

#include "cuda/cuda_backend.h"
#include "torch/tensor.h"

namespace djlbsr::torch {

/* Makes a CUDA tensor's device current for a scope and tells PyTorch's stream there. */
class DeviceScope {
 public:
  explicit DeviceScope(const Tensor& tensor) {
    if (!tensor.is_cuda()) return;
    guard_.emplace(tensor.device_index());
    stream_ = current_cuda_stream(tensor.device_index());
  }
  void* stream() const { return stream_; }

 private:
  std::optional<cuda::DeviceGuard> guard_;
  void* stream_ = nullptr;
};

}  // namespace djlbsr::torch
