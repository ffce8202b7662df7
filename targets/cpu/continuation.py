"""Steps that follow each other: the likeliest token and the states go straight to the next one.

All memory is made once, so that a token costs one call, one argmax and the copy of the states:
after the weights have gone through the caches, more Python would take a part of a step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mmc.ir.ops.source import Input, Weight
from mmc.targets.base import Arrays
from mmc.targets.tvm.geometry import Geometry
from mmc.targets.tvm.plan import root_of


@dataclass(frozen=True)
class Move:
    """Bytes from the outputs to the inputs."""

    start: int
    to: int
    size: int

    def joined(self, move: Move) -> list[Move]:
        """Both as one, where the other follows on both sides; else both."""
        step = move.to - self.to
        if step == move.start - self.start >= self.size:
            return [Move(self.start, self.to, step + move.size)]
        return [self, move]


def moves(geometry: Geometry) -> list[Move] | None:
    """What a step leaves for the next one, in as few pieces as it lies in.

    None where a state is not made anew by a kernel.
    """
    found: list[Move] = []
    graph = geometry.plan.graph
    outputs = dict(graph.outputs)
    for op in graph.inputs:
        if op.name not in graph.states or op in geometry.plan.caches:
            continue
        root = root_of(outputs[op.name])
        if isinstance(root, Input | Weight):
            return None
        place = geometry.place(op)
        move = Move(geometry.place(root).start, place.start, place.extent)
        found[-1:] = found[-1].joined(move) if found else [move]
    return found


def continued(
    geometry: Geometry,
    memory: Mapping[str, np.ndarray],
    step: Callable[[], object],
    left: Sequence[Move],
    inputs: Arrays,
    count: int,
) -> Iterator[np.ndarray]:
    """The `count` likeliest tokens int64 [B], one behind the other; of equal logits the first.

    step: runs the entry on the arenas in `memory`, where the caches are.  left: its `moves`.
    """
    graph, caches = geometry.plan.graph, geometry.plan.caches
    given = {op.name: geometry.place(op).array(memory) for op in graph.inputs if op not in caches}
    for name, array in given.items():
        array[...] = inputs[name]
    made = geometry.place(root_of(dict(graph.outputs)["logits"])).array(memory)
    logits = made.reshape(len(given["ids"]), -1)
    for _ in range(count):
        step()
        token = logits.argmax(axis=-1)
        for move in left:
            source = memory["outputs"][move.start : move.start + move.size]
            memory["inputs"][move.to : move.to + move.size] = source
        given["ids"][:, 0] = token
        yield token
