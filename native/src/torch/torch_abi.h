/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
#pragma once

#include <cstdint>

namespace djlbsr::torch {

struct AtenTensorOpaque; /* an at::Tensor */
using TensorHandle = AtenTensorOpaque*;
struct TorchLibraryOpaque; /* a torch::Library */
using LibraryHandle = TorchLibraryOpaque*;

/* One argument or result of a boxed kernel: an int64, or an owning TensorHandle, or, for an
   optional, null or an owning pointer to the StableIValue of its content. */
using StableIValue = uint64_t;
using BoxedKernel = void (*)(StableIValue* stack, uint64_t inputs, uint64_t outputs);

/*
 * The functions of libtorch's stable C ABI that this library uses, found at run time so that one
 * binary serves every PyTorch from 2.7 on, and processes without PyTorch. They return 0 on success.
 */
struct Abi {
  int32_t (*device_type_cpu)();
  int32_t (*device_type_cuda)();
  int32_t (*dtype_float32)();
  int32_t (*dtype_float16)();
  int32_t (*dtype_bfloat16)();
  int32_t (*dtype_int32)();
  int32_t (*dtype_int64)();
  int32_t (*dtype_uint8)();
  int32_t (*layout_strided)();
  uint64_t (*abi_version)();

  int32_t (*get_device_type)(TensorHandle, int32_t*);
  int32_t (*get_device_index)(TensorHandle, int32_t*);
  int32_t (*get_dtype)(TensorHandle, int32_t*);
  int32_t (*get_dim)(TensorHandle, int64_t*);
  int32_t (*get_sizes)(TensorHandle, int64_t**);
  int32_t (*get_strides)(TensorHandle, int64_t**);
  int32_t (*get_data_ptr)(TensorHandle, void**);

  int32_t (*empty_strided)(int64_t ndim, const int64_t* sizes, const int64_t* strides,
                           int32_t dtype, int32_t device_type, int32_t device_index, TensorHandle*);
  int32_t (*copy)(TensorHandle self, TensorHandle source, int32_t non_blocking);
  int32_t (*new_tensor_handle)(TensorHandle, TensorHandle*);
  int32_t (*delete_tensor_object)(TensorHandle);
  bool (*grad_mode_is_enabled)();
  int32_t (*call_dispatcher)(const char* name, const char* overload, StableIValue* stack);

  int32_t (*library_init_fragment)(const char* ns, const char* file, uint32_t line, LibraryHandle*);
  int32_t (*library_init_impl)(const char* ns, const char* key, const char* file, uint32_t line,
                               LibraryHandle*);
  int32_t (*library_def)(LibraryHandle, const char* schema);
  int32_t (*library_impl)(LibraryHandle, const char* name, BoxedKernel);

  /* Null where this PyTorch does not have them. */
  int32_t (*get_layout)(TensorHandle, int32_t*);       /* since 2.9 */
  int32_t (*delete_stable_ivalue)(StableIValue*);      /* since 2.11 */
  int (*get_num_threads)();                            /* at::get_num_threads */
  bool (*tensor_impl_requires_grad)(const void* impl); /* c10::TensorImpl::requires_grad */
};

/* Whether libtorch is in this process; cheap, never throws. */
bool loaded() noexcept;

/* Throws Error(DJLBSR_UNSUPPORTED) that says which library or function is missing. */
const Abi& abi();

/* PyTorch's setting for CPU operators, 0 where it is unknown. */
int32_t num_threads(const Abi& abi);

/* The current cudaStream_t of a device. */
void* current_cuda_stream(int32_t device_index);

}  // namespace djlbsr::torch
