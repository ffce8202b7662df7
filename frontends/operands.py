"""Operands made ready, and small spellings that every frontend needs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mmc.ir.op import Value, producer
from mmc.ir.ops.linear import Linear, Matmul
from mmc.ir.ops.pointwise import Cast, Neg
from mmc.ir.ops.reduce import Max, Sum
from mmc.ir.ops.shape import Gather, Permute, Reshape, Slice
from mmc.ir.ops.source import Constant, Input, scalar
from mmc.ir.types import Dim, DType, Shape, SymbolicDim, TensorType, numel

Operand = Value | SymbolicDim | float | int | bool
Axes = Sequence[int] | int | None
ReduceAxis = Callable[[Value, int, bool], Value]


class Unsupported(Exception):
    """This form of the operation has no translation; the message says which."""


def cast(x: Value, dtype: DType) -> Value:
    if x.type.dtype is dtype:
        return x
    if isinstance(x, Constant):
        return Constant(number(x.value, dtype), x.type.with_dtype(dtype))
    return Cast(x, dtype)


def operand(x: Operand, dtype: DType) -> Value:
    """A tensor, a size or a number as a value of the element type."""
    if isinstance(x, Value):
        return cast(x, dtype)
    if isinstance(x, SymbolicDim):  # the IR has no "size of": count ones
        ones = Constant(1, TensorType(DType.I64, (x,)))
        return cast(Sum(ones, axis=0, keepdims=False), dtype)
    return scalar(number(x, dtype), dtype)


def number(x: float | int | bool, dtype: DType) -> float | int | bool:
    """The Python number of the element type's kind: 1, 1.0 and True are different attributes."""
    kind = float if dtype.is_float else bool if dtype is DType.BOOL else int
    return kind(x)


def reshape(x: Value, shape: Shape) -> Value:
    return x if x.type.shape == shape else Reshape(x, shape)


def axis_of(x: Value, axis: int) -> int:
    """The axis counted from the front."""
    return axis % max(x.type.rank, 1)


def replaced(shape: Shape, axis: int, *dims: Dim) -> Shape:
    """The shape with other dimensions in place of one."""
    return (*shape[:axis], *dims, *shape[axis + 1 :])


def permuted(x: Value, order: Sequence[int]) -> Value:
    """Permute; two in a row are one, and one that moves nothing is none."""
    order = [axis_of(x, i) for i in order]
    if isinstance(x, Permute):
        order = [x.order[i] for i in order]
        x = x.x
    return x if order == list(range(len(order))) else Permute(x, tuple(order))


def moved(x: Value, source: int, target: int) -> Value:
    order = [i for i in range(x.type.rank) if i != axis_of(x, source)]
    order.insert(axis_of(x, target), axis_of(x, source))
    return permuted(x, order)


def cut(x: Value, axis: int, start: Dim, length: Dim, step: int = 1) -> Value:
    """Elements of one axis; all of them is no cut."""
    whole = start == 0 and step == 1 and length == x.type.shape[axis]
    return x if whole else Slice(x, axis, start, length, step)


def index_select(x: Value, axis: int, indices: Value) -> Value:
    """The axis gives way to the axes of the indices."""
    axis, rank = axis_of(x, axis), indices.type.rank
    taken = Gather(moved(x, axis, 0), indices)
    order = [*range(rank, rank + axis), *range(rank), *range(rank + axis, taken.type.rank)]
    return permuted(taken, order)


def over(op: ReduceAxis, x: Value, axes: Axes, keepdims: bool) -> Value:
    """One axis at a time; all axes at once are one flat row."""
    if isinstance(axes, int):
        axes = (axes,)
    if not axes or len({axis_of(x, a) for a in axes}) == x.type.rank > 1:
        flat = op(reshape(x, (numel(x.type.shape),)), 0, False)
        return reshape(flat, (1,) * x.type.rank) if keepdims else flat
    if x.type.rank == 0:
        return x
    for axis in sorted((axis_of(x, a) for a in axes), reverse=True):
        x = op(x, axis, keepdims)
    return x


def lowest(x: Value, axis: int, keepdims: bool) -> Value:
    return Neg(Max(Neg(x), axis, keepdims))


def product(x: Value, y: Value) -> Value:
    """Multiply two matrices or stacks of them; a layer's own matrix makes it `linear`."""
    if y.type.rank == 2 and isinstance(y, Permute):
        return Linear(x, y.x)
    if y.type.rank == 2 and not reads_input(y):
        return Linear(x, Permute(y, (1, 0)))
    return Matmul(x, y)


def reads_input(value: Value) -> bool:
    """False where a value is made of weights and constants alone."""
    seen, stack = {producer(value)}, [producer(value)]
    while stack:
        op = stack.pop()
        if isinstance(op, Input):
            return True
        new = {producer(v) for v in op.operands} - seen
        seen |= new
        stack += new
    return False
