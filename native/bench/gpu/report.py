#
# Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
#
"""Markdown tables from results. Needs tabulate alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from statistics import median

from tabulate import tabulate

OURS, DENSE = "djlbsr", "cublas_dense"
PEER_TITLES = {
    "djlbsr": "djl-bsr",
    "torch_bsr_triton": "PyTorch `F.linear` (Python, Triton)",
    "torch_triton_addmm": "PyTorch Triton `bsr_dense_addmm`",
    "cusparse_blocked_ell": "cuSPARSE Blocked-ELL",
    "cusparse_bsr": "cuSPARSE BSR",
    "cusparselt_2_4": "2:4 through PyTorch (cuSPARSELt), 50 % only",
    "cusparselt_2_4_tuned": "2:4 with the best cuSPARSELt algorithm",
}

# What this project began from, on another day. Useful TFLOP/s but where it says otherwise.
ORIGIN = """\
Figures that this project began from, fp16, 87.5 % removed, 8192³. Measured by this project on an H100 80GB
HBM3 before it had kernels (cuBLAS dense 716, 2:4 1.43 times dense):

| useful TFLOP/s | 128×128 | 64×64 | 32×32 | 16×16 |
|---|---|---|---|---|
| PyTorch `F.linear` (Python, Triton) | 269 | 226 | 90 | 29 |
| PyTorch Triton `bsr_dense_addmm` | 292 | 238 | 93 | 29 |
| plain Triton kernel, autotuned | 322 | 204 | 74 | 21 |
| cuSPARSE Blocked-ELL, equal rows | 204 | 197 | 199 | 66 |
| cuSPARSE BSR | 14 | 14 | 14 | 14 |

Given to this project, for an H100 PCIe with cuBLAS at 614 TFLOP/s, **dense-equivalent**: 61.5 measured, 150
"competitive", 200 "good", 300 "excellent". In useful TFLOP/s these are 7.7, 18.8, 25 and 37.5: all slower than
cuBLAS on the dense weight."""


def micros(record: dict, name: str = OURS) -> float:
    return record["us"][name][1]


def stored_elements(record: dict) -> int:
    return record["nnzb"] * record["block"][0] * record["block"][1]


def useful_tflops(record: dict, name: str = OURS) -> float:
    """Of the stored elements; of all elements for a dense candidate, of half for 2:4."""
    elements = stored_elements(record)
    if name.startswith("cublas"):
        elements = record["rows"] * record["cols"]
    elif name.startswith("cusparselt"):
        elements = record["rows"] * record["cols"] // 2
    return 2 * elements * record["tokens"] / micros(record, name) / 1e6


def dense_equivalent_tflops(record: dict, name: str = OURS) -> float:
    return 2 * record["rows"] * record["cols"] * record["tokens"] / micros(record, name) / 1e6


def speed_up(record: dict, name: str = OURS) -> float:
    """Over cuBLAS on a fully dense random weight in the same turns."""
    return micros(record, DENSE) / micros(record, name)


def select(records: Iterable[dict], **wanted: object) -> list[dict]:
    return [r for r in records if all(r[key] == value for key, value in wanted.items())]


def block_name(record: dict) -> str:
    return "×".join(map(str, record["block"]))


def by_block(records: list[dict]) -> list[dict]:
    """The largest blocks first."""
    return sorted(records, key=lambda r: -r["block"][0] * r["block"][1])


def _percent(sparsity: float) -> str:
    return f"{100 * sparsity:g} %"


def _pivot(records: list[dict], column: Callable[[dict], str], cell: Callable[[dict], str],
           corner: str, row: Callable[[dict], str] = block_name) -> str:
    """A table of one cell a record, in the order of the records."""
    columns = list(dict.fromkeys(column(r) for r in records))
    rows: dict[str, dict[str, str]] = {}
    for record in records:
        rows.setdefault(row(record), {})[column(record)] = cell(record)
    lines = [[name] + [cells.get(c, "") for c in columns] for name, cells in rows.items()]
    return tabulate(lines, [corner, *columns], tablefmt="pipe", disable_numparse=True)


def _headline(records: list[dict]) -> Iterable[str]:
    """The figures that the README and STATUS quote."""
    lines = []

    def add(name: str, cell: Callable[[dict], str], **wanted: object) -> None:
        lines.extend([f"{name}, {block_name(r)}, {_percent(r['sparsity'])} removed", cell(r), r["kernel"]]
                     for r in select(records, pattern="random", **wanted))

    def rate(record: dict) -> str:
        return f"{speed_up(record):.2f}x ({useful_tflops(record):.0f} useful TFLOP/s)"

    def latency(record: dict) -> str:
        return f"{micros(record):.2f} µs (cuBLAS dense {micros(record, DENSE):.1f} µs)"

    cube = {"rows": 8192, "cols": 8192, "tokens": 8192}
    for block in ([128, 128], [64, 64], [32, 32], [16, 16]):
        for sparsity in (0.875, 0.5):
            add("8192³, fp16", rate, suite="grid", block=block, sparsity=sparsity, **cube)
    for dtype in ("bfloat16", "float32"):
        add(f"8192³, {dtype}", rate, suite="dtypes", dtype=dtype, block=[64, 64], sparsity=0.875, **cube)
    for rows, cols in ((11008, 4096), (4096, 11008)):
        wanted = {"suite": "grid", "rows": rows, "cols": cols, "block": [64, 64], "sparsity": 0.875}
        for tokens in (2048, 128):
            add(f"T={tokens}, {rows}×{cols}, fp16", rate, tokens=tokens, **wanted)
        for tokens in (16, 1):
            add(f"T={tokens}, {rows}×{cols}, fp16, weight from memory", latency, tokens=tokens, **wanted)
    if lines:
        yield "Speed-up over cuBLAS on a fully dense random weight in the same turns"
        yield tabulate(lines, ["case", "djl-bsr", "kernel"], tablefmt="pipe", disable_numparse=True)


def _grid_tables(records: list[dict]) -> Iterable[str]:
    for rows, cols, tokens in ((8192, 8192, 8192), (11008, 4096, 2048), (4096, 11008, 2048)):
        chosen = by_block(select(records, suite="grid", rows=rows, cols=cols, tokens=tokens))
        if chosen:
            dense = median(useful_tflops(r, DENSE) for r in chosen)
            yield (f"T={tokens}, {rows}×{cols}, fp16: useful TFLOP/s (speed-up over cuBLAS on a fully dense "
                   f"random weight, {dense:.0f} TFLOP/s)")
            yield _pivot(chosen, lambda r: _percent(r["sparsity"]),
                         lambda r: f"{useful_tflops(r):.0f} ({speed_up(r):.2f}x)", "block")
    for rows, cols in ((11008, 4096), (4096, 11008), (8192, 8192)):
        chosen = by_block(select(records, suite="grid", rows=rows, cols=cols, sparsity=0.875))
        chosen.sort(key=lambda r: r["tokens"])
        if chosen:
            yield (f"{rows}×{cols}, fp16, 87.5 % removed, by T: microseconds (speed-up). Up to T=128 the "
                   "weights come from memory, not from L2")
            yield _pivot(chosen, lambda r: f"T={r['tokens']}",
                         lambda r: f"{micros(r):.1f} ({speed_up(r):.2f}x)", "block")


def _packing_table(records: list[dict]) -> Iterable[str]:
    chosen = by_block(select(records, suite="grid", rows=8192, cols=8192, sparsity=0.875, tokens=8192))
    lines = [[block_name(r), f"{r['packed_bytes'] / 2**20:.1f}",
              f"{r['packed_bytes'] / (2 * stored_elements(r)):.2f}", f"{r['pack_ms']:.2f}"] for r in chosen]
    if lines:
        yield "Packing, once a weight; 8192×8192, 87.5 % removed, fp16"
        yield tabulate(lines, ["block", "MiB", "over the values' bytes", "ms"], tablefmt="pipe",
                       disable_numparse=True)


def _slower_than_dense(records: list[dict]) -> Iterable[str]:
    grid = select(records, suite="grid")
    lines = []
    for sparsity in sorted({r["sparsity"] for r in grid}):
        cases = select(grid, sparsity=sparsity)
        line = [_percent(sparsity), len(cases)]
        for name in (OURS, "djlbsr_auto"):
            # The choice of dense is as fast as dense but for noise and the cost of choosing.
            limit = 1 if name == OURS else 0.95
            timed = [r for r in cases if name in r["us"]]
            slower = [r for r in timed if speed_up(r, name) < limit]
            line.append(f"{len(slower)} of {len(timed)}")
            worst = min(slower, key=lambda r: speed_up(r, name), default=None)
            line.append("" if worst is None else
                        f"{speed_up(worst, name):.2f}x: {block_name(worst)}, {worst['rows']}×"
                        f"{worst['cols']}, T={worst['tokens']}, {worst['kernel']}")
        lines.append(line)
    if lines:
        yield ("Cases of the grid that are slower than cuBLAS on a dense weight: the block-sparse kernels "
               "alone (below 1), and with the automatic choice of dense (below 0.95)")
        yield tabulate(lines, ["removed", "cases", "kernels alone", "the slowest", "automatic", "the slowest"],
                       tablefmt="pipe", disable_numparse=True)


def _peer_tables(records: list[dict]) -> Iterable[str]:
    chosen = select(records, suite="peers")
    for key in dict.fromkeys((r["rows"], r["cols"], r["tokens"], r["sparsity"], r["pattern"])
                             for r in chosen):
        rows, cols, tokens, sparsity, pattern = key
        cases = by_block(select(chosen, rows=rows, cols=cols, tokens=tokens, sparsity=sparsity,
                                pattern=pattern))
        names = [n for n in PEER_TITLES if any(n in r["us"] for r in cases)]

        def cell(record: dict, name: str) -> str:
            if name not in record["us"]:
                return "refused"
            wrong = record["allowed_error_used"].get(name, 0) > 1
            return (f"{useful_tflops(record, name):.0f} ({speed_up(record, name):.2f}x)"
                    + (" inexact" if wrong else ""))

        lines = [[PEER_TITLES[n]] + [cell(r, n) for r in cases] for n in names]
        yield (f"T={tokens}, {rows}×{cols}, fp16, {_percent(sparsity)} removed, {pattern}: useful TFLOP/s "
               "(speed-up over cuBLAS dense)")
        yield tabulate(lines, ["", *map(block_name, cases)], tablefmt="pipe", disable_numparse=True)


def _dtype_table(records: list[dict]) -> Iterable[str]:
    lines = []
    for r in select(records, suite="dtypes"):
        tf32 = f"{micros(r, 'cublas_tf32') / micros(r):.2f}x" if "cublas_tf32" in r["us"] else ""
        errors = [f"{r['allowed_error_used'][name]:.3g}" for name in (OURS, "cublas_densified")
                  if name in r["allowed_error_used"]]
        lines.append([f"T={r['tokens']}, {r['rows']}×{r['cols']}", r["dtype"], block_name(r),
                      _percent(r["sparsity"]), f"{micros(r):.1f}", f"{useful_tflops(r):.1f}",
                      f"{speed_up(r):.2f}x", tf32, " / ".join(errors), r["kernel"]])
    if lines:
        yield ("Other dtypes; cuBLAS float32 is IEEE, TF32 apart. Error: the greatest, in units of what the "
               "worst order of fp32 additions allows, for ours and for cuBLAS on the densified weight")
        yield tabulate(lines, ["case", "dtype", "block", "removed", "µs", "useful TFLOP/s", "over cuBLAS",
                               "over cuBLAS TF32", "error", "kernel"], tablefmt="pipe", disable_numparse=True)


def _epilogue_table(records: list[dict]) -> Iterable[str]:
    names = ("bias", "relu", "gelu", "gelu_tanh", "silu")
    lines = [[f"T={r['tokens']}, {r['rows']}×{r['cols']}", block_name(r), f"{micros(r):.1f}"]
             + [f"{micros(r, n) / micros(r):.3f}" for n in names]
             for r in select(records, suite="epilogue")]
    if lines:
        yield "Fused bias and activation (with bias), time over the bare product; 87.5 % removed, fp16"
        yield tabulate(lines, ["case", "block", "bare µs", *names], tablefmt="pipe",
                       disable_numparse=True)


def _ragged_table(records: list[dict]) -> Iterable[str]:
    chosen = select(records, suite="ragged")
    if chosen:
        yield ("Other numbers of tokens, fp16, random: speed-up over cuBLAS on a dense weight (with the "
               "automatic choice of dense)")
        yield _pivot(chosen, lambda r: f"T={r['tokens']}",
                     lambda r: f"{speed_up(r):.2f}x ({speed_up(r, 'djlbsr_auto'):.2f}x)",
                     "layer, removed, block",
                     lambda r: f"{r['rows']}×{r['cols']}, {_percent(r['sparsity'])}, {block_name(r)}")


def _pattern_table(records: list[dict]) -> Iterable[str]:
    chosen = select(records, suite="patterns")
    if chosen:
        bare = {(r["tokens"], block_name(r)): micros(r) / r["nnzb"]
                for r in select(chosen, pattern="random")}
        yield ("Patterns, 8192×8192, fp16, 87.5 % removed: time for a stored block over that in the random "
               "pattern, same turns")
        yield _pivot(chosen, lambda r: r["pattern"],
                     lambda r: f"{micros(r) / r['nnzb'] / bare[r['tokens'], block_name(r)]:.3f}",
                     "T, block", lambda r: f"T={r['tokens']}, {block_name(r)}")


def _fallback_table(records: list[dict]) -> Iterable[str]:
    names = (OURS, DENSE, "torch_bsr_no_triton", "torch_mm_no_triton")
    lines = [[f"T={r['tokens']}, {r['rows']}×{r['cols']}", block_name(r)]
             + [f"{micros(r, n) / 1000:.3f}" if n in r["us"] else "refused" for n in names]
             for r in select(records, suite="fallback")]
    if lines:
        yield "PyTorch's BSR without Triton, as in a JVM: milliseconds; fp16, 87.5 % removed"
        yield tabulate(lines, ["case", "block", "djl-bsr", "cuBLAS dense", "`linear(x, bsr)`",
                               "`mm(bsr, x)`"], tablefmt="pipe", disable_numparse=True)


def markdown(result: dict) -> str:
    machine, records = result["machine"], result["results"]
    ceilings = result["ceilings"]
    parts = [
        f"{machine['gpu']}, driver {machine['driver']}, CUDA {machine['cuda']}, PyTorch "
        f"{machine['pytorch']}, {result['date'][:10]}; {result['cases']} cases in {result['seconds']:.0f} s, "
        f"{result['wrong_cases']} wrong; cuBLAS fp16 8192³ {ceilings['cublas_fp16_tflops']:.0f} TFLOP/s, copy "
        f"{ceilings['copy_terabytes_per_second']:.2f} TB/s",
        *_headline(records), *_grid_tables(records), *_ragged_table(records),
        *_slower_than_dense(records), *_peer_tables(records),
        *_dtype_table(records), *_epilogue_table(records), *_pattern_table(records),
        *_fallback_table(records), *_packing_table(records),
        "Host time of a call, µs: " + ", ".join(f"{name} {us}" for name, us in result["host_us"].items()),
    ]
    if result["refusals"]:
        parts.append("Refused")
        parts.append(tabulate([[r["peer"], r["cases"], r["message"]] for r in result["refusals"]],
                              ["peer, block", "cases", "message"], tablefmt="pipe"))
    return "\n\n".join([*parts, ORIGIN])
