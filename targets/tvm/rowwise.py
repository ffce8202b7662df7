"""Kernels that go row by row do not care how rows are counted: [B, T, D] is [rows, D].

Counting them as one makes the kernels of different entries one kernel, compiled once.
"""

from __future__ import annotations

from mmc.ir.graph import Graph
from mmc.ir.op import Op, Value
from mmc.ir.ops import logic, norm, pointwise, reduce, ternary
from mmc.ir.ops.shape import Gather, Slice
from mmc.ir.ops.source import Constant, Input
from mmc.ir.types import Dim, Shape, TensorType, numel, symbol

ROWS = "rows"

_ROW_BY_ROW = (
    pointwise.Unary, pointwise.Binary, logic.Where, norm.RmsNorm, norm.RmsStatistic,
    norm.MeanSquare, norm.LayerNorm, ternary.Quantizes, ternary.Dequantize,
    ternary.TernaryMatmul, Gather, Input,
)  # fmt: skip
_LAST_AXIS = (reduce.Sum, reduce.Mean, reduce.Max, reduce.Softmax, Slice)


def flatten_rows(body: Graph) -> tuple[Graph, Dim] | None:
    """The body over [rows, D] and the number of rows, or None where it sees more than rows."""
    lead = max((v.type.shape[:-1] for v in body.values), key=len, default=())
    if not lead or not all(_is_row_by_row(op) for op in body):
        return None
    if not all(_fits(t, lead, op, body) for op in body for t in op.types):
        return None

    def step(_: Op, moved: Op) -> Value:
        if not isinstance(moved, Input):
            return moved
        if _is_table(moved, body):
            return moved
        return Input(moved.name, _flat(moved.type, lead, _is_indices(moved, body)))

    return body.map(step)[0], numel(lead)


def _is_row_by_row(op: Op) -> bool:
    if isinstance(op, _LAST_AXIS):
        return op.axis == -1 and getattr(op, "keepdims", True)
    if isinstance(op, ternary.Quantizes) and not op.positionwise:
        return False
    return isinstance(op, _ROW_BY_ROW) or (isinstance(op, Constant) and not op.type.shape)


def _is_indices(op: Op, body: Graph) -> bool:
    return any(isinstance(user, Gather) and user.indices is op for user in body.users.get(op, ()))


def _fits(type_: TensorType, lead: Shape, op: Op, body: Graph) -> bool:
    """True for [*lead, columns], for what has no rows, and for the indices of a gather [*lead]."""
    free = all(isinstance(d, int) for d in type_.shape)
    if _is_table(op, body):
        return free
    if _is_indices(op, body):
        return type_.shape == lead
    if type_.rank <= len(lead):
        return (free and type_.rank <= 1) or (type_.shape == lead and _is_indices(op, body))
    return type_.shape[:-1] == lead and type_.rank == len(lead) + 1


def _is_table(op: Op, body: Graph) -> bool:
    """True for a weight that is read as a whole, such as a table or a matrix."""
    users = body.users.get(op, ())
    whole = all(
        (isinstance(user, Gather) and user.table is op)
        or (isinstance(user, ternary.TernaryMatmul) and user.w is op)
        for user in users
    )
    return isinstance(op, Input) and bool(users) and whole


def _flat(type_: TensorType, lead: Shape, indices: bool) -> TensorType:
    rows: Shape = (symbol(ROWS),)
    if indices:
        return type_.with_shape(rows)
    if type_.rank == len(lead) + 1 and type_.shape[:-1] == lead:
        return type_.with_shape((*rows, type_.shape[-1]))
    return type_
