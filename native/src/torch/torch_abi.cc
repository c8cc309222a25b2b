/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
#include "torch/torch_abi.h"

#include <dlfcn.h>

#include <algorithm>
#include <atomic>
#include <mutex>

#include "common/error.h"

namespace djlbsr::torch {
namespace {

/* The JVM and Python load libtorch themselves, often without making its symbols global: ask for the
   library that is already there by name and never load another one. */
void* find_library(const char* name) noexcept { return dlopen(name, RTLD_LAZY | RTLD_NOLOAD); }

template <typename Function>
void find_optional(void* library, const char* symbol, Function& function) noexcept {
  function = reinterpret_cast<Function>(dlsym(library, symbol));
}

template <typename Function>
void find(void* library, const char* library_name, const char* symbol, Function& function) {
  find_optional(library, symbol, function);
  if (function == nullptr) {
    fail(DJLBSR_UNSUPPORTED,
         "%s has no function %s; this PyTorch is older than 2.7, use PyTorch 2.7 or later",
         library_name, symbol);
  }
}

constexpr char kTorchCpu[] = "libtorch_cpu.so";
constexpr char kTorchCuda[] = "libtorch_cuda.so";

Abi find_abi() {
  void* library = find_library(kTorchCpu);
  if (library == nullptr) {
    fail(DJLBSR_UNSUPPORTED,
         "libtorch_cpu.so is not loaded in this process; load PyTorch first (in Java touch "
         "Engine.getEngine(\"PyTorch\"), in Python import torch)");
  }
  const auto get = [&](const char* symbol, auto& function) {
    find(library, kTorchCpu, symbol, function);
  };
  Abi abi = {};
  get("aoti_torch_device_type_cpu", abi.device_type_cpu);
  get("aoti_torch_device_type_cuda", abi.device_type_cuda);
  get("aoti_torch_dtype_float32", abi.dtype_float32);
  get("aoti_torch_dtype_float16", abi.dtype_float16);
  get("aoti_torch_dtype_bfloat16", abi.dtype_bfloat16);
  get("aoti_torch_dtype_int32", abi.dtype_int32);
  get("aoti_torch_dtype_int64", abi.dtype_int64);
  get("aoti_torch_dtype_uint8", abi.dtype_uint8);
  get("aoti_torch_layout_strided", abi.layout_strided);
  get("aoti_torch_abi_version", abi.abi_version);
  get("aoti_torch_get_device_type", abi.get_device_type);
  get("aoti_torch_get_device_index", abi.get_device_index);
  get("aoti_torch_get_dtype", abi.get_dtype);
  get("aoti_torch_get_dim", abi.get_dim);
  get("aoti_torch_get_sizes", abi.get_sizes);
  get("aoti_torch_get_strides", abi.get_strides);
  get("aoti_torch_get_data_ptr", abi.get_data_ptr);
  get("aoti_torch_empty_strided", abi.empty_strided);
  get("aoti_torch_copy_", abi.copy);
  get("aoti_torch_new_tensor_handle", abi.new_tensor_handle);
  get("aoti_torch_delete_tensor_object", abi.delete_tensor_object);
  get("aoti_torch_grad_mode_is_enabled", abi.grad_mode_is_enabled);
  get("aoti_torch_call_dispatcher", abi.call_dispatcher);
  get("aoti_torch_library_init_fragment", abi.library_init_fragment);
  get("aoti_torch_library_init_impl", abi.library_init_impl);
  get("aoti_torch_library_def", abi.library_def);
  get("aoti_torch_library_impl", abi.library_impl);
  find_optional(library, "aoti_torch_get_layout", abi.get_layout);
  find_optional(library, "torch_delete_stable_ivalue", abi.delete_stable_ivalue);
  /* These two are C++ functions of a plain signature; dlsym looks in libc10 too, which libtorch_cpu
     needs. Nothing but a convenience depends on each. */
  find_optional(library, "_ZN2at15get_num_threadsEv", abi.get_num_threads);
  find_optional(library, "_ZNK3c1010TensorImpl13requires_gradEv", abi.tensor_impl_requires_grad);
  return abi;
}

}  // namespace

bool loaded() noexcept {
  void* library = find_library(kTorchCpu);
  if (library == nullptr) return false;
  dlclose(library);
  return true;
}

const Abi& abi() {
  static std::mutex mutex;
  static Abi found;
  static std::atomic<bool> ready{false};
  if (!ready.load(std::memory_order_acquire)) {
    std::lock_guard<std::mutex> lock(mutex);
    if (!ready.load(std::memory_order_relaxed)) {
      found = find_abi();
      ready.store(true, std::memory_order_release);
    }
  }
  return found;
}

int32_t num_threads(const Abi& abi) {
  return abi.get_num_threads == nullptr ? 0 : std::max(0, abi.get_num_threads());
}

void* current_cuda_stream(int32_t device_index) {
  using Function = int32_t (*)(int32_t, void**);
  static std::atomic<Function> cached{nullptr};
  Function function = cached.load(std::memory_order_acquire);
  if (function == nullptr) {
    void* library = find_library(kTorchCuda);
    if (library == nullptr) {
      fail(DJLBSR_UNSUPPORTED,
           "libtorch_cuda.so is not loaded in this process; use a CUDA build of PyTorch");
    }
    find(library, kTorchCuda, "aoti_torch_get_current_cuda_stream", function);
    cached.store(function, std::memory_order_release);
  }
  void* stream = nullptr;
  if (function(device_index, &stream) != 0) {
    fail(DJLBSR_TORCH_ERROR, "PyTorch gives no current CUDA stream for device %d", device_index);
  }
  return stream;
}

}  // namespace djlbsr::torch
