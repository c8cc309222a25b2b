/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
#include "cuda/cuda_backend.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <optional>
#include <vector>

#include "common/error.h"
#include "common/fp32_terms.h"
#include "common/tf32.h"
#include "cuda/cuda_check.h"
#include "cuda/fp32_split.h"
#include "cuda/hopper_linear.h"
#include "cuda/hopper_narrow.h"
#include "cuda/hopper_panels.h"
#include "cuda/kernel_choice.h"
#include "cuda/linear_kernel.cuh"
#include "cuda/sm80_mma_linear.h"
#include "cuda/stream_linear.h"

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

choice::CudaMachine current_device() {
  int index = 0;
  DJLBSR_CUDA(cudaGetDevice(&index));
  return machine(index);
}

choice::CudaMachine read_machine(int device) {
  int major = 0;
  int minor = 0;
  choice::CudaMachine machine = {};
  DJLBSR_CUDA(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device));
  DJLBSR_CUDA(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device));
  DJLBSR_CUDA(
      cudaDeviceGetAttribute(&machine.multiprocessors, cudaDevAttrMultiProcessorCount, device));
  DJLBSR_CUDA(cudaDeviceGetAttribute(&machine.l2_bytes, cudaDevAttrL2CacheSize, device));
  machine.compute_capability = 10 * major + minor;
  int kilohertz = 0;
  int bits = 0;
  if (cudaDeviceGetAttribute(&kilohertz, cudaDevAttrMemoryClockRate, device) == cudaSuccess &&
      cudaDeviceGetAttribute(&bits, cudaDevAttrGlobalMemoryBusWidth, device) == cudaSuccess) {
    machine.memory_tbs = 2e3 * kilohertz * (bits / 8) * 1e-12; /* two transfers a clock */
  } else {
    cudaGetLastError(); /* or the next launch would seem to have failed */
  }
  return machine;
}

std::vector<choice::CudaMachine> read_machines() {
  int count = 0;
  DJLBSR_CUDA(cudaGetDeviceCount(&count));
  std::vector<choice::CudaMachine> machines;
  for (int device = 0; device < count; ++device) machines.push_back(read_machine(device));
  return machines;
}

constexpr const char* kKernelVariable = "DJLBSR_CUDA_KERNEL";

const char* forced_name() {
  const char* name = std::getenv(kKernelVariable);
  return name == nullptr || *name == '\0' ? nullptr : name;
}

std::optional<Kernel> read_forced_kernel() {
  const char* name = forced_name();
  if (name == nullptr) return std::nullopt;
  const std::optional<Kernel> kernel = kernel_named(name);
  if (!kernel) {
    fail(DJLBSR_INVALID_ARGUMENT,
         "environment variable %s is '%.60s'; unset it or name one of the kernels %s",
         kKernelVariable, name, kernel_names().c_str());
  }
  return kernel;
}

Kernel chosen_kernel(const djlbsr_info& info, const djlbsr_linear_args& args,
                     int compute_capability) {
  static const std::optional<Kernel> forced = read_forced_kernel();
  return kernel_choice(info, args, compute_capability, forced, tf32_allowed());
}

char* at(void* packed, int64_t offset) { return static_cast<char*>(packed) + offset; }

int64_t values_bytes(const djlbsr_info& info) {
  return info.nnzb * info.block_rows * info.block_cols *
         static_cast<int64_t>(dtype_size(info.dtype));
}

std::vector<BlockRow> rows_by_length(const djlbsr_matrix& matrix) {
  std::vector<BlockRow> rows(static_cast<size_t>(matrix.rows / matrix.block_rows));
  for (size_t i = 0; i < rows.size(); ++i) {
    const int32_t first = matrix.crow_indices[i];
    rows[i] = {static_cast<int32_t>(i), first, matrix.crow_indices[i + 1] - first, 0};
  }
  std::stable_sort(rows.begin(), rows.end(),
                   [](const BlockRow& a, const BlockRow& b) { return a.blocks > b.blocks; });
  return rows;
}

LinearParams linear_params(const djlbsr_info& info, const void* packed,
                           const djlbsr_linear_args& args) {
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
  params.block_cols_shift = -1;
  for (int32_t shift = 0; shift < 31; ++shift) {
    if (params.block_cols == int32_t{1} << shift) params.block_cols_shift = shift;
  }
  params.nnzb = static_cast<int32_t>(info.nnzb);
  params.activation = args.activation;
  return params;
}

void portable_linear(const djlbsr_info& info, const LinearParams& params, cudaStream_t stream) {
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

std::string describe_kernels() {
  const char* name = forced_name();
  const std::string forced = name == nullptr      ? "chosen for each call"
                             : kernel_named(name) ? std::string(name) + " forced where it can serve"
                                                  : std::string(name) + " is unknown";
  return kernel_names() + "; " + forced + " (force one with the environment variable " +
         kKernelVariable + ")";
}

void pack(const djlbsr_info& info, const djlbsr_matrix& matrix, void* packed, void* stream) {
  const Layout layout = layout_of(info);
  /* What comes before the values, with gaps of zeros so that equal weights have equal bytes. */
  std::vector<int32_t> structure(static_cast<size_t>(layout.values / 4));
  std::copy_n(matrix.crow_indices, info.rows / info.block_rows + 1, structure.data());
  std::transform(matrix.col_indices, matrix.col_indices + info.nnzb,
                 structure.data() + layout.col_start / 4,
                 [&](int32_t col) { return static_cast<int32_t>(col * info.block_cols); });
  const std::vector<BlockRow> rows = rows_by_length(matrix);
  std::copy_n(reinterpret_cast<const int32_t*>(rows.data()), rows.size() * sizeof(BlockRow) / 4,
              structure.data() + layout.rows / 4);
  const auto cuda_stream = static_cast<cudaStream_t>(stream);
  DJLBSR_CUDA(cudaMemcpyAsync(packed, structure.data(), static_cast<size_t>(layout.values),
                              cudaMemcpyHostToDevice, cuda_stream));
  const int64_t end = layout.values + values_bytes(info);
  if (end < layout.bytes) {
    DJLBSR_CUDA(
        cudaMemsetAsync(at(packed, end), 0, static_cast<size_t>(layout.bytes - end), cuda_stream));
  }
  PanelPlan plan;
  if (info.panel_block != 0) {
    djlbsr_info sizes = info;
    plan = plan_panels(matrix, sizes);
    pack_panels(info, plan, packed, stream);
  }
  update_values(info, packed, matrix.values, stream);
  DJLBSR_CUDA(cudaStreamSynchronize(cuda_stream)); /* structure and plan are about to go */
}

void update_values(const djlbsr_info& info, void* packed, const void* values, void* stream) {
  const int64_t bytes = values_bytes(info);
  if (bytes == 0) return;
  DJLBSR_CUDA(cudaMemcpyAsync(at(packed, layout_of(info).values), values,
                              static_cast<size_t>(bytes), cudaMemcpyDeviceToDevice,
                              static_cast<cudaStream_t>(stream)));
  if (Fp32Terms::exist(info)) split_values(info, packed, static_cast<cudaStream_t>(stream));
  if (info.panel_block != 0) update_panels(info, packed, stream);
}

void linear(const djlbsr_info& info, const void* packed, const djlbsr_linear_args& args) {
  const choice::CudaMachine device = current_device();
  const Kernel kernel = chosen_kernel(info, args, device.compute_capability);
  switch (kernel) {
    case Kernel::kHopper128x256:
    case Kernel::kHopper64x512:
      return hopper_linear(kernel, info, packed, args, device);
    case Kernel::kHopperNarrow:
    case Kernel::kHopperNarrowSplit:
      return hopper_narrow(kernel, info, packed, args, device.multiprocessors);
    case Kernel::kHopperPanels:
      return hopper_panels(info, packed, args, device.multiprocessors);
    case Kernel::kHopperPanelsNarrow:
    case Kernel::kHopperPanelsSplit2:
    case Kernel::kHopperPanelsSplit4:
    case Kernel::kHopperPanelsSplit8:
      return hopper_panels_narrow(kernel, info, packed, args, device.multiprocessors);
    case Kernel::kHopperFp32x256:
    case Kernel::kHopperFp32x128:
    case Kernel::kHopperFp32Fastx256:
    case Kernel::kHopperFp32Fastx128:
      return hopper_fp32_linear(kernel, info, packed, args, device.multiprocessors);
    default:
      break;
  }
  const LinearParams params = linear_params(info, packed, args);
  const auto stream = static_cast<cudaStream_t>(args.stream);
  switch (kernel) {
    case Kernel::kSm80F16Stream:
      return sm80_f16_stream(info, params, stream, device);
    case Kernel::kSm80F16Mma:
      return sm80_f16_mma(info, params, stream);
    case Kernel::kF32Stream:
      return f32_stream(info, params, stream, device);
    default:
      return portable_linear(info, params, stream);
  }
}

const char* kernel_name_for(const djlbsr_info& info, const djlbsr_linear_args& args) {
  return kernel_name(chosen_kernel(info, args, current_device().compute_capability));
}

choice::CudaMachine machine(int device) {
  static const std::vector<choice::CudaMachine> machines = read_machines();
  if (device < 0 || device >= static_cast<int>(machines.size())) {
    DJLBSR_CUDA(cudaErrorInvalidDevice);
  }
  return machines[static_cast<size_t>(device)];
}

DeviceGuard::DeviceGuard(int device) : previous_(device), device_(device) {
  DJLBSR_CUDA(cudaGetDevice(&previous_));
  if (previous_ != device_) DJLBSR_CUDA(cudaSetDevice(device_));
}

DeviceGuard::~DeviceGuard() {
  if (previous_ != device_) cudaSetDevice(previous_);
}

}  // namespace djlbsr::cuda
