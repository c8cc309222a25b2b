#
# Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
#
"""Weights with random values on the GPU, and the check of a result against float64."""

from __future__ import annotations

import dataclasses
import functools
import time

import numpy as np
import torch

from . import plan

# Half a unit in the last place, relative; the smallest step of fp16 counts apart.
ROUNDING = {torch.float32: 2.0**-24, torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}
SMALLEST = {torch.float32: 1e-37, torch.float16: 2.0**-25, torch.bfloat16: 1e-37}
SAMPLES = 64


@dataclasses.dataclass
class Operands:
    """A weight in the forms that the candidates need; the ones that not all need are made late."""

    weight: plan.Weight
    crow: torch.Tensor  # int32 on the CPU, as col
    col: torch.Tensor
    values: torch.Tensor  # [nnzb, block rows, block cols] on the GPU
    mask: np.ndarray

    @property
    def dtype(self) -> torch.dtype:
        return self.values.dtype

    @property
    def value_bytes(self) -> int:
        return self.values.numel() * self.values.element_size()

    @property
    def longest_row(self) -> int:
        return int(self.mask.sum(axis=1).max())

    @functools.cached_property
    def dense(self) -> torch.Tensor:
        grid, (block_rows, block_cols) = self.weight.grid, self.weight.block
        dense = torch.zeros(*grid, block_rows, block_cols, dtype=self.dtype, device="cuda")
        row, col = (torch.from_numpy(n).cuda() for n in self.mask.nonzero())
        dense[row, col] = self.values
        return dense.transpose(1, 2).reshape(self.weight.rows, self.weight.cols)

    @functools.cached_property
    def packed(self) -> tuple[torch.Tensor, torch.Tensor, float]:
        """The packed weight, its meta, and the milliseconds that packing took."""
        torch.cuda.synchronize()
        start = time.perf_counter()
        packed, meta = torch.ops.bsr.pack(self.crow, self.col, self.values, self.weight.cols)
        torch.cuda.synchronize()
        return packed, meta, 1000 * (time.perf_counter() - start)


def make(weight: plan.Weight) -> Operands:
    mask = weight.mask()
    col = np.broadcast_to(np.arange(mask.shape[1], dtype=np.int32), mask.shape)[mask]
    crow = np.concatenate([[0], mask.sum(axis=1).cumsum()]).astype(np.int32)
    values = torch.randn(len(col), *weight.block, device="cuda", dtype=getattr(torch, weight.dtype))
    return Operands(weight, torch.from_numpy(crow), torch.from_numpy(col), values, mask)


def allowed_error_used(y: torch.Tensor, x: torch.Tensor, dense: torch.Tensor,
                       bias: torch.Tensor | None = None) -> float:
    """The greatest |y - exact| over what is allowed: correct up to 1. NaN or Inf anywhere gives inf.

    Allowed for each element: gamma_n * sum |w x|, n fp32 operations, and one rounding to y's type.
    Looks at SAMPLES tokens of every row and at SAMPLES rows of every token.
    """
    if not torch.isfinite(y).all():
        return float("inf")
    tokens, rows = y.shape
    some_tokens = torch.randint(0, tokens, (min(tokens, SAMPLES),), device="cuda")
    some_rows = torch.randint(0, rows, (min(rows, SAMPLES),), device="cuda")
    worst = 0.0
    for at, of in ((some_tokens, slice(None)), (slice(None), some_rows)):
        x64, w64 = x[at].double(), dense[of].double()
        exact, magnitude = x64 @ w64.T, x64.abs_() @ w64.abs_().T
        if bias is not None:
            exact, magnitude = exact + bias[of].double(), magnitude + bias[of].double().abs()
        terms = (w64 != 0).sum(dim=1) + 2  # additions behind each output, bias and start among them
        allowed = terms * 2.0**-24 * magnitude
        allowed += ROUNDING[y.dtype] * (exact.abs() + allowed) + SMALLEST[y.dtype]
        actual = y[at][:, of] if at is some_tokens else y[:, of]
        worst = max(worst, ((actual.double() - exact).abs_() / allowed).max().item())
    return worst


def poisoned_memory(tokens: int, rows: int, dtype: torch.dtype) -> int:
    """Fills the memory that the next output of this size gets with NaN; returns its address."""
    return torch.full((tokens, rows), float("nan"), dtype=dtype, device="cuda").data_ptr()
