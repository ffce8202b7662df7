"""Steps that choose their own next token: argmax and the way back to the input stay on the device.

A step ends with a kernel that writes the likeliest token into the input of the next one, and into
memory of the host.  The host only launches steps, `BLOCK` ahead of those whose tokens it hands out.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import numpy as np

from mmc.targets.base import Arrays
from mmc.targets.cuda.call import Call, Loaded
from mmc.targets.cuda.driver import Event, HostMemory, Memory
from mmc.targets.cuda.launch import INT32, POINTER, launch
from mmc.targets.cuda.launches import Entry
from mmc.targets.tvm.geometry import Geometry

BLOCK = 16
"""Steps between two looks at the tokens."""

THREADS = 1024
"""As in runtime.cuh."""


class Choice:
    """The kernel behind each step, and where it hands tokens to the host."""

    def __init__(self, batch: int, vocabulary: int) -> None:
        self._batch, self._vocabulary = batch, vocabulary
        self._chosen = Memory(8 * batch)
        self._tokens = HostMemory(8 * 2 * BLOCK * batch)

    def __call__(self, call: Call, outputs: Memory) -> None:
        """Launch it."""
        logits = outputs.address + call.outputs["logits"].start
        ids = call.inputs.address + call.places["ids"].start
        launch(
            call.loaded.code.kernel("mmc_choose"), self._batch, THREADS,
            [(logits, POINTER), (ids, POINTER), (self._tokens.address, POINTER),
             (self._chosen.address, POINTER), (self._vocabulary, INT32), (2 * BLOCK, INT32)],
        )  # fmt: skip

    def begin(self) -> None:
        """Count from 0 again."""
        self._chosen.fill(0)

    def tokens(self, step: int, count: int) -> np.ndarray:
        """What `count` steps chose, int64 [count, B]: they do not reach over the end of a ring."""
        start = step % (2 * BLOCK) * self._batch
        return self._tokens.copy(start, count * self._batch).reshape(count, self._batch)


class Greedy:
    """A call of an entry that continues, with two memories for its outputs that take turns."""

    def __init__(self, geometry: Geometry, entry: Entry, loaded: Loaded) -> None:
        logits = geometry.shape(dict(geometry.plan.graph.outputs)["logits"])
        self._choice = Choice(logits[0], logits[-1])
        self.call = Call(geometry, entry, loaded, self._choice)
        self._memories = self.call.new_memory(), self.call.new_memory()

    def __call__(self, inputs: Arrays, count: int, caches: Memory | None) -> Iterator[np.ndarray]:
        """The next `count` tokens int64 [B] of each sequence; their caches grow."""
        self.call.fill(inputs)
        self._choice.begin()
        source: Memory | None = None
        launched = handed = 0
        ready: deque[Event] = deque()
        while handed < count:
            while launched < count and len(ready) < 2:
                for step in range(launched, min(launched + BLOCK, count)):
                    target = self._memories[step % 2]
                    self.call.replay(source, target, caches)
                    source = target
                launched = min(launched + BLOCK, count)
                ready.append(Event())
            ready.popleft().wait()
            steps = min(BLOCK, count - handed)
            found = self._choice.tokens(handed, steps)
            handed += steps
            yield from found
