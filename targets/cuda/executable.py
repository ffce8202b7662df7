# pyright: basic
# NVIDIA's bindings are not typed.
"""Run a program on a GPU: weights stay there, and so do the states of sequences."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np

from mmc.errors import MmcError
from mmc.ir.evaluate import bind_inputs
from mmc.ir.graph import Graph
from mmc.ir.ops.recurrence import Kernel
from mmc.ir.ops.source import Weight
from mmc.ir.statistics import stored_bytes
from mmc.targets.base import Arrays, Meter, read_graphs
from mmc.targets.cuda import architecture
from mmc.targets.cuda.caches import Caches
from mmc.targets.cuda.call import Arenas, Call, Loaded
from mmc.targets.cuda.compiler import compile_source
from mmc.targets.cuda.driver import Memory, device
from mmc.targets.cuda.greedy import Greedy
from mmc.targets.cuda.launch import INT64, POINTER, Code, launch
from mmc.targets.cuda.launches import Entry, from_json
from mmc.targets.cuda.weights import put
from mmc.targets.tvm.geometry import Geometry
from mmc.targets.tvm.plan import Plan, with_consumers
from mmc.targets.weights_file import WeightsFile

RECODE_THREADS = 256
"""As in runtime.cuh."""

MAX_CALLS = 16
"""Sizes of calls whose memory and launches are remembered; decoding repeats one."""


class CudaExecutable:
    """Loaded code with its weights on the device."""

    def __init__(
        self, code: Code, weights: WeightsFile, plans: Mapping[str, Plan],
        entries: Mapping[str, Entry], embedding_memory: str = "device",
    ) -> None:  # fmt: skip
        self.code, self.plans, self.entries = code, plans, entries
        self.weights = put(weights, (plan.graph for plan in plans.values()), embedding_memory)
        for weight in dict.fromkeys(w for plan in plans.values() for w in plan.graph.weights):
            if weight.type.dtype.layout == "1.6bit":
                _recode(code, self.weights.addresses[weight.name], weight)
        device().synchronize()
        self._loaded = Loaded(code, self.weights, Memory(0))
        self._calls: dict[object, Call] = {}
        self._idle: dict[object, Greedy] = {}
        self._caches = Caches()

    @staticmethod
    def open(
        folder: Path, entries: Sequence[str], *, keep_all: bool = False,
        embedding_memory: str = "device",
    ) -> CudaExecutable:  # fmt: skip
        """Load what was built for the device that is here, or else what the driver can compile.

        With `keep_all` no memory is used twice, so that every value can be looked at afterwards.
        """
        graphs = read_graphs(folder, entries)
        weights = WeightsFile.open(folder / "weights.safetensors")
        plans = {name: planned(graph, keep_all) for name, graph in graphs.items()}
        made = from_json((folder / "lib" / "launches.json").read_text())
        if keep_all:
            made = {name: Entry(entry.groups) for name, entry in made.items()}
        return CudaExecutable(Code(image(folder / "lib")), weights, plans, made, embedding_memory)

    def on_stream(self, stream: int) -> AbstractContextManager[None]:
        """Run on another stream, by its CUDA handle, and in order with what ran before."""
        return device().using(stream)

    def use_threads(self, count: int) -> None:
        """One thread of the CPU launches what runs on the GPU."""
        if count != 1:
            raise MmcError("a GPU takes no number of threads", "--threads", "leave it out")

    def meter(self) -> Meter:
        """Times by the clock on the wall, memory of the device, the board's energy."""
        from mmc.targets.cuda.meter import CudaMeter

        resident = {"weights": self.weights.memory.size, "workspace": self._loaded.workspace.size}
        if self.weights.host_bytes:
            resident["embedding on the host"] = self.weights.host_bytes
        return CudaMeter(self.code, resident)

    def run(self, entry: str, inputs: Arrays) -> dict[str, Any]:
        """The outputs by name.  One that is named like an input, a state, stays on the device.

        All of them do where an input of somebody else lies on the device.
        """
        arenas = self.call(entry, inputs)
        there = any(hasattr(x, "__cuda_array_interface__") for x in inputs.values())
        outputs: dict[str, Any] = {}
        for name, value in self.plans[entry].graph.outputs:
            array = arenas.array(name)
            if array is None:
                outputs[name] = arenas.read(value)
            else:
                stays = there or name in arenas.call.made_states
                outputs[name] = array if stays else np.asarray(array)
        return outputs

    def call(self, entry: str, inputs: Arrays) -> Arenas:
        """Run an entry; the next call writes to all but the outputs."""
        call = self._call(entry, inputs)
        caches = self._caches.take(call.geometry, inputs)
        window = call(inputs, caches)
        return Arenas(call, window, None if caches is None else self._caches.lend(caches))

    def repeated(self, entry: str, inputs: Arrays) -> Callable[[], None]:
        """What runs an entry on these inputs each time that it is called, to be measured."""
        call = self._call(entry, inputs)
        outputs = call.new_memory()
        caches = self._caches.take(call.geometry, inputs)
        call.fill(inputs)
        call.replay(None, outputs, caches)
        return lambda: call.replay(None, outputs, caches)

    def greedy(self, entry: str, inputs: Arrays, count: int) -> Iterator[np.ndarray] | None:
        """The `count` likeliest tokens int64 [B], one behind the other, chosen on the device.

        The entry takes "ids" [B, 1] and makes "logits" [B, 1, V] and the states of the next step.
        None where a state is handed on as it is: then there is nothing to take turns with.
        """
        key = _key(entry, inputs)
        loop = self._idle.pop(key, None)
        if loop is None:
            geometry = self._geometry(entry, inputs)
            loop = Greedy(geometry, self.entries[entry], self._loaded)
        return self._generated(key, loop, inputs, count) if loop.call.swaps else None

    def _generated(
        self, key: object, loop: Greedy, inputs: Arrays, count: int
    ) -> Iterator[np.ndarray]:
        try:
            yield from loop(inputs, count, self._caches.take(loop.call.geometry, inputs))
        finally:
            if loop.call.loaded is self._loaded and len(self._idle) < MAX_CALLS:
                self._idle[key] = loop

    def _call(self, entry: str, inputs: Arrays) -> Call:
        key = _key(entry, inputs)
        if key not in self._calls:
            if len(self._calls) >= MAX_CALLS:
                self._calls.clear()
            geometry = self._geometry(entry, inputs)
            self._calls[key] = Call(geometry, self.entries[entry], self._loaded)
        return self._calls[key]

    def _geometry(self, entry: str, inputs: Arrays) -> Geometry:
        """Sizes for inputs of these shapes; makes the workspace larger where they need more.

        What was recorded with a smaller one is forgotten.
        """
        plan = self.plans[entry]
        sized = {name: np.broadcast_to(np.int8(0), tuple(x.shape)) for name, x in inputs.items()}
        geometry = Geometry(plan, bind_inputs(plan.graph, sized))
        size = geometry.arena_bytes["workspace"]
        if size > self._loaded.workspace.size:
            self._calls.clear()
            self._idle.clear()
            self._loaded = Loaded(self.code, self.weights, Memory(size))
        return geometry


def _recode(code: Code, address: int, weight: Weight) -> None:
    """Make the bytes of a matrix those that kernels read (digits.cuh), where they lie."""
    words = stored_bytes(weight.type) // 4
    given = [(address, POINTER), (words, INT64)]
    launch(code.kernel("mmc_recode"), -(-words // RECODE_THREADS), RECODE_THREADS, given)


def _key(entry: str, inputs: Arrays) -> object:
    return entry, *inputs, *(tuple(x.shape) for x in inputs.values())


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
