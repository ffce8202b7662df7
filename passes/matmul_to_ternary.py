"""The rewrite this compiler exists for: MatMul to additions and subtractions of int8 activations.

(s_x q) . (s_w t) = s_x s_w (q . t), and q . t adds, subtracts or skips int8 numbers: int32, exact.
(arXiv:2406.02528, section 3.1.)
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import reduce

from mmc.ir.graph import Graph
from mmc.ir.op import Op, Value
from mmc.ir.ops.linear import Linear, Matmul
from mmc.ir.ops.pointwise import Add, Cast, Mul
from mmc.ir.ops.shape import Reshape, Slice
from mmc.ir.ops.ternary import Dequantize, ExpandTernary, TernaryMatmul
from mmc.ir.types import DType, static_shape
from mmc.passes.rewrite import Bindings, rule_for, rule_if


def _scale_outside_sum(found: Bindings) -> bool:
    """One scale for the tensor or one a row leaves the sum over columns; one a group does not."""
    return found["scale"].type.rank <= 1


def _int8(found: Bindings) -> bool:
    return found["q"].type.dtype is DType.I8 and _scale_outside_sum(found)


@rule_if(_scale_outside_sum)
def ternary_linear(q: Value, s: Value, t: Value, scale: Value) -> tuple[Value, Value]:
    """Both scales come out of the sum: what is left adds and subtracts integers."""
    layer = Linear(Dequantize(q, s), ExpandTernary(t, scale))
    return layer >> Dequantize(TernaryMatmul(q, t), s, scale)


@rule_if(_scale_outside_sum)
def ternary_linear_bias(
    q: Value, s: Value, t: Value, scale: Value, bias: Value
) -> tuple[Value, Value]:
    """The bias is added after both scales, as it was."""
    layer = Linear(Dequantize(q, s), ExpandTernary(t, scale), bias)
    return layer >> Add(Dequantize(TernaryMatmul(q, t), s, scale), bias)


@rule_if(_int8)
def ternary_linear_deferred(q: Value, t: Value, scale: Value) -> tuple[Value, Value]:
    """The layer sums integers as they are and its readers apply the step of the activations."""
    layer = Linear(Cast(q, DType.F32), ExpandTernary(t, scale))
    return layer >> Mul(Cast(TernaryMatmul(q, t), DType.F32), scale)


@rule_if(_int8)
def ternary_linear_deferred_bias(
    q: Value, t: Value, scale: Value, bias: Value
) -> tuple[Value, Value]:
    """The bias enters before the step of the activations is applied, and stays there."""
    layer = Linear(Cast(q, DType.F32), ExpandTernary(t, scale), bias)
    return layer >> Add(Mul(Cast(TernaryMatmul(q, t), DType.F32), scale), bias)


@rule_if(lambda found: found["q"].type.dtype is DType.I8 and found["t"].type.dtype.is_ternary)
def ternary_linear_of_integers(q: Value, t: Value) -> tuple[Value, Value]:
    """The layer was written with integers: its sum is the same one."""
    return Linear(Cast(q, DType.I32), Cast(t, DType.I32)) >> TernaryMatmul(q, t)


@rule_for(Linear)
def ternary_linear_groups(layer: Linear) -> Value | None:
    """One scale a group of columns: exact sums for each group, added in the order of the groups."""
    q, w = _integers(layer.x), layer.w
    if not isinstance(w, ExpandTernary) or w.scale.type.rank != 2 or q is None:
        return None
    rows, groups = static_shape(w.scale.type.shape)
    size = static_shape(w.t.type.shape)[1] // groups
    parts: list[Value] = []
    for g in range(groups):
        sums = TernaryMatmul(Slice(q, -1, g * size, size), Slice(w.t, 1, g * size, size))
        scale = Reshape(Slice(w.scale, 1, g, 1), (rows,))
        deferred = Mul(Cast(sums, DType.F32), scale)
        step = layer.x.s if isinstance(layer.x, Dequantize) else None
        parts.append(deferred if step is None else Dequantize(sums, step, scale))
    return reduce(Add, [*parts, layer.bias] if layer.bias is not None else parts)


def _integers(x: Value) -> Value | None:
    """The int8 activations that a layer reads with their step, or with the step left to later."""
    if isinstance(x, Dequantize) and x.w is None:
        return x.q
    return x.x if isinstance(x, Cast) and x.x.type.dtype is DType.I8 else None


def _is_dequantised(found: Bindings) -> bool:
    """One step a row, one scale a tensor or column, and an exact sum."""
    q, s, w = (found[name].type for name in ("q", "s", "w"))
    rows = s.rank == q.rank and s.shape[-1:] == (1,) and s.dtype is w.dtype is DType.F32
    return q.dtype is DType.I32 and rows and w.shape in ((), q.shape[-1:])


@rule_if(_is_dequantised)
def dequantised(q: Value, s: Value, w: Value) -> tuple[Value, Value]:
    """An exact sum times both scales."""
    return Mul(Cast(q, DType.F32), Mul(s, w)) >> Dequantize(q, s, w)


RULES = (
    ternary_linear_groups, ternary_linear, ternary_linear_bias, ternary_linear_deferred,
    ternary_linear_deferred_bias, ternary_linear_of_integers, dequantised,
)  # fmt: skip


def leftovers(graph: Graph) -> Iterator[tuple[Op, str]]:
    for op in graph:
        if isinstance(op, Linear):
            yield op, why_dense(op)
        elif isinstance(op, Matmul):
            yield op, "a product of two activations: dense"


def why_dense(op: Linear) -> str:
    """Why a linear layer is still a MatMul."""
    if not isinstance(op.w, ExpandTernary):
        return "dense weights"
    return "ternary weights, but its input is not quantised to int8 (W1.58A16): kept dense"
