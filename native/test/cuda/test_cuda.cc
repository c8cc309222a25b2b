/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
/*
 * The CUDA back-end against float64, for every dtype, block shape, token count and activation,
 * between canaries. `test_cuda quick` runs a part that compute-sanitizer gets through in a minute.
 */
#include <iterator>

#include "device_support.h"

using namespace test;

namespace {

/* The comments name the tile of the portable kernel that a shape reaches. */
const int64_t kBlocks[][2] = {
    {1, 1},   {1, 32},  {1, 7},               /* 1 row */
    {2, 3},   {3, 5},   {8, 8},               /* 8 rows */
    {16, 16}, {16, 64}, {12, 20},             /* 16 rows */
    {32, 1},  {32, 32}, {20, 4},              /* 32 rows */
    {64, 64}, {33, 2},  {128, 128}, {100, 36} /* slices of 64 rows */
};

const int64_t kTokens[] = {0, 1, 2, 7, 8, /* the narrow tiles */ 9, 33, 64, 65, 130, 257};

void shapes(bool quick) {
  Rng rng(20261122);
  int32_t activation = 0;
  int pattern = 0;
  for (const auto& block : kBlocks) {
    for (int32_t dtype : {DJLBSR_FLOAT32, DJLBSR_FLOAT16, DJLBSR_BFLOAT16}) {
      for (int64_t tokens : kTokens) {
        if (quick && tokens > 65) continue;
        const int64_t most = block[0] * block[1] >= 1024 ? 3 : quick ? 5 : 9;
        const char* name = kPatterns[pattern++ % 7];
        const Matrix m(rng, uniform(rng, 1, most), uniform(rng, 1, most), block[0], block[1], dtype,
                       name);
        check(rng, m,
              Case{tokens, uniform(rng, -1, 3), uniform(rng, 0, 3), uniform(rng, 0, 1) == 1,
                   activation++ % 5},
              name);
      }
    }
  }
}

void empty_matrices() {
  Rng rng(11);
  for (int64_t rows : {0, 3}) {
    for (int64_t cols : {0, 2}) {
      const Matrix m(rng, rows, cols, 4, 4, DJLBSR_FLOAT32, "random");
      check(rng, m, Case{5, 0, 1, true, DJLBSR_GELU}, "empty");
    }
  }
}

/*
 * The same bits alone and in a larger batch, in whatever tile of the portable kernel: x lies off 16
 * bytes, which no other kernel serves.
 */
void deterministic() {
  Rng rng(17);
  std::normal_distribution<float> normal;
  for (const auto& block : kBlocks) {
    for (int32_t dtype : {DJLBSR_FLOAT32, DJLBSR_FLOAT16}) {
      const int64_t tokens = 131;
      const Matrix m(rng, 3, 5, block[0], block[1], dtype, "random");
      Array x(dtype, tokens * m.cols + 1);
      x.fill([&] { return normal(rng); });
      const CudaPacked packed(m);
      const DeviceBytes x_memory(x);
      const auto run = [&](int64_t first, int64_t count) {
        Array y(dtype, count * m.rows);
        const DeviceBytes y_memory(y);
        djlbsr_linear_args args = {};
        args.x = static_cast<char*>(x_memory.get()) +
                 (first * m.cols + 1) * static_cast<int64_t>(x.size());
        args.y = y_memory.get();
        args.tokens = count;
        args.x_stride = m.cols;
        args.y_stride = m.rows;
        args.activation = DJLBSR_GELU;
        EXPECT(djlbsr_linear(&packed.meta, packed.bytes->get(), &args) == DJLBSR_OK, "%s",
               djlbsr_last_error());
        y_memory.read(y.data());
        return y;
      };
      const Array whole = run(0, tokens);
      for (int64_t count : {1, 8, 9, 64}) {
        const int64_t first = uniform(rng, 0, tokens - count);
        const Array part = run(first, count);
        EXPECT(std::memcmp(part.data(),
                           static_cast<const char*>(whole.data()) +
                               first * m.rows * static_cast<int64_t>(x.size()),
                           static_cast<size_t>(part.count()) * x.size()) == 0,
               "%s: %lld tokens from %lld differ from the whole batch", m.describe().c_str(),
               (long long)count, (long long)first);
      }
    }
  }
}

/* Whatever the bytes, nothing outside the buffers may be touched. */
void altered_packed_bytes() {
  Rng rng(23);
  for (const auto& block : kBlocks) {
    for (int64_t tokens : {1, 9, 70}) {
      const Matrix m(rng, 3, 5, block[0], block[1], DJLBSR_FLOAT16, "random");
      const CudaPacked packed(m);
      std::vector<char> junk(static_cast<size_t>(packed.info.packed_bytes));
      Array x(m.dtype, tokens * m.cols);
      const DeviceBytes x_memory(x);
      Array y(m.dtype, tokens * m.rows);
      const DeviceBytes y_memory(y);
      djlbsr_linear_args args = {};
      args.x = x_memory.get();
      args.y = y_memory.get();
      args.tokens = tokens;
      args.x_stride = m.cols;
      args.y_stride = m.rows;
      for (int round = 0; round < 3; ++round) {
        for (char& byte : junk) {
          byte = static_cast<char>(round == 0 ? 0x7f : round == 1 ? 0xff : uniform(rng, 0, 255));
        }
        CUDA(cudaMemcpy(packed.bytes->get(), junk.data(), junk.size(), cudaMemcpyHostToDevice));
        EXPECT(djlbsr_linear(&packed.meta, packed.bytes->get(), &args) == DJLBSR_OK, "%s",
               djlbsr_last_error());
        y_memory.read(y.data());
      }
    }
  }
}

/* Activations alone: W is the identity, x sweeps the range where they bend, and the extremes. */
void activations() {
  Rng rng(19);
  Matrix m(rng, 1, 1, 16, 16, DJLBSR_FLOAT32, "full");
  for (int64_t i = 0; i < 256; ++i) m.values.set(i, i % 17 == 0 ? 1.0f : 0.0f);
  const int64_t tokens = 4000;
  Array x(DJLBSR_FLOAT32, tokens * 16);
  for (int64_t i = 0; i < x.count(); ++i) {
    x.set(i, static_cast<float>(i - x.count() / 2) * (30.0f / static_cast<float>(x.count())));
  }
  const float extremes[] = {0.0f, -0.0f, 1e-30f, -1e-30f, 60.0f, -60.0f, 100.0f, -100.0f, 1e30f};
  for (size_t i = 0; i < std::size(extremes); ++i) x.set(static_cast<int64_t>(i), extremes[i]);
  const CudaPacked packed(m);
  const DeviceBytes x_memory(x);
  Array y(DJLBSR_FLOAT32, x.count());
  const DeviceBytes y_memory(y);
  for (int32_t activation = DJLBSR_NONE; activation <= DJLBSR_SILU; ++activation) {
    djlbsr_linear_args args = {};
    args.x = x_memory.get();
    args.y = y_memory.get();
    args.tokens = tokens;
    args.x_stride = 16;
    args.y_stride = 16;
    args.activation = activation;
    EXPECT(djlbsr_linear(&packed.meta, packed.bytes->get(), &args) == DJLBSR_OK, "%s",
           djlbsr_last_error());
    y_memory.read(y.data());
    for (int64_t i = 0; i < x.count(); ++i) {
      const double expected = activate(x.get(i), activation);
      EXPECT(std::fabs(y.get(i) - expected) <= std::ldexp(8 * std::fabs(x.get(i)), -24) + 1e-37,
             "activation %d of %.9g is %.9g, expected %.9g", activation, x.get(i), y.get(i),
             expected);
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
  activations();
  if (!quick) deterministic();
  return finish("test_cuda");
}
