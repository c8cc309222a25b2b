/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
/* Which kernel serves what: tables, so that none can lose its callers unnoticed. */
#include <fstream>
#include <set>
#include <sstream>

#include "cpu/isa.h"
#include "cpu/kernels.h"
#include "cpu/strips.h"
#include "support.h"

using namespace test;
using djlbsr::cpu::Algorithm;
using djlbsr::cpu::Plan;

namespace {

Plan plan(int64_t rows, int64_t cols, int64_t block_rows, int64_t block_cols, double density,
          int64_t tokens, int32_t dtype = DJLBSR_FLOAT32, int32_t threads = 0) {
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
  args.threads = threads;
  return djlbsr::cpu::kernels_for(djlbsr::cpu::active_isa()).plan(w, args);
}

struct Choice {
  int64_t block_rows;
  int64_t block_cols;
  int64_t tokens;
  Algorithm algorithm;
};

void kernels() {
  const Choice everywhere[] = {
      {64, 64, 1, Algorithm::kRowsInLanes},        {32, 32, 8, Algorithm::kRowsInLanes},
      {16, 16, 1, Algorithm::kRowsInLanes},        {4, 4, 1, Algorithm::kRowsInLanes},
      {1, 1, 1, Algorithm::kRowsInLanes},          {1, 7, 2, Algorithm::kRowsInLanes},
      {1, 16, 1, Algorithm::kSingleRowsFewTokens}, {1, 16, 4, Algorithm::kSingleRowsFewTokens},
      {1, 16, 64, Algorithm::kSingleRows},         {1, 32, 512, Algorithm::kSingleRows},
      {1, 1, 64, Algorithm::kSingleRows},          {5, 7, 64, Algorithm::kTokensInLanes},
  };
  const Choice vectors[] = {
      {4, 4, 64, Algorithm::kTokensInLanes},
      {2, 2, 512, Algorithm::kTokensInLanes},
      {8, 8, 64, Algorithm::kTokensInLanes},
      {32, 32, 512, Algorithm::kRowsInLanes},
  };
  const Choice avx512[] = {
      {16, 16, 64, Algorithm::kTokensInLanes},
      {16, 16, 16, Algorithm::kRowsInLanes},
      {64, 64, 512, Algorithm::kRowsInLanes},
  };
  const auto expect = [](const Choice& c) {
    const Plan p =
        plan(1024, 4096 / c.block_cols * c.block_cols, c.block_rows, c.block_cols, 0.125, c.tokens);
    EXPECT(p.algorithm == c.algorithm, "%lldx%lld, %lld tokens: algorithm %d, expected %d",
           (long long)c.block_rows, (long long)c.block_cols, (long long)c.tokens,
           static_cast<int>(p.algorithm), static_cast<int>(c.algorithm));
  };
  for (const Choice& c : everywhere) expect(c);
  const djlbsr::cpu::Isa isa = djlbsr::cpu::active_isa();
  for (const Choice& c : vectors) {
    if (isa != djlbsr::cpu::Isa::kPortable) expect(c);
  }
  for (const Choice& c : avx512) {
    if (isa == djlbsr::cpu::Isa::kAvx512) expect(c);
  }
  /* Transposing a million columns does not pay for a few stored ones. */
  EXPECT(plan(1024, 1 << 20, 4, 4, 0.0005, 128).algorithm == Algorithm::kRowsInLanes,
         "many columns");
}

/* The copies of x that every thread holds stay small whatever the number of columns. */
void copies() {
  for (int32_t dtype : {DJLBSR_FLOAT32, DJLBSR_FLOAT16}) {
    for (int64_t block_rows : {1, 4, 16}) {
      for (int64_t cols : {0, 16, 4096, 65536, 1 << 20}) {
        for (int64_t tokens : {1, 3, 33, 100, 4096}) {
          for (int32_t threads : {1, 2, 16}) {
            const Plan p = plan(64, cols, block_rows, 16, 0.1, tokens, dtype, threads);
            const size_t most =
                std::max<size_t>(4 << 20, static_cast<size_t>(cols + 32) * 4 *
                                              (p.algorithm == Algorithm::kTokensInLanes ? 16 : 5));
            const int64_t tiles = (p.task_tokens + p.tile_tokens - 1) / p.tile_tokens;
            EXPECT(p.scratch_bytes >= 64 && p.scratch_bytes <= most && p.tile_tokens >= 1 &&
                       p.task_tokens >= 1 &&
                       p.scratch_bytes >= static_cast<size_t>(4 * tiles * p.tile_floats),
                   "%lldx16, cols %lld tokens %lld dtype %d threads %d: %zu bytes of scratch, "
                   "tokens of a tile %lld, of a task %lld",
                   (long long)block_rows, (long long)cols, (long long)tokens, dtype, threads,
                   p.scratch_bytes, (long long)p.tile_tokens, (long long)p.task_tokens);
          }
        }
      }
    }
  }
}

/* A weight that does not stay in a cache: many tokens a task, but a task for every thread. */
void large_weights() {
  if (djlbsr::cpu::active_isa() < djlbsr::cpu::Isa::kAvx512) return;
  const Plan many = plan(4096, 4096, 32, 32, 0.5, 512, DJLBSR_FLOAT32, 2);
  EXPECT(many.algorithm == Algorithm::kRowsInLanes && many.task_tokens > many.tile_tokens,
         "4096x4096, 512 tokens: a task has one tile of %lld tokens", (long long)many.tile_tokens);
  for (const int32_t threads : {8, 16, 32, 64}) {
    const Plan p = plan(1024, 4096, 128, 128, 1.0, 64, DJLBSR_FLOAT32, threads);
    const int64_t tiles = (64 + p.tile_tokens - 1) / p.tile_tokens;
    const int64_t tasks = 8 * ((64 + p.task_tokens - 1) / p.task_tokens);
    EXPECT(tasks >= std::min<int64_t>(threads, 8 * tiles), "%d threads, %lld tasks", threads,
           (long long)tasks);
  }
}

/* The kernel for bf16 (int8 = false) or int8 blocks of an ISA. */
std::string strip_kernel(djlbsr::cpu::Isa isa, bool int8, int64_t block_rows, int64_t block_cols,
                         int64_t tokens) {
  djlbsr::cpu::StripWeight w = {};
  w.int8 = int8;
  w.block_rows = block_rows;
  w.block_cols = block_cols;
  return djlbsr::cpu::strip_kernel_for(isa, w, tokens).name;
}

void strip_kernels() {
#if defined(__x86_64__)
  /* In the order of kAllIsas. */
  const struct {
    bool int8;
    int64_t block_rows, block_cols, tokens;
    std::vector<std::string> names;
  } table[] = {
      {false, 32, 32, 64, {"portable", "avx2", "avx512", "avx512", "avx512_bf16", "amx"}},
      {false, 16, 16, 64, {"portable", "avx2", "avx512", "avx512", "avx512_bf16", "amx"}},
      {false, 48, 48, 64, {"portable", "avx2", "avx512", "avx512", "avx512_bf16", "amx"}},
      /* Tiles would be less than half full. */
      {false, 32, 34, 64, {"portable", "avx2", "avx512", "avx512", "avx512_bf16", "avx512_bf16"}},
      {false, 16, 2, 64, {"portable", "avx2", "avx512", "avx512", "avx512_bf16", "avx512_bf16"}},
      {true, 32, 32, 64, {"portable", "avx2", "avx2", "avx512_vnni", "avx512_vnni", "avx512_vnni"}},
      {true, 9, 1, 8, {"portable", "avx2", "avx2", "avx512_vnni", "avx512_vnni", "avx512_vnni"}},
      {true,
       8,
       8,
       7,
       {"portable", "avx2", "avx2", "avx512_vnni_low", "avx512_vnni_low", "avx512_vnni_low"}},
      /* As many tokens as rows, at most 12 and at least 2. */
      {true,
       8,
       8,
       8,
       {"portable", "avx2", "avx2", "avx512_vnni_tokens", "avx512_vnni_tokens",
        "avx512_vnni_tokens"}},
      {true, 31, 4, 11, {"portable", "avx2", "avx2", "avx512_vnni", "avx512_vnni", "avx512_vnni"}},
      {true,
       31,
       4,
       12,
       {"portable", "avx2", "avx2", "avx512_vnni_tokens", "avx512_vnni_tokens",
        "avx512_vnni_tokens"}},
      {true,
       1,
       16,
       1,
       {"portable", "avx2", "avx2", "avx512_vnni_low", "avx512_vnni_low", "avx512_vnni_low"}},
  };
  for (const auto& row : table) {
    for (size_t i = 0; i < row.names.size(); ++i) {
      const std::string expected = (row.int8 ? "int8_" : "bf16_") + row.names[i];
      const std::string actual = strip_kernel(djlbsr::cpu::kAllIsas[i], row.int8, row.block_rows,
                                              row.block_cols, row.tokens);
      EXPECT(actual == expected, "%lldx%lld, %lld tokens on %s: %s, expected %s",
             (long long)row.block_rows, (long long)row.block_cols, (long long)row.tokens,
             isa_name(djlbsr::cpu::kAllIsas[i]), actual.c_str(), expected.c_str());
    }
  }
  /* fp32 gives the same bits from avx512 on because it runs the same code. */
  for (djlbsr::cpu::Isa isa : djlbsr::cpu::kAllIsas) {
    const auto* kernels = &djlbsr::cpu::kernels_for(isa);
    const auto* expected = isa >= djlbsr::cpu::Isa::kAvx512 ? &djlbsr::cpu::kAvx512Kernels
                           : isa >= djlbsr::cpu::Isa::kAvx2 ? &djlbsr::cpu::kAvx2Kernels
                                                            : &djlbsr::cpu::kPortableKernels;
    EXPECT(kernels == expected, "fp32 on %s", isa_name(isa));
  }
#endif
}

/* The supported ISA, recomputed from what the kernel tells of the processor. */
void supported() {
#if defined(__x86_64__) /* emulators of others show the flags of the machine below */
  std::ifstream info("/proc/cpuinfo");
  std::set<std::string> flags;
  for (std::string line; flags.empty() && std::getline(info, line);) {
    if (line.rfind("flags", 0) != 0) continue;
    std::istringstream words(line);
    for (std::string word; words >> word;) flags.insert(word);
  }
  if (flags.empty()) {
    std::printf("no flags in /proc/cpuinfo: the supported ISA not tested\n");
    return;
  }
  const std::vector<std::vector<const char*>> needs = {
      {"avx2", "fma", "f16c"},
      {"avx512f", "avx512bw", "avx512dq", "avx512vl"},
      {"avx512_vnni"},
      {"avx512_bf16"},
      {"amx_tile", "amx_bf16"}};
  size_t level = 0;
  const auto has_all = [&flags](const std::vector<const char*>& wanted) {
    return std::all_of(wanted.begin(), wanted.end(),
                       [&flags](const char* flag) { return flags.count(flag) != 0; });
  };
  while (level < needs.size() && has_all(needs[level])) ++level;
  EXPECT(djlbsr::cpu::supported_isa() == djlbsr::cpu::kAllIsas[level], "supported %s, expected %s",
         isa_name(djlbsr::cpu::supported_isa()), isa_name(djlbsr::cpu::kAllIsas[level]));
#endif
}

/* Threads that share tokens each transpose them: with few blocks a task has fewer tokens. */
void tokens_of_single_rows() {
  const auto tokens = [](double density, int32_t threads) {
    const Plan p = plan(768, 3072, 1, 16, density, 64, DJLBSR_FLOAT32, threads);
    EXPECT(p.algorithm == Algorithm::kSingleRows, "another kernel serves 64 tokens of 1x16");
    return p.task_tokens;
  };
  EXPECT(tokens(0.05, 1) >= 64 && tokens(0.05, 16) < 64, "tasks of %lld and %lld tokens",
         (long long)tokens(0.05, 1), (long long)tokens(0.05, 16));
  EXPECT(tokens(0.5, 16) > tokens(0.05, 16), "as many tokens with ten times the blocks");
}

/* Where tiles are of six tokens they read rows of x, of which blocks read whole lines and which are
 * not much. */
void rows_of_x() {
  const bool of_six = plan(768, 3072, 32, 32, 0.125, 64).tile_tokens == 6;
  const struct {
    int64_t cols, block_rows, block_cols, tokens;
    int64_t most; /* rows of x that a tile reads, where there are tiles of six */
    bool copies;
  } cases[] = {{3072, 32, 32, 64, 6, false},  {3072, 32, 32, 63, 6, true},
               {3072, 32, 32, 256, 6, false}, {3072, 32, 32, 257, 4, true},
               {3072, 32, 8, 64, 4, true},    {3072, 16, 16, 64, 6, false}};
  for (const auto& c : cases) {
    const Plan p = plan(768, c.cols, c.block_rows, c.block_cols, 0.125, c.tokens);
    if (p.algorithm != Algorithm::kRowsInLanes) continue; /* 16x16 with AVX-512 */
    EXPECT(p.rows_of_x == (of_six ? c.most : 4) && (p.tile_floats > 0) == (c.copies || !of_six),
           "%lldx%lld, %lld tokens: tiles of up to %lld read rows of x, %lld floats are copied",
           (long long)c.block_rows, (long long)c.block_cols, (long long)c.tokens,
           (long long)p.rows_of_x, (long long)p.tile_floats);
  }
  const bool expected = djlbsr::cpu::active_isa() == djlbsr::cpu::Isa::kAvx2 ||
                        djlbsr::cpu::active_isa() == djlbsr::cpu::Isa::kPortable;
  EXPECT(of_six == expected, "this ISA has %stiles of six tokens", of_six ? "" : "no ");
}

}  // namespace

int main() {
  skip_without_isa();
  kernels();
  copies();
  large_weights();
  strip_kernels();
  supported();
  tokens_of_single_rows();
  rows_of_x();
  return finish("test_plan");
}
