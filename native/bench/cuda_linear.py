#!/usr/bin/env python3
#
# Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
#
"""Times bsr::linear_packed on a GPU against every peer, in one command:

    python3 cuda_linear.py --library BUILD/libdjlbsr.so --json RESULTS.json [--pictures DIR]
    python3 cuda_linear.py --from RESULTS.json [--pictures DIR]      needs no GPU and no PyTorch

Random data; every case is checked against float64 before it is timed; the candidates of a case take
turns. "useful" counts 2 * stored elements * tokens operations, "dense-equivalent" 2 * rows * cols *
tokens; "speed-up" is over cuBLAS on a fully dense random weight, in the same turns.

Suites: grid (every block, sparsity, number of tokens and shape; random; fp16), ragged (numbers of
tokens that are no power of two), peers (all that others offer, on large layers and a few decode
sizes), patterns, dtypes (bf16, fp32, TF32), epilogue (bias and activations), fallback (PyTorch's BSR
without Triton), tuned_2_4 (cuSPARSELt's best algorithm). Each has a share of --seconds; what does not fit is left out and counted.
"""

import argparse
import json
import pathlib
import sys

from gpu import plan, report


def write_json(result: dict, path: pathlib.Path) -> None:
    """One case a line, so that two runs can be compared with diff."""
    head = json.dumps({k: v for k, v in result.items() if k != "results"}, indent=1)
    lines = ",\n".join("  " + json.dumps(record) for record in result["results"])
    path.write_text(head[:-2] + ',\n "results": [\n' + lines + "\n ]\n}\n", encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--library", help="libdjlbsr.so")
    source.add_argument("--from", dest="results", type=pathlib.Path,
                        help="results of an earlier run: print its tables, draw its pictures")
    parser.add_argument("--json", type=pathlib.Path, help="write the results there")
    parser.add_argument("--pictures", type=pathlib.Path, help="draw SVG pictures into that folder")
    parser.add_argument("--seconds", type=float, default=280, help="for the whole run")
    parser.add_argument("--group-seconds", type=float, default=0.08,
                        help="of timing for candidates that take turns")
    parser.add_argument("--suites", nargs="+", default=list(plan.SUITES), choices=list(plan.SUITES))
    args = parser.parse_args()
    if args.results:
        result = json.loads(args.results.read_text(encoding="utf-8"))
    else:
        from gpu import run

        result = run.run(args.library, args.suites, args.seconds, args.group_seconds,
                         lambda line: print(line, file=sys.stderr, flush=True))
    if args.json:
        write_json(result, args.json)
    if args.pictures:
        from gpu import pictures

        pictures.draw(result, args.pictures)
    print(report.markdown(result))
    return 1 if result["wrong_cases"] or result["failures"] else 0


if __name__ == "__main__":
    sys.exit(main())
