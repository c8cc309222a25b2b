/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
/*
 * The operators in a process with libtorch but without its headers, Python or a JVM:
 *   DJLBSR_TEST_LIBTORCH=<folder of libtorch_cpu.so> test_torch libdjlbsr.so torch_first
 * Loads both libraries as a JVM does, RTLD_LOCAL, and in the order asked for.
 */
#include <dlfcn.h>
#include <unistd.h>

#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "djlbsr.h"
#include "torch/tensor.h"

namespace {

using namespace djlbsr::torch;

int failures = 0;

#define EXPECT(condition, ...)                                             \
  do {                                                                     \
    if (!(condition)) {                                                    \
      ++failures;                                                          \
      std::fprintf(stderr, "%s:%d: %s: ", __FILE__, __LINE__, #condition); \
      std::fprintf(stderr, __VA_ARGS__);                                   \
      std::fprintf(stderr, "\n");                                          \
    }                                                                      \
  } while (0)

/* libdjlbsr's functions, as a JVM would find them. */
struct Library {
  explicit Library(const char* path) : handle(dlopen(path, RTLD_NOW | RTLD_LOCAL)) {
    if (handle == nullptr) {
      std::fprintf(stderr, "%s\n", dlerror());
      std::exit(1);
    }
  }
  template <typename Function>
  Function* get(const char* name) const {
    return reinterpret_cast<Function*>(dlsym(handle, name));
  }
  std::string last_error() const { return get<decltype(djlbsr_last_error)>("djlbsr_last_error")(); }
  void* handle;
};

template <typename T>
OwnedTensor make(const std::vector<int64_t>& sizes, int32_t dtype, const std::vector<T>& data) {
  OwnedTensor tensor = empty(sizes, dtype, false, 0);
  if (!data.empty()) {
    std::memcpy(Tensor("made", tensor.get()).data(), data.data(), data.size() * sizeof(T));
  }
  return tensor;
}

OwnedTensor floats(const std::vector<int64_t>& sizes, const std::vector<float>& data) {
  return make(sizes, abi().dtype_float32(), data);
}

StableIValue share(const OwnedTensor& tensor) {
  TensorHandle handle = nullptr;
  abi().new_tensor_handle(tensor.get(), &handle);
  return reinterpret_cast<StableIValue>(handle);
}

StableIValue optional(const OwnedTensor& tensor) {
  return tensor ? reinterpret_cast<StableIValue>(new StableIValue(share(tensor))) : 0;
}

OwnedTensor take(StableIValue value) { return OwnedTensor(reinterpret_cast<TensorHandle>(value)); }

djlbsr_tensor id(const OwnedTensor& tensor) {
  return reinterpret_cast<djlbsr_tensor>(tensor.get());
}

/* 6x8 weights of 2x4 blocks: block-row 0 holds column 1, 1 none, 2 both. */
struct Example {
  static constexpr int64_t kRows = 6;
  static constexpr int64_t kCols = 8;
  static constexpr int64_t kTokens = 5;
  std::vector<float> values, x, bias;
  OwnedTensor crow, col, values_tensor, input, bias_tensor, packed, meta;

  Example() : values(24), x(kTokens * kCols), bias(kRows) {
    std::mt19937 rng(5);
    std::normal_distribution<float> normal;
    for (auto* data : {&values, &x, &bias}) {
      for (float& v : *data) v = normal(rng);
    }
    crow = make<int64_t>({4}, abi().dtype_int64(), {0, 1, 1, 3});
    col = make<int32_t>({3}, abi().dtype_int32(), {1, 0, 1});
    values_tensor = floats({3, 2, 4}, values);
    input = floats({kTokens, kCols}, x);
    bias_tensor = floats({kRows}, bias);
  }

  double expected(int64_t token, int64_t row, bool with_bias, bool relu) const {
    const int crows[] = {0, 1, 1, 3};
    const int cols[] = {1, 0, 1};
    double sum = with_bias ? bias[row] : 0;
    for (int b = crows[row / 2]; b < crows[row / 2 + 1]; ++b) {
      for (int k = 0; k < 4; ++k) {
        sum += static_cast<double>(values[(b * 2 + row % 2) * 4 + k]) *
               x[token * kCols + cols[b] * 4 + k];
      }
    }
    return relu && sum < 0 ? 0 : sum;
  }

  /* Rows of the output may come from a permuted or repeated input. */
  void check(
      const OwnedTensor& output, const char* what, bool with_bias, bool relu,
      const std::function<int64_t(int64_t)>& token_of = [](int64_t t) { return t; }) const {
    if (!output) {
      EXPECT(false, "%s gave nothing", what);
      return;
    }
    const Tensor y("output", output.get());
    const auto* data = static_cast<const float*>(y.data());
    EXPECT(y.is_contiguous() && y.size(y.dim() - 1) == kRows, "%s: shape %s", what,
           y.shape_text().c_str());
    for (int64_t i = 0; i < y.numel(); ++i) {
      const double e = expected(token_of(i / kRows), i % kRows, with_bias, relu);
      EXPECT(std::fabs(data[i] - e) <= 1e-5, "%s: element %lld is %g, expected %g", what,
             (long long)i, data[i], e);
    }
  }
};

/* Functions of one loaded copy with the names of their operators. */
struct Operators {
  explicit Operators(const Library& l)
      : library(l),
        pack(l.get<decltype(djlbsr_torch_pack)>("djlbsr_torch_pack")),
        linear(l.get<decltype(djlbsr_torch_linear)>("djlbsr_torch_linear")),
        update(l.get<decltype(djlbsr_torch_update_values)>("djlbsr_torch_update_values")),
        version_of(l.get<decltype(djlbsr_torch_version_of)>("djlbsr_torch_version_of")) {}
  const Library& library;
  decltype(&djlbsr_torch_pack) pack;
  decltype(&djlbsr_torch_linear) linear;
  decltype(&djlbsr_torch_update_values) update;
  decltype(&djlbsr_torch_version_of) version_of;

  OwnedTensor run(const OwnedTensor& input, const Example& e, const OwnedTensor& bias,
                  int32_t activation) const {
    djlbsr_tensor output = 0;
    const int32_t status =
        linear(id(input), id(e.packed), id(e.meta), id(bias), activation, &output);
    EXPECT(status == DJLBSR_OK, "%s", library.last_error().c_str());
    return take(static_cast<StableIValue>(output));
  }

  void refuse(int32_t status, const char* fragment) const {
    const std::string text = library.last_error();
    EXPECT(status == DJLBSR_INVALID_ARGUMENT && text.find(fragment) != std::string::npos,
           "status %d, no '%s' in '%s'", status, fragment, text.c_str());
  }
};

void direct_calls(const Operators& ops, Example& e) {
  djlbsr_tensor packed = 0;
  djlbsr_tensor meta = 0;
  EXPECT(ops.pack(id(e.crow), id(e.col), id(e.values_tensor), Example::kCols, 0, &packed, &meta) ==
             DJLBSR_OK,
         "%s", ops.library.last_error().c_str());
  e.packed = take(static_cast<StableIValue>(packed));
  e.meta = take(static_cast<StableIValue>(meta));
  e.check(ops.run(e.input, e, e.bias_tensor, DJLBSR_NONE), "contiguous", true, false);
  e.check(ops.run(e.input, e, nullptr, DJLBSR_RELU), "ReLU without bias", false, true);

  const auto view = [&](std::vector<int64_t> sizes, std::vector<int64_t> strides) {
    using Function =
        int32_t(TensorHandle, int64_t, const int64_t*, const int64_t*, int64_t, TensorHandle*);
    static auto* reinterpret = reinterpret_cast<Function*>(dlsym(
        dlopen("libtorch_cpu.so", RTLD_LAZY | RTLD_NOLOAD), "aoti_torch__reinterpret_tensor"));
    TensorHandle handle = nullptr;
    reinterpret(e.input.get(), static_cast<int64_t>(sizes.size()), sizes.data(), strides.data(), 0,
                &handle);
    return OwnedTensor(handle);
  };
  e.check(ops.run(view({8}, {1}), e, nullptr, 0), "one dimension", false, false);
  e.check(ops.run(view({2, 3, 8}, {0, 8, 1}), e, nullptr, 0), "expanded before", false, false,
          [](int64_t t) { return t % 3; });
  e.check(ops.run(view({2, 3, 8}, {8, 0, 1}), e, nullptr, 0), "expanded inside", false, false,
          [](int64_t t) { return t / 3; });
  e.check(ops.run(view({4, 8}, {0, 1}), e, nullptr, 0), "one row repeated", false, false,
          [](int64_t) { return 0; });
  e.check(ops.run(view({3, 8}, {16, 1}), e, nullptr, 0), "every other row", false, false,
          [](int64_t t) { return 2 * t; });
  e.check(ops.run(view({0, 8}, {8, 1}), e, nullptr, 0), "no token", false, false);

  /* A transposed input: column-major storage of the same numbers. */
  std::vector<float> columns(e.x.size());
  for (int64_t t = 0; t < Example::kTokens; ++t) {
    for (int64_t k = 0; k < Example::kCols; ++k) {
      columns[k * Example::kTokens + t] = e.x[t * Example::kCols + k];
    }
  }
  const OwnedTensor original = std::move(e.input);
  e.input = floats({Example::kCols, Example::kTokens}, columns);
  const OwnedTensor transposed = view({Example::kTokens, Example::kCols}, {1, Example::kTokens});
  e.check(ops.run(transposed, e, e.bias_tensor, 0), "transposed", true, false);
  e.input = floats({Example::kTokens, Example::kCols}, e.x);

  for (float& v : e.values) v = -v;
  e.values_tensor = floats({3, 2, 4}, e.values);
  EXPECT(ops.update(id(e.packed), id(e.meta), id(e.values_tensor)) == DJLBSR_OK, "%s",
         ops.library.last_error().c_str());
  e.check(ops.run(e.input, e, e.bias_tensor, 0), "updated values", true, false);
}

void bad_arguments(const Operators& ops, const Example& e) {
  djlbsr_tensor out = 0;
  djlbsr_tensor meta = 0;
  const auto linear = [&](const OwnedTensor& input, const OwnedTensor& packed, const OwnedTensor& m,
                          const OwnedTensor& bias, int32_t activation = 0) {
    return ops.linear(id(input), id(packed), id(m), id(bias), activation, &out);
  };
  const OwnedTensor wide = floats({2, 9}, std::vector<float>(18));
  const OwnedTensor doubles = empty({2, 8}, 7, false, 0);
  const OwnedTensor halves = empty({2, 8}, abi().dtype_float16(), false, 0);
  const OwnedTensor scalar = floats({}, {1});
  const OwnedTensor truncated = empty({1024}, abi().dtype_uint8(), false, 0);
  const OwnedTensor zeros = make<int64_t>({16}, abi().dtype_int64(), std::vector<int64_t>(16));
  ops.refuse(linear(nullptr, e.packed, e.meta, nullptr), "input is null");
  ops.refuse(linear(wide, e.packed, e.meta, nullptr), "input has shape [2, 9]");
  ops.refuse(linear(doubles, e.packed, e.meta, nullptr), "input has dtype float64");
  ops.refuse(linear(halves, e.packed, e.meta, nullptr), "input is float16 and the weight float32");
  ops.refuse(linear(scalar, e.packed, e.meta, nullptr), "input has shape []");
  ops.refuse(linear(e.input, truncated, e.meta, nullptr), "packed has 1024 bytes");
  ops.refuse(linear(e.input, e.input, e.meta, nullptr), "packed is a tensor of dtype float32");
  ops.refuse(linear(e.input, e.packed, zeros, nullptr), "meta does not start");
  ops.refuse(linear(e.input, e.packed, e.input, nullptr), "meta is a tensor of dtype float32");
  ops.refuse(linear(e.input, e.packed, e.meta, e.input), "bias has shape [5, 8]");
  ops.refuse(linear(e.input, e.packed, e.meta, halves), "bias is float16");
  ops.refuse(linear(e.input, e.packed, e.meta, nullptr, 5), "activation is 5");

  const auto pack = [&](const OwnedTensor& crow, const OwnedTensor& col, const OwnedTensor& values,
                        int64_t in_features = 8, int32_t weight_format = 0) {
    return ops.pack(id(crow), id(col), id(values), in_features, weight_format, &out, &meta);
  };
  const int32_t int64 = abi().dtype_int64();
  const OwnedTensor large = make<int64_t>({3}, int64, {0, 1, int64_t{1} << 40});
  const OwnedTensor descending = make<int64_t>({3}, int64, {1, 1, 0});
  const OwnedTensor two = make<int64_t>({2}, int64, {0, 1});
  ops.refuse(pack(e.crow, large, e.values_tensor), "col_indices[2] is 1099511627776");
  ops.refuse(pack(e.crow, descending, e.values_tensor), "col_indices[2] is 0 after 1");
  ops.refuse(pack(e.crow, two, e.values_tensor), "col_indices has 2 elements");
  ops.refuse(pack(e.values_tensor, e.col, e.values_tensor), "crow_indices has dtype float32");
  ops.refuse(pack(e.crow, e.col, e.input), "values has shape [5, 8]");
  ops.refuse(pack(e.crow, e.col, e.values_tensor, 10), "cols is 10");
  ops.refuse(pack(e.crow, e.col, e.values_tensor, 8, 2), "weight_format is 2");
  ops.refuse(ops.update(id(e.packed), id(e.meta), id(e.input)), "values has shape [5, 8]");
}

void dispatched(const Example& e) {
  StableIValue pack_stack[5] = {share(e.crow), share(e.col), share(e.values_tensor), Example::kCols,
                                DJLBSR_WEIGHT_AS_GIVEN};
  EXPECT(abi().call_dispatcher("bsr::pack", "", pack_stack) == 0, "bsr::pack");
  const OwnedTensor packed = take(pack_stack[0]);
  const OwnedTensor meta = take(pack_stack[1]);
  for (const bool with_bias : {false, true}) {
    const StableIValue activation = with_bias ? DJLBSR_RELU : DJLBSR_NONE;
    StableIValue stack[6] = {
        share(e.input), share(packed),
        share(meta),    optional(with_bias ? OwnedTensor(take(share(e.bias_tensor))) : nullptr),
        activation,     0};
    EXPECT(abi().call_dispatcher("bsr::linear_packed", "", stack) == 0, "bsr::linear_packed");
    e.check(take(stack[0]), "bsr::linear_packed", with_bias, with_bias);
    StableIValue whole[6] = {
        share(e.input),
        share(e.crow),
        share(e.col),
        share(e.values_tensor),
        optional(with_bias ? OwnedTensor(take(share(e.bias_tensor))) : nullptr),
        activation};
    EXPECT(abi().call_dispatcher("bsr::linear", "", whole) == 0, "bsr::linear");
    e.check(take(whole[0]), "bsr::linear", with_bias, with_bias);
  }
}

/* The operators have no gradient, so they refuse to give a detached result where one is recorded.
 */
void gradient(const Operators& ops, const Example& e) {
  const OwnedTensor input = floats({Example::kTokens, Example::kCols}, e.x);
  StableIValue requires_grad[2] = {share(input), 1};
  EXPECT(abi().call_dispatcher("aten::requires_grad_", "", requires_grad) == 0, "requires_grad_");
  take(requires_grad[0]);
  using Function = void(bool);
  auto* const set_grad_mode = reinterpret_cast<Function*>(dlsym(
      dlopen("libtorch_cpu.so", RTLD_LAZY | RTLD_NOLOAD), "aoti_torch_grad_mode_set_enabled"));
  for (const bool recording : {true, false}) {
    set_grad_mode(recording);
    StableIValue stack[6] = {share(input), share(e.packed), share(e.meta), 0, 0, 0};
    const int32_t status = abi().call_dispatcher("bsr::linear_packed", "", stack);
    EXPECT((status != 0) == recording, "status %d with grad mode %d", status, recording);
    if (status == 0) e.check(take(stack[0]), "without grad mode", false, false);
  }
  set_grad_mode(true);
  e.check(ops.run(input, e, nullptr, 0), "a direct call", false, false);
}

/*
 * Which side a call takes, told apart by a dense weight of twice the values: with a profile that
 * makes either slow, and under DJLBSR_EXECUTION.
 */
void choice(const Library& library, const Example& e) {
  const auto set_profile = library.get<decltype(djlbsr_set_profile)>("djlbsr_set_profile");
  const auto predict = library.get<decltype(djlbsr_torch_predict)>("djlbsr_torch_predict");
  std::vector<float> twice(Example::kRows * Example::kCols);
  for (int64_t row = 0; row < Example::kRows; ++row) {
    const int crows[] = {0, 1, 1, 3};
    const int cols[] = {1, 0, 1};
    for (int b = crows[row / 2]; b < crows[row / 2 + 1]; ++b) {
      for (int k = 0; k < 4; ++k) {
        twice[row * Example::kCols + cols[b] * 4 + k] = 2 * e.values[(b * 2 + row % 2) * 4 + k];
      }
    }
  }
  const OwnedTensor dense = floats({Example::kRows, Example::kCols}, twice);
  const char* variable = std::getenv("DJLBSR_EXECUTION");
  const std::string mode = variable == nullptr ? "auto" : variable;
  for (const bool dense_fast : {true, false}) {
    std::vector<double> seconds(DJLBSR_PROFILE_POINTS, dense_fast ? 1.0 : 1e-3);
    for (int i = 0; i < DJLBSR_PROFILE_POINTS / 7; ++i) seconds[i] = dense_fast ? 1e-3 : 1.0;
    EXPECT(set_profile(DJLBSR_FLOAT32, seconds.data()) == DJLBSR_OK, "%s",
           library.last_error().c_str());
    double bsr_seconds = 0;
    double dense_seconds = 0;
    int32_t chosen = -1;
    EXPECT(predict(id(e.packed), id(e.meta), Example::kTokens, DJLBSR_NONE, &bsr_seconds,
                   &dense_seconds, &chosen) == DJLBSR_OK,
           "%s", library.last_error().c_str());
    EXPECT(chosen == (dense_fast ? 1 : 0) && (dense_seconds < bsr_seconds) == dense_fast,
           "%d for %g and %g seconds", chosen, bsr_seconds, dense_seconds);
    const bool dense_runs = mode == "dense" || (mode == "auto" && dense_fast);
    for (int activation = DJLBSR_NONE; activation <= DJLBSR_SILU; ++activation) {
      StableIValue stack[6] = {share(e.input),
                               share(e.packed),
                               share(e.meta),
                               optional(OwnedTensor(take(share(e.bias_tensor)))),
                               static_cast<StableIValue>(activation),
                               optional(OwnedTensor(take(share(dense))))};
      EXPECT(abi().call_dispatcher("bsr::linear_packed", "", stack) == 0, "with a dense weight");
      const OwnedTensor output = take(stack[0]);
      const Tensor y("output", output.get());
      for (int64_t i = 0; i < y.numel(); ++i) {
        const int64_t row = i % Example::kRows;
        const double bias = e.bias[row];
        const double sum = e.expected(i / Example::kRows, row, false, false);
        const double z = (dense_runs ? 2 : 1) * sum + bias;
        const double cubic = std::sqrt(2 / M_PI) * (z + 0.044715 * z * z * z);
        const double expected[] = {z, z < 0 ? 0 : z, z / 2 * std::erfc(-z / std::sqrt(2)),
                                   z / 2 * (1 + std::tanh(cubic)), z / (1 + std::exp(-z))};
        const float actual = static_cast<const float*>(y.data())[i];
        EXPECT(std::fabs(actual - expected[activation]) <= 1e-5,
               "%s, dense %s, activation %d: element %lld is %g, expected %g", mode.c_str(),
               dense_fast ? "fast" : "slow", activation, (long long)i, actual,
               expected[activation]);
      }
    }
  }
  set_profile(DJLBSR_FLOAT32, nullptr);

  /* Refused whichever side would run. */
  const OwnedTensor wide = floats({6, 9}, std::vector<float>(54));
  const OwnedTensor halves = empty({6, 8}, abi().dtype_float16(), false, 0);
  for (const OwnedTensor* bad : {&wide, &halves}) {
    StableIValue stack[6] = {share(e.input),
                             share(e.packed),
                             share(e.meta),
                             0,
                             0,
                             optional(OwnedTensor(take(share(*bad))))};
    EXPECT(abi().call_dispatcher("bsr::linear_packed", "", stack) != 0, "a wrong dense weight");
  }
}

/* A measured profile is one that djlbsr_set_profile takes, and larger products take longer. */
void measured_profile(const Library& library) {
  const auto measure =
      library.get<decltype(djlbsr_torch_measure_profile)>("djlbsr_torch_measure_profile");
  const auto set_profile = library.get<decltype(djlbsr_set_profile)>("djlbsr_set_profile");
  for (const int32_t dtype : {DJLBSR_FLOAT32, DJLBSR_FLOAT16, DJLBSR_BFLOAT16}) {
    std::vector<double> seconds(DJLBSR_PROFILE_POINTS);
    const auto start = std::chrono::steady_clock::now();
    EXPECT(measure(dtype, seconds.data()) == DJLBSR_OK, "%s", library.last_error().c_str());
    const std::chrono::duration<double> time = std::chrono::steady_clock::now() - start;
    std::printf("djlbsr_torch_measure_profile, dtype %d: %.2f s\n", dtype, time.count());
    EXPECT(set_profile(dtype, seconds.data()) == DJLBSR_OK, "%s", library.last_error().c_str());
    for (int kind = 0; kind < 7; ++kind) {
      EXPECT(seconds[kind * 24] < seconds[kind * 24 + 23], "kind %d: %g s for the least, %g s",
             kind, seconds[kind * 24], seconds[kind * 24 + 23]);
    }
    set_profile(dtype, nullptr);
  }
  EXPECT(measure(7, nullptr) == DJLBSR_INVALID_ARGUMENT, "no room");
  double room[DJLBSR_PROFILE_POINTS];
  EXPECT(measure(7, room) == DJLBSR_INVALID_ARGUMENT, "dtype 7");
}

int64_t resident_pages() {
  int64_t size = 0;
  int64_t resident = 0;
  std::ifstream("/proc/self/statm") >> size >> resident;
  return resident;
}

/* Neither results nor failures may leave a tensor behind. */
void no_growth(const Operators& ops, const Example& e) {
  const OwnedTensor input = floats({64, 8}, std::vector<float>(512));
  const OwnedTensor wide = floats({2, 9}, std::vector<float>(18));
  const auto round = [&](int calls) {
    for (int i = 0; i < calls; ++i) {
      ops.run(input, e, e.bias_tensor, DJLBSR_GELU);
      djlbsr_tensor output = 0;
      ops.linear(id(wide), id(e.packed), id(e.meta), id(e.bias_tensor), 0, &output);
      dispatched(e);
    }
  };
  round(200);
  const int64_t before = resident_pages();
  round(3000);
  const int64_t grown = (resident_pages() - before) * sysconf(_SC_PAGESIZE);
  EXPECT(grown < 2 << 20, "%lld bytes more after 3000 calls", (long long)grown);
}

void versions(const Operators& ops, const Example& e) {
  const OwnedTensor tensor = floats({5, 8}, e.x);
  const int64_t before = ops.version_of(id(tensor));
  abi().copy(tensor.get(), e.input.get(), 0);
  const int64_t after = ops.version_of(id(tensor));
  EXPECT(before >= 0 && after == before + 1, "version %lld after %lld", (long long)after,
         (long long)before);
  EXPECT(ops.version_of(0) == -1, "the version of no tensor");
}

void print_cost(const char* what, const std::function<void()>& call) {
  constexpr int kCalls = 20000;
  const auto start = std::chrono::steady_clock::now();
  for (int i = 0; i < kCalls; ++i) call();
  const std::chrono::duration<double, std::micro> time = std::chrono::steady_clock::now() - start;
  std::printf("%s: %.2f us a call\n", what, time.count() / kCalls);
}

/* A second copy of the library in the process must load, work and say why it is not registered. */
void second_copy(const char* path, const Example& e) {
  const std::string copy = std::string(path) + ".copy";
  std::ofstream(copy, std::ios::binary) << std::ifstream(path, std::ios::binary).rdbuf();
  const Library library(copy.c_str());
  std::remove(copy.c_str());
  const int32_t status = library.get<decltype(djlbsr_torch_register)>("djlbsr_torch_register")();
  EXPECT(status == DJLBSR_TORCH_ERROR &&
             library.last_error().find("another copy of libdjlbsr") != std::string::npos,
         "status %d, '%s'", status, library.last_error().c_str());
  e.check(Operators(library).run(e.input, e, e.bias_tensor, 0), "second copy", true, false);
  dispatched(e);
}

}  // namespace

int main(int argc, char** argv) {
  const char* folder = std::getenv("DJLBSR_TEST_LIBTORCH");
  if (folder == nullptr || *folder == 0) {
    std::printf("skipped: DJLBSR_TEST_LIBTORCH does not name a folder with libtorch_cpu.so\n");
    return 77;
  }
  if (argc != 3) {
    std::fprintf(stderr, "usage: test_torch libdjlbsr.so torch_first|library_first\n");
    return 2;
  }
  const bool torch_first = std::strcmp(argv[2], "torch_first") == 0;
  const auto load_torch = [&] {
    if (dlopen((std::string(folder) + "/libtorch_cpu.so").c_str(), RTLD_NOW | RTLD_LOCAL) ==
        nullptr) {
      std::fprintf(stderr, "%s\n", dlerror());
      std::exit(1);
    }
  };
  if (torch_first) load_torch();
  const Library library(argv[1]);
  auto* const register_operators =
      library.get<decltype(djlbsr_torch_register)>("djlbsr_torch_register");
  if (!torch_first) {
    EXPECT(register_operators() == DJLBSR_UNSUPPORTED, "registered without PyTorch");
    EXPECT(library.last_error().find("libtorch_cpu.so is not loaded") != std::string::npos, "'%s'",
           library.last_error().c_str());
    load_torch();
    EXPECT(register_operators() == DJLBSR_OK, "%s", library.last_error().c_str());
  }
  std::printf("%s", library.get<decltype(djlbsr_capabilities)>("djlbsr_capabilities")());

  Example e;
  const Operators ops(library);
  dispatched(e); /* before any explicit registration where PyTorch came first */
  EXPECT(register_operators() == DJLBSR_OK, "%s", library.last_error().c_str());
  direct_calls(ops, e);
  dispatched(e);
  bad_arguments(ops, e);
  versions(ops, e);
  gradient(ops, e);
  choice(library, e);
  measured_profile(library);
  no_growth(ops, e);
  print_cost("djlbsr_torch_linear, 5 tokens", [&] { ops.run(e.input, e, e.bias_tensor, 0); });
  print_cost("djlbsr_torch_version_of", [&] { ops.version_of(id(e.input)); });
  second_copy(argv[1], e);
  std::printf("test_torch %s: %s\n", argv[2], failures == 0 ? "passed" : "FAILED");
  return failures == 0 ? 0 : 1;
}
