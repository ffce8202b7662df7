"""The memory of caches on the device: a state that grows in place, and still is a value.

A call appends to the memory that holds the caches of the state it is given, and lends out the new
state.  The old state looks at the same memory, and stays right: nothing that it held has changed.
But only the newest state of a memory may be appended to; what is appended to an older one (a
sequence that is continued twice), or to arrays that come from elsewhere, goes to a copy of the
positions that are known.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np

from mmc.ir.op import Value
from mmc.ir.ops.recurrence import Kernel
from mmc.ir.ops.source import Input
from mmc.targets.base import Arrays
from mmc.targets.cuda.arrays import DeviceArray, Window, address_of
from mmc.targets.cuda.driver import Memory
from mmc.targets.tvm.geometry import Geometry, Place
from mmc.targets.tvm.plan import lone_append


class Caches:
    """The newest state of each memory that somebody holds."""

    def __init__(self) -> None:
        self._newest = weakref.WeakKeyDictionary[Memory, weakref.ref[Window]]()

    def take(self, geometry: Geometry, inputs: Arrays) -> Memory | None:
        """The memory to append to, as the arena "caches"; None where the plan has none."""
        caches = geometry.plan.caches
        if not caches:
            return None
        window = _window_of([(inputs[op.name], geometry.place(op)) for op in caches])
        if window is not None:
            newest = self._newest.pop(window.memory, None)
            if newest is not None and newest() is window:
                return window.memory
        memory = Memory(geometry.arena_bytes["caches"])
        memory.fill(0)
        counts: dict[Value, np.ndarray] = {}
        for op, kernel in caches.items():
            position, place = _position(kernel), geometry.place(op)
            if position not in counts:
                counts[position] = _known(position, inputs, place)
            _copy(inputs[op.name], counts[position], place, memory)
        return memory

    def lend(self, memory: Memory) -> Window:
        """Look at the memory as its newest state does."""
        window = Window(memory)
        self._newest[memory] = weakref.ref(window)
        return window


def _window_of(places: Sequence[tuple[object, Place]]) -> Window | None:
    """Through what the arrays are seen, all of them where a call of these sizes leaves them."""
    windows = {
        array.window if isinstance(array, DeviceArray) and array.place == place else None
        for array, place in places
    }
    return windows.pop() if len(windows) == 1 else None


def _position(kernel: Kernel) -> Value:
    """How many positions of each sequence are in a cache before a kernel appends to it."""
    append = lone_append(kernel.body)
    assert append is not None
    return kernel.arguments[kernel.body.inputs.index(append.position)]


def _known(position: Value, inputs: Arrays, place: Place) -> np.ndarray:
    """The positions that are known of each sequence; all where no input says it."""
    sequences, _, held, _ = place.shape
    if not isinstance(position, Input):
        return np.full(sequences, held)
    given = inputs[position.name]
    address, counts = address_of(given), np.empty(sequences, np.int64)
    if address is None:
        return np.clip(given, 0, held)
    memory = Memory(counts.nbytes)
    memory.copy(0, address, memory.size)
    memory.read(0, counts)
    return np.clip(counts, 0, held)


def _copy(given: Any, counts: np.ndarray, place: Place, memory: Memory) -> None:
    """What is known of a cache [B, G, S, D]."""
    source = address_of(given)
    for b, g in np.ndindex(*place.shape[:2]):
        count, offset = int(counts[b]), b * place.strides[0] + g * place.strides[1]
        if count and source is not None:
            memory.copy(place.start + offset, source + offset, count * place.strides[2])
        elif count:
            memory.write(place.start + offset, np.ascontiguousarray(given[b, g, :count]))
