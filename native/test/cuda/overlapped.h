/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
#pragma once

#include "device_support.h"

namespace test {

/*
 * Layers that read what the one before writes, into two buffers in turn, with new values for a
 * weight between: kernels that begin while the one before still runs must wait for what they read
 * and overwrite. Queued at once, and in a graph, against the same calls one by one.
 */
inline void check_overlapped(int64_t features, const std::vector<int32_t>& dtypes,
                             const std::vector<int64_t>& sides) {
  constexpr int kLayers = 4;
  constexpr int kRounds = 3;
  Rng rng(37);
  std::normal_distribution<float> normal;
  const auto random = [&] { return normal(rng); };
  cudaStream_t stream;
  CUDA(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  for (int32_t dtype : dtypes) {
    for (int64_t side : sides) {
      const double density = side == 64 ? 0.55 : 0.3; /* 64: with squares of 64 */
      /* With these values a layer neither dies out nor overflows: SiLU halves small sums, but not
       * large ones. */
      const double deviation = 1.6 / std::sqrt(density * static_cast<double>(features));
      const auto random_weight = [&] { return static_cast<float>(deviation) * normal(rng); };
      for (int64_t tokens : {1, 16, 48, 100, 300, 700}) {
        std::vector<std::unique_ptr<CudaPacked>> layers;
        std::vector<std::unique_ptr<DeviceBytes>> values; /* of the first layer, a round each */
        for (int i = 0; i < kLayers; ++i) {
          Matrix m(rng, features / side, features / side, side, side, dtype, "random", density);
          m.values.fill(random_weight);
          layers.push_back(std::make_unique<CudaPacked>(m));
          for (int round = 0; i == 0 && round < kRounds; ++round) {
            m.values.fill(random_weight);
            values.push_back(std::make_unique<DeviceBytes>(m.values));
          }
        }
        Array x(dtype, tokens * features);
        x.fill(random);
        const DeviceBytes start(x);
        const DeviceBytes first(x);
        const DeviceBytes second(x);
        const auto apply = [&](int layer, bool wait) {
          djlbsr_linear_args args = {};
          args.x = (layer % 2 == 0 ? first : second).get();
          args.y = (layer % 2 == 0 ? second : first).get();
          args.tokens = tokens;
          args.x_stride = args.y_stride = features;
          args.activation = DJLBSR_SILU;
          args.stream = stream;
          run(*layers[static_cast<size_t>(layer)], args);
          if (wait) CUDA(cudaStreamSynchronize(stream));
        };
        enum Way { kOneByOne, kQueued, kGraph };
        const auto result = [&](Way way) {
          CUDA(cudaMemcpyAsync(first.get(), start.get(), static_cast<size_t>(x.count()) * x.size(),
                               cudaMemcpyDeviceToDevice, stream));
          cudaGraphExec_t graph = nullptr;
          for (int round = 0; round < kRounds; ++round) {
            const CudaPacked& updated = *layers[0];
            EXPECT(djlbsr_update_values(&updated.meta, updated.bytes->get(),
                                        values[static_cast<size_t>(round)]->get(),
                                        stream) == DJLBSR_OK,
                   "%s", djlbsr_last_error());
            if (way == kGraph && graph == nullptr) {
              cudaGraph_t captured_calls;
              CUDA(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
              for (int layer = 0; layer < kLayers; ++layer) apply(layer, false);
              CUDA(cudaStreamEndCapture(stream, &captured_calls));
              CUDA(cudaGraphInstantiate(&graph, captured_calls, 0));
              CUDA(cudaGraphDestroy(captured_calls));
            }
            if (way == kGraph) {
              CUDA(cudaGraphLaunch(graph, stream));
            } else {
              for (int layer = 0; layer < kLayers; ++layer) apply(layer, way == kOneByOne);
            }
          }
          CUDA(cudaStreamSynchronize(stream));
          if (graph != nullptr) CUDA(cudaGraphExecDestroy(graph));
          Array y(dtype, x.count());
          first.read(y.data());
          return y;
        };
        const Array expected = result(kOneByOne);
        double magnitude = 0;
        for (int64_t i = 0; i < expected.count(); ++i) magnitude += std::fabs(expected.get(i));
        EXPECT(std::isfinite(magnitude) && magnitude > 0, "layers whose outputs sum up to %g",
               magnitude);
        for (Way way : {kQueued, kGraph}) {
          const Array actual = result(way);
          EXPECT(std::memcmp(expected.data(), actual.data(),
                             static_cast<size_t>(x.count()) * x.size()) == 0,
                 "%lldx%lld blocks of dtype %d, tokens %lld: layers %s give other bits than one by "
                 "one",
                 (long long)side, (long long)side, dtype, (long long)tokens,
                 way == kGraph ? "in a graph" : "queued at once");
        }
      }
    }
  }
  CUDA(cudaStreamDestroy(stream));
}

}  // namespace test
