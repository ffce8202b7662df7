"""Where every value of a program lies: a static plan over sizes that are known at run time.

Four arenas: the weights file, the inputs, the outputs, and a workspace for what is in between.  A
workspace slot is used again once its value has no more readers.  A fifth holds the caches, if there
are any: a state that is only appended to, whose new value lies where the old one was.  Everything
starts at a multiple of `ALIGNMENT` bytes, so that kernels may use aligned vector loads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mmc.ir.graph import Graph
from mmc.ir.op import Op, Value, producer
from mmc.ir.ops.attention import CacheAppend
from mmc.ir.ops.recurrence import Kernel
from mmc.ir.ops.shape import Reshape
from mmc.ir.ops.source import Input, Weight
from mmc.ir.ops.ternary import TernaryMatmul
from mmc.ir.types import Dim, DType, SymbolicDim, TensorType, bind_dim, numel
from mmc.targets.layout import aligned, int8_row_bytes


def storage_type(declared: TensorType) -> TensorType:
    """The type with the padding that it has in memory: int8 rows are `INT8_ROW_BYTES` apart."""
    if declared.dtype is not DType.I8 or not declared.shape:
        return declared
    columns = declared.shape[-1]
    if not isinstance(columns, int):
        raise ValueError(f"int8 rows of {columns} columns: the number must be known")
    return declared.with_shape((*declared.shape[:-1], int8_row_bytes(columns)))


def storage_bytes(declared: TensorType) -> Dim:
    """Bytes of a value in memory, its padding included."""
    return numel(storage_type(declared).shape) * declared.dtype.numpy.itemsize


@dataclass(frozen=True)
class Location:
    """The start of a value: the slots of its arena that come before it."""

    arena: str
    slot: int


@dataclass
class Arena:
    """A run of slots, each as large as the largest value that it ever holds."""

    slots: list[Dim] = field(default_factory=list[Dim])

    def add(self, size: Dim) -> int:
        self.slots.append(size)
        return len(self.slots) - 1

    def offsets(self, symbols: Mapping[str, int]) -> list[int]:
        """The start of each slot in bytes, and the size of the whole, for given sizes."""
        starts = [0]
        for slot in self.slots:
            size = bind_dim(slot, symbols)
            assert isinstance(size, int)
            starts.append(starts[-1] + aligned(size))
        return starts


@dataclass
class Plan:
    """The location of every value of a graph whose operations are kernels and reshapes."""

    graph: Graph
    keep_all: bool = False
    """Never use a slot twice, so that every value can be looked at afterwards."""
    groups: Sequence[Sequence[Kernel]] = ()
    """Kernels that may run at once: none writes to what another one reads or writes."""
    arenas: dict[str, Arena] = field(default_factory=dict[str, Arena])
    locations: dict[Value, Location] = field(default_factory=dict[Value, Location])
    caches: dict[Input, Kernel] = field(default_factory=dict[Input, Kernel])
    """States that are appended to in place, and what appends to them."""

    def __post_init__(self) -> None:
        self.caches = {} if self.keep_all else _appended_states(self.graph)
        names = ("inputs", "outputs", "workspace", *(["caches"] if self.caches else []))
        self.arenas = {name: Arena() for name in names}
        for op in self.graph.inputs:
            arena = "caches" if op in self.caches else "inputs"
            self.locations[op] = Location(arena, self.arenas[arena].add(storage_bytes(op.type)))
        for op, kernel in self.caches.items():
            self.locations[kernel] = self.locations[op]
        for value in self.graph.values:
            root = root_of(value)
            if root not in self.locations and isinstance(producer(root), Kernel):
                slot = self.arenas["outputs"].add(storage_bytes(root.type))
                self.locations[root] = Location("outputs", slot)
        self._plan_workspace()

    @property
    def kernels(self) -> list[Kernel]:
        return [op for op in self.graph if isinstance(op, Kernel)]

    def _plan_workspace(self) -> None:
        last_reader: dict[Value, Op] = {}
        for op in self.kernels:
            for value in op.operands:
                last_reader[root_of(value)] = op
        free: list[int] = []
        finished_in_group: list[int] = []
        last_of_group = {group[-1] for group in self.groups}
        within = {op for group in self.groups for op in group}
        for op in self.kernels:
            made = [v for v in op.results if v not in self.locations]
            for value in made:
                slot = self._take(free, storage_bytes(value.type))
                self.locations[value] = Location("workspace", slot)
            if self.keep_all:
                continue
            finished = [v for v in {root_of(v) for v in op.operands} if last_reader[v] is op]
            for value in [*finished, *(v for v in made if v not in last_reader)]:
                place = self.locations.get(value)
                if place is not None and place.arena == "workspace":
                    finished_in_group.append(place.slot)
            if op in last_of_group or op not in within:
                free = sorted([*free, *finished_in_group])
                finished_in_group = []

    def _take(self, free: list[int], size: Dim) -> int:
        """A free slot that grows with the same symbols, enlarged if too small; else a new one."""
        slots = self.arenas["workspace"].slots
        fitting = [s for s in free if _monomial(slots[s]) == _monomial(size) is not None]
        if not fitting:
            return self.arenas["workspace"].add(size)
        best = min(
            fitting,
            key=lambda s: (
                _coefficient(slots[s]) < _coefficient(size),
                abs(_coefficient(slots[s]) - _coefficient(size)),
                s,
            ),
        )
        if _coefficient(slots[best]) < _coefficient(size):
            slots[best] = size
        free.remove(best)
        return best


def symbols_of(graph: Graph) -> tuple[str, ...]:
    """The symbols of the graph's inputs, in the order in which an entry takes them."""
    dims = (dim for op in graph.inputs for dim in op.type.shape)
    return tuple(
        sorted({name for dim in dims if isinstance(dim, SymbolicDim) for name in dim.symbols})
    )


def root_of(value: Value) -> Value:
    """The value whose memory a value is: a reshape has none of its own."""
    while isinstance(value, Reshape):
        value = value.x
    return value


def _monomial(size: Dim) -> tuple[str, ...] | None:
    """The symbols of a size that is one product; None where it is a sum."""
    if not isinstance(size, SymbolicDim):
        return ()
    return size.terms[0][0] if len(size.terms) == 1 else None


def _coefficient(size: Dim) -> int:
    return size.terms[0][1] if isinstance(size, SymbolicDim) else size


def unplaced(graph: Graph) -> list[tuple[Op, str]]:
    """Operations that a plan has no place for, with the reason."""
    wrong: list[tuple[Op, str]] = []
    for op in graph:
        if isinstance(op, Reshape):
            same_rows = op.shape[-1:] == op.x.type.shape[-1:]
            if op.type.dtype is DType.I8 and not same_rows:
                wrong.append((op, "an int8 tensor cannot be cut into rows of another length"))
        elif not isinstance(op, Input | Weight | Kernel):
            wrong.append((op, "stands outside of a kernel"))
        if isinstance(op, Weight) and op.type.dtype is DType.I8:
            wrong.append((op, "an int8 weight has no padded rows"))
    return wrong


def _appended_states(graph: Graph) -> dict[Input, Kernel]:
    """The states that nothing reads but what appends to them."""
    found: dict[Input, Kernel] = {}
    for name, value in graph.outputs:
        append = lone_append(value.body) if isinstance(value, Kernel) else None
        if append is None or not isinstance(value, Kernel):
            continue
        cache = value.arguments[value.body.inputs.index(append.cache)]
        readers = [op for op in graph if cache in op.operands]
        if isinstance(cache, Input) and cache.name == name and readers == [value]:
            found[cache] = value
    return found


def lone_append(body: Graph) -> CacheAppend | None:
    """The appending to a cache that is all that the body does, or None."""
    op = lone_op(body)
    return op if isinstance(op, CacheAppend) else None


def lone_matmul(body: Graph) -> TernaryMatmul | None:
    """The ternary matmul that is all that the body does, or None."""
    op = lone_op(body)
    return op if isinstance(op, TernaryMatmul) else None


def lone_op(body: Graph) -> Op | None:
    """The operation that is all that the body does, or None."""
    made = [op for op in body if op.operands]
    return made[0] if len(made) == 1 else None


def with_consumers(kernels: Sequence[Kernel]) -> list[list[Kernel]]:
    """Each kernel alone, but one on rows with the ternary matmuls right behind it that read it."""
    groups: list[list[Kernel]] = []
    for op in kernels:
        if groups and lone_matmul(op.body) is not None:
            maker = groups[-1][0]
            if lone_matmul(maker.body) is None and producer(op.operands[0]) is maker:
                groups[-1].append(op)
                continue
        groups.append([op])
    return groups
