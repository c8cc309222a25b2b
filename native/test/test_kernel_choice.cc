/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
/* Which CUDA kernel serves which call. Prints the table that it checks. */
#include "cuda/kernel_choice.h"
#include "support.h"

using namespace test;
using djlbsr::cuda::kernel_choice;
using djlbsr::cuda::kernel_name;

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
  int64_t nnzb = 1000;
  int64_t rows = 0; /* 60 block-rows */
  int capability = 90;
};

void expect(const char* expected, const char* what, const Call& call) {
  djlbsr_info info = {};
  info.rows = call.rows > 0 ? call.rows : 60 * call.block_rows;
  info.cols = call.block_cols * (4096 / call.block_cols);
  info.block_rows = call.block_rows;
  info.block_cols = call.block_cols;
  info.nnzb = call.nnzb;
  info.dtype = call.dtype;
  info.device = DJLBSR_CUDA;
  djlbsr_linear_args args = {};
  args.x = reinterpret_cast<const void*>(call.x);
  args.y = reinterpret_cast<void*>(call.y);
  args.tokens = call.tokens;
  args.x_stride = call.x_stride;
  args.y_stride = call.y_stride;
  const char* actual = kernel_name(kernel_choice(info, args, call.capability));
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
  const char* const rows64 = "hopper_64x512";
  const char* const rows128 = "hopper_128x256";
  for (int32_t dtype : {DJLBSR_FLOAT16, DJLBSR_BFLOAT16}) {
    const struct {
      int64_t rows, cols;
      const char* kernel;
    } blocks[] = {{64, 64, rows64},    {64, 128, rows64},  {192, 64, rows64},   {320, 256, rows64},
                  {128, 128, rows128}, {128, 64, rows128}, {256, 192, rows128}, {32, 64, portable},
                  {64, 32, portable},  {96, 64, portable}, {64, 96, portable},  {1, 64, portable},
                  {640, 1, portable}};
    for (const auto& block : blocks) {
      Call call;
      call.dtype = dtype;
      call.block_rows = block.rows;
      call.block_cols = block.cols;
      expect(block.kernel, "block", call);
    }
  }
  expect_changed(portable, "float32", [](Call& c) { c.dtype = DJLBSR_FLOAT32; });
  expect_changed(portable, "few tokens", [](Call& c) { c.tokens = 63; });
  expect_changed(rows64, "just enough tokens", [](Call& c) { c.tokens = 64; });
  for (int capability : {75, 80, 89, 100, 120}) {
    expect_changed(portable, "device", [=](Call& c) { c.capability = capability; });
  }
  expect_changed(portable, "x repeats a row", [](Call& c) { c.x_stride = 0; });
  expect_changed(portable, "x at 8 bytes", [](Call& c) { c.x += 8; });
  expect_changed(rows64, "x at 16 bytes", [](Call& c) { c.x += 16; });
  expect_changed(portable, "x_stride of 8 bytes", [](Call& c) { c.x_stride += 4; });
  expect_changed(rows64, "x_stride of 16 bytes", [](Call& c) { c.x_stride += 8; });
  expect_changed(portable, "y at 8 bytes", [](Call& c) { c.y += 8; });
  expect_changed(portable, "y_stride of 2 bytes", [](Call& c) { c.y_stride += 1; });
  expect_changed(portable, "nothing stored", [](Call& c) { c.nnzb = 0; });
  expect_changed(rows64, "2^31 - 64 stored rows", [](Call& c) { c.nnzb = (1 << 25) - 1; });
  expect_changed(portable, "2^31 stored rows", [](Call& c) { c.nnzb = 1 << 25; });
  expect_changed(portable, "2^31 tokens", [](Call& c) { c.tokens = int64_t{1} << 31; });
  expect_changed(portable, "x_stride of 2^40 bytes",
                 [](Call& c) { c.x_stride = int64_t{1} << 39; });
  expect_changed(portable, "2^31 tiles", [](Call& c) {
    c.tokens = 1 << 29;
    c.rows = 1 << 18;
  });
  return finish("test_kernel_choice");
}
