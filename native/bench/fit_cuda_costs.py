#!/usr/bin/env python3
# Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
"""Fits the constants of src/choice/cuda_model.cc to measurements and prints its tables.

    python3 native/bench/fit_cuda_costs.py benchmarks/results/*cuda*.json

Reads files of cuda_linear.py. The model is the one in src/choice/cost_model.h: keep the two alike. The last
columns tell how far the fitted times are off, as a factor, at the median and at worst. The last lines tell
how well these constants choose for each kernel: the regret is the time of the side that they pick over
the better one's, less 1.
"""
import argparse
import json
import math

import measurements
import numpy as np

SMS = 132
LONE_TILE = 0.8  # kLoneTile
DENSE_ADVANTAGE = 1.05  # kDenseAdvantage of src/choice/decide.h
CLASSES = (128, 64, 32, 16, 8, 4, 1)
TOKENS = (129, 65, 17, 1)  # a row of the table holds from so many tokens on
STARTS = ((3, 300, 9000, 1), (4, 150, 3000, 3), (4, 100, 1500, 3))  # microseconds, TFLOP/s, TFLOP/s, TB/s
# Weight rows and tokens of a kernel's tile, as in cuda_model.cc; others have tiles of their blocks.
NARROW_32_TILES = {"hopper_narrow": (32, 128), "hopper_narrow_split": (8, 64)}
TILES = {
    "hopper_128x256": (128, 256),
    "hopper_64x512": (64, 512),
    "hopper_narrow": (64, 128),
    "hopper_narrow_split": (16, 64),
    "hopper_panels": (384, 128),
    "hopper_panels_narrow": (128, 64),
    "hopper_panels_split2": (64, 64),
    "hopper_panels_split4": (32, 64),
    "hopper_panels_split8": (16, 64),
    "hopper_fp32_256": (64, 256),
    "hopper_fp32_128": (64, 128),
    "sm80_f16_mma": (352, 128),
    "sm80_f16_stream": (64, 16),
    "f32_stream": (64, 16),
}


def cases_of(paths):
    for path in paths:
        for case in measurements.layers(path):
            if case["device"] != "cuda":
                continue
            rows, cols, (br, bc) = case["rows"], case["cols"], case["block"]
            case["class"] = next(c for c in CLASSES if min(br, bc) >= c)
            if case["kernel"].startswith("hopper_narrow") and (br % 64 or bc % 64):
                case["class"] = 32
            # How many CTAs share a piece of panels depends on tokens and rows alike: one row for all.
            panels = case["kernel"].startswith("hopper_panels")
            case["few"] = 1 if panels else next(t for t in TOKENS if case["tokens"] >= t)
            case["float"] = case["dtype"] == "float32"
            case["size"] = measurements.SIZES[case["dtype"]]
            case["all"] = rows * cols
            case["stored"] = case["nnzb"] * br * bc
            yield case


def computed_tokens(tokens, tile):
    """The last tile may be a half of a wide one; up to 64 tokens there are tiles of so many."""
    unit = min(tile, 64) if tokens <= 64 else tile if tile <= 128 else tile // 2
    return math.ceil(tokens / unit) * unit


def bsr_model(case, tile, p):
    call, stored, panel, bandwidth = p
    t = computed_tokens(case["tokens"], tile[1])
    work = 2 * t * (case["stored"] / stored + case["all"] / panel) * 1e-6
    tiles = math.ceil(case["rows"] / tile[0]) * math.ceil(t / tile[1])
    one = work * SMS / tiles * min(1, max(LONE_TILE, tiles / SMS))
    weight = case["stored"] * case["size"] / bandwidth * 1e-6
    together = max(1, tile[0] / case["block"][0])
    skew = (case["skew"] + together - 1) / together
    return call + max(weight, work + 0.5 * one, skew * one)


def monotone(case, tile, rows):
    """By the row for the case's tokens, but no less than those for fewer at the most that they hold for."""
    tokens, best = case["tokens"], 0.0
    for least, p in rows:
        if tokens >= least:
            best = max(best, bsr_model({**case, "tokens": tokens}, tile, p))
            tokens = least - 1
    return best


def dense_model(case, p):
    call, column, bandwidth, rate = p
    t = math.ceil(case["tokens"] / 16) * 16
    latency = call + column * case["cols"] * 1e-3
    weight = case["all"] * case["size"] / bandwidth * 1e-6
    return max(latency, weight, 0.75 * call + 2 * case["all"] * t / rate * 1e-6)


def fit(cases, key, model, *starts):
    """The best of coordinate descents on the logarithms of the constants from each start; none leaves
    1/16 to 16 of its start. What the data do not tell stays at its start or goes to that bound."""
    measured = np.log([c[key] for c in cases])

    def off(p):
        return np.abs(np.log([model(c, p) for c in cases]) - measured)

    best = min((descend(off, start) for start in starts), key=lambda found: found[1])[0]
    errors = np.exp(off(np.exp(best)))
    return np.exp(best), f"/* {len(cases)} cases, off {np.median(errors):.2f}, {errors.max():.2f} */"


def descend(off, start):
    best = np.log(start)
    cost = np.mean(off(np.exp(best)))
    step = math.log(2)
    while step > 0.01:
        moved = False
        for i in range(len(best)):
            for direction in (step, -step):
                trial = best.copy()
                trial[i] += direction
                if abs(trial[i] - math.log(start[i])) > math.log(16):
                    continue
                trial_cost = np.mean(off(np.exp(trial)))
                if trial_cost < cost - 1e-6:
                    best, cost, moved = trial, trial_cost, True
        if not moved:
            step /= 2
    return best, cost


def judge(cases):
    for kernel in sorted({c["kernel"] for c in cases}):
        group = [c for c in cases if c["kernel"] == kernel]
        dense = np.array([c["fitted_dense"] * DENSE_ADVANTAGE < c["fitted_bsr"] for c in group])
        times = np.array([(c["bsr"], c["dense"]) for c in group])
        picked = np.where(dense, times[:, 1], times[:, 0])
        regret = picked / times.min(axis=1) - 1
        behind = picked / times[:, 1] - 1
        print(
            f"{kernel}: dense in {dense.sum()} of {len(group)} cases, the slower side in "
            f"{(regret > 0).sum()}; regret {regret.mean():.2%} on average, {regret.max():.0%} at worst; "
            f"behind dense by more than 5 % in {(behind > 0.05).sum()}, at worst {behind.max():.0%}"
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", help="results as JSON")
    cases = list(cases_of(parser.parse_args().files))
    if not cases:
        raise SystemExit("none of the files holds results of cuda_linear.py")
    for is_float in (False, True):
        name = "kFloat" if is_float else "kHalf"
        own = [c for c in cases if c["float"] == is_float]
        if not own:
            continue
        print(f"{name}Costs:")
        for kernel in sorted({c["kernel"] for c in own}):
            for block in CLASSES:
                some = {c["few"] for c in own if c["kernel"] == kernel and c["class"] == block}
                tile = TILES.get(kernel, (min(64, max(block, 8)), 64))
                if block == 32:
                    tile = NARROW_32_TILES.get(kernel, tile)
                rows = []
                for tokens in sorted(some, reverse=True):
                    group = [
                        c
                        for c in own
                        if c["kernel"] == kernel and c["class"] == block and c["few"] == tokens
                    ]
                    least = 1 if tokens == min(some) else tokens
                    p, note = fit(group, "bsr", lambda c, p, t=tile: bsr_model(c, t, p), *STARTS)
                    rows.append((least, p))
                    print(
                        f'    {{"{kernel}", {block}, {least}, {p[0]:.1f}, {p[1]:.0f}, {p[2]:.0f}, '
                        f"{p[3]:.2f}, {tile[0]}, {tile[1]}}}, {note}"
                    )
                for c in own:
                    if c["kernel"] == kernel and c["class"] == block:
                        c["fitted_bsr"] = monotone(c, tile, rows)
        p, note = fit(own, "dense", dense_model, (4, 1, 2.6, 50 if is_float else 750))
        for c in own:
            c["fitted_dense"] = dense_model(c, p)
        print(f"{name}Dense = {{{p[0]:.1f}, {p[1]:.2f}, {p[2]:.2f}, {p[3]:.0f}}}; {note}")
    judge(cases)


if __name__ == "__main__":
    main()
