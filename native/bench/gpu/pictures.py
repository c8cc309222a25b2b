#
# Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
#
"""Pictures from results: speed-up against sparsity, and the roofline. Needs matplotlib alone."""

from __future__ import annotations

import itertools
import pathlib

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402
from matplotlib.ticker import FuncFormatter, NullLocator  # noqa: E402

from . import report  # noqa: E402

# Distinct in grey and to the colour-blind, in the order of the blocks below.
COLORS = ("#332288", "#117733", "#ddaa33", "#cc3311", "#88ccee", "#777777")
MARKERS = "osD^vP"
BLOCKS = ((128, 128), (64, 64), (32, 64), (32, 32), (16, 16), (8, 8))
PANELS = ((8192, 8192, 8192), (11008, 4096, 2048), (11008, 4096, 128), (11008, 4096, 1))


def break_even(sparsities: list[float], speed_ups: list[float]) -> float | None:
    """Where the line through the points last rises through 1, linearly between neighbours."""
    crossings = [s0 + (s1 - s0) * (1 - v0) / (v1 - v0)
                 for (s0, v0), (s1, v1) in itertools.pairwise(zip(sparsities, speed_ups))
                 if v0 < 1 <= v1]
    return crossings[-1] if crossings else None


def _speed_up_panel(axes: Axes, records: list[dict], rows: int, cols: int, tokens: int) -> None:
    chosen = report.select(records, suite="grid", rows=rows, cols=cols, tokens=tokens)
    for block, color, marker in zip(BLOCKS, COLORS, MARKERS):
        line = sorted(report.select(chosen, block=list(block)), key=lambda r: r["sparsity"])
        if not line:
            continue
        x, y = [r["sparsity"] for r in line], [report.speed_up(r) for r in line]
        axes.plot(x, y, color=color, marker=marker, markersize=4, label=report.block_name(line[0]))
        even = break_even(x, y)
        if even is not None:
            axes.plot([even], [1], marker="o", markersize=9, markerfacecolor="none", color=color)
            axes.annotate(f"{100 * even:.0f} %", (even, 1), (0, -14), textcoords="offset points",
                          ha="center", fontsize=7, color=color)
    ideal = [0.5 + 0.01 * n for n in range(46)]
    axes.plot(ideal, [1 / (1 - s) for s in ideal], "k--", linewidth=0.8, label="1 / (1 − removed)")
    axes.axhline(1, color="k", linewidth=0.8)
    axes.set_yscale("log")
    axes.set_yticks([0.25, 0.5, 1, 2, 4, 8, 16])
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}x"))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))
    axes.grid(linewidth=0.3)
    axes.set_title(f"T={tokens}, {rows}×{cols}", fontsize=10)


def speed_up(result: dict, path: pathlib.Path) -> None:
    figure, grid = plt.subplots(2, 2, figsize=(10, 7.5), sharex=True, layout="constrained")
    for axes, panel in zip(grid.flat, PANELS):
        _speed_up_panel(axes, result["results"], *panel)
    for axes in grid[1]:
        axes.set_xlabel("blocks removed", fontsize=9)
    figure.supylabel("speed-up over cuBLAS on a fully dense random weight", fontsize=9)
    figure.legend(*grid.flat[0].get_legend_handles_labels(), loc="outside lower center", ncols=7,
                  fontsize=8, frameon=False)
    figure.suptitle(f"bsr::linear, fp16, random blocks, {result['machine']['gpu']}, "
                    f"{result['date'][:10]}; circles mark break-even", fontsize=10)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def intensity(record: dict) -> float:
    """Useful operations for each byte that must move once: stored values and columns, x, y."""
    size = 4 if record["dtype"] == "float32" else 2
    elements = report.stored_elements(record)
    tokens = record["tokens"]
    moved = size * (elements + tokens * (record["rows"] + record["cols"])) + 4 * record["nnzb"]
    return 2 * elements * tokens / moved


def roofline(result: dict, path: pathlib.Path) -> None:
    peak = result["ceilings"]["cublas_fp16_tflops"]
    bandwidth = result["ceilings"]["copy_terabytes_per_second"]
    figure, axes = plt.subplots(figsize=(9, 6), layout="constrained")
    chosen = report.select(result["results"], suite="grid", sparsity=0.875)
    for block, color, marker in zip(BLOCKS, COLORS, MARKERS):
        points = report.select(chosen, block=list(block))
        axes.scatter([intensity(r) for r in points], [report.useful_tflops(r) for r in points],
                     s=16, color=color, marker=marker, label="×".join(map(str, block)), linewidths=0)
    knee = peak / bandwidth
    axes.plot([0.5, knee, 8000], [0.5 * bandwidth, peak, peak], "k", linewidth=1)
    axes.annotate(f"copy, {bandwidth:.2f} TB/s", (1.5, 2.1 * bandwidth), rotation=33, fontsize=8)
    axes.annotate(f"cuBLAS fp16 8192³, {peak:.0f} TFLOP/s", (knee * 1.3, peak * 1.08), fontsize=8)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("useful operations a byte (stored weight, x and y, each moved once)")
    axes.set_ylabel("useful TFLOP/s")
    axes.grid(linewidth=0.3)
    axes.legend(fontsize=8, frameon=False, loc="lower right")
    axes.set_title(f"bsr::linear, fp16, 87.5 % removed, random blocks, all shapes, T = 1 to 8192; "
                   f"{result['machine']['gpu']}, {result['date'][:10]}", fontsize=9)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def draw(result: dict, folder: pathlib.Path) -> None:
    plt.rcParams["svg.hashsalt"] = "djl-bsr"
    plt.rcParams["svg.fonttype"] = "none"
    plt.rcParams["font.family"] = "sans-serif"
    folder.mkdir(parents=True, exist_ok=True)
    speed_up(result, folder / "cuda-speed-up.svg")
    roofline(result, folder / "cuda-roofline.svg")
