#!/usr/bin/env python3
#
# Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
#
"""The parts of native/bench/gpu that need no GPU: cases, tables and pictures.

    python3 native/test/python/test_bench.py

Needs numpy; the tables' tests need tabulate and the pictures' matplotlib, and are skipped without.
"""

import importlib.util
import itertools
import json
import pathlib
import sys
import tempfile
import unittest

try:
    import numpy as np
except ImportError:
    print("skipped: needs numpy")
    sys.exit(77)

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "bench"))

from gpu import plan  # noqa: E402

HAVE_TABULATE = importlib.util.find_spec("tabulate") is not None
HAVE_MATPLOTLIB = importlib.util.find_spec("matplotlib") is not None


class PatternTest(unittest.TestCase):
    def counts(self, pattern, grid=(80, 64), density=0.125, seed=1):
        mask = plan.stored_blocks(grid, density, pattern, np.random.default_rng(seed))
        self.assertEqual(mask.shape, grid)
        self.assertEqual(mask.dtype, bool)
        return mask, mask.sum(axis=1)

    def test_random_density_is_exact(self):
        for density in (0.05, 0.1, 0.125, 0.2, 0.5):
            mask, _ = self.counts("random", density=density)
            self.assertEqual(mask.sum(), round(density * 80 * 64))

    def test_equal_rows(self):
        mask, counts = self.counts("equal rows")
        self.assertEqual(set(counts), {8})
        self.assertEqual((mask.sum(axis=0) > 0).sum(), 64)  # every column is used somewhere

    def test_skewed_rows(self):
        mask, counts = self.counts("skewed rows")
        self.assertEqual(counts.max(), 40)  # five times the mean of 8
        self.assertEqual((counts == 40).sum(), 4)  # 5 % of 80 rows
        self.assertLess(abs(mask.sum() / (0.125 * 80 * 64) - 1), 0.05)

    def test_skew_is_capped_at_the_width(self):
        _, counts = self.counts("skewed rows", density=0.5)
        self.assertEqual(counts.max(), 64)

    def test_banded(self):
        mask, counts = self.counts("banded")
        self.assertEqual(set(counts), {8})
        for row in mask:
            stored = row.nonzero()[0]
            self.assertEqual(stored[-1] - stored[0] + 1, len(stored))
        self.assertTrue(mask[0, 0] and mask[-1, -1])

    def test_empty_rows(self):
        mask, counts = self.counts("empty rows")
        self.assertTrue((counts[::2] == 0).all())
        self.assertTrue((counts[1::2] == 16).all())

    def test_rows_with_a_share_keep_a_block(self):
        for pattern in ("equal rows", "skewed rows", "banded"):
            _, counts = self.counts(pattern, grid=(24, 6), density=0.05)
            self.assertGreaterEqual(counts.min(), 1, pattern)

    def test_unknown(self):
        with self.assertRaisesRegex(ValueError, "pattern is 'dense'; use one of random"):
            self.counts("dense")

    def test_same_weight_same_blocks(self):
        weight = plan.Weight(1024, 4096, (32, 64), 0.9)
        self.assertTrue((weight.mask() == plan.Weight(1024, 4096, (32, 64), 0.9).mask()).all())
        self.assertEqual(weight.mask().shape, (32, 64))


class SuiteTest(unittest.TestCase):
    def test_grid_is_the_whole_product(self):
        cases = [(w.rows, w.cols, w.block, w.sparsity, g.tokens)
                 for g in plan.groups("grid") for w in g.weights]
        expected = {(*shape, block, sparsity, tokens) for shape, block, sparsity, tokens in
                    itertools.product(plan.SHAPES, plan.BLOCKS, plan.SPARSITIES, plan.TOKENS)}
        self.assertEqual(len(cases), len(expected))
        self.assertEqual(set(cases), expected)

    def test_blocks_divide_shapes(self):
        for suite in plan.SUITES:
            groups = plan.groups(suite)
            self.assertTrue(groups, suite)
            for group in groups:
                for weight in group.weights:
                    self.assertEqual((weight.rows, weight.cols), group.shape)
                    self.assertEqual(weight.rows % weight.block[0], 0, weight)
                    self.assertEqual(weight.cols % weight.block[1], 0, weight)

    def test_patterns_are_all_covered(self):
        patterns = {w.pattern for s in plan.SUITES for g in plan.groups(s) for w in g.weights}
        self.assertEqual(patterns, set(plan.PATTERNS))

    def test_triton_gets_whole_blocks_of_tokens(self):
        for group in plan.groups("peers"):
            if "torch_bsr_triton" in group.peers:
                self.assertEqual(group.tokens % group.weights[0].block[0], 0, group)

    def test_deadlines(self):
        self.assertEqual(plan.deadlines(100, ["grid"]), [100])
        ends = plan.deadlines(300, list(plan.SUITES))
        self.assertEqual(ends, sorted(ends))
        self.assertAlmostEqual(ends[-1], 300)
        self.assertAlmostEqual(sum(plan.SUITES.values()), 1)


def example() -> dict:
    """Results of a machine on which a stored operation costs as much as two dense ones, and a call 1 us."""
    records = []
    for suite in plan.SUITES:
        for group, weight in ((g, w) for g in plan.groups(suite) for w in g.weights):
            stored = round((1 - weight.sparsity) * weight.grid[0] * weight.grid[1])
            dense = 1 + 2 * weight.rows * weight.cols * group.tokens / 500e6
            ours = 1 + 4 * stored * weight.block[0] * weight.block[1] * group.tokens / 500e6
            names = {name: 2 * dense for name in group.peers if name != "cublas_densified"}
            names |= {name: 1.02 * ours for name in group.epilogues}
            names |= {"djlbsr": ours, "cublas_dense": dense}
            if "djlbsr_auto" in names:
                names["djlbsr_auto"] = min(ours, dense)
            records.append({
                "suite": suite, "dtype": weight.dtype, "rows": weight.rows, "cols": weight.cols,
                "tokens": group.tokens, "block": list(weight.block), "pattern": weight.pattern,
                "sparsity": weight.sparsity, "nnzb": stored, "longest_row": 1, "kernel": "portable",
                "packed_bytes": 1000, "pack_ms": 1.0,
                "allowed_error_used": {"djlbsr": 0.1},
                "us": {name: [0.9 * us, us, 1.1 * us] for name, us in names.items()},
            })
    return {
        "date": "2026-01-02T03:04:05+00:00", "cases": len(records), "seconds": 1.0, "wrong_cases": 0,
        "machine": {"gpu": "Example GPU", "driver": "1", "cuda": "2", "pytorch": "3"},
        "ceilings": {"cublas_fp16_tflops": 500.0, "copy_terabytes_per_second": 3.0},
        "host_us": {"djlbsr": 5.0},
        "refusals": [{"peer": "cusparse_bsr, 32x64", "message": "not supported", "cases": 1}],
        "results": records,
    }


@unittest.skipUnless(HAVE_TABULATE, "needs tabulate")
class ReportTest(unittest.TestCase):
    def test_useful_and_dense_equivalent(self):
        from gpu import report

        record = {"rows": 100, "cols": 1000, "tokens": 10, "block": [10, 10], "nnzb": 100,
                  "us": {"djlbsr": [1, 2, 3], "cublas_dense": [4, 5, 6], "cusparselt_2_4": [1, 4, 9]}}
        self.assertAlmostEqual(report.useful_tflops(record), 2 * 100 * 100 * 10 / 2 / 1e6)
        self.assertAlmostEqual(report.dense_equivalent_tflops(record), 2 * 100_000 * 10 / 2 / 1e6)
        self.assertAlmostEqual(report.useful_tflops(record, "cublas_dense"), 2e6 / 5 / 1e6)
        self.assertAlmostEqual(report.useful_tflops(record, "cusparselt_2_4"), 1e6 / 4 / 1e6)
        self.assertEqual(report.speed_up(record), 2.5)

    def test_markdown(self):
        from gpu import report

        text = report.markdown(example())
        self.assertIn("Example GPU, driver 1, CUDA 2, PyTorch 3, 2026-01-02", text)
        self.assertIn("| 64×64   | 250 (1.00x)", text)  # half the rate, half the work
        self.assertIn("| 50 %      | 288     | 0 of 288", text)
        self.assertIn("| cusparse_bsr, 32x64 |", text)
        self.assertIn("dense-equivalent", text)
        for line, following in itertools.pairwise(text.split("\n")):
            if line.startswith("|") and following.startswith("|"):
                self.assertEqual(line.count("|"), following.count("|"), following)

    def test_slower_than_dense_is_counted(self):
        from gpu import report

        result = example()
        slow = report.select(result["results"], suite="grid", sparsity=0.95, tokens=1)[0]
        slow["us"]["djlbsr"] = [1e6, 1e6, 1e6]
        slow["us"]["djlbsr_auto"] = [9, slow["us"]["cublas_dense"][1] / 0.94, 9]
        line = next(n for n in report.markdown(result).split("\n") if n.startswith("| 95 % "))
        self.assertEqual(line.count("| 1 of 288 "), 2, line)
        self.assertIn("0.00x: 64×64, 8192×8192, T=1, portable", line)
        self.assertIn("0.94x", line)


@unittest.skipUnless(HAVE_MATPLOTLIB and HAVE_TABULATE, "needs matplotlib and tabulate")
class PictureTest(unittest.TestCase):
    def test_break_even(self):
        from gpu import pictures

        self.assertAlmostEqual(pictures.break_even([0.5, 0.7, 0.9], [0.5, 0.9, 1.4]), 0.74)
        self.assertAlmostEqual(pictures.break_even([0.5, 0.6, 0.7, 0.8], [0.9, 1.1, 0.9, 1.1]), 0.75)
        self.assertIsNone(pictures.break_even([0.5, 0.9], [1.2, 3]))
        self.assertIsNone(pictures.break_even([0.5, 0.9], [0.2, 0.9]))

    def test_intensity(self):
        from gpu import pictures

        record = {"dtype": "float16", "rows": 64, "cols": 64, "tokens": 1, "block": [64, 64], "nnzb": 1}
        self.assertAlmostEqual(pictures.intensity(record), 8192 / (8192 + 256 + 4))

    def test_draw(self):
        from gpu import pictures

        def drawn() -> dict[str, str]:
            with tempfile.TemporaryDirectory() as folder:
                pictures.draw(json.loads(json.dumps(example())), pathlib.Path(folder))
                return {f.name: f.read_text(encoding="utf-8") for f in pathlib.Path(folder).iterdir()}

        first = drawn()
        self.assertEqual(set(first), {"cuda-roofline.svg", "cuda-speed-up.svg"})
        for picture in first.values():
            self.assertIn("128×128", picture)
        self.assertEqual(first, drawn())


def main() -> int:
    suite = unittest.defaultTestLoader.loadTestsFromModule(sys.modules[__name__])
    result = unittest.TextTestRunner(stream=sys.stdout).run(suite)
    failed = len(result.failures) + len(result.errors)
    skipped = len(result.skipped)
    print(f"{result.testsRun - failed - skipped} passed, {failed} failed, {skipped} skipped")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
