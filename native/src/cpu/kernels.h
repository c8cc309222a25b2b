/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
#pragma once

#include <cstddef>
#include <cstdint>

#include "cpu/isa.h"
#include "djlbsr.h"

namespace djlbsr::cpu {

/*
 * A packed weight on the CPU. Inside values each block is stored transposed,
 * [block_cols][block_rows], so that the weights that meet one element of x lie side by side,
 * whichever way a kernel vectorizes.
 */
struct Weight {
  const int32_t* crow;
  const int32_t* col_start;
  const void* values;
  int32_t dtype;
  int64_t rows;
  int64_t cols;
  int64_t block_rows;
  int64_t block_cols;
  int64_t block_row_count;
  int64_t block_col_count;
  int64_t nnzb;
};

enum class Algorithm { kRowsInLanes, kTokensInLanes, kSingleRows, kSingleRowsFewTokens };

/* How one call is cut up, a function of weight, arguments and machine; the same for all threads. */
struct Plan {
  Algorithm algorithm;
  int64_t tile_tokens; /* tokens that are computed together; the last tile may have fewer */
  int64_t rows_of_x; /* tiles of at most so many tokens read rows of x, others a transposed copy */
  int64_t tile_floats;  /* of a tile's copy of x; 0 if there is none */
  int64_t row_floats;   /* where rows of x are copied: from one to the next */
  int64_t task_tokens;  /* tokens of a task; its last tile may have fewer */
  int tasks_per_thread; /* as part_bounds has it */
  size_t scratch_bytes; /* a thread's scratch memory, 64-byte aligned */
};

/* One task: some tokens by some rows of W. */
struct Task {
  int64_t token_begin;
  int64_t token_end;
  int64_t block_row_begin;
  int64_t block_row_end;
};

/*
 * The kernels of one ISA. args.threads of a plan is the number of threads that will run it.
 *
 * Every output is one chain of (fused, where the ISA has it) multiply-adds over the stored columns
 * in their order, in every kernel and for every tile size: that is what makes results independent
 * of batch and thread count. Blocks of one row and 4n columns differ: column k of the block goes to
 * chain k mod 4 of four chains that start at the block's first product; (s0 + s2) + (s1 + s3) is
 * then added to the row's sum.
 */
struct Kernels {
  Plan (*plan)(const Weight&, const djlbsr_linear_args&);
  /* Copies x of a task as the kernel wants it to scratch, where run looks for it. */
  void (*copy_x)(const Weight&, const djlbsr_linear_args&, const Plan&, const Task&,
                 float* scratch);
  void (*run)(const Weight&, const djlbsr_linear_args&, const Plan&, const Task&, float* scratch);
  void (*activate)(int32_t dtype, int32_t activation, void* y, int64_t count);
};

const Kernels& kernels_for(Isa isa);

extern const Kernels kPortableKernels;
#if defined(__x86_64__)
extern const Kernels kAvx2Kernels;
extern const Kernels kAvx512Kernels;
#endif

}  // namespace djlbsr::cpu
