"""Where the weights of a program lie: on the device, tables of the embedding perhaps on the host.

A step reads one row of such a table for each sequence: 5 to 10 KB, where the table has hundreds of
megabytes.  In memory of the host that cannot be paged out, the device reads that row by itself, at
an address as any other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from mmc.errors import MmcError
from mmc.ir.graph import Graph
from mmc.ir.ops.recurrence import Kernel
from mmc.ir.ops.shape import Gather
from mmc.ir.ops.source import Weight
from mmc.ir.statistics import stored_bytes
from mmc.targets.cuda.driver import HostMemory, Memory
from mmc.targets.layout import aligned
from mmc.targets.tvm.plan import root_of
from mmc.targets.weights_file import WeightsFile


@dataclass(frozen=True)
class Weights:
    """The file; memory on the device and on the host, and where each weight lies by name."""

    file: WeightsFile
    memory: Memory
    on_host: Mapping[str, HostMemory]
    addresses: Mapping[str, int]

    @property
    def host_bytes(self) -> int:
        return sum(memory.size for memory in self.on_host.values())


def put(file: WeightsFile, graphs: Iterable[Graph], embedding_memory: str) -> Weights:
    """Copy the weights of some graphs to where they shall lie.

    embedding_memory: "device" or "host".  MmcError where no table can lie on the host.
    """
    graphs = list(graphs)
    weights = list(dict.fromkeys(weight for graph in graphs for weight in graph.weights))
    moved = tables(graphs) if embedding_memory == "host" else set[Weight]()
    on_host = {w.name: HostMemory(stored_bytes(w.type)) for w in weights if w in moved}
    starts, end = dict[Weight, int](), 0
    for weight in weights:
        if weight not in moved:
            starts[weight] = end
            end += aligned(stored_bytes(weight.type))
    memory = Memory(end)
    for weight, start in starts.items():
        memory.write(start, _bytes(file, weight))
    for weight in moved:
        on_host[weight.name].write(_bytes(file, weight))
    addresses = {weight.name: memory.address + start for weight, start in starts.items()}
    addresses |= {name: table.address for name, table in on_host.items()}
    return Weights(file, memory, on_host, addresses)


def _bytes(file: WeightsFile, weight: Weight) -> np.ndarray:
    start = file.offsets[weight.name]
    return file.bytes[start : start + stored_bytes(weight.type)]


def tables(graphs: Iterable[Graph]) -> set[Weight]:
    """Matrices of which nothing but rows are looked up; MmcError where there is none."""
    looked_up, read = set[Weight](), set[Weight]()
    for kernel in (op for graph in graphs for op in graph if isinstance(op, Kernel)):
        for given, inner in zip(kernel.operands, kernel.body.inputs, strict=True):
            weight = root_of(given)
            if isinstance(weight, Weight) and weight.type.rank == 2 and weight.type.shape[1] != 1:
                users = kernel.body.users.get(inner, ())
                rows = all(isinstance(op, Gather) and op.indices is not inner for op in users)
                (looked_up if rows else read).add(weight)
    if found := looked_up - read:
        return found
    both = f"{next(iter(looked_up)).name} is the head as well" if looked_up else "there is no table"
    raise MmcError(
        f"no embedding can lie on the host: {both}", "--embedding-memory", "leave it out"
    )
