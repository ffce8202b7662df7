"""Affine analysis of a scan's body: is the new state a * h + b, element by element.

Walks the body once, from the inputs to the outputs, and keeps for each value that depends on the
state the pair (a, b) with value = a * h + b, where neither depends on the state; or the reason
why there is none.
"""

from __future__ import annotations

from dataclasses import dataclass

from mmc.ir.graph import Graph
from mmc.ir.op import Op, Value
from mmc.ir.ops.linear import Linear, Matmul
from mmc.ir.ops.logic import Where
from mmc.ir.ops.pointwise import Add, Cast, Detach, Div, Mul, Neg, Sub
from mmc.ir.ops.reduce import CumSum, Mean, Sum
from mmc.ir.ops.shape import Concat, Expand, Pad, Permute, Reshape, Slice
from mmc.ir.ops.source import scalar
from mmc.ir.types import DType

LINEAR = (Add, Sub, Neg, Where, Detach, Cast)
MIXING = (Linear, Matmul, Sum, Mean, CumSum, Reshape, Permute, Expand, Slice, Concat, Pad)


@dataclass(frozen=True)
class Affine:
    """value = a * h + b; None stands for one (a) and zero (b)."""

    a: Value | None
    b: Value | None


@dataclass(frozen=True)
class NotAffine:
    """`kind` is "dense" or "nonlinear"; `why` names the operation that breaks it."""

    kind: str
    why: str


Class = Affine | NotAffine | None  # None: independent of the state


def analyse(body: Graph, state: Value) -> dict[Value, Class]:
    """The class of every value of the body with respect to one of its inputs."""
    classes: dict[Value, Class] = {state: Affine(None, None)}
    for op in body:
        if op is state:
            continue
        touched = [v for v in op.operands if classes.get(v) is not None]
        verdict = None if not touched else _broken(op, touched, classes) or _combine(op, classes)
        for result in op.results:
            classes[result] = verdict
    return classes


def _broken(op: Op, touched: list[Value], classes: dict[Value, Class]) -> NotAffine | None:
    """What an operand has broken already; what a matrix mixed may still be squashed."""
    found = [c for v in touched if isinstance(c := classes[v], NotAffine)]
    nonlinear = next((c for c in found if c.kind == "nonlinear"), None)
    if nonlinear is not None or not found:
        return nonlinear
    scaled = isinstance(op, Mul) and len(touched) == 1
    scaled = scaled or (isinstance(op, Div) and classes.get(op.y) is None)
    linear = scaled or isinstance(op, (*LINEAR, *MIXING))
    return found[0] if linear else NotAffine("nonlinear", f"nonlinear: {_named(op)} of the state")


def _combine(op: Op, classes: dict[Value, Class]) -> Class:
    """The class of an operation that reads the state; its operands are affine or independent."""
    match op:
        case Add(x, y):
            return _sum(_affine(x, classes), _affine(y, classes))
        case Sub(x, y):
            return _sum(_affine(x, classes), _negated(_affine(y, classes)))
        case Neg(x):
            return _negated(_affine(x, classes))
        case Mul(x, y) if classes.get(x) is None:
            return _scaled(_affine(y, classes), x)
        case Mul(x, y) if classes.get(y) is None:
            return _scaled(_affine(x, classes), y)
        case Div(x, y) if classes.get(y) is None:
            return _scaled(_affine(x, classes), Div(scalar(1.0), y))
        case Where(condition, x, y) if classes.get(condition) is None:
            return _chosen(condition, _affine(x, classes), _affine(y, classes))
        case Detach(x) | Cast(x, DType.F32) if x.type.dtype is DType.F32:
            return classes[x]
        case _ if isinstance(op, MIXING):
            return NotAffine("dense", f"dense: {_named(op)} mixes the elements of the state")
        case Mul() | Div():
            return NotAffine("nonlinear", f"nonlinear: {_named(op)} of the state with itself")
        case _:
            return NotAffine("nonlinear", f"nonlinear: {_named(op)} of the state")


def _named(op: Op) -> str:
    return f"{op.mnemonic} at {op.origin}" if op.origin else op.mnemonic


def _affine(value: Value, classes: dict[Value, Class]) -> Affine:
    found = classes.get(value)
    return found if isinstance(found, Affine) else Affine(scalar(0.0), value)


def _is_zero(value: Value | None) -> bool:
    return value is scalar(0.0)


def _plus(x: Value | None, y: Value | None, none: float) -> Value | None:
    """X + y where None stands for `none`."""
    if none == 0.0 and (x is None or y is None):
        return x if y is None else y
    if _is_zero(x):
        return y
    if _is_zero(y):
        return x
    return Add(scalar(none) if x is None else x, scalar(none) if y is None else y)


def _sum(x: Affine, y: Affine) -> Affine:
    return Affine(_plus(x.a, y.a, 1.0), _plus(x.b, y.b, 0.0))


def _negated(x: Affine) -> Affine:
    a = scalar(-1.0) if x.a is None else x.a if _is_zero(x.a) else Neg(x.a)
    return Affine(a, None if x.b is None else Neg(x.b))


def _scaled(x: Affine, by: Value) -> Affine:
    a = by if x.a is None else x.a if _is_zero(x.a) else Mul(by, x.a)
    return Affine(a, None if x.b is None else Mul(by, x.b))


def _chosen(condition: Value, x: Affine, y: Affine) -> Affine:
    a = Where(condition, _or(x.a, 1.0), _or(y.a, 1.0))
    return Affine(a, Where(condition, _or(x.b, 0.0), _or(y.b, 0.0)))


def _or(value: Value | None, none: float) -> Value:
    return scalar(none) if value is None else value
