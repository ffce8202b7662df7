# pyright: basic
# Every value here is a TIR expression, which TVM does not type.
"""Share equal pieces of work among threads of unequal speed.

TVM's parallel loops give each thread its part beforehand, so that a loop ends with the slowest; the
processors of a shared machine differ in speed, by turns.  Here each thread begins with its own
part, and takes what is left of the others' when it is done:

    thread 0 -->.......            ....<-- thread 1 at its end turns back, and takes from the last
    [ 0 1 2 3 4 5 6 7 | 8 9 10 11 12 13 14 15 ]     piece on what nobody has taken
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm.script.ir_builder import tirx as T

_STARTS = 128
"""Places to begin at, from which TVM gives each thread a run: the most threads that get work."""

_TAKE = """
define linkonce_odr i32 @mmc_take(ptr %flag) alwaysinline nounwind {
  %seen = load atomic i8, ptr %flag monotonic, align 1
  %free = icmp eq i8 %seen, 0
  br i1 %free, label %try, label %done
try:
  %before = atomicrmw xchg ptr %flag, i8 1 monotonic
  %won = icmp eq i8 %before, 0
  %one = zext i1 %won to i32
  br label %done
done:
  %result = phi i32 [ 0, %0 ], [ %one, %try ]
  ret i32 %result
}
"""
"""Whether this thread is the one that takes a piece."""


def share(count: int, work: Callable[[Any], None]) -> None:
    """Call `work(piece)` once for each piece from 0 to `count`, on all threads."""
    taken = T.alloc_buffer((count,), "uint8")
    with T.serial(0, count) as piece:
        T.buffer_store(taken, T.uint8(0), [piece])
    starts = min(count, _STARTS)
    with T.attr(T.int32(0), "pragma_import_llvm", _TAKE), T.parallel(0, starts) as start:
        first = T.Bind(T.floordiv(start * count, starts))
        with T.If(T.EQ(taken[first], T.uint8(0))), T.Then():
            _take_all(taken, count, first, work)


def _take_all(taken: Any, count: int, first: Any, work: Callable[[Any], None]) -> None:
    """From `first` up to a piece that is taken, then from the last one down."""
    place, step = _variable(first), _variable(1)
    with T.While(place[0] >= 0):
        piece = _variable(place[0])[0]
        got = _variable(T.call_extern("int32", "mmc_take", T.address_of(taken[piece])))[0]
        with T.If(T.NE(got, 0)), T.Then():
            work(piece)
        T.buffer_store(place, piece + step[0], [0])
        with (
            T.If(T.And(T.EQ(step[0], 1), T.Or(T.EQ(got, 0), T.EQ(piece + 1, count)))),
            T.Then(),
        ):
            T.buffer_store(step, T.int32(-1), [0])
            T.buffer_store(place, T.int32(count - 1), [0])


def _variable(value: Any) -> Any:
    """An int32 with a place of its own: a bound expression would be read anew at each use."""
    variable = T.alloc_buffer((1,), "int32")
    T.buffer_store(variable, T.cast(value, "int32"), [0])
    return variable
