"""The forms in which gates of an MLGRU come, for passes that treat a gate as a whole."""

from __future__ import annotations

from mmc.ir.op import Value
from mmc.ir.ops.pointwise import Add, Mul, Sigmoid, Sub
from mmc.ir.ops.recurrence import LinearRecurrence
from mmc.ir.ops.source import Constant, Weight


def let_in(op: LinearRecurrence) -> Value | None:
    """c of h = f * h + c * (1 - f): a mean of what went in; None for another recurrence."""
    if not isinstance(op.b, Mul):
        return None
    for c, rest in ((op.b.x, op.b.y), (op.b.y, op.b.x)):
        if isinstance(rest, Sub) and rest.y is op.a and isinstance(rest.x, Constant):
            return c if rest.x.value == 1 else None
    return None


def bounded_gate(op: Add) -> tuple[Weight, Weight, Value] | None:
    """(bound, share, gate) of bound + share * gate, the first two weights."""
    for bound, gated in ((op.x, op.y), (op.y, op.x)):
        if isinstance(bound, Weight) and isinstance(gated, Mul):
            for share, gate in ((gated.x, gated.y), (gated.y, gated.x)):
                if isinstance(share, Weight):
                    return bound, share, gate
    return None


def times_silu(op: Mul) -> tuple[Value, Value] | None:
    """(p, h) of (p * h) * sigmoid(h)."""
    for pair, gate in ((op.x, op.y), (op.y, op.x)):
        if isinstance(pair, Mul) and isinstance(gate, Sigmoid):
            rest = [v for v in (pair.x, pair.y) if v is not gate.x]
            if len(rest) == 1:
                return rest[0], gate.x
    return None
