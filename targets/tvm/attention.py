# pyright: basic
# Every value here is a TIR expression, which TVM does not type.
"""Attention on a CPU: appending to a cache in place, and the weighted sum over what it holds.

A task has some positions of the heads that share a group.  It goes over the cache in blocks of
`BLOCK` positions, which stay near while each of its rows reads them, and keeps for a row

    top     the largest score so far         total   sum of exp(score - top)
    sums    sum of exp(score - top) * value

to which a new block is added after the old ones were scaled by exp(old top - top) (the online
softmax of arXiv:1805.02867, as FlashAttention uses it).  A row's blocks begin at position 0 and end
with its own position, whatever the other rows do: a token alone gets the bits that it gets within
a prompt.  Codes of 8 bits are widened as they are read.  Bound: reading the cache where there is
one token, arithmetic in a prompt.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tvm.script.ir_builder import tirx as T

from mmc.ir.graph import Graph
from mmc.ir.op import Op, Value
from mmc.ir.ops.attention import ZERO, Attention, AttentionCodes, CacheAppend
from mmc.ir.ops.source import Input
from mmc.ir.types import DType, SymbolicDim, static_shape
from mmc.targets.tvm.elementary import convert, exp, hold, number, spread
from mmc.targets.tvm.fold import LANES, for_columns, lane_total, register, serial
from mmc.targets.tvm.host import Kernel, make_kernel
from mmc.targets.tvm.memory import STORED, Place, as_expression, size_of
from mmc.targets.tvm.plan import lone_op

BLOCK = 64
"""Positions of the cache that are scored together."""

TILE = 16
"""Positions of a prompt in a task."""

PARALLEL_WORK = 1 << 18
"""Multiplications below which starting the threads costs more than it saves."""


def has_kernel(body: Graph) -> bool:
    """Whether the body is one operation that has a kernel here, over floats."""
    op = lone_op(body)
    if isinstance(op, AttentionCodes):
        return False  # a target that has it lists the module `attention_codes`
    if isinstance(op, CacheAppend) and op.type.dtype is DType.I8:
        return False  # the rows of int8 tensors are padded
    return op is not None and type(op) in _WRITE and all(isinstance(v, Input) for v in op.operands)


def emit(body: Graph, name: str) -> Kernel:
    """The kernel of a body of one operation.

    Parameters: a pointer per input of the body, one for the result, an int64 per symbol, by name;
    `cache_append` takes one more int64, which is 0 where the result lies where the cache lay.
    """
    op = lone_op(body)
    assert op is not None
    parameters = {f"in_{i}": f"{STORED[x.type.dtype]}*" for i, x in enumerate(body.inputs)}
    parameters["out"] = f"{STORED[op.types[0].dtype]}*"
    parameters |= {f"size_{symbol}": "int64" for symbol in _symbols(body)}
    appends = isinstance(op, CacheAppend)
    if appends:
        parameters["moves"] = "int64"
    write = functools.partial(_write, op, body)
    return make_kernel(name, parameters, write, noalias=not appends)


def _symbols(body: Graph) -> list[str]:
    dims = (dim for x in body.inputs for dim in x.type.shape if isinstance(dim, SymbolicDim))
    return sorted({name for dim in dims for name in dim.symbols})


def _write(op: Op, body: Graph, *arguments: Any) -> None:
    """Split the arguments of a kernel and write it."""
    count, names = len(body.inputs), _symbols(body)
    symbols = dict(zip(names, arguments[count + 1 :], strict=False))
    places = {
        x: Place(buffer, x.type, symbols)
        for x, buffer in zip(body.inputs, arguments[:count], strict=True)
    }
    out = Place(arguments[count], op.types[0], symbols)
    _WRITE[type(op)](op, places, out, *arguments[count + 1 + len(names) :])


def _append(op: CacheAppend, places: Mapping[Any, Place], out: Place, moves: Any) -> None:
    """Copy the new rows, and what was in the cache where the result lies elsewhere."""
    x, cache = places[op.x], places[op.cache]
    sequences = size_of(op.type.shape[0], out.symbols)
    groups, held, width = static_shape(op.type.shape[1:])
    with T.If(moves != 0), T.Then(), serial(sequences) as b, serial(groups) as g, serial(held) as s:
        _copy(cache, (b, g, s), out, (b, g, s), width)
    with serial(sequences) as b:
        start = T.Bind(places[op.position].load((b,), 1))
        given = size_of(op.x.type.shape[1], x.symbols)
        new = T.Bind(T.min(places[op.lengths].load((b,), 1), as_expression(given)))
        with serial(new) as t, serial(groups) as g, T.If(_within(start + t, held)), T.Then():
            _copy(x, (b, t, g), out, (b, g, start + t), width)


def _within(position: Any, held: int) -> Any:
    return T.And(position >= 0, position < held)


def _copy(
    source: Place, at: tuple[Any, ...], to: Place, where: tuple[Any, ...], width: int
) -> None:
    def columns(lanes: int) -> Callable[[Any], None]:
        return lambda c: to.store((*where, c), source.load((*at, c), lanes))

    for_columns(width, columns(LANES), columns(1))


def _attention(op: Attention, places: Mapping[Any, Place], out: Place) -> None:
    _run_tasks(_Work(op, places, out, op.keys, op.values))


def _attention_codes(op: AttentionCodes, places: Mapping[Any, Place], out: Place) -> None:
    _run_tasks(_CodeWork(op, places, out, op.key_codes, op.value_codes))


def _run_tasks(work: _Work) -> None:
    """The tasks: tiles of positions of each group of each sequence."""
    op, places, out = work.op, work.places, work.out
    sequences, steps = (as_expression(size_of(n, out.symbols)) for n in op.type.shape[:2])
    groups = T.int64(work.groups)
    tiles = T.Bind(T.ceildiv(steps, TILE))
    tasks = T.Bind(sequences * groups * tiles)

    def task(index: Any) -> None:
        pair = T.Bind(T.truncdiv(index, tiles))
        first = T.Bind(T.truncmod(index, tiles) * TILE)
        last = T.Bind(T.min(first + TILE, steps))
        work.task(T.truncdiv(pair, groups), T.truncmod(pair, groups), first, last)

    past = places[op.position].load((T.int64(0),), 1) + steps
    scores = sequences * steps * (work.groups * work.each) * past
    with T.If(scores * work.width < PARALLEL_WORK):
        with T.Then(), serial(tasks) as index:
            task(index)
        with T.Else(), T.parallel(T.int64(0), tasks) as index:
            task(index)


@dataclass
class _Work:
    op: Attention | AttentionCodes
    places: Mapping[Any, Place]
    out: Place
    key_cache: Value
    value_cache: Value

    def __post_init__(self) -> None:
        self.groups, self.held, self.width = static_shape(self.key_cache.type.shape[1:])
        heads = static_shape(self.op.q.type.shape[2:])[0]
        self.each = heads // self.groups
        self.q, self.keys, self.values = (
            self.places[v] for v in (self.op.q, self.key_cache, self.value_cache)
        )

    def task(self, b: Any, g: Any, first: Any, last: Any) -> None:
        """Positions from `first` up to `last` of the heads of group g of sequence b."""
        rows = TILE * self.each
        self.top = T.alloc_buffer((rows,), "float32")
        self.total = T.alloc_buffer((rows,), "float32")
        self.sums = T.alloc_buffer((rows * self.width,), "float32")
        self.scores = T.alloc_buffer((BLOCK,), "float32")
        b, g = T.Bind(b), T.Bind(g)
        start = T.Bind(self.places[self.op.position].load((b,), 1))
        with serial((last - first) * self.each) as row:
            T.buffer_store(self.top, T.float32(-math.inf), [row])
            T.buffer_store(self.total, T.float32(0), [row])
            with serial(self.width) as column:
                T.buffer_store(self.sums, T.float32(0), [row * self.width + column])
        with serial(T.ceildiv(self._seen(start, last), BLOCK)) as block:
            begin = T.Bind(block * BLOCK)
            self._add_block((b, g, begin), start, first, last)
        with serial(last - first) as t, serial(self.each) as h:
            self._finish((b, first + t, g * self.each + h), T.Bind(t * self.each + h))

    def _add_block(self, begin: tuple[Any, ...], start: Any, first: Any, last: Any) -> None:
        """Add a block to each row of a task that sees some of it."""
        b, g, block = begin
        with serial(last - first) as t, serial(self.each) as h:
            left = T.Bind(self._seen(start, first + t + 1) - block)
            with T.If(left > 0), T.Then():
                count, row = T.Bind(T.min(left, BLOCK)), T.Bind(t * self.each + h)
                self._add((b, first + t, g * self.each + h), begin, count, row)

    def _seen(self, start: Any, steps: Any) -> Any:
        """Positions of the cache that the last of so many new ones looks at."""
        return T.max(T.min(start + steps, T.int64(self.held)), T.int64(0))

    def _add(self, at: tuple[Any, ...], begin: tuple[Any, ...], count: Any, row: Any) -> None:
        """Add a block, of which `count` positions are seen, to what a row has gathered."""
        *group, first = begin
        with serial(count) as s:
            T.buffer_store(self.scores, self._score(at, (*group, first + s)), [s])
        with T.serial(count, T.int64(BLOCK)) as s:
            T.buffer_store(self.scores, T.float32(-math.inf), [s])
        parts = [self._scores(n) for n in range(0, BLOCK, LANES)]
        largest = lane_total(hold(functools.reduce(T.max, parts)), T.max)
        top = hold(T.max(self.top[row], largest))
        scale = hold(exp(hold(self.top[row] - top)))
        T.buffer_store(self.top, top, [row])
        weights = [hold(exp(hold(part - spread(top, LANES)))) for part in parts]
        for n, weight in enumerate(weights):
            T.buffer_store(self.scores, weight, [T.ramp(n * LANES, 1, LANES)])
        added = lane_total(hold(functools.reduce(lambda x, y: x + y, weights)), lambda x, y: x + y)
        T.buffer_store(self.total, self.total[row] * scale + added, [row])
        self._add_values((*group, first), count, row, scale)

    def _scores(self, first: int) -> Any:
        return T.Bind(self.scores.vload([first], f"float32x{LANES}"))

    def _score(self, at: tuple[Any, ...], where: tuple[Any, ...]) -> Any:
        """The scaled product of a row of q and a row of the keys."""
        whole = self.width // LANES * LANES
        total: Any = number(0, "float32", LANES)
        for c in range(0, whole, LANES):
            key = self._number(self.keys, (*where, c), LANES)
            total = total + self.q.load((*at, c), LANES) * key
        dot = lane_total(hold(total), lambda x, y: x + y)
        for c in range(whole, self.width):
            dot = dot + self.q.load((*at, c), 1) * self._number(self.keys, (*where, c), 1)
        return self._stepped(dot, where) * T.float32(self.op.scale)

    def _number(self, cache: Place, at: tuple[Any, ...], lanes: int) -> Any:
        """Columns of a cache, in units of the step of their row."""
        return cache.load(at, lanes)

    def _stepped(self, dot: Any, where: tuple[Any, ...]) -> Any:
        """The product of a row of q and a row of numbers, times the step of that row's keys."""
        return dot

    def _weight(self, weight: Any, where: tuple[Any, ...]) -> Any:
        """What the numbers of a row of values are multiplied by."""
        return weight

    def _add_values(self, begin: tuple[Any, ...], count: Any, row: Any, scale: Any) -> None:
        """Scale the sums of a row and add the values of a block by their weights."""
        *group, first = begin
        whole = self.width // LANES * LANES
        pieces = [(c, LANES) for c in range(0, whole, LANES)]
        pieces += [(c, 1) for c in range(whole, self.width)]
        running = [
            register("float32", lanes, self._sums(row, c, lanes) * spread(scale, lanes))
            for c, lanes in pieces
        ]
        with serial(count) as s:
            weight = hold(self._weight(self.scores[s], (*group, first + s)))
            for (c, lanes), sum_ in zip(pieces, running, strict=True):
                value = self._number(self.values, (*group, first + s, c), lanes)
                T.buffer_store(sum_, sum_[0] + spread(weight, lanes) * value, [0])
        for (c, lanes), sum_ in zip(pieces, running, strict=True):
            where = row * self.width + c
            T.buffer_store(self.sums, sum_[0], [where if lanes == 1 else T.ramp(where, 1, lanes)])

    def _sums(self, row: Any, column: int, lanes: int) -> Any:
        where = row * self.width + column
        return self.sums.vload([where], "float32" if lanes == 1 else f"float32x{lanes}")

    def _finish(self, at: tuple[Any, ...], row: Any) -> None:
        total = T.Bind(self.total[row])

        def columns(lanes: int) -> Callable[[Any], None]:
            return lambda c: self.out.store(
                (*at, c), hold(self._sums(row, c, lanes) / spread(total, lanes))
            )

        for_columns(self.width, columns(LANES), columns(1))


class _CodeWork(_Work):
    """Over codes u8: a number is (code - 128) * step."""

    def _number(self, cache: Place, at: tuple[Any, ...], lanes: int) -> Any:
        code = convert(cache.load(at, lanes), "float32")
        return hold(code - number(ZERO, "float32", lanes))

    def _stepped(self, dot: Any, where: tuple[Any, ...]) -> Any:
        assert isinstance(self.op, AttentionCodes)
        return dot * self.places[self.op.key_steps].load((*where, 0), 1)

    def _weight(self, weight: Any, where: tuple[Any, ...]) -> Any:
        assert isinstance(self.op, AttentionCodes)
        return weight * self.places[self.op.value_steps].load((*where, 0), 1)


_WRITE: dict[type, Callable[..., None]] = {
    CacheAppend: _append,
    Attention: _attention,
    AttentionCodes: _attention_codes,
}
