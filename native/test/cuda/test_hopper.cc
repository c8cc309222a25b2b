/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
/*
 * The kernels of compute capability 9.0: against float64 between canaries, against the portable
 * kernel bit by bit on small integers, and against themselves in other batches.
 * `test_hopper quick` runs a part that compute-sanitizer gets through in a minute.
 */
#include "cuda/kernel_choice.h"
#include "device_support.h"

using namespace test;
using djlbsr::cuda::Kernel;
using djlbsr::cuda::kernel_choice;

namespace {

const int64_t kBlocks[][2] = {{64, 64},   {64, 128}, {192, 64}, /* tiles of 64 x 512 */
                              {128, 128}, {128, 64}, {256, 64} /* tiles of 128 x 256 */};

djlbsr_linear_args arguments(const Matrix& m, const void* x, void* y, int64_t tokens) {
  djlbsr_linear_args args = {};
  args.x = x;
  args.y = y;
  args.tokens = tokens;
  args.x_stride = m.cols;
  args.y_stride = m.rows;
  return args;
}

void expect_served(const CudaPacked& packed, const djlbsr_linear_args& args, bool by_hopper) {
  EXPECT((kernel_choice(packed.info, args, 90) != Kernel::kPortable) == by_hopper,
         "%lld tokens: the wrong kernel", (long long)args.tokens);
}

/* Paddings of whole 16 bytes keep the kernel; tokens on either side of its tiles. */
void shapes(bool quick) {
  Rng rng(64128);
  int32_t activation = 0;
  int pattern = 0;
  for (const auto& block : kBlocks) {
    for (int32_t dtype : {DJLBSR_FLOAT16, DJLBSR_BFLOAT16}) {
      for (int64_t tokens : {64, 65, 255, 256, 257, 513, 700}) {
        if (quick && tokens != 65) continue;
        const char* name = kPatterns[pattern++ % 7];
        const Matrix m(rng, uniform(rng, 1, 4), uniform(rng, 1, 4), block[0], block[1], dtype,
                       name);
        check(rng, m,
              Case{tokens, 8 * uniform(rng, 0, 2), 8 * uniform(rng, 0, 2), uniform(rng, 0, 1) == 1,
                   activation++ % 5},
              name);
      }
    }
  }
}

/*
 * Sums of small integers are exact in any order: both kernels must give the same bits. An x that is
 * not aligned to 16 bytes gets the portable one.
 */
void equals_portable(Rng& rng, Matrix m, int64_t tokens, int32_t activation, const char* what) {
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
  const auto run = [&](const void* x_memory, bool by_hopper, Array& y) {
    y.fill([] { return NAN; });
    const DeviceBytes y_memory(y);
    djlbsr_linear_args args = arguments(m, x_memory, y_memory.get(), tokens);
    args.bias = bias_memory.get();
    args.activation = activation;
    expect_served(packed, args, by_hopper);
    EXPECT(djlbsr_linear(&packed.meta, packed.bytes->get(), &args) == DJLBSR_OK, "%s",
           djlbsr_last_error());
    y_memory.read(y.data());
  };
  run(static_cast<char*>(unaligned.get()) + 2, false, expected);
  run(aligned.get(), true, actual);
  const auto* a = static_cast<const uint16_t*>(expected.data());
  const auto* b = static_cast<const uint16_t*>(actual.data());
  for (int64_t i = 0; i < tokens * m.rows; ++i) {
    EXPECT(a[i] == b[i], "%s, %s: token %lld row %lld is %.9g, the portable kernel gives %.9g",
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
        if (!m.col.empty()) equals_portable(rng, std::move(m), tokens, DJLBSR_NONE, name);
      }
    }
    equals_portable(rng, Matrix(rng, 90, 10, 64, 64, dtype, "random"), 1400, DJLBSR_RELU,
                    "several tiles a CTA");
    equals_portable(rng, Matrix(rng, 75, 10, 128, 64, dtype, "heavy row"), 700, DJLBSR_NONE,
                    "several tiles a CTA, skewed");
    equals_portable(rng, Matrix(rng, 20, 128, 128, 64, dtype, "random", 0.1), 2400, DJLBSR_NONE,
                    "several panels");
    equals_portable(rng, Matrix(rng, 1030, 3, 64, 64, dtype, "random"), 64, DJLBSR_NONE,
                    "more block-rows than are sorted");
    equals_portable(rng, Matrix(rng, 3, 80, 64, 64, dtype, "full"), 300, DJLBSR_NONE,
                    "more blocks in a row than lanes");
  }
}

/* The same bits in any batch that the same kernel serves. */
void deterministic() {
  Rng rng(17);
  std::normal_distribution<float> normal;
  for (const auto& block : kBlocks) {
    for (int32_t dtype : {DJLBSR_FLOAT16, DJLBSR_BFLOAT16}) {
      const int64_t tokens = 1100;
      const Matrix m(rng, 9, 7, block[0], block[1], dtype, "random", 0.5);
      Array x(dtype, tokens * m.cols);
      x.fill([&] { return normal(rng); });
      const CudaPacked packed(m);
      const DeviceBytes x_memory(x);
      const auto run = [&](int64_t first, int64_t count) {
        Array y(dtype, count * m.rows);
        const DeviceBytes y_memory(y);
        djlbsr_linear_args args = arguments(
            m, static_cast<char*>(x_memory.get()) + first * m.cols * 2, y_memory.get(), count);
        args.activation = DJLBSR_SILU;
        expect_served(packed, args, true);
        EXPECT(djlbsr_linear(&packed.meta, packed.bytes->get(), &args) == DJLBSR_OK, "%s",
               djlbsr_last_error());
        y_memory.read(y.data());
        return y;
      };
      const Array whole = run(0, tokens);
      for (int64_t count : {64, 65, 256, 700, 1100}) {
        const int64_t first = uniform(rng, 0, tokens - count);
        const Array part = run(first, count);
        EXPECT(std::memcmp(part.data(), static_cast<const char*>(whole.data()) + first * m.rows * 2,
                           static_cast<size_t>(part.count()) * 2) == 0,
               "%s: %lld tokens from %lld differ from the whole batch", m.describe().c_str(),
               (long long)count, (long long)first);
      }
    }
  }
}

/* Whatever the bytes, nothing outside the buffers may be touched and nothing may hang. */
void altered_packed_bytes() {
  Rng rng(23);
  for (const auto& block : kBlocks) {
    const int64_t tokens = 70;
    const Matrix m(rng, 3, 5, block[0], block[1], DJLBSR_FLOAT16, "full");
    const CudaPacked packed(m);
    std::vector<char> junk(static_cast<size_t>(packed.info.packed_bytes));
    const Array x(m.dtype, tokens * m.cols);
    const DeviceBytes x_memory(x);
    Array y(m.dtype, tokens * m.rows);
    const DeviceBytes y_memory(y);
    const djlbsr_linear_args args = arguments(m, x_memory.get(), y_memory.get(), tokens);
    expect_served(packed, args, true);
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

}  // namespace

int main(int argc, char** argv) {
  int major = 0;
  int minor = 0;
  if (djlbsr_cuda_device_count() > 0) {
    CUDA(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0));
    CUDA(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, 0));
  }
  if (10 * major + minor != 90) {
    std::printf("skipped: no device of compute capability 9.0\n%s", djlbsr_capabilities());
    return 77;
  }
  const bool quick = argc > 1 && std::strcmp(argv[1], "quick") == 0;
  shapes(quick);
  altered_packed_bytes();
  if (!quick) {
    integers();
    deterministic();
  }
  return finish("test_hopper");
}
