"""Counting: operations by kind, multiplications by kind, bytes by kind."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from mmc.ir.graph import Graph, nested_graphs
from mmc.ir.op import Op
from mmc.ir.ops.attention import Attention, AttentionCodes
from mmc.ir.ops.linear import Linear, Matmul
from mmc.ir.ops.norm import LayerNorm, MeanSquare, RmsNorm, RmsStatistic
from mmc.ir.ops.pointwise import Div, Exp, Mul, Pow, Sigmoid, Silu, Softplus, Square, Tanh
from mmc.ir.ops.recurrence import CausalConv, LinearRecurrence
from mmc.ir.ops.source import Weight
from mmc.ir.ops.ternary import (
    Dequantize,
    FactoredQuantize,
    Quantize,
    RmsNormQuantize,
    ScaleQuantize,
    TernaryMatmul,
)
from mmc.ir.packing import packed_bytes
from mmc.ir.types import Dim, TensorType, bind_dim, numel, static_shape

PER_ELEMENT: dict[type[Op], int] = {
    Mul: 1, Div: 1, Square: 1, Pow: 1, Dequantize: 1, Quantize: 1, RmsNorm: 3, RmsStatistic: 1,
    MeanSquare: 1, LayerNorm: 3, RmsNormQuantize: 4, ScaleQuantize: 3, FactoredQuantize: 2,
    LinearRecurrence: 1, Silu: 1,
}  # fmt: skip
"""Multiplications and divisions for each element that an operation reads, in its usual form."""

TRANSCENDENTAL = (Exp, Sigmoid, Silu, Tanh, Softplus)


@dataclass(frozen=True)
class Statistics:
    """Counts for given B and T (one token: both 1)."""

    operations: Counter[str]
    ternary_additions: int
    """Additions, subtractions and skips that took the place of multiply-adds."""
    dense_multiplications: int
    elementwise_multiplications: int
    transcendental: int
    weight_bytes: Counter[str]
    """Bytes of weights by element type."""


def all_ops(graph: Graph) -> Iterator[Op]:
    """Every operation, those of nested graphs too; a body that is used twice comes twice."""
    for op in graph:
        yield op
        for nested in nested_graphs(op):
            yield from all_ops(nested)


def statistics(graph: Graph, **symbols: int) -> Statistics:
    """Count for the given values of the symbols; those not given count as 1."""

    def number(dim: Dim) -> int:
        bound = bind_dim(dim, symbols)
        return bound if isinstance(bound, int) else bind_all(bound)

    kinds, sizes = Counter[str](), Counter[str]()
    ternary = dense = elementwise = transcendental = 0
    for op in all_ops(graph):
        kinds[op.mnemonic] += 1
        size = number(numel(op.types[0].shape))
        match op:
            case Weight():
                sizes[str(op.type.dtype)] += stored_bytes(op.type)
            case TernaryMatmul():
                ternary += size * number(op.x.type.shape[-1])
            case Linear() | Matmul():
                dense += size * number(op.x.type.shape[-1])
            case Attention():  # of a full cache
                dense += 2 * size * number(op.keys.type.shape[2])
            case AttentionCodes():
                dense += 2 * size * number(op.key_codes.type.shape[2])
            case CausalConv():
                elementwise += size * number(op.w.type.shape[1])
            case _:
                read = (
                    number(numel(op.operands[0].type.shape))
                    if isinstance(op, MeanSquare | RmsStatistic)
                    else size
                )
                elementwise += read * PER_ELEMENT.get(type(op), 0)
                transcendental += size * isinstance(op, TRANSCENDENTAL)
    return Statistics(kinds, ternary, dense, elementwise, transcendental, sizes)


def bind_all(dim: Dim) -> int:
    """The dimension with 1 for every symbol that is left."""
    symbols = frozenset[str]() if isinstance(dim, int) else dim.symbols
    bound = bind_dim(dim, dict.fromkeys(symbols, 1))
    assert isinstance(bound, int)
    return bound


def stored_bytes(declared: TensorType) -> int:
    """Bytes that a tensor takes where it is stored."""
    if declared.dtype.layout is not None:
        n, k = static_shape(declared.shape)
        return packed_bytes(n, k, declared.dtype.layout)
    return bind_all(numel(declared.shape)) * declared.dtype.numpy.itemsize
