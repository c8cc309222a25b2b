/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
#include "torch/tensor.h"

#include <iterator>
#include <limits>

#include "common/error.h"

namespace djlbsr::torch {
namespace {

/* libtorch has already written the cause to its log. */
void check(int32_t status, const char* what) {
  if (status != 0) {
    fail(DJLBSR_TORCH_ERROR, "PyTorch failed to %s; its own message is on standard error", what);
  }
}

template <typename Index>
std::vector<int32_t> narrow(const char* name, const void* data, int64_t count) {
  const auto* indices = static_cast<const Index*>(data);
  std::vector<int32_t> result(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i) {
    DJLBSR_CHECK(indices[i] >= std::numeric_limits<int32_t>::min() &&
                     indices[i] <= std::numeric_limits<int32_t>::max(),
                 "%s[%lld] is %lld; indices must fit into 32 bits", name, (long long)i,
                 (long long)indices[i]);
    result[static_cast<size_t>(i)] = static_cast<int32_t>(indices[i]);
  }
  return result;
}

OwnedTensor copy_to(const Tensor& tensor, bool cuda, int32_t device_index) {
  std::vector<int64_t> sizes;
  for (int64_t d = 0; d < tensor.dim(); ++d) sizes.push_back(tensor.size(d));
  OwnedTensor result = empty(sizes, tensor.dtype(), cuda, device_index);
  check(abi().copy(result.get(), tensor.handle(), 0), "copy a tensor");
  return result;
}

}  // namespace

Tensor::Tensor(const char* name, TensorHandle handle) : name_(name), handle_(handle) {
  DJLBSR_CHECK(handle != nullptr, "%s is null; pass a tensor", name);
  const Abi& torch = abi();
  int32_t device_type = -1;
  DJLBSR_CHECK(torch.get_device_type(handle, &device_type) == 0,
               "%s is an undefined tensor; pass one with elements", name);
  is_cuda_ = device_type == torch.device_type_cuda();
  DJLBSR_CHECK(is_cuda_ || device_type == torch.device_type_cpu(),
               "%s is on a device of PyTorch's type %d; move it to the CPU or a CUDA device", name,
               device_type);
  int32_t layout = torch.layout_strided();
  const bool has_layout = torch.get_layout == nullptr || torch.get_layout(handle, &layout) == 0;
  int64_t* sizes = nullptr;
  int64_t* strides = nullptr;
  DJLBSR_CHECK(has_layout && layout == torch.layout_strided() &&
                   torch.get_strides(handle, &strides) == 0 && torch.get_sizes(handle, &sizes) == 0,
               "%s is not a dense (strided) tensor; convert it with to_dense()", name);
  sizes_ = sizes;
  strides_ = strides;
  check(torch.get_dim(handle, &dim_), "tell a tensor's rank");
  check(torch.get_dtype(handle, &dtype_), "tell a tensor's dtype");
  if (is_cuda_) check(torch.get_device_index(handle, &device_index_), "tell a tensor's device");
}

int64_t Tensor::numel() const {
  int64_t count = 1;
  for (int64_t d = 0; d < dim_; ++d) {
    DJLBSR_CHECK(!__builtin_mul_overflow(count, sizes_[d], &count),
                 "%s has more than 2^63 elements; use a smaller shape", name_);
  }
  return count;
}

bool Tensor::is_contiguous() const {
  int64_t expected = 1;
  for (int64_t d = 0; d < dim_; ++d) {
    if (sizes_[d] == 0) return true;
  }
  for (int64_t d = dim_ - 1; d >= 0; --d) {
    if (sizes_[d] != 1 && strides_[d] != expected) return false;
    expected *= sizes_[d];
  }
  return true;
}

void* Tensor::data() const {
  void* pointer = nullptr;
  if (abi().get_data_ptr(handle_, &pointer) != 0) {
    fail(DJLBSR_INVALID_ARGUMENT, "%s has no memory of its own; pass a materialized tensor", name_);
  }
  return pointer;
}

std::string Tensor::device_text() const {
  return is_cuda_ ? "cuda:" + std::to_string(device_index_) : "cpu";
}

std::string Tensor::shape_text() const {
  std::string text = "[";
  for (int64_t d = 0; d < dim_; ++d) {
    if (d > 0) text += ", ";
    text += std::to_string(sizes_[d]);
  }
  return text + "]";
}

std::string Tensor::dtype_text() const {
  /* PyTorch appends to this numbering and does not change it. */
  static constexpr const char* kNames[] = {
      "uint8",     "int8",      "int16",      "int32", "int64", "float16", "float32", "float64",
      "complex32", "complex64", "complex128", "bool",  "qint8", "quint8",  "qint32",  "bfloat16"};
  if (dtype_ >= 0 && dtype_ < static_cast<int32_t>(std::size(kNames))) return kNames[dtype_];
  return "number " + std::to_string(dtype_);
}

bool Tensor::same_device(const Tensor& other) const {
  return is_cuda_ == other.is_cuda_ && device_index_ == other.device_index_;
}

void Tensor::check_same_device(const Tensor& other) const {
  DJLBSR_CHECK(same_device(other), "%s is on %s and %s on %s; move them to one device", name_,
               device_text().c_str(), other.name_, other.device_text().c_str());
}

int32_t Tensor::element_type() const {
  const Abi& torch = abi();
  if (dtype_ == torch.dtype_float32()) return DJLBSR_FLOAT32;
  if (dtype_ == torch.dtype_float16()) return DJLBSR_FLOAT16;
  if (dtype_ == torch.dtype_bfloat16()) return DJLBSR_BFLOAT16;
  fail(DJLBSR_INVALID_ARGUMENT, "%s has dtype %s; convert it to float32, float16 or bfloat16",
       name_, dtype_text().c_str());
}

OwnedTensor empty(const std::vector<int64_t>& sizes, int32_t dtype, bool cuda,
                  int32_t device_index) {
  const Abi& torch = abi();
  std::vector<int64_t> strides(sizes.size());
  int64_t stride = 1;
  for (size_t d = sizes.size(); d-- > 0;) {
    strides[d] = stride;
    /* As in PyTorch, an empty dimension counts as one in the strides of those before it. */
    if (sizes[d] > 0 && __builtin_mul_overflow(stride, sizes[d], &stride)) {
      fail(DJLBSR_INVALID_ARGUMENT, "the output has more than 2^63 elements; use a smaller input");
    }
  }
  TensorHandle handle = nullptr;
  if (torch.empty_strided(static_cast<int64_t>(sizes.size()), sizes.data(), strides.data(), dtype,
                          cuda ? torch.device_type_cuda() : torch.device_type_cpu(),
                          cuda ? device_index : 0, &handle) != 0) {
    fail(DJLBSR_OUT_OF_MEMORY,
         "PyTorch cannot allocate a tensor of %lld elements on %s; its own message is on standard "
         "error",
         (long long)stride, cuda ? "the GPU" : "the CPU");
  }
  return OwnedTensor(handle);
}

OwnedTensor contiguous_copy(const Tensor& tensor) {
  return copy_to(tensor, tensor.is_cuda(), tensor.device_index());
}

OwnedTensor cpu_copy(const Tensor& tensor) { return copy_to(tensor, false, 0); }

std::vector<int32_t> host_indices(const Tensor& tensor) {
  const Abi& torch = abi();
  const bool is_int64 = tensor.dtype() == torch.dtype_int64();
  DJLBSR_CHECK(is_int64 || tensor.dtype() == torch.dtype_int32(),
               "%s has dtype %s; convert it to int32 or int64", tensor.name(),
               tensor.dtype_text().c_str());
  DJLBSR_CHECK(tensor.dim() == 1, "%s has shape %s; it must have one dimension", tensor.name(),
               tensor.shape_text().c_str());
  OwnedTensor copy;
  const void* data;
  if (tensor.is_cuda() || !tensor.is_contiguous()) {
    copy = cpu_copy(tensor);
    data = Tensor(tensor.name(), copy.get()).data();
  } else {
    data = tensor.data();
  }
  const int64_t count = tensor.size(0);
  return is_int64 ? narrow<int64_t>(tensor.name(), data, count)
                  : narrow<int32_t>(tensor.name(), data, count);
}

int64_t version_of(TensorHandle handle) {
  const Abi& torch = abi();
  const auto ask = [&](const char* operation, StableIValue* answer) {
    /* The dispatcher takes over the handle that it is given. */
    TensorHandle argument = nullptr;
    check(torch.new_tensor_handle(handle, &argument), "share a tensor");
    *answer = reinterpret_cast<StableIValue>(argument);
    return torch.call_dispatcher(operation, "", answer) == 0;
  };
  /* Tensors made in inference mode have no counter, and asking for it is an error that PyTorch
     prints. */
  StableIValue answer = 0;
  if (!ask("aten::is_inference", &answer) || (answer & 0xff) != 0) return -1;
  return ask("aten::_version", &answer) ? static_cast<int64_t>(answer) : -1;
}

bool records_gradient(TensorHandle handle) {
  const Abi& torch = abi();
  if (handle == nullptr || torch.tensor_impl_requires_grad == nullptr) return false;
  if (!torch.grad_mode_is_enabled()) return false;
  /* An at::Tensor is one pointer, to its c10::TensorImpl. */
  return torch.tensor_impl_requires_grad(*reinterpret_cast<void* const*>(handle));
}

}  // namespace djlbsr::torch
