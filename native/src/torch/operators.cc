/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
#include "torch/operators.h"

#include <dlfcn.h>

#include <cstring>
#include <initializer_list>
#include <mutex>
#include <optional>
#include <utility>

#include "choice/profiles.h"
#include "common/error.h"
#include "common/meta.h"
#include "cpu/cpu_backend.h"
#include "cuda/cuda_backend.h"
#include "djlbsr.h"
#include "torch/dense.h"
#include "torch/device_scope.h"
#include "torch/tensor.h"

namespace djlbsr::torch {
namespace {

/* Turns the status of a function of djlbsr.h back into an exception. */
void check_status(int32_t status) {
  if (status != DJLBSR_OK) throw Error(status, djlbsr_last_error());
}

/* A packed tensor and its meta, checked against each other. */
struct PackedWeight {
  djlbsr_meta meta;
  djlbsr_info info;
  void* data;
};

PackedWeight read_packed(const Tensor& packed, const Tensor& meta) {
  const Abi& torch = abi();
  DJLBSR_CHECK(!meta.is_cuda(),
               "meta is on %s; it must stay on the CPU (after moving a module to another device, "
               "pack its weight there with bsr::pack)",
               meta.device_text().c_str());
  DJLBSR_CHECK(
      meta.dtype() == torch.dtype_int64() && meta.dim() == 1 && meta.size(0) == DJLBSR_META_WORDS &&
          meta.is_contiguous(),
      "meta is a tensor of dtype %s and shape %s; pass the int64 tensor [%d] that bsr::pack "
      "gave",
      meta.dtype_text().c_str(), meta.shape_text().c_str(), DJLBSR_META_WORDS);
  PackedWeight weight;
  std::memcpy(&weight.meta, meta.data(), sizeof(weight.meta));
  weight.info = decode(weight.meta);
  DJLBSR_CHECK(packed.dtype() == torch.dtype_uint8() && packed.dim() == 1 && packed.is_contiguous(),
               "packed is a tensor of dtype %s and shape %s; pass the contiguous uint8 tensor that "
               "bsr::pack gave",
               packed.dtype_text().c_str(), packed.shape_text().c_str());
  DJLBSR_CHECK(packed.size(0) == weight.info.packed_bytes,
               "packed has %lld bytes where its meta needs %lld; it was truncated or belongs to "
               "another weight, so pack the weight again",
               (long long)packed.size(0), (long long)weight.info.packed_bytes);
  DJLBSR_CHECK(
      packed.is_cuda() == (weight.info.device == DJLBSR_CUDA),
      "the weight was packed for %s and packed is on %s; pack it again on that device with "
      "bsr::pack",
      device_name(weight.info.device), packed.device_text().c_str());
  weight.data = packed.data();
  const uintptr_t alignment = packed.is_cuda() ? 256 : 64;
  DJLBSR_CHECK(reinterpret_cast<uintptr_t>(weight.data) % alignment == 0,
               "packed is a view at %p that is not %d-byte aligned; pass packed.clone()",
               weight.data, static_cast<int>(alignment));
  return weight;
}

/* The rows of an input as djlbsr_linear takes them. */
struct Rows {
  int64_t tokens;
  int64_t stride;
};

int64_t count_rows(const Tensor& input) {
  input.numel(); /* no product overflows */
  int64_t tokens = 1;
  for (int64_t d = 0; d + 1 < input.dim(); ++d) tokens *= input.size(d);
  return tokens;
}

/* The leading dimensions as one, or nothing where no single row stride describes them. */
std::optional<Rows> collapse(const Tensor& input) {
  const int64_t cols = input.size(input.dim() - 1);
  if (count_rows(input) == 0) return Rows{0, cols};
  if (cols > 1 && input.stride(input.dim() - 1) != 1) return std::nullopt;
  Rows rows = {1, cols};
  for (int64_t d = input.dim() - 2; d >= 0; --d) {
    if (input.size(d) == 1) continue;
    if (rows.tokens == 1) {
      rows.stride = input.stride(d);
    } else if (input.stride(d) != rows.stride * rows.tokens) {
      return std::nullopt;
    }
    rows.tokens *= input.size(d);
  }
  if (rows.stride != 0 && rows.stride < cols) return std::nullopt;
  return rows;
}

/* dense_handle may be null. */
OwnedTensor linear_packed(TensorHandle input_handle, TensorHandle packed_handle,
                          TensorHandle meta_handle, TensorHandle bias_handle, int64_t activation,
                          TensorHandle dense_handle) {
  DJLBSR_CHECK(activation >= DJLBSR_NONE && activation <= DJLBSR_SILU,
               "activation is %lld; use 0 (none), 1 (ReLU), 2 (GELU), 3 (tanh GELU) or 4 (SiLU)",
               (long long)activation);
  const Tensor input("input", input_handle);
  const Tensor packed("packed", packed_handle);
  const PackedWeight weight = read_packed(packed, Tensor("meta", meta_handle));
  const djlbsr_info& info = weight.info;
  packed.check_same_device(input);
  DJLBSR_CHECK(input.element_type() == info.dtype,
               "input is %s and the weight %s; convert one of them",
               dtype_name(input.element_type()), dtype_name(info.dtype));
  DJLBSR_CHECK(input.dim() >= 1 && input.size(input.dim() - 1) == info.cols,
               "input has shape %s; its last dimension must be in_features, %lld",
               input.shape_text().c_str(), (long long)info.cols);

  std::optional<Contiguous> bias_memory;
  if (bias_handle != nullptr) {
    const Tensor bias("bias", bias_handle);
    bias.check_same_device(input);
    DJLBSR_CHECK(bias.dtype() == input.dtype(), "bias is %s and input %s; convert one of them",
                 bias.dtype_text().c_str(), input.dtype_text().c_str());
    DJLBSR_CHECK(bias.dim() == 1 && bias.size(0) == info.rows,
                 "bias has shape %s; it must be [out_features], [%lld]", bias.shape_text().c_str(),
                 (long long)info.rows);
    bias_memory.emplace(bias);
  }

  if (dense_handle != nullptr) {
    const Tensor dense("dense", dense_handle);
    check_dense(info, dense, input);
    if (use_dense(info, input, count_rows(input), static_cast<int32_t>(activation))) {
      OwnedTensor output = dense_linear(input_handle, dense_handle, bias_handle);
      return activated(std::move(output), static_cast<int32_t>(activation));
    }
  }

  std::vector<int64_t> sizes;
  for (int64_t d = 0; d + 1 < input.dim(); ++d) sizes.push_back(input.size(d));
  sizes.push_back(info.rows);

  const DeviceScope device(input);
  std::optional<Rows> rows = collapse(input);
  OwnedTensor input_copy;
  const void* x = nullptr;
  if (!rows) {
    input_copy = contiguous_copy(input);
    rows = Rows{count_rows(input), info.cols};
    x = Tensor("input", input_copy.get()).data();
  } else {
    x = input.data();
  }
  OwnedTensor output = empty(sizes, input.dtype(), input.is_cuda(), input.device_index());

  djlbsr_linear_args args = {};
  args.x = x;
  args.bias = bias_memory ? bias_memory->data() : nullptr;
  args.y = Tensor("output", output.get()).data();
  args.tokens = rows->tokens;
  args.x_stride = rows->stride;
  args.y_stride = info.rows;
  args.activation = static_cast<int32_t>(activation);
  args.threads = input.is_cuda() ? 0 : num_threads(abi());
  args.stream = device.stream();
  check_status(djlbsr_linear(&weight.meta, weight.data, &args));
  return output;
}

std::pair<OwnedTensor, OwnedTensor> pack(TensorHandle crow_handle, TensorHandle col_handle,
                                         TensorHandle values_handle, int64_t in_features,
                                         int64_t weight_format) {
  DJLBSR_CHECK(
      weight_format == DJLBSR_WEIGHT_AS_GIVEN || weight_format == DJLBSR_WEIGHT_INT8_BLOCKS,
      "weight_format is %lld; use 0 (as given) or 1 (int8 with a scale for each block)",
      (long long)weight_format);
  const Tensor values("values", values_handle);
  DJLBSR_CHECK(values.dim() == 3, "values has shape %s; it must be [nnzb, block_rows, block_cols]",
               values.shape_text().c_str());
  const Tensor crow_tensor("crow_indices", crow_handle);
  const Tensor col_tensor("col_indices", col_handle);
  const std::vector<int32_t> crow = host_indices(crow_tensor);
  const std::vector<int32_t> col = host_indices(col_tensor);
  DJLBSR_CHECK(!crow.empty(), "crow_indices is empty; it must have block-rows + 1 elements");
  DJLBSR_CHECK(static_cast<int64_t>(col.size()) == values.size(0),
               "col_indices has %lld elements and values %lld blocks; they must agree",
               (long long)col.size(), (long long)values.size(0));

  djlbsr_matrix matrix = {};
  DJLBSR_CHECK(
      !__builtin_mul_overflow(static_cast<int64_t>(crow.size()) - 1, values.size(1), &matrix.rows),
      "crow_indices has %lld elements; with blocks of %lld rows that is too many rows",
      (long long)crow.size(), (long long)values.size(1));
  matrix.cols = in_features;
  matrix.block_rows = values.size(1);
  matrix.block_cols = values.size(2);
  matrix.nnzb = values.size(0);
  matrix.crow_indices = crow.data();
  matrix.col_indices = col.data();
  matrix.dtype = values.element_type();
  matrix.weight_format = static_cast<int32_t>(weight_format);

  djlbsr_meta meta;
  check_status(djlbsr_pack_query(&matrix, values.is_cuda() ? DJLBSR_CUDA : DJLBSR_CPU, &meta));
  const djlbsr_info info = decode(meta);
  const Abi& torch = abi();
  const DeviceScope device(values);
  OwnedTensor packed =
      empty({info.packed_bytes}, torch.dtype_uint8(), values.is_cuda(), values.device_index());
  const Contiguous contiguous(values);
  matrix.values = contiguous.data();
  check_status(djlbsr_pack(&matrix, &meta, Tensor("packed", packed.get()).data(), device.stream()));
  OwnedTensor meta_tensor = empty({DJLBSR_META_WORDS}, torch.dtype_int64(), false, 0);
  std::memcpy(Tensor("meta", meta_tensor.get()).data(), &meta, sizeof(meta));
  return {std::move(packed), std::move(meta_tensor)};
}

void update_values(TensorHandle packed_handle, TensorHandle meta_handle,
                   TensorHandle values_handle) {
  const Tensor packed("packed", packed_handle);
  const PackedWeight weight = read_packed(packed, Tensor("meta", meta_handle));
  const djlbsr_info& info = weight.info;
  const Tensor values("values", values_handle);
  values.check_same_device(packed);
  DJLBSR_CHECK(values.element_type() == info.dtype, "values is %s and the weight %s; convert one",
               dtype_name(values.element_type()), dtype_name(info.dtype));
  DJLBSR_CHECK(values.dim() == 3 && values.size(0) == info.nnzb &&
                   values.size(1) == info.block_rows && values.size(2) == info.block_cols,
               "values has shape %s; the packed weight needs [%lld, %lld, %lld]",
               values.shape_text().c_str(), (long long)info.nnzb, (long long)info.block_rows,
               (long long)info.block_cols);
  const DeviceScope device(packed);
  const Contiguous contiguous(values);
  check_status(djlbsr_update_values(&weight.meta, weight.data, contiguous.data(), device.stream()));
}

/* ---- the dispatcher's side ---------------------------------------------------------------------
 * A boxed kernel owns its arguments from the moment it is entered, so each takes all of them over
 * before anything can throw. What it throws reaches the caller as PyTorch's own errors do. */

OwnedTensor take_tensor(StableIValue value) {
  return OwnedTensor(reinterpret_cast<TensorHandle>(value));
}

OwnedTensor take_optional_tensor(StableIValue value) {
  auto* content = reinterpret_cast<StableIValue*>(value);
  if (content == nullptr) return nullptr;
  OwnedTensor tensor = take_tensor(*content);
  const Abi& torch = abi();
  if (torch.delete_stable_ivalue != nullptr) {
    torch.delete_stable_ivalue(content);
  } else {
    delete content;
  }
  return tensor;
}

StableIValue give(OwnedTensor tensor) { return reinterpret_cast<StableIValue>(tensor.release()); }

/* The operators have no gradient: a detached result would be a silently wrong answer. */
void refuse_gradient(std::initializer_list<std::pair<const char*, const OwnedTensor*>> arguments) {
  for (const auto& [name, tensor] : arguments) {
    DJLBSR_CHECK(!records_gradient(tensor->get()),
                 "%s requires grad, and the bsr operators have no gradient; call them under "
                 "torch.no_grad() or detach it",
                 name);
  }
}

void boxed_linear(StableIValue* stack, uint64_t, uint64_t) {
  const OwnedTensor input = take_tensor(stack[0]);
  const OwnedTensor crow = take_tensor(stack[1]);
  const OwnedTensor col = take_tensor(stack[2]);
  const OwnedTensor values = take_tensor(stack[3]);
  const OwnedTensor bias = take_optional_tensor(stack[4]);
  const auto activation = static_cast<int64_t>(stack[5]);
  refuse_gradient({{"input", &input}, {"values", &values}, {"bias", &bias}});
  const Tensor x("input", input.get());
  DJLBSR_CHECK(x.dim() >= 1, "input has shape []; it must be [..., in_features]");
  Tensor("values", values.get()).check_same_device(x);
  const auto [packed, meta] =
      pack(crow.get(), col.get(), values.get(), x.size(x.dim() - 1), DJLBSR_WEIGHT_AS_GIVEN);
  stack[0] =
      give(linear_packed(input.get(), packed.get(), meta.get(), bias.get(), activation, nullptr));
}

void boxed_pack(StableIValue* stack, uint64_t, uint64_t) {
  const OwnedTensor crow = take_tensor(stack[0]);
  const OwnedTensor col = take_tensor(stack[1]);
  const OwnedTensor values = take_tensor(stack[2]);
  const auto in_features = static_cast<int64_t>(stack[3]);
  const auto weight_format = static_cast<int64_t>(stack[4]);
  refuse_gradient({{"values", &values}});
  auto [packed, meta] = pack(crow.get(), col.get(), values.get(), in_features, weight_format);
  stack[0] = give(std::move(packed));
  stack[1] = give(std::move(meta));
}

void boxed_linear_packed(StableIValue* stack, uint64_t, uint64_t) {
  const OwnedTensor input = take_tensor(stack[0]);
  const OwnedTensor packed = take_tensor(stack[1]);
  const OwnedTensor meta = take_tensor(stack[2]);
  const OwnedTensor bias = take_optional_tensor(stack[3]);
  const auto activation = static_cast<int64_t>(stack[4]);
  const OwnedTensor dense = take_optional_tensor(stack[5]);
  refuse_gradient({{"input", &input}, {"bias", &bias}, {"dense", &dense}});
  stack[0] = give(
      linear_packed(input.get(), packed.get(), meta.get(), bias.get(), activation, dense.get()));
}

/* ---- registration ------------------------------------------------------------------------------
 */

struct Operator {
  const char* name;
  const char* schema;
  BoxedKernel kernel;
};

constexpr Operator kOperators[] = {
    {"linear",
     "linear(Tensor input, Tensor crow_indices, Tensor col_indices, Tensor values, "
     "Tensor? bias=None, int activation=0) -> Tensor",
     boxed_linear},
    {"pack",
     "pack(Tensor crow_indices, Tensor col_indices, Tensor values, int in_features, "
     "int weight_format=0) -> (Tensor packed, Tensor meta)",
     boxed_pack},
    {"linear_packed",
     "linear_packed(Tensor input, Tensor packed, Tensor meta, Tensor? bias=None, "
     "int activation=0, Tensor? dense=None) -> Tensor",
     boxed_linear_packed}};

constexpr char kNamespace[] = "bsr";
constexpr char kSourceName[] = "djlbsr/operators.cc";

class Registration {
 public:
  static Registration& instance() {
    static Registration registration;
    return registration;
  }

  /* Throws where the operators cannot be registered; may be called again. */
  void run() {
    std::lock_guard<std::mutex> lock(mutex_);
    if (registered_) return;
    /* PyTorch prints a refused definition, so a refusal is not asked for twice. */
    if (!refusal_.empty()) throw Error(DJLBSR_TORCH_ERROR, refusal_);
    const Abi& torch = abi();
    const std::string path = pin_library();
    /* The library objects stay for the life of the process, as the kernels do. */
    LibraryHandle definitions = nullptr;
    bool ok = torch.library_init_fragment(kNamespace, kSourceName, __LINE__, &definitions) == 0;
    for (const Operator& op : kOperators) {
      if (ok && torch.library_def(definitions, op.schema) != 0) {
        refuse("PyTorch refused to define bsr::" + std::string(op.name) +
               "; another copy of libdjlbsr is probably loaded in this process beside " + path +
               ": load only one");
      }
    }
    for (const char* key : {"CPU", "CUDA"}) {
      LibraryHandle kernels = nullptr;
      ok = ok && torch.library_init_impl(kNamespace, key, kSourceName, __LINE__, &kernels) == 0;
      for (const Operator& op : kOperators) {
        ok = ok && torch.library_impl(kernels, op.name, op.kernel) == 0;
      }
    }
    if (!ok) {
      refuse("PyTorch refused the bsr operators; its own message is on standard error");
    }
    registered_ = true;
  }

  std::string describe() {
    if (!loaded()) return "not loaded";
    try {
      const uint64_t version = abi().abi_version();
      const std::string text = std::to_string(version >> 56) + "." +
                               std::to_string(version >> 48 & 0xff) + "." +
                               std::to_string(version >> 40 & 0xff);
      std::lock_guard<std::mutex> lock(mutex_);
      if (registered_) return text + ", operators bsr::linear, bsr::pack, bsr::linear_packed";
      return text + ", operators not registered" + (refusal_.empty() ? "" : ": " + refusal_);
    } catch (const std::exception& e) {
      return std::string("unusable: ") + e.what();
    }
  }

 private:
  [[noreturn]] void refuse(std::string reason) {
    refusal_ = std::move(reason);
    throw Error(DJLBSR_TORCH_ERROR, refusal_);
  }

  /* PyTorch keeps pointers to the kernels: this library must never be unloaded after that. */
  static std::string pin_library() {
    Dl_info self = {};
    if (dladdr(reinterpret_cast<void*>(&boxed_linear), &self) == 0) return "this one";
    dlopen(self.dli_fname, RTLD_LAZY | RTLD_NOLOAD | RTLD_NODELETE);
    return self.dli_fname;
  }

  std::mutex mutex_;
  bool registered_ = false;
  std::string refusal_;
};

/* A process that loads this library into PyTorch gets the operators at once. A failure must not
   fail the load, since the rest of the library works: djlbsr_torch_register says what went wrong.
 */
[[maybe_unused]] const bool registered_at_load = [] {
  if (loaded()) {
    guarded([] { Registration::instance().run(); });
  }
  return true;
}();

TensorHandle handle_of(djlbsr_tensor tensor) { return reinterpret_cast<TensorHandle>(tensor); }

djlbsr_tensor tensor_of(OwnedTensor tensor) {
  return reinterpret_cast<djlbsr_tensor>(tensor.release());
}

}  // namespace

std::string describe() { return Registration::instance().describe(); }

}  // namespace djlbsr::torch

using namespace djlbsr;
using namespace djlbsr::torch;

int32_t djlbsr_torch_register(void) {
  return guarded([] { Registration::instance().run(); });
}

int32_t djlbsr_torch_pack(djlbsr_tensor crow_indices, djlbsr_tensor col_indices,
                          djlbsr_tensor values, int64_t in_features, int32_t weight_format,
                          djlbsr_tensor* packed, djlbsr_tensor* meta) {
  return guarded([&] {
    DJLBSR_CHECK(packed != nullptr, "packed is null; pass where to put the result");
    DJLBSR_CHECK(meta != nullptr, "meta is null; pass where to put the result");
    auto result = torch::pack(handle_of(crow_indices), handle_of(col_indices), handle_of(values),
                              in_features, weight_format);
    *packed = tensor_of(std::move(result.first));
    *meta = tensor_of(std::move(result.second));
  });
}

int32_t djlbsr_torch_update_values(djlbsr_tensor packed, djlbsr_tensor meta, djlbsr_tensor values) {
  return guarded(
      [&] { torch::update_values(handle_of(packed), handle_of(meta), handle_of(values)); });
}

int32_t djlbsr_torch_linear(djlbsr_tensor input, djlbsr_tensor packed, djlbsr_tensor meta,
                            djlbsr_tensor bias, int32_t activation, djlbsr_tensor* output) {
  return guarded([&] {
    DJLBSR_CHECK(output != nullptr, "output is null; pass where to put the result");
    *output = tensor_of(linear_packed(handle_of(input), handle_of(packed), handle_of(meta),
                                      handle_of(bias), activation, nullptr));
  });
}

int32_t djlbsr_torch_predict(djlbsr_tensor packed, djlbsr_tensor meta, int64_t tokens,
                             int32_t activation, double* bsr_seconds, double* dense_seconds,
                             int32_t* dense) {
  return guarded([&] {
    DJLBSR_CHECK(bsr_seconds != nullptr && dense_seconds != nullptr && dense != nullptr,
                 "bsr_seconds, dense_seconds or dense is null; pass where to put the result");
    const Tensor bytes("packed", handle_of(packed));
    const PackedWeight weight = read_packed(bytes, Tensor("meta", handle_of(meta)));
    const djlbsr_prediction prediction =
        choice::predict(weight.info, tokens, activation, bytes.device_index(), num_threads(abi()));
    *bsr_seconds = prediction.bsr_seconds;
    *dense_seconds = prediction.dense_seconds;
    *dense = prediction.dense;
  });
}

int32_t djlbsr_torch_activate(djlbsr_tensor tensor, int32_t activation) {
  return guarded([&] {
    DJLBSR_CHECK(activation >= DJLBSR_NONE && activation <= DJLBSR_SILU,
                 "activation is %d; use 0 (none), 1 (ReLU), 2 (GELU), 3 (tanh GELU) or 4 (SiLU)",
                 activation);
    activate(Tensor("tensor", handle_of(tensor)), activation);
  });
}

int64_t djlbsr_torch_version_of(djlbsr_tensor tensor) {
  int64_t version = -1;
  guarded([&] {
    if (tensor != 0) version = version_of(handle_of(tensor));
  });
  return version;
}
