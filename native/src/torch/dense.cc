/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
#include "torch/dense.h"

#include <cstdlib>
#include <memory>
#include <string>

#include "choice/profiles.h"
#include "common/error.h"
#include "cpu/cpu_backend.h"
#include "cuda/cuda_backend.h"
#include "torch/device_scope.h"

namespace djlbsr::torch {
namespace {

/* A handle of its own, for the dispatcher to take over. */
OwnedTensor share(TensorHandle handle) {
  TensorHandle copy = nullptr;
  if (abi().new_tensor_handle(handle, &copy) != 0) {
    fail(DJLBSR_TORCH_ERROR,
         "PyTorch failed to share a tensor; its own message is on standard error");
  }
  return OwnedTensor(copy);
}

/* What DJLBSR_EXECUTION asks for. */
enum class Execution { kAuto, kBsr, kDense };

Execution execution() {
  static const std::string mode = [] {
    const char* value = std::getenv("DJLBSR_EXECUTION");
    return std::string(value == nullptr ? "" : value);
  }();
  if (mode.empty() || mode == "auto") return Execution::kAuto;
  if (mode == "bsr") return Execution::kBsr;
  if (mode == "dense") return Execution::kDense;
  fail(DJLBSR_INVALID_ARGUMENT,
       "the environment variable DJLBSR_EXECUTION is %.40s; use auto, bsr or dense", mode.c_str());
}

}  // namespace

void check_dense(const djlbsr_info& info, const Tensor& dense, const Tensor& input) {
  dense.check_same_device(input);
  DJLBSR_CHECK(dense.dtype() == input.dtype(), "dense is %s and input %s; convert one of them",
               dense.dtype_text().c_str(), input.dtype_text().c_str());
  DJLBSR_CHECK(dense.dim() == 2 && dense.size(0) == info.rows && dense.size(1) == info.cols,
               "dense has shape %s; it must be [out_features, in_features], [%lld, %lld]",
               dense.shape_text().c_str(), (long long)info.rows, (long long)info.cols);
}

bool use_dense(const djlbsr_info& info, const Tensor& input, int64_t tokens, int32_t activation) {
  switch (execution()) {
    case Execution::kBsr:
      return false;
    case Execution::kDense:
      return true;
    default:
      return choice::predict(info, tokens, activation, input.device_index(), num_threads(abi()))
                 .dense != 0;
  }
}

OwnedTensor dense_linear(TensorHandle input, TensorHandle weight, TensorHandle bias) {
  OwnedTensor own_input = share(input);
  OwnedTensor own_weight = share(weight);
  OwnedTensor own_bias = bias == nullptr ? nullptr : share(bias);
  auto optional = bias == nullptr ? nullptr : std::make_unique<StableIValue>();
  /* From here on nothing throws before the dispatcher has taken over. */
  if (optional) *optional = reinterpret_cast<StableIValue>(own_bias.release());
  StableIValue stack[3] = {reinterpret_cast<StableIValue>(own_input.release()),
                           reinterpret_cast<StableIValue>(own_weight.release()),
                           reinterpret_cast<StableIValue>(optional.release())};
  if (abi().call_dispatcher("aten::linear", "", stack) != 0) {
    fail(DJLBSR_TORCH_ERROR,
         "PyTorch failed to run aten::linear on the dense weight; its own message is on standard "
         "error");
  }
  return OwnedTensor(reinterpret_cast<TensorHandle>(stack[0]));
}

void activate(const Tensor& y, int32_t activation) {
  DJLBSR_CHECK(y.is_contiguous(), "%s is not contiguous; pass a contiguous tensor", y.name());
  const int64_t count = y.numel();
  if (activation == DJLBSR_NONE || count == 0) return;
  const DeviceScope device(y);
  if (y.is_cuda()) {
    cuda::activate(y.element_type(), activation, y.data(), count, device.stream());
  } else {
    cpu::activate(y.element_type(), activation, y.data(), count, num_threads(abi()));
  }
}

OwnedTensor activated(OwnedTensor tensor, int32_t activation) {
  if (activation == DJLBSR_NONE) return tensor;
  const Tensor y("output", tensor.get());
  if (!y.is_contiguous()) return activated(contiguous_copy(y), activation);
  activate(y, activation);
  return tensor;
}

}  // namespace djlbsr::torch
