/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
/* The C boundary: what it refuses, with which words, and what altered memory cannot do. */
#include "support.h"

using namespace test;

namespace {

void pack_refuses(const char* what, const std::function<void(djlbsr_matrix&)>& spoil,
                  std::vector<std::string> fragments) {
  /* 3 x 4 blocks of 2 x 5: rows 0 and 2 hold two blocks, row 1 none. */
  std::vector<int32_t> crow = {0, 2, 2, 4};
  std::vector<int32_t> col = {0, 3, 1, 2};
  std::vector<float> values(40, 1.0f);
  djlbsr_matrix m = {};
  m.rows = 6;
  m.cols = 20;
  m.block_rows = 2;
  m.block_cols = 5;
  m.nnzb = 4;
  m.crow_indices = crow.data();
  m.col_indices = col.data();
  m.values = values.data();
  djlbsr_meta meta;
  EXPECT(djlbsr_pack_query(&m, DJLBSR_CPU, &meta) == DJLBSR_OK, "%s", djlbsr_last_error());
  spoil(m);
  expect_error(djlbsr_pack_query(&m, DJLBSR_CPU, &meta), DJLBSR_INVALID_ARGUMENT, fragments, what);
}

int32_t* mutable_crow(djlbsr_matrix& m) { return const_cast<int32_t*>(m.crow_indices); }
int32_t* mutable_col(djlbsr_matrix& m) { return const_cast<int32_t*>(m.col_indices); }

void structures() {
  using M = djlbsr_matrix&;
  pack_refuses("unsorted", [](M m) { std::swap(mutable_col(m)[0], mutable_col(m)[1]); },
               {"col_indices[1] is 0 after 3", "block-row 0", "sort"});
  pack_refuses("duplicate", [](M m) { mutable_col(m)[3] = 1; },
               {"col_indices[3] is 1 a second time", "block-row 2"});
  pack_refuses("too large", [](M m) { mutable_col(m)[3] = 4; }, {"col_indices[3] is 4", "0 to 3"});
  pack_refuses("negative", [](M m) { mutable_col(m)[0] = -1; }, {"col_indices[0] is -1"});
  pack_refuses("first crow", [](M m) { mutable_crow(m)[0] = 1; }, {"crow_indices[0] is 1"});
  pack_refuses("last crow", [](M m) { mutable_crow(m)[3] = 3; }, {"crow_indices[3] is 3", "4"});
  pack_refuses("falling crow", [](M m) { mutable_crow(m)[2] = 1; },
               {"crow_indices[2] is 1 after 2"});
  pack_refuses("crow past nnzb", [](M m) { mutable_crow(m)[1] = 2000000000; },
               {"crow_indices[1] is 2000000000"});
  pack_refuses("rows", [](M m) { m.rows = 7; }, {"rows is 7", "block_rows 2"});
  pack_refuses("cols", [](M m) { m.cols = 21; }, {"cols is 21", "block_cols 5"});
  pack_refuses("negative rows", [](M m) { m.rows = -2; }, {"rows is -2"});
  pack_refuses("huge cols", [](M m) { m.cols = int64_t{1} << 40; }, {"cols is 1099511627776"});
  pack_refuses("block_rows", [](M m) { m.block_rows = 0; }, {"block_rows is 0"});
  pack_refuses("block_cols", [](M m) { m.block_cols = -5; }, {"block_cols is -5"});
  pack_refuses("nnzb", [](M m) { m.nnzb = 13; }, {"nnzb is 13", "12 blocks"});
  pack_refuses("more bytes than can be counted",
               [](M m) {
                 m.rows = m.cols = m.block_rows = m.block_cols = 2147483647;
                 m.nnzb = 1;
                 mutable_crow(m)[1] = 1;
               },
               {"nnzb is 1", "2147483647 x 2147483647"});
  pack_refuses("dtype", [](M m) { m.dtype = 3; }, {"dtype is 3", "float32"});
  pack_refuses("weight_format", [](M m) { m.weight_format = 2; }, {"weight_format is 2", "int8"});
  pack_refuses("null crow", [](M m) { m.crow_indices = nullptr; }, {"crow_indices is null"});
  pack_refuses("null col", [](M m) { m.col_indices = nullptr; }, {"col_indices is null"});
}

/* What a meta that does not belong to the weight leads to. */
void metas() {
  Rng rng(3);
  Matrix m(rng, 3, 4, 2, 5, DJLBSR_FLOAT32, "full");
  Packed packed(m);
  djlbsr_info info;
  for (int word = 0; word < DJLBSR_META_WORDS; ++word) {
    for (int64_t change : {int64_t{1}, int64_t{-1}, int64_t{1} << 40}) {
      djlbsr_meta meta = packed.meta;
      meta.words[word] += change;
      EXPECT(djlbsr_meta_decode(&meta, &info) == DJLBSR_INVALID_ARGUMENT,
             "word %d changed by %lld was accepted", word, (long long)change);
    }
  }
  djlbsr_meta meta = packed.meta;
  meta.words[1] = DJLBSR_FORMAT_VERSION - 1;
  expect_error(djlbsr_meta_decode(&meta, &info), DJLBSR_INVALID_ARGUMENT,
               {"format version " + std::to_string(DJLBSR_FORMAT_VERSION - 1),
                "version " + std::to_string(DJLBSR_FORMAT_VERSION), "pack it again"},
               "version");

  /* As many blocks, in other places. */
  Matrix one(rng, 3, 4, 2, 5, DJLBSR_FLOAT32, "none");
  one.crow = {0, 1, 1, 1};
  one.col = {2};
  one.values = Array(DJLBSR_FLOAT32, 10);
  one.values.fill([] { return 1.0f; });
  Packed of_one(one);
  one.col = {3};
  const djlbsr_matrix view = one.view();
  expect_error(djlbsr_pack(&view, &of_one.meta, of_one.bytes, nullptr), DJLBSR_INVALID_ARGUMENT,
               {"another matrix"}, "foreign meta");
}

/* A forger knows the checksum: sizes that do not belong together are refused all the same. */
void forged_metas() {
  Rng rng(4);
  Matrix m(rng, 3, 4, 2, 5, DJLBSR_FLOAT32, "full");
  Packed packed(m);
  djlbsr_info info;
  for (int word = 2; word <= 10; ++word) { /* device to max_blocks_in_row */
    for (int64_t change : {int64_t{-20}, int64_t{1} << 33, int64_t{1} << 62}) {
      djlbsr_meta meta = packed.meta;
      meta.words[word] += change;
      uint64_t hash = 0xcbf29ce484222325ULL;
      for (int i = 0; i < DJLBSR_META_WORDS - 1; ++i) {
        hash = (hash ^ static_cast<uint64_t>(meta.words[i])) * 0x100000001b3ULL;
        hash ^= hash >> 32;
      }
      meta.words[DJLBSR_META_WORDS - 1] = static_cast<int64_t>(hash);
      EXPECT(djlbsr_meta_decode(&meta, &info) == DJLBSR_INVALID_ARGUMENT &&
                 std::strstr(djlbsr_last_error(), "checksum") == nullptr,
             "word %d changed by %lld: '%s'", word, (long long)change, djlbsr_last_error());
    }
  }
}

void linear_arguments() {
  Rng rng(5);
  Matrix m(rng, 3, 4, 2, 5, DJLBSR_FLOAT32, "full");
  Packed packed(m);
  std::vector<float> x(40), y(12);
  auto refuses = [&](const char* what, const std::function<void(djlbsr_linear_args&)>& spoil,
                     std::vector<std::string> fragments) {
    djlbsr_linear_args args = {};
    args.x = x.data();
    args.y = y.data();
    args.tokens = 2;
    args.x_stride = 20;
    args.y_stride = 6;
    EXPECT(djlbsr_linear(&packed.meta, packed.bytes, &args) == DJLBSR_OK, "%s",
           djlbsr_last_error());
    spoil(args);
    expect_error(djlbsr_linear(&packed.meta, packed.bytes, &args), DJLBSR_INVALID_ARGUMENT,
                 fragments, what);
  };
  using A = djlbsr_linear_args&;
  refuses("tokens", [](A a) { a.tokens = -1; }, {"tokens is -1"});
  refuses("x_stride", [](A a) { a.x_stride = 19; }, {"x_stride is 19", "cols, 20"});
  refuses("y_stride", [](A a) { a.y_stride = 5; }, {"y_stride is 5", "rows, 6"});
  refuses("overflow", [](A a) { a.tokens = int64_t{1} << 62; }, {"more than memory can hold"});
  refuses("activation", [](A a) { a.activation = 5; }, {"activation is 5"});
  refuses("threads", [](A a) { a.threads = -1; }, {"threads is -1"});
  refuses("x", [](A a) { a.x = nullptr; }, {"x is null"});
  refuses("y", [](A a) { a.y = nullptr; }, {"y is null"});
  refuses("aliased x", [&](A a) { a.y = x.data() + 39; }, {"y overlaps x"});
  refuses("aliased bias", [&](A a) { a.bias = y.data(); }, {"y overlaps bias"});
  refuses("aliased packed", [&](A a) { a.y = packed.bytes; }, {"y overlaps packed"});

  djlbsr_linear_args args = {};
  expect_error(djlbsr_linear(&packed.meta, nullptr, &args), DJLBSR_INVALID_ARGUMENT,
               {"packed is null"}, "packed");
  expect_error(djlbsr_linear(&packed.meta, packed.bytes + 4, &args), DJLBSR_INVALID_ARGUMENT,
               {"64-byte aligned"}, "alignment");
  expect_error(djlbsr_linear(nullptr, packed.bytes, &args), DJLBSR_INVALID_ARGUMENT,
               {"meta is null"}, "meta");
  expect_error(djlbsr_linear(&packed.meta, packed.bytes, nullptr), DJLBSR_INVALID_ARGUMENT,
               {"args is null"}, "args");
}

/* Random bytes in a packed weight: any numbers in all of y, no access outside (ASan watches). */
void altered_bytes() {
  Rng rng(9);
  for (int round = 0; round < 400; ++round) {
    /* Strips of 16 rows, for bf16 with an even number of columns, as often as any other block. */
    const bool strips = uniform(rng, 0, 1) == 1;
    const int64_t block_rows = strips ? 16 * uniform(rng, 1, 3) : uniform(rng, 1, 20);
    const int64_t block_cols = strips ? 16 * uniform(rng, 1, 3) : uniform(rng, 1, 9);
    Matrix m(rng, uniform(rng, 1, 6), uniform(rng, 1, 6), block_rows, block_cols,
             static_cast<int32_t>(round % 3), "random");
    /* Every other fp32 weight as int8. */
    m.weight_format = round % 6 == 0 ? DJLBSR_WEIGHT_INT8_BLOCKS : DJLBSR_WEIGHT_AS_GIVEN;
    Packed packed(m);
    const int64_t changes = uniform(rng, 1, packed.info.packed_bytes);
    for (int64_t i = 0; i < changes; ++i) {
      packed.bytes[uniform(rng, 0, packed.info.packed_bytes - 1)] =
          static_cast<char>(uniform(rng, 0, 255));
    }
    const int64_t tokens = uniform(rng, 1, 70);
    Array x(m.dtype, tokens * m.cols);
    x.fill([] { return 1.0f; });
    Array y(m.dtype, tokens * m.rows);
    const float poison = -12345.5f;
    y.fill([&] { return poison; });
    const float untouched = y.count() > 0 ? y.get(0) : 0;
    djlbsr_linear_args args = {};
    args.x = x.data();
    args.y = y.data();
    args.tokens = tokens;
    args.x_stride = m.cols;
    args.y_stride = m.rows;
    args.threads = static_cast<int32_t>(uniform(rng, 1, 3));
    EXPECT(djlbsr_linear(&packed.meta, packed.bytes, &args) == DJLBSR_OK, "%s",
           djlbsr_last_error());
    for (int64_t i = 0; i < y.count(); ++i) {
      EXPECT(y.get(i) != untouched, "%s: element %lld was not written", m.describe().c_str(),
             (long long)i);
    }
  }
}

/* Updated values give what packing them anew gives. */
void updated_values() {
  Rng rng(21);
  const struct {
    int32_t dtype;
    int32_t weight_format;
    int64_t block_rows;
  } kinds[] = {{DJLBSR_FLOAT32, DJLBSR_WEIGHT_AS_GIVEN, 3},
               {DJLBSR_FLOAT16, DJLBSR_WEIGHT_AS_GIVEN, 3},
               {DJLBSR_BFLOAT16, DJLBSR_WEIGHT_AS_GIVEN, 32},
               {DJLBSR_FLOAT32, DJLBSR_WEIGHT_INT8_BLOCKS, 20}};
  for (const auto& kind : kinds) {
    Matrix m(rng, 4, 4, kind.block_rows, 6, kind.dtype, "random", 0.6);
    m.weight_format = kind.weight_format;
    Packed updated(m);
    m.values.fill([&] { return static_cast<float>(uniform(rng, -9, 9)); });
    Packed fresh(m);
    EXPECT(
        djlbsr_update_values(&updated.meta, updated.bytes, m.values.data(), nullptr) == DJLBSR_OK,
        "%s", djlbsr_last_error());
    EXPECT(
        std::memcmp(updated.bytes, fresh.bytes, static_cast<size_t>(fresh.info.packed_bytes)) == 0,
        "%s: updated bytes differ from freshly packed ones", m.describe().c_str());
  }
}

void kernel_names() {
  Rng rng(11);
  const Matrix m(rng, 2, 3, 4, 8, DJLBSR_FLOAT32, "random", 0.5);
  const Packed packed(m);
  djlbsr_linear_args args = {};
  args.tokens = 5;
  args.x_stride = m.cols;
  args.y_stride = m.rows;
  const char* name = nullptr;
  EXPECT(djlbsr_kernel_name(&packed.meta, &args, &name) == DJLBSR_OK && name != nullptr &&
             std::strcmp(name, djlbsr_active_isa()) == 0,
         "kernel '%s', expected '%s': %s", name == nullptr ? "" : name, djlbsr_active_isa(),
         djlbsr_last_error());
  expect_error(djlbsr_kernel_name(nullptr, &args, &name), DJLBSR_INVALID_ARGUMENT, {"meta is null"},
               "meta");
  expect_error(djlbsr_kernel_name(&packed.meta, nullptr, &name), DJLBSR_INVALID_ARGUMENT,
               {"args is null"}, "args");
  expect_error(djlbsr_kernel_name(&packed.meta, &args, nullptr), DJLBSR_INVALID_ARGUMENT,
               {"name is null"}, "name");

  djlbsr_meta on_gpu;
  const djlbsr_matrix view = m.view();
  EXPECT(djlbsr_pack_query(&view, DJLBSR_CUDA, &on_gpu) == DJLBSR_OK, "%s", djlbsr_last_error());
  const int32_t status = djlbsr_kernel_name(&on_gpu, &args, &name);
  const bool expected = djlbsr_cuda_device_count() > 0
                            ? status == DJLBSR_OK && std::strlen(name) > 0
                            : status == DJLBSR_UNSUPPORTED || status == DJLBSR_CUDA_ERROR;
  EXPECT(expected, "status %d with %d GPUs: %s", status, djlbsr_cuda_device_count(),
         djlbsr_last_error());
}

void library() {
  EXPECT(std::strlen(djlbsr_version()) >= 5, "version '%s'", djlbsr_version());
  EXPECT(std::strstr(djlbsr_capabilities(), "cpu active: ") != nullptr, "capabilities '%s'",
         djlbsr_capabilities());
  const char* cap = std::getenv("DJLBSR_MAX_ISA");
  EXPECT(cap == nullptr || std::strcmp(cap, djlbsr_active_isa()) == 0,
         "active ISA %s under DJLBSR_MAX_ISA=%s", djlbsr_active_isa(), cap);
}

}  // namespace

int main() {
  skip_without_isa();
  structures();
  metas();
  forged_metas();
  linear_arguments();
  altered_bytes();
  updated_values();
  kernel_names();
  library();
  return finish("test_boundary");
}
