# pyright: basic
# NVIDIA's bindings are not typed.
"""Run a persistent kernel: one launch whose blocks are all on the device at once."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mmc.targets.cuda.driver import Memory, device
from mmc.targets.cuda.launch import INT32, INT64, POINTER, Code, launch
from mmc.targets.cuda.launches import Persistent, Word

OLDEST = (9, 0)
"""Compute capability from which on a block can ask for bytes in bulk."""


def resident(code: Code, one: Persistent) -> bool:
    """Whether the device holds all blocks at once."""
    name = f"{one.kernel}_kernel"
    if device().capability < OLDEST:
        return False
    if code.static_shared(name) + one.shared_bytes > device().most_shared:
        return False
    function = code.kernel(name, one.shared_bytes)
    return device().resident_blocks(function, one.threads, one.shared_bytes) >= one.blocks


class Phases:
    """The words of the phases and the exchange, on the device."""

    def __init__(self, code: Code, one: Persistent, word: Callable[[Word], int]) -> None:
        self.one = one
        self._function = code.kernel(f"{one.kernel}_kernel", one.shared_bytes)
        table = np.array([[word(each) for each in words] for words in one.phases], np.int64)
        self._table = _on_device(table)
        self._exchange = _on_device(np.full(2 * one.floats, -1, np.int32))  # nothing is there yet
        self._finished = _on_device(np.zeros(1, np.uint64))
        device().synchronize()

    def launch(self) -> None:
        """Put the launch on the stream."""
        one = self.one
        given = {
            "table": (self._table.address, POINTER),
            "exchange": (self._exchange.address, POINTER),
            "finished": (self._finished.address, POINTER),
            "phases": (len(one.phases), INT64),
            "under_way": (one.under_way, INT32),
            "blocks": (one.blocks, INT32),
        }
        arguments = [given[name] for name in one.parameters]
        launch(self._function, one.blocks, one.threads, arguments, one.shared_bytes, together=True)


def _on_device(array: np.ndarray) -> Memory:
    memory = Memory(array.nbytes)
    memory.write(0, array)
    return memory
