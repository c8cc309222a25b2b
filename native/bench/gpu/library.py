#
# Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
#
"""libdjlbsr: its operators in PyTorch, and the name of the kernel that serves a call."""

from __future__ import annotations

import ctypes

import torch


class _LinearArgs(ctypes.Structure):
    """djlbsr_linear_args of djlbsr.h."""

    _fields_ = [
        ("x", ctypes.c_void_p), ("bias", ctypes.c_void_p), ("y", ctypes.c_void_p),
        ("tokens", ctypes.c_int64), ("x_stride", ctypes.c_int64), ("y_stride", ctypes.c_int64),
        ("activation", ctypes.c_int32), ("threads", ctypes.c_int32), ("stream", ctypes.c_void_p),
    ]


class Library:
    def __init__(self, path: str):
        torch.ops.load_library(path)
        self._library = ctypes.CDLL(path)
        self._library.djlbsr_version.restype = ctypes.c_char_p
        self._library.djlbsr_last_error.restype = ctypes.c_char_p
        self._library.djlbsr_kernel_name.argtypes = [ctypes.c_void_p] * 3
        self.version = self._library.djlbsr_version().decode()

    def kernel_name(self, meta: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> str:
        args = _LinearArgs(x.data_ptr(), None, y.data_ptr(), len(x), x.stride(0), y.stride(0))
        name = ctypes.c_char_p()
        status = self._library.djlbsr_kernel_name(meta.data_ptr(), ctypes.byref(args),
                                                  ctypes.byref(name))
        if status != 0:
            raise RuntimeError(self._library.djlbsr_last_error().decode())
        return name.value.decode()
