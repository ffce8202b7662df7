# pyright: basic
# Every value here is a TIR expression, which TVM does not type.
"""Dense products on a CPU: y[..., n] = sum over k of x[..., k] * w[n, k], plus bias[n].

A tile of results lies in registers while k runs along both rows, 16 numbers at a time:

    rows of x    ROWS  |  sums  sums  sums  sums      each of `sums` is one vector register
                       |   w0    w1    w2    w3       loaded once for all rows of x

A thread takes blocks of `BLOCK` rows of w, which stay in its cache while the rows of x go by.  The
numbers of w may be narrower in memory and are widened on the way (pass narrow-weights).  Every
result is summed in the same order in every tile: a token alone gets the bits that it gets within a
prompt.  Bound: reading w where there is one row, arithmetic (a multiply-add a cycle) in a prompt.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from tvm.script.ir_builder import tirx as T

from mmc.ir.graph import Graph
from mmc.ir.op import Op, Value, producer
from mmc.ir.ops.int4 import DequantizeInt4
from mmc.ir.ops.linear import Linear
from mmc.ir.ops.pointwise import Binary, Cast
from mmc.ir.ops.source import Constant, Input
from mmc.ir.types import Dim, DType, numel, symbol
from mmc.targets.tvm.elementary import number
from mmc.targets.tvm.expressions import Elements, Index
from mmc.targets.tvm.fold import LANES, lane_total, register, serial
from mmc.targets.tvm.host import Kernel, make_kernel
from mmc.targets.tvm.memory import STORED, Place, as_expression

ROWS = "rows"
PARTS = 2
"""Sums that a dot product runs in: multiply-adds of one sum wait for each other."""

TILE = 3, 4
"""Rows of x and of w whose sums are in registers together: 24 of 32, the rest holds operands."""

ALONE = 1
"""Rows of w where one row of x is left: memory is read fastest from one place to the next."""

BLOCK = 16
"""Rows of w that a thread takes at a time."""

Sums: TypeAlias = dict[tuple[int, int], Any]
"""The running sum of a row of x and one of w, by their places in a tile."""

PARALLEL_WORK = 1 << 16
"""Multiplications below which starting the threads costs more than it saves."""


WIDENING = Input, Constant, Cast, Binary, DequantizeInt4
"""What the matrix of a dense product may be made by."""


def lone_linear(body: Graph) -> Linear | None:
    """The dense product that is all that the body does besides widening its matrix, or None."""
    (value, *others) = body.values
    op = producer(value)
    if others or not isinstance(op, Linear) or op.type.dtype is not DType.F32:
        return None
    fixed = all(isinstance(size, int) for size in op.w.type.shape)
    given = isinstance(op.x, Input) and isinstance(op.bias, Input | None)
    plain = all(p is op or isinstance(p, WIDENING) for p in body)
    return op if fixed and given and plain and body.users[producer(op.x)] == (op,) else None


def flatten(body: Graph) -> tuple[Graph, Dim] | None:
    """The body over x[rows, K] and the number of rows, or None where it is something else."""
    linear = lone_linear(body)
    if linear is None:
        return None
    shape = linear.x.type.shape

    def step(old: Op, moved: Op) -> Value:
        if old is linear.x and isinstance(moved, Input):
            return Input(moved.name, moved.type.with_shape((symbol(ROWS), shape[-1])))
        return moved

    return body.map(step)[0], numel(shape[:-1])


def emit(body: Graph, name: str) -> Kernel:
    """The kernel of a flattened body."""
    return make(body, name, _write)


def make(body: Graph, name: str, write: Callable[[Product], None]) -> Kernel:
    """A kernel with a pointer per input of the body, one for the result, and the rows of x."""
    op = lone_linear(body)
    assert op is not None
    parameters = {f"in_{i}": f"{STORED[x.type.dtype]}*" for i, x in enumerate(body.inputs)}
    parameters |= {"out": f"{STORED[op.type.dtype]}*", ROWS: "int64"}

    def statements(*arguments: Any) -> None:
        *inputs, out, rows = arguments
        symbols = {ROWS: rows}
        places: dict[Value, Any] = {
            x: Place(buffer, x.type, symbols) for x, buffer in zip(body.inputs, inputs, strict=True)
        }
        elements = Elements(symbols, places)
        write(Product(op, elements, places, Place(out, op.type, symbols), rows))

    return make_kernel(name, parameters, statements)


def _write(product: Product) -> None:
    blocks = -(-product.n // BLOCK)
    with T.If(product.rows * (product.n * product.k) <= PARALLEL_WORK):
        with T.Then(), serial(blocks) as block:
            product.block(block)
        with T.Else(), T.parallel(T.int64(0), T.int64(blocks)) as block:
            product.block(block)


def in_tiles(
    tile: tuple[int, int],
    alone: int,
    rows: Any,
    columns: Any,
    write: Callable[[Any, int, Any, int], None],
) -> None:
    """Call `write(row, height, column, width)` for tiles; 1 x `alone` for the rows that are left.

    Single columns are for what is left of a row of tiles.
    """

    def across(row: Any, height: int, width: int) -> None:
        full = T.Bind(T.truncdiv(columns, width))
        with serial(full) as i:
            write(row, height, T.Bind(i * width), width)
        with serial(columns - full * width) as i:
            write(row, height, T.Bind(full * width + i), 1)

    height, width = tile
    full = T.Bind(T.truncdiv(rows, height))
    with serial(full) as i:
        across(T.Bind(i * height), height, width)
    with serial(rows - full * height) as i:
        across(T.Bind(full * height + i), 1, alone)


@dataclass
class Product:
    """A dense product: where its numbers lie, and its tiles in float32."""

    op: Linear
    elements: Elements
    places: Mapping[Any, Place]
    out: Place
    rows: Any

    def __post_init__(self) -> None:
        self.n, self.k = (int(size) for size in self.op.w.type.shape)  # type: ignore[arg-type]

    def block(self, block: Any) -> None:
        """Some rows of w times all rows of x."""
        first = T.Bind(block * BLOCK)
        columns = T.Bind(T.min(T.int64(BLOCK), self.n - first))
        in_tiles(
            TILE, ALONE, self.rows, columns,
            lambda row, height, column, width: self.tile(row, height, first + column, width),
        )  # fmt: skip

    def tile(self, row: Any, height: int, column: Any, width: int) -> None:
        """The results of a tile: sums of 16 lanes, then of halves, then what is left of k."""
        wide = self.k // (PARTS * LANES) * PARTS
        sums = [self._zeros(height, width, LANES) for _ in range(PARTS)]
        with serial(wide // PARTS) as step:
            for part in range(PARTS):
                self._add(sums[part], row, column, (step * PARTS + part) * LANES, LANES)
        if self.k // LANES > wide:
            self._add(sums[0], row, column, wide * LANES, LANES)
        rest = self._zeros(height, width, 1)
        with serial(self.k % LANES) as step:
            self._add(rest, row, column, self.k // LANES * LANES + step, 1)
        for i, j in itertools.product(range(height), range(width)):
            total = lane_total(sum(s[i, j][0] for s in sums), operator.add) + rest[i, j][0]
            self.store(row + i, column + j, total)

    def store(self, row: Any, column: Any, total: Any) -> None:
        """Write a result, with its bias."""
        if self.op.bias is not None:
            total = total + self._load(self.op.bias, (column,), 1)
        self.out.store((row, column), total)

    def _zeros(self, height: int, width: int, lanes: int) -> Sums:
        zero = number(0, "float32", lanes)
        places = itertools.product(range(height), range(width))
        return {place: register("float32", lanes, zero) for place in places}

    def _add(self, sums: Sums, row: Any, column: Any, start: Any, lanes: int) -> None:
        """Add `lanes` products from `start` on to each sum."""
        with self.elements.scope():
            k = T.Bind(as_expression(start))
            x = {i: self._load(self.op.x, (row + i, k), lanes) for i, _ in sums}
            w = {j: self._weights(column + j, k, lanes) for _, j in sums}
            for (i, j), total in sums.items():
                T.buffer_store(total, total[0] + x[i] * w[j], [0])

    def _weights(self, row: Any, k: Any, lanes: int) -> Any:
        return self.elements.at(self.op.w, Index((row, k), lanes))

    def _load(self, value: Value, axes: tuple[Any, ...], lanes: int) -> Any:
        return self.places[value].load(axes, lanes)
