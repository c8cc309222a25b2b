/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 *
 * djlbsr: y = act(x * W^T + bias) with W in block-sparse-row (BSR) form.
 *
 * This header is the whole contract of libdjlbsr. Part 1 works on plain memory. Part 2 works on
 * PyTorch tensors and needs a process that has libtorch loaded.
 *
 * Conventions
 *   - W is [rows, cols] = [out_features, in_features], cut into blocks of block_rows x block_cols.
 *   - x is [tokens, cols], y is [tokens, rows]; tokens is the product of the leading dimensions.
 *   - Functions that return int32_t return a djlbsr_status. After anything but DJLBSR_OK,
 *     djlbsr_last_error() tells which argument was wrong, its value, and the remedy.
 *   - The library keeps no state but CPU profiles, djlbsr_set_allow_tf32's and up to 4 MiB of
 *     scratch memory a thread, and starts no thread but OpenMP's and one that measures a profile:
 *     every function may be called from any thread, on the same packed weight too, unless its
 *     comment says otherwise. As with all of OpenMP, a forked child must use one thread.
 */
#ifndef DJLBSR_H_
#define DJLBSR_H_

#include <stdint.h>

#if defined(_WIN32)
#define DJLBSR_API __declspec(dllexport)
#else
#define DJLBSR_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

enum djlbsr_status {
  DJLBSR_OK = 0,
  DJLBSR_INVALID_ARGUMENT = 1, /* an argument is wrong: the caller can mend it */
  DJLBSR_UNSUPPORTED = 2,      /* this build, machine or PyTorch cannot do it */
  DJLBSR_OUT_OF_MEMORY = 3,
  DJLBSR_CUDA_ERROR = 4,
  DJLBSR_TORCH_ERROR = 5,
  DJLBSR_INTERNAL_ERROR = 6 /* a defect of this library: please report it */
};

enum djlbsr_dtype { DJLBSR_FLOAT32 = 0, DJLBSR_FLOAT16 = 1, DJLBSR_BFLOAT16 = 2 };

enum djlbsr_device { DJLBSR_CPU = 0, DJLBSR_CUDA = 1 };

/*
 * How a packed weight keeps its values.
 *
 * DJLBSR_WEIGHT_INT8_BLOCKS is for dtype float32 on the CPU; x, bias and y stay float32. With
 * rounding to the nearest integer, ties to even, and fp32 arithmetic throughout:
 *   - Block b, when it is packed: s_b = max|w| / 127, q_w = round(w * (127 / max|w|)).
 *   - Token t, in each call: s_t = max|x| / 127, q_x = round(x * (127 / max|x|)), over the columns
 *     of x that meet a stored block; other columns are ignored.
 *   - y[t][r] = act(s_t * (sum over the blocks of row r of s_b * sum of q_w * q_x) + bias[r]).
 *
 * A maximum below 2^-100 counts as 0. The inner sums are exact integers, the outer one is a chain
 * of fused multiply-adds in the order of the blocks: results have the same bits on every machine.
 * With e_w = s_b / 2 and e_x = s_t / 2, an output before the activation is off by at most
 * the sum of |w| e_x + |x| e_w + e_w e_x over the row's stored elements, beside roundings of fp32.
 * A token with a NaN or an Inf in a column that meets a block has NaN in every output. Packing
 * refuses values that are not finite.
 */
enum djlbsr_weight_format { DJLBSR_WEIGHT_AS_GIVEN = 0, DJLBSR_WEIGHT_INT8_BLOCKS = 1 };

/*
 * In fp32 arithmetic, within 8 units in the last place of z. On a GPU the GELUs of 16-bit results
 * are approximated beyond that, by less than their rounding: float16 to 2^-13 of the result and
 * 2^-26, bfloat16 to 2^-11 of it (2^-8.5 below z = -4).
 */
enum djlbsr_activation {
  DJLBSR_NONE = 0,
  DJLBSR_RELU = 1,
  DJLBSR_GELU = 2,      /* exact: z/2 * (1 + erf(z / sqrt 2)) */
  DJLBSR_GELU_TANH = 3, /* z/2 * (1 + tanh(sqrt(2/pi) * (z + 0.044715 z^3))) */
  DJLBSR_SILU = 4       /* z / (1 + exp(-z)) */
};

/* ------------------------------------------------------------------------------------------------
 * Part 1: plain memory
 * --------------------------------------------------------------------------------------------- */

/*
 * A BSR matrix that the caller owns.
 *
 * Contract (djlbsr_pack_query checks all of it and names the first offender):
 *   - rows and cols are at least 0 and multiples of block_rows and block_cols, which are at
 * least 1.
 *   - crow_indices[0] = 0, never decreases, and crow_indices[rows / block_rows] = nnzb.
 *   - Within a block-row, col_indices strictly increase and lie in [0, cols / block_cols).
 *   - values holds nnzb * block_rows * block_cols elements of dtype; explicit zeros are legal and
 *     count as stored (0 * NaN stays NaN).
 */
typedef struct djlbsr_matrix {
  int64_t rows;
  int64_t cols;
  int64_t block_rows;
  int64_t block_cols;
  int64_t nnzb;
  const int32_t* crow_indices; /* [rows / block_rows + 1], host memory */
  const int32_t* col_indices;  /* [nnzb], host memory */
  const void* values;          /* [nnzb, block_rows, block_cols], memory of the packed device */
  int32_t dtype;               /* djlbsr_dtype */
  int32_t weight_format;       /* djlbsr_weight_format */
} djlbsr_matrix;

#define DJLBSR_META_WORDS 16
#define DJLBSR_FORMAT_VERSION 5

/*
 * What a packed weight is: 16 words of 64 bits on the host that travel with the packed bytes.
 * Written by djlbsr_pack_query alone; every function that takes one checks its magic, its format
 * version, its checksum and its ranges, and refuses another version or device with a message.
 */
typedef struct djlbsr_meta {
  int64_t words[DJLBSR_META_WORDS];
} djlbsr_meta;

/* The decoded form of a djlbsr_meta. */
typedef struct djlbsr_info {
  int64_t rows;
  int64_t cols;
  int64_t block_rows;
  int64_t block_cols;
  int64_t nnzb;
  int64_t packed_bytes;
  int64_t max_blocks_in_row; /* the heaviest block-row */
  int32_t format_version;
  int32_t dtype;
  int32_t device;
  int32_t weight_format;
  /* The second copy of the values that some CUDA kernels read: the side of the squares that its
   * blocks are cut into, 0 where there is none, and the sizes of its tables. */
  int32_t panel_block;
  int32_t panel_entries;
  int32_t panel_steps;
  int32_t reserved; /* 0 */
} djlbsr_info;

/*
 * Validates the structure of matrix (values is not read and may be null) for a device kind and
 * writes its meta. info.packed_bytes then tells how much memory djlbsr_pack needs.
 * O(nnzb + rows / block_rows).
 */
DJLBSR_API int32_t djlbsr_pack_query(const djlbsr_matrix* matrix, int32_t device,
                                     djlbsr_meta* meta);

/* Decodes and checks meta. */
DJLBSR_API int32_t djlbsr_meta_decode(const djlbsr_meta* meta, djlbsr_info* info);

/*
 * Validates matrix, checks that meta is its meta, and lays it out in packed: info.packed_bytes
 * bytes of the device's memory, 64-byte aligned on the CPU and 256-byte aligned on CUDA. matrix and
 * packed must not overlap. On CUDA it runs on the current device and on stream (a cudaStream_t,
 * null for the default stream), and returns after the host memory that it read is free again.
 */
DJLBSR_API int32_t djlbsr_pack(const djlbsr_matrix* matrix, const djlbsr_meta* meta, void* packed,
                               void* stream);

/*
 * Replaces the values of a packed weight and leaves its structure. values is as in djlbsr_matrix.
 * Not to be called while another thread applies the same packed weight.
 */
DJLBSR_API int32_t djlbsr_update_values(const djlbsr_meta* meta, void* packed, const void* values,
                                        void* stream);

/* Arguments of djlbsr_linear. x, bias and y have the weight's dtype and lie on its device. */
typedef struct djlbsr_linear_args {
  const void* x;      /* [tokens, cols], row t at x + t * x_stride; elements of a row adjacent */
  const void* bias;   /* [rows], or null */
  void* y;            /* [tokens, rows], row t at y + t * y_stride; every element is written */
  int64_t tokens;     /* at least 0; with 0 nothing is read or written */
  int64_t x_stride;   /* elements; at least cols, or 0 to repeat one row */
  int64_t y_stride;   /* elements; at least rows */
  int32_t activation; /* djlbsr_activation */
  int32_t threads;    /* CPU: at most this many threads, 0 for OpenMP's setting; CUDA: ignored */
  void* stream;       /* CUDA: a cudaStream_t of the current device; CPU: ignored */
} djlbsr_linear_args;

/*
 * y = act(x * W^T + bias).
 *
 * Sums are accumulated in fp32 in an order that the weight alone decides, so that an output has the
 * same bits alone or in a larger batch and for any number of threads; on CUDA, wherever the same
 * kernel serves both calls, which depends on the weight, the device, tokens (the kernel
 * changes several times as they grow) and of which of 4, 8 and 16 bytes x, y and their strides are multiples. Elements
 * of x outside W's stored columns are ignored, NaN and Inf included. y, the gaps between its rows
 * included, must not overlap x, bias or packed.
 *
 * On Hopper GPUs fp32 products are sums of bf16 products, as accurate as fp32; of numbers below
 * 2^-110 what is below 2^-134 may be lost.
 *
 * The dot products of bfloat16 that CPUs from avx512_bf16 on have for blocks of multiples of 16
 * rows and 2 columns read subnormals as 0 and flush subnormal sums; their roundings differ from
 * those of the fp32 arithmetic elsewhere, within the same bound.
 *
 * A packed weight whose bytes were altered after djlbsr_pack gives meaningless numbers in y, but no
 * access outside packed, x, bias and y.
 *
 * On CUDA: asynchronous on stream, no allocation, no synchronisation, capturable in a CUDA graph.
 */
DJLBSR_API int32_t djlbsr_linear(const djlbsr_meta* meta, const void* packed,
                                 const djlbsr_linear_args* args);

/*
 * Whether fp32 weights on CUDA may be multiplied as in TF32 or better where that is faster (errors
 * of a product up to 2^-10; on Hopper GPUs up to 2^-15, in three bf16 products): 0 or 1, for all
 * threads, from the next djlbsr_linear on. It is 0 at first, unless the environment variable
 * DJLBSR_ALLOW_TF32 is 1. With 0, errors are those of fp32.
 */
DJLBSR_API void djlbsr_set_allow_tf32(int32_t allow);
DJLBSR_API int32_t djlbsr_allow_tf32(void);

/*
 * Which kernel djlbsr_linear takes for such a call: a CUDA kernel's name on CUDA (for the current
 * device; x and y count by their alignment only and are not read), or the active ISA on the CPU.
 * For benchmarks and tests. *name lives as long as the library.
 */
DJLBSR_API int32_t djlbsr_kernel_name(const djlbsr_meta* meta, const djlbsr_linear_args* args,
                                      const char** name);

/* The calling thread's last error text: UTF-8, valid until its next failing call, never null. */
DJLBSR_API const char* djlbsr_last_error(void);

/* "major.minor.patch" */
DJLBSR_API const char* djlbsr_version(void);

/*
 * What this library can do on this machine, as "key: value" lines: version, packed format,
 * compiler, the best ISA that the CPU supports, the active one and which variable caps it
 * (DJLBSR_MAX_ISA = portable, avx2, avx512, avx512_vnni, avx512_bf16 or amx), OpenMP threads, a
 * line for each CUDA device or why there is none, the CUDA kernels and which variable forces one
 * (DJLBSR_CUDA_KERNEL = its name, for every call that it can serve; read once a process), the
 * PyTorch that it is registered with. The text is the calling thread's, valid until its next call
 * of this function.
 */
DJLBSR_API const char* djlbsr_capabilities(void);

/*
 * The ISA of the CPU kernels in use: "portable", "avx2", "avx512", "avx512_vnni", "avx512_bf16" or
 * "amx". float32 and float16 give the same bits on the last four.
 */
DJLBSR_API const char* djlbsr_active_isa(void);

/* The number of usable CUDA devices; 0 in a CPU-only build or without a driver. */
DJLBSR_API int32_t djlbsr_cuda_device_count(void);

/* ---- block-sparse or dense ----
 *
 * A dense product on the densified weight is faster where few blocks are missing or the blocks
 * serve a kernel badly. djlbsr_predict tells by a model of both: on CUDA with constants fitted to
 * measurements on an H200, on the CPU by interpolation between the times of a profile.
 */

typedef struct djlbsr_prediction {
  double bsr_seconds;   /* djlbsr_linear */
  double dense_seconds; /* PyTorch's linear on the densified weight, then the activation */
  int32_t dense;        /* 1 if dense is predicted to be at least 1.05 times as fast, else 0; 0 for
                         * int8 weights, which somebody asked for */
  int32_t reserved;     /* 0 */
} djlbsr_prediction;

/*
 * Predicts a call with a weight: a pure function of its arguments, the CPU profile in use and the
 * properties of the CUDA device. cuda_device, or -1 for an H200 that need not be there, counts for
 * a weight on CUDA alone, threads, 0 for OpenMP's setting, for one on the CPU alone. Absolute times
 * are rough on machines that were not measured: what counts is their ratio.
 */
DJLBSR_API int32_t djlbsr_predict(const djlbsr_meta* meta, int64_t tokens, int32_t activation,
                                  int32_t cuda_device, int32_t threads,
                                  djlbsr_prediction* prediction);

/* A profile: the seconds that dense and block-sparse products of several sizes take on a thread. */
#define DJLBSR_PROFILE_POINTS 168

/* What number `index` of a profile is the time of, such as "16x16 blocks, 131072 stored elements,
   4 tokens"; empty for an index out of range. The text is the calling thread's, valid until its
   next call of this function. */
DJLBSR_API const char* djlbsr_profile_point(int32_t index);

/* Writes the profile in use for a dtype to seconds, [DJLBSR_PROFILE_POINTS]. */
DJLBSR_API int32_t djlbsr_get_profile(int32_t dtype, double* seconds);

/*
 * Sets the profile of this process for a dtype: seconds, [DJLBSR_PROFILE_POINTS], as
 * djlbsr_torch_measure_profile gives them, or null to return to the one that is built in.
 */
DJLBSR_API int32_t djlbsr_set_profile(int32_t dtype, const double* seconds);

/* ------------------------------------------------------------------------------------------------
 * Part 2: PyTorch tensors
 *
 * libdjlbsr finds libtorch in the process by name and calls its stable C ABI (PyTorch 2.7 and
 * later). A djlbsr_tensor is an at::Tensor* in an integer, 0 for none. Functions borrow the tensors
 * that they are given; the ones that they return belong to the caller.
 *
 * When the library is loaded into such a process it registers, for CPU and CUDA,
 *   bsr::linear(Tensor input, Tensor crow_indices, Tensor col_indices, Tensor values,
 *               Tensor? bias=None, int activation=0) -> Tensor
 *   bsr::pack(Tensor crow_indices, Tensor col_indices, Tensor values, int in_features,
 *               int weight_format=0) -> (Tensor packed, Tensor meta)
 *   bsr::linear_packed(Tensor input, Tensor packed, Tensor meta, Tensor? bias=None,
 *               int activation=0, Tensor? dense=None) -> Tensor
 * linear_packed with dense, the same weight as a tensor [out_features, in_features], runs PyTorch's
 * own linear on it where djlbsr_predict says that this is faster. The environment variable
 * DJLBSR_EXECUTION = auto (this rule), bsr (ignore dense) or dense (use it wherever it is given)
 * overrides, and is read once. NaN and Inf in the input then spread as in any dense product.
 * --------------------------------------------------------------------------------------------- */

typedef int64_t djlbsr_tensor;

/*
 * Registers the operators if that has not happened yet: needed only where the library was loaded
 * before PyTorch. Says what is missing when it fails.
 */
DJLBSR_API int32_t djlbsr_torch_register(void);

/*
 * Packs a BSR weight: crow_indices [rows / block_rows + 1] and col_indices [nnzb], int32 or int64,
 * on any device; values [nnzb, block_rows, block_cols], float32, float16 or bfloat16, on the device
 * that the packed weight is for; weight_format, a djlbsr_weight_format. Yields packed, a uint8
 * tensor on that device, and meta, an int64 tensor [DJLBSR_META_WORDS] on the CPU.
 */
DJLBSR_API int32_t djlbsr_torch_pack(djlbsr_tensor crow_indices, djlbsr_tensor col_indices,
                                     djlbsr_tensor values, int64_t in_features,
                                     int32_t weight_format, djlbsr_tensor* packed,
                                     djlbsr_tensor* meta);

/* djlbsr_update_values for tensors. */
DJLBSR_API int32_t djlbsr_torch_update_values(djlbsr_tensor packed, djlbsr_tensor meta,
                                              djlbsr_tensor values);

/*
 * act(input * W^T + bias) for an input [..., in_features] of any strides; gives a new contiguous
 * tensor [..., out_features] in *output. Runs on the current CUDA stream of the input's device.
 */
DJLBSR_API int32_t djlbsr_torch_linear(djlbsr_tensor input, djlbsr_tensor packed,
                                       djlbsr_tensor meta, djlbsr_tensor bias, int32_t activation,
                                       djlbsr_tensor* output);

/*
 * tensor := act(tensor), in place, for a contiguous float32, float16 or bfloat16 tensor: what a
 * dense product needs that stands for djlbsr_torch_linear. On the current CUDA stream of its
 * device.
 */
DJLBSR_API int32_t djlbsr_torch_activate(djlbsr_tensor tensor, int32_t activation);

/* djlbsr_predict for a packed weight; *dense as in djlbsr_prediction. */
DJLBSR_API int32_t djlbsr_torch_predict(djlbsr_tensor packed, djlbsr_tensor meta, int64_t tokens,
                                        int32_t activation, double* bsr_seconds,
                                        double* dense_seconds, int32_t* dense);

/*
 * Measures a CPU profile for a dtype, against PyTorch's own linear: seconds,
 * [DJLBSR_PROFILE_POINTS]. Keeps one thread busy for about a second and takes 120 MiB; what else
 * the machine does meanwhile makes little difference.
 */
DJLBSR_API int32_t djlbsr_torch_measure_profile(int32_t dtype, double* seconds);

/*
 * The tensor's in-place version counter, which grows with every change of its values, or -1 where
 * PyTorch keeps none for it.
 */
DJLBSR_API int64_t djlbsr_torch_version_of(djlbsr_tensor tensor);

#ifdef __cplusplus
}
#endif

#endif /* DJLBSR_H_ */
