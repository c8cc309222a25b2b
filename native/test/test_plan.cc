/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
/* Which kernel serves what: a table, so that neither can lose its callers unnoticed. */
#include "cpu/isa.h"
#include "cpu/kernels.h"
#include "support.h"

using namespace test;
using djlbsr::cpu::Plan;

namespace {

Plan plan(int64_t rows, int64_t cols, int64_t block_rows, int64_t block_cols, double density,
          int64_t tokens, int32_t dtype = DJLBSR_FLOAT32) {
  djlbsr::cpu::Weight w = {};
  w.dtype = dtype;
  w.rows = rows;
  w.cols = cols;
  w.block_rows = block_rows;
  w.block_cols = block_cols;
  w.block_row_count = rows / block_rows;
  w.block_col_count = cols / block_cols;
  w.nnzb = static_cast<int64_t>(density * static_cast<double>(w.block_row_count) *
                                static_cast<double>(w.block_col_count));
  djlbsr_linear_args args = {};
  args.tokens = tokens;
  return djlbsr::cpu::kernels_for(djlbsr::cpu::active_isa()).plan(w, args);
}

void kernels() {
  for (int64_t block : {16, 32, 64, 128}) {
    for (int64_t tokens : {1, 8, 64, 512}) {
      EXPECT(!plan(1024, 4096, block, block, 0.125, tokens).tokens_in_lanes,
             "block %lld tokens %lld", (long long)block, (long long)tokens);
    }
  }
  for (int64_t tokens : {64, 512}) {
    EXPECT(plan(1024, 4096, 1, 32, 0.125, tokens).tokens_in_lanes, "1x32 tokens %lld",
           (long long)tokens);
    EXPECT(plan(1024, 4096, 1, 1, 0.125, tokens).tokens_in_lanes, "1x1 tokens %lld",
           (long long)tokens);
    EXPECT(plan(1024, 4096, 5, 7, 0.125, tokens).tokens_in_lanes, "5x7 tokens %lld",
           (long long)tokens);
  }
  for (int64_t block : {1, 4}) {
    EXPECT(!plan(1024, 4096, block, block, 0.125, 1).tokens_in_lanes, "one token, block %lld",
           (long long)block);
  }
  /* Transposing a million columns does not pay for a few stored ones. */
  EXPECT(!plan(1024, 1 << 20, 4, 4, 0.0005, 128).tokens_in_lanes, "many columns");
}

/* The panel of x, which every thread holds, stays small whatever the number of columns. */
void scratch() {
  for (int32_t dtype : {DJLBSR_FLOAT32, DJLBSR_FLOAT16}) {
    for (int64_t cols : {0, 16, 4096, 65536, 1 << 20}) {
      for (int64_t tokens : {1, 33, 4096}) {
        const Plan p = plan(64, cols, 16, 16, 0.1, tokens, dtype);
        const size_t most = std::max<size_t>(1 << 20, static_cast<size_t>(cols) * 4 + 64);
        EXPECT(p.scratch_bytes >= 64 && p.scratch_bytes <= most && p.panel_tokens >= 1,
               "cols %lld tokens %lld dtype %d: %zu bytes of scratch, %lld tokens a panel",
               (long long)cols, (long long)tokens, dtype, p.scratch_bytes,
               (long long)p.panel_tokens);
      }
    }
  }
}

}  // namespace

int main() {
  skip_without_isa();
  kernels();
  scratch();
  return finish("test_plan");
}
