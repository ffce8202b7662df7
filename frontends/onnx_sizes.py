"""Arithmetic on known numbers: what an ONNX graph computes of shapes, done while it is imported.

Sizes may be symbolic; where a result would not be a polynomial of symbols there is none here, and
the operator is translated like any other.
"""

# Table entries are lambdas over arrays of objects.
# pyright: reportUnknownLambdaType=false, reportUnknownArgumentType=false
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from mmc.frontends.onnx_call import DTYPES, Call, Known, Numbers, Operand, Translate
from mmc.frontends.operands import Unsupported
from mmc.ir.op import Value
from mmc.ir.ops.source import Iota
from mmc.ir.types import Dim, DType, SymbolicDim, numel

_LARGEST = 4096
"""Elements that are worth working out one by one."""


def divide(size: Dim, by: Dim) -> Dim | None:
    """size / by where that is a polynomial again."""
    if isinstance(size, int) and isinstance(by, int):
        return size // by if by else None
    terms = by.terms if isinstance(by, SymbolicDim) else (((), by),)
    if len(terms) != 1 or not terms[0][1]:
        return None
    symbols, coefficient = terms[0]
    total: Dim = 0
    for monomial, count in size.terms if isinstance(size, SymbolicDim) else (((), size),):
        rest = list(monomial)
        for name in symbols:
            if name not in rest:
                return None
            rest.remove(name)
        if count % coefficient:
            return None
        total = (
            total + SymbolicDim(((tuple(rest), count // coefficient),))
            if rest
            else (total + count // coefficient)
        )
    return total


def _quotient(x: Any, y: Any) -> Any:
    found = divide(x, y) if not isinstance(x, float) else x / y
    if found is None or (isinstance(found, int) and (x < 0 or y < 0)):
        raise _NotKnown
    return found


def _remainder(x: Any, y: Any) -> Any:
    if not (isinstance(x, int) and isinstance(y, int) and y):
        raise _NotKnown
    return x % y


class _NotKnown(Exception):
    """Not a polynomial of symbols."""


def _compare(test: Callable[[Any, Any], bool]) -> Callable[[Any, Any], bool]:
    def compared(x: Any, y: Any) -> bool:
        difference = x - y
        if isinstance(difference, SymbolicDim):
            raise _NotKnown
        return test(difference, 0)

    return compared


def _larger(x: Any, y: Any) -> Any:
    return x if _compare(lambda a, b: a >= b)(x, y) else y


def _smaller(x: Any, y: Any) -> Any:
    return x if _compare(lambda a, b: a <= b)(x, y) else y


_PAIRWISE: dict[str, Callable[[Any, Any], Any]] = {
    "Add": lambda x, y: x + y, "Sub": lambda x, y: x - y, "Mul": lambda x, y: x * y,
    "Div": _quotient, "Mod": _remainder, "Max": _larger, "Min": _smaller,
    "Equal": _compare(lambda a, b: a == b), "Less": _compare(lambda a, b: a < b),
    "LessOrEqual": _compare(lambda a, b: a <= b), "Greater": _compare(lambda a, b: a > b),
    "GreaterOrEqual": _compare(lambda a, b: a >= b),
    "And": lambda x, y: bool(x and y), "Or": lambda x, y: bool(x or y),
}  # fmt: skip
_TO_BOOL = frozenset({"Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual", "And", "Or"})


def _each(function: Callable[..., Any], *arrays: Numbers) -> Numbers:
    made = np.frompyfunc(function, len(arrays), 1)(*arrays)
    array = np.empty(np.shape(made), object)
    array[...] = made
    return array


def _cast(call: Call, x: Numbers) -> Known | None:
    found = DTYPES.get(call.attribute("to"))
    if found is None or any(isinstance(n, SymbolicDim) for n in x.flat):
        return Known(x, found) if found is DType.I64 or found is DType.I32 else None
    return Known(_each(found.numpy.type, x).astype(found.numpy).astype(object), found)


def _squeeze(call: Call, x: Numbers, *_: Numbers) -> Numbers:
    axes = call.axes(1)
    return np.squeeze(x, None if axes is None else tuple(axes))


def _slice(call: Call, x: Numbers, *_: Numbers) -> Numbers:
    if not call.has(1):
        raise _NotKnown
    starts, ends = call.ints(1), call.ints(2)
    axes = call.ints(3) if call.has(3) else list(range(len(starts)))
    steps = call.ints(4) if call.has(4) else [1] * len(starts)
    index = [slice(None)] * x.ndim
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        lowest = None if step < 0 and end < -x.shape[axis] else end
        index[axis] = slice(start, lowest, step)
    return x[tuple(index)]


def _reduce(function: Callable[[Any, Any], Any]) -> Callable[..., Numbers]:
    def reduced(call: Call, x: Numbers, *_: Numbers) -> Numbers:
        axes = call.axes(1)
        every = axes is None or sorted(a % max(x.ndim, 1) for a in axes) == list(range(x.ndim))
        if not every or not x.size:
            raise _NotKnown
        total = x.flat[0]
        for number in list(x.flat)[1:]:
            total = function(total, number)
        shape = (1,) * x.ndim if call.attribute("keepdims", 1) else ()
        return Known.of(total).numbers.reshape(shape)

    return reduced


_SHAPED: dict[str, Callable[..., Numbers]] = {
    "Identity": lambda call, x: x,
    "Neg": lambda call, x: _each(lambda n: n * -1, x),
    "Not": lambda call, x: _each(lambda n: not n, x),
    "Gather": lambda call, x, i: x.take(i.astype(np.int64), call.attribute("axis", 0)),
    "Concat": lambda call, *parts: np.concatenate(parts, call.attribute("axis")),
    "Reshape": lambda call, x, shape: x.reshape([
        x.shape[i] if n == 0 else n for i, n in enumerate(call.ints(1))
    ]),
    "Squeeze": _squeeze,
    "Unsqueeze": lambda call, x, *_: np.expand_dims(x, tuple(call.axes(1) or ())),
    "Slice": _slice,
    "ReduceProd": _reduce(lambda x, y: x * y),
    "ReduceSum": _reduce(lambda x, y: x + y),
    "ReduceMax": _reduce(_larger),
    "ReduceMin": _reduce(_smaller),
    "Where": lambda call, c, x, y: _each(lambda c, x, y: x if c else y, c, x, y),
    "Transpose": lambda call, x: x.transpose(call.attribute("perm")),
    "Expand": lambda call, x, shape: np.broadcast_to(
        x, np.broadcast_shapes(x.shape, tuple(call.ints(1)))
    ),
}  # fmt: skip


def known_result(call: Call) -> Known | None:
    """What a node makes of known numbers; None where that is no known tensor."""
    name, given = call.node.op_type, call.given
    arrays = [x.numbers for x in given if isinstance(x, Known)]
    if not given or len(arrays) < len(given) or not isinstance(given[0], Known):
        return None
    if sum(a.size for a in arrays) > _LARGEST:
        return None
    try:
        if name == "Cast":
            return _cast(call, arrays[0])
        if name in _PAIRWISE and len(arrays) == 2:
            made = _each(_PAIRWISE[name], *arrays)
            return Known(made, DType.BOOL if name in _TO_BOOL else given[0].dtype)
        if name in _SHAPED:
            same = given[1].dtype if name == "Where" and isinstance(given[1], Known) else None
            made = _SHAPED[name](call, *arrays)
            dtype = same or given[0].dtype
            return Known.of(made, dtype) if np.size(made) <= _LARGEST else None
    except (_NotKnown, Unsupported):
        return None
    except (ValueError, IndexError, TypeError) as error:
        raise Unsupported(str(error)) from error
    return None


def _of_shape(call: Call) -> Known:
    found = call.operand(0)
    shape: tuple[Dim, ...] = found.numbers.shape if isinstance(found, Known) else found.type.shape
    if call.node.op_type == "Size":
        return Known.of(numel(shape))
    return Known.of(list(shape[call.attribute("start", 0) : call.attribute("end")]))


def _not_known(call: Call) -> Operand:
    raise Unsupported("of numbers that are computed from the model's inputs")


def made_range(call: Call) -> Operand:
    """start, start + delta, ... below limit; numbers where they are few."""
    (start,), (limit,), (delta,) = (call.numbers(i).flat for i in range(3))
    first = call.operand(0)
    dtype = first.dtype if isinstance(first, Known) else first.type.dtype
    if not any(isinstance(n, SymbolicDim) for n in (start, limit, delta)):
        count = max(0, int(np.ceil((limit - start) / delta)))
        if count <= _LARGEST:
            made = [start + i * delta for i in range(count)]
            return Known(Known.of(made, dtype).numbers.reshape(count), dtype)
    if delta != 1 or dtype is not DType.I64:
        raise Unsupported("a range of symbolic length whose step is not 1, or not of int64")
    return counted(start, limit)


def counted(start: Dim, limit: Dim) -> Value:
    if isinstance(start, SymbolicDim):
        raise Unsupported(f"a range from {start} on")
    return Iota(limit - start, start)


TABLE: dict[str, Translate] = {
    "Range": made_range,
    "ReduceProd": _not_known,
    "Shape": _of_shape,
    "Size": _of_shape,
}
"""`known_result` comes first: what is left has no known operands."""
