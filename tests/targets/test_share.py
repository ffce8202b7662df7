"""Each piece of shared work is done once, whatever the threads and however long it takes."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest
from tvm.script.ir_builder import tirx as T

from mmc.targets.cpu.processor import PROCESSORS
from mmc.targets.cpu.share import share
from mmc.targets.tvm.host import Entry, KernelCall, Tensor, build, make_kernel
from mmc.targets.tvm.loader import Program, aligned_zeros, as_tensor, set_threads

COUNTS = [1, 2, 3, 127, 128, 129, 1000]


def entry(count: int) -> Entry:
    """Add to `done[piece]`; a piece takes as many steps as `steps[piece]` says."""

    def body(done: Any, steps: Any) -> None:
        def work(piece: Any) -> None:
            with T.serial(0, steps[piece]):
                T.buffer_store(done, T.bitwise_xor(done[piece], 1 << 20), [piece])
            T.buffer_store(done, done[piece] + 1, [piece])

        share(count, work)

    kernel = make_kernel(f"count_{count}", {"done": "int32*", "steps": "int32*"}, body)
    done, steps = Tensor("done", 4 * count), Tensor("steps", 4 * count)
    return Entry(
        f"share_{count}", (done, steps), (), (KernelCall(kernel, (done.at(), steps.at())),)
    )


@pytest.fixture(scope="module")
def program() -> Program:
    return Program(build([entry(count) for count in COUNTS], PROCESSORS["portable"].target))


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("slow", ["none", "first", "last", "random"])
@pytest.mark.parametrize("threads", [1, 2])
def test_every_piece_is_done_once(program: Program, count: int, slow: str, threads: int) -> None:
    if threads > (os.cpu_count() or 1):
        pytest.skip("this machine has one CPU")
    steps = aligned_zeros(4 * count)
    weights = {
        "none": np.zeros(count),
        "first": np.arange(count) < count // 2,
        "last": np.arange(count) >= count // 2,
        "random": np.random.default_rng(count).random(count) < 0.1,
    }
    steps.view(np.int32)[:] = 2000 * weights[slow]
    set_threads(threads)
    try:
        for _ in range(5):
            done = aligned_zeros(4 * count)
            program[f"share_{count}"](as_tensor(done), as_tensor(steps))
            assert (done.view(np.int32) == 1).all()
    finally:
        set_threads(1)
