/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
/*
 * The fp32 kernels of compute capability 9.0: per element against float64 within the bound of plain
 * fp32, as a whole against the portable kernel's error, bit by bit where sums are exact, and with
 * numbers that do not split. Then updates and batches. `test_hopper_fp32 quick` is a part for
 * compute-sanitizer.
 */
#include "fp32_support.h"

using namespace test;

namespace {

/* Tile rows 64, 32 and 16, pieces of 32 and of 16 columns. */
const int64_t kBlocks[][2] = {{64, 64}, {64, 32}, {128, 96}, {64, 16}, {64, 48},
                              {32, 32}, {96, 64}, {32, 16},  {32, 80}, {16, 32},
                              {48, 64}, {16, 16}, {16, 112}, {80, 48}};

/* Paddings of whole 16 bytes keep the kernel; tokens on either side of its tiles. */
void shapes(bool quick) {
  Rng rng(3264);
  int32_t activation = 0;
  int pattern = 0;
  for (const auto& block : kBlocks) {
    for (int64_t tokens : {64, 65, 129, 256, 400, 513, 769}) {
      if (quick && tokens != 65 && tokens != 513) continue;
      const char* name = kPatterns[pattern++ % 7];
      Matrix m(rng, uniform(rng, 1, 4), uniform(rng, 1, 4), block[0], block[1], DJLBSR_FLOAT32,
               name);
      check(rng, m,
            Case{tokens, 4 * uniform(rng, 0, 2), 4 * uniform(rng, 0, 2), uniform(rng, 0, 1) == 1,
                 activation++ % 5},
            name);
    }
  }
}

/*
 * Sums of integers below 2^24 are exact in any order. Integers of 15 bits do not fit into one tf32,
 * so all three products count.
 */
void integers() {
  Rng rng(471);
  const auto range = [&](int64_t limit) {
    return [&rng, limit] { return static_cast<float>(uniform(rng, -limit, limit)); };
  };
  const auto equal = [&](Matrix m, int64_t tokens, const char* what) {
    if (m.col.empty()) return;
    for (const auto& limits : {std::pair{16384, 2}, std::pair{2, 16384}, std::pair{300, 50}}) {
      m.values.fill(range(limits.first));
      const Array x = filled(tokens * m.cols, range(limits.second));
      const Product product(m, x);
      expect_same_bits(m, product.run(true, DJLBSR_RELU), product.run(false, DJLBSR_RELU), what);
    }
  };
  for (const auto& block : kBlocks) {
    for (int64_t tokens : {100, 300, 600}) {
      const char* name = kPatterns[uniform(rng, 0, 6)];
      equal(Matrix(rng, 7, 4, block[0], block[1], DJLBSR_FLOAT32, name, 0.5), tokens, name);
    }
  }
  equal(Matrix(rng, 90, 8, 64, 32, DJLBSR_FLOAT32, "random"), 1100, "several tiles a CTA");
  equal(Matrix(rng, 75, 16, 16, 16, DJLBSR_FLOAT32, "heavy row"), 1300, "skewed");
  equal(Matrix(rng, 6, 256, 64, 64, DJLBSR_FLOAT32, "random", 0.04), 700, "several panels");
  equal(Matrix(rng, 1030, 3, 16, 32, DJLBSR_FLOAT32, "random"), 64,
        "more block-rows than have lengths in shared memory");
  equal(Matrix(rng, 3, 31, 16, 16, DJLBSR_FLOAT32, "full"), 300, "an odd number of pieces");
  equal(Matrix(rng, 3, 40, 32, 16, DJLBSR_FLOAT32, "random", 0.95), 300,
        "more blocks in a row than lanes");
}

/* Greatest and root-mean-square error in units of the root mean square of the exact results. */
struct Error {
  double greatest = 0;
  double rms = 0;
};

Error error_of(const Array& y, const Reference& ref) {
  Error error;
  double sum = 0;
  double norm = 0;
  for (int64_t i = 0; i < y.count(); ++i) {
    const double expected = ref.z[static_cast<size_t>(i)];
    const double difference = y.get(i) - expected;
    error.greatest = std::max(error.greatest, std::fabs(difference));
    sum += difference * difference;
    norm += expected * expected;
  }
  const double scale = std::sqrt(norm / static_cast<double>(y.count()));
  return {error.greatest / scale, std::sqrt(sum / static_cast<double>(y.count())) / scale};
}

/* No less accurate than a chain of IEEE operations, whatever the length and the signs. */
void accuracy() {
  Rng rng(5);
  std::normal_distribution<float> normal;
  std::lognormal_distribution<float> wide(0, 4);
  const std::pair<const char*, std::function<float()>> data[] = {
      {"normal", [&] { return normal(rng); }},
      {"positive", [&] { return std::fabs(normal(rng)); }},
      {"wide", [&] { return uniform(rng, 0, 1) == 1 ? wide(rng) : -wide(rng); }}};
  for (const auto& [name, value] : data) {
    for (int64_t blocks : {1, 4, 16, 64}) {
      Matrix m(rng, 2, blocks, 64, 32, DJLBSR_FLOAT32, "full");
      m.values.fill(value);
      const Array x = filled(200 * m.cols, value);
      const Product product(m, x);
      const Reference ref = reference(m, x, m.cols, 200, nullptr);
      const Error own = error_of(product.run(true), ref);
      const Error plain = error_of(product.run(false), ref);
      std::printf("%-9s %5lld columns: error rms %.2e greatest %.2e; a chain of fmaf %.2e %.2e\n",
                  name, (long long)m.cols, own.rms, own.greatest, plain.rms, plain.greatest);
      /* Where one product makes up the sum, cutting off loses a unit, rounding half of one. */
      const double allowed = std::strcmp(name, "wide") == 0 ? 2.0 : 1.0;
      EXPECT(own.rms <= allowed * plain.rms, "%s, %lld columns", name, (long long)m.cols);
      EXPECT(own.greatest <= allowed * plain.greatest, "%s, %lld columns", name, (long long)m.cols);
    }
  }
}

/* Where a sum is not finite, the result is the portable kernel's; elsewhere it is as accurate. */
void special_values() {
  Rng rng(99);
  std::normal_distribution<float> normal;
  const float specials[] = {INFINITY,
                            -INFINITY,
                            from_bits(0x7fffffff), /* NaN, as CUDA makes it */
                            from_bits(0x7fc00000),
                            from_bits(0x7f800001), /* NaN that would be cut to infinity */
                            from_bits(0xffffffff),
                            3.4028234e38f,
                            -3.4028234e38f,
                            3.39e38f,
                            1e-45f,
                            -1e-40f,
                            1.1754943e-38f,
                            0.0f,
                            -0.0f};
  for (const auto& block : {std::pair{64, 32}, std::pair{16, 16}}) {
    for (bool in_weight : {false, true}) {
      for (float special : specials) {
        const int64_t tokens = in_weight ? 200 : 520;
        Matrix m(rng, 3, 3, block.first, block.second, DJLBSR_FLOAT32, "full");
        Array x = filled(tokens * m.cols, [&] { return normal(rng); });
        Array& place = in_weight ? m.values : x;
        for (int i = 0; i < 5; ++i) place.set(uniform(rng, 0, place.count() - 1), special);
        if (!in_weight) m.values.set(0, 0.0f); /* 0 * infinity */
        const Product product(m, x);
        const Array expected = product.run(false);
        const Array actual = product.run(true);
        const Reference ref = reference(m, x, m.cols, tokens, nullptr);
        for (int64_t i = 0; i < expected.count(); ++i) {
          const float a = actual.get(i);
          const float b = expected.get(i);
          const double bound =
              error_bound(ref.z[i], ref.magnitude[i], m.cols + 1, DJLBSR_NONE, DJLBSR_FLOAT32);
          const bool right = std::isnan(b)   ? std::isnan(a)
                             : std::isinf(b) ? a == b
                                             : std::fabs(a - ref.z[i]) <= bound;
          EXPECT(right, "%s, %.9g in %s: token %lld row %lld is %.9g, portable %.9g",
                 m.describe().c_str(), special, in_weight ? "the weight" : "x",
                 (long long)(i / m.rows), (long long)(i % m.rows), a, b);
        }
      }
    }
  }
}

/* Products of tiny and huge numbers: what is below 2^-134 is all that may be lost. */
void denormals() {
  Rng rng(77);
  std::normal_distribution<float> normal;
  for (int exponent : {-145, -135, -126, -120, -110}) {
    Matrix m(rng, 2, 4, 64, 32, DJLBSR_FLOAT32, "full");
    m.values.fill([&] { return std::ldexp(normal(rng), 100); });
    const Array x = filled(100 * m.cols, [&] { return std::ldexp(normal(rng), exponent); });
    const Product product(m, x);
    const Array y = product.run(true);
    const Reference ref = reference(m, x, m.cols, 100, nullptr);
    double worst = 0;
    for (int64_t i = 0; i < y.count(); ++i) {
      const auto row = static_cast<int64_t>(i % m.rows);
      double weight = 0;
      for (int64_t block = 0; block < 4; ++block) {
        for (int64_t k = 0; k < 32; ++k) {
          const int64_t at = (row / 64 * 4 + block) * 64 + row % 64;
          weight += std::fabs(m.values.get(at * 32 + k));
        }
      }
      const double bound =
          error_bound(ref.z[i], ref.magnitude[i], m.cols + 1, DJLBSR_NONE, DJLBSR_FLOAT32) +
          std::ldexp(weight, -134);
      const double error = std::fabs(y.get(i) - ref.z[i]);
      worst = std::max(worst, error / ref.magnitude[i]);
      EXPECT(error <= bound, "x of 2^%d: token %lld row %lld is %.9g, expected %.9g, allowed %.3g",
             exponent, (long long)(i / m.rows), (long long)row, y.get(i), ref.z[i], bound);
    }
    std::printf("x of 2^%d: error %.2e of the sum of magnitudes\n", exponent, worst);
  }
}

/* Updated values are split anew. */
void updates() {
  Rng rng(31);
  std::normal_distribution<float> normal;
  for (const auto& block : kBlocks) {
    Matrix m(rng, 5, 5, block[0], block[1], DJLBSR_FLOAT32, "random", 0.5);
    if (m.col.empty()) continue;
    const CudaPacked packed(m);
    m.values.fill([&] { return normal(rng); });
    const CudaPacked expected(m);
    const DeviceBytes values(m.values);
    EXPECT(
        djlbsr_update_values(&packed.meta, packed.bytes->get(), values.get(), nullptr) == DJLBSR_OK,
        "%s", djlbsr_last_error());
    std::vector<char> a(static_cast<size_t>(packed.info.packed_bytes));
    std::vector<char> b(a.size());
    packed.bytes->read(a.data());
    expected.bytes->read(b.data());
    EXPECT(a == b, "%s: an update differs from packing anew", m.describe().c_str());
  }
}

/* The same bits in any batch that these kernels serve, whatever the tile. */
void deterministic() {
  Rng rng(17);
  std::normal_distribution<float> normal;
  for (const auto& block : kBlocks) {
    const int64_t tokens = 700;
    const Matrix m(rng, 9, 7, block[0], block[1], DJLBSR_FLOAT32, "random", 0.5);
    const Array x = filled(tokens * m.cols, [&] { return normal(rng); });
    const Product product(m, x);
    const Array whole = product.run(true, DJLBSR_SILU);
    for (int64_t count : {64, 65, 256, 500, 700}) {
      const int64_t first = uniform(rng, 0, tokens - count);
      const Array part = product.run(true, DJLBSR_SILU, first, count);
      EXPECT(std::memcmp(part.data(), static_cast<const char*>(whole.data()) + first * m.rows * 4,
                         static_cast<size_t>(part.count()) * 4) == 0,
             "%s: %lld tokens from %lld differ from the whole batch", m.describe().c_str(),
             (long long)count, (long long)first);
    }
  }
}

/* Two terms of each operand, on request alone: better than TF32. */
void allowed_tf32() {
  Rng rng(11);
  std::normal_distribution<float> normal;
  EXPECT(djlbsr_allow_tf32() == 0, "TF32 is allowed before anyone asked for it");
  for (const auto& block : kBlocks) {
    const Matrix m(rng, 3, 5, block[0], block[1], DJLBSR_FLOAT32, "random", 0.6);
    if (m.col.empty()) continue;
    const int64_t tokens = uniform(rng, 0, 1) == 1 ? 300 : 600;
    Array x = filled(tokens * m.cols, [&] { return normal(rng); });
    const Product product(m, x);
    const Array before = product.run(true);
    djlbsr_set_allow_tf32(1);
    const Array rounded = product.run(true);
    djlbsr_set_allow_tf32(0);
    expect_same_bits(m, product.run(true), before, "TF32 off again");
    const Reference ref = reference(m, x, m.cols, tokens, nullptr);
    double greatest = 0;
    for (int64_t i = 0; i < rounded.count(); ++i) {
      const double bound = error_bound(ref.z[i], ref.magnitude[i], ref.terms[i % m.rows],
                                       DJLBSR_NONE, DJLBSR_FLOAT32) +
                           ref.magnitude[i] * std::ldexp(1.01, -15);
      const double error = std::fabs(rounded.get(i) - ref.z[i]);
      if (ref.magnitude[i] > 0) greatest = std::max(greatest, error / ref.magnitude[i]);
      EXPECT(error <= bound, "%s TF32: token %lld row %lld is %.9g, expected %.9g, allowed %.3g",
             m.describe().c_str(), (long long)(i / m.rows), (long long)(i % m.rows), rounded.get(i),
             ref.z[i], bound);
    }
    EXPECT(greatest > std::ldexp(1.0, -22), "%s: TF32 was not used", m.describe().c_str());
    for (float special : {INFINITY, from_bits(0x7fffffff), 3.4028234e38f}) {
      x.set(uniform(rng, 0, x.count() - 1), special);
    }
    const Product with_specials(m, x);
    const Array expected = with_specials.run(false);
    djlbsr_set_allow_tf32(1);
    const Array actual = with_specials.run(true);
    djlbsr_set_allow_tf32(0);
    for (int64_t i = 0; i < expected.count(); ++i) {
      const float a = actual.get(i);
      const float b = expected.get(i);
      EXPECT(std::isfinite(b) ? std::isfinite(a)
             : std::isnan(b)  ? std::isnan(a)
                              : a == b,
             "%s TF32: token %lld row %lld is %.9g, portable %.9g", m.describe().c_str(),
             (long long)(i / m.rows), (long long)(i % m.rows), a, b);
    }
  }
}

/* Whatever the bytes, nothing outside the buffers may be touched and nothing may hang. */
void altered_packed_bytes() {
  Rng rng(23);
  for (const auto& block : kBlocks) {
    const int64_t tokens = 70;
    const Matrix m(rng, 3, 5, block[0], block[1], DJLBSR_FLOAT32, "full");
    const CudaPacked packed(m);
    std::vector<char> junk(static_cast<size_t>(packed.info.packed_bytes));
    const Array x(m.dtype, tokens * m.cols);
    const DeviceBytes x_memory(x);
    Array y(m.dtype, tokens * m.rows);
    const DeviceBytes y_memory(y);
    const djlbsr_linear_args args = arguments(m, x_memory.get(), y_memory.get(), tokens);
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
  if (compute_capability() != 90) {
    std::printf("skipped: no device of compute capability 9.0\n%s", djlbsr_capabilities());
    return 77;
  }
  const bool quick = argc > 1 && std::strcmp(argv[1], "quick") == 0;
  shapes(quick);
  altered_packed_bytes();
  if (!quick) {
    integers();
    accuracy();
    special_values();
    denormals();
    updates();
    deterministic();
    allowed_tf32();
  }
  return finish("test_hopper_fp32");
}
