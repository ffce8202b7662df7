# pyright: basic
"""A team of threads for a whole call: kernels start and end without waking anybody.

TVM starts each parallel loop by a message to every thread of its pool and waits for all of them:
some microseconds, as long as a small matrix takes to read.  Here an entry asks the pool once.  The
first thread runs the entry; the others wait, spinning, for the parallel loops in it:

    thread 0    begin | kernel | loop: task 0 ......... | kernel | loop: task 0, 1 ..... | end
    thread 1          |  spins |   ... task 1 .........          |    (was late)         | returns

A task of a loop goes to whoever asks first, so that a thread that the system has put aside holds up
nobody as long as it has no task.  A program has one team: of two threads of the process that call
it at the same time, one waits.

The code that TVM prints for a parallel loop calls what `__TVMBackendParallelLaunch` points to, with
a function `int task(int index, {void*, int tasks}*, void* data)`; `mmc_launch` takes that place.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from tvm import ir, tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

_TEAM = """
@__TVMBackendParallelLaunch = external global ptr
@mmc_pool = linkonce_odr hidden global ptr null, align 8
@mmc_taken = linkonce_odr hidden global i32 0, align 64
@mmc_forming = linkonce_odr hidden global i32 0, align 4
@mmc_threads = linkonce_odr hidden global { ptr, i32 } zeroinitializer, align 8
@mmc_task = linkonce_odr hidden global ptr null, align 8
@mmc_data = linkonce_odr hidden global ptr null, align 8
@mmc_word = linkonce_odr hidden global i64 -1, align 64
@mmc_done = linkonce_odr hidden global i32 0, align 64
@mmc_failed = linkonce_odr hidden global i32 0, align 4
declare i32 @sched_yield()
declare i32 @mmc_launch(ptr, ptr, i32)
declare i32 @mmc_member(i32, ptr, ptr)

; One turn of waiting; a processor that others want is given away now and then.
define linkonce_odr void @mmc_pause(i32 %turn) alwaysinline nounwind {
  call void asm sideeffect "pause", "~{memory}"()
  %low = and i32 %turn, 127
  %long = icmp eq i32 %low, 127
  br i1 %long, label %yield, label %done
yield:
  %ignored = call i32 @sched_yield()
  br label %done
done:
  ret void
}

; Before the loop that is the whole entry: takes the team, and TVM's launch if that is still TVM's.
define linkonce_odr i32 @mmc_begin() alwaysinline nounwind {
  br label %ask
ask:
  %turn = phi i32 [ 0, %0 ], [ %later, %wait ]
  %pair = cmpxchg ptr @mmc_taken, i32 0, i32 1 acquire monotonic
  %won = extractvalue { i32, i1 } %pair, 1
  br i1 %won, label %form, label %wait
wait:
  call void @mmc_pause(i32 %turn)
  %later = add i32 %turn, 1
  br label %ask
form:
  store i32 1, ptr @mmc_forming
  %launch = load ptr, ptr @__TVMBackendParallelLaunch
  %ours = icmp eq ptr %launch, @mmc_launch
  br i1 %ours, label %done, label %replace
replace:
  store ptr %launch, ptr @mmc_pool
  store ptr @mmc_launch, ptr @__TVMBackendParallelLaunch
  br label %done
done:
  ret i32 0
}

; In the place of TVM's launch: the first loop of a call is the entry, the others are the team's.
; mmc_task and mmc_data are the entry until the thread that runs it opens its first loop.
define linkonce_odr i32 @mmc_start(ptr %task, ptr %data, i32 %tasks) alwaysinline nounwind {
  store ptr %task, ptr @mmc_task
  store ptr %data, ptr @mmc_data
  %forming = load i32, ptr @mmc_forming
  %first = icmp ne i32 %forming, 0
  br i1 %first, label %form, label %loop
form:
  store i32 0, ptr @mmc_forming
  store i32 0, ptr @mmc_failed
  store atomic i64 0, ptr @mmc_word release, align 8
  %pool = load ptr, ptr @mmc_pool
  %code = call i32 %pool(ptr @mmc_member, ptr null, i32 0)
  store atomic i32 0, ptr @mmc_taken release, align 4
  ret i32 %code
loop:
  %size_at = getelementptr { ptr, i32 }, ptr @mmc_threads, i32 0, i32 1
  %size = load i32, ptr %size_at
  %wide = zext i32 %size to i64
  store atomic i32 0, ptr @mmc_done monotonic, align 4
  %old = load atomic i64, ptr @mmc_word monotonic, align 8
  %loops = lshr i64 %old, 32
  %more = add i64 %loops, 1
  %count = and i64 %more, 2147483647
  %high = shl i64 %count, 32
  %middle = shl i64 %wide, 16
  %open = or i64 %high, %middle
  store atomic i64 %open, ptr @mmc_word release, align 8
  br label %own
own:
  %worked = call i32 @mmc_step()
  %word = load atomic i64, ptr @mmc_word acquire, align 8
  %next = and i64 %word, 65535
  %left = icmp ult i64 %next, %wide
  br i1 %left, label %own, label %wait
wait:
  %turn = phi i32 [ 0, %own ], [ %later, %still ]
  %done = load atomic i32, ptr @mmc_done acquire, align 4
  %all = icmp eq i32 %done, %size
  br i1 %all, label %end, label %still
still:
  call void @mmc_pause(i32 %turn)
  %later = add i32 %turn, 1
  br label %wait
end:
  %failed = load atomic i32, ptr @mmc_failed monotonic, align 4
  ret i32 %failed
}

; A thread of the pool: the first one runs the entry, the others take tasks until it is through.
define linkonce_odr i32 @mmc_join(i32 %index, ptr %pool, ptr %unused) alwaysinline nounwind {
  %first = icmp eq i32 %index, 0
  br i1 %first, label %lead, label %serve
lead:
  %size_at = getelementptr { ptr, i32 }, ptr %pool, i32 0, i32 1
  %size = load i32, ptr %size_at
  %kept_at = getelementptr { ptr, i32 }, ptr @mmc_threads, i32 0, i32 1
  store i32 %size, ptr %kept_at
  %task = load ptr, ptr @mmc_task
  %data = load ptr, ptr @mmc_data
  %code = call i32 %task(i32 0, ptr %pool, ptr %data)
  store atomic i64 -1, ptr @mmc_word release, align 8
  ret i32 %code
serve:
  %turn = phi i32 [ 0, %0 ], [ 0, %stay ], [ %later, %wait ]
  %found = call i32 @mmc_step()
  %over = icmp slt i32 %found, 0
  br i1 %over, label %done, label %stay
stay:
  %worked = icmp ne i32 %found, 0
  br i1 %worked, label %serve, label %wait
wait:
  call void @mmc_pause(i32 %turn)
  %later = add i32 %turn, 1
  br label %serve
done:
  ret i32 0
}

; Runs one task of the loop that is open: 1; 0 where none could be had; -1 where the call is over.
; mmc_word: 32 bits that count loops, 16 bits of tasks, 16 bits of the next task; -1 between calls.
define linkonce_odr i32 @mmc_step() alwaysinline nounwind {
  %word = load atomic i64, ptr @mmc_word acquire, align 8
  %over = icmp eq i64 %word, -1
  br i1 %over, label %closed, label %look
closed:
  ret i32 -1
look:
  %next = and i64 %word, 65535
  %shifted = lshr i64 %word, 16
  %tasks = and i64 %shifted, 65535
  %left = icmp ult i64 %next, %tasks
  br i1 %left, label %claim, label %none
claim:
  %following = add i64 %word, 1
  %pair = cmpxchg ptr @mmc_word, i64 %word, i64 %following acq_rel monotonic
  %won = extractvalue { i64, i1 } %pair, 1
  br i1 %won, label %work, label %none
work:
  %task = load ptr, ptr @mmc_task
  %data = load ptr, ptr @mmc_data
  %index = trunc i64 %next to i32
  %code = call i32 %task(i32 %index, ptr @mmc_threads, ptr %data)
  %failed = atomicrmw or ptr @mmc_failed, i32 %code monotonic
  %done = atomicrmw add ptr @mmc_done, i32 1 release
  ret i32 1
none:
  ret i32 0
}
"""

_FUNCTIONS = {
    "mmc_launch": ("mmc_start", ("pointer", "pointer", "int32")),
    "mmc_member": ("mmc_join", ("int32", "pointer", "pointer")),
}
"""Functions whose address is taken, with what they do.  They are functions of TIR: what is imported
TVM inlines, and emits none of it."""

_C_CONVENTION = 1
"""A function with this `calling_conv` keeps its parameters; TVM would make others a packed call."""


@contextlib.contextmanager
def team() -> Iterator[None]:
    """Let the statements within be run by the first thread of a team that shares their loops."""
    with T.attr(T.int32(0), "pragma_import_llvm", _TEAM):
        T.evaluate(T.call_extern("int32", "mmc_begin"))
        with T.parallel(0, 2) as place, T.If(place == 0), T.Then():
            yield


def team_functions() -> dict[ir.GlobalVar, tirx.PrimFunc]:
    """Make the functions that a program with a `team` needs."""
    return {ir.GlobalVar(name): _function(name, *how) for name, how in _FUNCTIONS.items()}


def _function(name: str, body: str, kinds: tuple[str, ...]) -> tirx.PrimFunc:
    with IRBuilder() as builder, T.prim_func():
        T.func_name(name)
        T.func_attr({"global_symbol": name, "calling_conv": _C_CONVENTION})
        T.func_ret(ir.PrimType("int32"))
        given = [
            T.arg(f"a{i}", T.ptr("int8") if kind == "pointer" else tirx.Var(f"a{i}", kind))
            for i, kind in enumerate(kinds)
        ]
        with (
            T.attr(T.int32(0), "pragma_import_llvm", _TEAM),
            T.Assert(T.call_extern("int32", body, *given) == 0, "a parallel loop failed"),
        ):
            T.Return(T.int32(0))
    function: Any = builder.get()
    return function
