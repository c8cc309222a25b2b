#!/usr/bin/env python3
#
# Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
#
"""The gap that djl-bsr fills: what PyTorch's block-sparse-row (BSR) products refuse, take and cost.

    python3 pytorch_bsr_gap.py [--library BUILD/libdjlbsr.so] [--json FILE]

Needs PyTorch alone; without a GPU it shows the CPU's part. With --library it runs the same cases on
bsr::linear and probes what is open there.

PyTorch's fast BSR kernels are written in Triton and registered from Python (torch/cuda/__init__.py), so
that a JVM never has them. "without Triton" here is PyTorch with that registration undone.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import functools
import json
import os
import platform
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F

SPARSITY = 0.875
GPU_SIZE = 4096
CPU_SIZE = 1024


@contextlib.contextmanager
def without_triton() -> Iterator[None]:
    """PyTorch as a process without Python has it: no BSR product leads to Triton."""
    torch.cuda.init()
    torch._TritonLibrary.lib._destroy()
    torch._TritonLibrary.ops_table.clear()
    try:
        yield
    finally:
        torch._TritonLibrary.lib = torch.library.Library("triton", "DEF")
        torch.cuda._register_triton_kernels()


def triton_was_called() -> bool:
    """Whether a BSR product has reached Triton since the kernels were last registered."""
    return any(kernel.kernel_invoked for kernel in torch._TritonLibrary.ops_table.values())


def command_line() -> str:
    """This process's, without the machine's own folders."""
    return " ".join(os.path.basename(a) if os.path.isabs(a) else a for a in sys.argv)


def random_bsr(rows: int, cols: int, block: tuple[int, int], dtype: torch.dtype, device: str,
               ) -> torch.Tensor:
    """As many blocks in each row, at random columns."""
    block_rows, block_cols = rows // block[0], cols // block[1]
    stored = round((1 - SPARSITY) * block_cols)
    col = torch.rand(block_rows, block_cols, device=device).argsort(1)[:, :stored].sort(1).values
    crow = torch.arange(block_rows + 1, device=device, dtype=torch.int32) * stored
    values = torch.randn(block_rows * stored, *block, device=device).to(dtype)
    return torch.sparse_bsr_tensor(crow, col.flatten().int(), values, (rows, cols))


def millis(work: Callable[[], object], device: str, repeats: int = 7) -> float:
    work()
    times = []
    for _ in range(repeats):
        if device == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times)


class Probes:
    """Runs products and keeps what became of each."""

    def __init__(self, device: str):
        self.device = device
        self.rows: list[dict] = []

    def add(self, what: str, work: Callable[[], object], dense_ms: float | None = None,
            **more: object) -> None:
        row: dict = {"device": self.device, "what": what, **more}
        try:
            if self.device == "cuda":
                torch.cuda.synchronize()
                torch.cuda.reset_peak_memory_stats()
                before = torch.cuda.memory_allocated()
            work()
            if self.device == "cuda":
                torch.cuda.synchronize()
                row["extra_gigabytes"] = (torch.cuda.max_memory_allocated() - before) / 1e9
            row["ms"] = millis(work, self.device)
            if self.device == "cuda":
                row["reached_triton"] = triton_was_called()
            if dense_ms is not None:
                row["over_dense"] = row["ms"] / dense_ms
        except Exception as error:  # noqa: BLE001: whatever it raises is what this program reports
            row["refused"] = f"{type(error).__name__}: " + str(error).strip().split("\n")[0][:150]
        self.rows.append(row)
        print(f"{self.device:4} {row['what']:72} {outcome(row)}", flush=True)


def outcome(row: dict) -> str:
    if "refused" in row:
        return row["refused"]
    text = f"{row['ms']:9.3f} ms"
    if "over_dense" in row:
        text += f", {row['over_dense']:.2f} times dense"
    if row.get("extra_gigabytes", 0) > 0.2:
        text += f", {row['extra_gigabytes']:.2f} GB of memory"
    if "Triton registered" in row["what"] and not row["reached_triton"]:
        text += ", which falls back"
    if "buffers_gigabytes" in row:
        text += f" (copies of x, 4 + 4 bytes and 2 in half for each of nnz T / b: {row['buffers_gigabytes']:.2f})"
    return text


def ours(weight: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    packed, meta = torch.ops.bsr.pack(weight.crow_indices(), weight.col_indices(), weight.values(),
                                      weight.shape[1])
    return lambda x: torch.ops.bsr.linear_packed(x, packed, meta)


def probe_cpu(probes: Probes, library: bool) -> None:
    n = CPU_SIZE
    for block in ((32, 32), (16, 16)):
        for dtype in (torch.float32, torch.float16, torch.bfloat16):
            name = f"{n}x{n}, T={n}, {block[0]}x{block[1]}, {str(dtype)[6:]}"
            weight = random_bsr(n, n, block, dtype, "cpu")
            dense, x = torch.randn(n, n).to(dtype), torch.randn(n, n).to(dtype)
            dense_ms = millis(lambda: F.linear(x, dense), "cpu")
            probes.add(f"linear(x, bsr), {name}", lambda: F.linear(x, weight), dense_ms)
            if library:
                product = ours(weight)
                probes.add(f"bsr::linear_packed, {name}", lambda: product(x), dense_ms)


def probe_products(probes: Probes, library: bool) -> None:
    """With and without Triton, square blocks and others, T that is and is not a multiple."""
    n = GPU_SIZE
    for dtype, block, tokens in ((torch.float16, (64, 64), n), (torch.float16, (16, 16), n),
                                 (torch.float16, (64, 64), n + 1), (torch.float16, (32, 64), n),
                                 (torch.float16, (24, 24), n // 2), (torch.float32, (64, 64), n)):
        cols = n // block[1] * block[1]
        rows = n // block[0] * block[0]
        name = f"{rows}x{cols}, T={tokens}, {block[0]}x{block[1]}, {str(dtype)[6:]}"
        weight = random_bsr(rows, cols, block, dtype, "cuda")
        x = torch.randn(tokens, cols, device="cuda").to(dtype)
        dense = torch.randn(rows, cols, device="cuda").to(dtype)
        dense_ms = millis(lambda: F.linear(x, dense), "cuda")
        probes.add(f"linear(x, bsr), Triton registered, {name}", lambda: F.linear(x, weight), dense_ms)
        x_t = x.t().contiguous()
        size = 8 if dtype == torch.float32 else 10  # two fp32 buffers, and one more in half
        buffers = size * weight.values().numel() * tokens / block[0] / 1e9
        with without_triton():
            probes.add(f"linear(x, bsr), without Triton, {name}", lambda: F.linear(x, weight), dense_ms,
                       buffers_gigabytes=buffers)
            probes.add(f"mm(bsr, x), without Triton, {name}", lambda: torch.mm(weight, x_t), dense_ms)
        if library:
            product = ours(weight)
            probes.add(f"bsr::linear_packed, {name}", lambda: product(x), dense_ms)


def probe_semi_structured(probes: Probes) -> None:
    """2:4 (cuSPARSELt): half of each four, whatever the model; no other sparsity."""
    n = 2 * GPU_SIZE
    x = torch.randn(n, n, device="cuda", dtype=torch.float16)
    dense = torch.randn(n, n, device="cuda", dtype=torch.float16)
    keep = torch.tensor([1, 0, 0, 1], device="cuda", dtype=torch.float16).repeat(n // 4)
    dense_ms = millis(lambda: F.linear(x, dense), "cuda")
    probes.add(f"dense linear, {n}x{n}, T={n}, float16", lambda: F.linear(x, dense), dense_ms)
    sparse = torch.sparse.to_sparse_semi_structured(dense * keep)
    probes.add(f"2:4 linear, {n}x{n}, T={n}, float16: 50 %", lambda: F.linear(x, sparse), dense_ms)
    compressed = torch._cslt_compress(dense * keep)

    @functools.cache
    def best_algorithm() -> int:
        return torch._cslt_sparse_mm_search(compressed, x.t(), transpose_result=True)

    probes.add(f"2:4 best algorithm, {n}x{n}, T={n}, float16: 50 %",
               lambda: torch._cslt_sparse_mm(compressed, x.t(), transpose_result=True,
                                             alg_id=best_algorithm()), dense_ms)
    eighth = dense * torch.tensor([1, 0, 0, 0, 0, 0, 0, 0], device="cuda").repeat(n // 8)
    packed = torch.sparse.to_sparse_semi_structured(eighth)
    probes.add(f"2:4 linear, {n}x{n}, T={n}, float16: 87.5 %, no gain", lambda: F.linear(x, packed),
               dense_ms)
    block = torch.zeros(n, n, device="cuda", dtype=torch.float16)
    block[:64, :64] = 1

    def block_is_kept() -> None:
        product = F.linear(x, torch.sparse.to_sparse_semi_structured(block))
        if not torch.allclose(product, F.linear(x, block), atol=0.1):
            raise ValueError("half of each full block is dropped without a word: wrong results")

    probes.add("2:4 linear of a weight with full 64x64 blocks", block_is_kept)


def probe_ours(probes: Probes) -> None:
    """What is open in djl-bsr."""
    weight = random_bsr(256, 256, (16, 16), torch.float16, "cuda")
    x = torch.randn(64, 256, device="cuda", dtype=torch.float16)
    product = ours(weight)

    def gradient() -> None:
        with torch.enable_grad():
            product(x.clone().requires_grad_()).sum().backward()

    probes.add("bsr::linear_packed with autograd", gradient)
    probes.add("bsr::linear_packed under torch.compile(fullgraph=True)",
               lambda: torch.compile(product, fullgraph=True)(x))
    probes.add("bsr::linear_packed, float64", lambda: ours(weight.double())(x.double()))
    probes.add("bsr::linear_packed, int8", lambda: ours(weight.to(torch.int8))(x.to(torch.int8)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--library", help="libdjlbsr.so")
    parser.add_argument("--json", help="write the results there")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    torch.set_grad_enabled(False)
    if args.library:
        torch.ops.load_library(args.library)
    cpu, gpu = Probes("cpu"), Probes("cuda")
    probe_cpu(cpu, bool(args.library))
    if torch.cuda.is_available():
        probe_products(gpu, bool(args.library))
        probe_semi_structured(gpu)
        if args.library:
            probe_ours(gpu)
    if args.json:
        with open(args.json, "w", encoding="utf-8") as file:
            json.dump({
                "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
                "command": command_line(), "pytorch": torch.__version__,
                "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
                "cpu_threads": torch.get_num_threads(), "cpu": platform.processor(),
                "removed": SPARSITY, "results": cpu.rows + gpu.rows,
            }, file, indent=1)
            file.write("\n")


if __name__ == "__main__":
    main()
