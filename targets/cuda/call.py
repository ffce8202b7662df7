# pyright: basic
# NVIDIA's bindings are not typed.
"""Calls of the same sizes: where their values lie, and their launches, recorded once.

What a call makes is lent: its memory is written again only when nobody holds the outputs any more.
States that come from the call before are read where they lie, so a step that follows a step copies
nothing: two pieces of memory take turns.  Where states of both are kept, the outputs are copied.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from mmc.ir.op import Value
from mmc.ir.ops.source import Input, Weight
from mmc.targets.base import Arrays
from mmc.targets.cuda.arrays import DeviceArray, Window, address_of
from mmc.targets.cuda.driver import Memory
from mmc.targets.cuda.launch import INT32, INT64, POINTER, Code, Recorded, launch
from mmc.targets.cuda.launches import Entry, Launch, Persistent, Word, choose, number
from mmc.targets.cuda.resident import Phases, resident
from mmc.targets.cuda.weights import Weights
from mmc.targets.layout import aligned
from mmc.targets.tvm.geometry import Geometry, Place
from mmc.targets.tvm.plan import root_of


@dataclass(frozen=True)
class Loaded:
    """What every call of an executable shares."""

    code: Code
    weights: Weights
    workspace: Memory


Recordings = dict[tuple[Memory | None, Memory], Recorded | None]
"""Launches by where the states come from and where the outputs go; None until they are repeated."""


@dataclass
class Result:
    """Memory for outputs, taken when it is used first, and who looks at it."""

    size: int
    window: Callable[[], Window | None] = lambda: None

    @cached_property
    def memory(self) -> Memory:
        return Memory(self.size)

    def lend(self) -> Window:
        window = Window(self.memory)
        self.window = weakref.ref(window)
        return window


@dataclass(frozen=True)
class Piece:
    """What is copied to the inputs: from an address of the device, or None from the host."""

    source: int | None
    to: int
    size: int

    def joined(self, piece: Piece) -> list[Piece]:
        """Both as one, where the other follows on both sides, with alignment between; else both."""
        step = piece.to - self.to
        beside = self.size <= step <= aligned(self.size)
        here, there = self.source, piece.source
        if beside and (here is there is None or (here and there and there - here == step)):
            return [Piece(self.source, self.to, step + piece.size)]
        return [self, piece]


class Call:
    """The memory of calls of the same sizes, and their launches.

    behind: launches more at the end of each run, given the memory of the outputs.
    """

    def __init__(
        self, geometry: Geometry, entry: Entry, loaded: Loaded,
        behind: Callable[[Call, Memory], None] = lambda _, __: None,
    ) -> None:  # fmt: skip
        self.geometry, self.loaded = geometry, loaded
        graph = geometry.plan.graph
        self.inputs = Memory(geometry.arena_bytes["inputs"])
        caches = geometry.plan.caches
        self.places = {op.name: geometry.place(op) for op in graph.inputs if op not in caches}
        made = {n: v for n, v in graph.outputs if not isinstance(root_of(v), Input | Weight)}
        self.outputs = {name: place_of(geometry, value) for name, value in made.items()}
        self.made_states = [name for name in graph.states if name in made]
        self._states = [name for name in self.made_states if name in self.places]
        self._kernels = geometry.plan.kernels
        self._launches = [x for group in entry.groups for x in choose(group, geometry.symbols)]
        one = entry.persistent
        fits = one and number(one.rows, geometry.symbols) == 1 and resident(loaded.code, one)
        self._persistent = one if fits else None
        self._phases: dict[tuple[Memory | None, Memory], Phases] = {}
        self._behind = behind
        self._staged = np.zeros(geometry.arena_bytes["inputs"], np.uint8)
        self._results = [Result(geometry.arena_bytes["outputs"]) for _ in range(3)]
        self._recorded = weakref.WeakKeyDictionary[Memory, Recordings]()

    @property
    def swaps(self) -> bool:
        """Whether each state is made anew by a kernel, so that two memories can take turns."""
        return len(self.made_states) == len(self.geometry.plan.graph.states)

    def __call__(self, inputs: Arrays, caches: Memory | None) -> Window:
        """Run; the outputs lie in the window, but for the caches."""
        source = self._source(inputs)
        self.fill(inputs, () if source is None else self._states)
        lendable, spare = self._results[:-1], self._results[-1]
        result = next((one for one in lendable if one.window() is None), spare)
        self.replay(source, result.memory, caches)
        if result is not spare:
            return result.lend()
        kept = self.new_memory()
        kept.copy(0, spare.memory.address, kept.size)
        return Window(kept)

    def new_memory(self) -> Memory:
        """Memory for outputs."""
        return Memory(self.geometry.arena_bytes["outputs"])

    def _source(self, inputs: Arrays) -> Memory | None:
        """The memory where all states lie just as a call of this one left them, or None."""
        window: Window | None = None
        for name in self._states:
            given = inputs[name]
            if not isinstance(given, DeviceArray) or given.place is not self.outputs[name]:
                return None
            if window is not None and given.window is not window:
                return None
            window = given.window
        lent = any(one.window() is window for one in self._results)
        return window.memory if window is not None and lent else None

    def fill(self, inputs: Arrays, but: Sequence[str] = ()) -> None:
        """Write the inputs; those that lie side by side go as one."""
        pieces: list[Piece] = []
        for name, place in self.places.items():
            if name in but:
                continue
            given = inputs[name]
            address = address_of(given)
            if address is None:
                place.array({"inputs": self._staged})[...] = given
            piece = Piece(address, place.start, place.extent)
            pieces[-1:] = pieces[-1].joined(piece) if pieces else [piece]
        for piece in pieces:
            if piece.source is None:
                self.inputs.write(piece.to, self._staged[piece.to : piece.to + piece.size])
            else:
                self.inputs.copy(piece.to, piece.source, piece.size)

    def replay(self, source: Memory | None, target: Memory, caches: Memory | None) -> None:
        """`launch`, recorded when it is done again; the first run reports what is wrong."""
        recorded = self._recorded.setdefault(caches or self.inputs, {})
        key = source, target
        if key not in recorded:
            recorded[key] = None
            return self.launch(source, target, caches)
        again = recorded[key] or Recorded(lambda: self.launch(source, target, caches))
        recorded[key] = again
        return again()

    def launch(self, source: Memory | None, target: Memory, caches: Memory | None) -> None:
        """Put the kernels on the stream: states from `source`, or the inputs; outputs to `target`.

        Neither may be the other: a block may read a state that another one has written.
        """
        if self._persistent is not None:
            self._phased(self._persistent, source, target).launch()
        else:
            self._launch_each(source, target, caches)
        self._behind(self, target)

    def _phased(self, one: Persistent, source: Memory | None, target: Memory) -> Phases:
        """The phases with their pointers, made once for each pair of memories."""
        key = source, target
        if key not in self._phases:

            def word(given: Word) -> int:
                if isinstance(given, int):
                    return given
                name, offset = given
                return self._address(self._value(name), source, target, None) + offset

            self._phases[key] = Phases(self.loaded.code, one, word)
        return self._phases[key]

    def _launch_each(self, source: Memory | None, target: Memory, caches: Memory | None) -> None:
        for chosen in self._launches:
            blocks = chosen.blocks(self.geometry.symbols)
            if blocks:
                code, name = self.loaded.code, f"{chosen.kernel}_kernel"
                function, early = code.kernel(name, chosen.shared), chosen.waits
                launch(
                    function, blocks, chosen.threads,
                    self._arguments(chosen, blocks, source, target, caches), chosen.shared,
                    early=early and code.can_wait(name),
                )  # fmt: skip

    def _arguments(
        self,
        chosen: Launch,
        blocks: int,
        source: Memory | None,
        target: Memory,
        caches: Memory | None,
    ) -> list[tuple[int, Any]]:
        found: list[tuple[int, Any]] = []
        for argument in chosen.arguments:
            if not isinstance(argument, str):
                found.append((number(argument, self.geometry.symbols), INT64))
            elif argument == "blocks":
                found.append((blocks, INT32))
            elif argument.endswith(".moves"):
                op = self._kernels[int(argument.removesuffix(".moves"))]
                found.append((int(op not in self.geometry.plan.caches.values()), INT64))
            else:
                value = self._value(argument)
                found.append((self._address(value, source, target, caches), POINTER))
        return found

    def _value(self, name: str) -> Value:
        """The operand or result that an argument such as 3.out_1 names."""
        kernel, _, which = name.partition(".")
        kind, _, position = which.partition("_")
        op = self._kernels[int(kernel)]
        return (op.operands if kind == "in" else op.results)[int(position)]

    def _address(
        self, value: Value, source: Memory | None, target: Memory, caches: Memory | None
    ) -> int:
        root = root_of(value)
        if isinstance(root, Weight):
            return self.loaded.weights.addresses[root.name]
        if source is not None and isinstance(root, Input) and root.name in self._states:
            return source.address + self.outputs[root.name].start
        place = self.geometry.place(root)
        return self.memory(target, caches)[place.arena].address + place.start

    def memory(self, target: Memory, caches: Memory | None) -> Mapping[str, Memory]:
        """The arenas, with the outputs and the caches where they are."""
        arenas = {"inputs": self.inputs, "workspace": self.loaded.workspace, "outputs": target}
        return arenas if caches is None else {**arenas, "caches": caches}


def place_of(geometry: Geometry, value: Value) -> Place:
    """Where a value that is no weight lies."""
    root = root_of(value)
    place = geometry.place(root)
    return place if value is root else place.reshaped(geometry.shape(value))


@dataclass(frozen=True)
class Arenas:
    """What one call made."""

    call: Call
    window: Window
    caches: Window | None

    def array(self, name: str) -> DeviceArray | None:
        """An output by name; None for one that is an input or a weight."""
        place = self.call.outputs.get(name)
        if place is None:
            return None
        window = self.caches if place.arena == "caches" else self.window
        assert window is not None
        return DeviceArray(window, place)

    @property
    def symbols(self) -> Mapping[str, int]:
        return self.call.geometry.symbols

    def read(self, value: Value) -> np.ndarray:
        """A value of the graph, as a copy."""
        root = root_of(value)
        if isinstance(root, Weight):
            array = self.call.loaded.weights.file.array(root).copy()
            return array if value is root else array.reshape(self.call.geometry.shape(value))
        place = place_of(self.call.geometry, value)
        caches = self.caches and self.caches.memory
        memory = self.call.memory(self.window.memory, caches)[place.arena]
        return np.asarray(DeviceArray(Window(memory), place))
