#
# Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
#
"""What is measured: cases, patterns of stored blocks, suites and their shares of the time."""

from __future__ import annotations

import dataclasses
import itertools
import zlib
from collections.abc import Iterator

import numpy as np

BLOCKS = ((64, 64), (128, 128), (32, 32), (16, 16), (32, 64), (8, 8))
SPARSITIES = (0.5, 0.6, 0.7, 0.75, 0.8, 0.875, 0.9, 0.95)
TOKENS = (8192, 2048, 512, 128, 64, 16, 8, 1)
RAGGED_TOKENS = (100, 200, 300, 600, 1000)
SHAPES = ((8192, 8192), (11008, 4096), (4096, 11008), (3072, 768), (768, 3072), (1024, 4096))
PATTERNS = ("random", "skewed rows", "banded", "empty rows", "equal rows")

SKEW = 5.0  # the longest rows over the mean, in "skewed rows"
SKEWED_SHARE = 0.05  # of the rows have that length


@dataclasses.dataclass(frozen=True)
class Weight:
    """A block-sparse weight before it has values."""

    rows: int
    cols: int
    block: tuple[int, int]
    sparsity: float
    pattern: str = "random"
    dtype: str = "float16"

    @property
    def grid(self) -> tuple[int, int]:
        return self.rows // self.block[0], self.cols // self.block[1]

    def mask(self) -> np.ndarray:
        """Which blocks are stored: a bool array of the block grid, the same for equal weights."""
        key = (self.rows, self.cols, self.block, self.sparsity, self.pattern)
        rng = np.random.default_rng(zlib.crc32(repr(key).encode()))
        return stored_blocks(self.grid, 1 - self.sparsity, self.pattern, rng)


def stored_blocks(grid: tuple[int, int], density: float, pattern: str,
                  rng: np.random.Generator) -> np.ndarray:
    """The share density of all blocks (exactly in "random", to one block a row elsewhere).

    random       anywhere
    equal rows   as many in each row, anywhere in it
    skewed rows  SKEWED_SHARE of the rows (one at least) are SKEW times the mean, where the grid is
                 that wide; the rest share what is left
    banded       as many in each row, adjacent, along the diagonal
    empty rows   every other row is empty, the others hold twice the share, at most all
    """
    rows, cols = grid
    if pattern == "random":
        flat = np.zeros(rows * cols, dtype=bool)
        flat[rng.permutation(rows * cols)[: max(1, round(density * rows * cols))]] = True
        return flat.reshape(grid)
    mean = density * cols
    if pattern in ("equal rows", "banded"):
        lengths = np.full(rows, mean)
    elif pattern == "empty rows":
        lengths = np.where(np.arange(rows) % 2 == 1, 2 * mean, 0.0)
    elif pattern == "skewed rows":
        long_rows = max(1, round(SKEWED_SHARE * rows))
        longest = min(SKEW * mean, cols)
        lengths = np.full(rows, (rows * mean - long_rows * longest) / (rows - long_rows))
        lengths[rng.permutation(rows)[:long_rows]] = longest
    else:
        raise ValueError(f"pattern is {pattern!r}; use one of {', '.join(PATTERNS)}")
    counts = np.clip(np.rint(lengths), lengths > 0, cols).astype(int)
    if pattern == "banded":
        first = np.rint(np.arange(rows) / max(1, rows - 1) * (cols - counts)).astype(int)
        column = np.arange(cols)
        return (column >= first[:, None]) & (column < (first + counts)[:, None])
    rank = rng.random(grid).argsort(axis=1).argsort(axis=1)
    return rank < counts[:, None]


@dataclasses.dataclass(frozen=True)
class Group:
    """Weights of one shape that are timed in turn, with the same x, beside their peers."""

    suite: str
    weights: tuple[Weight, ...]
    tokens: int
    peers: tuple[str, ...] = ("cublas_dense",)  # names of peers.PEERS
    epilogues: tuple[str, ...] = ()

    @property
    def shape(self) -> tuple[int, int]:
        return self.weights[0].rows, self.weights[0].cols


# name: share of the time. A suite gets what the ones before it left over, too.
SUITES = {"grid": 0.45, "ragged": 0.03, "peers": 0.22, "patterns": 0.09, "dtypes": 0.11,
          "epilogue": 0.05, "fallback": 0.04, "tuned_2_4": 0.01}

TRITON = ("torch_bsr_triton", "torch_triton_addmm")
SEMI_STRUCTURED = ("cusparselt_2_4",)
CUSPARSE = ("cusparse_blocked_ell", "cusparse_bsr")
LARGE = ((8192, 8192, 8192), (11008, 4096, 2048), (4096, 11008, 2048))


def _weights(rows: int, cols: int, block: tuple[int, int], sparsities: tuple[float, ...],
             **more: str) -> tuple[Weight, ...]:
    return tuple(Weight(rows, cols, block, s, **more) for s in sparsities)


def _grid() -> Iterator[Group]:
    """Every block, sparsity, T and shape. Shapes come last: a cut run is whole for the first ones."""
    for (rows, cols), block in itertools.product(SHAPES, BLOCKS):
        for tokens in TOKENS:
            yield Group("grid", _weights(rows, cols, block, SPARSITIES), tokens,
                        ("cublas_dense", "cublas_densified", "djlbsr_auto"))


def _ragged() -> Iterator[Group]:
    """Numbers of tokens as requests have them."""
    for (rows, cols), block in itertools.product(SHAPES[:3], BLOCKS[:4]):
        for tokens in RAGGED_TOKENS:
            yield Group("ragged", _weights(rows, cols, block, (0.5, 0.875)), tokens,
                        ("cublas_dense", "djlbsr_auto"))


def _peers() -> Iterator[Group]:
    """Equal rows, so that Blocked-ELL pads nothing; then random ones, which it pads."""
    for sparsity, (rows, cols, tokens) in itertools.product((0.875, 0.5), LARGE):
        for block in BLOCKS:
            peers = ["cublas_dense"]
            if min(block) >= 16:
                peers += TRITON
            if block[0] == block[1]:
                peers += CUSPARSE
            if sparsity == 0.5:
                peers += SEMI_STRUCTURED
            yield Group("peers", _weights(rows, cols, block, (sparsity,), pattern="equal rows"),
                        tokens, tuple(peers))
    for block, tokens in itertools.product(((64, 64), (32, 32)), (128, 16, 1)):
        peers = ("cublas_dense", *CUSPARSE) + (TRITON if tokens % block[0] == 0 else ())
        yield Group("peers", _weights(11008, 4096, block, (0.875,), pattern="equal rows"), tokens,
                    peers)
    for block in BLOCKS[:4]:
        yield Group("peers", _weights(8192, 8192, block, (0.875,)), 8192,
                    ("cublas_dense", "cusparse_blocked_ell"))


def _patterns() -> Iterator[Group]:
    for tokens, block in itertools.product((8192, 2048, 128), BLOCKS):
        weights = tuple(Weight(8192, 8192, block, 0.875, pattern)
                        for pattern in PATTERNS)
        yield Group("patterns", weights, tokens)


def _dtypes() -> Iterator[Group]:
    for rows, cols, tokens in LARGE + ((11008, 4096, 16),):
        for block in ((64, 64), (128, 128), (32, 32), (16, 16)):
            for dtype in ("bfloat16", "float32"):
                peers, sparsities = ("cublas_dense",), (0.5, 0.875)
                if dtype == "float32":  # slow: one sparsity; the densified weight for its error
                    peers, sparsities = (*peers, "cublas_tf32", "cublas_densified"), (0.875,)
                yield Group("dtypes", _weights(rows, cols, block, sparsities, dtype=dtype), tokens,
                            peers)


def _epilogue() -> Iterator[Group]:
    for (rows, cols, tokens), block in itertools.product(LARGE, BLOCKS[:4]):
        yield Group("epilogue", _weights(rows, cols, block, (0.875,)), tokens,
                    epilogues=("bias", "relu", "gelu", "gelu_tanh", "silu"))


def _fallback() -> Iterator[Group]:
    """PyTorch's BSR as a JVM gets it, without Triton. Slow: the least that shows it."""
    for block in ((64, 64), (16, 16)):
        yield Group("fallback", _weights(4096, 4096, block, (0.875,)), 4096,
                    ("cublas_dense", "torch_bsr_no_triton", "torch_mm_no_triton"))


def _tuned_2_4() -> Iterator[Group]:
    """Last: cuSPARSELt's search for its best algorithm can leave the CUDA context broken (an illegal
    instruction on an H100 with PyTorch 2.11), and nothing runs after that."""
    yield Group("tuned_2_4", _weights(8192, 8192, (64, 64), (0.5,)), 8192,
                ("cublas_dense", "cusparselt_2_4_tuned"))


def groups(suite: str) -> list[Group]:
    """The groups of a suite, the most telling first."""
    makers = {"grid": _grid, "ragged": _ragged, "peers": _peers, "patterns": _patterns, "dtypes": _dtypes,
              "epilogue": _epilogue, "fallback": _fallback, "tuned_2_4": _tuned_2_4}
    return list(makers[suite]())


def deadlines(seconds: float, suites: list[str]) -> list[float]:
    """When each of suites must end, in seconds after the start; the last ends with the whole."""
    shares = np.array([SUITES[name] for name in suites])
    return list(seconds * np.cumsum(shares) / shares.sum())
