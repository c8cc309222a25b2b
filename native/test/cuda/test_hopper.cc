/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
/*
 * The kernels of compute capability 9.0: against float64 between canaries, against another
 * kernel bit by bit on small integers, and against themselves in other batches.
 * `test_hopper quick` runs a part that compute-sanitizer gets through in a minute.
 */
#include "device_support.h"
#include "overlapped.h"

using namespace test;
using djlbsr::cuda::Kernel;

namespace {

const int64_t kBlocks[][2] = {{64, 64},   {64, 128}, {192, 64}, /* tiles of 64 x 512 */
                              {128, 128}, {128, 64}, {256, 64}, /* tiles of 128 x 256 */
                              {32, 32},   {32, 64},  {96, 32},  /* panels of squares of 32 */
                              {16, 16},   {16, 48},  {64, 16} /* panels of squares of 16 */};

int64_t served_cases = 0;

/* Few tiles, for one, are for other kernels unless DJLBSR_CUDA_KERNEL says otherwise. */
bool served_by_hopper(const CudaPacked& packed, const djlbsr_linear_args& args) {
  const Kernel kernel = served_by(packed, args);
  const bool served = std::strncmp(djlbsr::cuda::kernel_name(kernel), "hopper_", 7) == 0;
  served_cases += forced_kernel() ? kernel == *forced_kernel() : served;
  return served;
}

/* Paddings of whole 16 bytes keep the kernel; tokens on either side of its tiles. */
void shapes(bool quick) {
  Rng rng(64128);
  int32_t activation = 0;
  int pattern = 0;
  for (const auto& block : kBlocks) {
    for (int32_t dtype : {DJLBSR_FLOAT16, DJLBSR_BFLOAT16}) {
      for (int64_t tokens : {1, 17, 32, 33, 64, 65, 128, 129, 255, 256, 257, 513, 700}) {
        if (quick && tokens != 65) continue;
        const char* name = kPatterns[pattern++ % 7];
        Matrix m(rng, uniform(rng, 1, 4), uniform(rng, 1, 4), block[0], block[1], dtype, name);
        check(rng, m,
              Case{tokens, 8 * uniform(rng, 0, 2), 8 * uniform(rng, 0, 2), uniform(rng, 0, 1) == 1,
                   activation++ % 5},
              name);
      }
    }
  }
}

/* One block-row is far longer than the others: it goes first, is cut, or its tiles are shared. */
Matrix long_row(Rng& rng, int64_t block_rows, int32_t dtype) {
  return Matrix(rng, 16, 30, block_rows, 64, dtype, "heavy row", 0.05);
}

void long_rows(bool quick) {
  Rng rng(2);
  int32_t activation = 0;
  for (int64_t block_rows : {64, 128, 192}) {
    for (int32_t dtype : {DJLBSR_FLOAT16, DJLBSR_BFLOAT16}) {
      for (int64_t tokens : {1, 65, 128, 300, 700, 1500}) {
        if (quick && tokens != 300) continue;
        Matrix m = long_row(rng, block_rows, dtype);
        check(rng, m, Case{tokens, 0, 8, true, activation++ % 5}, "heavy row");
      }
    }
  }
}

/*
 * Sums of small integers are exact in any order: all kernels must give the same bits. An x that is
 * not aligned to 16 bytes gets another one.
 */
void equals_other(Rng& rng, Matrix m, int64_t tokens, int32_t activation, const char* what) {
  const auto integer = [&] { return static_cast<float>(uniform(rng, -2, 2)); };
  m.values.fill(integer);
  Array x(m.dtype, tokens * m.cols + 1);
  x.fill(integer);
  Array bias(m.dtype, m.rows);
  bias.fill(integer);
  const CudaPacked packed(m);
  const DeviceBytes unaligned(x);
  const DeviceBytes aligned(static_cast<const char*>(x.data()) + 2,
                            static_cast<size_t>(tokens * m.cols) * 2);
  const DeviceBytes bias_memory(bias);
  Array expected(m.dtype, tokens * m.rows);
  Array actual(m.dtype, tokens * m.rows);
  const auto apply = [&](const void* x_memory, Array& y) {
    y.fill([] { return NAN; });
    const DeviceBytes y_memory(y);
    djlbsr_linear_args args = arguments(m, x_memory, y_memory.get(), tokens);
    args.bias = bias_memory.get();
    args.activation = activation;
    run(packed, args);
    y_memory.read(y.data());
    return served_by_hopper(packed, args);
  };
  const bool unaligned_served = apply(static_cast<char*>(unaligned.get()) + 2, expected);
  EXPECT(!unaligned_served, "%s: x off 16 bytes by a Hopper kernel", m.describe().c_str());
  apply(aligned.get(), actual);
  const auto* a = static_cast<const uint16_t*>(expected.data());
  const auto* b = static_cast<const uint16_t*>(actual.data());
  for (int64_t i = 0; i < tokens * m.rows; ++i) {
    EXPECT(a[i] == b[i], "%s, %s: token %lld row %lld is %.9g, another kernel gives %.9g",
           m.describe().c_str(), what, (long long)(i / m.rows), (long long)(i % m.rows),
           actual.get(i), expected.get(i));
  }
}

void integers() {
  Rng rng(4711);
  for (int32_t dtype : {DJLBSR_FLOAT16, DJLBSR_BFLOAT16}) {
    for (const auto& block : kBlocks) {
      for (int64_t tokens : {100, 256, 600}) {
        const char* name = kPatterns[uniform(rng, 0, 6)];
        Matrix m(rng, 7, 5, block[0], block[1], dtype, name, 0.5);
        if (!m.col.empty()) equals_other(rng, std::move(m), tokens, DJLBSR_NONE, name);
      }
    }
    equals_other(rng, Matrix(rng, 90, 10, 64, 64, dtype, "random"), 1400, DJLBSR_RELU,
                 "several tiles a CTA");
    equals_other(rng, Matrix(rng, 75, 10, 128, 64, dtype, "heavy row"), 700, DJLBSR_NONE,
                 "several tiles a CTA, skewed");
    equals_other(rng, Matrix(rng, 20, 128, 128, 64, dtype, "random", 0.1), 2400, DJLBSR_NONE,
                 "several panels");
    /* Long block-rows go first in all panels, and are cut to half tiles of tokens. */
    for (int64_t rows : {64, 128}) {
      equals_other(rng, Matrix(rng, 12, 128, rows, 64, dtype, "heavy row", 0.05), 3000, DJLBSR_NONE,
                   "several panels, skewed");
      equals_other(rng, Matrix(rng, 40, 60, rows, 64, dtype, "heavy row", 0.05), 1100, DJLBSR_RELU,
                   "half tiles, skewed");
    }
    for (int64_t rows : {192, 256}) {
      equals_other(rng, long_row(rng, rows, dtype), 12000, DJLBSR_NONE,
                   "several tiles of a long block-row");
    }
    equals_other(rng, Matrix(rng, 1030, 3, 64, 64, dtype, "random"), 64, DJLBSR_NONE,
                 "more block-rows than have lengths in shared memory");
    equals_other(rng, Matrix(rng, 3, 80, 64, 64, dtype, "full"), 300, DJLBSR_NONE,
                 "more blocks in a row than lanes");
    /* Both forms of chunk, two tiles of rows and more, panels without a square of one tile. */
    for (int64_t side : {16, 32}) {
      for (double density : {0.003, 0.1, 0.6}) {
        equals_other(rng,
                     Matrix(rng, 1700 / side, 2304 / side, side, side, dtype, "random", density),
                     300, DJLBSR_NONE, "pairs of tiles");
      }
    }
    equals_other(rng, Matrix(rng, 29, 20, 64, 64, dtype, "random", 0.5), 700, DJLBSR_NONE,
                 "pairs of tiles");
    /* More tiles than the queue of a cluster holds. */
    for (int64_t side : {16, 32, 64}) {
      const int64_t tile_tokens = side == 64 ? 256 : 128;
      equals_other(rng, Matrix(rng, 2, 3, side, side, dtype, "full"), tile_tokens * 66 * 9 + 5,
                   DJLBSR_NONE, "many tiles a cluster");
      equals_other(rng, Matrix(rng, 2500 / side, 8, side, side, dtype, "heavy row", 0.7),
                   tile_tokens * 66 + 5, DJLBSR_NONE, "several tiles a cluster, skewed");
    }
  }
}

/*
 * Long block-rows of small squares: panels with more squares than a stage of hopper_panels_narrow
 * has slots, all sizes of cluster and none, pieces of 128 tokens, rows that are no multiple of 128.
 */
void narrow_panels() {
  Rng rng(128);
  const struct {
    int64_t rows, tokens;
    double density;
  } cases[] = {
      {400, 48, 0.9}, {2000, 130, 0.35}, {4096, 130, 0.1}, {4096, 512, 0.1}, {4096, 600, 0.1}};
  for (int32_t dtype : {DJLBSR_FLOAT16, DJLBSR_BFLOAT16}) {
    for (int64_t side : {16, 32}) {
      for (const auto& c : cases) {
        equals_other(
            rng, Matrix(rng, c.rows / side, 6400 / side, side, side, dtype, "random", c.density),
            c.tokens, DJLBSR_RELU, "pieces of panels");
      }
    }
  }
}

/* The same bits in any batch that the same kernel serves. */
void deterministic() {
  Rng rng(17);
  for (const auto& block : kBlocks) {
    for (int32_t dtype : {DJLBSR_FLOAT16, DJLBSR_BFLOAT16}) {
      const Matrix m(rng, 9, 7, block[0], block[1], dtype, "random", 0.5);
      check_deterministic(rng, m, 1100, {1, 17, 32, 33, 64, 65, 100, 128, 256, 700, 1100}, 0,
                          DJLBSR_SILU);
    }
  }
  for (int64_t block_rows : {64, 128, 192}) { /* of 192, four CTAs share a tile */
    const Matrix m = long_row(rng, block_rows, DJLBSR_FLOAT16);
    check_deterministic(rng, m, 1500, {1, 64, 200, 300, 700, 1024, 1500}, 0, DJLBSR_NONE);
    check_deterministic(rng, m, 120, {17, 32, 33, 64, 100}, 0, DJLBSR_NONE);
  }
  /* Pieces of 128 tokens, and of 64 with either number of stages, by the same kernel. */
  for (int64_t side : {16, 32}) {
    const Matrix m(rng, 4096 / side, 6400 / side, side, side, DJLBSR_FLOAT16, "random", 0.35);
    check_deterministic(rng, m, 512, {33, 64, 130, 200, 300, 512}, 0, DJLBSR_NONE);
  }
}

/* Nothing may hang either. */
void altered_packed_bytes() {
  Rng rng(23);
  const auto alter = [&](const Matrix& m, int64_t tokens) {
    const CudaPacked packed(m);
    const DeviceBytes x(Array(m.dtype, tokens * m.cols));
    const DeviceBytes y(Array(m.dtype, tokens * m.rows));
    const djlbsr_linear_args args = arguments(m, x.get(), y.get(), tokens);
    served_by_hopper(packed, args);
    apply_altered_bytes(rng, packed, args);
  };
  for (const auto& block : kBlocks) {
    for (int64_t blocks : {1, 3}) {
      alter(Matrix(rng, blocks, 2 * blocks - 1, block[0], block[1], DJLBSR_FLOAT16, "full"), 70);
    }
  }
  for (int64_t block_rows : {64, 128}) alter(long_row(rng, block_rows, DJLBSR_FLOAT16), 300);
  /* More tiles than multiprocessors: hopper_narrow takes the block-rows by length. */
  alter(Matrix(rng, 200, 1, 64, 64, DJLBSR_FLOAT16, "full"), 256);
}

}  // namespace

int main(int argc, char** argv) {
  if (compute_capability() != 90) {
    std::printf("skipped: no device of compute capability 9.0\n%s", djlbsr_capabilities());
    return 77;
  }
  const bool quick = argc > 1 && std::strcmp(argv[1], "quick") == 0;
  shapes(quick);
  long_rows(quick);
  altered_packed_bytes();
  if (!quick) {
    integers();
    narrow_panels();
    deterministic();
    check_overlapped(1024, {DJLBSR_FLOAT16, DJLBSR_BFLOAT16}, {16, 32, 64, 128});
  }
  EXPECT(served_cases > 0, "no case reached a Hopper kernel");
  return finish("test_hopper");
}
