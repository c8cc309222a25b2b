/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
/*
 * The CUDA back-end against float64, for every dtype, block shape, token count and activation,
 * between canaries, by the kernels that serve each call or by the one that DJLBSR_CUDA_KERNEL
 * names. `test_cuda quick` runs a part that compute-sanitizer gets through in a minute.
 */
#include <iterator>

#include "device_support.h"
#include "overlapped.h"

using namespace test;

namespace {

/* Each row of the table is another tile of the portable kernel; the others add what they split. */
const int64_t kBlocks[][2] = {
    {1, 1},   {1, 32},  {1, 7},     {1, 16},            /* 1 row */
    {2, 3},   {3, 5},   {8, 8},     {4, 4},    {5, 7},  /* 8 rows */
    {16, 16}, {16, 64}, {12, 20},                       /* 16 rows */
    {32, 1},  {32, 32}, {20, 4},    {32, 64},           /* 32 rows */
    {64, 64}, {33, 2},  {128, 128}, {100, 36}, {48, 24} /* slices of 64 rows */
};

/* On either side of every tile of tokens. */
const int64_t kTokens[] = {0, 1, 2, 4, 5, 7, 8, 9, 15, 16, 17, 33, 63, 64, 65, 128, 130, 257};

/* x and y often, but not always, at multiples of 16 bytes. */
int64_t random_pad(Rng& rng, int64_t least) {
  return uniform(rng, 0, 1) == 0 ? 8 * uniform(rng, 0, 2) : uniform(rng, least, 3);
}

void shapes(bool quick) {
  Rng rng(20261122);
  int32_t activation = 0;
  int pattern = 0;
  for (const auto& block : kBlocks) {
    for (int32_t dtype : {DJLBSR_FLOAT32, DJLBSR_FLOAT16, DJLBSR_BFLOAT16}) {
      for (int64_t tokens : kTokens) {
        if (quick && (tokens > 65 || uniform(rng, 0, 3) > 0)) continue;
        const int64_t most = block[0] * block[1] >= 1024 ? 3 : quick ? 5 : 9;
        const char* name = kPatterns[pattern++ % 7];
        Matrix m(rng, uniform(rng, 1, most), uniform(rng, 1, most), block[0], block[1], dtype,
                 name);
        Case c = {tokens, random_pad(rng, -1), random_pad(rng, 0), uniform(rng, 0, 1) == 1,
                  activation++ % 5};
        c.integers = uniform(rng, 0, 2) == 0;
        check(rng, m, c, name);
      }
    }
  }
}

/* More steps than warps and stages, rows of very different lengths, more rows than a tile. */
void long_rows() {
  Rng rng(4242);
  const int64_t sizes[][4] = {{3, 70, 16, 16}, {9, 90, 8, 8},   {40, 300, 1, 4},  {3, 200, 4, 4},
                              {4, 40, 32, 32}, {3, 24, 64, 64}, {30, 60, 16, 16}, {5, 150, 5, 7}};
  for (int32_t dtype : {DJLBSR_FLOAT32, DJLBSR_FLOAT16, DJLBSR_BFLOAT16}) {
    for (const auto& size : sizes) {
      for (int64_t tokens : {1, 16, 40, 150}) {
        const char* name = kPatterns[uniform(rng, 0, 3)];
        Matrix m(rng, size[0], size[1], size[2], size[3], dtype, name);
        check(rng, m, Case{tokens, 0, 0, true, DJLBSR_NONE, tokens != 16}, name);
      }
    }
  }
}

/*
 * So many rows that calls of up to 8 tokens are more than one wave of CTAs, by slices of 16 rows
 * (110 block-rows) and of 32: kernels of their own.
 */
void many_rows() {
  Rng rng(12800);
  for (int32_t dtype : {DJLBSR_FLOAT16, DJLBSR_BFLOAT16}) {
    for (int64_t block_rows : {110, 200}) {
      for (int64_t block_cols : {64, 12, 5}) { /* read by 8, 4 and 1 */
        for (int64_t tokens : {1, 7, 8}) {
          Matrix m(rng, block_rows, 9, 64, block_cols, dtype, "random");
          check(rng, m, Case{tokens, 0, 0, true, DJLBSR_GELU}, "random");
        }
        const Matrix m(rng, block_rows, 9, 64, block_cols, dtype, "random", 0.9);
        for (int64_t off : {0, 1}) check_deterministic(rng, m, 16, {1, 5, 8}, off, DJLBSR_NONE);
      }
    }
  }
  Matrix ragged(rng, 400, 9, 33, 2, DJLBSR_FLOAT16, "random");
  check(rng, ragged, Case{8, 0, 0, true, DJLBSR_NONE}, "random");
}

void empty_matrices() {
  Rng rng(11);
  for (int64_t rows : {0, 3}) {
    for (int64_t cols : {0, 2}) {
      Matrix m(rng, rows, cols, 4, 4, DJLBSR_FLOAT32, "random");
      check(rng, m, Case{5, 0, 1, true, DJLBSR_GELU}, "empty");
    }
  }
}

void deterministic() {
  Rng rng(17);
  for (const auto& block : kBlocks) {
    for (int32_t dtype : {DJLBSR_FLOAT32, DJLBSR_FLOAT16, DJLBSR_BFLOAT16}) {
      for (int64_t off : {0, 1}) {
        const Matrix m(rng, 3, 24, block[0], block[1], dtype, "random");
        check_deterministic(rng, m, 131, {1, 4, 8, 9, 16, 17, 64}, off, DJLBSR_GELU);
        check_deterministic(rng, m, 16, {1, 2, 5, 8}, off, DJLBSR_NONE);
      }
    }
  }
}

void altered_packed_bytes() {
  Rng rng(23);
  for (const auto& block : kBlocks) {
    for (int64_t tokens : {1, 9, 70}) {
      const Matrix m(rng, 3, 5, block[0], block[1], DJLBSR_FLOAT16, "random");
      const CudaPacked packed(m);
      const DeviceBytes x(Array(m.dtype, tokens * m.cols));
      const DeviceBytes y(Array(m.dtype, tokens * m.rows));
      apply_altered_bytes(rng, packed, arguments(m, x.get(), y.get(), tokens));
    }
  }
}

/* Activations alone: every fp16 and bf16 number, and fp32 numbers close to each other. */
void activations() {
  Rng rng(19);
  for (int32_t dtype : {DJLBSR_FLOAT32, DJLBSR_FLOAT16, DJLBSR_BFLOAT16}) {
    Matrix m(rng, 1, 1, 1, 1, dtype, "full");
    m.values.set(0, 1.0f);
    const int64_t tokens = dtype == DJLBSR_FLOAT32 ? 2000000 : 65536;
    Array x(dtype, tokens);
    for (int64_t i = 0; i < tokens; ++i) {
      if (dtype != DJLBSR_FLOAT32) {
        const auto bits = static_cast<uint16_t>(i);
        std::memcpy(static_cast<char*>(x.data()) + 2 * i, &bits, 2);
      } else if (i % 2 == 0) { /* a line from -30 to 30 */
        x.set(i, static_cast<float>(i - tokens / 2) * (60.0f / static_cast<float>(tokens)));
      } else { /* every 4295th bit pattern, so that each power of 2 has 1953 numbers */
        const uint32_t bits = static_cast<uint32_t>(i / 2) * 4295;
        float value;
        std::memcpy(&value, &bits, 4);
        x.set(i, value);
      }
    }
    const CudaPacked packed(m);
    const DeviceBytes x_memory(x);
    Array y(dtype, tokens);
    const DeviceBytes y_memory(y);
    for (int32_t activation = DJLBSR_NONE; activation <= DJLBSR_SILU; ++activation) {
      djlbsr_linear_args args = arguments(m, x_memory.get(), y_memory.get(), tokens);
      args.activation = activation;
      run(packed, args);
      y_memory.read(y.data());
      for (int64_t i = 0; i < tokens; ++i) {
        const double z = x.get(i);
        const double expected = activate(z, activation);
        const double actual = y.get(i);
        if (std::isnan(z) || (std::isinf(z) && z < 0)) {
          EXPECT(std::isnan(actual) || !std::isnan(z), "activation %d of NaN is %.9g", activation,
                 actual);
          continue;
        }
        /* Past the largest fp16 or bf16 number y is infinite, as the rounded z is. */
        const double bound = device_error_bound(z, 0.0, 1, activation, dtype);
        EXPECT(std::fabs(actual - expected) <= bound || actual == expected,
               "dtype %d activation %d of %.9g is %.9g, expected %.9g, allowed %.3g", dtype,
               activation, z, actual, expected, bound);
      }
    }
  }
}

void updated_values() {
  Rng rng(29);
  Matrix m(rng, 3, 5, 16, 8, DJLBSR_FLOAT32, "random");
  const CudaPacked packed(m);
  for (int64_t i = 0; i < m.values.count(); ++i) m.values.set(i, -m.values.get(i));
  const DeviceBytes values(m.values);
  EXPECT(
      djlbsr_update_values(&packed.meta, packed.bytes->get(), values.get(), nullptr) == DJLBSR_OK,
      "%s", djlbsr_last_error());
  const CudaPacked expected(m);
  std::vector<char> a(static_cast<size_t>(packed.info.packed_bytes));
  std::vector<char> b(a.size());
  packed.bytes->read(a.data());
  expected.bytes->read(b.data());
  EXPECT(a == b, "updated values differ from packed ones");
}

/* A captured call computes from what x holds when the graph runs, with the bits of a plain call. */
void captured(Rng& rng, int64_t side, int32_t dtype, int64_t tokens) {
  std::normal_distribution<float> normal;
  const Matrix m(rng, 5, 9, side, side, dtype, "random");
  const CudaPacked packed(m);
  Array x(dtype, tokens * m.cols);
  x.fill([&] { return normal(rng); });
  Array nan(dtype, tokens * m.rows);
  nan.fill([] { return NAN; });
  const DeviceBytes x_memory(x);
  const DeviceBytes y_memory(nan);
  const DeviceBytes expected_memory(nan);
  run(packed, arguments(m, x_memory.get(), expected_memory.get(), tokens));
  CUDA(cudaMemset(x_memory.get(), 0xff, static_cast<size_t>(x.count()) * x.size()));
  CUDA(cudaDeviceSynchronize()); /* a non-blocking stream does not wait for the default one */

  cudaStream_t stream;
  cudaGraph_t graph;
  cudaGraphExec_t executable;
  CUDA(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  djlbsr_linear_args args = arguments(m, x_memory.get(), y_memory.get(), tokens);
  args.stream = stream;
  CUDA(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
  run(packed, args);
  CUDA(cudaStreamEndCapture(stream, &graph));
  CUDA(cudaGraphInstantiate(&executable, graph, 0));
  CUDA(cudaMemcpyAsync(x_memory.get(), x.data(), static_cast<size_t>(x.count()) * x.size(),
                       cudaMemcpyHostToDevice, stream));
  CUDA(cudaGraphLaunch(executable, stream));
  CUDA(cudaStreamSynchronize(stream));
  Array expected(dtype, tokens * m.rows);
  Array actual(dtype, tokens * m.rows);
  expected_memory.read(expected.data());
  y_memory.read(actual.data());
  EXPECT(std::memcmp(expected.data(), actual.data(),
                     static_cast<size_t>(actual.count()) * actual.size()) == 0,
         "%s tokens %lld: a replayed graph gives other bits than a plain call",
         m.describe().c_str(), (long long)tokens);
  CUDA(cudaGraphExecDestroy(executable));
  CUDA(cudaGraphDestroy(graph));
  CUDA(cudaStreamDestroy(stream));
}

/* Graphs, and on devices but the first also that kernels need nothing that the first one has. */
void on_every_device() {
  for (int device = 0; device < djlbsr_cuda_device_count(); ++device) {
    CUDA(cudaSetDevice(device));
    Rng rng(31);
    for (int32_t dtype : {DJLBSR_FLOAT32, DJLBSR_FLOAT16, DJLBSR_BFLOAT16}) {
      for (int64_t side : {5, 16, 32, 64, 128}) {
        for (int64_t tokens : {1, 16, 300}) {
          captured(rng, side, dtype, tokens);
          Matrix m(rng, 5, 9, side, side, dtype, "random");
          if (device > 0) check(rng, m, Case{tokens, 0, 0, true, DJLBSR_GELU}, "random");
        }
      }
    }
  }
  CUDA(cudaSetDevice(0));
  std::printf("on %d devices\n", djlbsr_cuda_device_count());
}

}  // namespace

int main(int argc, char** argv) {
  if (djlbsr_cuda_device_count() == 0) {
    std::printf("skipped: %s", djlbsr_capabilities());
    return 77;
  }
  const bool quick = argc > 1 && std::strcmp(argv[1], "quick") == 0;
  shapes(quick);
  empty_matrices();
  altered_packed_bytes();
  updated_values();
  if (!quick) {
    long_rows();
    many_rows();
    deterministic();
    activations();
    check_overlapped(1024, {DJLBSR_FLOAT16, DJLBSR_FLOAT32}, {16, 32, 64});
    on_every_device();
  }
  return finish("test_cuda");
}
