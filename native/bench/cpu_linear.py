#!/usr/bin/env python3
# Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
"""Times bsr::linear_packed on the CPU against PyTorch's dense linear and PyTorch's own BSR linear.

All run on random data in one process; each result is compared with float64 before it is timed. The
dense layer of a shape is timed before and after its block-sparse ones, the faster time counts.
"auto" has the densified weight too and chooses by a profile of this machine, measured first as in Java.
PyTorch's BSR, which may take seconds, is timed where it fits into the budget. Needs PyTorch 2.7 or
later and libdjlbsr.so; PyTorch has no bfloat16 BSR on the CPU, and int8 weights are
compared with its float32. With matplotlib a picture is drawn beside the results:

    python3 native/bench/cpu_linear.py --library build/libdjlbsr.so --out results.json
"""
import argparse
import ctypes
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


def median_micros(work, seconds, most=400):
    """The median, the 10th and the 90th percentile of the time of work in microseconds."""
    work()
    times = []
    end = time.perf_counter() + seconds
    while len(times) < 3 or (time.perf_counter() < end and len(times) < most):
        start = time.perf_counter()
        work()
        times.append((time.perf_counter() - start) * 1e6)
    times.sort()
    last = len(times) - 1
    return statistics.median(times), times[last // 10], times[last - last // 10]


# The data type and weight format of a kind, and the share of the largest output that an element may
# be off by.
KINDS = {
    "float32": (torch.float32, 0, 1e-5),
    "bfloat16": (torch.bfloat16, 0, 1e-2),
    "int8": (torch.float32, 1, 3e-2),
}


PROFILED = {"float32": 0, "bfloat16": 2}  # djlbsr_dtype
PROFILE_POINTS = 168  # DJLBSR_PROFILE_POINTS


def measure_profiles(path, kinds):
    """What the automatic choice rests on, for the kinds that have a profile; the seconds it took."""
    library = ctypes.CDLL(path)
    library.djlbsr_last_error.restype = ctypes.c_char_p
    start = time.perf_counter()
    for dtype in (PROFILED[kind] for kind in kinds if kind in PROFILED):
        seconds = (ctypes.c_double * PROFILE_POINTS)()
        if (library.djlbsr_torch_measure_profile(dtype, seconds)
                or library.djlbsr_set_profile(dtype, seconds)):
            raise SystemExit(library.djlbsr_last_error().decode())
    return time.perf_counter() - start


def check(result, x, dense, what, allowed=1e-5):
    """Compares some tokens with float64; dense is the weight in float64."""
    some = slice(0, min(8, x.shape[0]))
    expected = F.linear(x[some].double(), dense)
    error = ((result[some] - expected).abs().max() / expected.abs().max()).item()
    if not error < allowed:
        raise SystemExit(f"{what}: wrong result, off by {error}")
    return error


class TorchBsr:
    """PyTorch's BSR linear on one weight; its time grows with the tokens, which allows a forecast."""

    def __init__(self, crow, col, values, shape):
        self.weight = torch.sparse_bsr_tensor(crow, col, values, shape)
        self.micros_a_token = 0.0

    def measure(self, x, dense, seconds, most_seconds):
        """The median in microseconds, or None and why there is none."""
        if self.micros_a_token * x.shape[0] * 4e-6 > most_seconds:
            return None, "too slow for the budget"
        try:
            result = F.linear(x, self.weight)
        except RuntimeError as error:
            return None, str(error).splitlines()[0]
        check(result, x, dense, "PyTorch BSR")
        median = median_micros(lambda: F.linear(x, self.weight), seconds)[0]
        self.micros_a_token = median / x.shape[0]
        return median, None


def measure_shape(kind, rows, cols, args, deadline):
    """All results of a shape."""
    dtype, weight_format, allowed = KINDS[kind]
    tokens_list = sorted(map(int, args.tokens.split(",")))
    full = torch.randn(rows, cols).to(dtype)
    xs = {tokens: torch.randn(tokens, cols).to(dtype) for tokens in tokens_list}

    def dense_times():
        return {t: median_micros(lambda: F.linear(xs[t], full), 5 * args.seconds)[0] for t in xs}

    before = dense_times()
    results = []
    for block in pairs(args.blocks):
        if rows % block[0] or cols % block[1]:
            continue
        for sparsity in map(float, args.sparsities.split(",")):
            dense, crow, col, values = random_blocks(rows, cols, block, sparsity)
            values = values.to(dtype)
            packed, meta = torch.ops.bsr.pack(crow, col, values, cols, weight_format)
            densified = dense.to(dtype) if kind in PROFILED else None
            dense = dense.to(dtype).double()
            theirs = TorchBsr(crow, col, values, (rows, cols)) if kind == "float32" else None
            for tokens in tokens_list:
                x = xs[tokens]
                error = check(torch.ops.bsr.linear_packed(x, packed, meta), x, dense, "djl-bsr",
                              allowed)
                ours, p10, p90 = median_micros(
                    lambda: torch.ops.bsr.linear_packed(x, packed, meta), args.seconds
                )
                auto = None
                if densified is not None:
                    auto = median_micros(
                        lambda: torch.ops.bsr.linear_packed(x, packed, meta, None, 0, densified),
                        args.seconds)[0]
                left = deadline - time.perf_counter()
                torch_bsr, why = None, "none for this kind"
                if theirs is not None:
                    torch_bsr, why = theirs.measure(x, dense, args.seconds / 2, min(0.1, left))
                results.append(
                    {
                        "kind": kind,
                        "shape": f"{rows}x{cols}",
                        "block": f"{block[0]}x{block[1]}",
                        "sparsity": sparsity,
                        "tokens": tokens,
                        "djlbsrMicros": ours,
                        "djlbsrMicrosP10": p10,
                        "djlbsrMicrosP90": p90,
                        "autoMicros": auto,
                        "torchBsrMicros": torch_bsr,
                        "noTorchBsr": why,
                        "usefulGflops": 2e-3 * values.numel() * tokens / ours,
                        "maxError": error,
                    }
                )
    after = dense_times()
    for result in results:
        dense_us = min(before[result["tokens"]], after[result["tokens"]])
        result["denseMicros"] = dense_us
        result["speedUpOverDense"] = dense_us / result["djlbsrMicros"]
        result["denseGflops"] = 2e-3 * rows * cols * result["tokens"] / dense_us
        print_result(result)
    return results


def print_result(result):
    theirs = result["torchBsrMicros"]
    print(
        "{kind:>8} {shape:>10} {block:>6} {sparsity:6.1%} T={tokens:<4} dense {denseMicros:9.1f} us  "
        "PyTorch BSR {theirs:>10} us  djl-bsr {djlbsrMicros:9.1f} us  {speedUpOverDense:6.2f}x "
        "dense  {usefulGflops:7.1f} useful GFLOP/s".format(
            theirs="-" if theirs is None else f"{theirs:.1f}", **result
        ),
        flush=True,
    )


def print_behind(results):
    """How often each way is more than 5 % slower than dense."""
    for way, key in (("block-sparse alone", "djlbsrMicros"), ("auto", "autoMicros")):
        ratios = [r["denseMicros"] / r[key] for r in results if r[key] is not None]
        behind = sum(ratio < 0.95 for ratio in ratios)
        if ratios:
            print(f"{way}: below 0.95 of dense's speed in {behind} of {len(ratios)} cases, at worst "
                  f"{min(ratios):.2f}")


def draw(results, title, path):
    """Speed-up over dense against sparsity: a row of plots a shape, a column a number of tokens."""
    try:
        import matplotlib

        matplotlib.use("Agg")
        import matplotlib.pyplot as plt
    except ImportError:
        print("no matplotlib, no picture")
        return
    shapes = list(dict.fromkeys(r["shape"] for r in results))
    tokens = sorted({r["tokens"] for r in results})
    blocks = list(dict.fromkeys(r["block"] for r in results))
    figure, axes = plt.subplots(
        len(shapes), len(tokens), figsize=(3.2 * len(tokens), 2.8 * len(shapes)), squeeze=False
    )
    for row, shape in enumerate(shapes):
        for column, count in enumerate(tokens):
            axis = axes[row][column]
            here = [r for r in results if r["shape"] == shape and r["tokens"] == count]
            grid = sorted({r["sparsity"] for r in here})
            axis.plot(grid, [1 / (1 - s) for s in grid], "k--", label="1 / (1 - sparsity)")
            axis.axhline(1, color="gray", linewidth=0.5)
            for block in blocks:
                line = sorted((r["sparsity"], r["speedUpOverDense"])
                              for r in here if r["block"] == block)
                axis.plot(*zip(*line), marker=".", label=block)
            axis.set_yscale("log")
            axis.set_title(f"{shape}, {count} tokens", fontsize=8)
            axis.tick_params(labelsize=7)
    for axis in axes[-1]:
        axis.set_xlabel("sparsity", fontsize=8)
    for row in axes:
        row[0].set_ylabel("times faster than dense", fontsize=8)
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncol=len(labels), fontsize=8)
    figure.suptitle(title, fontsize=10)
    figure.tight_layout(rect=(0, 0.03, 1, 0.98))
    figure.savefig(path, dpi=110)


def processor():
    with open("/proc/cpuinfo", encoding="utf-8") as info:
        for line in info:
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor()


def pairs(text):
    return [tuple(int(n) for n in pair.split("x")) for pair in text.split(",")]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--library", required=True, help="libdjlbsr.so")
    parser.add_argument("--out", default="cpu_linear.json", help="where the results go")
    parser.add_argument("--seconds", type=float, default=0.02, help="time for each measurement")
    parser.add_argument(
        "--budget", type=float, default=90, help="seconds after which PyTorch's BSR is left out"
    )
    parser.add_argument("--shapes", default="384x1536,768x3072,3072x768,4096x4096")
    parser.add_argument("--blocks", default="4x4,8x8,16x16,32x32,64x64,16x1,1x16,32x1")
    parser.add_argument("--sparsities", default="0.5,0.7,0.8,0.875,0.9,0.95")
    parser.add_argument("--tokens", default="1,8,64,512,4096")
    parser.add_argument("--kinds", default="float32", help="of " + ", ".join(KINDS))
    parser.add_argument("--picture", help="default: beside the results, ending in .png")
    args = parser.parse_args()
    torch.ops.load_library(args.library)
    torch.manual_seed(0)
    warnings.filterwarnings("ignore", message="Sparse")

    started = time.perf_counter()
    profile_seconds = measure_profiles(args.library, args.kinds.split(","))
    results = []
    with torch.no_grad():
        for kind in args.kinds.split(","):
            for rows, cols in pairs(args.shapes):
                results += measure_shape(kind, rows, cols, args, started + args.budget)
    date = datetime.datetime.now(datetime.timezone.utc).date().isoformat()
    with open(args.out, "w", encoding="utf-8") as out:
        json.dump(
            {
                "date": date,
                "command": "cpu_linear.py " + " ".join(sys.argv[1:]),
                "processor": processor(),
                "threads": torch.get_num_threads(),
                "pytorch": torch.__version__,
                "profileSeconds": profile_seconds,
                "seconds": time.perf_counter() - started,
                "results": results,
            },
            out,
            indent=1,
        )
    print_behind(results)
    title = f"{processor()}, {torch.get_num_threads()} threads, PyTorch {torch.__version__}, {date}"
    picture = args.picture or args.out.rsplit(".", 1)[0] + ".png"
    draw([r for r in results if r["kind"] == results[0]["kind"]], title, picture)


if __name__ == "__main__":
    main()
