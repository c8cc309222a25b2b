/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
#include <cstdint>

#include "common/error.h"
#include "common/meta.h"
#include "common/tf32.h"
#include "cpu/cpu_backend.h"
#include "cuda/cuda_backend.h"
#include "djlbsr.h"

namespace djlbsr {
namespace {

void check_packed_pointer(const djlbsr_info& info, const void* packed) {
  const uintptr_t alignment = info.device == DJLBSR_CUDA ? 256 : 64;
  DJLBSR_CHECK(packed != nullptr, "packed is null");
  DJLBSR_CHECK(reinterpret_cast<uintptr_t>(packed) % alignment == 0,
               "packed is at %p; it must be %d-byte aligned", packed, (int)alignment);
}

bool overlap(const void* a, int64_t a_bytes, const void* b, int64_t b_bytes) {
  const auto a0 = reinterpret_cast<uintptr_t>(a);
  const auto b0 = reinterpret_cast<uintptr_t>(b);
  return a_bytes > 0 && b_bytes > 0 && a0 < b0 + static_cast<uint64_t>(b_bytes) &&
         b0 < a0 + static_cast<uint64_t>(a_bytes);
}

/* Bytes from the first element of the first row to the last of the last. */
int64_t span_bytes(const char* stride_name, int64_t tokens, int64_t stride, int64_t width,
                   int64_t size) {
  int64_t bytes = 0;
  DJLBSR_CHECK(!__builtin_mul_overflow(tokens - 1, stride, &bytes) &&
                   !__builtin_add_overflow(bytes, width, &bytes) &&
                   !__builtin_mul_overflow(bytes, size, &bytes),
               "%s is %lld; with %lld tokens that is more than memory can hold", stride_name,
               (long long)stride, (long long)tokens);
  return bytes;
}

void check_linear_args(const djlbsr_info& info, const void* packed,
                       const djlbsr_linear_args& args) {
  DJLBSR_CHECK(args.activation >= DJLBSR_NONE && args.activation <= DJLBSR_SILU,
               "activation is %d; use 0 (none), 1 (ReLU), 2 (GELU), 3 (tanh GELU) or 4 (SiLU)",
               args.activation);
  DJLBSR_CHECK(args.threads >= 0, "threads is %d; use 0 for OpenMP's setting or a positive number",
               args.threads);
  DJLBSR_CHECK(args.tokens >= 0, "tokens is %lld; it cannot be negative", (long long)args.tokens);
  if (args.tokens == 0 || info.rows == 0) return;
  DJLBSR_CHECK(args.tokens == 1 || args.x_stride == 0 || args.x_stride >= info.cols,
               "x_stride is %lld; it must be 0 or at least cols, %lld", (long long)args.x_stride,
               (long long)info.cols);
  DJLBSR_CHECK(args.tokens == 1 || args.y_stride >= info.rows,
               "y_stride is %lld; it must be at least rows, %lld", (long long)args.y_stride,
               (long long)info.rows);
  DJLBSR_CHECK(args.x != nullptr || info.cols == 0, "x is null");
  DJLBSR_CHECK(args.y != nullptr, "y is null");
  const int64_t size = static_cast<int64_t>(dtype_size(info.dtype));
  const int64_t x_bytes = span_bytes("x_stride", args.tokens, args.x_stride, info.cols, size);
  const int64_t y_bytes = span_bytes("y_stride", args.tokens, args.y_stride, info.rows, size);
  DJLBSR_CHECK(!overlap(args.y, y_bytes, args.x, x_bytes),
               "y overlaps x; give the output memory of its own");
  DJLBSR_CHECK(args.bias == nullptr || !overlap(args.y, y_bytes, args.bias, info.rows * size),
               "y overlaps bias; give the output memory of its own");
  DJLBSR_CHECK(!overlap(args.y, y_bytes, packed, info.packed_bytes),
               "y overlaps packed; give the output memory of its own");
}

}  // namespace
}  // namespace djlbsr

using namespace djlbsr;

int32_t djlbsr_pack_query(const djlbsr_matrix* matrix, int32_t device, djlbsr_meta* meta) {
  return guarded([&] {
    DJLBSR_CHECK(matrix != nullptr, "matrix is null");
    DJLBSR_CHECK(meta != nullptr, "meta is null");
    *meta = make_meta(*matrix, device);
  });
}

int32_t djlbsr_meta_decode(const djlbsr_meta* meta, djlbsr_info* info) {
  return guarded([&] {
    DJLBSR_CHECK(meta != nullptr, "meta is null");
    DJLBSR_CHECK(info != nullptr, "info is null");
    *info = decode(*meta);
  });
}

int32_t djlbsr_pack(const djlbsr_matrix* matrix, const djlbsr_meta* meta, void* packed,
                    void* stream) {
  return guarded([&] {
    DJLBSR_CHECK(matrix != nullptr, "matrix is null");
    DJLBSR_CHECK(meta != nullptr, "meta is null");
    const djlbsr_info info = decode(*meta);
    check_packed_pointer(info, packed);
    check_same_structure(*meta, *matrix);
    DJLBSR_CHECK(matrix->values != nullptr || info.nnzb == 0, "values is null");
    if (info.device == DJLBSR_CUDA) {
      cuda::pack(info, *matrix, packed, stream);
    } else {
      cpu::pack(info, *matrix, packed);
    }
  });
}

int32_t djlbsr_update_values(const djlbsr_meta* meta, void* packed, const void* values,
                             void* stream) {
  return guarded([&] {
    DJLBSR_CHECK(meta != nullptr, "meta is null");
    const djlbsr_info info = decode(*meta);
    check_packed_pointer(info, packed);
    DJLBSR_CHECK(values != nullptr || info.nnzb == 0, "values is null");
    if (info.device == DJLBSR_CUDA) {
      cuda::update_values(info, packed, values, stream);
    } else {
      cpu::update_values(info, packed, values);
    }
  });
}

int32_t djlbsr_linear(const djlbsr_meta* meta, const void* packed, const djlbsr_linear_args* args) {
  return guarded([&] {
    DJLBSR_CHECK(meta != nullptr, "meta is null");
    DJLBSR_CHECK(args != nullptr, "args is null");
    const djlbsr_info info = decode(*meta);
    check_packed_pointer(info, packed);
    check_linear_args(info, packed, *args);
    if (args->tokens == 0 || info.rows == 0) return;
    if (info.device == DJLBSR_CUDA) {
      cuda::linear(info, packed, *args);
    } else {
      cpu::linear(info, packed, *args);
    }
  });
}

void djlbsr_set_allow_tf32(int32_t allow) { allow_tf32(allow != 0); }

int32_t djlbsr_allow_tf32(void) { return tf32_allowed() ? 1 : 0; }

int32_t djlbsr_kernel_name(const djlbsr_meta* meta, const djlbsr_linear_args* args,
                           const char** name) {
  return guarded([&] {
    DJLBSR_CHECK(meta != nullptr, "meta is null");
    DJLBSR_CHECK(args != nullptr, "args is null");
    DJLBSR_CHECK(name != nullptr, "name is null; pass where to put the result");
    const djlbsr_info info = decode(*meta);
    *name = info.device == DJLBSR_CUDA ? cuda::kernel_name_for(info, *args) : djlbsr_active_isa();
  });
}

const char* djlbsr_last_error(void) { return last_error(); }

int32_t djlbsr_cuda_device_count(void) { return cuda::device_count(); }
