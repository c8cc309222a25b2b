#
# Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
#
"""Runs suites on the GPU: checks every case against float64, then times all candidates in turn."""

from __future__ import annotations

import contextlib
import datetime
import os
import platform
import subprocess
import time
import warnings
from collections import Counter
from collections.abc import Callable

import torch
import torch.nn.functional as F

from pytorch_bsr_gap import command_line, without_triton

from . import operands as ops
from . import peers, plan
from .library import Library
from .operands import Operands
from .timing import COLD_BYTES, COLD_TOKENS, Candidate, Clock, warm_up

OURS = "djlbsr"
ACTIVATIONS = {"bias": 0, "relu": 1, "gelu": 2, "gelu_tanh": 3, "silu": 4}
# Fully dense and densified weights run at nearly the same speed: some sparsities are enough.
DENSIFIED = (0.5, 0.875)
SHARED_PEERS = ("cublas_dense", "cublas_tf32")  # do not depend on the weight


class Runner:
    def __init__(self, library: Library, clock: Clock):
        self._library = library
        self._clock = clock
        self._operands: dict[plan.Weight, Operands] = {}
        self._x: tuple[tuple, torch.Tensor] | None = None
        self.records: list[dict] = []
        self.refusals: Counter[tuple[str, str]] = Counter()
        self.unpoisoned = 0

    def run(self, group: plan.Group) -> None:
        self._operands = {w: self._operands.get(w) or ops.make(w) for w in group.weights}
        x = self._input(group)
        candidates: list[Candidate] = []
        records = []
        for n, (weight, operands) in enumerate(self._operands.items()):
            ours, record = self._ours(operands, x)
            record["suite"] = group.suite
            candidates.append(Candidate(f"{OURS}/{n}", ours.call, ours.copies))
            for name in group.epilogues:
                candidates.append(Candidate(f"{name}/{n}", self._epilogue(operands, x, name, record)))
            for name in group.peers:
                if name in SHARED_PEERS and n > 0:
                    continue
                if name == "cublas_densified" and weight.sparsity not in DENSIFIED:
                    continue
                peer = self._peer(name, operands, x, record)
                if peer is not None:
                    candidates.append(peer.candidate(f"{name}/{n}"))
            records.append(record)
        timings = self._clock.time(candidates)
        for n, record in enumerate(records):
            for name, timing in timings.items():
                name, of = name.split("/")
                if int(of) == n or name in SHARED_PEERS:
                    record["us"][name] = timing.micros
                    record["calls"][name] = timing.calls
        self.records += records

    def _input(self, group: plan.Group) -> torch.Tensor:
        weight = group.weights[0]
        key = group.tokens, weight.cols, weight.dtype
        if self._x is None or self._x[0] != key:
            self._x = key, torch.randn(group.tokens, weight.cols, device="cuda",
                                       dtype=getattr(torch, weight.dtype))
        return self._x[1]

    def _ours(self, operands: Operands, x: torch.Tensor) -> tuple[peers.Peer, dict]:
        weight = operands.weight
        packed, meta, pack_millis = operands.packed
        linear = torch.ops.bsr.linear_packed
        linear(x, packed, meta)  # what it may allocate for itself comes before the poison
        poison = ops.poisoned_memory(len(x), weight.rows, x.dtype)
        y = linear(x, packed, meta)
        self.unpoisoned += y.data_ptr() != poison
        error = ops.allowed_error_used(y, x, operands.dense)
        record = {
            "dtype": weight.dtype, "rows": weight.rows, "cols": weight.cols, "tokens": len(x),
            "block": list(weight.block), "pattern": weight.pattern, "sparsity": weight.sparsity,
            "nnzb": len(operands.col), "longest_row": operands.longest_row,
            "packed_bytes": packed.numel(), "pack_ms": float(f"{pack_millis:.3g}"),
            "kernel": self._library.kernel_name(meta, x, y),
            "allowed_error_used": {OURS: float(f"{error:.3g}")}, "us": {}, "calls": {},
        }
        return peers.djlbsr(operands, x), record

    def _epilogue(self, operands: Operands, x: torch.Tensor, name: str,
                  record: dict) -> Callable[[int], torch.Tensor]:
        packed, meta, _ = operands.packed
        bias = torch.randn(operands.weight.rows, device="cuda", dtype=x.dtype)
        activation = ACTIVATIONS[name]
        if name == "bias":
            y = torch.ops.bsr.linear_packed(x, packed, meta, bias, activation)
            error = ops.allowed_error_used(y, x, operands.dense, bias)
            record["allowed_error_used"][name] = float(f"{error:.3g}")
        return lambda i: torch.ops.bsr.linear_packed(x, packed, meta, bias, activation)

    def _peer(self, name: str, operands: Operands, x: torch.Tensor,
              record: dict) -> peers.Peer | None:
        """The peer, checked; None if it refuses the case, which is counted."""
        try:
            peer = peers.PEERS[name](operands, x)
            y = peer.call(0)
            torch.cuda.synchronize()
        except Exception as error:  # noqa: BLE001: whatever a peer refuses with is a result
            block = "x".join(map(str, operands.weight.block))
            self.refusals[f"{name}, {block}", str(error).split("\n")[0][:160]] += 1
            return None
        if peer.dense is not None:
            used = ops.allowed_error_used(y, x, peer.dense)
            record["allowed_error_used"][name] = float(f"{used:.3g}")
        return peer


def measure_ceilings(clock: Clock) -> dict:
    """What the roofline is drawn with: the rate of a large product and of a large copy."""
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.float16) for _ in range(2))
    source = torch.randint(0, 256, (1 << 30,), dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    timings = clock.time([Candidate("product", lambda i: F.linear(a, b)),
                          Candidate("copy", lambda i: target.copy_(source))])
    return {"cublas_fp16_tflops": 2 * 8192**3 / timings["product"].median / 1e6,
            "copy_terabytes_per_second": 2 * source.numel() / timings["copy"].median / 1e6}


def measure_host(calls: int = 300) -> dict:
    """Microseconds of the host for a call that the GPU serves faster than that, called in a row."""
    operands = ops.make(plan.Weight(768, 768, (64, 64), 0.875))
    x = torch.randn(64, 768, device="cuda", dtype=torch.float16)
    packed, meta, _ = operands.packed
    works = {OURS: lambda i: torch.ops.bsr.linear_packed(x, packed, meta),
             "cublas_dense": peers.cublas_dense(operands, x).call,
             "torch_bsr_triton": peers.torch_bsr_triton(operands, x).call}
    result = {}
    for name, work in works.items():
        for _ in range(20):
            work(0)
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(calls):
            work(0)
        result[name] = round(1e6 * (time.perf_counter() - start) / calls, 2)
        torch.cuda.synchronize()
    return result


def _nvidia_smi(query: str) -> str:
    """Of the first GPU."""
    try:
        lines = subprocess.run(["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader"],
                               capture_output=True, text=True, check=True).stdout.splitlines()
    except (OSError, subprocess.CalledProcessError):
        lines = []
    return lines[0].strip() if lines else "unknown"


def describe_machine(library: Library) -> dict:
    device = torch.cuda.get_device_properties(0)
    import triton

    return {
        "gpu": device.name, "multiprocessors": device.multi_processor_count,
        "l2_bytes": device.L2_cache_size, "memory_bytes": device.total_memory,
        "driver": _nvidia_smi("driver_version"),
        "clocks": _nvidia_smi("clocks.sm,clocks.mem,power.limit"),
        "cuda": torch.version.cuda, "pytorch": torch.__version__, "triton": triton.__version__,
        "cudnn": torch.backends.cudnn.version(), "python": platform.python_version(),
        "cusparselt": torch.backends.cusparselt.version(),
        "djlbsr": library.version, "host_cores": os.cpu_count(),
    }


def run(library_path: str, suites: list[str], seconds: float, group_seconds: float,
        progress: Callable[[str], None]) -> dict:
    start = time.monotonic()
    library = Library(library_path)
    torch.manual_seed(0)
    torch.set_grad_enabled(False)
    torch.backends.cuda.matmul.allow_tf32 = False
    warnings.simplefilter("ignore", UserWarning)  # beta features, untuned Triton parameters
    clock = Clock(group_seconds)
    runner = Runner(library, clock)
    warm_up(1.0)
    result: dict = {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "command": command_line(),
        "machine": describe_machine(library),
        "method": {
            "us": "microseconds a call: 10th percentile, median and 90th percentile of the turns, in each "
                  "of which a candidate's CUDA graph is replayed once",
            "calls": "calls in the graph; 0: one call from the host instead",
            "cold": f"up to {COLD_TOKENS} tokens, copies of a weight take turns: {COLD_BYTES / 1e6:g} MB of "
                    "them, or one for each call of the graph; one copy above that",
            "host_us": "microseconds of the host for one of many calls of 64 tokens, 768×768",
            "pack_ms": "wall-clock milliseconds of bsr::pack",
            "allowed_error_used": "greatest |y - exact| over gamma_n * sum |w x| and one rounding, on "
                                  "64 tokens of all rows and 64 rows of all tokens; right up to 1",
        },
        "ceilings": measure_ceilings(clock),
        "host_us": measure_host(),
        "suites": {},
    }
    ready = time.monotonic()
    failures: list[dict] = []
    for suite, deadline in zip(suites, plan.deadlines(seconds - (ready - start), suites)):
        groups = plan.groups(suite)
        began, done = time.monotonic(), 0
        guard = without_triton() if suite == "fallback" else contextlib.nullcontext()
        with guard:
            for group in groups:
                if time.monotonic() - ready > deadline:
                    break
                try:
                    runner.run(group)
                except Exception as error:  # noqa: BLE001: one group must not cost all others
                    failures.append({"group": repr(group), "message": str(error)[:500]})
                done += 1
        taken = time.monotonic() - began
        result["suites"][suite] = {"groups": done, "left_out": len(groups) - done,
                                   "seconds": round(taken, 1)}
        progress(f"{suite}: {done} of {len(groups)} groups in {taken:.0f} s")
    wrong = [r for r in runner.records
             if not all(r["allowed_error_used"].get(name, 0) <= 1 for name in (OURS, "bias"))]
    result |= {
        "seconds": round(time.monotonic() - start, 1),
        "cases": len(runner.records),
        "wrong_cases": len(wrong),
        "failures": failures,
        "outputs_not_poisoned": runner.unpoisoned,
        "refusals": [{"peer": peer, "message": message, "cases": count}
                     for (peer, message), count in runner.refusals.items()],
        "results": runner.records,
    }
    return result
