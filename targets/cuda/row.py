# pyright: basic
# Every value here is a TIR expression, which TVM does not type.
"""One row by the threads of a block, stage by stage (`mmc.targets.tvm.stages`).

A thread has the columns thread, thread + threads, ...: in every stage the same, so that what a
later stage needs again stays in its registers.  Only what is read at other columns is kept in
shared memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tvm.script.ir_builder import tirx as T

from mmc.errors import MmcError
from mmc.ir.op import Op, Value, producer
from mmc.ir.ops.linear import Linear
from mmc.ir.ops.pointwise import Cast, Clamp, Round
from mmc.ir.ops.shape import Concat, Pad, Slice
from mmc.ir.types import DType, TensorType
from mmc.targets.cuda.block import Block, agreed
from mmc.targets.cuda.code import call
from mmc.targets.tvm import elementary, pointwise
from mmc.targets.tvm.elementary import hold
from mmc.targets.tvm.expressions import Elements, Index, Kept, scratch_type
from mmc.targets.tvm.fold import Fold, serial
from mmc.targets.tvm.memory import COMPUTED, STORED, Place, as_expression, size_of, unravel
from mmc.targets.tvm.schedule import Nest, row_maximum_behind
from mmc.targets.tvm.stages import Plan, cone, is_costly, is_row_reduction, is_row_scalar

MOST_SHARED = 40 << 10
"""Bytes of shared memory for a row: a block has 48 KiB for all that it shares."""


@dataclass
class Registers:
    """A kept value in a thread's registers, by step; `step` is the one of the loop around."""

    buffer: Any
    type: TensorType
    step: Any = None

    def load(self, axes: Sequence[Any], lanes: int) -> Any:
        return hold(self.buffer[self.step])

    def store(self, axes: Sequence[Any], value: Any) -> None:
        T.buffer_store(self.buffer, value, [self.step])


def axes_of(value: Value, axes: Sequence[Any]) -> tuple[Any, ...]:
    """The part of an index that a value has."""
    found = tuple(axes[len(axes) - value.type.rank :])
    return (*found[:-1], 0) if found and is_row_scalar(value) else found


def product(sizes: Sequence[Any]) -> Any:
    total: Any = T.int64(1)
    for size in sizes:
        total = total * size
    return total


def whole_maximum(e: Elements, nest: Nest, group: Block) -> Place:
    """The maximum over a whole tensor; every block computes it again."""
    assert nest.total is not None
    op = producer(row_maximum_behind(nest.total))
    fold = Fold(op, 1)
    lead, x = e.sizes(nest.lead), op.operands[0]
    size = e.size(x, -1)
    with serial(product(lead)) as row, serial(group.steps(size)) as step:
        column = group.column(step)
        with group.inside(column, size), e.scope():
            fold.add(e.operand(x, Index((*unravel(row, lead), column), 1, True)), column)
    total = T.alloc_buffer((1,), "float32", scope="local")
    T.buffer_store(total, agreed([fold], size, group)[0], [0])
    return Place(total, nest.total.type, e.symbols)


def is_read_elsewhere(plan: Plan, value: Value) -> bool:
    """Whether some operation reads the value at another column than its own."""
    for v in plan.levels:
        op = producer(v)
        moves = v not in plan.stored and isinstance(op, Slice | Concat | Pad | Linear)
        if moves and value in set(cone(op.operands, plan.stored)):
            return True
    return False


def element(e: Elements, value: Value, index: Index) -> Any:
    """An element; that of a quantiser as int32.

    The conversion to int8 rounds and clamps in one instruction; other bounds are those of what is
    rounded as well, for they are integers.
    """
    match producer(value):
        case Cast(dtype=DType.I8, x=Clamp(x=Round(mode="half_away") as whole) as clamp):
            if float(clamp.low or 0).is_integer() and float(clamp.high or 0).is_integer():
                x = e.operand(whole.x, index)
                if (clamp.low, clamp.high) != (-128, 127):
                    x = elementary.clamp(x, clamp.low, clamp.high)
                return hold(call("mmc_round_to_int8", "int32", x))
    return e.operand(value, index)


class Row:
    """The stages of a row; `stores` says where each output goes.

    late: stored values that other blocks may be making still, in registers that `look` fills with
    what is there, and `settle` with the rest.  meanwhile: what can be done before they are there.
    """

    def __init__(
        self, elements: Elements, plan: Plan, stores: Sequence[tuple[Value, Any]], group: Block,
        late: Mapping[Value, Any] | None = None, meanwhile: Callable[[], None] = lambda: None,
    ) -> None:  # fmt: skip
        self.elements, self.plan, self.stores, self.group = elements, plan, stores, group
        self.late, self.meanwhile = late or {}, meanwhile
        self._depths: dict[Value, int] = {}

    def write(self, lead: tuple[Any, ...], scalars: Sequence[Value] = ()) -> list[Any]:
        """The row at these leading axes; returns numbers of it."""
        e, plan = self.elements, self.plan
        e.kept = {v: Kept(self._kept(v), stage) for v, stage in plan.kept.items()}
        e.stage = 0
        for value, place in [(v, self._in_registers(v, lead)) for v in self._preloaded()]:
            e.places[value] = place
        self._await()
        places = dict(self.stores)
        e.kept |= {value: Kept(places[value], stage) for value, stage in plan.read_back.items()}
        with e.scope():
            for stage in range(plan.stages):
                if stage and any(not isinstance(k.place, Registers) for k in e.kept.values()):
                    self.group.sync()
                for place in self._first_read(stage) if stage else ():
                    place.settle()
                self._stage(stage, lead)
            return [e.operand(value, Index((*lead, 0), 1, True)) for value in scalars]

    def _await(self) -> None:
        """Wait for what the first stage reads; what others read is asked for meanwhile."""
        later = [x for stage in range(1, self.plan.stages) for x in self._first_read(stage)]
        for place in self._first_read(0):
            place.look()
        self.meanwhile()
        for place in self._first_read(0):
            place.settle()
        for place in later:
            place.look()

    def _first_read(self, stage: int) -> list[Any]:
        """The late values that no earlier stage reads."""
        read = [
            {v for v in cone(self.plan.values_of(i), self.plan.stored) if v in self.late}
            for i in range(stage + 1)
        ]
        return [self.late[v] for v in self.late if v in read[stage].difference(*read[:stage])]

    def _preloaded(self) -> list[Value]:
        """What is cheap and comes from memory alone, but is read where time passes: loaded first.

        Behind a division or a reduction each load would wait for memory again.
        """
        plan = self.plan
        readers: dict[Value, list[Op]] = {}
        for op in (producer(v) for v in plan.levels if v not in plan.stored):
            for operand in op.operands:
                readers.setdefault(operand, []).append(op)
        heavy: set[Value] = set(self.late)
        for value in sorted(plan.levels, key=self._depth):
            op = producer(value)
            if value not in plan.stored and (
                plan.levels[value] or is_costly(op) or heavy.intersection(op.operands)
            ):
                heavy.add(value)
        return [
            v for v, ops in readers.items()
            if v not in heavy and not is_row_scalar(v) and isinstance(v.type.shape[-1], int)
            and any(x in heavy for op in ops for x in op.results)
            and all(pointwise.covers(op) or is_row_reduction(op) for op in ops)
        ]  # fmt: skip

    def _depth(self, value: Value) -> int:
        """How many operations lie between a value and memory."""
        if value not in self._depths:
            operands = () if value in self.plan.stored else producer(value).operands
            self._depths[value] = 1 + max(map(self._depth, operands), default=0)
        return self._depths[value]

    def _in_registers(self, value: Value, lead: tuple[Any, ...]) -> Registers:
        size = value.type.shape[-1]
        steps, dtype = self.group.steps(size), COMPUTED[value.type.dtype]
        buffer = T.alloc_buffer((steps,), dtype, scope="local")
        with self.group.loop(size) as step:
            column = self.group.column(step)
            with self.group.inside(column, size), self.elements.scope():
                axes = axes_of(value, (*lead, column))
                T.buffer_store(buffer, self.elements.at(value, Index(axes, 1, True)), [step])
        return Registers(buffer, scratch_type(value))

    def _kept(self, value: Value) -> Any:
        (columns,) = value.type.shape[-1:]
        if is_read_elsewhere(self.plan, value):
            if not isinstance(columns, int) or columns * 4 > MOST_SHARED:
                raise MmcError(
                    f"a row of {columns} columns is too wide to be read out of order on a GPU",
                    hint="`--target cpu` runs it",
                )
            buffer = T.alloc_buffer((columns,), STORED[value.type.dtype], scope="shared")
            return Place(buffer, scratch_type(value), self.elements.symbols)
        steps = self.group.steps(columns)
        buffer = T.alloc_buffer((steps,), COMPUTED[value.type.dtype], scope="local")
        return Registers(buffer, scratch_type(value))

    def _stage(self, stage: int, lead: tuple[Any, ...]) -> None:
        e, plan = self.elements, self.plan
        e.stage = stage
        for value in plan.scalars_before(stage):
            e.operand(value, Index((*lead, 0), 1, True))
        widths: dict[Any, list[Value]] = {}
        for value in plan.values_of(stage):
            widths.setdefault(value.type.shape[-1] if value.type.shape else 1, []).append(value)
        for columns, values in widths.items():
            self._columns(stage, lead, size_of(columns, e.symbols), values)

    def _columns(
        self, stage: int, lead: tuple[Any, ...], size: Any, values: Sequence[Value]
    ) -> None:
        """Compute `values`, store, keep and reduce them."""
        e, plan, group = self.elements, self.plan, self.group
        stores = [(v, p) for v, p in self.stores if v in values and plan.levels[v] == stage]
        keeps = [(v, e.kept[v].place) for v, s in plan.kept.items() if v in values and s == stage]
        reduced = [op for op in plan.reductions_in(stage) if op.operands[0] in values]
        folds = [group.fold(op, size) for op in reduced]
        with group.loop(size) as step:
            for place in (*(kept.place for kept in e.kept.values()), *e.places.values()):
                if isinstance(place, Registers):
                    place.step = step
            column = group.column(step)
            with group.inside(column, size), e.scope():
                axes = (*lead, column)
                index = Index(axes, 1, True)
                made = {value: element(e, value, index) for value in values}
                for value, place in stores:
                    place.store(axes_of(value, axes), made[value])
                for value, place in keeps:
                    place.store((column,), made[value])
                for fold in folds:
                    fold.add(made[fold.op.operands[0]], column, step % fold.parts)
        for _, place in stores:
            if place.type.dtype is DType.I8:
                self._fill_pad(place, lead)
        for fold, result in zip(folds, agreed(folds, size, group), strict=True):
            e.reduced[fold.op] = result

    def _fill_pad(self, place: Any, lead: tuple[Any, ...]) -> None:
        group = self.group
        pad = place.stride - place.columns
        if isinstance(pad, int) and pad == 0:
            return
        with serial(group.steps(pad)) as step:
            column = group.column(step)
            with T.If(column < as_expression(pad)), T.Then():
                place.store((*lead, column + place.columns), T.int8(0))
