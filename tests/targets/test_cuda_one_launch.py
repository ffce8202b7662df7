"""One launch for a graph where there is no GPU: its source, run block beside block on the CPU."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from functools import cache

import numpy as np
import pytest

from mmc.ir.evaluate import evaluate
from mmc.ir.ops.source import Input, Weight
from mmc.ir.packing import pack
from mmc.targets.cuda import persistent, phases, program
from mmc.targets.cuda.build import Generated, generate
from mmc.targets.cuda.launches import Persistent, Word
from mmc.targets.cuda.tuning import Tuning
from mmc.targets.tvm.plan import Plan, root_of
from tests.gpu.prepared import chain_graph, random_trits
from tests.targets.cuda_emulation import emulated, emulated_launches

BLOCKS = 5

CASES: Mapping[str, tuple[int, ...]] = {
    "more_columns_than_threads": (64, 352, 64, 1040, 48),
    "blocks_without_a_tile": (96, 16, 400, 32),
    "the_ring_comes_round": (3200, 720, 3200),
    "a_tile_is_a_chunk": (7008, 96),
}
"""Rows that are multiplied one behind the other, by their columns."""


@cache
def built() -> tuple[Generated, ctypes.CDLL]:
    """All cases for few blocks, and their launches as functions on the CPU."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (phases, persistent, program):
            patch.setattr(module, "BLOCKS", BLOCKS)
        chains = {name: Plan(chain_graph(name, CASES[name])[0]) for name in CASES}
        made = generate(chains, "sm_90a", Tuning())
    kernels = [one.kernel for entry in made.launches.values() if (one := entry.persistent)]
    return made, emulated_launches("one_launch", made.text, kernels, together=True)


class Case:
    """The launch of a chain and all that it reads and writes."""

    def __init__(self, name: str) -> None:
        widths = CASES[name]
        graph, sizes = chain_graph(name, widths)
        self.plan = Plan(graph)
        made, self.library = built()
        one = made.launches[name].persistent
        assert one is not None
        self.one: Persistent = one
        x = np.random.default_rng(len(widths)).standard_normal((1, widths[0]), np.float32)
        weights = {key: pack(random_trits(*size), "2bit") for key, size in sizes.items()}
        self.wanted = evaluate(graph, {"x": x}, weights)["y"]
        self.arrays = {key: aligned(array) for key, array in {"x": x, **weights}.items()}
        self.y = aligned(np.zeros_like(self.wanted))
        self.exchange = aligned(np.full(2 * one.floats, -1, np.int32))
        self.finished = aligned(np.zeros(1, np.uint64))
        self.table = aligned(np.array([self._addresses(words) for words in one.phases], np.int64))

    def _addresses(self, words: Sequence[Word]) -> list[int]:
        return [word if isinstance(word, int) else self._address(*word) for word in words]

    def _address(self, name: str, offset: int) -> int:
        number, _, place = name.partition(".")
        kind, _, position = place.partition("_")
        op = self.plan.kernels[int(number)]
        root = root_of((op.operands if kind == "in" else op.results)[int(position)])
        array = self.arrays[root.name] if isinstance(root, Input | Weight) else self.y
        return array.ctypes.data + offset

    def run(self, under_way: int) -> np.ndarray:
        self.y[...] = np.nan
        pointers = {"table": self.table, "exchange": self.exchange, "finished": self.finished}
        given = {name: ctypes.c_void_p(array.ctypes.data) for name, array in pointers.items()}
        numbers = {
            "phases": ctypes.c_int64(len(self.one.phases)),
            "under_way": ctypes.c_int(under_way), "blocks": ctypes.c_int(BLOCKS),
        }  # fmt: skip
        passed = [{**given, **numbers}[name] for name in self.one.parameters]
        self.library[f"run_{self.one.kernel}"](ctypes.c_int(BLOCKS), *passed)
        return self.y


def aligned(array: np.ndarray) -> np.ndarray:
    """A copy where lines of memory begin."""
    memory = np.zeros(array.nbytes + 128, np.uint8)
    start = -memory.ctypes.data % 128
    made = memory[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    made[...] = array
    return made


@emulated
@pytest.mark.parametrize("name", CASES)
def test_one_launch_is_the_interpreters(name: str) -> None:
    """Also in the second area of the exchange, and with any number of chunks under way.

    The order of the sums of squares may change the last bit of a scale.
    """
    case = Case(name)
    first = case.run(1).copy()
    np.testing.assert_allclose(first, case.wanted, 1e-6)
    for under_way in (2, 7):
        assert np.array_equal(case.run(under_way), first)
    assert case.finished[0] == 3 * BLOCKS
