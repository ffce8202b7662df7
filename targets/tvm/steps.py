# pyright: basic
# Every value here is a TIR expression, which TVM does not type.
"""Kernels that go step by step: sums over a state, and scans whose body is element-wise.

    state sums   h[t] = a[t] * h[t-1] + b[t] for a state of N rows, and y[t] = sum over n of f(h[t])
                 (a selective scan: f is a product with C): h itself never lies in memory
    scan         any element-wise step, such as the weighted mean of RWKV-4: carries in registers

A task has 16 columns of one sequence over all steps, whatever the number of steps: a token alone
gets the bits that it gets within a prompt.  Bound: exp and its like where there are, else memory.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from tvm.script.ir_builder import tirx as T

from mmc.ir.graph import Graph
from mmc.ir.op import Op, Value, producer
from mmc.ir.ops.recurrence import LinearRecurrence, Scan
from mmc.ir.ops.reduce import Sum
from mmc.ir.ops.shape import Expand, Slice
from mmc.ir.ops.source import Constant, Input
from mmc.targets.tvm import pointwise, scan
from mmc.targets.tvm.elementary import Vector, hold, number
from mmc.targets.tvm.expressions import Elements, Index
from mmc.targets.tvm.fold import register, serial
from mmc.targets.tvm.host import Kernel, make_kernel
from mmc.targets.tvm.memory import COMPUTED, STORED, Place, is_one
from mmc.targets.tvm.plan import lone_op
from mmc.targets.tvm.primitives import primitive_outputs
from mmc.targets.tvm.rows import PARALLEL_WORK, symbols_of
from mmc.targets.tvm.schedule import Nest
from mmc.targets.tvm.stages import breaks_lanes, cone


def has_kernel(body: Graph) -> bool:
    """Whether the body is one of the two kinds."""
    op = lone_op(body)
    return is_element_scan(op) if isinstance(op, Scan) else _summed_recurrence(body) is not None


def emit(body: Graph, name: str) -> Kernel:
    """The kernel; its parameters are those of `mmc.targets.tvm.rows`."""
    parameters = {f"in_{i}": f"{STORED[op.type.dtype]}*" for i, op in enumerate(body.inputs)}
    parameters |= {f"out_{i}": f"{STORED[v.type.dtype]}*" for i, v in enumerate(body.values)}
    parameters |= {f"size_{symbol}": "int64" for symbol in symbols_of(body)}
    return make_kernel(name, parameters, functools.partial(_write, body))


def _write(body: Graph, *arguments: Any) -> None:
    split = len(body.inputs), len(body.inputs) + len(body.values)
    symbols = dict(zip(symbols_of(body), arguments[split[1] :], strict=True))
    places: dict[Value, Any] = {
        op: Place(buffer, op.type, symbols)
        for op, buffer in zip(body.inputs, arguments[: split[0]], strict=True)
    }
    stores = [
        (value, Place(buffer, value.type, symbols))
        for value, buffer in zip(primitive_outputs(body), arguments[slice(*split)], strict=True)
    ]
    elements = Elements(symbols, places)
    op = lone_op(body)
    if isinstance(op, Scan):
        _ElementScan(elements, op, stores).write()
        return
    recurrence = _summed_recurrence(body)
    assert recurrence is not None
    _StateSums(elements, recurrence, stores).write()


def _summed_recurrence(body: Graph) -> LinearRecurrence | None:
    """The recurrence of a body whose outputs are sums over its state, or its last step."""
    outputs = primitive_outputs(body)
    made = [producer(value) for value in cone(outputs, body.inputs)]
    found = [op for op in made if isinstance(op, LinearRecurrence)]
    sums = [op for value in outputs if isinstance(op := producer(value), Sum)]
    if len(found) != 1 or not sums:
        return None
    (h,) = found
    axis = sums[0].axis % h.type.rank
    known = (
        isinstance(h.type.shape[axis], int) and axis not in (h.axis, h.type.rank - 1)
        and all(_follows(producer(value), h, axis) for value in outputs)
        and all(
            _is_elementwise(op) or _cuts_columns(op)
            for op in made if op is not h and op not in outputs
        )
    )  # fmt: skip
    return h if known else None


def _follows(op: Op, h: LinearRecurrence, axis: int) -> bool:
    if isinstance(op, Sum):
        return op.x.type.shape == h.type.shape and op.axis % h.type.rank == axis
    return _is_last_step(op, h)


def _is_last_step(op: Op, h: LinearRecurrence) -> bool:
    """Whether the operation cuts the last step out of a recurrence."""
    last = h.type.shape[h.axis] - 1
    if not isinstance(op, Slice) or op.x is not h or op.axis != h.axis:
        return False
    return op.start == last and op.length == 1


def _cuts_columns(op: Op) -> bool:
    cuts = isinstance(op, Slice) and op.axis % op.type.rank == op.type.rank - 1
    return cuts and not breaks_lanes(op)


def _is_elementwise(op: Op) -> bool:
    if isinstance(op, Constant):
        return not op.type.shape
    return isinstance(op, Input | Expand) or pointwise.covers(op)


def is_element_scan(op: Scan) -> bool:
    """Whether each element of the carries depends on that element of the carries before alone."""
    step = op.init[0].type.shape if op.init else ()
    outputs = primitive_outputs(op.body)
    inner = [producer(value) for value in cone(outputs, op.body.inputs)]
    fits = all(value.type.shape == step for value in (*op.init, *op.body.values))
    fits = fits and all(given.type.rank <= len(step) for given in op.body.inputs)
    typed = all(t.dtype in STORED for made in inner for t in made.types)
    return bool(step) and fits and typed and all(map(_is_elementwise, inner))


class _Columns(scan.Scan):
    """Tasks of 16 columns: `column` runs them over all steps."""

    def task(self, outer: Sequence[Any], column: Any, vectors: int, lanes: int) -> None:
        for i in range(vectors):
            self.column(outer, T.Bind(column + i * lanes), lanes)

    def column(self, outer: Sequence[Any], column: Any, lanes: int) -> None:
        raise NotImplementedError

    def first(self, axes: tuple[Any, ...]) -> tuple[Any, ...]:
        """An index without its step."""
        return (*axes[: self.axis], *axes[self.axis + 1 :])


class _StateSums(_Columns):
    def __init__(
        self, elements: Elements, h: LinearRecurrence, stores: Sequence[tuple[Value, Place]]
    ) -> None:
        super().__init__(elements, Nest(h.type.shape, recurrences=(h,)), stores)
        self.h = h
        self.sums = [(op, place) for op, place in stores if isinstance(op, Sum)]
        self.lasts = [place for op, place in stores if not isinstance(op, Sum)]
        self.summed = self.sums[0][0].axis % h.type.rank
        self.rows = self.sizes[self.summed]
        self.parallel_work = PARALLEL_WORK // self.rows
        self.outer.remove(self.summed)

    def at(self, outer: Sequence[Any], step: Any, row: Any, column: Any) -> tuple[Any, ...]:
        axes = list(self.axes(outer, step, column))
        axes[self.summed] = 0 if is_one(self.shape[self.summed]) else row
        return tuple(axes)

    def column(self, outer: Sequence[Any], column: Any, lanes: int) -> None:
        e = self.elements
        state = T.alloc_buffer((self.rows * lanes,), "float32")

        def where(row: Any) -> Any:
            return row if lanes == 1 else T.ramp(row * lanes, 1, lanes)

        with serial(self.rows) as row, e.scope():
            index = Index(self.first(self.at(outer, 0, row, column)), lanes)
            T.buffer_store(state, e.at(self.h.h0, index), [where(row)])
        with serial(self.sizes[self.axis]) as step, e.scope():
            self._step(lambda row: Index(self.at(outer, step, row, column), lanes), state, where)
        for place in self.lasts:
            with serial(self.rows) as row:
                place.store(self.at(outer, 0, row, column), self._held(state, where(row), lanes))

    def _step(self, at: Any, state: Any, where: Any) -> None:
        e = self.elements
        lanes = at(0).lanes
        totals = [register("float32", lanes, number(0, "float32", lanes)) for _ in self.sums]
        with serial(self.rows) as row, e.scope():
            index = at(row)
            a, b = e.operand(self.h.a, index), e.operand(self.h.b, index)
            h = hold(a * self._held(state, where(row), lanes) + b)
            T.buffer_store(state, h, [where(row)])
            e.remember(self.h, index, h)
            for total, (op, _) in zip(totals, self.sums, strict=True):
                T.buffer_store(total, total[0] + e.operand(op.operands[0], index), [0])
        axes = at(0).axes
        for total, (op, place) in zip(totals, self.sums, strict=True):
            kept = (0,) if op.keepdims else ()
            place.store((*axes[: self.summed], *kept, *axes[self.summed + 1 :]), total[0])

    def _held(self, state: Any, where: Any, lanes: int) -> Vector:
        return hold(state.vload([where if lanes == 1 else where.base], _type("float32", lanes)))


class _ElementScan(_Columns):
    def __init__(self, elements: Elements, op: Scan, stores: Sequence[tuple[Value, Place]]) -> None:
        time = op.xs[0].type.shape[op.axis]
        step = op.init[0].type.shape
        shape = (*step[: op.axis], time, *step[op.axis :])
        super().__init__(elements, Nest(shape, recurrences=(op,)), stores, PARALLEL_WORK)
        self.op = op
        self.results = {value: n for n, value in enumerate(op.results)}

    def column(self, outer: Sequence[Any], column: Any, lanes: int) -> None:
        e, op = self.elements, self.op
        first = self.first(self.axes(outer, 0, column))
        with e.scope():
            carries = [
                register(
                    COMPUTED[value.type.dtype], lanes, e.operand(value, Index(first, lanes))
                )
                for value in op.init
            ]  # fmt: skip
        with serial(self.sizes[self.axis]) as step, e.scope():
            made = self._step(first, step, lanes, carries)
            axes = self.axes(outer, step, column)
            for value, place in self.stores:
                n = self.results[value]
                if n >= len(carries):
                    place.store(axes, made[n])
            for carry, new in zip(carries, made, strict=False):
                T.buffer_store(carry, new, [0])
        for value, place in self.stores:
            n = self.results[value]
            if n < len(carries):
                place.store(first, carries[n][0])

    def _step(
        self, first: tuple[Any, ...], step: Any, lanes: int, carries: Sequence[Any]
    ) -> list[Vector]:
        """What the body returns; the carries are read before any of them is written."""
        e, op = self.elements, self.op
        inner = Elements(e.symbols, {})
        n, steps = len(op.init), len(op.xs)
        names = op.body.inputs
        for name, carry in zip(names[:n], carries, strict=True):
            dtype = COMPUTED[name.type.dtype]
            inner.remember(name, Index(first, lanes), register(dtype, lanes, carry[0])[0])
        for name, x in zip(names[n : n + steps], op.xs, strict=True):
            at = _broadcast(name, first, lanes)
            axes = (*at.axes[: self.axis], step, *at.axes[self.axis :])
            inner.remember(name, at, e.at(x, Index(axes, at.lanes)))
        for name, x in zip(names[n + steps :], op.captured, strict=True):
            at = _broadcast(name, first, lanes)
            inner.remember(name, at, e.at(x, at))
        return [inner.operand(v, Index(first, lanes)) for v in primitive_outputs(op.body)]


def _broadcast(value: Value, axes: tuple[Any, ...], lanes: int) -> Index:
    """Where broadcasting finds what is paired with an index."""
    shape = value.type.shape
    paired = axes[len(axes) - len(shape) :]
    paired = tuple(0 if is_one(dim) else axis for dim, axis in zip(shape, paired, strict=True))
    return Index(paired, 1 if not shape or is_one(shape[-1]) else lanes)


def _type(dtype: str, lanes: int) -> str:
    return dtype if lanes == 1 else f"{dtype}x{lanes}"
