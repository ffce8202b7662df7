# pyright: basic
# Every value here is a TIR expression, which TVM does not type.
"""Appending to a cache: a thread for each element of the new rows.

Where the result lies where the cache lay, nothing else is written; else the threads copy what is
old as well.  Bound: the latency of a launch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tvm.script.ir_builder import tirx as T

from mmc.ir.ops.attention import CacheAppend
from mmc.ir.types import static_shape
from mmc.targets.cuda.row import product
from mmc.targets.tvm.fold import serial
from mmc.targets.tvm.memory import Place, as_expression, size_of, unravel

THREADS = 256

MOVES = "moves"
"""The parameter that is 0 where the result lies where the cache lay."""


def write(
    op: CacheAppend, places: Mapping[Any, Place], out: Place, block: Any, thread: Any, moves: Any
) -> None:
    """The statements of a thread."""
    x, cache = places[op.x], places[op.cache]
    held = T.int64(static_shape(op.type.shape[2:3])[0])
    given, old = ([size_of(dim, p.symbols) for dim in p.type.shape] for p in (x, cache))
    item, items = T.Bind(block * THREADS + thread), T.Bind(product(given))

    def new(b: Any) -> tuple[Any, Any]:
        """Where the new positions of a sequence begin, and how many it has."""
        start = T.Bind(places[op.position].load((b,), 1))
        return start, T.Bind(T.min(places[op.lengths].load((b,), 1), as_expression(given[1])))

    with T.If(item < items), T.Then():
        b, t, g, c = unravel(item, given)
        start, count = new(b)
        s = T.Bind(start + t)
        with T.If(T.And(t < count, T.And(s >= 0, s < held))), T.Then():
            out.store((b, g, s, c), x.load((b, t, g, c), 1))
        with T.If(moves != 0), T.Then(), serial(T.ceildiv(product(old) - item, items)) as turn:
            b, g, s, c = unravel(T.Bind(item + turn * items), old)
            start, count = new(b)
            with T.If(T.Or(s < start, s >= start + count)), T.Then():
                out.store((b, g, s, c), cache.load((b, g, s, c), 1))
