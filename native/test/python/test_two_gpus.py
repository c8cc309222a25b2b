#!/usr/bin/env python3
#
# Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
#
"""The bsr operators on a machine with two GPUs: weights on one work while the other is current.

    python3 test_two_gpus.py --library BUILD/libdjlbsr.so [-v]

Needs torch and two CUDA devices. The last line is "N passed, N failed"; the exit status is 1 if one
failed, and 2 without two devices.
"""

import argparse
import re
import sys
import threading
import unittest

import torch

GPUS = ("cuda:0", "cuda:1")
GELU = 2
# One weight for each kind of kernel: wgmma tiles, smaller blocks, fp32; many tokens and few.
CASES = [(dtype, block, tokens)
         for dtype in (torch.float16, torch.bfloat16, torch.float32)
         for block in ((128, 128), (64, 64), (32, 64), (16, 16), (8, 8), (5, 7))
         for tokens in (1, 16, 300)]


class Weight:
    def __init__(self, dtype, block, device, seed=7):
        generator = torch.Generator().manual_seed(seed)
        mask = torch.rand(12, 10, generator=generator) < 0.4
        mask[5] = False
        self.rows, self.cols = 12 * block[0], 10 * block[1]
        crow = torch.cat([torch.zeros(1, dtype=torch.int64), mask.sum(1).cumsum(0)])
        row, col = mask.nonzero(as_tuple=True)
        self.values = torch.randn(len(col), *block, generator=generator).to(dtype)
        dense = torch.zeros(12, 10, *block, dtype=torch.float64)
        dense[row, col] = self.values.double()
        self.dense = dense.transpose(1, 2).reshape(self.rows, self.cols)
        self.dtype, self.crow, self.col = dtype, crow, col
        self.packed, self.meta = torch.ops.bsr.pack(crow, col, self.values.to(device), self.cols)

    def input(self, tokens, device):
        generator = torch.Generator().manual_seed(tokens)
        return torch.randn(tokens, self.cols, generator=generator).to(self.dtype).to(device)

    def linear(self, x, bias=None, activation=0):
        return torch.ops.bsr.linear_packed(x, self.packed, self.meta, bias, activation)


class TwoGpuTest(unittest.TestCase):
    def setUp(self):
        torch.cuda.set_device(0)

    def check(self, y, weight, x, what):
        """Every element against float64: gamma_n * sum |w x| and one rounding."""
        x64 = x.double().cpu()
        expected, magnitude = x64 @ weight.dense.T, x64.abs() @ weight.dense.abs().T
        unit = {torch.float32: 2.0**-24, torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}
        bound = (weight.cols + 2) * 2.0**-24 * magnitude
        bound = bound + unit[weight.dtype] * (expected.abs() + bound) + 2.0**-25
        actual = y.double().cpu()
        wrong = ~((actual - expected).abs() <= bound)
        if wrong.any():
            token, row = (int(n) for n in wrong.nonzero()[0])
            self.fail(f"{what}: {int(wrong.sum())} of {wrong.numel()} elements are wrong, first token "
                      f"{token} row {row}: expected {expected[token, row].item():.9g}, actual "
                      f"{actual[token, row].item():.9g}, allowed {bound[token, row].item():.3g}")

    def refused(self, text, function, *args):
        with self.assertRaisesRegex(RuntimeError, re.escape(text)):
            function(*args)

    def test_other_device_is_current(self):
        for dtype, block, tokens in CASES:
            for current, device in ((0, GPUS[1]), (1, GPUS[0])):
                torch.cuda.set_device(current)
                what = f"{dtype} {block} T={tokens} on {device} while cuda:{current} is current"
                weight = Weight(dtype, block, device)
                x = weight.input(tokens, device)
                y = weight.linear(x)
                self.assertEqual(str(y.device), device, what)
                self.assertEqual(torch.cuda.current_device(), current, what)
                self.check(y, weight, x, what)
                self.assertEqual(str(weight.packed.device), device, what)

    def test_same_bits_on_both(self):
        for dtype, block, tokens in CASES:
            results = []
            for device in GPUS:
                weight = Weight(dtype, block, device)
                results.append(weight.linear(weight.input(tokens, device)).cpu())
            self.assertTrue(torch.equal(*results), f"{dtype} {block} T={tokens}")

    def test_streams_of_both(self):
        """Work queued on streams of both devices in turn, each reading what its stream wrote before."""
        weights = [Weight(torch.float16, (64, 64), device) for device in GPUS]
        streams = [[torch.cuda.Stream(device) for _ in range(3)] for device in GPUS]
        torch.cuda.synchronize(0)
        torch.cuda.synchronize(1)
        runs = []
        for i in range(24):
            gpu = i % 2
            weight = weights[gpu]
            source = torch.randn(129, weight.cols).half().pin_memory()
            with torch.cuda.stream(streams[gpu][i % 3]):
                torch.cuda._sleep(200_000)  # a call on another stream would read x too early
                x = torch.full((129, weight.cols), float("nan"), dtype=torch.float16, device=GPUS[gpu])
                x.copy_(source, non_blocking=True)
                # The stream stays that of x's device when the other device becomes current.
                with torch.cuda.device(1 - gpu):
                    y = weight.linear(x)
                runs.append((y, weight, source, f"run {i} on {GPUS[gpu]}"))
        torch.cuda.synchronize(0)
        torch.cuda.synchronize(1)
        for run in runs:
            self.check(*run)

    def test_threads(self):
        """A thread a device; the current device is the thread's own."""
        failures = []

        def work(gpu):
            try:
                weight = Weight(torch.float16, (32, 32), GPUS[gpu])
                for tokens in (1, 64, 257) * 5:
                    x = weight.input(tokens, GPUS[gpu])
                    self.check(weight.linear(x), weight, x, f"thread of {GPUS[gpu]}")
            except BaseException as error:  # noqa: BLE001: handed to the main thread
                failures.append(error)

        threads = [threading.Thread(target=work, args=(gpu,)) for gpu in (0, 1, 0, 1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if failures:
            raise failures[0]

    def test_graph_on_the_second(self):
        with torch.cuda.device(1):
            weight = Weight(torch.float16, (64, 64), GPUS[1])
            x = weight.input(200, GPUS[1])
            weight.linear(x)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                y = weight.linear(x)
        x.copy_(x.flip(0))
        y.fill_(float("nan"))
        torch.cuda.synchronize(1)
        graph.replay()
        torch.cuda.synchronize(1)
        self.check(y, weight, x, "replayed")

    def test_moved_weight(self):
        """A packed weight is plain bytes: copied to the other device it works there."""
        weight = Weight(torch.float16, (64, 64), GPUS[0])
        weight.packed = weight.packed.to(GPUS[1])
        x = weight.input(70, GPUS[1])
        self.check(weight.linear(x), weight, x, "moved")

    def test_mixed_devices(self):
        weight = Weight(torch.float16, (64, 64), GPUS[1])
        bias = torch.zeros(weight.rows, dtype=torch.float16)
        x = weight.input(3, GPUS[1])
        self.refused("packed is on cuda:1 and input on cuda:0", weight.linear, x.to(GPUS[0]))
        self.refused("packed is on cuda:1 and input on cpu", weight.linear, x.cpu())
        self.refused("bias is on cuda:0 and input on cuda:1", weight.linear, x, bias.to(GPUS[0]), GELU)
        self.refused("values is on cuda:1 and input on cuda:0", torch.ops.bsr.linear, x.to(GPUS[0]),
                     weight.crow, weight.col, weight.values.to(GPUS[1]))
        self.check(weight.linear(x), weight, x, "after refusals")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--library", required=True, help="libdjlbsr.so")
    parser.add_argument("-v", action="store_true", help="name each test")
    args = parser.parse_args()
    if torch.cuda.device_count() < 2:
        print(f"{torch.cuda.device_count()} CUDA devices; this needs two", file=sys.stderr)
        return 2
    torch.ops.load_library(args.library)
    torch.set_grad_enabled(False)
    suite = unittest.defaultTestLoader.loadTestsFromTestCase(TwoGpuTest)
    result = unittest.TextTestRunner(verbosity=2 if args.v else 1).run(suite)
    failed = len(result.failures) + len(result.errors)
    print(f"{result.testsRun - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
