# pyright: basic
# NVIDIA's bindings are not typed.
"""Run a program on a GPU: weights stay there, and so do the states of sequences.

A call of the same sizes uses the same memory each time, so that its launches are recorded once, as
a CUDA graph.  What it makes is then copied to memory of its own: what the caller holds does not
change with the next call.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmc.errors import MmcError
from mmc.ir.evaluate import bind_inputs
from mmc.ir.graph import Graph
from mmc.ir.op import Value
from mmc.ir.ops.recurrence import Kernel
from mmc.ir.ops.source import Weight
from mmc.ir.text import parse
from mmc.targets.base import Arrays, graph_file
from mmc.targets.cuda import architecture
from mmc.targets.cuda.compiler import compile_source
from mmc.targets.cuda.driver import (
    INT32,
    INT64,
    POINTER,
    Code,
    Memory,
    Recorded,
    device,
    launch,
)
from mmc.targets.cuda.launches import Group, Launch, choose, from_json, number
from mmc.targets.tvm.geometry import Geometry, Place
from mmc.targets.tvm.plan import Plan, root_of, with_consumers
from mmc.targets.weights_file import WeightsFile

MAX_CALLS = 16
"""Sizes of calls whose memory and launches are remembered; decoding repeats one."""


@dataclass(frozen=True, eq=False)
class DeviceArray:
    """An array on the device; numpy sees a copy of it."""

    memory: Memory
    place: Place

    @property
    def shape(self) -> tuple[int, ...]:
        return self.place.shape

    @property
    def nbytes(self) -> int:
        return self.place.nbytes

    def __len__(self) -> int:
        return self.shape[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        raw = np.empty(self.place.span, np.uint8)
        self.memory.read(self.place.start, raw)
        place = Place("", 0, self.place.shape, self.place.dtype, self.place.strides)
        return place.array({"": raw}).astype(dtype or self.place.dtype, copy=False)


class Call:
    """The memory of calls of the same sizes, and their launches."""

    def __init__(self, geometry: Geometry, groups: Sequence[Group], code: Code,
                 weights: tuple[Memory, WeightsFile], workspace: Memory) -> None:  # fmt: skip
        self.geometry, self.weights = geometry, weights
        size = geometry.arena_bytes
        self.memory = {name: Memory(size[name]) for name in ("inputs", "outputs")}
        self.memory["workspace"] = workspace
        self._code = code
        self._kernels = geometry.plan.kernels
        self._launches = [x for group in groups for x in choose(group, geometry.symbols)]
        self._recorded: Recorded | None = None
        self._runs = 0

    def fill(self, inputs: Arrays) -> None:
        """Write the inputs; those that lie side by side on the device go as one."""
        pending: tuple[Memory, int, int, int] | None = None
        for op in self.geometry.plan.graph.inputs:
            place, given = self.geometry.place(op), inputs[op.name]
            if not isinstance(given, DeviceArray):
                self.memory["inputs"].write(place.start, place.packed(given))
                continue
            piece = (given.memory, place.start, given.place.start, given.place.span)
            pending = self._joined(pending, piece)
        self._copy(pending)

    def _joined(self, before: Any, piece: Any) -> Any:
        if before is not None:
            memory, to, start, _ = before
            if memory is piece[0] and piece[1] - to == piece[2] - start > 0:
                return memory, to, start, piece[2] - start + piece[3]
            self._copy(before)
        return piece

    def _copy(self, piece: Any) -> None:
        if piece is not None:
            memory, to, start, size = piece
            self.memory["inputs"].copy(to, memory, start, size)

    def run(self) -> None:
        """Run the kernels; the first time one by one, which also reports what is wrong."""
        if self._runs == 1:
            self._recorded = Recorded(self._launch_all)
        if self._recorded is None:
            self._launch_all()
        else:
            self._recorded()
        self._runs += 1

    def _launch_all(self) -> None:
        for chosen in self._launches:
            blocks = chosen.blocks(self.geometry.symbols)
            if blocks:
                function = self._code[f"{chosen.kernel}_kernel"]
                launch(function, blocks, chosen.threads, self._arguments(chosen, blocks))

    def _arguments(self, chosen: Launch, blocks: int) -> list[tuple[int, Any]]:
        found: list[tuple[int, Any]] = []
        for argument in chosen.arguments:
            if not isinstance(argument, str):
                found.append((number(argument, self.geometry.symbols), INT64))
            elif argument == "blocks":
                found.append((blocks, INT32))
            else:
                found.append((self._address(self._value(argument)), POINTER))
        return found

    def _value(self, name: str) -> Value:
        """The operand or result that an argument such as 3.out_1 names."""
        kernel, _, which = name.partition(".")
        kind, _, position = which.partition("_")
        op = self._kernels[int(kernel)]
        return (op.operands if kind == "in" else op.results)[int(position)]

    def _address(self, value: Value) -> int:
        root = root_of(value)
        if isinstance(root, Weight):
            memory, file = self.weights
            return memory.address + file.offsets[root.name]
        place = self.geometry.place(root)
        return self.memory[place.arena].address + place.start


@dataclass(frozen=True)
class Arenas:
    """What one call made."""

    call: Call
    outputs: Memory

    @property
    def symbols(self) -> Mapping[str, int]:
        return self.call.geometry.symbols

    def read(self, value: Value) -> np.ndarray:
        """A value of the graph, as a copy."""
        root = root_of(value)
        if isinstance(root, Weight):
            array = self.call.weights[1].array(root).copy()
            return array if value is root else array.reshape(self.call.geometry.shape(value))
        return np.asarray(self.array(value))

    def array(self, value: Value) -> DeviceArray:
        """A value on the device."""
        root = root_of(value)
        place = self.call.geometry.place(root)
        if value is not root:
            place = place.reshaped(self.call.geometry.shape(value))
        memory = self.outputs if place.arena == "outputs" else self.call.memory[place.arena]
        return DeviceArray(memory, place)


class CudaExecutable:
    """Loaded code with its weights on the device."""

    def __init__(
        self, code: Code, weights: WeightsFile, plans: Mapping[str, Plan],
        launches: Mapping[str, Sequence[Group]],
    ) -> None:  # fmt: skip
        self.code, self.plans, self.launches = code, plans, launches
        memory = Memory(weights.bytes.size)
        memory.write(0, weights.bytes)
        device().synchronize()
        self.weights = memory, weights
        self._workspace = Memory(0)
        self._calls: dict[object, Call] = {}

    @staticmethod
    def open(folder: Path, entries: Sequence[str], *, keep_all: bool = False) -> CudaExecutable:
        """Load what was built for the device that is here, or else what the driver can compile.

        With `keep_all` no memory is used twice, so that every value can be looked at afterwards.
        """
        graphs = {e: parse((folder / graph_file(e)).read_text(), graph_file(e)) for e in entries}
        weights = WeightsFile.open(folder / "weights.safetensors")
        plans = {name: planned(graph, keep_all) for name, graph in graphs.items()}
        launches = from_json((folder / "lib" / "launches.json").read_text())
        return CudaExecutable(Code(image(folder / "lib")), weights, plans, launches)

    def use_threads(self, count: int) -> None:
        """One thread of the CPU launches what runs on the GPU."""
        if count != 1:
            raise MmcError("a GPU takes no number of threads", "--threads", "leave it out")

    def read_limit(self) -> float | None:
        """Not measured yet."""
        return None

    def run(self, entry: str, inputs: Arrays) -> dict[str, Any]:
        """The outputs by name.  One that is named like an input, a state, stays on the device."""
        arenas = self.call(entry, inputs)
        graph = self.plans[entry].graph
        stays = {op.name for op in graph.inputs}
        outputs: dict[str, Any] = {}
        for name, value in graph.outputs:
            outputs[name] = arenas.array(value) if name in stays else arenas.read(value)
        return outputs

    def call(self, entry: str, inputs: Arrays) -> Arenas:
        """Run an entry; the next call writes to all but the outputs."""
        call = self._call(entry, inputs)
        call.fill(inputs)
        call.run()
        size = call.geometry.arena_bytes["outputs"]
        outputs = Memory(size)
        outputs.copy(0, call.memory["outputs"], 0, size)
        return Arenas(call, outputs)

    def _call(self, entry: str, inputs: Arrays) -> Call:
        shapes = {
            n: x.shape if isinstance(x, DeviceArray) else np.shape(x) for n, x in inputs.items()
        }
        key = entry, *shapes.items()
        if key not in self._calls:
            if len(self._calls) >= MAX_CALLS:
                self._calls.clear()
            plan = self.plans[entry]
            sized = {name: np.broadcast_to(np.int8(0), shape) for name, shape in shapes.items()}
            geometry = Geometry(plan, bind_inputs(plan.graph, sized))
            self._grow(geometry.arena_bytes["workspace"])
            self._calls[key] = Call(
                geometry, self.launches[entry], self.code, self.weights, self._workspace
            )
        return self._calls[key]

    def _grow(self, size: int) -> None:
        """Make the workspace larger; what was recorded with the old one is forgotten."""
        if size > self._workspace.size:
            self._calls.clear()
            self._workspace = Memory(size)


def planned(graph: Graph, keep_all: bool = False) -> Plan:
    """A plan in which kernels that one launch may do together do not share memory."""
    kernels = [op for op in graph if isinstance(op, Kernel)]
    return Plan(graph, keep_all, with_consumers(kernels))


def image(folder: Path) -> bytes:
    """The code for the device that is here; compiled now where the folder has none for it."""
    cubins = {path.stem: path for path in sorted(folder.glob("*.cubin"))}
    chosen = architecture.best(cubins, device().capability)
    if chosen is not None:
        return cubins[chosen].read_bytes()
    major, minor = device().capability
    own = f"sm_{major}{minor}"
    try:
        return compile_source((folder / "kernels.cu").read_text(), own)
    except MmcError as error:
        raise MmcError(
            f"holds code for {', '.join(cubins)}, not for {own} ({device().name}), and cannot be "
            f"compiled for it here: {error.what}",
            str(folder), f"compile again with --target cuda:{own}",
        ) from error  # fmt: skip
