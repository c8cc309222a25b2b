/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
/*
 * Measures djlbsr_linear on the CPU over a grid of weights, beside what the machine can do (FMA
 * peak, memory bandwidth) and what others reach (a dense sgemm, LIBXSMM), and writes JSON.
 * Values, x and patterns are random; every kind of result is compared before it is timed.
 */
#include <omp.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <map>
#include <random>
#include <sstream>
#include <stdexcept>

#include "djlbsr.h"
#include "machine.h"
#include "peers.h"
#include "timing.h"

namespace {

using bench::Times;

struct Options {
  std::string out = "cpu_bench.json";
  std::string blocks = "4x4,8x8,16x16,32x32,64x64,16x1,1x16,32x1";
  std::string sparsities = "0.5,0.7,0.8,0.875,0.9,0.95";
  std::string tokens = "1,8,64,512,4096";
  std::string shapes = "384x1536,768x3072,3072x768,4096x4096";
  std::string dense;
  std::string libxsmm;
  double seconds = 0.02;
  double budget = 1e9;
  int threads = omp_get_max_threads();
};

const char kHelp[] =
    "cpu_bench [--option value]...\n"
    "  --shapes, --blocks   such as 4096x4096,384x1536: rows x columns\n"
    "  --sparsities         such as 0.5,0.875\n"
    "  --tokens             such as 1,64\n"
    "  --threads N          the default is OpenMP's; with 1, times are this thread's CPU time\n"
    "  --seconds S          time for each measurement\n"
    "  --budget S           after so many seconds nothing more is measured\n"
    "  --dense LIBRARY      a shared library with sgemm_: OpenBLAS, MKL or libtorch_cpu.so\n"
    "  --libxsmm LIBRARY    LIBXSMM 1.17 as a shared library\n"
    "  --out FILE           the results, JSON\n";

Options parse(int argc, char** argv) {
  Options options;
  const std::map<std::string, std::string*> texts = {
      {"--out", &options.out},         {"--blocks", &options.blocks},
      {"--shapes", &options.shapes},   {"--sparsities", &options.sparsities},
      {"--tokens", &options.tokens},   {"--dense", &options.dense},
      {"--libxsmm", &options.libxsmm},
  };
  for (int i = 1; i < argc; i += 2) {
    const std::string name = argv[i];
    const char* value = i + 1 < argc ? argv[i + 1] : nullptr;
    if (value != nullptr && texts.count(name) != 0) {
      *texts.at(name) = value;
    } else if (value != nullptr && name == "--threads" && std::atoi(value) > 0) {
      options.threads = std::atoi(value);
    } else if (value != nullptr && name == "--seconds" && std::atof(value) > 0) {
      options.seconds = std::atof(value);
    } else if (value != nullptr && name == "--budget" && std::atof(value) > 0) {
      options.budget = std::atof(value);
    } else {
      std::fputs(kHelp, name == "--help" ? stdout : stderr);
      std::exit(name == "--help" ? 0 : 2);
    }
  }
  return options;
}

std::vector<std::string> split(const std::string& text) {
  std::vector<std::string> parts;
  std::istringstream in(text);
  for (std::string part; std::getline(in, part, ',');) parts.push_back(part);
  return parts;
}

std::pair<int64_t, int64_t> pair_of(const std::string& text) {
  long long a = 0;
  long long b = 0;
  if (std::sscanf(text.c_str(), "%lldx%lld", &a, &b) != 2 || a < 1 || b < 1) {
    throw std::invalid_argument("'" + text + "' is no pair of sizes such as 32x32");
  }
  return {a, b};
}

struct Free {
  void operator()(void* p) const { std::free(p); }
};
using Bytes = std::unique_ptr<char, Free>;

Bytes aligned(size_t bytes) {
  return Bytes(static_cast<char*>(std::aligned_alloc(64, (bytes + 63) / 64 * 64)));
}

std::vector<float> random_floats(std::mt19937_64& rng, int64_t count) {
  std::uniform_real_distribution<float> uniform(-1.0f, 1.0f);
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) value = uniform(rng);
  return values;
}

void check(int32_t status) {
  if (status != DJLBSR_OK) throw std::runtime_error(djlbsr_last_error());
}

/* A random block-sparse matrix with its packed form. */
struct Weight {
  Weight(std::mt19937_64& rng, int64_t rows, int64_t cols, std::pair<int64_t, int64_t> block,
         double sparsity)
      : matrix{} {
    const auto [br, bc] = block;
    const int64_t grid_cols = cols / bc;
    const int64_t total = rows / br * grid_cols;
    const auto keep = static_cast<int64_t>(std::llround((1 - sparsity) * double(total)));
    std::vector<char> stored(static_cast<size_t>(total), 0);
    std::fill(stored.begin(), stored.begin() + keep, 1);
    std::shuffle(stored.begin(), stored.end(), rng);
    crow.push_back(0);
    for (int64_t i = 0; i < total; ++i) {
      if (stored[static_cast<size_t>(i)]) col.push_back(static_cast<int32_t>(i % grid_cols));
      if (i % grid_cols == grid_cols - 1) crow.push_back(static_cast<int32_t>(col.size()));
    }
    values = random_floats(rng, keep * br * bc);
    matrix.rows = rows;
    matrix.cols = cols;
    matrix.block_rows = br;
    matrix.block_cols = bc;
    matrix.nnzb = keep;
    matrix.crow_indices = crow.data();
    matrix.col_indices = col.data();
    matrix.values = values.data();
    check(djlbsr_pack_query(&matrix, DJLBSR_CPU, &meta));
    djlbsr_info info;
    check(djlbsr_meta_decode(&meta, &info));
    packed_bytes = info.packed_bytes;
    packed = aligned(static_cast<size_t>(info.packed_bytes));
    check(djlbsr_pack(&matrix, &meta, packed.get(), nullptr));
  }

  /* The values with each block turned, as LIBXSMM wants them. */
  std::vector<float> turned() const {
    std::vector<float> to(values.size());
    const int64_t br = matrix.block_rows;
    const int64_t bc = matrix.block_cols;
    for (int64_t i = 0; i < static_cast<int64_t>(values.size()); ++i) {
      const int64_t b = i / (br * bc);
      to[static_cast<size_t>(b * br * bc + i % bc * br + i / bc % br)] =
          values[static_cast<size_t>(i)];
    }
    return to;
  }

  std::vector<int32_t> crow;
  std::vector<int32_t> col;
  std::vector<float> values;
  djlbsr_matrix matrix;
  djlbsr_meta meta;
  int64_t packed_bytes;
  Bytes packed;
};

/* Compares some outputs with sums in float64; `what` computed y. */
void verify(const Weight& w, const float* x, const float* y, int64_t tokens, const char* what) {
  const djlbsr_matrix& m = w.matrix;
  for (int64_t sample = 0; sample < 64; ++sample) {
    const int64_t t = sample * 7919 % tokens;
    const int64_t row = sample * 104729 % m.rows;
    const auto i = static_cast<size_t>(row / m.block_rows);
    double sum = 0;
    double magnitude = 0;
    for (int32_t b = w.crow[i]; b < w.crow[i + 1]; ++b) {
      for (int64_t k = 0; k < m.block_cols; ++k) {
        const int64_t at = (b * m.block_rows + row % m.block_rows) * m.block_cols + k;
        const double term =
            static_cast<double>(w.values[static_cast<size_t>(at)]) *
            static_cast<double>(x[t * m.cols + w.col[static_cast<size_t>(b)] * m.block_cols + k]);
        sum += term;
        magnitude += std::fabs(term);
      }
    }
    const double bound = 6e-8 * (static_cast<double>(m.cols) + 2) * magnitude + 1e-30;
    if (!(std::fabs(y[t * m.rows + row] - sum) <= bound)) {
      throw std::runtime_error(std::string(what) + ": token " + std::to_string(t) + " row " +
                               std::to_string(row) + " is " + std::to_string(y[t * m.rows + row]) +
                               ", expected " + std::to_string(sum));
    }
  }
}

std::string json(const char* name, const Times& times) {
  char text[200];
  std::snprintf(text, sizeof(text),
                "\"%s\": {\"medianMicros\": %.3f, \"bestMicros\": %.3f, \"p90Micros\": %.3f, "
                "\"repeats\": %d}",
                name, times.median * 1e6, times.best * 1e6, times.p90 * 1e6, times.repeats);
  return text;
}

class Benchmark {
 public:
  explicit Benchmark(const Options& options) : options_(options) {
    omp_set_num_threads(options.threads);
    dense_ = bench::DenseGemm::load(options.dense, &no_dense_);
    libxsmm_ = bench::Libxsmm::load(options.libxsmm, &no_libxsmm_);
    const double peak = measure_peak();
    bandwidth_ = bench::read_bandwidth(options.threads);
    std::printf("%s, %s, %d threads: FMA peak %.1f GFLOP/s, memory %.1f GB/s\n",
                bench::cpu_name().c_str(), djlbsr_active_isa(), options.threads, peak, bandwidth_);
    if (dense_ == nullptr) std::printf("no dense sgemm: %s\n", no_dense_.c_str());
    if (libxsmm_ == nullptr) std::printf("no LIBXSMM: %s\n", no_libxsmm_.c_str());
  }

  void run() {
    for (const std::string& shape : split(options_.shapes)) {
      const auto [rows, cols] = pair_of(shape);
      for (const std::string& count : split(options_.tokens)) {
        const int64_t tokens = std::atoll(count.c_str());
        if (tokens < 1) throw std::invalid_argument("'" + count + "' is no number of tokens");
        run_shape(rows, cols, tokens);
      }
    }
  }

  void write(const std::string& command) const {
    std::FILE* out = std::fopen(options_.out.c_str(), "w");
    if (out == nullptr) throw std::runtime_error("cannot write " + options_.out);
    char date[32];
    const std::time_t seconds = std::time(nullptr);
    std::strftime(date, sizeof(date), "%Y-%m-%d", std::gmtime(&seconds));
    std::fprintf(out,
                 "{\n \"date\": \"%s\",\n \"command\": \"%s\",\n \"processor\": \"%s\",\n"
                 " \"isa\": \"%s\",\n \"threads\": %d,\n \"threadsBound\": %s,\n"
                 " \"lowestFmaPeakGflops\": %.1f,\n \"highestFmaPeakGflops\": %.1f,\n"
                 " \"readGigabytesPerSecond\": %.1f,\n"
                 " \"lastLevelCacheBytes\": %lld,\n \"stoppedByBudget\": %s,\n",
                 date, command.c_str(), bench::cpu_name().c_str(), djlbsr_active_isa(),
                 options_.threads, omp_get_proc_bind() == omp_proc_bind_false ? "false" : "true",
                 lowest_peak_, highest_peak_, bandwidth_, bench::last_level_cache(),
                 stopped_ ? "true" : "false");
    if (dense_ == nullptr) std::fprintf(out, " \"noDense\": \"%s\",\n", no_dense_.c_str());
    if (libxsmm_ == nullptr) std::fprintf(out, " \"noLibxsmm\": \"%s\",\n", no_libxsmm_.c_str());
    std::fprintf(out, " \"results\": [\n");
    for (size_t i = 0; i < results_.size(); ++i) {
      std::fprintf(out, "  {%s}%s\n", results_[i].c_str(), i + 1 < results_.size() ? "," : "");
    }
    std::fprintf(out, " ]\n}\n");
    std::fclose(out);
  }

 private:
  /* The peak of a virtual machine changes with what others do on its cores: it is measured around
   * each case. */
  double measure_peak() {
    const double peak = bench::fma_peak(djlbsr_active_isa(), options_.threads);
    highest_peak_ = std::max(highest_peak_, peak);
    lowest_peak_ = lowest_peak_ == 0 ? peak : std::min(lowest_peak_, peak);
    return peak;
  }

  bool out_of_budget() {
    stopped_ |= bench::now(2) - started_ > options_.budget;
    return stopped_;
  }

  void run_shape(int64_t rows, int64_t cols, int64_t tokens) {
    if (out_of_budget()) return;
    const std::vector<float> x = random_floats(rng_, tokens * cols);
    std::vector<float> y(static_cast<size_t>(tokens * rows));
    Times dense = {};
    if (dense_ != nullptr) {
      const std::vector<float> w = random_floats(rng_, rows * cols);
      dense = bench::measure(options_.seconds, options_.threads,
                             [&] { (*dense_)(rows, cols, tokens, w.data(), x.data(), y.data()); });
    }
    for (const std::string& block : split(options_.blocks)) {
      for (const std::string& text : split(options_.sparsities)) {
        const double sparsity = std::atof(text.c_str());
        const auto sizes = pair_of(block);
        if (out_of_budget()) return;
        if (rows % sizes.first != 0 || cols % sizes.second != 0) continue;
        const Weight w(rng_, rows, cols, sizes, sparsity);
        run_weight(w, block, sparsity, tokens, x, y, dense);
      }
    }
  }

  void run_weight(const Weight& w, const std::string& block, double sparsity, int64_t tokens,
                  const std::vector<float>& x, std::vector<float>& y, const Times& dense) {
    const djlbsr_matrix& m = w.matrix;
    djlbsr_linear_args args = {};
    args.x = x.data();
    args.y = y.data();
    args.tokens = tokens;
    args.x_stride = m.cols;
    args.y_stride = m.rows;
    args.threads = options_.threads;
    const auto ours = [&] { check(djlbsr_linear(&w.meta, w.packed.get(), &args)); };
    ours();
    verify(w, x.data(), y.data(), tokens, "djlbsr");
    const double peak_before = measure_peak();
    const Times times = bench::measure(options_.seconds, options_.threads, ours);
    const double peak = std::max(peak_before, measure_peak());
    const double useful = 2e-9 * static_cast<double>(w.values.size()) * double(tokens);
    const double gflops = useful / times.median;
    char text[512];
    std::snprintf(
        text, sizeof(text),
        "\"shape\": \"%lldx%lld\", \"block\": \"%s\", \"sparsity\": %g, \"tokens\": %lld, "
        "\"usefulGflops\": %.2f, \"fmaPeakGflops\": %.1f, \"percentOfPeak\": %.1f, "
        "\"packedGigabytesPerSecond\": %.2f, ",
        (long long)m.rows, (long long)m.cols, block.c_str(), sparsity, (long long)tokens, gflops,
        peak, 100 * gflops / peak, static_cast<double>(w.packed_bytes) / times.median * 1e-9);
    std::string result = text + json("djlbsr", times);
    std::printf(
        "%5lldx%-5lld %6s %5.1f%% T=%-5lld %10.1f us %8.1f GFLOP/s %5.1f%% of peak %6.1f GB/s",
        (long long)m.rows, (long long)m.cols, block.c_str(), 100 * sparsity, (long long)tokens,
        times.median * 1e6, gflops, 100 * gflops / peak,
        static_cast<double>(w.packed_bytes) / times.median * 1e-9);
    if (dense_ != nullptr) {
      result += ", " + json("dense", dense);
      std::printf("  %5.2fx dense", dense.median / times.median);
    }
    if (libxsmm_ != nullptr) {
      const std::vector<float> turned = w.turned();
      const auto theirs = [&] {
        return (*libxsmm_)(m.rows, m.cols, m.block_rows, m.block_cols, m.crow_indices,
                           m.col_indices, turned.data(), tokens, x.data(), y.data(),
                           options_.threads);
      };
      if (theirs()) {
        verify(w, x.data(), y.data(), tokens, "LIBXSMM");
        const Times other = bench::measure(options_.seconds, options_.threads, theirs);
        result += ", " + json("libxsmm", other);
        std::printf("  %5.2fx LIBXSMM", other.median / times.median);
      }
    }
    std::printf("\n");
    std::fflush(stdout);
    results_.push_back(result);
  }

  Options options_;
  std::unique_ptr<bench::DenseGemm> dense_;
  std::unique_ptr<bench::Libxsmm> libxsmm_;
  std::string no_dense_;
  std::string no_libxsmm_;
  double highest_peak_ = 0;
  double lowest_peak_ = 0;
  double bandwidth_;
  std::mt19937_64 rng_{1};
  const double started_ = bench::now(2); /* by the wall, whatever the threads */
  bool stopped_ = false;                 /* by the budget */
  std::vector<std::string> results_;
};

}  // namespace

int main(int argc, char** argv) {
  try {
    const Options options = parse(argc, argv);
    std::string command = "cpu_bench";
    for (int i = 1; i < argc; ++i) command += std::string(" ") + argv[i];
    Benchmark benchmark(options);
    benchmark.run();
    benchmark.write(command);
    return 0;
  } catch (const std::exception& e) {
    std::fprintf(stderr, "cpu_bench: %s\n", e.what());
    return 1;
  }
}
