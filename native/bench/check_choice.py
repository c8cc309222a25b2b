#!/usr/bin/env python3
# Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
"""Tells how often djlbsr_predict would have picked the slower side in committed measurements.

    python3 native/bench/check_choice.py --library BUILD/libdjlbsr.so benchmarks/results/*.json

CPU results are judged with the built-in profile and the threads of the run, CUDA results with the
constants for an H200; no GPU is needed. Files that time no single layers are passed over. The
"regret" of a case is the time of the side that was picked over the time of the better one, less 1.
"""
import argparse
import ctypes
import os

import measurements
import numpy as np

DTYPES = {"float32": 0, "float16": 1, "bfloat16": 2}
DEVICES = {"cpu": 0, "cuda": 1}
META_WORDS = 16


class Matrix(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int64) for name in ("rows", "cols", "block_rows", "block_cols", "nnzb")]
    _fields_ += [("crow", ctypes.c_void_p), ("col", ctypes.c_void_p), ("values", ctypes.c_void_p)]
    _fields_ += [("dtype", ctypes.c_int32), ("reserved", ctypes.c_int32)]


class Prediction(ctypes.Structure):
    _fields_ = [("bsr_seconds", ctypes.c_double), ("dense_seconds", ctypes.c_double)]
    _fields_ += [("dense", ctypes.c_int32), ("reserved", ctypes.c_int32)]


class Library:
    def __init__(self, path):
        self.c = ctypes.CDLL(path)
        self.c.djlbsr_last_error.restype = ctypes.c_char_p

    def check(self, status):
        if status != 0:
            raise SystemExit(self.c.djlbsr_last_error().decode())

    def predict(self, case):
        """The prediction for a case, on a random structure of its size."""
        rows, cols, (br, bc) = case["rows"], case["cols"], case["block"]
        grid = (rows // br, cols // bc)
        chosen = np.zeros(grid[0] * grid[1], dtype=bool)
        chosen[np.random.default_rng(0).permutation(len(chosen))[: case["nnzb"]]] = True
        chosen = chosen.reshape(grid)
        crow = np.concatenate([[0], chosen.sum(1).cumsum()]).astype(np.int32)
        col = np.ascontiguousarray(np.nonzero(chosen)[1], dtype=np.int32)
        matrix = Matrix(rows, cols, br, bc, case["nnzb"], crow.ctypes.data, col.ctypes.data, None)
        matrix.dtype = DTYPES[case["dtype"]]
        meta = (ctypes.c_int64 * META_WORDS)()
        self.check(self.c.djlbsr_pack_query(ctypes.byref(matrix), DEVICES[case["device"]], meta))
        out = Prediction()
        self.check(
            self.c.djlbsr_predict(
                meta, ctypes.c_int64(case["tokens"]), 0, -1, case.get("threads", 0), ctypes.byref(out)
            )
        )
        return out


def report(name, rows, picked):
    regret = np.array([picked(r) / min(r["bsr"], r["dense"]) - 1 for r in rows])
    behind = np.array([picked(r) / r["dense"] - 1 for r in rows])
    print(
        f"  {name:<8} slower side in {np.sum(regret > 0):3d} of {len(rows)}, by more than 10 % in "
        f"{np.sum(regret > 0.1):3d}; regret {regret.mean():6.2%} on average, {regret.max():.0%} at "
        f"worst; more than 5 % behind dense in {np.sum(behind > 0.05)}"
    )
    return regret


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--library", required=True, help="libdjlbsr.so")
    parser.add_argument("--worst", type=int, default=5, help="list so many of the worst cases")
    parser.add_argument("files", nargs="+", help="results as JSON")
    args = parser.parse_args()
    library = Library(args.library)
    for path in args.files:
        cases = list(measurements.layers(path))
        if not cases:
            continue
        print(os.path.basename(path))
        for case in cases:
            out = library.predict(case)
            case["predicted"] = (out.bsr_seconds * 1e6, out.dense_seconds * 1e6)
            case["pick"] = case["dense"] if out.dense else case["bsr"]
        regret = report("auto", cases, lambda r: r["pick"])
        report("bsr", cases, lambda r: r["bsr"])
        report("dense", cases, lambda r: r["dense"])
        for i in np.argsort(-regret)[: args.worst]:
            if regret[i] > 0:
                c = cases[i]
                br, bc = c["block"]
                share = c["nnzb"] * br * bc / (c["rows"] * c["cols"])
                print(
                    f"    {c['rows']}x{c['cols']} {c['dtype']} {br}x{bc} {share:.1%} stored, T={c['tokens']}:"
                    f" BSR {c['bsr']:.0f} us (predicted {c['predicted'][0]:.0f}), dense"
                    f" {c['dense']:.0f} ({c['predicted'][1]:.0f})"
                )


if __name__ == "__main__":
    main()
