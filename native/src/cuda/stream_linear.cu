/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
#include "cuda/stream_linear.h"

#include <algorithm>

#include "cuda/cuda_check.h"
#include "cuda/f32_stream.cuh"
#include "cuda/sm80_f16_stream.cuh"

namespace djlbsr::cuda {
namespace {

/* More than kPrefetchingCtas are not in the way of a kernel ahead whose CTAs all began at once. */
constexpr int64_t kPrefetchingCtasOfOneWave = 64;
constexpr int64_t kCtasAtOnce = 3; /* a multiprocessor's, of up to 16 tokens */

struct Call {
  const djlbsr_info& info;
  const LinearParams& params;
  cudaStream_t stream;
  int multiprocessors;
  bool overlaps; /* the device code has griddepcontrol.wait */
};

/* What the device code of this file was built for, such as 800 and 900. */
constexpr bool built_for(int architecture) {
  for (int built : {__CUDA_ARCH_LIST__}) {
    if (built == architecture) return true;
  }
  return false;
}

Call call_on(const choice::CudaMachine& device, const djlbsr_info& info, const LinearParams& params,
             cudaStream_t stream) {
  return {info, params, stream, device.multiprocessors,
          device.compute_capability == 90 && built_for(900)};
}

/* The largest of 16 bytes, 8 bytes and one element at which blocks and x can be read. */
int vector_of(const LinearParams& p, int element_bytes) {
  for (int bytes : {16, 8}) {
    const int vector = bytes / element_bytes;
    if (p.block_cols % vector == 0 && p.x_stride % vector == 0 &&
        reinterpret_cast<uintptr_t>(p.x) % bytes == 0) {
      return vector;
    }
  }
  return 1;
}

/* As many warps a slice as have a step each on average; a function of the weight alone. */
int warps_log2_of(const djlbsr_info& info, int step_cols) {
  const int64_t block_row_count = info.rows / info.block_rows;
  int log2 = 0;
  while (log2 < kStreamWarpsLog2 &&
         info.nnzb * info.block_cols > (int64_t{step_cols} << log2) * block_row_count) {
    ++log2;
  }
  return log2;
}

using StreamKernel = void (*)(StreamParams);

void launch(const Call& call, StreamKernel kernel, int rows, int tokens, int step_cols) {
  const djlbsr_info& info = call.info;
  StreamParams p = {};
  p.linear = call.params;
  const Layout layout = layout_of(info);
  const int64_t structure = layout.values - layout.crow;
  const int64_t all = structure + info.nnzb * info.block_rows * info.block_cols *
                                      static_cast<int64_t>(dtype_size(info.dtype));
  p.prefetch = {reinterpret_cast<const char*>(call.params.crow), prefetch_bytes(all, structure), 0};
  p.block_row_count = static_cast<int32_t>(info.rows / info.block_rows);
  p.warps_log2 = warps_log2_of(info, step_cols);
  const int slices_per_cta = kStreamWarps >> p.warps_log2;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>((p.block_row_count - 1) / slices_per_cta + 1),
                        static_cast<unsigned>((info.block_rows - 1) / rows + 1),
                        static_cast<unsigned>((call.params.tokens - 1) / tokens + 1));
  config.blockDim = dim3(kStreamThreads);
  config.stream = call.stream;
  if (call.overlaps) {
    const int64_t ctas = int64_t{config.gridDim.x} * config.gridDim.y * config.gridDim.z;
    const bool one_wave = tokens <= 16 && ctas <= kCtasAtOnce * int64_t{call.multiprocessors};
    p.prefetch.ctas = static_cast<uint32_t>(
        std::min(ctas, one_wave ? kPrefetchingCtasOfOneWave : kPrefetchingCtas));
  }
  cudaLaunchAttribute overlap = {};
  overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  overlap.val.programmaticStreamSerializationAllowed = 1;
  config.attrs = &overlap;
  config.numAttrs = call.overlaps ? 1 : 0;
  void* arguments[] = {&p};
  DJLBSR_CUDA(cudaLaunchKernelExC(&config, reinterpret_cast<const void*>(kernel), arguments));
}

template <typename Element, int kVector, int kTokenEights, int kRowTiles, int kUnroll>
void launch_f16(const Call& call) {
  launch(call, sm80_f16_stream_kernel<Element, kVector, kTokenEights, kRowTiles, kUnroll>,
         kRowTiles * kMmaRows, kTokenEights * 8, kStreamStep);
}

/* Whether slices of 32 rows give every multiprocessor two CTAs. */
bool wide_slices(const Call& call) { return call.info.rows / 32 >= 2 * call.multiprocessors; }

/*
 * Where up to 8 tokens are faster by the kernel for 16, whose registers let one CTA less live on a
 * multiprocessor: three with slices of 32 rows, two with 16. Where those are all there are, CTAs of
 * the next kernel that begin beside them are in their way (11008x4096, 64x64: 5.8 us instead of
 * 6.6). Kernels of fewer rows or single elements do not differ so.
 */
template <int kVector>
bool fewer_ctas_suffice(const Call& call) {
  const djlbsr_info& info = call.info;
  if (kVector == 1 || !call.overlaps || info.block_rows <= 16) return false;
  const bool wide = wide_slices(call);
  const int64_t slices = (info.block_rows - 1) / (wide ? 32 : 16) + 1;
  return info.rows / info.block_rows * slices <= int64_t{wide ? 3 : 2} * call.multiprocessors;
}

/*
 * Up to 16 tokens and in wide slices two steps a warp are under way, else in slices of 16 rows
 * four.
 */
template <typename Element, int kVector, int kTokenEights>
void launch_f16_rows(const Call& call) {
  constexpr bool kOneStep = kVector == 1 || kTokenEights > 2;
  const int64_t rows = call.info.block_rows;
  if (rows <= 8) {
    launch_f16<Element, kVector, kTokenEights, 1, kOneStep ? 1 : 2>(call);
  } else if (rows <= 16) {
    launch_f16<Element, kVector, kTokenEights, 2, kOneStep ? 1 : 2>(call);
  } else if (kOneStep || wide_slices(call)) {
    launch_f16<Element, kVector, kTokenEights, 4, kOneStep ? 1 : 2>(call);
  } else {
    launch_f16<Element, kVector, kTokenEights, 2, kOneStep ? 1 : 4>(call);
  }
}

template <typename Element, int kVector>
void launch_f16_tokens(const Call& call) {
  if (call.params.tokens <= 8 && !fewer_ctas_suffice<kVector>(call)) {
    launch_f16_rows<Element, kVector, 1>(call);
  } else if (call.params.tokens <= 16) {
    launch_f16_rows<Element, kVector, 2>(call);
  } else {
    launch_f16_rows<Element, kVector, 8>(call);
  }
}

template <typename Element>
void launch_f16_vector(const Call& call) {
  switch (vector_of(call.params, 2)) {
    case 8:
      return launch_f16_tokens<Element, 8>(call);
    case 4:
      return launch_f16_tokens<Element, 4>(call);
    default:
      return launch_f16_tokens<Element, 1>(call);
  }
}

template <int kVector, int kLaneRows, int kThreadRows>
void launch_f32(const Call& call) {
  const auto launch_tokens = [&](StreamKernel kernel, int tokens) {
    launch(call, kernel, kLaneRows * kThreadRows, tokens, kWarp / kLaneRows * kVector);
  };
  if (call.params.tokens == 1) {
    launch_tokens(f32_stream_kernel<kVector, kLaneRows, kThreadRows, 1>, 1);
  } else {
    launch_tokens(f32_stream_kernel<kVector, kLaneRows, kThreadRows, 4>, 4);
  }
}

template <int kVector>
void launch_f32_rows(const Call& call) {
  const int64_t rows = call.info.block_rows;
  if (rows == 1) {
    launch_f32<kVector, 1, 1>(call);
  } else if (rows <= 4) {
    launch_f32<kVector, 4, 1>(call);
  } else if (rows <= 8) {
    launch_f32<kVector, 4, 2>(call);
  } else {
    launch_f32<kVector, 4, 4>(call);
  }
}

}  // namespace

void sm80_f16_stream(const djlbsr_info& info, const LinearParams& params, cudaStream_t stream,
                     const choice::CudaMachine& device) {
  const Call call = call_on(device, info, params, stream);
  if (info.dtype == DJLBSR_FLOAT16) {
    launch_f16_vector<__half>(call);
  } else {
    launch_f16_vector<__nv_bfloat16>(call);
  }
}

void f32_stream(const djlbsr_info& info, const LinearParams& params, cudaStream_t stream,
                const choice::CudaMachine& device) {
  const Call call = call_on(device, info, params, stream);
  switch (vector_of(params, 4)) {
    case 4:
      return launch_f32_rows<4>(call);
    case 2:
      return launch_f32_rows<2>(call);
    default:
      return launch_f32_rows<1>(call);
  }
}

}  // namespace djlbsr::cuda
