/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
/* Which CUDA kernel serves which call. Prints the table that it checks. */
#include "cuda/kernel_choice.h"
#include "cuda/panels.h"
#include "support.h"

using namespace test;
using djlbsr::cuda::Kernel;
using djlbsr::cuda::kernel_choice;
using djlbsr::cuda::kernel_name;
using djlbsr::cuda::kernel_named;
using djlbsr::cuda::kernel_names;

namespace {

struct Call {
  int64_t block_rows = 64;
  int64_t block_cols = 64;
  int32_t dtype = DJLBSR_FLOAT16;
  int64_t tokens = 2048;
  int64_t x_stride = 4096;
  uintptr_t x = 1 << 20;
  uintptr_t y = 1 << 21;
  int64_t y_stride = 8192;
  int64_t nnzb = -1; /* an eighth of the blocks */
  int64_t rows = 0;  /* 60 block-rows */
  int64_t cols = 4096;
  int64_t longest_row = 0;
  int capability = 90;
  std::optional<Kernel> forced;
  bool allow_tf32 = false;
};

void expect(const char* expected, const char* what, const Call& call) {
  djlbsr_info info = {};
  info.rows = call.rows > 0 ? call.rows : 60 * call.block_rows;
  info.cols = call.block_cols * (call.cols / call.block_cols);
  info.block_rows = call.block_rows;
  info.block_cols = call.block_cols;
  const int64_t blocks = info.rows / info.block_rows * (info.cols / info.block_cols);
  info.nnzb = call.nnzb >= 0 ? call.nnzb : std::max<int64_t>(1, blocks / 8);
  info.max_blocks_in_row = call.longest_row;
  info.dtype = call.dtype;
  info.device = DJLBSR_CUDA;
  /* Some of these weights have more blocks than could be packed. */
  if (info.nnzb <= blocks) info.panel_block = djlbsr::cuda::panel_shape(info).block;
  djlbsr_linear_args args = {};
  args.x = reinterpret_cast<const void*>(call.x);
  args.y = reinterpret_cast<void*>(call.y);
  args.tokens = call.tokens;
  args.x_stride = call.x_stride;
  args.y_stride = call.y_stride;
  const char* actual =
      kernel_name(kernel_choice(info, args, call.capability, call.forced, call.allow_tf32));
  std::printf("%-28s block %3lldx%-3lld dtype %d tokens %-10lld sm_%d: %s\n", what,
              (long long)call.block_rows, (long long)call.block_cols, call.dtype,
              (long long)call.tokens, call.capability, actual);
  EXPECT(std::strcmp(actual, expected) == 0, "%s: %s, expected %s", what, actual, expected);
}

template <typename Change>
void expect_changed(const char* expected, const char* what, Change change) {
  Call call;
  change(call);
  expect(expected, what, call);
}

}  // namespace

int main() {
  const char* const portable = "portable";
  const char* const mma = "sm80_f16_mma";
  const char* const stream = "sm80_f16_stream";
  const char* const f32_stream = "f32_stream";
  const char* const panels = "hopper_panels";
  const char* const panels_narrow = "hopper_panels_narrow";
  const char* const split2 = "hopper_panels_split2";
  const char* const split4 = "hopper_panels_split4";
  const char* const split8 = "hopper_panels_split8";
  const char* const rows64 = "hopper_64x512";
  const char* const rows128 = "hopper_128x256";
  const char* const narrow = "hopper_narrow";
  const char* const narrow_split = "hopper_narrow_split";
  for (int32_t dtype : {DJLBSR_FLOAT16, DJLBSR_BFLOAT16}) {
    const struct {
      int64_t rows, cols;
      const char* kernel;
    } blocks[] = {{64, 64, rows64},    {64, 128, rows64},  {192, 64, rows64},   {320, 256, rows64},
                  {128, 128, rows128}, {128, 64, rows128}, {256, 192, rows128}, {32, 64, panels},
                  {64, 32, panels},    {96, 64, panels},   {64, 96, panels},    {16, 48, panels},
                  {1, 64, mma},        {40, 16, mma},      {640, 1, mma},       {4, 4, mma},
                  {5, 7, mma}};
    for (const auto& block : blocks) {
      Call call;
      call.dtype = dtype;
      call.block_rows = block.rows;
      call.block_cols = block.cols;
      call.rows = block.rows * (8192 / block.rows);
      expect(block.kernel, "block", call);
      call.tokens = 64;
      const bool by_64 = block.rows % 64 == 0 && block.cols % 64 == 0;
      expect(by_64 ? narrow_split : block.rows == 16 ? split4 : stream, "few tokens", call);
    }
  }
  expect_changed(stream, "few tokens", [](Call& c) { c.tokens = 1; });
  expect_changed(stream, "few tokens", [](Call& c) { c.tokens = 16; });
  for (int64_t tokens : {17, 64}) {
    expect_changed(narrow_split, "few slices", [=](Call& c) { c.tokens = tokens; });
    expect_changed(narrow, "133 slices", [=](Call& c) {
      c.tokens = tokens;
      c.rows = 133 * 64;
    });
    expect_changed(narrow, "fewer than 4 steps a slice", [=](Call& c) {
      c.tokens = tokens;
      c.nnzb = 4 * 60 - 1;
    });
  }
  for (int64_t tokens : {32, 128}) {
    expect_changed(narrow, "448 slices", [=](Call& c) {
      c.tokens = tokens;
      c.rows = 448 * 64;
    });
  }
  expect_changed(narrow_split, "60 slices, 128 tokens", [](Call& c) { c.tokens = 128; });
  expect_changed(narrow, "60 slices, 129 tokens", [](Call& c) { c.tokens = 129; });
  expect_changed(narrow, "67 slices, 65 tokens", [](Call& c) {
    c.tokens = 65;
    c.rows = 67 * 64;
  });
  /* A block-row far longer than the others, of which CTAs share tiles; 133 slices take 266 CTAs. */
  const struct {
    int64_t block_row_count, longest, tokens;
    const char* kernel;
  } skewed[] = {{133, 30, 128, narrow}, {133, 31, 128, narrow_split}, {133, 31, 129, narrow},
                {60, 40, 129, narrow},  {60, 50, 256, narrow_split},  {8, 64, 512, narrow_split},
                {8, 64, 513, narrow}};
  for (const auto& row : skewed) {
    expect_changed(row.kernel, "a long block-row", [&](Call& c) {
      c.rows = row.block_row_count * 64;
      c.longest_row = row.longest;
      c.tokens = row.tokens;
    });
  }
  const struct {
    int64_t slices, block_cols, mean, longest;
    int ctas;
  } splits[] = {{32, 64, 8, 8, 4},  {33, 64, 8, 23, 2}, {33, 64, 8, 24, 4},  {33, 64, 16, 24, 2},
                {96, 64, 8, 24, 4}, {97, 64, 8, 24, 2}, {33, 128, 4, 12, 4}, {33, 96, 8, 24, 2}};
  for (const auto& split : splits) {
    djlbsr_info info = {};
    info.rows = split.slices * 64;
    info.block_rows = 64;
    info.block_cols = split.block_cols;
    info.nnzb = split.slices * split.mean;
    info.max_blocks_in_row = split.longest;
    EXPECT(djlbsr::cuda::narrow_split_ctas(info) == split.ctas,
           "%lld slices, %lld of a mean of %lld", (long long)split.slices, (long long)split.longest,
           (long long)split.mean);
  }
  /* Persistent tiles a multiprocessor, and their steps. */
  const struct {
    int64_t block_rows, block_row_count, tokens;
    double steps; /* a block-row */
    const char* kernel;
  } lengths[] = {
      {64, 99, 1160, 8, narrow},     {64, 99, 1161, 8, rows64},    {64, 99, 3413, 4.9, narrow},
      {64, 99, 3414, 4.9, rows64},   {64, 4000, 320, 8, narrow},   {64, 4000, 321, 8, rows64},
      {128, 99, 512, 23, narrow},    {128, 99, 513, 23, rows128},  {128, 99, 1024, 6.9, narrow},
      {128, 99, 1025, 6.9, rows128}, {128, 99, 5461, 3.9, narrow}, {128, 99, 5462, 3.9, rows128},
      {128, 66, 257, 24, narrow},    {128, 65, 259, 24, rows128},  {128, 99, 375, 24, narrow},
      {128, 99, 376, 24, rows128},   {128, 8, 256, 24, narrow},    {128, 8, 257, 24, rows128}};
  for (const auto& length : lengths) {
    expect_changed(length.kernel, "length of a tile", [&](Call& c) {
      c.block_rows = length.block_rows;
      c.rows = length.block_row_count * length.block_rows;
      c.nnzb = static_cast<int64_t>(length.steps * static_cast<double>(length.block_row_count));
      c.tokens = length.tokens;
    });
  }
  const auto small_blocks = [](Call& c) {
    c.block_rows = 4;
    c.block_cols = 4;
    c.rows = 352 * 32; /* a tile of rows in 32 */
  };
  for (int64_t tokens : {384, 385}) {
    expect_changed(tokens == 384 ? stream : mma, "tiles for every multiprocessor", [=](Call& c) {
      small_blocks(c);
      c.tokens = tokens;
    });
  }
  /* Pieces of 128 rows x 64 tokens, shared by as many CTAs as run at the same time. */
  const struct {
    int64_t rows, cols, tokens;
    double density;
    const char* kernel[2]; /* with squares of 16 and of 32 */
  } pieces[] = {{9216, 4096, 32, 0.125, {stream, stream}},
                {9216, 4096, 33, 0.125, {split4, split4}},
                {9216, 4096, 64, 0.125, {split4, split4}},
                {9216, 4096, 128, 0.125, {split2, narrow}},
                {9216, 4096, 192, 0.125, {panels_narrow, narrow}},
                {9216, 4096, 320, 0.125, {panels_narrow, panels_narrow}},
                {9216, 4096, 384, 0.125, {panels, panels}},
                {5504, 4096, 64, 0.125, {split8, stream}},
                {5504, 4096, 64, 0.35, {split8, split8}},
                {5504, 4096, 64, 0.05, {stream, stream}},
                {5632, 4096, 64, 0.35, {split4, split4}},
                {8192, 4096, 64, 0.05, {stream, stream}},
                {8320, 4096, 64, 0.05, {split4, split4}},
                {1536, 4096, 64, 0.125, {split8, narrow_split}},
                {4096, 3072, 64, 0.35, {split8, split8}},
                {4096, 2944, 64, 0.35, {split4, split4}},
                {3072, 768, 64, 0.05, {split2, narrow}},
                {3072, 640, 64, 0.05, {panels_narrow, narrow}},
                {4096, 6144, 512, 0.125, {split2, narrow}},
                {1 << 15, 6144, 64, 0.125, {panels_narrow, panels_narrow}},
                {1 << 17, 4096, 64, 0.125, {panels_narrow, panels_narrow}},
                {1 << 17, 4096, 65, 0.125, {panels, panels}},
                {4096, 6016, 512, 0.125, {panels_narrow, narrow}},
                {4224, 6144, 512, 0.125, {split2, narrow}},
                {4352, 6144, 512, 0.125, {panels_narrow, narrow}}};
  for (const auto& call : pieces) {
    for (int64_t side : {16, 32}) {
      expect_changed(call.kernel[side / 32], "panels", [&](Call& c) {
        c.block_rows = side;
        c.block_cols = side;
        c.rows = call.rows;
        c.cols = c.x_stride = call.cols;
        c.nnzb = static_cast<int64_t>(call.density * static_cast<double>(call.rows * call.cols)) /
                 (side * side);
        c.tokens = call.tokens;
      });
    }
  }
  /* hopper_narrow for blocks of 32: tiles of 32 rows x 128 tokens, their steps of 32 columns. */
  const struct {
    int64_t slices, cols, tokens;
    double steps;
    const char* kernel;
  } slices_of_32[] = {{24, 3072, 16, 12, stream},         {24, 3072, 17, 12, narrow_split},
                      {48, 3072, 128, 4, narrow_split},   {48, 3072, 128, 3.9, narrow},
                      {48, 3072, 129, 11.9, narrow},      {24, 3072, 256, 12, narrow_split},
                      {24, 3072, 257, 12, narrow},        {128, 8192, 128, 20, narrow_split},
                      {133, 8192, 128, 20, split4},       {128, 8192, 48, 20, stream},
                      {128, 8192, 48, 32, narrow_split},  {128, 8192, 49, 20, narrow_split},
                      {128, 8192, 64, 69, narrow_split},  {128, 8192, 64, 70, stream},
                      {128, 8192, 65, 103, narrow_split}, {128, 8192, 128, 5.9, narrow},
                      {299, 4096, 64, 12, split4},        {300, 4096, 64, 12, narrow},
                      {300, 4096, 64, 20.1, split4},      {300, 4096, 64, 20, narrow},
                      {300, 4096, 128, 25.6, narrow},     {300, 4096, 128, 25.7, split2},
                      {249, 4096, 128, 25, split2},       {400, 4096, 256, 25, narrow},
                      {401, 4096, 256, 25, panels},       {401, 4096, 256, 6.9, narrow},
                      {100, 4096, 768, 8, narrow},        {101, 4096, 768, 8, panels_narrow},
                      {512, 4096, 1024, 6.9, panels},     {500, 4096, 1024, 6.9, narrow},
                      {200, 11008, 256, 41, narrow},      {201, 11008, 256, 41, split2},
                      {512, 768, 128, 3, narrow},         {513, 768, 128, 3, panels_narrow}};
  for (const auto& call : slices_of_32) {
    expect_changed(call.kernel, "slices of 32 rows", [&](Call& c) {
      c.block_rows = 32;
      c.block_cols = 32;
      c.rows = call.slices * 32;
      c.cols = c.x_stride = call.cols;
      c.nnzb = static_cast<int64_t>(call.steps * static_cast<double>(call.slices) + 0.5);
      c.tokens = call.tokens;
    });
  }
  for (int64_t longest : {40, 41}) {
    expect_changed(longest == 40 ? narrow : split2, "a long block-row of 32", [=](Call& c) {
      c.block_rows = 32;
      c.block_cols = 32;
      c.rows = 300 * 32;
      c.nnzb = 300 * 16;
      c.longest_row = longest;
      c.tokens = 128;
    });
  }
  for (int64_t tokens : {1, 16}) {
    expect_changed(stream, "half of the blocks stored, many rows", [=](Call& c) {
      c.rows = 1 << 18;
      c.nnzb = 1 << 17;
      c.tokens = tokens;
    });
  }
  /* 22 pairs of tiles by 256 tokens in rounds of 66: full ones, and ones with idle clusters or
   * without all their tokens. */
  const struct {
    int64_t tokens;
    const char* kernel;
  } rounds[] = {{8192, panels}, {2048, panels}, {1729, panels}, {1728, panels}, {1727, rows64},
                {1024, rows64}, {768, panels},  {576, panels},  {575, narrow},  {512, narrow}};
  for (const auto& call : rounds) {
    expect_changed(call.kernel, "half of the blocks stored", [&](Call& c) {
      c.rows = 8192;
      c.nnzb = 4096;
      c.tokens = call.tokens;
    });
  }
  const struct {
    int capability;
    const char* few;
    const char* many;
  } devices[] = {{75, portable, portable}, {80, stream, mma},  {86, stream, stream},
                 {89, stream, stream},     {100, stream, mma}, {120, stream, stream}};
  for (const auto& device : devices) {
    expect_changed(device.many, "device", [&](Call& c) { c.capability = device.capability; });
    expect_changed(device.few, "device, few tokens", [&](Call& c) {
      c.capability = device.capability;
      c.tokens = 8;
    });
  }
  expect_changed(mma, "x repeats a row", [](Call& c) { c.x_stride = 0; });
  expect_changed(mma, "x at 8 bytes", [](Call& c) { c.x += 8; });
  expect_changed(rows64, "x at 16 bytes", [](Call& c) { c.x += 16; });
  expect_changed(mma, "x_stride of 8 bytes", [](Call& c) { c.x_stride += 4; });
  expect_changed(rows64, "x_stride of 16 bytes", [](Call& c) { c.x_stride += 8; });
  expect_changed(mma, "y at 8 bytes", [](Call& c) { c.y += 8; });
  expect_changed(mma, "y_stride of 2 bytes", [](Call& c) { c.y_stride += 1; });
  expect_changed(mma, "y_stride of 2^40 bytes", [](Call& c) { c.y_stride = int64_t{1} << 39; });
  expect_changed(mma, "nothing stored", [](Call& c) { c.nnzb = 0; });
  expect_changed(rows64, "2^31 - 64 stored rows", [](Call& c) { c.nnzb = (1 << 25) - 1; });
  expect_changed(mma, "2^31 stored rows", [](Call& c) { c.nnzb = 1 << 25; });
  expect_changed(portable, "2^38 tokens", [](Call& c) { c.tokens = int64_t{1} << 38; });
  expect_changed(mma, "x_stride of 2^40 bytes", [](Call& c) { c.x_stride = int64_t{1} << 39; });
  expect_changed(portable, "2^31 tiles", [](Call& c) {
    c.tokens = 1 << 29;
    c.rows = 1 << 18;
  });
  expect_changed(portable, "forced", [](Call& c) { c.forced = Kernel::kPortable; });
  expect_changed(narrow_split, "forced for many tokens", [](Call& c) {
    c.forced = Kernel::kHopperNarrowSplit;
    c.tokens = 100000;
  });
  expect_changed(rows64, "forced for few tokens", [](Call& c) {
    c.forced = Kernel::kHopper64x512;
    c.tokens = 1;
  });
  expect_changed(rows64, "forced, cannot serve",
                 [](Call& c) { c.forced = Kernel::kHopper128x256; });
  expect_changed(mma, "forced on another device", [](Call& c) {
    c.forced = Kernel::kHopper64x512;
    c.capability = 80;
  });
  const char* const fp32 = "hopper_fp32_256";
  const char* const tf32 = "hopper_fp32_fast_256";
  const auto expect_float32 = [](const char* expected, const char* what, auto change) {
    expect_changed(expected, what, [&](Call& c) {
      c.dtype = DJLBSR_FLOAT32;
      change(c);
    });
  };
  for (int64_t rows : {16, 32, 48, 64, 128, 272}) {
    for (int64_t cols : {16, 32, 80, 128}) {
      expect_float32(fp32, "float32", [&](Call& c) {
        c.block_rows = rows;
        c.block_cols = cols;
      });
    }
  }
  expect_float32(portable, "float32, 8 rows", [](Call& c) { c.block_rows = 8; });
  expect_float32(portable, "float32, 24 columns", [](Call& c) { c.block_cols = 24; });
  for (int64_t tokens : {1, 16}) {
    expect_float32(f32_stream, "float32, few tokens", [=](Call& c) { c.tokens = tokens; });
  }
  expect_float32(portable, "float32, device", [](Call& c) { c.capability = 80; });
  expect_float32(portable, "float32, x at 8 bytes", [](Call& c) { c.x += 8; });
  expect_float32(fp32, "float32, x_stride of 16 bytes", [](Call& c) { c.x_stride += 4; });
  expect_float32(portable, "float32, x_stride of 8 bytes", [](Call& c) { c.x_stride += 2; });
  expect_float32(portable, "float32, y_stride of 8 bytes", [](Call& c) { c.y_stride += 2; });
  expect_float32(portable, "float32, x_stride of 2^40 bytes",
                 [](Call& c) { c.x_stride = int64_t{1} << 38; });
  expect_float32(portable, "float32, 2^31 tiles", [](Call& c) {
    c.tokens = 1 << 29;
    c.rows = 1 << 18;
  });
  expect_float32(tf32, "TF32 allowed", [](Call& c) { c.allow_tf32 = true; });
  const char* const fp32_128 = "hopper_fp32_128";
  const char* const tf32_128 = "hopper_fp32_fast_128";
  expect_float32(fp32, "float32, 513 tokens", [](Call& c) { c.tokens = 513; });
  expect_float32(fp32_128, "float32, 512 tokens", [](Call& c) { c.tokens = 512; });
  expect_float32(fp32_128, "float32, 17 tokens", [](Call& c) { c.tokens = 17; });
  expect_float32(tf32_128, "TF32 allowed, 64 tokens", [](Call& c) {
    c.allow_tf32 = true;
    c.tokens = 64;
  });
  expect_float32(f32_stream, "TF32 allowed, few tokens", [](Call& c) {
    c.allow_tf32 = true;
    c.tokens = 1;
  });
  expect_float32(fp32, "TF32 allowed, fp32 forced", [](Call& c) {
    c.allow_tf32 = true;
    c.forced = Kernel::kHopperFp32x256;
  });
  expect_float32(tf32, "TF32 forced", [](Call& c) { c.forced = Kernel::kHopperFp32Fastx256; });
  expect_changed(rows64, "TF32 allowed, float16", [](Call& c) { c.allow_tf32 = true; });
  for (const char* name :
       {panels, panels_narrow, split2, split4, split8, portable, f32_stream, stream, mma, rows64,
        rows128, narrow, narrow_split, fp32, fp32_128, tf32, tf32_128}) {
    EXPECT(kernel_named(name) && std::strcmp(kernel_name(*kernel_named(name)), name) == 0, "%s",
           name);
    EXPECT(kernel_names().find(name) != std::string::npos, "%s", name);
  }
  EXPECT(!kernel_named("Portable") && !kernel_named(""), "a name that no kernel has");
  return finish("test_kernel_choice");
}
