"""What of a row's program can be computed where the sums of its matrices are made.

A block that has multiplied some columns of a row has all that pointwise operations on these columns
need: dequantisation, gates, a step of a recurrence, an activation, a residual.  They end where the
first reduction over the row begins; from there on every block needs the whole row.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from mmc.ir.op import Value, producer
from mmc.ir.ops.shape import Slice
from mmc.ir.ops.source import Input
from mmc.ir.packing import TILE_ROWS
from mmc.ir.types import DType
from mmc.targets.tvm import pointwise
from mmc.targets.tvm.stages import CHEAP, Plan, cone, is_row_scalar


@dataclass(frozen=True)
class Part:
    """The sums of an input of the row's program from column `start` on, as an input of its own."""

    sums: Value
    start: int
    value: Input


@dataclass(frozen=True)
class Epilogue:
    """`made[i]` is `cut[i]`, a value of the row's program, over `parts` of the sums.

    All have `columns` columns, and column n of each needs column n of the parts alone.
    """

    parts: tuple[Part, ...]
    cut: tuple[Value, ...]
    made: tuple[Value, ...]
    columns: int


def split(
    inputs: Sequence[Input], outputs: Sequence[Value], sums: Collection[Value]
) -> Epilogue | None:
    """Cut a row's program; None where its sums are needed in another way than column by column."""
    cut = _cut(inputs, outputs, sums)
    widths = {value.type.shape[-1] for value in cut if value.type.shape}
    if len(widths) != 1 or any(v.type.dtype is not DType.F32 or is_row_scalar(v) for v in cut):
        return None
    (columns,) = widths
    if not isinstance(columns, int) or columns % TILE_ROWS:
        return None
    parts: dict[tuple[Value, int], Part] = {}
    made = [_moved(value, 0, columns, set(inputs), sums, parts) for value in cut]
    if any(value is None for value in made) or not _covered(sums, columns, parts):
        return None
    return Epilogue(tuple(parts.values()), cut, tuple(v for v in made if v is not None), columns)


def _cut(
    inputs: Sequence[Input], outputs: Sequence[Value], sums: Collection[Value]
) -> tuple[Value, ...]:
    """The values that no reduction comes before, but are needed behind one or are outputs.

    First what is soonest made; what others give with few instructions is left out.
    """
    levels = Plan(set(inputs), outputs, cheap=0, rereads=False).levels
    ready = {v for v, level in levels.items() if level == 0 and _needs(v, inputs, sums)}
    found = {v: None for v in outputs if v in ready}
    for value, level in levels.items():
        if level and value not in inputs:
            found |= {x: None for x in producer(value).operands if x in ready}
    cut: list[Value] = []
    for value in sorted(found, key=lambda x: len(list(cone([x], set(inputs))))):
        at_hand = {*inputs, *cut}
        if value in outputs or _needs(value, at_hand, sums) or Plan.cost(value, at_hand) > CHEAP:
            cut.append(value)
    return tuple(cut)


def _needs(value: Value, inputs: Collection[Value], sums: Collection[Value]) -> bool:
    return any(v in sums for v in cone([value], set(inputs)))


def _moved(
    value: Value, start: int, columns: int, inputs: Collection[Value], sums: Collection[Value],
    parts: dict[tuple[Value, int], Part],
) -> Value | None:  # fmt: skip
    """The columns of a value from `start` on, over parts of the sums; None where that is no way."""
    if is_row_scalar(value):
        return None if _needs(value, inputs, sums) else value
    if value in sums:
        if (value, start) not in parts:
            type_ = value.type.with_shape((*value.type.shape[:-1], columns))
            parts[value, start] = Part(value, start, Input(f"part_{len(parts)}", type_))
        return parts[value, start].value
    if value in inputs:
        return value if start == 0 and value.type.shape[-1] == columns else None
    op = producer(value)
    if isinstance(op, Slice) and _is_of_columns(op) and isinstance(op.start, int):
        return _moved(op.x, start + op.start, columns, inputs, sums, parts)
    if not pointwise.covers(op):
        return None
    moved = {x: _moved(x, start, columns, inputs, sums, parts) for x in op.operands}
    if any(x is None for x in moved.values()):
        return None
    return op.rebuild(lambda x: moved[x] or x).results[0]


def _is_of_columns(op: Slice) -> bool:
    return op.axis in (-1, op.type.rank - 1) and op.step == 1


def _covered(sums: Collection[Value], columns: int, parts: dict[tuple[Value, int], Part]) -> bool:
    """Whether every column of the sums is in one part."""
    for value in sums:
        starts = sorted(start for x, start in parts if x is value)
        if starts != [columns * i for i in range(len(starts))]:
            return False
        if value.type.shape[-1] != columns * len(starts):
            return False
    return True
