#
# Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
#
"""What bsr::linear_packed is compared with. Each maker gives the candidate and what it computes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
import torch.nn.functional as F

from . import cusparse
from .operands import Operands
from .timing import COLD_TOKENS, Candidate, copies_for


@dataclasses.dataclass
class Peer:
    call: Callable[[int], torch.Tensor]
    dense: torch.Tensor | None  # the weight that it multiplies by; None for a random dense one
    copies: int = 1
    capturable: bool = True

    def candidate(self, name: str) -> Candidate:
        return Candidate(name, self.call, self.copies, self.capturable)


class DenseWeights:
    """Dense random weights of the shape in use, enough of them to stay out of L2."""

    def __init__(self) -> None:
        self._key: tuple | None = None
        self._weights = torch.empty(0)

    def get(self, rows: int, cols: int, dtype: torch.dtype) -> torch.Tensor:
        if self._key != (rows, cols, dtype):
            size = rows * cols * torch.empty(0, dtype=dtype).element_size()
            copies = copies_for(size, COLD_TOKENS)
            self._weights = torch.randn(copies, rows, cols, device="cuda", dtype=dtype)
            self._key = rows, cols, dtype
        return self._weights


dense_weights = DenseWeights()


def _packed_copies(operands: Operands, tokens: int) -> torch.Tensor:
    """[copies, packed bytes]; copies are counted by the values' bytes, the least that a call reads."""
    packed = operands.packed[0]
    stride = -(-packed.numel() // 256) * 256
    copies = torch.empty(copies_for(operands.value_bytes, tokens), stride, dtype=torch.uint8,
                         device="cuda")[:, : packed.numel()]
    return copies.copy_(packed)


def djlbsr(operands: Operands, x: torch.Tensor) -> Peer:
    weights, meta = _packed_copies(operands, len(x)), operands.packed[1]
    return Peer(lambda i: torch.ops.bsr.linear_packed(x, weights[i], meta), operands.dense,
                len(weights))


def djlbsr_auto(operands: Operands, x: torch.Tensor) -> Peer:
    """With the dense weight given too, so that the operator chooses."""
    weights, meta = _packed_copies(operands, len(x)), operands.packed[1]
    denses = _densified_copies(operands, len(x))

    def call(i: int) -> torch.Tensor:
        return torch.ops.bsr.linear_packed(x, weights[i % len(weights)], meta, None, 0,
                                           denses[i % len(denses)])

    return Peer(call, operands.dense, max(len(weights), len(denses)))


def cublas_dense(operands: Operands, x: torch.Tensor) -> Peer:
    weights = dense_weights.get(operands.weight.rows, operands.weight.cols, x.dtype)
    copies = len(weights) if len(x) <= COLD_TOKENS else 1
    return Peer(lambda i: F.linear(x, weights[i]), None, copies)


def cublas_tf32(operands: Operands, x: torch.Tensor) -> Peer:
    dense = cublas_dense(operands, x)

    def call(i: int) -> torch.Tensor:
        torch.backends.cuda.matmul.allow_tf32 = True
        try:
            return dense.call(i)
        finally:
            torch.backends.cuda.matmul.allow_tf32 = False

    weight = dense_weights.get(operands.weight.rows, operands.weight.cols, x.dtype)[0]
    return Peer(call, weight, dense.copies)


def _densified_copies(operands: Operands, tokens: int) -> torch.Tensor:
    dense = operands.dense
    return dense.repeat(copies_for(dense.numel() * dense.element_size(), tokens), 1, 1)


def cublas_densified(operands: Operands, x: torch.Tensor) -> Peer:
    weights = _densified_copies(operands, len(x))
    return Peer(lambda i: F.linear(x, weights[i]), operands.dense, len(weights))


def _two_of_four(operands: Operands, dtype: torch.dtype) -> torch.Tensor:
    """A dense weight with two random elements of every four, 50 %, whatever the blocks are."""
    weight = operands.weight
    values = torch.randn(weight.rows, weight.cols // 4, 4, device="cuda")
    keep = torch.rand_like(values).argsort(dim=-1) < 2
    return (values * keep).reshape(weight.rows, weight.cols).to(dtype)


def cusparselt_2_4(operands: Operands, x: torch.Tensor) -> Peer:
    """As PyTorch offers it: to_sparse_semi_structured and F.linear."""
    dense = _two_of_four(operands, x.dtype)
    sparse = torch.sparse.to_sparse_semi_structured(dense)
    return Peer(lambda i: F.linear(x, sparse), dense)


def cusparselt_2_4_tuned(operands: Operands, x: torch.Tensor) -> Peer:
    """The library's fastest algorithm for this very product, y stored row by row."""
    dense = _two_of_four(operands, x.dtype)
    packed = torch._cslt_compress(dense)
    algorithm = torch._cslt_sparse_mm_search(packed, x.t(), transpose_result=True)
    return Peer(lambda i: torch._cslt_sparse_mm(packed, x.t(), transpose_result=True,
                                                alg_id=algorithm), dense)


def _bsr_tensors(operands: Operands, tokens: int) -> list[torch.Tensor]:
    crow, col = operands.crow.cuda(), operands.col.cuda()
    return [torch.sparse_bsr_tensor(crow, col, operands.values.clone(),
                                    (operands.weight.rows, operands.weight.cols))
            for _ in range(_copies(operands, tokens))]


def _copies(operands: Operands, tokens: int) -> int:
    return copies_for(operands.value_bytes, tokens)


def torch_bsr_triton(operands: Operands, x: torch.Tensor) -> Peer:
    weights = _bsr_tensors(operands, len(x))
    return Peer(lambda i: F.linear(x, weights[i]), operands.dense, len(weights))


def torch_triton_addmm(operands: Operands, x: torch.Tensor) -> Peer:
    from torch.sparse._triton_ops import bsr_dense_addmm

    weights = _bsr_tensors(operands, len(x))
    nothing = torch.zeros((), dtype=x.dtype, device="cuda").expand(operands.weight.rows, len(x))
    return Peer(lambda i: bsr_dense_addmm(nothing, weights[i], x.t(), beta=0).t(), operands.dense,
                len(weights))


def torch_bsr_no_triton(operands: Operands, x: torch.Tensor) -> Peer:
    return dataclasses.replace(torch_bsr_triton(operands, x), capturable=False)


def torch_mm_no_triton(operands: Operands, x: torch.Tensor) -> Peer:
    weights, x_t = _bsr_tensors(operands, len(x)), x.t().contiguous()
    return Peer(lambda i: torch.mm(weights[i], x_t).t(), operands.dense, len(weights), False)


def cusparse_bsr(operands: Operands, x: torch.Tensor) -> Peer:
    products = [cusparse.bsr(operands, x) for _ in range(_copies(operands, len(x)))]
    return Peer(lambda i: products[i](), operands.dense, len(products))


def cusparse_blocked_ell(operands: Operands, x: torch.Tensor) -> Peer:
    products = [cusparse.blocked_ell(operands, x) for _ in range(_copies(operands, len(x)))]
    return Peer(lambda i: products[i](), operands.dense, len(products))


PEERS: dict[str, Callable[[Operands, torch.Tensor], Peer]] = {
    maker.__name__: maker
    for maker in (djlbsr_auto, cublas_dense, cublas_tf32, cublas_densified, cusparselt_2_4, cusparselt_2_4_tuned,
                  torch_bsr_triton, torch_triton_addmm, torch_bsr_no_triton, torch_mm_no_triton,
                  cusparse_bsr, cusparse_blocked_ell)
}
