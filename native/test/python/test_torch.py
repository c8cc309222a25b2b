#!/usr/bin/env python3
#
# Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
#
"""The bsr operators of libdjlbsr in a PyTorch process, on the CPU and on CUDA where there is a GPU.

    python3 test_torch.py --library BUILD/libdjlbsr.so [--write-modules DIR] [-v]

Needs torch and numpy alone. With --write-modules it also writes the TorchScript modules that the Java
tests load. The last line is "N passed, N failed"; the exit status is 1 if one failed.
"""

import argparse
import ctypes
import io
import os
import pathlib
import re
import sys
import tempfile
import threading
import unittest
import warnings
import zipfile

import numpy as np
import torch

sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "bench"))
from gpu.library import Library  # noqa: E402: from the benchmark

NONE, RELU, GELU, GELU_TANH, SILU = range(5)
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
UNIT_ROUNDOFF = {torch.float32: 0.0, torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}
DEVICES = ["cpu"] + (["cuda"] if torch.cuda.is_available() else [])
PATTERNS = ("random", "banded", "heavy row", "empty rows", "one block", "none", "full")
# The comments name the CUDA tile that a shape reaches.
BLOCKS = (
    (1, 1), (1, 32), (1, 7),  # one row a block
    (2, 3), (3, 5), (8, 8),  # 8 rows
    (16, 16), (16, 64), (12, 20),  # 16 rows
    (32, 1), (32, 32), (20, 4),  # 32 rows
    (64, 64), (33, 2), (128, 128), (100, 36),  # 64 rows, several of them
)
TOKENS = (0, 1, 2, 7, 8, 9, 33, 64, 65, 130, 257)
# Tiles of the kernels for compute capability 9.0, and the tokens on either side of theirs.
HOPPER_BLOCKS = ((64, 64), (64, 128), (192, 64), (128, 128), (256, 64))
HOPPER_TOKENS = (64, 65, 255, 256, 257, 513, 700)

library_path = None
kernels = None


def activate(z, activation):
    if activation == RELU:
        return torch.where(z < 0, torch.zeros_like(z), z)
    if activation == GELU:
        return 0.5 * z * torch.special.erfc(-z / np.sqrt(2.0))
    if activation == GELU_TANH:
        return z / (1 + torch.exp(-2 * np.sqrt(2 / np.pi) * (z + 0.044715 * z**3)))
    if activation == SILU:
        return z / (1 + torch.exp(-z))
    return z


class Weight:
    """A random block-sparse matrix as tensors on a device, and as float64 on the CPU."""

    def __init__(self, rng, block_rows, block_cols, br, bc, dtype, device, pattern="random",
                 density=0.3, index_dtype=torch.int32):
        i, j = np.meshgrid(np.arange(block_rows), np.arange(block_cols), indexing="ij")
        mask = rng.random((block_rows, block_cols)) < density
        row, col = rng.integers(block_rows), rng.integers(block_cols)
        if pattern == "banded":
            mask = np.abs(i * block_cols - j * block_rows) <= block_rows
        elif pattern == "heavy row":
            mask = (i == row) | (mask & (rng.random(mask.shape) < 0.25))
        elif pattern == "empty rows":
            mask = mask & (i % 2 == 1) & (j % 3 != 0)
        elif pattern == "one block":
            mask = (i == row) & (j == col)
        elif pattern == "none":
            mask = np.zeros_like(mask)
        elif pattern == "full":
            mask = np.ones_like(mask)
        stored_rows, stored_cols = np.nonzero(mask)
        crow = np.concatenate([[0], np.cumsum(mask.sum(axis=1))])
        self.rows, self.cols, self.dtype, self.device = block_rows * br, block_cols * bc, dtype, device
        self.block = (br, bc)
        self.crow = torch.tensor(crow, dtype=index_dtype, device=device)
        self.col = torch.tensor(stored_cols, dtype=index_dtype, device=device)
        values = torch.tensor(rng.standard_normal((len(stored_cols), br, bc)), dtype=dtype)
        self.values = values.to(device)
        dense = torch.zeros(block_rows, br, block_cols, bc, dtype=torch.float64)
        for n, (r, c) in enumerate(zip(stored_rows, stored_cols)):
            dense[r, :, c, :] = values[n].double()
        self.dense = dense.reshape(self.rows, self.cols)
        self.terms = torch.tensor(np.repeat(mask.sum(axis=1) * bc, br) + 2, dtype=torch.float64)
        self.name = f"{self.rows}x{self.cols} block {br}x{bc} nnzb {len(stored_cols)} {pattern} {dtype}"

    def bias(self, rng):
        return tensor(rng, (self.rows,), self.dtype, self.device)

    def pack(self):
        return torch.ops.bsr.pack(self.crow, self.col, self.values, self.cols)

    def linear(self, x, bias=None, activation=NONE):
        return torch.ops.bsr.linear(x, self.crow, self.col, self.values, bias, activation)

    def packed_linear(self, x, bias=None, activation=NONE):
        packed, meta = self.pack()
        return torch.ops.bsr.linear_packed(x, packed, meta, bias, activation)


def tensor(rng, shape, dtype, device):
    return torch.tensor(rng.standard_normal(shape), dtype=dtype).to(device)


class BsrTest(unittest.TestCase):
    def setUp(self):
        self.rng = np.random.default_rng(20261122)

    def check(self, y, weight, x, bias=None, activation=NONE, what=""):
        """Every element of y against float64: gamma_n * sum |w x| for a chain of n fp32 operations,
        carried through the activation (slope at most 1.13), its own 8 ulp, on a GPU what GELU for
        16-bit results adds (djlbsr.h), and one rounding."""
        what = f"{weight.name} on {weight.device}, x {tuple(x.shape)}, activation {activation} {what}"
        self.assertEqual(tuple(y.shape), tuple(x.shape[:-1]) + (weight.rows,), what)
        self.assertEqual(y.dtype, weight.dtype, what)
        self.assertEqual(y.device.type, torch.device(weight.device).type, what)
        self.assertTrue(y.is_contiguous(), what)
        x64 = x.detach().double().cpu().reshape(-1, weight.cols)
        z = x64 @ weight.dense.T
        magnitude = x64.abs() @ weight.dense.abs().T
        if bias is not None:
            z = z + bias.detach().double().cpu()
            magnitude = magnitude + bias.detach().double().cpu().abs()
        expected = activate(z, activation)
        u = 2.0**-24
        bound = weight.terms * u / (1 - weight.terms * u) * magnitude
        if activation > RELU:
            bound = 1.13 * bound + 8 * u * z.abs()
        if (activation in (GELU, GELU_TANH) and weight.device != "cpu"
                and weight.dtype != torch.float32):
            approximation = 2.0**-13 if weight.dtype == torch.float16 else 2.0**-11
            bound = bound + approximation * expected.abs() + 2.0**-26
        bound = bound + UNIT_ROUNDOFF[weight.dtype] * (expected.abs() + bound)
        bound = bound + (2.0**-25 if weight.dtype == torch.float16 else 1e-37)
        actual = y.detach().double().cpu().reshape(-1, weight.rows)
        wrong = ~((actual - expected).abs() <= bound)
        if wrong.any():
            token, row = (int(n) for n in wrong.nonzero()[0])
            self.fail(f"{what}: {int(wrong.sum())} of {wrong.numel()} elements are wrong, first token "
                      f"{token} row {row}: expected {expected[token, row].item():.9g}, actual "
                      f"{actual[token, row].item():.9g}, allowed {bound[token, row].item():.3g}")

    def refused(self, text, function, *args):
        with self.assertRaisesRegex(RuntimeError, re.escape(text)):
            function(*args)

    def poison(self, device):
        """Leaves NaNs in the memory that the caching allocator hands out next."""
        if device == "cuda":
            junk = [torch.full((n,), float("nan"), device=device) for n in (1 << 8, 1 << 14, 1 << 20)]
            del junk


class ResultTest(BsrTest):
    def test_shapes(self):
        for device in DEVICES:
            for br, bc in BLOCKS:
                for dtype in DTYPES:
                    most = 4 if br * bc >= 1024 else 9
                    weight = Weight(self.rng, int(self.rng.integers(1, most)),
                                    int(self.rng.integers(1, most)), br, bc, dtype, device,
                                    PATTERNS[self.rng.integers(len(PATTERNS))],
                                    index_dtype=(torch.int32, torch.int64)[self.rng.integers(2)])
                    bias = weight.bias(self.rng) if self.rng.integers(2) else None
                    for tokens in TOKENS:
                        x = tensor(self.rng, (tokens, weight.cols), dtype, device)
                        activation = int(self.rng.integers(5))
                        self.poison(device)
                        y = weight.packed_linear(x, bias, activation)
                        self.check(y, weight, x, bias, activation)

    def test_linear_equals_linear_packed(self):
        for device in DEVICES:
            for dtype in DTYPES:
                weight = Weight(self.rng, 5, 6, 16, 8, dtype, device)
                x, bias = tensor(self.rng, (3, 7, weight.cols), dtype, device), weight.bias(self.rng)
                a = weight.linear(x, bias, GELU)
                b = weight.packed_linear(x, bias, GELU)
                self.check(a, weight, x, bias, GELU)
                self.assertTrue(torch.equal(a, b), f"{dtype} on {device}")

    def test_int8_weights(self):
        """bsr::pack with and without its last argument; the documented bound of the rounded values."""
        for br, bc in BLOCKS:
            weight = Weight(self.rng, 3, 4, br, bc, torch.float32, "cpu", "full")
            x = tensor(self.rng, (5, weight.cols), torch.float32, "cpu")
            given = torch.ops.bsr.pack(weight.crow, weight.col, weight.values, weight.cols, 0)
            for packed in (given, weight.pack()):
                self.check(torch.ops.bsr.linear_packed(x, *packed), weight, x)
            packed, meta = torch.ops.bsr.pack(weight.crow, weight.col, weight.values, weight.cols, 1)
            y = torch.ops.bsr.linear_packed(x, packed, meta).double()
            blocks = weight.dense.reshape(3, br, 4, bc)
            e_w = blocks.abs().amax(dim=(1, 3), keepdim=True) / 254
            e_w = e_w.expand(3, br, 4, bc).reshape(weight.rows, weight.cols)
            e_x = x.double().abs().amax(dim=1, keepdim=True) / 254
            w, xd = weight.dense, x.double()
            bound = (w.abs().sum(1) * e_x + xd.abs() @ e_w.T + e_x * e_w.sum(1)) * (1 + 1e-4)
            wrong = (y - xd @ w.T).abs() - bound
            self.assertLessEqual(wrong.max().item(), 0, f"{weight.name}: past the bound at "
                                 f"{divmod(int(wrong.argmax()), weight.rows)}")
        self.refused("weight_format is 2", torch.ops.bsr.pack, weight.crow, weight.col,
                     weight.values, weight.cols, 2)
        self.refused("int8 weights work with float32", torch.ops.bsr.pack, weight.crow, weight.col,
                     weight.values.half(), weight.cols, 1)

    def test_dense_weight(self):
        """The same function, whichever side runs."""
        for device in DEVICES:
            for tokens in (1, 7, 300):
                weight = Weight(self.rng, 4, 6, 16, 8, torch.float32, device)
                x = tensor(self.rng, (2, tokens, weight.cols), weight.dtype, device)
                bias, dense = weight.bias(self.rng), weight.dense.float().to(device)
                packed, meta = weight.pack()
                for activation in range(5):
                    y = torch.ops.bsr.linear_packed(x, packed, meta, bias, activation, dense)
                    self.check(y, weight, x, bias, activation, "with a dense weight")
                self.refused("dense has shape", torch.ops.bsr.linear_packed, x, packed, meta, None, 0,
                             dense.T.contiguous())
                self.refused("dense is float16", torch.ops.bsr.linear_packed, x, packed, meta, None,
                             0, dense.half())

    def test_large(self):
        for device in DEVICES:
            for dtype in DTYPES:
                weight = Weight(self.rng, 16, 32, 64, 64, dtype, device, density=0.125)
                x, bias = tensor(self.rng, (300, weight.cols), dtype, device), weight.bias(self.rng)
                self.check(weight.packed_linear(x, bias, GELU_TANH), weight, x, bias, GELU_TANH)

    def test_strides(self):
        for device in DEVICES:
            for dtype in DTYPES:
                weight = Weight(self.rng, 4, 5, 8, 4, dtype, device)
                bias, k = weight.bias(self.rng), weight.cols
                make = lambda *shape: tensor(self.rng, shape, dtype, device)
                inputs = {
                    "one dimension": make(k),
                    "four dimensions": make(2, 3, 4, k),
                    "transposed": make(k, 9).t(),
                    "leading dimensions swapped": make(3, 4, k).transpose(0, 1),
                    "sliced columns": make(9, k + 5)[:, 2 : k + 2],
                    "every other row": make(18, k)[::2],
                    "every other column": make(9, 2 * k)[:, ::2],
                    "expanded before": make(3, k).expand(4, 3, k),
                    "expanded inside": make(3, 1, k).expand(3, 4, k),
                    "one row repeated": make(1, k).expand(5, k),
                    "one number": make(1, 1).expand(5, k),
                    "overlapping rows": make(2 * k).as_strided((k, k), (1, 1)),
                    "no token": make(0, k),
                    "no token, three dimensions": make(2, 0, k),
                    "odd offset": make(9 * k + 1)[1:].reshape(9, k),
                }
                for name, x in inputs.items():
                    self.poison(device)
                    self.check(weight.packed_linear(x, bias, SILU), weight, x, bias, SILU, name)
                long_bias = tensor(self.rng, (2 * weight.rows,), dtype, device)[::2]
                x = make(4, k)
                self.check(weight.packed_linear(x, long_bias), weight, x, long_bias, NONE, "bias stride")
                strided = Weight(self.rng, 4, 5, 8, 4, dtype, device)
                strided.values = strided.values.transpose(1, 2).contiguous().transpose(1, 2)
                self.check(strided.linear(x), strided, x, None, NONE, "values stride")

    def test_zero_sizes(self):
        for device in DEVICES:
            empty = torch.zeros(0, 4, 4, device=device)
            index = torch.zeros(0, dtype=torch.int32, device=device)
            one = torch.zeros(1, dtype=torch.int32, device=device)
            three = torch.zeros(3, dtype=torch.int32, device=device)
            y = torch.ops.bsr.linear(torch.zeros(3, 8, device=device), one, index, empty)
            self.assertEqual(tuple(y.shape), (3, 0))
            bias = torch.arange(8.0, device=device)
            y = torch.ops.bsr.linear(torch.zeros(3, 0, device=device), three, index, empty, bias)
            self.assertTrue(torch.equal(y, bias.expand(3, 8)))
            y = torch.ops.bsr.linear(torch.zeros(3, 8, device=device), three, index, empty)
            self.assertTrue(torch.equal(y, torch.zeros(3, 8, device=device)))

    def test_non_finite(self):
        """x outside the stored columns is ignored, NaN included; a stored zero times NaN is NaN."""
        for device in DEVICES:
            for rows, cols in ((1, 4), (8, 4), (16, 4), (32, 4), (64, 4), (64, 64), (128, 128)):
                for tokens in (1, 40, 130):
                    for dtype in DTYPES:
                        crow = torch.tensor([0, 1, 2], device=device)
                        col = torch.tensor([2, 5], device=device)
                        values = torch.ones(2, rows, cols, dtype=dtype, device=device)
                        values[1] = 0
                        x = torch.full((tokens, 8 * cols), float("nan"), dtype=dtype, device=device)
                        x[:, 2 * cols : 3 * cols] = 1
                        x[:, 5 * cols : 6 * cols] = float("inf")
                        y = torch.ops.bsr.linear(x, crow, col, values)
                        what = f"{rows}x{cols} blocks, {tokens} tokens, {dtype} on {device}"
                        self.assertTrue((y[:, :rows] == cols).all(), what)
                        self.assertTrue(y[:, rows:].isnan().all(), what)

    def test_same_bits_in_any_batch(self):
        """Alone or in a larger batch, wherever the same kernel serves both."""
        for device in DEVICES:
            for br, bc in BLOCKS:
                for dtype in (torch.float32, torch.float16):
                    weight = Weight(self.rng, 3, 5, br, bc, dtype, device, density=0.5)
                    packed, meta = weight.pack()
                    x = tensor(self.rng, (300, weight.cols), dtype, device)

                    def run(part):
                        y = torch.ops.bsr.linear_packed(part, packed, meta, None, GELU)
                        return y, kernels.kernel_name(meta, part, y)

                    for count in (1, 2, 8, 9, 40, 64, 65, 100, 200):
                        first = int(self.rng.integers(0, 300 - count))
                        part, kernel = run(x[first : first + count])
                        for more in (count + 1, min(2 * count, 300), 300):
                            start = min(first, 300 - more)
                            whole, other = run(x[start : start + more])
                            same = whole[first - start : first - start + count]
                            if kernel == other:
                                self.assertTrue(torch.equal(part, same),
                                                f"{weight.name} on {device}: {kernel}, {count} "
                                                f"tokens alone and in {more}")

    def test_threads(self):
        weight = Weight(self.rng, 16, 16, 32, 32, torch.float32, "cpu")
        x = tensor(self.rng, (200, weight.cols), torch.float32, "cpu")
        packed, meta = weight.pack()
        run = lambda: torch.ops.bsr.linear_packed(x, packed, meta)
        expected = run()
        threads = torch.get_num_threads()
        try:
            torch.set_num_threads(1)
            self.assertTrue(torch.equal(run(), expected))
        finally:
            torch.set_num_threads(threads)
        results = []
        workers = [threading.Thread(target=lambda: results.append(run())) for _ in range(8)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        self.assertEqual(sum(torch.equal(r, expected) for r in results), 8)

    def test_register_again(self):
        library = ctypes.CDLL(library_path)
        library.djlbsr_last_error.restype = ctypes.c_char_p
        self.assertEqual(library.djlbsr_torch_register(), 0, library.djlbsr_last_error())


class ScriptTest(BsrTest):
    def setUp(self):
        super().setUp()
        warnings.simplefilter("ignore")  # TorchScript is deprecated in Python; DJL uses it

    def test_script(self):
        for device in DEVICES:
            weight = Weight(self.rng, 6, 4, 16, 16, torch.float32, device)
            bias = weight.bias(self.rng)
            x = tensor(self.rng, (2, 5, weight.cols), torch.float32, device)

            def function(x, crow, col, values, bias):
                packed, meta = torch.ops.bsr.pack(crow, col, values, x.size(-1))
                a = torch.ops.bsr.linear_packed(x, packed, meta, bias, 2)
                b = torch.ops.bsr.linear(x, crow, col, values)
                return a, b

            scripted = torch.jit.script(function)
            for _ in range(3):  # past the profiling executor's first runs
                a, b = scripted(x, weight.crow, weight.col, weight.values, bias)
                self.check(a, weight, x, bias, GELU)
                self.check(b, weight, x)

    def test_saved_modules(self):
        with tempfile.TemporaryDirectory() as folder:
            example = write_modules(folder)
            x, expected = torch.tensor(example["input"]), torch.tensor(example["output"])
            for device in DEVICES:
                module = torch.jit.load(os.path.join(folder, "bsr_linear.pt")).to(device)
                y = module(x.to(device)).cpu()
                self.assertLessEqual((y - expected).abs().max().item(), 1e-5, device)
            path = os.path.join(folder, "bsr_linear_packed.pt")
            y = torch.jit.load(path)(x)
            self.assertLessEqual((y - expected).abs().max().item(), 1e-5)
            if "cuda" in DEVICES:
                moved = torch.jit.load(path).to("cuda")
                self.refused("pack its weight there with bsr::pack", moved, x.to("cuda"))

    def test_errors_in_script(self):
        weight = Weight(self.rng, 2, 2, 4, 4, torch.float32, "cpu")

        @torch.jit.script
        def function(x, crow, col, values):
            return torch.ops.bsr.linear(x, crow, col, values)

        self.refused("cols is 9", function, torch.zeros(1, 9), weight.crow, weight.col, weight.values)


class ErrorTest(BsrTest):
    def test_structure(self):
        values = torch.ones(3, 4, 4)
        pack = torch.ops.bsr.pack
        crow, col = torch.tensor([0, 1, 3]), torch.tensor([0, 0, 1])
        self.assertEqual(pack(crow, col, values, 8)[1].shape[0], 16)
        self.refused("crow_indices[0] is 1", pack, torch.tensor([1, 1, 3]), col, values, 8)
        self.refused("crow_indices[2] is 2", pack, torch.tensor([0, 1, 2]), col, values, 8)
        self.refused("crow_indices[1] is 4", pack, torch.tensor([0, 4, 3]), col, values, 8)
        self.refused("crow_indices is empty", pack, crow[:0], col, values, 8)
        self.refused("col_indices[1] is -1", pack, crow, torch.tensor([0, -1, 1]), values, 8)
        self.refused("col_indices[2] is 2", pack, crow, torch.tensor([0, 0, 2]), values, 8)
        self.refused("a second time", pack, crow, torch.tensor([0, 1, 1]), values, 8)
        self.refused("sort the blocks", pack, crow, torch.tensor([0, 1, 0]), values, 8)
        self.refused("must fit into 32 bits", pack, crow, torch.tensor([0, 0, 2**40]), values, 8)
        self.refused("col_indices has 2 elements", pack, crow, col[:2], values, 8)
        self.refused("cols is 10", pack, crow, col, values, 10)
        self.refused("values has shape", pack, crow, col, values[0], 8)
        self.refused("values has dtype float64", pack, crow, col, values.double(), 8)
        self.refused("crow_indices has dtype float32", pack, crow.float(), col, values, 8)
        self.refused("col_indices has shape", pack, crow, col.reshape(3, 1), values, 8)
        self.refused("block_cols is 0", pack, crow, col, torch.ones(3, 4, 0), 8)

    def test_linear(self):
        for device in DEVICES:
            weight = Weight(self.rng, 3, 2, 4, 4, torch.float32, device, "full")
            packed, meta = weight.pack()
            x = torch.ones(2, 8, device=device)
            run = torch.ops.bsr.linear_packed
            self.refused("input has shape [2, 9]", run, torch.ones(2, 9, device=device), packed, meta)
            self.refused("input has shape []", run, torch.tensor(1.0, device=device), packed, meta)
            self.refused("input is float16", run, x.half(), packed, meta)
            self.refused("input has dtype int64", run, x.long(), packed, meta)
            self.refused("bias has shape [8]", run, x, packed, meta, x[0])
            self.refused("bias is float16", run, x, packed, meta, torch.ones(12, device=device).half())
            self.refused("activation is 5", run, x, packed, meta, None, 5)
            self.refused("activation is -1", run, x, packed, meta, None, -1)
            self.refused("activation is 4294967296", run, x, packed, meta, None, 2**32)
            self.refused("packed has", run, x, packed[:-1], meta)
            self.refused("dtype float32", run, x, x, meta)
            shifted = torch.zeros(packed.numel() + 1, dtype=torch.uint8, device=device)[1:]
            self.refused("aligned", run, x, shifted.copy_(packed), meta)
            self.refused("int64 tensor [16]", run, x, packed, meta[:15])
            self.refused("int64 tensor [16]", run, x, packed, meta.int())
            self.refused("mark of a packed weight", run, x, packed, torch.zeros_like(meta))
            version, altered = meta.clone(), meta.clone()
            version[1] = 99
            altered[4] += 4
            self.refused("format version 99", run, x, packed, version)
            self.refused("checksum", run, x, packed, altered)
            with self.assertRaises(RuntimeError):
                run(x.to_sparse(), packed, meta)
            with self.assertRaises(RuntimeError):
                run(x.to("meta"), packed, meta)

    def test_devices(self):
        if "cuda" not in DEVICES:
            self.skipTest("no CUDA device")
        on_cpu = Weight(self.rng, 3, 2, 4, 4, torch.float32, "cpu", "full")
        packed, meta = on_cpu.pack()
        x = torch.ones(2, 8)
        run = torch.ops.bsr.linear_packed
        self.refused("packed is on cpu", run, x.cuda(), packed, meta)
        self.refused("the weight was packed for cpu", run, x.cuda(), packed.cuda(), meta)
        self.refused("meta is on cuda:0", run, x.cuda(), packed.cuda(), meta.cuda())
        self.refused("bias is on cuda:0", run, x, packed, meta, torch.ones(12).cuda())
        cuda_packed, cuda_meta = torch.ops.bsr.pack(on_cpu.crow, on_cpu.col, on_cpu.values.cuda(), 8)
        self.refused("the weight was packed for cuda", run, x, cuda_packed.cpu(), cuda_meta)
        self.refused("values is on cpu", torch.ops.bsr.linear, x.cuda(), on_cpu.crow, on_cpu.col,
                     on_cpu.values)
        y = run(x.cuda(), cuda_packed, cuda_meta)
        on_cpu.device = "cuda"
        self.check(y, on_cpu, x)

    def test_altered_packed_bytes(self):
        """Meaningless numbers, but no crash."""
        for device in DEVICES:
            for br, bc in BLOCKS:
                weight = Weight(self.rng, 3, 5, br, bc, torch.float16, device)
                packed, meta = weight.pack()
                x = tensor(self.rng, (67, weight.cols), torch.float16, device)
                for _ in range(3):
                    junk = torch.randint(0, 256, packed.shape, dtype=torch.uint8, device=device)
                    y = torch.ops.bsr.linear_packed(x, packed.copy_(junk), meta)
                    self.assertEqual(tuple(y.cpu().shape), (67, weight.rows))

    def test_gradient(self):
        for device in DEVICES:
            weight = Weight(self.rng, 3, 2, 4, 4, torch.float32, device, "full")
            packed, meta = weight.pack()
            x = torch.ones(2, 8, device=device, requires_grad=True)
            bias = torch.ones(12, device=device, requires_grad=True)
            run = torch.ops.bsr.linear_packed
            self.refused("input requires grad", run, x, packed, meta)
            self.refused("bias requires grad", run, x.detach(), packed, meta, bias)
            self.refused("input requires grad", run, x * 2, packed, meta)
            trained = weight.values.clone().requires_grad_()
            linear = torch.ops.bsr.linear
            self.refused("values requires grad", linear, x.detach(), weight.crow, weight.col, trained)
            for mode in (torch.no_grad, torch.inference_mode):
                with mode():
                    self.check(run(x, packed, meta, bias), weight, x, bias)
                    self.check(linear(x, weight.crow, weight.col, trained, bias), weight, x, bias)


@unittest.skipUnless("cuda" in DEVICES, "no CUDA device")
class CudaTest(BsrTest):
    def test_hopper_shapes(self):
        for br, bc in HOPPER_BLOCKS:
            for dtype in (torch.float16, torch.bfloat16):
                for pattern in PATTERNS:
                    weight = Weight(self.rng, int(self.rng.integers(1, 7)),
                                    int(self.rng.integers(1, 7)), br, bc, dtype, "cuda", pattern)
                    bias = weight.bias(self.rng) if self.rng.integers(2) else None
                    for tokens in HOPPER_TOKENS:
                        x = tensor(self.rng, (tokens, weight.cols), dtype, "cuda")
                        activation = int(self.rng.integers(5))
                        self.poison("cuda")
                        y = weight.packed_linear(x, bias, activation)
                        self.check(y, weight, x, bias, activation)

    @unittest.skipUnless(torch.cuda.is_available() and torch.cuda.get_device_capability() == (9, 0),
                         "the model is for compute capability 9.0")
    @unittest.skipIf("DJLBSR_EXECUTION" in os.environ, "the choice is overridden")
    def test_choice(self):
        """A dense weight of zeros tells which side ran."""
        for size, block, density, chosen in ((256, 1, 0.5, "dense"), (4096, 64, 0.125, "bsr")):
            weight = Weight(self.rng, size // block, size // block, block, block, torch.float16,
                            "cuda", density=density)
            x = tensor(self.rng, (2048, weight.cols), weight.dtype, "cuda")
            zeros = torch.zeros(weight.rows, weight.cols, dtype=weight.dtype, device="cuda")
            packed, meta = weight.pack()
            y = torch.ops.bsr.linear_packed(x, packed, meta, None, NONE, zeros)
            self.assertEqual("dense" if not y.any() else "bsr", chosen, weight.name)

    def test_hopper_strides(self):
        """Rows of x at and off multiples of 16 bytes, which have different kernels."""
        for br, bc in HOPPER_BLOCKS:
            for dtype in (torch.float16, torch.bfloat16):
                weight = Weight(self.rng, 5, 4, br, bc, dtype, "cuda", density=0.5)
                bias, k = weight.bias(self.rng), weight.cols
                make = lambda *shape: tensor(self.rng, shape, dtype, "cuda")
                inputs = {
                    "aligned": make(300, k),
                    "sliced at 16 bytes": make(300, k + 64)[:, 8 : k + 8],
                    "sliced at 6 bytes": make(300, k + 64)[:, 3 : k + 3],
                    "odd stride": make(300, k + 1)[:, :k],
                    "every other row": make(600, k)[::2],
                    "one row repeated": make(1, k).expand(300, k),
                    "batched": make(3, 100, k),
                }
                for name, x in inputs.items():
                    self.poison("cuda")
                    self.check(weight.packed_linear(x, bias, SILU), weight, x, bias, SILU, name)

    def test_graph(self):
        for dtype, block in [(dtype, 32) for dtype in DTYPES] + [(torch.float16, 64),
                                                                 (torch.bfloat16, 128)]:
            weight = Weight(self.rng, 9, 7, block, block, dtype, "cuda")
            packed, meta = weight.pack()
            bias = weight.bias(self.rng)
            x = tensor(self.rng, (70, weight.cols), dtype, "cuda")
            run = lambda: torch.ops.bsr.linear_packed(x, packed, meta, bias, GELU)
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                run()
            torch.cuda.current_stream().wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                y = run()
            for _ in range(3):
                x.copy_(tensor(self.rng, tuple(x.shape), dtype, "cuda"))
                y.fill_(float("nan"))
                graph.replay()
                torch.cuda.synchronize()
                self.check(y, weight, x, bias, GELU, "replayed")

    def test_streams(self):
        weight = Weight(self.rng, 9, 7, 32, 32, torch.float32, "cuda")
        packed, meta = weight.pack()
        torch.cuda.synchronize()
        streams = [torch.cuda.Stream() for _ in range(4)]
        runs = []
        for i in range(20):
            source = tensor(self.rng, (33, weight.cols), torch.float32, "cpu").pin_memory()
            with torch.cuda.stream(streams[i % 4]):
                x = torch.full((33, weight.cols), float("nan"), device="cuda")
                torch.cuda._sleep(2_000_000)  # the operator must wait for what its stream does
                x.copy_(source, non_blocking=True)
                y = torch.ops.bsr.linear_packed(x, packed, meta)
                runs.append((source, x, y))
        torch.cuda.synchronize()
        for source, _, y in runs:
            self.check(y, weight, source, what="on a stream")

    def test_values_on_a_stream(self):
        """pack reads values in the order of the current stream."""
        weight = Weight(self.rng, 9, 7, 32, 32, torch.float32, "cuda")
        x = tensor(self.rng, (5, weight.cols), torch.float32, "cuda")
        torch.cuda.synchronize()
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            late = torch.full_like(weight.values, float("nan"))
            torch.cuda._sleep(20_000_000)
            late.copy_(weight.values)
            y = torch.ops.bsr.linear(x, weight.crow, weight.col, late)
        torch.cuda.synchronize()
        self.check(y, weight, x)

    def test_device_stays_current(self):
        if torch.cuda.device_count() < 2:
            self.skipTest("one CUDA device")
        weight = Weight(self.rng, 3, 2, 4, 4, torch.float32, "cuda:1")
        x = torch.ones(2, 8, device="cuda:1")
        y = weight.packed_linear(x)
        self.assertEqual(torch.cuda.current_device(), 0)
        self.assertEqual(y.device, x.device)
        self.check(y, weight, x)

    def test_more_than_2_31_elements(self):
        free, _ = torch.cuda.mem_get_info()
        if free < 12 << 30:
            self.skipTest("less than 12 GiB of free GPU memory")
        weight = Weight(self.rng, 2, 64, 16, 16, torch.float16, "cuda")
        tokens = (1 << 21) + 77
        x = torch.zeros(tokens, weight.cols, dtype=torch.float16, device="cuda")
        self.assertGreater(x.numel(), 1 << 31)
        x[-50:] = tensor(self.rng, (50, weight.cols), torch.float16, "cuda")
        x[:50] = tensor(self.rng, (50, weight.cols), torch.float16, "cuda")
        y = weight.packed_linear(x)
        self.check(y[-50:], weight, x[-50:], what="last rows")
        self.check(y[:50], weight, x[:50], what="first rows")
        self.assertEqual(int(y[50:-50].count_nonzero()), 0)


class BsrLinear(torch.nn.Module):
    def __init__(self, weight, bias, activation):
        super().__init__()
        self.register_buffer("crow_indices", weight.crow)
        self.register_buffer("col_indices", weight.col)
        self.register_buffer("values", weight.values)
        self.register_buffer("bias", bias)
        self.activation = activation

    def forward(self, x):
        return torch.ops.bsr.linear(x, self.crow_indices, self.col_indices, self.values, self.bias,
                                    self.activation)


class BsrLinearPacked(torch.nn.Module):
    def __init__(self, weight, bias, activation):
        super().__init__()
        packed, meta = weight.pack()
        self.register_buffer("packed", packed)
        self.register_buffer("meta", meta)
        self.register_buffer("bias", bias)
        self.activation = activation

    def forward(self, x):
        return torch.ops.bsr.linear_packed(x, self.packed, self.meta, self.bias, self.activation)


def save_module(module, path):
    """As TorchScript, without the debug files, which name folders of this machine."""
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(module), buffer)
    with zipfile.ZipFile(buffer) as source, zipfile.ZipFile(path, "w") as target:
        for entry in source.namelist():
            if not entry.endswith(".debug_pkl"):
                target.writestr(zipfile.ZipInfo(entry), source.read(entry))


def write_modules(folder):
    """Writes bsr_linear.pt and bsr_linear_packed.pt, both 64 -> 96 in 16x16 blocks with GELU, and
    bsr_linear_example.npz with an input and the float64 result in float32."""
    os.makedirs(folder, exist_ok=True)
    rng = np.random.default_rng(64096)
    weight = Weight(rng, 6, 4, 16, 16, torch.float32, "cpu", density=0.4)
    bias = weight.bias(rng)
    save_module(BsrLinear(weight, bias, GELU), os.path.join(folder, "bsr_linear.pt"))
    save_module(BsrLinearPacked(weight, bias, GELU), os.path.join(folder, "bsr_linear_packed.pt"))
    x = tensor(rng, (2, 5, weight.cols), torch.float32, "cpu")
    y = activate(x.double() @ weight.dense.T + bias.double(), GELU).float()
    example = {"input": x.numpy(), "output": y.numpy()}
    np.savez(os.path.join(folder, "bsr_linear_example.npz"), **example)
    return example


class CountingResult(unittest.TextTestResult):
    passed = 0

    def addSuccess(self, test):
        super().addSuccess(test)
        self.passed += 1


def main():
    global library_path, kernels
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--library", required=True, help="libdjlbsr.so")
    parser.add_argument("--write-modules", metavar="DIR", help="write the Java tests' modules")
    parser.add_argument("-v", "--verbose", action="store_true")
    parser.add_argument("-k", metavar="TEXT", help="only tests whose name contains TEXT")
    args = parser.parse_args()
    library_path = os.path.abspath(args.library)
    kernels = Library(library_path)
    library = ctypes.CDLL(library_path)
    library.djlbsr_capabilities.restype = ctypes.c_char_p
    print(f"python torch: {torch.__version__}")
    print(library.djlbsr_capabilities().decode().strip(), flush=True)
    if args.write_modules:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            write_modules(args.write_modules)

    loader = unittest.TestLoader()
    if args.k:
        loader.testNamePatterns = [f"*{args.k}*"]
    suite = loader.loadTestsFromModule(sys.modules[__name__])
    result = unittest.TextTestRunner(stream=sys.stdout, verbosity=2 if args.verbose else 1,
                                     resultclass=CountingResult).run(suite)
    failed = len(result.failures) + len(result.errors)
    print(f"{result.passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
