# pyright: basic
# Every value here is a TIR expression, which TVM does not type.
"""A row and the ternary matrices that it is multiplied with, in one launch.

For one row of activations or few, a launch costs as much as its work.  So every block computes the
whole row again (norm, quantisation, gates), keeps its int8 activations in shared memory, and
multiplies them with its own tiles.  The weights are asked for before the row is computed, which
hides their way from memory.  What else the row gives (residual, scales, state) its first block
writes.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tvm.script.ir_builder import tirx as T

from mmc.ir.graph import Graph
from mmc.ir.op import Value
from mmc.ir.packing import TILE_ROWS
from mmc.ir.types import numel
from mmc.targets.cuda import rows
from mmc.targets.cuda.block import Block
from mmc.targets.cuda.code import DeviceKernel, make_kernel
from mmc.targets.cuda.row import MOST_SHARED, Row
from mmc.targets.cuda.ternary import STEP_VECTORS, Matrix, WarpSums
from mmc.targets.cuda.work import BLOCKS, THREADS, WARPS, Consumer, Work
from mmc.targets.tvm.expressions import Elements
from mmc.targets.tvm.memory import Place, unravel
from mmc.targets.tvm.primitives import primitive_outputs
from mmc.targets.tvm.schedule import schedule
from mmc.targets.tvm.stages import Plan

_WARP = 32
_AHEAD_REGISTERS = 32
"""Words of weights that a thread asks for ahead of their use."""


@dataclass(frozen=True)
class FusedLaunch:
    """The kernel, and the blocks that each row takes."""

    kernel: DeviceKernel
    blocks: int


def emit(body: Graph, consumers: Sequence[Consumer], name: str) -> FusedLaunch | None:
    """The kernel of a row and its matrices; None where the row cannot be computed block by block.

    Its parameters are those of the row, and for matrix i its weights `w_i` and its sums `acc_i`.
    """
    outputs = primitive_outputs(body)
    nests = schedule(outputs, set(body.inputs))
    if len(nests) != 1 or nests[0].total is not None or nests[0].recurrences:
        return None
    if len({(c.matrix.vectors, c.matrix.layout) for c in consumers}) > 1:
        return None
    plan = Plan(set(body.inputs), list(outputs), cheap=0, rereads=False)
    tiles = sum(c.matrix.tiles for c in consumers)
    per_block = min(-(-tiles // BLOCKS), THREADS // TILE_ROWS)
    blocks = -(-tiles // per_block)
    if Work.of(consumers, per_block).shared_bytes > MOST_SHARED:
        return None
    parameters = rows.parameters_of(body, outputs)
    for i in range(len(consumers)):
        parameters |= {f"w_{i}": "uint32*", f"acc_{i}": "int32*"}
    names = tuple(parameters)
    write = functools.partial(
        _write, body, outputs, plan, tuple(consumers), names, (blocks, per_block)
    )
    return FusedLaunch(make_kernel(name, parameters, THREADS, write), blocks)


class _First:
    """Where one block of a row writes what the others have computed as well."""

    def __init__(self, place: Place, wanted: Any) -> None:
        self.place, self.wanted = place, wanted
        self.type, self.columns, self.stride = place.type, place.columns, place.stride

    def store(self, axes: Sequence[Any], value: Any) -> None:
        with T.If(self.wanted), T.Then():
            self.place.store(axes, value)


class _Shared(_First):
    """A row of activations, in shared memory as well: there zeros up to what all warps read."""

    def __init__(self, place: Place, wanted: Any, buffer: Any, start: int, size: int) -> None:
        super().__init__(place, wanted)
        self.buffer, self.start, self.global_stride, self.stride = buffer, start, place.stride, size

    def store(self, axes: Sequence[Any], value: Any) -> None:
        T.buffer_store(self.buffer, T.cast(value, "int8"), [axes[-1] + self.start])
        with T.If(T.And(self.wanted, axes[-1] < self.global_stride)), T.Then():
            self.place.store(axes, value)


def _write(
    body: Graph, outputs: tuple[Value, ...], plan: Plan, consumers: tuple[Consumer, ...],
    names: tuple[str, ...], grid: tuple[int, int], block: Any, thread: Any, *arguments: Any,
) -> None:  # fmt: skip
    given = dict(zip(names, arguments, strict=True))
    blocks, per_block = grid
    wide = T.cast(block, "int64")
    row, within = T.Bind(T.truncdiv(wide, blocks)), T.Bind(T.truncmod(wide, blocks))
    matrices = [
        _Multiplication(c.matrix, given[f"w_{i}"], given[f"acc_{i}"], row)
        for i, c in enumerate(consumers)
    ]
    todo = Work.of(consumers, per_block)
    first = T.Bind(within * per_block)
    tiles = [_Tile(matrices, first, turn, todo.split, thread) for turn in range(todo.rounds)]
    ahead = max(1, min(todo.rounds, _AHEAD_REGISTERS // (4 * tiles[0].steps)))
    for tile in tiles[:ahead]:
        tile.load()
    kept = {output: i * todo.length for i, output in enumerate(todo.outputs)}
    activations = T.alloc_buffer((len(kept) * todo.length,), "int8", scope="shared")
    _row(body, outputs, plan, given, (activations, kept, todo.length), row, within, thread)
    T.evaluate(T.cuda.cta_sync())
    parts = T.alloc_buffer((todo.parts,), "int32", scope="shared")
    for i, tile in enumerate(tiles):
        tile.multiply(activations, [kept[c.output] for c in consumers], parts)
        if i + ahead < todo.rounds:
            tiles[i + ahead].load()
    T.evaluate(T.cuda.cta_sync())
    with T.If(thread < per_block * TILE_ROWS), T.Then():
        _finish(matrices, parts, first, todo.split, thread)


def _row(
    body: Graph, outputs: Sequence[Value], plan: Plan, given: dict[str, Any],
    shared: tuple[Any, dict[int, int], int], row: Any, within: Any, thread: Any,
) -> None:  # fmt: skip
    """Compute the row; activations go to shared memory as well, each output from its start on."""
    buffer, starts, length = shared
    symbols = {k.removeprefix("size_"): v for k, v in given.items() if k.startswith("size_")}
    places: dict[Value, Any] = {
        op: Place(given[f"in_{i}"], op.type, symbols) for i, op in enumerate(body.inputs)
    }
    first = T.EQ(within, T.int64(0))
    stores: list[tuple[Value, _First]] = []
    for i, value in enumerate(outputs):
        place = Place(given[f"out_{i}"], value.type, symbols)
        sink = _First(place, first)
        if i in starts:
            sink = _Shared(place, first, buffer, starts[i], length)
        stores.append((value, sink))
    elements = Elements(symbols, places, lanes=1)
    group = Block(row, T.cast(thread, "int64"), THREADS)
    lead = unravel(row, elements.sizes(outputs[0].type.shape[:-1]))
    Row(elements, plan, stores, group).write(lead)


@dataclass(frozen=True)
class _Multiplication:
    matrix: Matrix
    weights: Any
    acc: Any
    row: Any


class _Tile:
    """What a warp does in one round: a part of the columns of a tile of one of several matrices.

    The tiles of all matrices are numbered through.  All have the same columns, for they are
    multiplied with rows of one length.
    """

    def __init__(
        self, matrices: Sequence[_Multiplication], first: Any, turn: int, split: int, thread: Any
    ) -> None:
        self.matrices, self.split = matrices, split
        self.lane, warp = thread % _WARP, thread // _WARP
        self.part = warp % split
        self.place = T.Bind(turn * (WARPS // split) + T.truncdiv(warp, split))
        self.number = T.Bind(first + T.cast(self.place, "int64"))
        self.shape = matrices[0].matrix
        self.steps = -(-self.shape.vectors // (STEP_VECTORS * split))
        self.packed = T.alloc_buffer((4 * self.steps,), "uint32", scope="local")
        self.sums = WarpSums(self.shape, self.lane)

    def _first(self, step: int) -> Any:
        """The first of the vectors of a step."""
        return (step * self.split + self.part) * STEP_VECTORS

    def load(self) -> None:
        """Ask for the weights."""
        for matrix, start in self._of_each():
            tile = (self.number - start) * (self.shape.vectors * TILE_ROWS)
            source = T.address_of(matrix.weights[tile])
            for step in range(self.steps):
                to = T.address_of(self.packed[4 * step])
                past = (step + 1) * self.split * STEP_VECTORS > self.shape.vectors
                self.sums.load(to, source, self._first(step), past=past)

    def _of_each(self) -> Any:
        """Run what follows for the matrix that the tile is of."""
        start = 0
        for matrix in self.matrices:
            end = start + matrix.matrix.tiles
            inside = T.And(self.number >= start, self.number < end)
            with T.If(inside), T.Then():
                yield matrix, start
            start = end

    def multiply(self, q: Any, starts: Sequence[int], parts: Any) -> None:
        """Add up a warp's columns, and leave 16 sums in `parts`."""
        end, start = 0, T.int64(starts[-1])
        for matrix, at in list(zip(self.matrices, starts, strict=True))[:-1]:
            end += matrix.matrix.tiles
            inside = T.And(self.number < end, self.number >= end - matrix.matrix.tiles)
            start = T.Select(inside, T.int64(at), start)
        start = T.Bind(start)
        for step in range(self.steps):
            at = start + T.cast(self._first(step) * (4 * self.shape.words), "int64")
            self.sums.add(T.address_of(self.packed[4 * step]), T.address_of(q[at]))
        at = (self.place * self.split + self.part) * TILE_ROWS
        self.sums.store(T.address_of(parts[at]))


def _finish(
    matrices: Sequence[_Multiplication], parts: Any, first: Any, split: int, thread: Any
) -> None:
    """A thread for each row of the block's tiles adds up the warps."""
    place, within = T.truncdiv(thread, TILE_ROWS), thread % TILE_ROWS
    total = parts[place * (split * TILE_ROWS) + within]
    for part in range(1, split):
        total = total + parts[(place * split + part) * TILE_ROWS + within]
    column = T.Bind((first + T.cast(place, "int64")) * TILE_ROWS + T.cast(within, "int64"))
    start = 0
    for matrix in matrices:
        n = matrix.matrix.n
        end = start + matrix.matrix.tiles * TILE_ROWS
        inside = T.And(column >= start, column < start + n)
        with T.If(inside), T.Then():
            T.buffer_store(matrix.acc, total, [matrix.row * n + column - start])
        start = end


def work(body: Graph) -> Any:
    """The rows of a body."""
    return numel(primitive_outputs(body)[0].type.shape[:-1])
