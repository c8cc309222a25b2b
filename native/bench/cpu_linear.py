#!/usr/bin/env python3
# Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
"""Times bsr::linear_packed on the CPU against PyTorch's dense linear and PyTorch's own BSR linear.

All three run on the same random data, turn by turn in one process; each result is compared with the
dense one before it is timed. Needs PyTorch 2.7 or later and libdjlbsr.so:

    python3 native/bench/cpu_linear.py --library build/libdjlbsr.so --out results.json
"""
import argparse
import datetime
import json
import platform
import statistics
import sys
import time
import warnings

import torch
import torch.nn.functional as F


def random_blocks(rows, cols, block, sparsity):
    """A dense weight of random blocks, and its BSR parts."""
    br, bc = block
    grid_rows, grid_cols = rows // br, cols // bc
    keep = max(1, round((1 - sparsity) * grid_rows * grid_cols))
    chosen = torch.zeros(grid_rows * grid_cols, dtype=torch.bool)
    chosen[torch.randperm(grid_rows * grid_cols)[:keep]] = True
    chosen = chosen.view(grid_rows, grid_cols)
    crow = torch.cat([torch.zeros(1, dtype=torch.int64), chosen.sum(1).cumsum(0)]).int()
    col = chosen.nonzero()[:, 1].int()
    values = torch.randn(keep, br, bc)
    dense = torch.zeros(grid_rows, grid_cols, br, bc)
    dense[chosen] = values
    return dense.permute(0, 2, 1, 3).reshape(rows, cols).contiguous(), crow, col, values


def medians(works, seconds, most=400):
    """The median time of each piece of work in microseconds; they take turns."""
    times = [[] for _ in works]
    for work in works:
        work()
    end = time.perf_counter() + seconds * len(works)
    rounds = 0
    while rounds < 5 or (time.perf_counter() < end and rounds < most):
        for turn in range(len(works)):
            i = (turn + rounds) % len(works)
            start = time.perf_counter()
            works[i]()
            times[i].append((time.perf_counter() - start) * 1e6)
        rounds += 1
    return [statistics.median(t) for t in times]


def measure(rows, cols, block, sparsity, tokens, seconds):
    dense, crow, col, values = random_blocks(rows, cols, block, sparsity)
    full = torch.randn(rows, cols)
    x = torch.randn(tokens, cols)
    packed, meta = torch.ops.bsr.pack(crow, col, values, cols)
    theirs = torch.sparse_bsr_tensor(crow, col, values, (rows, cols))
    expected = F.linear(x.double(), dense.double())
    worst = (expected.abs().max()).item()
    errors = []
    for result in (torch.ops.bsr.linear_packed(x, packed, meta), F.linear(x, theirs)):
        errors.append((result - expected).abs().max().item() / worst)
        if not errors[-1] < 1e-5:
            raise SystemExit(f"wrong result: off by {errors[-1]}")
    ours, dense_us, torch_bsr = medians(
        [
            lambda: torch.ops.bsr.linear_packed(x, packed, meta),
            lambda: F.linear(x, full),
            lambda: F.linear(x, theirs),
        ],
        seconds,
    )
    useful = 2.0 * values.numel() * tokens
    return {
        "shape": f"{rows}x{cols}",
        "block": f"{block[0]}x{block[1]}",
        "sparsity": sparsity,
        "tokens": tokens,
        "denseMicros": dense_us,
        "torchBsrMicros": torch_bsr,
        "djlbsrMicros": ours,
        "speedUpOverDense": dense_us / ours,
        "usefulGflops": useful / ours * 1e-3,
        "denseGflops": 2.0 * rows * cols * tokens / dense_us * 1e-3,
        "maxError": errors[0],
    }


def processor():
    with open("/proc/cpuinfo", encoding="utf-8") as info:
        for line in info:
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--library", required=True, help="libdjlbsr.so")
    parser.add_argument("--out", default="cpu_linear.json", help="where the results go")
    parser.add_argument("--seconds", type=float, default=0.15, help="time for each measurement")
    parser.add_argument("--shapes", default="1024x4096,3072x768,768x3072,4096x4096")
    parser.add_argument("--blocks", default="4x4,8x8,16x16,32x32,64x64")
    parser.add_argument("--sparsities", default="0.5,0.75,0.875,0.95")
    parser.add_argument("--tokens", default="1,16,128,512")
    args = parser.parse_args()
    torch.ops.load_library(args.library)
    torch.manual_seed(0)
    warnings.filterwarnings("ignore", message="Sparse")

    def pairs(text):
        return [tuple(int(n) for n in pair.split("x")) for pair in text.split(",")]

    results = []
    with torch.no_grad():
        for rows, cols in pairs(args.shapes):
            for block in pairs(args.blocks):
                for sparsity in map(float, args.sparsities.split(",")):
                    for tokens in map(int, args.tokens.split(",")):
                        result = measure(rows, cols, block, sparsity, tokens, args.seconds)
                        results.append(result)
                        print(
                            "{shape:>10} {block:>6} {sparsity:6.1%} T={tokens:<4} dense "
                            "{denseMicros:9.1f} us  PyTorch BSR {torchBsrMicros:9.1f} us  djl-bsr "
                            "{djlbsrMicros:9.1f} us  {speedUpOverDense:6.2f}x dense  "
                            "{usefulGflops:7.1f} useful GFLOP/s".format(**result),
                            flush=True,
                        )
    with open(args.out, "w", encoding="utf-8") as out:
        json.dump(
            {
                "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
                "command": "cpu_linear.py " + " ".join(sys.argv[1:]),
                "processor": processor(),
                "threads": torch.get_num_threads(),
                "pytorch": torch.__version__,
                "results": results,
            },
            out,
            indent=1,
        )


if __name__ == "__main__":
    main()
