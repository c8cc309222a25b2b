# Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
"""Reads the measurements of single layers in benchmarks/results, whichever program wrote them."""
import json

SIZES = {"float32": 4, "float16": 2, "bfloat16": 2}


def layers(path):
    """Yields the cases of a file that time block-sparse against dense, as dicts of
    device, dtype, rows, cols, block, nnzb, tokens, threads (CPU), kernel (CUDA), skew (heaviest
    block-row over the mean), and the microseconds bsr and dense. Other files yield nothing."""
    with open(path, encoding="utf-8") as file:
        content = json.load(file)
    results = content.get("results", []) if isinstance(content, dict) else []
    for r in results:
        case = _cpu(content, r) if "denseMicros" in r else _cuda(r)
        if case is not None:
            yield case


def _cpu(content, r):
    if r.get("kind", "float32") not in SIZES:
        return None  # a weight format without a profile
    rows, cols = map(int, r["shape"].split("x"))
    br, bc = map(int, r["block"].split("x"))
    blocks = (rows // br) * (cols // bc)
    return {
        "device": "cpu",
        "dtype": r.get("kind", "float32"),
        "rows": rows,
        "cols": cols,
        "block": (br, bc),
        "nnzb": max(1, round((1 - r["sparsity"]) * blocks)),
        "tokens": r["tokens"],
        "threads": content.get("threads") or content["machine"]["threads"],
        "bsr": r.get("djlbsrMicros", r.get("bsrMicros")),
        "dense": r["denseMicros"],
    }


def _cuda(r):
    if "us_median_min_max" in r:
        times = {name: t[0] for name, t in r["us_median_min_max"].items()}
        bsr, dense = times["bsr"], times["dense"]
    elif "djlbsr" in r.get("us", {}) and "cublas_dense" in r["us"]:
        bsr, dense = r["us"]["djlbsr"][1], r["us"]["cublas_dense"][1]
    else:
        return None
    dtype = r["dtype"].split(".")[-1]
    nnzb = r.get("nnzb", r.get("stored_blocks"))
    block = tuple(r["block"])
    mean = nnzb / (r["rows"] // block[0])
    return {
        "device": "cuda",
        "dtype": dtype,
        "rows": r["rows"],
        "cols": r["cols"],
        "block": block,
        "nnzb": nnzb,
        "tokens": r["tokens"],
        "kernel": r.get("kernel") or _kernel(dtype, block, r["tokens"]),
        "skew": r["longest_row"] / mean if nnzb and "longest_row" in r else 1.0,
        "bsr": bsr,
        "dense": dense,
    }


def _kernel(dtype, block, tokens):
    """What served before results named it."""
    if dtype == "float32" or block[0] % 64 or block[1] % 64 or tokens < 64:
        return "portable"
    return "hopper_128x256" if block[0] % 128 == 0 else "hopper_64x512"
