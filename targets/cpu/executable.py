# pyright: basic
# TVM does not type its tensors.
"""Run a built program: arrays into the input arena, one call, views of the output arena."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mmc.errors import MmcError
from mmc.ir.evaluate import bind_inputs
from mmc.ir.op import Value
from mmc.ir.ops.source import Weight
from mmc.targets.base import Arrays, Meter, read_graphs
from mmc.targets.cpu.caches import Caches
from mmc.targets.cpu.continuation import continued, moves
from mmc.targets.cpu.huge_pages import in_huge_pages
from mmc.targets.tvm.geometry import Geometry
from mmc.targets.tvm.loader import Program, aligned_zeros, as_tensor, set_threads
from mmc.targets.tvm.plan import Plan, root_of
from mmc.targets.weights_file import WeightsFile

if TYPE_CHECKING:
    from mmc.targets.cpu.read_limit import ReadLimit

THREADS = "MMC_NUM_THREADS"
"""Environment variable: how many threads kernels use; all processors by default."""


MAX_GEOMETRIES = 64
"""Sizes of calls that are remembered; decoding repeats one."""


def default_threads() -> int:
    """What the environment says, or all processors that this process may use."""
    count = os.environ.get(THREADS) or str(len(os.sched_getaffinity(0)))
    if not count.isdecimal():
        raise MmcError(f"{count!r} is no number of threads", THREADS)
    return int(count)


@dataclass
class CpuExecutable:
    """A linked program with its weights mapped and its plans at hand."""

    program: Program
    weights: WeightsFile
    plans: Mapping[str, Plan]

    def __post_init__(self) -> None:
        self._mapped = as_tensor(self.weights.bytes)
        self._geometries: dict[object, Geometry] = {}
        self._workspace = aligned_zeros(0)
        self._given: Given | None = None
        self._caches = Caches()
        self._measure_reading: ReadLimit | None = None
        self.use_threads(default_threads())

    @staticmethod
    def open(folder: Path, entries: Sequence[str], code: str) -> CpuExecutable:
        """Link the object file of that name."""
        plans = {name: Plan(graph) for name, graph in read_graphs(folder, entries).items()}
        file = folder / "weights.safetensors"
        weights = WeightsFile.open(file, in_huge_pages(file))
        program = Program(folder / "lib" / f"{code}.o")
        return CpuExecutable(program, weights, plans)

    def use_threads(self, count: int) -> None:
        """Run kernels with that many threads from now on; raise MmcError where it cannot."""
        try:
            set_threads(count)
        except ValueError as error:
            raise MmcError(str(error), THREADS) from None
        self._threads = count

    def meter(self) -> Meter:
        """CPU time, and what memory lets through."""
        return CpuMeter(self)

    def read_limit(self) -> float:
        """Bytes a second by CPU time, all threads together; its buffer is made once."""
        from mmc.targets.cpu.read_limit import ReadLimit

        if self._measure_reading is None:
            self._measure_reading = ReadLimit()
        return self._measure_reading(self._threads)

    def run(self, entry: str, inputs: Arrays) -> dict[str, np.ndarray]:
        """The outputs of an entry; the arrays are views of one fresh block of memory.

        Caches are views of the memory in which they grow: see `mmc.targets.cpu.caches`.
        """
        arenas = self.call(entry, inputs)
        made = arenas.outputs()
        if "caches" in arenas.memory:
            self._caches.lend(arenas.geometry, arenas.memory["caches"], made)
        return made

    def call(self, entry: str, inputs: Arrays) -> Arenas:
        """Run an entry and hand over its arenas; the next call writes to all but the outputs."""
        geometry = self._geometry(entry, inputs)
        size = geometry.arena_bytes
        if size["workspace"] > self._workspace.size:
            self._workspace = aligned_zeros(size["workspace"])
        if self._given is None or self._given.geometry is not geometry:
            self._given = Given(geometry, aligned_zeros(size["inputs"]))
        self._given.fill(inputs)
        memory = {
            "inputs": self._given.memory,
            "outputs": aligned_zeros(size["outputs"]),
            "workspace": self._workspace,
            **self._caches.take(geometry, inputs),
        }
        self._bound(entry, geometry, memory)()
        return Arenas(geometry, memory, self.weights)

    def greedy(self, entry: str, inputs: Arrays, count: int) -> Iterator[np.ndarray] | None:
        """As `mmc.targets.base.Continuing` says; in memory of its own."""
        geometry = self._geometry(entry, inputs)
        left = moves(geometry)
        if left is None:
            return None
        sizes = geometry.arena_bytes.items()
        memory = {name: aligned_zeros(size) for name, size in sizes if name != "caches"}
        memory |= self._caches.take(geometry, inputs)
        step = self._bound(entry, geometry, memory)
        return continued(geometry, memory, step, left, inputs, count)

    def _bound(
        self, entry: str, geometry: Geometry, memory: Mapping[str, np.ndarray]
    ) -> Callable[[], object]:
        """The call of an entry on these arenas."""
        tensors = [as_tensor(memory[name]) for name in geometry.plan.arenas]
        return partial(self.program[entry], self._mapped, *tensors, *geometry.sizes)

    def _geometry(self, entry: str, inputs: Arrays) -> Geometry:
        """The geometry for the shapes of the inputs; raise MmcError where they do not fit."""
        key = entry, *inputs, *map(np.shape, inputs.values())
        if key not in self._geometries:
            if len(self._geometries) >= MAX_GEOMETRIES:
                self._geometries.clear()
            plan = self.plans[entry]
            self._geometries[key] = Geometry(plan, bind_inputs(plan.graph, inputs))
        return self._geometries[key]


@dataclass
class CpuMeter(Meter):
    """What a CPU tells."""

    executable: CpuExecutable

    def read_limit(self) -> float:
        """Bytes a second by CPU time, all threads together."""
        return self.executable.read_limit()


@dataclass
class Given:
    """The memory of the inputs of a call, which following calls of the same sizes use again."""

    geometry: Geometry
    memory: np.ndarray

    def __post_init__(self) -> None:
        plan = self.geometry.plan
        given = (op for op in plan.graph.inputs if op not in plan.caches)
        places = ((op.name, self.geometry.place(op)) for op in given)
        self._arrays = {name: place.array({"inputs": self.memory}) for name, place in places}

    def fill(self, inputs: Arrays) -> None:
        """Write the inputs."""
        for name, array in self._arrays.items():
            array[...] = inputs[name]


@dataclass(frozen=True)
class Arenas:
    """The memory of one call."""

    geometry: Geometry
    memory: Mapping[str, np.ndarray]
    weights: WeightsFile

    @property
    def symbols(self) -> Mapping[str, int]:
        return self.geometry.symbols

    def outputs(self) -> dict[str, np.ndarray]:
        """The outputs by name."""
        return {name: self.read(value) for name, value in self.geometry.plan.graph.outputs}

    def read(self, value: Value) -> np.ndarray:
        """A value of the graph: of the outputs and caches a view, of all else a copy."""
        root = root_of(value)
        if isinstance(root, Weight):
            array = self.weights.array(root).copy()
        else:
            place = self.geometry.place(root)
            array = place.array(self.memory)
            array = array if place.arena in ("outputs", "caches") else array.copy()
        return array if value is root else array.reshape(self.geometry.shape(value))
