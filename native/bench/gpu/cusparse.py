#
# Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
#
"""y = x W^T through cuSPARSE's generic SpMM, by ctypes on the library that PyTorch has loaded."""

from __future__ import annotations

import ctypes
from ctypes import byref, c_float, c_int, c_int64, c_size_t, c_void_p

import numpy as np
import torch

from .operands import Operands

_INDEX_32, _BASE_ZERO, _AS_IS, _COLUMNS, _ROWS = 2, 0, 0, 1, 2
_FLOAT32 = 0
_TYPES = {torch.float32: 0, torch.float16: 2, torch.bfloat16: 14}
_BLOCKED_ELL_ALG1, _BSR_ALG1 = 13, 14


class CusparseError(RuntimeError):
    pass


class _Library:
    """The functions with their argument types; a status other than 0 is an exception."""

    _ARGUMENTS = {
        "cusparseCreate": [c_void_p],
        "cusparseSetStream": [c_void_p, c_void_p],
        "cusparseCreateBlockedEll": [c_void_p] + [c_int64] * 4 + [c_void_p] * 2 + [c_int] * 3,
        "cusparseCreateBsr": [c_void_p] + [c_int64] * 5 + [c_void_p] * 3 + [c_int] * 5,
        "cusparseCreateDnMat": [c_void_p] + [c_int64] * 3 + [c_void_p] + [c_int] * 2,
        "cusparseSpMM_bufferSize": [c_void_p] + [c_int] * 2 + [c_void_p] * 5 + [c_int] * 2 + [c_void_p],
        "cusparseSpMM": [c_void_p] + [c_int] * 2 + [c_void_p] * 5 + [c_int] * 2 + [c_void_p],
        "cusparseDestroySpMat": [c_void_p],
        "cusparseDestroyDnMat": [c_void_p],
    }

    def __init__(self) -> None:
        self._library = ctypes.CDLL("libcusparse.so.12")
        self._text = self._library.cusparseGetErrorString
        self._text.restype = ctypes.c_char_p
        for name, arguments in self._ARGUMENTS.items():
            getattr(self._library, name).argtypes = arguments
        self.handle = self.create("cusparseCreate")

    def __call__(self, name: str, *arguments: object) -> None:
        status = getattr(self._library, name)(*arguments)
        if status != 0:
            raise CusparseError(f"{name}: {self._text(status).decode()}")

    def create(self, name: str, *arguments: object) -> c_void_p:
        handle = c_void_p()
        self(name, byref(handle), *arguments)
        return handle


_library: _Library | None = None


class SpMM:
    """A sparse W and its product. W is column-major's view: y^T [rows, tokens] = W x^T."""

    def __init__(self, sparse: str, arguments: tuple, keep: tuple[torch.Tensor, ...],
                 operands: Operands, x: torch.Tensor, algorithm: int):
        global _library
        _library = _library or _Library()
        self._library, self._algorithm, self._keep = _library, algorithm, (*keep, x)
        kind, weight, tokens = _TYPES[x.dtype], operands.weight, len(x)
        self.y = torch.full((tokens, weight.rows), float("nan"), dtype=x.dtype, device="cuda")
        self._sparse = _library.create(sparse, *arguments)
        self._x = _library.create("cusparseCreateDnMat", weight.cols, tokens, weight.cols,
                                  x.data_ptr(), kind, _COLUMNS)
        self._y = _library.create("cusparseCreateDnMat", weight.rows, tokens, weight.rows,
                                  self.y.data_ptr(), kind, _COLUMNS)
        self._one, self._zero = c_float(1), c_float(0)
        size = c_size_t()
        self._run("cusparseSpMM_bufferSize", byref(size))
        self._buffer = torch.empty(max(1, size.value), dtype=torch.uint8, device="cuda")

    def __call__(self) -> torch.Tensor:
        self._run("cusparseSpMM", self._buffer.data_ptr())
        return self.y

    def _run(self, name: str, last: object) -> None:
        library = self._library
        library("cusparseSetStream", library.handle, torch.cuda.current_stream().cuda_stream)
        library(name, library.handle, _AS_IS, _AS_IS, byref(self._one), self._sparse, self._x,
                byref(self._zero), self._y, _FLOAT32, self._algorithm, last)

    def __del__(self) -> None:
        for name, handle in (("cusparseDestroySpMat", "_sparse"), ("cusparseDestroyDnMat", "_x"),
                             ("cusparseDestroyDnMat", "_y")):
            if hasattr(self, handle):
                self._library(name, getattr(self, handle))


def bsr(operands: Operands, x: torch.Tensor) -> SpMM:
    weight, (block_rows, block_cols) = operands.weight, operands.weight.block
    crow, col, values = operands.crow.cuda(), operands.col.cuda(), operands.values.clone()
    arguments = (*weight.grid, len(col), block_rows, block_cols, crow.data_ptr(), col.data_ptr(),
                 values.data_ptr(), _INDEX_32, _INDEX_32, _BASE_ZERO, _TYPES[x.dtype], _ROWS)
    return SpMM("cusparseCreateBsr", arguments, (crow, col, values), operands, x, _BSR_ALG1)


def blocked_ell(operands: Operands, x: torch.Tensor) -> SpMM:
    """Rows are padded to the longest with blocks of column -1, which cuSPARSE leaves out."""
    weight, block = operands.weight, operands.weight.block[0]
    counts, width = operands.mask.sum(axis=1), operands.longest_row
    slot = np.arange(width) < counts[:, None]
    columns = np.full(slot.shape, -1, dtype=np.int32)
    columns[slot] = operands.col.numpy()
    # Values are a row-major matrix [rows, width * block].
    values = torch.zeros(len(slot), block, width, block, dtype=x.dtype, device="cuda")
    row, at = (torch.from_numpy(n).cuda() for n in slot.nonzero())
    values.transpose(1, 2)[row, at] = operands.values
    indices = torch.from_numpy(columns).cuda()
    arguments = (weight.rows, weight.cols, block, width * block, indices.data_ptr(),
                 values.data_ptr(), _INDEX_32, _BASE_ZERO, _TYPES[x.dtype])
    return SpMM("cusparseCreateBlockedEll", arguments, (indices, values), operands, x,
                _BLOCKED_ELL_ALG1)
