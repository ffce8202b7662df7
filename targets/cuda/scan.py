# pyright: basic
# Every value here is a TIR expression, which TVM does not type.
"""A recurrence over many steps, bit for bit as if it went step by step.

    h[t] = a[t] * h[t-1] + b[t]

What costs time is a and b (gates), which need no h.  So a block takes 16 columns of a sequence and
goes through the steps 128 at a time, in turns.  In turn i all its warps but the last compute a and
b of chunk i, the last one runs the recurrence through chunk i - 1, and then the others compute what
follows h there.  Bound: one multiply-add behind the other for each step.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import Any

from tvm.script.ir_builder import tirx as T

from mmc.ir.op import Value, producer
from mmc.ir.ops.recurrence import LinearRecurrence
from mmc.targets.cuda.block import Block
from mmc.targets.tvm import pointwise
from mmc.targets.tvm.expressions import Elements, Index
from mmc.targets.tvm.fold import register, serial
from mmc.targets.tvm.memory import Place, as_expression, unravel
from mmc.targets.tvm.scan import Scan
from mmc.targets.tvm.schedule import Nest

COLUMNS = 16
PLACES = 32
"""Threads for each column; each has every 32nd step."""

EACH = 4
STEPS = PLACES * EACH
_MAKERS = COLUMNS * PLACES
THREADS = _MAKERS + 32


def is_chunked(nest: Nest) -> bool:
    """Whether `write` does the nest: one linear recurrence, not along the columns."""
    if len(nest.recurrences) != 1 or not isinstance(nest.recurrences[0], LinearRecurrence):
        return False
    return nest.recurrences[0].axis != len(nest.lead) - 1


def write(
    elements: Elements, nest: Nest, stores: Sequence[tuple[Value, Place]], group: Block
) -> None:
    """The statements of a block: its index counts sequences times groups of columns."""
    e, scan = elements, Scan(elements, nest, stores)
    op: Any = nest.recurrences[0]
    blocks = T.ceildiv(as_expression(scan.columns), COLUMNS)
    sizes = [*(scan.sizes[i] for i in scan.outer), blocks]
    *outer, part = unravel(group.index, sizes) if len(sizes) > 1 else (group.index,)
    place, lane = T.truncdiv(group.thread, COLUMNS), group.thread % COLUMNS
    wanted = T.Bind(part * COLUMNS + lane)
    exists = wanted < as_expression(scan.columns)
    column = T.Bind(T.min(wanted, as_expression(scan.columns) - 1))
    steps = as_expression(scan.sizes[scan.axis])
    a, b = (T.alloc_buffer((2 * STEPS * COLUMNS,), "float32", scope="shared") for _ in range(2))
    read = _read((op.a, op.b), e.places)
    h = register("float32", 1, T.float32(0))
    with T.If(group.thread >= _MAKERS), T.Then(), e.scope():
        axes = scan.axes(outer, 0, column)
        T.buffer_store(h, e.at(op.h0, Index((*axes[: scan.axis], *axes[scan.axis + 1 :]))), [0])
    chunks = T.Bind(T.ceildiv(steps, STEPS))
    with serial(chunks + 1) as turn:
        before = T.Bind(turn - 1)
        with T.If(group.thread >= _MAKERS):
            with T.Then(), T.If(T.And(turn > 0, group.thread < _MAKERS + COLUMNS)), T.Then():
                _recur(a, b, h, before % 2 * (STEPS * COLUMNS) + lane, steps - before * STEPS)
            with T.Else(), T.If(turn * STEPS + place < steps), T.Then(), e.scope():
                at = T.Bind(turn % 2 * (STEPS * COLUMNS) + group.thread)
                # Past the last step the last one again: loads behind no condition go side by side.
                ahead = [T.min(turn * STEPS + i * PLACES + place, steps - 1) for i in range(EACH)]
                indices = [Index(scan.axes(outer, T.Bind(step), column)) for step in ahead]
                for index in indices:
                    for value in read:
                        e.operand(value, index)
                for i, index in enumerate(indices):
                    T.buffer_store(a, e.operand(op.a, index), [at + i * _MAKERS])
                    T.buffer_store(b, e.operand(op.b, index), [at + i * _MAKERS])
        T.evaluate(T.cuda.cta_sync())
        made = T.And(T.And(turn > 0, group.thread < _MAKERS), exists)
        with T.If(made), T.Then(), T.unroll(0, EACH) as i:
            step = T.Bind(before * STEPS + T.cast(i, "int64") * PLACES + place)
            with T.If(step < steps), T.Then(), e.scope():
                index = Index(scan.axes(outer, step, column))
                at = before % 2 * (STEPS * COLUMNS) + T.cast(i, "int64") * _MAKERS + group.thread
                e.remember(op.results[0], index, b[at])
                for value, target in stores:
                    target.store(index.axes, e.operand(value, index))


def _read(values: Sequence[Value], stored: Container[Value]) -> list[Value]:
    """What lies in memory and is read at the very index at which the values are computed."""
    found: dict[Value, None] = {}
    pending = list(values)
    while pending:
        value = pending.pop()
        if value not in found:
            found[value] = None
            op = producer(value)
            if value not in stored and pointwise.covers(op):
                pending += op.operands
    return [value for value in found if value in stored]


def _recur(a: Any, b: Any, h: Any, start: Any, steps: Any) -> None:
    """Run through a chunk, at most as many steps as there are; h takes the place of b."""
    with serial(T.min(T.int64(EACH), T.ceildiv(steps, PLACES))) as part:
        first = T.Bind(start + part * _MAKERS)
        with T.unroll(0, PLACES) as i:
            at = first + T.cast(i, "int64") * COLUMNS
            T.buffer_store(h, a[at] * h[0] + b[at], [0])
            T.buffer_store(b, h[0], [at])
