# pyright: basic
"""The team of threads: loops follow each other, callers take turns, an error ends one call."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tvm
from tvm.script.ir_builder import tirx as T

from mmc.targets.tvm.host import Entry, KernelCall, Tensor, build, make_kernel
from mmc.targets.tvm.loader import Program, aligned_zeros, as_tensor, set_threads

CELLS, LOOPS = 40_000, 40
DATA = Tensor("data", 4 * CELLS)
THREADS = range(1, (os.cpu_count() or 1) + 1)


def shift(x: Any, y: Any) -> None:
    """y[i] = x[i + 1] + 1, around: a cell needs what another thread wrote in the loop before."""
    with T.parallel(0, CELLS) as i:
        T.buffer_store(y, x[T.floormod(i + 1, CELLS)] + T.int32(1), [i])


def stop_at_one(x: Any, y: Any) -> None:
    with T.parallel(0, CELLS) as i, T.Assert(x[i] != 1, "a cell is one"):
        T.buffer_store(y, x[i], [i])


def program() -> Program:
    pointers = {"x": "int32*", "y": "int32*"}
    there, back = Tensor("there", 4 * CELLS), Tensor("back", 4 * CELLS)
    one = make_kernel("shift", pointers, shift)
    calls = [KernelCall(one, (there.at(), back.at())), KernelCall(one, (back.at(), there.at()))]
    stop = make_kernel("stop_at_one", pointers, stop_at_one)
    entries = [
        Entry("shifts", (there, back), (), tuple(calls * (LOOPS // 2))),
        Entry("stop", (there, back), (), (KernelCall(stop, (there.at(), back.at())),)),
    ]
    return Program(build(entries, tvm.target.Target({"kind": "llvm", "mcpu": "x86-64-v2"})))


def cells() -> np.ndarray:
    return aligned_zeros(4 * CELLS).view(np.int32)


def shifted(run: Any) -> bool:
    """Whether all loops ran in order, each cell once in each."""
    there, back = cells(), cells()
    there[:] = np.arange(CELLS)
    run(as_tensor(there), as_tensor(back))
    return bool((there == np.roll(np.arange(CELLS), -LOOPS) + LOOPS).all())


@pytest.mark.parametrize("threads", THREADS)
def test_loops_follow_each_other(threads: int) -> None:
    run = program()["shifts"]
    set_threads(threads)
    assert all(shifted(run) for _ in range(50))


def test_callers_take_turns() -> None:
    run = program()["shifts"]
    right: list[bool] = []

    def call() -> None:
        set_threads(THREADS[-1])
        right.extend(shifted(run) for _ in range(50))

    callers = [threading.Thread(target=call) for _ in range(3)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert len(right) == 150
    assert all(right)


def test_an_error_in_a_loop_ends_that_call_alone() -> None:
    made = program()
    set_threads(THREADS[-1])
    there, back = cells(), cells()
    for place in (0, CELLS - 1):
        there[:] = 0
        there[place] = 1
        with pytest.raises(RuntimeError):
            made["stop"](as_tensor(there), as_tensor(back))
        assert shifted(made["shifts"])


def test_more_threads_than_processors() -> None:
    code = (
        "from tests.targets.test_team import program, set_threads, shifted\n"
        "set_threads(7)\n"
        "run = program()['shifts']\n"
        "assert all(shifted(run) for _ in range(20))\n"
    )
    root = Path(__file__).parents[2]
    environment = {**os.environ, "TVM_NUM_THREADS": "7", "PYTHONPATH": str(root)}
    subprocess.run([sys.executable, "-c", code], cwd=root, env=environment, check=True, timeout=300)
