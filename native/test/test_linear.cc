/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
/* djlbsr_linear on the CPU against float64, for the ISA that DJLBSR_MAX_ISA allows. */
#include <omp.h>
#include <sys/mman.h>

#include <filesystem>
#include <initializer_list>
#include <limits>
#include <thread>
#include <utility>

#include "support.h"

using namespace test;

namespace {

struct Case {
  int64_t tokens;
  int64_t x_pad; /* x_stride - cols; -1 repeats one row (stride 0) */
  int64_t y_pad; /* y_stride - rows */
  bool bias;
  int32_t activation;
  int32_t threads;
  bool integers; /* small whole numbers, whose sums are exact */
};

/* Runs a case into NaN-poisoned memory between canaries and compares every element. */
void check(Rng& rng, Matrix& m, const Case& c, const char* pattern) {
  std::normal_distribution<float> normal;
  auto value = [&]() -> float {
    return c.integers ? static_cast<float>(uniform(rng, -4, 4)) : normal(rng);
  };
  if (c.integers) m.values.fill(value);
  const int64_t x_stride = c.x_pad < 0 ? 0 : m.cols + c.x_pad;
  const int64_t y_stride = m.rows + c.y_pad;
  Array x(m.dtype, c.tokens * (m.cols + std::max<int64_t>(c.x_pad, 0)));
  /* Between the rows of x lie NaNs, which must not be read into any sum. */
  for (int64_t i = 0; i < x.count(); ++i) {
    const bool inside = x_stride == 0 || i % x_stride < m.cols;
    x.set(i, inside ? value() : NAN);
  }
  Array bias(m.dtype, m.rows);
  bias.fill(value);
  Array y(m.dtype, c.tokens * y_stride + 64);
  for (int64_t i = 0; i < y.count(); ++i) y.set(i, NAN);
  for (int64_t i = c.tokens * y_stride; i < y.count(); ++i) y.set(i, kCanary);
  for (int64_t t = 0; t < c.tokens; ++t) {
    for (int64_t r = m.rows; r < y_stride; ++r) y.set(t * y_stride + r, kCanary);
  }

  Packed packed(m);
  djlbsr_linear_args args = {};
  args.x = x.data();
  args.bias = c.bias ? bias.data() : nullptr;
  args.y = y.data();
  args.tokens = c.tokens;
  args.x_stride = x_stride;
  args.y_stride = y_stride;
  args.activation = c.activation;
  args.threads = c.threads;
  EXPECT(djlbsr_linear(&packed.meta, packed.bytes, &args) == DJLBSR_OK, "%s", djlbsr_last_error());

  const Reference ref = reference(m, x, x_stride, c.tokens, c.bias ? &bias : nullptr);
  for (int64_t i = 0; i < c.tokens * y_stride + 64; ++i) {
    const int64_t t = i / y_stride;
    const int64_t r = i % y_stride;
    const float actual = y.get(i);
    if (t >= c.tokens || r >= m.rows) {
      Array canary(m.dtype, 1);
      canary.set(0, kCanary);
      EXPECT(actual == canary.get(0), "%s: wrote outside y at %lld", m.describe().c_str(),
             (long long)i);
      continue;
    }
    const size_t at = static_cast<size_t>(t * m.rows + r);
    const double expected = activate(ref.z[at], c.activation);
    const bool exact = c.integers && c.activation <= DJLBSR_RELU && m.dtype == DJLBSR_FLOAT32;
    const double bound =
        exact ? 0
              : error_bound(ref.z[at], ref.magnitude[at], ref.terms[static_cast<size_t>(r)],
                            c.activation, m.dtype);
    EXPECT(std::fabs(actual - expected) <= bound,
           "%s %s tokens %lld activation %d bias %d threads %d: token %lld row %lld block-row %lld "
           "is %.9g, expected %.9g, off by %.3g, allowed %.3g",
           m.describe().c_str(), pattern, (long long)c.tokens, c.activation, c.bias, c.threads,
           (long long)t, (long long)r, (long long)(r / m.block_rows), actual, expected,
           std::fabs(actual - expected), bound);
  }
}

/* Block shapes whose comments say which code they reach (AVX2 / AVX-512). */
const int64_t kBlocks[][2] = {
    {1, 16},  {1, 32},   {1, 4},           /* one row, columns in fours */
    {1, 1},   {1, 7},                      /* one row, one chain */
    {2, 3},   {3, 5},    {5, 7},           /* narrow tiles and their rest */
    {4, 4},   {8, 8},                      /* a quarter, half and a whole vector of rows */
    {16, 1},  {32, 1},                     /* one column: many blocks to a strip */
    {16, 16}, {16, 64},                    /* one AVX-512 vector of rows, two of AVX2 */
    {32, 32}, {20, 4},   {33, 2}, {52, 3}, /* two to four vectors, partial last vectors */
    {48, 34}, {48, 48},                    /* an odd number of strips; AMX with 24 columns a tile */
    {64, 64}, {128, 128}};

/* The sizes of tiles and panels, one less and one more; 0 does nothing. */
const int64_t kTokens[] = {0, 1, 2, 3, 4, 5, 7, 8, 9, 14, 15, 16, 24, 31, 33, 64, 65, 130, 257};

void random_cases(uint64_t seed, int rounds) {
  Rng rng(seed);
  for (int round = 0; round < rounds; ++round) {
    for (const auto& block : kBlocks) {
      const char* pattern = kPatterns[uniform(rng, 0, 6)];
      const int64_t most = block[0] >= 64 ? 3 : 9;
      Matrix m(rng, uniform(rng, 1, most), uniform(rng, 1, most), block[0], block[1],
               static_cast<int32_t>(uniform(rng, 0, 2)), pattern);
      Case c = {};
      c.tokens = kTokens[uniform(rng, 0, block[0] >= 64 ? 14 : 18)];
      c.x_pad = uniform(rng, -1, 3);
      c.y_pad = uniform(rng, 0, 3);
      c.bias = uniform(rng, 0, 1) == 1;
      c.activation = static_cast<int32_t>(uniform(rng, 0, 4));
      c.threads = static_cast<int32_t>(uniform(rng, 0, 3));
      c.integers = uniform(rng, 0, 3) == 0;
      check(rng, m, c, pattern);
    }
  }
}

/* Every block shape with every token count, in every dtype, at least once. */
void all_shapes() {
  Rng rng(7);
  int32_t dtype = 0;
  for (const auto& block : kBlocks) {
    for (int64_t tokens : kTokens) {
      if (block[0] * block[1] > 4096 && tokens > 70) continue;
      Matrix m(rng, 3, 4, block[0], block[1], dtype, "random");
      check(rng, m, Case{tokens, 0, 0, true, DJLBSR_NONE, 2, false}, "random");
      dtype = (dtype + 1) % 3;
    }
  }
}

/* So many columns that a panel of x has few tokens: 16, 8 or 4 a tile. */
void many_columns() {
  Rng rng(43);
  for (int64_t cols : {16000, 40000, 80000}) {
    for (const auto& block : {std::pair{4, 4}, {16, 4}, {32, 4}, {1, 4}, {1, 5}}) {
      for (int32_t dtype : {DJLBSR_FLOAT32, DJLBSR_FLOAT16}) {
        for (int64_t tokens : {1, 2, 3, 7, 11, 15, 17, 35}) {
          Matrix m(rng, 2, cols / block.second, block.first, block.second, dtype, "random", 0.002);
          check(rng, m, Case{tokens, 0, 0, true, DJLBSR_NONE, 1, false}, "many columns");
        }
      }
    }
  }
}

/* The dimensions that may be 0. */
void empty_matrices() {
  Rng rng(11);
  for (int64_t rows : {0, 3}) {
    for (int64_t cols : {0, 2}) {
      for (int64_t block_rows : {1, 4, 16}) {
        for (int64_t tokens : {1, 5, 64}) {
          Matrix m(rng, rows, cols, block_rows, 4, DJLBSR_FLOAT32, "random");
          /* In a thread of its own, which has no scratch memory from earlier calls. */
          std::thread([&] {
            check(rng, m, Case{tokens, 0, 1, true, DJLBSR_GELU, 1, false}, "empty");
          }).join();
        }
      }
    }
  }
}

/* x outside the stored columns is ignored; stored zeros are not. */
void non_finite_input() {
  Rng rng(13);
  for (int64_t block_rows : {1, 4, 16, 32}) {
    for (int64_t tokens : {1, 40, 130}) {
      Matrix m(rng, 2, 8, block_rows, 4, DJLBSR_FLOAT32, "none");
      m.crow = {0, 1, 2};
      m.col = {2, 5};
      m.values = Array(DJLBSR_FLOAT32, 2 * block_rows * 4);
      m.values.fill([] { return 1.0f; });
      for (int64_t i = 0; i < block_rows * 4; ++i) m.values.set(block_rows * 4 + i, 0.0f);
      Array x(DJLBSR_FLOAT32, tokens * m.cols);
      for (int64_t i = 0; i < x.count(); ++i) {
        const int64_t block_col = i % m.cols / 4;
        x.set(i, block_col == 2 ? 1.0f : block_col == 5 ? INFINITY : NAN);
      }
      Array y(DJLBSR_FLOAT32, tokens * m.rows);
      Packed packed(m);
      djlbsr_linear_args args = {};
      args.x = x.data();
      args.y = y.data();
      args.tokens = tokens;
      args.x_stride = m.cols;
      args.y_stride = m.rows;
      EXPECT(djlbsr_linear(&packed.meta, packed.bytes, &args) == DJLBSR_OK, "%s",
             djlbsr_last_error());
      for (int64_t i = 0; i < y.count(); ++i) {
        const bool first = i % m.rows < block_rows;
        EXPECT(first ? y.get(i) == 4.0f : std::isnan(y.get(i)),
               "block_rows %lld tokens %lld: element %lld is %g", (long long)block_rows,
               (long long)tokens, (long long)i, y.get(i));
      }
    }
  }
}

/* The same bits alone, in a larger batch, and for any number of threads. */
void same_bits(Rng& rng, const Matrix& m, int64_t tokens, int32_t threads) {
  std::normal_distribution<float> normal;
  Array x(m.dtype, tokens * m.cols);
  x.fill([&] { return normal(rng); });
  Array whole(m.dtype, tokens * m.rows);
  Packed packed(m);
  djlbsr_linear_args args = {};
  args.x = x.data();
  args.y = whole.data();
  args.tokens = tokens;
  args.x_stride = m.cols;
  args.y_stride = m.rows;
  args.activation = DJLBSR_GELU;
  args.threads = 1;
  EXPECT(djlbsr_linear(&packed.meta, packed.bytes, &args) == DJLBSR_OK, "%s", djlbsr_last_error());
  for (int64_t count : {int64_t{1}, int64_t{2}, int64_t{5}, int64_t{64}, tokens}) {
    const int64_t first = uniform(rng, 0, tokens - count);
    Array part(m.dtype, count * m.rows);
    args.x = static_cast<char*>(x.data()) + first * m.cols * static_cast<int64_t>(x.size());
    args.y = part.data();
    args.tokens = count;
    args.threads = static_cast<int32_t>(uniform(rng, 2, threads));
    EXPECT(djlbsr_linear(&packed.meta, packed.bytes, &args) == DJLBSR_OK, "%s",
           djlbsr_last_error());
    EXPECT(std::memcmp(
               part.data(),
               static_cast<char*>(whole.data()) + first * m.rows * static_cast<int64_t>(x.size()),
               static_cast<size_t>(part.count()) * x.size()) == 0,
           "%s: %lld tokens from %lld with %d threads differ from the whole batch",
           m.describe().c_str(), (long long)count, (long long)first, args.threads);
  }
}

void deterministic() {
  Rng rng(17);
  for (const auto& block : kBlocks) {
    for (int32_t dtype : {DJLBSR_FLOAT32, DJLBSR_FLOAT16, DJLBSR_BFLOAT16}) {
      /* Large enough to be worth a second thread. */
      const Matrix m(rng, 512 / block[0], 512 / block[1], block[0], block[1], dtype,
                     kPatterns[uniform(rng, 0, 3)]);
      same_bits(rng, m, 131, 4);
    }
  }
}

/* Rows of so many blocks, and so many columns, that tiles take turns at groups of blocks and
   threads share more copies of x than fit at once. */
void wide_rows() {
  Rng rng(47);
  const int threads = omp_get_max_threads();
  omp_set_num_threads(16);
  for (const auto& block :
       {std::pair{1, 16}, {4, 4}, {8, 8}, {16, 16}, {20, 4}, {32, 32}, {48, 16}, {64, 64}}) {
    for (int32_t dtype : {DJLBSR_FLOAT32, DJLBSR_FLOAT16}) {
      for (int64_t tokens : {30, 150}) {
        Matrix m(rng, 64 / block.first + 1, 8192 / block.second, block.first, block.second, dtype,
                 "random", 0.6);
        check(rng, m, Case{tokens, 0, 0, true, DJLBSR_NONE, 16, false}, "wide rows");
        if (tokens > 64) same_bits(rng, m, tokens, 16);
      }
    }
  }
  /* Columns few enough for many tiles a task, and a weight that no cache is taken to hold. */
  for (const auto& block : {std::pair{20, 4}, {48, 16}, {64, 64}, {128, 64}}) {
    Matrix m(rng, 192 / block.first + 1, 2048 / block.second, block.first, block.second,
             DJLBSR_FLOAT32, "full", 1);
    check(rng, m, Case{150, 0, 0, true, DJLBSR_NONE, 1, false}, "tasks of many tiles");
    same_bits(rng, m, 150, 16);
  }
  Matrix large(rng, 26, 256, 32, 32, DJLBSR_FLOAT32, "random", 0.6);
  check(rng, large, Case{70, 0, 0, true, DJLBSR_NONE, 2, false}, "a large weight");
  same_bits(rng, large, 70, 16);
  omp_set_num_threads(threads);
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
  for (size_t i = 0; i < sizeof(extremes) / sizeof(float); ++i) {
    x.set(static_cast<int64_t>(i), extremes[i]);
  }
  Array y(DJLBSR_FLOAT32, x.count());
  Packed packed(m);
  for (int32_t activation = DJLBSR_NONE; activation <= DJLBSR_SILU; ++activation) {
    djlbsr_linear_args args = {};
    args.x = x.data();
    args.y = y.data();
    args.tokens = tokens;
    args.x_stride = 16;
    args.y_stride = 16;
    args.activation = activation;
    EXPECT(djlbsr_linear(&packed.meta, packed.bytes, &args) == DJLBSR_OK, "%s",
           djlbsr_last_error());
    double worst = 0;
    for (int64_t i = 0; i < x.count(); ++i) {
      const double expected = activate(x.get(i), activation);
      const double off = std::fabs(y.get(i) - expected);
      worst = std::max(worst, off / (std::fabs(x.get(i)) + 1e-30));
      EXPECT(off <= std::ldexp(8 * std::fabs(x.get(i)), -24) + 1e-37,
             "activation %d of %.9g is %.9g, expected %.9g", activation, x.get(i), y.get(i),
             expected);
    }
    std::printf("activation %d: largest error %.2f units of |z| * 2^-24\n", activation,
                std::ldexp(worst, 24));
  }
}

/* Rows further apart than 32 bits can count: the memory between them is never touched. */
void wide_strides() {
  Rng rng(31);
  Matrix m(rng, 2, 2, 4, 4, DJLBSR_FLOAT32, "full");
  const int64_t stride = (int64_t{1} << 32) + 12;
  const size_t bytes = static_cast<size_t>(stride + 64) * 4;
  float* memory = static_cast<float*>(mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
  if (memory == MAP_FAILED) {
    std::printf("no %zu bytes of address space: wide strides not tested\n", bytes);
    return;
  }
  float x[16];
  for (float& value : x) value = static_cast<float>(uniform(rng, -4, 4));
  Packed packed(m);
  djlbsr_linear_args args = {};
  args.x = x;
  args.y = memory;
  args.tokens = 2;
  args.x_stride = 8;
  args.y_stride = stride;
  EXPECT(djlbsr_linear(&packed.meta, packed.bytes, &args) == DJLBSR_OK, "%s", djlbsr_last_error());
  std::vector<float> near(16);
  args.y = near.data();
  args.y_stride = 8;
  EXPECT(djlbsr_linear(&packed.meta, packed.bytes, &args) == DJLBSR_OK, "%s", djlbsr_last_error());
  EXPECT(std::memcmp(memory, near.data(), 32) == 0 &&
             std::memcmp(memory + stride, near.data() + 8, 32) == 0,
         "rows %lld elements apart differ from adjacent ones", (long long)stride);
  munmap(memory, bytes);
}

/* NaN and the infinities through every activation. */
void non_finite_activations() {
  Rng rng(37);
  Matrix m(rng, 1, 1, 16, 1, DJLBSR_FLOAT32, "full");
  m.values.fill([] { return 1.0f; });
  const float x[] = {NAN, INFINITY};
  for (int32_t activation = DJLBSR_NONE; activation <= DJLBSR_SILU; ++activation) {
    Array y(DJLBSR_FLOAT32, 32);
    Packed packed(m);
    djlbsr_linear_args args = {};
    args.x = x;
    args.y = y.data();
    args.tokens = 2;
    args.x_stride = 1;
    args.y_stride = 16;
    args.activation = activation;
    EXPECT(djlbsr_linear(&packed.meta, packed.bytes, &args) == DJLBSR_OK, "%s",
           djlbsr_last_error());
    for (int64_t i = 0; i < 16; ++i) {
      EXPECT(std::isnan(y.get(i)), "activation %d of NaN is %g", activation, y.get(i));
      EXPECT(y.get(16 + i) == INFINITY, "activation %d of Inf is %g", activation, y.get(16 + i));
    }
  }
}

int threads_of_this_process() {
  int count = 0;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/task")) {
    (void)entry;
    ++count;
  }
  return count;
}

/* `threads` is obeyed, and a number that no machine has does no harm. */
void thread_counts() {
  /* LLVM's OpenMP, which comes with tools (tsan.sh), has threads of its own. */
  if (omp_get_num_procs() < 2 || !std::filesystem::exists("/proc/self/task") ||
      std::getenv("OMP_TOOL_LIBRARIES") != nullptr) {
    std::printf("one processor, no /proc or LLVM's OpenMP: thread counts not tested\n");
    return;
  }
  Rng rng(41);
  Matrix m(rng, 32, 32, 32, 32, DJLBSR_FLOAT32, "full");
  Packed packed(m);
  Array x(DJLBSR_FLOAT32, 64 * m.cols), y(DJLBSR_FLOAT32, 64 * m.rows);
  x.fill([] { return 1.0f; });
  djlbsr_linear_args args = {};
  args.x = x.data();
  args.y = y.data();
  args.tokens = 64;
  args.x_stride = m.cols;
  args.y_stride = m.rows;
  const int before = threads_of_this_process();
  for (const auto& [threads, most] : {std::pair{1, before}, {2, before + 1}}) {
    args.threads = threads;
    EXPECT(djlbsr_linear(&packed.meta, packed.bytes, &args) == DJLBSR_OK, "%s",
           djlbsr_last_error());
    EXPECT(threads_of_this_process() == most, "%d threads asked for, %d run beside the first",
           threads, threads_of_this_process() - before);
  }
  args.threads = std::numeric_limits<int32_t>::max();
  EXPECT(djlbsr_linear(&packed.meta, packed.bytes, &args) == DJLBSR_OK, "%s", djlbsr_last_error());
}

}  // namespace

int main() {
  skip_without_isa();
  thread_counts(); /* first, while this process has one thread */
  all_shapes();
  random_cases(20261122, 12);
  many_columns();
  empty_matrices();
  non_finite_input();
  deterministic();
  wide_rows();
  activations();
  non_finite_activations();
  wide_strides();
  return finish("test_linear");
}
