/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "djlbsr.h"
#include "torch/torch_abi.h"

namespace djlbsr::torch {

struct TensorDeleter {
  void operator()(AtenTensorOpaque* handle) const noexcept { abi().delete_tensor_object(handle); }
};

/* An at::Tensor that this library has to delete or hand on. */
using OwnedTensor = std::unique_ptr<AtenTensorOpaque, TensorDeleter>;

/*
 * What a dense tensor on the CPU or a GPU looks like. It borrows the tensor, and its sizes and
 * strides, from the one who called. The name is the argument's, for messages.
 */
class Tensor {
 public:
  /* Throws if handle is null, undefined, not strided, or on another kind of device. */
  Tensor(const char* name, TensorHandle handle);

  const char* name() const { return name_; }
  TensorHandle handle() const { return handle_; }
  bool is_cuda() const { return is_cuda_; }
  int32_t device_index() const { return device_index_; }
  int32_t dtype() const { return dtype_; } /* PyTorch's number */
  int64_t dim() const { return dim_; }
  int64_t size(int64_t d) const { return sizes_[d]; }
  int64_t stride(int64_t d) const { return strides_[d]; }
  int64_t numel() const;
  bool is_contiguous() const;

  /* The address of the first element. */
  void* data() const;

  /* "cpu" or "cuda:1" */
  std::string device_text() const;
  /* "[2, 3]" */
  std::string shape_text() const;
  /* "float32" */
  std::string dtype_text() const;

  bool same_device(const Tensor& other) const;
  /* Throws unless the tensor is on the device of other. */
  void check_same_device(const Tensor& other) const;

  /* The djlbsr_dtype of the elements; throws for one that has none. */
  int32_t element_type() const;

 private:
  const char* name_;
  TensorHandle handle_;
  bool is_cuda_ = false;
  int32_t device_index_ = 0;
  int32_t dtype_ = 0;
  int64_t dim_ = 0;
  const int64_t* sizes_ = nullptr;
  const int64_t* strides_ = nullptr;
};

/* A new uninitialized contiguous tensor; device_index is ignored on the CPU. */
OwnedTensor empty(const std::vector<int64_t>& sizes, int32_t dtype, bool cuda,
                  int32_t device_index);

/* A contiguous tensor of the same elements, on the same device or on the CPU. Copying from a GPU to
   the CPU waits for the current stream. */
OwnedTensor contiguous_copy(const Tensor& tensor);
OwnedTensor cpu_copy(const Tensor& tensor);

/* A tensor to read as if it were contiguous: the given one, or a copy that lives as long. */
class Contiguous {
 public:
  explicit Contiguous(const Tensor& tensor) {
    if (!tensor.is_contiguous()) copy_ = contiguous_copy(tensor);
    data_ = copy_ ? Tensor(tensor.name(), copy_.get()).data() : tensor.data();
  }
  void* data() const { return data_; }

 private:
  OwnedTensor copy_;
  void* data_;
};

/* Index tensors may be int32 or int64 and lie anywhere; the contract's indices are int32 on the
   host. Throws for another dtype or rank and for a value outside int32. */
std::vector<int32_t> host_indices(const Tensor& tensor);

/* The tensor's version counter, -1 for one without. */
int64_t version_of(TensorHandle handle);

/* Whether autograd would record an operation on the tensor now; false where PyTorch does not say.
 */
bool records_gradient(TensorHandle handle);

}  // namespace djlbsr::torch
