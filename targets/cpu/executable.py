# pyright: basic
# TVM does not type its tensors.
"""Run a built program: arrays into the input arena, one call, views of the output arena."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mmc.ir.evaluate import bind_inputs
from mmc.ir.op import Value
from mmc.ir.ops.source import Weight
from mmc.ir.text import parse
from mmc.ir.types import TensorType, static_shape
from mmc.targets.base import Arrays, graph_file
from mmc.targets.cpu.features import choose_isa
from mmc.targets.tvm.loader import Program, aligned_zeros, as_tensor, set_threads
from mmc.targets.tvm.plan import Plan, root_of, storage_type
from mmc.targets.tvm.program import symbols_of
from mmc.targets.weights_file import WeightsFile

THREADS = "MMC_NUM_THREADS"
"""Environment variable: how many threads kernels use; all processors by default."""


@dataclass
class CpuExecutable:
    """A linked program with its weights mapped and its plans at hand."""

    program: Program
    weights: WeightsFile
    plans: Mapping[str, Plan]

    def __post_init__(self) -> None:
        self._mapped = as_tensor(self.weights.bytes)
        self._workspace = aligned_zeros(0)
        threads = os.environ.get(THREADS)
        set_threads(int(threads) if threads else len(os.sched_getaffinity(0)))

    @staticmethod
    def open(folder: Path, entries: Sequence[str]) -> CpuExecutable:
        """Link the code for the best instruction set that the processor has."""
        graphs = {e: parse((folder / graph_file(e)).read_text(), graph_file(e)) for e in entries}
        weights = WeightsFile.open(folder / "weights.safetensors")
        program = Program(folder / "lib" / f"{choose_isa()}.o")
        return CpuExecutable(
            program, weights, {name: Plan(graph) for name, graph in graphs.items()}
        )

    def run(self, entry: str, inputs: Arrays) -> dict[str, np.ndarray]:
        """The outputs of an entry; the arrays are views of one fresh block of memory."""
        plan = self.plans[entry]
        arenas = self.call(entry, plan, inputs)
        return {name: arenas.read(value) for name, value in plan.graph.outputs}

    def call(self, entry: str, plan: Plan, inputs: Arrays) -> Arenas:
        """Run an entry and hand over its arenas."""
        symbols = bind_inputs(plan.graph, inputs)
        arenas = Arenas(plan, symbols, self.weights)
        needed = arenas.offsets["workspace"][-1]
        if needed > self._workspace.size:
            self._workspace = aligned_zeros(needed)
        arenas.memory["workspace"] = self._workspace
        for op in plan.graph.inputs:
            arenas.write(op, np.asarray(inputs[op.name]))
        tensors = (as_tensor(arenas.memory[name]) for name in ("inputs", "outputs", "workspace"))
        self.program[entry](self._mapped, *tensors, *(symbols[s] for s in symbols_of(plan.graph)))
        return arenas


class Arenas:
    """The memory of one call: where each value of the graph is."""

    def __init__(self, plan: Plan, symbols: Mapping[str, int], weights: WeightsFile) -> None:
        self.plan, self.symbols, self.weights = plan, symbols, weights
        self.offsets = {name: arena.offsets(symbols) for name, arena in plan.arenas.items()}
        self.memory = {
            name: aligned_zeros(self.offsets[name][-1]) for name in ("inputs", "outputs")
        }

    def read(self, value: Value) -> np.ndarray:
        """A value of the graph, where it lies."""
        root = root_of(value)
        if isinstance(value, Weight):
            return self.weights.array(value)
        array = (
            self.weights.array(root) if isinstance(root, Weight) else self._padded(root, root.type)
        )
        shape = static_shape(root.type.bind(self.symbols).shape)
        columns = array[..., : shape[-1]] if shape else array
        return columns.reshape(static_shape(value.type.bind(self.symbols).shape))

    def write(self, value: Value, array: np.ndarray) -> None:
        """Put an input where the program looks for it."""
        place = self._padded(value, value.type)
        if place.shape != array.shape:
            place = place[..., : array.shape[-1]]
        place[...] = array

    def _padded(self, value: Value, declared: TensorType) -> np.ndarray:
        place = self.plan.locations[value]
        stored = storage_type(declared).bind(self.symbols)
        start = self.offsets[place.arena][place.slot]
        shape = static_shape(stored.shape)
        size = int(np.prod(shape, dtype=np.int64)) * stored.dtype.numpy.itemsize
        return (
            self.memory[place.arena][start : start + size].view(stored.dtype.numpy).reshape(shape)
        )
