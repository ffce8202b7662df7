# pyright: basic
# Every value here is a TIR expression, which TVM does not type.
"""The elements of operations that are loops on the spot."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from mmc.ir.op import Op, Value
from mmc.ir.ops.linear import Linear, Matmul
from mmc.ir.ops.reduce import ArgMax, Max, Mean, Reduction, Sum
from mmc.targets.tvm.elementary import Vector, spread
from mmc.targets.tvm.fold import Fold, for_columns, lane_total, rounded, serial
from mmc.targets.tvm.indices import Index
from mmc.targets.tvm.memory import is_one, size_of

if TYPE_CHECKING:
    from mmc.targets.tvm.expressions import Elements


def _reduction(e: Elements, op: Reduction, index: Index) -> Vector:
    """A reduction over an axis that is not the last; lanes stay lanes."""
    rank = op.x.type.rank
    axis = op.axis % rank
    after = index.axes[axis + 1 :] if op.keepdims else index.axes[axis:]
    size = e.size(op.x, axis)
    fold = Fold(op, index.lanes)
    with serial(size) as step, e.scope():
        axes = (*index.axes[:axis], step, *after)
        fold.add(e.at(op.x, Index(axes, index.lanes)), step)
    return fold.result(size)


def _linear(e: Elements, op: Linear, index: Index) -> Vector:
    """One dot product, `lanes` columns at a time."""
    *lead, n = index.axes
    columns = op.w.type.shape[1]
    fold = Fold(Sum(op.x), e.lanes)
    rest = Fold(Sum(op.x), 1)

    def add(total: Fold, k: Any) -> None:
        with e.scope():
            x = e.at(op.x, Index((*lead, k), total.lanes, index.in_row))
            total.add(x * e.at(op.w, Index((n, k), total.lanes)), k)

    if e.lanes == 1:
        with serial(size_of(columns, e.symbols)) as k:
            add(rest, k)
        dot = rest.result(1)
    else:
        for_columns(size_of(columns, e.symbols), lambda k: add(fold, k), lambda k: add(rest, k))
        dot = lane_total(fold.result(1), lambda a, b: a + b) + rest.result(1)
    if op.bias is not None:
        dot = dot + e.at(op.bias, Index((n,)))
    return rounded(dot, op.type.dtype)


def _matmul(e: Elements, op: Matmul, index: Index) -> Vector:
    """16 columns of y at a time, times one number of x."""
    *lead, m, n = index.axes
    fold = Fold(Sum(op.x), index.lanes)

    def matrix(value: Value, row: Any, column: Any, lanes: int) -> Vector:
        shape = value.type.shape[:-2]
        axes = lead[len(lead) - len(shape) :]
        axes = [0 if is_one(dim) else axis for dim, axis in zip(shape, axes, strict=True)]
        return e.at(value, Index((*axes, row, column), lanes))

    with serial(e.size(op.x, -1)) as k, e.scope():
        x = spread(matrix(op.x, m, k, 1), index.lanes)
        fold.add(x * matrix(op.y, k, n, index.lanes), k)
    return rounded(fold.result(1), op.type.dtype)


LOOPS: Mapping[type[Op], Callable[[Any, Any, Index], Vector]] = {
    Sum: _reduction,
    Mean: _reduction,
    Max: _reduction,
    ArgMax: _reduction,
    Linear: _linear,
    Matmul: _matmul,
}
