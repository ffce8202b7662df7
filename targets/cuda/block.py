# pyright: basic
# Every value here is a TIR expression, which TVM does not type.
"""A block of threads: which columns a thread has, and how all agree on a reduction.

A sum over a row has one order, whoever computes it, a block of 256 threads or of 512 or 1024:

    part (p, t) adds up the columns  t + 256 p,  t + 256 (p + 4),  t + 256 (p + 8), ...
    then ((p0 + p1) + (p2 + p3)) for each t, then the 32 lanes of a warp of t, then the 8 warps

256 threads have four parts each, 1024 one, which go through shared memory to the first 256.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tvm.script.ir_builder import tirx as T

from mmc.ir.op import Op
from mmc.ir.ops.reduce import ArgMax, Max
from mmc.ir.types import DType
from mmc.targets.cuda.code import call, do
from mmc.targets.tvm import elementary
from mmc.targets.tvm.elementary import hold
from mmc.targets.tvm.fold import Fold, finish, serial
from mmc.targets.tvm.memory import as_expression

SHARES = 256
"""Threads of the smallest block that computes a row."""

PARTS = 4

_ALIGNED = 8
"""Results of warps begin at multiples of this, so that several are read at once."""


@dataclass(frozen=True)
class Block:
    """Where a thread stands: the numbers of its block and within it, as int64, and their count."""

    index: Any
    thread: Any
    threads: int
    whole: bool = True
    """Whether these are all threads of the block."""

    @property
    def item(self) -> Any:
        """The thread among all."""
        return self.index * self.threads + self.thread

    def sync(self) -> None:
        """Wait for each other."""
        if self.whole:
            T.evaluate(T.cuda.cta_sync())
        else:
            do("mmc_sync_warps")

    def steps(self, size: Any) -> Any:
        """How many columns a thread has at most."""
        if isinstance(size, int):
            return -(-size // self.threads)
        return T.ceildiv(as_expression(size), self.threads)

    def loop(self, size: Any) -> Any:
        """The loop over a thread's columns; unrolled where their number is known."""
        steps = self.steps(size)
        return T.unroll(0, steps) if isinstance(steps, int) else serial(steps)

    def column(self, step: Any) -> Any:
        """The column of a step."""
        return T.Bind(T.cast(step, "int64") * self.threads + self.thread)

    def fold(self, op: Op, size: Any) -> Fold:
        """The running result of a reduction over `size` columns; sums are in parts."""
        parted = isinstance(size, int) and _is_sum(op)
        return Fold(op, 1, PARTS * SHARES // self.threads if parted else 1)

    def inside(self, column: Any, size: Any) -> Any:
        """A context for what is done where there is such a column."""
        if isinstance(size, int) and size % self.threads == 0:
            return contextlib.nullcontext()
        stack = contextlib.ExitStack()
        stack.enter_context(T.If(column < as_expression(size)))
        stack.enter_context(T.Then())
        return stack


def agreed(folds: Sequence[Fold], size: Any, group: Block) -> list[Any]:
    """The results of reductions from every thread's parts: by warps, then over the warps."""
    if not folds:
        return []
    lane, warp = group.thread % 32, T.truncdiv(group.thread, 32)
    pairs = zip(folds, _found(folds, group), strict=True)
    found = [(_warps(fold, group), _of_warp(fold, values)) for fold, values in pairs]
    left = _Left(found)
    for count in sorted({warps for warps, _ in found}):  # all at once: a branch takes time
        with T.If(T.And(T.EQ(lane, T.int64(0)), warp < count)), T.Then():
            left.store(found, warp, count)
    group.sync()
    results: list[Any] = []
    for i, (fold, (warps, _)) in enumerate(zip(folds, found, strict=True)):
        if isinstance(fold.op, ArgMax):
            own = T.min(lane, T.int64(warps - 1))
            values = [
                hold(T.Select(lane < warps, left.at(i, j, own), empty))
                for j, empty in enumerate(_empty(fold))
            ]
            results.append(_of_warp(fold, values)[1])
        else:
            total = _of_warps(fold, T.address_of(left.at(i, 0, 0)), warps)
            results.append(finish(fold.op, elementary.convert(total, fold.dtype), size))
    return results


class _Left:
    """What warps have found, in shared memory: a buffer for each dtype, so that few are addressed.

    found: of each reduction how many warps have results, and these.
    """

    def __init__(self, found: Sequence[tuple[int, Sequence[Any]]]) -> None:
        sizes = dict[str, int]()
        self.starts: list[list[tuple[str, int]]] = []
        for warps, values in found:
            self.starts.append([])
            for dtype in map(_dtype, values):
                self.starts[-1].append((dtype, sizes.get(dtype, 0)))
                sizes[dtype] = sizes.get(dtype, 0) + -(-warps // _ALIGNED) * _ALIGNED
        self.buffers = {
            dtype: T.alloc_buffer((size,), dtype, scope="shared") for dtype, size in sizes.items()
        }

    def store(self, found: Sequence[tuple[int, Sequence[Any]]], warp: Any, count: int) -> None:
        """Leave a warp's results of the reductions that `count` warps have."""
        for starts, (warps, values) in zip(self.starts, found, strict=True):
            for (dtype, start), value in zip(starts, values, strict=True) if warps == count else ():
                T.buffer_store(self.buffers[dtype], value, [warp + start])

    def at(self, reduction: int, number: int, warp: Any) -> Any:
        """Result `number` of a reduction."""
        dtype, start = self.starts[reduction][number]
        return self.buffers[dtype][warp + start]


def _found(folds: Sequence[Fold], group: Block) -> list[list[Any]]:
    """What a thread combines with its warp, in types that warps exchange.

    In a larger block every thread adds up the parts of one of the first 256.
    """
    own = [_parts(fold) for fold in folds]
    if group.threads == SHARES:
        return [[_of_parts(found)] if _is_sum(fold.op) else found
                for fold, found in zip(folds, own, strict=True)]  # fmt: skip
    held = {
        i: T.alloc_buffer((PARTS * SHARES,), _dtype(own[i][0]), scope="shared")
        for i, fold in enumerate(folds) if _is_sum(fold.op)
    }  # fmt: skip
    for i, buffer in held.items():
        for part, value in enumerate(own[i]):
            T.buffer_store(buffer, value, [part * group.threads + group.thread])
    if held:
        group.sync()
    of = group.thread % SHARES
    for i, buffer in held.items():
        own[i] = [_of_parts([buffer[of + part * SHARES] for part in range(PARTS)])]
    return own


def _of_parts(values: Sequence[Any]) -> Any:
    """One sum of one part, or of four."""
    if len(values) == 1:
        return values[0]
    return hold((values[0] + values[1]) + (values[2] + values[3]))


def _parts(fold: Fold) -> list[Any]:
    """What a thread has found, part by part."""
    totals = [elementary.convert(fold.total[i], _wide(fold)) for i in range(fold.parts)]
    return [*totals, fold.where[0]] if isinstance(fold.op, ArgMax) else totals


def _warps(fold: Fold, group: Block) -> int:
    """How many warps have results of their own."""
    return (SHARES if _is_sum(fold.op) else group.threads) // 32


def _empty(fold: Fold) -> list[Any]:
    """What changes nothing when it is combined: a value, and where it would be."""
    return [elementary.convert(fold.first, _wide(fold)), T.int64(1 << 62)]


def _of_warp(fold: Fold, values: Sequence[Any]) -> list[Any]:
    """Combine the values of a warp's lanes."""
    wide = _wide(fold)
    if isinstance(fold.op, ArgMax):
        where = hold(call("mmc::warp_first_largest", "int64", *values))
        return [hold(call("mmc::warp_combine<mmc::Largest>", wide, values[0])), where]
    return [hold(call(f"mmc::warp_combine<mmc::{_kind(fold)}>", wide, values[0]))]


def _of_warps(fold: Fold, shared: Any, warps: int) -> Any:
    """Combine what the warps left."""
    name = f"mmc::combine_all<mmc::{_kind(fold)}, {warps}>"
    return hold(call(name, _wide(fold), shared))


def _is_sum(op: Op) -> bool:
    return not isinstance(op, Max | ArgMax) and op.operands[0].type.dtype is not DType.BOOL


def _kind(fold: Fold) -> str:
    return "Sum" if _is_sum(fold.op) else "Largest"


def _wide(fold: Fold) -> str:
    return fold.dtype if fold.dtype in ("float32", "int32", "int64") else "int32"


def _dtype(value: Any) -> str:
    return elementary.dtype_of(value)[0]
