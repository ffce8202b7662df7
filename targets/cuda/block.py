# pyright: basic
# Every value here is a TIR expression, which TVM does not type.
"""A block of threads: which columns a thread has, and how all agree on a reduction."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tvm.script.ir_builder import tirx as T

from mmc.ir.ops.reduce import ArgMax, Max
from mmc.ir.types import DType
from mmc.targets.cuda.code import call, do
from mmc.targets.tvm import elementary
from mmc.targets.tvm.elementary import hold
from mmc.targets.tvm.fold import Fold, finish, serial
from mmc.targets.tvm.memory import as_expression


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

    def inside(self, column: Any, size: Any) -> Any:
        """A context for what is done where there is such a column."""
        if isinstance(size, int) and size % self.threads == 0:
            return contextlib.nullcontext()
        stack = contextlib.ExitStack()
        stack.enter_context(T.If(column < as_expression(size)))
        stack.enter_context(T.Then())
        return stack


def agreed(folds: Sequence[Fold], size: Any, group: Block) -> list[Any]:
    """The results of reductions from every thread's part: by warps, then over the warps.

    The order is that of the threads, always the same.
    """
    if not folds:
        return []
    lane, warp = group.thread % 32, T.truncdiv(group.thread, 32)
    warps = group.threads // 32
    parts: list[list[Any]] = []
    for fold in folds:
        values = _of_warp(fold, _parts(fold))
        shared = [T.alloc_buffer((warps,), _dtype(v), scope="shared") for v in values]
        with T.If(T.EQ(lane, T.int64(0))), T.Then():
            for buffer, value in zip(shared, values, strict=True):
                T.buffer_store(buffer, value, [warp])
        parts.append(shared)
    group.sync()
    results: list[Any] = []
    for fold, shared in zip(folds, parts, strict=True):
        if isinstance(fold.op, ArgMax):
            found = [
                hold(T.Select(lane < warps, buffer[T.min(lane, T.int64(warps - 1))], value))
                for buffer, value in zip(shared, _empty(fold), strict=True)
            ]
            results.append(_of_warp(fold, found)[1])
        else:
            total = _of_warps(fold, shared[0], warps)
            results.append(finish(fold.op, elementary.convert(total, fold.dtype), size))
    return results


def _parts(fold: Fold) -> list[Any]:
    """What a thread has found, in types that warps exchange."""
    total = elementary.convert(fold.total[0], _wide(fold))
    return [total, fold.where[0]] if isinstance(fold.op, ArgMax) else [total]


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
    return hold(call(name, _wide(fold), T.address_of(shared[0])))


def _kind(fold: Fold) -> str:
    largest = isinstance(fold.op, Max) or fold.op.operands[0].type.dtype is DType.BOOL
    return "Largest" if largest else "Sum"


def _wide(fold: Fold) -> str:
    return fold.dtype if fold.dtype in ("float32", "int32", "int64") else "int32"


def _dtype(value: Any) -> str:
    return elementary.dtype_of(value)[0]
