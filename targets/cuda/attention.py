# pyright: basic
# Every value here is a TIR expression, which TVM does not type.
"""Attention on a GPU: the weighted sum over what a cache holds.

A row is a position of a head.  A block of threads has some rows that share a group, and goes over
the cache `BLOCK` positions at a time:

    scores    4 threads for each position of the cache, which share its columns
    weights   a warp for each row: exp(score - top), and what they add up to
    sums      4 threads for each column, which share the positions

A row keeps the largest score so far, the sum of its weights, and the sums of weight * value; before
a block is added, these are scaled by exp(old top - top) (online softmax, arXiv:1805.02867).  Its
blocks begin at position 0 and end with its own position, and every sum has one order, however many
rows there are: a token alone gets the bits that it gets within a prompt.  Bound: latency where
there is one token, reads of shared memory in a prompt.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tvm.script.ir_builder import tirx as T

from mmc.ir.graph import Graph
from mmc.ir.ops.attention import Attention, CacheAppend
from mmc.ir.types import Dim, numel, static_shape
from mmc.targets.cuda import append
from mmc.targets.cuda.code import DeviceKernel, call, make_kernel
from mmc.targets.cuda.rows import parameters_of, places_of
from mmc.targets.tvm.elementary import exp, hold
from mmc.targets.tvm.fold import register, serial
from mmc.targets.tvm.memory import Place, as_expression, size_of
from mmc.targets.tvm.plan import lone_op
from mmc.targets.tvm.primitives import primitive_outputs

THREADS = 256
PARTS = 4
"""Threads side by side that share a sum: ((p0 + p1) + (p2 + p3))."""

BLOCK = THREADS // PARTS
"""Positions of the cache that are scored together, and columns of values side by side."""

MOST_ROWS, MOST_NUMBERS = 16, 2048
"""Rows of a block of threads, and rows times columns: their sums lie in registers."""

WARPS, WARP = THREADS // 32, 32


@dataclass(frozen=True)
class AttentionLaunch:
    """A kernel for at most `most_steps` of `steps` positions, or for any number.

    A block for each `per` of `work`, for each of `times`.
    """

    kernel: DeviceKernel
    steps: Dim
    most_steps: int | None
    work: Dim
    per: int
    times: Dim


def emit(body: Graph, name: str) -> list[AttentionLaunch]:
    """The kernels of a body of one operation; for the sizes of a call the first that fits."""
    op = lone_op(body)
    if isinstance(op, CacheAppend):
        more = {append.MOVES: "int64"}
        kernel = _kernel(body, name, functools.partial(append.write, op), append.THREADS, more)
        shape = op.x.type.shape
        return [AttentionLaunch(kernel, shape[1], None, numel(shape), append.THREADS, 1)]
    assert isinstance(op, Attention)
    groups, _, width = static_shape(op.keys.type.shape[1:])
    each = static_shape(op.q.type.shape[2:3])[0] // groups
    sequences, steps = op.type.shape[:2]
    most = max(1, min(MOST_ROWS, MOST_NUMBERS // width))
    made: list[AttentionLaunch] = []
    for rows, most_steps in ((min(each, most), 1), (most, None)):
        write = functools.partial(_attention, op, rows)
        kernel = _kernel(body, f"{name}_{rows}", write, THREADS, {})
        work = steps * each, rows, sequences * groups
        made.append(AttentionLaunch(kernel, steps, most_steps, *work))
    return made[:1] if steps == 1 else made[1:] if each >= most else made


def _kernel(
    body: Graph, name: str, write: Callable[..., None], threads: int, more: Mapping[str, str]
) -> DeviceKernel:
    """more: parameters behind those of a row's kernel."""
    outputs = primitive_outputs(body)
    parameters = parameters_of(body, outputs)
    count = len(parameters)

    def statements(block: Any, thread: Any, *arguments: Any) -> None:
        places, (out,), _ = places_of(body, outputs, arguments[:count])
        wide = T.Bind(T.cast(block, "int64")), T.Bind(T.cast(thread, "int64"))
        write(places, out, *wide, *arguments[count:])

    return make_kernel(name, {**parameters, **more}, threads, statements)


def _attention(
    op: Attention, rows: int, places: Mapping[Any, Place], out: Place, block: Any, thread: Any
) -> None:
    _Work(op, rows, places, out, block, thread).write()


class _Work:
    """What a block of threads does: `rows` rows of a group of a sequence, the first `first`."""

    def __init__(
        self, op: Attention, rows: int, places: Mapping[Any, Place], out: Place, block: Any,
        thread: Any,
    ) -> None:  # fmt: skip
        self.op, self.rows, self.out, self.thread = op, rows, out, thread
        self.q, self.keys, self.values = (places[v] for v in (op.q, op.keys, op.values))
        groups, self.held, self.width = static_shape(op.keys.type.shape[1:])
        self.each = static_shape(op.q.type.shape[2:3])[0] // groups
        self.quads = -(-self.width // (4 * PARTS))
        self.padded = self.quads * 4 * PARTS
        self.turns = -(-self.width // BLOCK)
        self.place, self.part = T.Bind(T.truncdiv(thread, PARTS)), T.Bind(T.truncmod(thread, PARTS))
        steps = as_expression(size_of(op.type.shape[1], out.symbols))
        tiles = T.Bind(T.ceildiv(steps * self.each, rows))
        pair = T.Bind(T.truncdiv(block, tiles))
        self.b, self.g = T.Bind(T.truncdiv(pair, groups)), T.Bind(T.truncmod(pair, groups))
        # The last rows see the most: they begin first.
        self.first = T.Bind((tiles - 1 - T.truncmod(block, tiles)) * rows)
        self.count = T.Bind(T.min(T.int64(rows), steps * self.each - self.first))
        self.start = T.Bind(places[op.position].load((self.b,), 1))
        self.query = _shared(rows * self.padded)
        self.scores, self.weights = _shared(rows * BLOCK), _shared(rows * BLOCK)
        self.total, self.scale = (_shared(rows) for _ in range(2))
        self.top = T.alloc_buffer((-(-rows // WARPS),), "float32", scope="local")
        self.dots = T.alloc_buffer((rows,), "float32", scope="local")
        self.sums = T.alloc_buffer((rows * self.turns,), "float32", scope="local")
        self.ahead = T.alloc_buffer((BLOCK // PARTS * self.turns,), "float32", scope="local")

    def write(self) -> None:
        self._begin()
        end = T.Bind(self._seen(self.count - 1))
        with serial(T.ceildiv(end, BLOCK)) as n:
            begin = T.Bind(n * BLOCK)
            self._load_values(begin, end)
            self._score(begin, end)
            T.evaluate(T.cuda.cta_sync())
            self._weigh(begin)
            T.evaluate(T.cuda.cta_sync())
            self._add()
        self._finish()

    def _seen(self, row: Any) -> Any:
        """Positions of the cache that a row looks at."""
        own = self.start + T.truncdiv(self.first + row, T.int64(self.each)) + 1
        return T.max(T.min(own, T.int64(self.held)), T.int64(0))

    def _at(self, row: Any, column: Any) -> tuple[Any, ...]:
        """Where a row's column lies in q, and in the result."""
        place = T.Bind(self.first + row)
        head = self.g * self.each + T.truncmod(place, T.int64(self.each))
        return self.b, T.truncdiv(place, T.int64(self.each)), head, column

    def _begin(self) -> None:
        """The rows of q in shared memory, with zeros behind their columns."""
        with serial(-(-self.rows * self.padded // THREADS)) as turn:
            item = T.Bind(turn * THREADS + self.thread)
            row, column = T.Bind(T.truncdiv(item, self.padded)), T.Bind(item % self.padded)
            with T.If(row < self.rows), T.Then():
                x = register("float32", 1, T.float32(0))
                with T.If(T.And(row < self.count, column < self.width)), T.Then():
                    T.buffer_store(x, self.q.load(self._at(row, column), 1), [0])
                T.buffer_store(self.query, x[0], [item])
        with T.unroll(0, -(-self.rows // WARPS)) as turn:
            T.buffer_store(self.top, T.float32(-math.inf), [turn])
        with T.If(self.thread < self.rows), T.Then():
            T.buffer_store(self.total, T.float32(0), [self.thread])
        with T.unroll(0, self.rows * self.turns) as i:
            T.buffer_store(self.sums, T.float32(0), [i])
        T.evaluate(T.cuda.cta_sync())

    def _load_values(self, begin: Any, end: Any) -> None:
        """Ask for a thread's values: of every fourth position, every 64th column."""
        with T.unroll(0, BLOCK // PARTS) as i, T.unroll(0, self.turns) as turn:
            s = T.Bind(T.min(begin + i * PARTS + self.part, end - 1))
            column = T.Bind(turn * BLOCK + self.place)
            if self.width % BLOCK:
                column = T.Bind(T.min(column, T.int64(self.width - 1)))
            value = self.values.load((self.b, self.g, s, column), 1)
            T.buffer_store(self.ahead, value, [i * self.turns + turn])

    def _score(self, begin: Any, end: Any) -> None:
        """The scaled products of all rows with one position of the keys."""
        s = T.Bind(T.min(begin + self.place, end - 1))
        key = T.alloc_buffer((self.padded // PARTS,), "float32", scope="local")
        for quad in range(self.quads):
            self._load_key(key, s, quad)
        with T.unroll(0, self.rows) as row:
            T.buffer_store(self.dots, T.float32(0), [row])
            with T.unroll(0, self.quads) as quad:
                own = T.alloc_buffer((4,), "float32", scope="local")
                at = T.Bind(row * self.padded + quad * 16 + self.part * 4)
                with T.vectorized(0, 4) as lane:
                    T.buffer_store(own, self.query[at + lane], [lane])
                with T.unroll(0, 4) as lane:
                    product = _multiply_add(own[lane], key[quad * 4 + lane], self.dots[row])
                    T.buffer_store(self.dots, product, [row])
            dot = _of_parts(self.dots[row])
            with T.If(T.EQ(self.part, T.int64(0))), T.Then():
                scaled = dot * T.float32(self.op.scale)
                T.buffer_store(self.scores, scaled, [row * BLOCK + self.place])

    def _load_key(self, key: Any, s: Any, quad: int) -> None:
        """Four columns of a key; zeros behind the last one."""
        column = T.Bind(self.part * 4 + quad * 16)
        at = T.Bind(self.keys.offset((self.b, self.g, s, column)))
        if self.width % 4 == 0:
            with T.vectorized(0, 4) as lane:
                T.buffer_store(key, T.float32(0), [quad * 4 + lane])
            with T.If(column < self.width), T.Then(), T.vectorized(0, 4) as lane:
                T.buffer_store(key, self.keys.buffer[at + lane], [quad * 4 + lane])
            return
        for lane in range(4):
            T.buffer_store(key, T.float32(0), [quad * 4 + lane])
            with T.If(column + lane < self.width), T.Then():
                T.buffer_store(key, self.keys.buffer[at + lane], [quad * 4 + lane])

    def _weigh(self, begin: Any) -> None:
        """Weights of a block's positions, -1 for those that a row does not see."""
        lane, warp = T.Bind(self.thread % WARP), T.Bind(T.truncdiv(self.thread, WARP))
        for turn in range(-(-self.rows // WARPS)):
            row = T.Bind(warp + turn * WARPS)
            with T.If(row < self.rows), T.Then():
                self._weigh_row(turn, row, lane, T.Bind(self._seen(row) - begin))

    def _weigh_row(self, turn: int, row: Any, lane: Any, left: Any) -> None:
        """A row is the same warp's in each block of the cache: its top stays in registers."""
        positions = [lane + i * WARP for i in range(BLOCK // WARP)]
        none = T.float32(-math.inf)
        scores = [hold(T.Select(p < left, self.scores[row * BLOCK + p], none)) for p in positions]
        largest = functools.reduce(T.max, scores)
        largest = call("mmc::warp_combine<mmc::Largest>", "float32", largest)
        top = hold(T.max(self.top[turn], hold(largest)))
        scale = exp(hold(self.top[turn] - top))
        T.buffer_store(self.top, top, [turn])
        weights = [exp(hold(score - top)) for score in scores]
        for p, weight in zip(positions, weights, strict=True):
            kept = T.Select(p < left, weight, T.float32(-1))
            T.buffer_store(self.weights, kept, [row * BLOCK + p])
        added = functools.reduce(
            lambda x, y: x + y,
            [T.Select(p < left, w, T.float32(0)) for p, w in zip(positions, weights, strict=True)],
        )
        added = hold(call("mmc::warp_combine<mmc::Sum>", "float32", hold(added)))
        with T.If(T.EQ(lane, T.int64(0))), T.Then():
            T.buffer_store(self.scale, scale, [row])
            T.buffer_store(self.total, _multiply_add(self.total[row], scale, added), [row])

    def _add(self) -> None:
        """Scale the sums, and add what a thread's positions give to its columns."""
        with T.unroll(0, self.rows) as row:
            scale = T.Bind(self.scale[row])
            with T.unroll(0, self.turns) as turn:
                at = row * self.turns + turn
                T.buffer_store(self.sums, self.sums[at] * scale, [at])
            with T.unroll(0, BLOCK // PARTS) as i:
                weight = T.Bind(self.weights[row * BLOCK + i * PARTS + self.part])
                sees = T.Not(weight < T.float32(0))
                with T.If(sees), T.Then(), T.unroll(0, self.turns) as turn:
                    at, value = row * self.turns + turn, self.ahead[i * self.turns + turn]
                    total = _multiply_add(weight, value, self.sums[at])
                    T.buffer_store(self.sums, total, [at])

    def _finish(self) -> None:
        with T.unroll(0, self.rows) as row, T.unroll(0, self.turns) as turn:
            sum_ = _of_parts(self.sums[row * self.turns + turn])
            column = T.Bind(turn * BLOCK + self.place)
            wanted = T.And(row < self.count, column < self.width)
            with T.If(T.And(wanted, T.EQ(T.cast(self.part, "int32"), row % PARTS))), T.Then():
                self.out.store(self._at(row, column), hold(sum_ / self.total[row]))


def _shared(count: int) -> Any:
    return T.alloc_buffer((count,), "float32", scope="shared")


def _multiply_add(x: Any, y: Any, z: Any) -> Any:
    """x * y + z, rounded once."""
    return call("__fmaf_rn", "float32", x, y, z)


def _of_parts(x: Any) -> Any:
    """What four threads side by side have, added up; all get it."""
    return hold(call("mmc::of_four", "float32", x))
