#!/usr/bin/env python3
#
# Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
#
"""Times bsr::linear_packed on a GPU against cuBLAS with a fully dense random weight of the same shape.

    python3 cuda_linear.py --library BUILD/libdjlbsr.so [--json FILE] [--case NAME ...]

Random data, blocks stored at random. Every case is checked against float64 before it is timed, then
all candidates of a case are timed in turn, --repeats times; times are medians of CUDA events, in
microseconds. "useful" counts 2 * stored elements * tokens operations; "speed-up" is over cuBLAS.
Needs torch alone.
"""

import argparse
import datetime
import json
import platform
import sys

import torch
import torch.nn.functional as F

NONE, RELU, GELU, GELU_TANH, SILU = range(5)

# name: dtype, rows, cols, tokens, block rows, block cols, stored share of the blocks
CASES = {
    f"{shape}-b{block}-{round(100 - 100 * density, 1):g}%-{name}": (
        dtype, rows, cols, tokens, block, block, density)
    for name, dtype, shape, rows, cols, tokens, block, density in [
        ("fp16", torch.float16, "8192^3", 8192, 8192, 8192, 128, 0.125),
        ("fp16", torch.float16, "8192^3", 8192, 8192, 8192, 128, 0.5),
        ("fp16", torch.float16, "8192^3", 8192, 8192, 8192, 64, 0.125),
        ("fp16", torch.float16, "8192^3", 8192, 8192, 8192, 64, 0.5),
        ("bf16", torch.bfloat16, "8192^3", 8192, 8192, 8192, 64, 0.125),
        ("fp16", torch.float16, "T2048-11008x4096", 11008, 4096, 2048, 64, 0.125),
        ("fp16", torch.float16, "T2048-4096x11008", 4096, 11008, 2048, 64, 0.125),
    ]
}


def random_weight(dtype, rows, cols, block_rows, block_cols, density, generator):
    """Indices, values and the same matrix dense; exactly density of the blocks are stored."""
    grid = (rows // block_rows, cols // block_cols)
    count = grid[0] * grid[1]
    chosen = torch.randperm(count, device="cuda", generator=generator)[: round(count * density)]
    mask = torch.zeros(count, dtype=torch.bool, device="cuda")
    mask[chosen] = True
    mask = mask.reshape(grid)
    crow = torch.zeros(grid[0] + 1, dtype=torch.int32, device="cuda")
    crow[1:] = mask.sum(dim=1).cumsum(0)
    row, col = mask.nonzero(as_tuple=True)
    values = torch.randn(len(col), block_rows, block_cols, device="cuda",
                         generator=generator).to(dtype)
    dense = torch.zeros(grid[0], grid[1], block_rows, block_cols, dtype=dtype, device="cuda")
    dense[row, col] = values
    dense = dense.transpose(1, 2).reshape(rows, cols)
    return crow, col.int(), values, dense


def check(y, x, dense, dtype):
    """Some tokens against float64, per element: gamma_n * sum |w x| and one rounding."""
    tokens = torch.randint(0, len(x), (64,), device=x.device)
    x64, w64 = x[tokens].double(), dense.double()
    expected = x64 @ w64.T
    terms = (dense != 0).sum(dim=1).double() + 2
    bound = terms * 2.0**-24 * (x64.abs() @ w64.abs().T)
    unit = {torch.float32: 0.0, torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}[dtype]
    bound = bound + unit * (expected.abs() + bound) + 2.0**-25
    wrong = ~((y[tokens].double() - expected).abs() <= bound)
    if wrong.any():
        raise SystemExit(f"{int(wrong.sum())} of {wrong.numel()} elements are wrong")
    if not y.isfinite().all():
        raise SystemExit("y has elements that are not finite")


def time_in_turn(candidates, repeats):
    """Median, least and greatest time of each candidate in microseconds."""
    times = {name: [] for name in candidates}
    for function in candidates.values():
        for _ in range(3):
            function()
    for _ in range(repeats):
        torch.cuda._sleep(300_000)  # the host runs ahead: no launch gaps in the times
        events = {}
        for name, function in candidates.items():
            events[name] = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
            events[name][0].record()
            function()
            events[name][1].record()
        torch.cuda.synchronize()
        for name, (start, end) in events.items():
            times[name].append(1000 * start.elapsed_time(end))
    return {name: [sorted(t)[len(t) // 2], min(t), max(t)] for name, t in times.items()}


def run(name, case, repeats):
    dtype, rows, cols, tokens, block_rows, block_cols, density = case
    generator = torch.Generator("cuda").manual_seed(1)
    crow, col, values, dense = random_weight(dtype, rows, cols, block_rows, block_cols, density,
                                             generator)
    packed, meta = torch.ops.bsr.pack(crow, col, values, cols)
    x = torch.randn(tokens, cols, device="cuda", generator=generator).to(dtype)
    bias = torch.randn(rows, device="cuda", generator=generator).to(dtype)
    full = torch.randn(rows, cols, device="cuda", generator=generator).to(dtype)
    linear = torch.ops.bsr.linear_packed
    check(linear(x, packed, meta), x, dense, dtype)
    times = time_in_turn({
        "bsr": lambda: linear(x, packed, meta),
        "dense": lambda: F.linear(x, full),
        "relu": lambda: linear(x, packed, meta, bias, RELU),
        "densified": lambda: F.linear(x, dense),
        "gelu": lambda: linear(x, packed, meta, bias, GELU),
        "silu": lambda: linear(x, packed, meta, bias, SILU),
    }, repeats)
    useful = 2 * values.numel() * tokens
    return {
        "case": name, "dtype": str(dtype), "rows": rows, "cols": cols, "tokens": tokens,
        "block": [block_rows, block_cols], "stored_blocks": len(col),
        "useful_tflops": useful / times["bsr"][0] / 1e6,
        "dense_tflops": 2 * rows * cols * tokens / times["dense"][0] / 1e6,
        "speed_up": times["dense"][0] / times["bsr"][0],
        "us_median_min_max": times,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--library", required=True, help="libdjlbsr.so")
    parser.add_argument("--json", help="write the results there")
    parser.add_argument("--case", nargs="*", default=list(CASES), choices=list(CASES))
    parser.add_argument("--repeats", type=int, default=25)
    args = parser.parse_args()
    torch.ops.load_library(args.library)

    machine = {
        "gpu": torch.cuda.get_device_name(), "torch": torch.__version__,
        "cuda": torch.version.cuda, "python": platform.python_version(),
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "command": " ".join(sys.argv),
    }
    print(f"{machine['gpu']}, PyTorch {machine['torch']}, {machine['date']}")
    print(f"{'case':32} {'bsr us':>8} {'useful':>7} {'cuBLAS us':>9} {'TFLOP/s':>7} {'speed-up':>8} "
          f"{'densified':>9} {'relu':>6} {'gelu':>6} {'silu':>6}")
    results = []
    for name in args.case:
        result = run(name, CASES[name], args.repeats)
        results.append(result)
        us = {key: value[0] for key, value in result["us_median_min_max"].items()}
        ratio = lambda key: f"{us[key] / us['bsr']:6.2f}"
        print(f"{name:32} {us['bsr']:8.1f} {result['useful_tflops']:7.1f} {us['dense']:9.1f} "
              f"{result['dense_tflops']:7.1f} {result['speed_up']:8.2f} {us['densified']:9.1f} "
              f"{ratio('relu')} {ratio('gelu')} {ratio('silu')}", flush=True)
    if args.json:
        with open(args.json, "w", encoding="utf-8") as file:
            json.dump({"machine": machine, "results": results}, file, indent=1)
            file.write("\n")


if __name__ == "__main__":
    main()
