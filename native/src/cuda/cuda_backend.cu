/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
#include "cuda/cuda_backend.h"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <limits>
#include <vector>

#include "common/error.h"
#include "cuda/cuda_check.h"
#include "cuda/hopper_linear.h"
#include "cuda/kernel_choice.h"
#include "cuda/linear_kernel.cuh"

namespace djlbsr::cuda {
namespace {

const char* remedy(cudaError_t status) {
  switch (status) {
    case cudaErrorNoKernelImageForDevice:
    case cudaErrorUnsupportedPtxVersion:
      return "build libdjlbsr with this GPU's architecture in CMAKE_CUDA_ARCHITECTURES";
    case cudaErrorMemoryAllocation:
      return "free GPU memory or use smaller batches";
    case cudaErrorInsufficientDriver:
      return "update the NVIDIA driver";
    case cudaErrorNoDevice:
    case cudaErrorInvalidDevice:
      return "check CUDA_VISIBLE_DEVICES and the device index";
    case cudaErrorStreamCaptureUnsupported:
      return "pack and update weights before a CUDA graph is captured; only linear can be captured";
    default:
      return "if an earlier kernel failed, run with CUDA_LAUNCH_BLOCKING=1 to find it";
  }
}

template <typename Element, int kTileRows, int kTileTokens, int kThreadRows, int kThreadTokens>
void launch(const djlbsr_info& info, LinearParams params, cudaStream_t stream) {
  constexpr int kThreads = (kTileRows / kThreadRows) * (kTileTokens / kThreadTokens);
  params.slices_per_block_row = (params.block_rows - 1) / kTileRows + 1;
  params.slices = info.rows / info.block_rows * params.slices_per_block_row;
  params.tiles = params.slices * ((params.tokens - 1) / kTileTokens + 1);
  const dim3 grid(
      static_cast<unsigned>(std::min<int64_t>(params.tiles, std::numeric_limits<int32_t>::max())));
  void* arguments[] = {&params};
  const auto kernel = linear_kernel<Element, kTileRows, kTileTokens, kThreadRows, kThreadTokens>;
  DJLBSR_CUDA(cudaLaunchKernel(reinterpret_cast<const void*>(kernel), grid, dim3(kThreads),
                               arguments, 0, stream));
}

/* The smallest tile that covers a block's rows, up to 64; few tokens get a narrow tile. */
template <typename Element>
void launch_for(const djlbsr_info& info, const LinearParams& params, cudaStream_t stream) {
  if (params.tokens <= 8) {
    if (info.block_rows <= 8) {
      launch<Element, 8, 8, 1, 1>(info, params, stream);
    } else {
      launch<Element, 64, 8, 2, 2>(info, params, stream);
    }
  } else if (info.block_rows == 1) {
    launch<Element, 1, 256, 1, 1>(info, params, stream);
  } else if (info.block_rows <= 8) {
    launch<Element, 8, 128, 2, 2>(info, params, stream);
  } else if (info.block_rows <= 16) {
    launch<Element, 16, 64, 4, 2>(info, params, stream);
  } else if (info.block_rows <= 32) {
    launch<Element, 32, 64, 4, 4>(info, params, stream);
  } else {
    launch<Element, 64, 64, 8, 4>(info, params, stream);
  }
}

/* The current device; the runtime keeps these attributes, so that asking costs next to nothing. */
struct Device {
  int compute_capability; /* 10 * major + minor */
  int multiprocessors;
};

Device current_device() {
  int index = 0;
  int major = 0;
  int minor = 0;
  Device device = {};
  DJLBSR_CUDA(cudaGetDevice(&index));
  DJLBSR_CUDA(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, index));
  DJLBSR_CUDA(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, index));
  DJLBSR_CUDA(
      cudaDeviceGetAttribute(&device.multiprocessors, cudaDevAttrMultiProcessorCount, index));
  device.compute_capability = 10 * major + minor;
  return device;
}

char* at(void* packed, int64_t offset) { return static_cast<char*>(packed) + offset; }

int64_t values_bytes(const djlbsr_info& info) {
  return info.nnzb * info.block_rows * info.block_cols *
         static_cast<int64_t>(dtype_size(info.dtype));
}

}  // namespace

void check_cuda(cudaError_t status, const char* call, const char* file, int line) {
  if (status == cudaSuccess) return;
  const char* slash = std::strrchr(file, '/');
  fail(DJLBSR_CUDA_ERROR, "%s (%s) from %.60s at %s:%d; %s", cudaGetErrorString(status),
       cudaGetErrorName(status), call, slash == nullptr ? file : slash + 1, line, remedy(status));
}

int device_count() {
  int count = 0;
  return cudaGetDeviceCount(&count) == cudaSuccess ? count : 0;
}

std::string describe() {
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status != cudaSuccess) return std::string("none: ") + cudaGetErrorString(status);
  if (count == 0) return "none: the driver lists no device";
  std::string lines;
  for (int i = 0; i < count; ++i) {
    if (i > 0) lines += "\n";
    cudaDeviceProp device;
    if (cudaGetDeviceProperties(&device, i) != cudaSuccess) {
      lines += std::to_string(i) + ": not readable";
      continue;
    }
    char line[400];
    std::snprintf(line, sizeof(line), "%d: %s, sm_%d%d, %d SMs, %.1f GiB", i, device.name,
                  device.major, device.minor, device.multiProcessorCount,
                  static_cast<double>(device.totalGlobalMem) / (1 << 30));
    lines += line;
  }
  return lines;
}

void pack(const djlbsr_info& info, const djlbsr_matrix& matrix, void* packed, void* stream) {
  const Layout layout = layout_of(info);
  /* Both index arrays and the gaps between, which are zero so that equal weights have equal bytes.
   */
  std::vector<int32_t> structure(static_cast<size_t>(layout.values / 4));
  std::copy_n(matrix.crow_indices, info.rows / info.block_rows + 1, structure.data());
  std::transform(matrix.col_indices, matrix.col_indices + info.nnzb,
                 structure.data() + layout.col_start / 4,
                 [&](int32_t col) { return static_cast<int32_t>(col * info.block_cols); });
  const auto cuda_stream = static_cast<cudaStream_t>(stream);
  DJLBSR_CUDA(cudaMemcpyAsync(packed, structure.data(), static_cast<size_t>(layout.values),
                              cudaMemcpyHostToDevice, cuda_stream));
  const int64_t end = layout.values + values_bytes(info);
  if (end < layout.bytes) {
    DJLBSR_CUDA(
        cudaMemsetAsync(at(packed, end), 0, static_cast<size_t>(layout.bytes - end), cuda_stream));
  }
  update_values(info, packed, matrix.values, stream);
  DJLBSR_CUDA(cudaStreamSynchronize(cuda_stream)); /* structure is about to go */
}

void update_values(const djlbsr_info& info, void* packed, const void* values, void* stream) {
  const int64_t bytes = values_bytes(info);
  if (bytes == 0) return;
  DJLBSR_CUDA(cudaMemcpyAsync(at(packed, layout_of(info).values), values,
                              static_cast<size_t>(bytes), cudaMemcpyDeviceToDevice,
                              static_cast<cudaStream_t>(stream)));
}

void linear(const djlbsr_info& info, const void* packed, const djlbsr_linear_args& args) {
  const Device device = current_device();
  const Kernel kernel = kernel_choice(info, args, device.compute_capability);
  if (kernel != Kernel::kPortable) {
    hopper_linear(kernel, info, packed, args, device.multiprocessors);
    return;
  }
  const Layout layout = layout_of(info);
  const auto* base = static_cast<const char*>(packed);
  LinearParams params = {};
  params.crow = reinterpret_cast<const int32_t*>(base + layout.crow);
  params.col_start = reinterpret_cast<const int32_t*>(base + layout.col_start);
  params.values = base + layout.values;
  params.x = args.x;
  params.bias = args.bias;
  params.y = args.y;
  params.tokens = args.tokens;
  params.x_stride = args.x_stride;
  params.y_stride = args.y_stride;
  params.cols = static_cast<int32_t>(info.cols);
  params.block_rows = static_cast<int32_t>(info.block_rows);
  params.block_cols = static_cast<int32_t>(info.block_cols);
  params.nnzb = static_cast<int32_t>(info.nnzb);
  params.activation = args.activation;
  const auto stream = static_cast<cudaStream_t>(args.stream);
  switch (info.dtype) {
    case DJLBSR_FLOAT32:
      launch_for<float>(info, params, stream);
      break;
    case DJLBSR_FLOAT16:
      launch_for<__half>(info, params, stream);
      break;
    default:
      launch_for<__nv_bfloat16>(info, params, stream);
      break;
  }
}

DeviceGuard::DeviceGuard(int device) : previous_(device), device_(device) {
  DJLBSR_CUDA(cudaGetDevice(&previous_));
  if (previous_ != device_) DJLBSR_CUDA(cudaSetDevice(device_));
}

DeviceGuard::~DeviceGuard() {
  if (previous_ != device_) cudaSetDevice(previous_);
}

}  // namespace djlbsr::cuda
