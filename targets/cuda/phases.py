"""A graph of kernels on one row as phases of a single launch.

A phase is the program of a row, the matrices that the row is multiplied with, and of the next row's
program what their sums are enough for (`epilogue`).  Every block does the row's program, which is
short then, and some tiles of the matrices.  What one block makes and others read goes through an
exchange of floats, each of which says itself whether it is there (`persistent.cuh`).

A phase is told by a list of words: numbers, and addresses, which are filled in when it is loaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mmc.ir.graph import Graph
from mmc.ir.op import Value
from mmc.ir.ops.source import Input
from mmc.ir.packing import TILE_ROWS
from mmc.ir.types import Dim, DType, TensorType
from mmc.targets.cuda.epilogue import Epilogue
from mmc.targets.cuda.launches import Word
from mmc.targets.cuda.row import is_read_elsewhere
from mmc.targets.cuda.ternary import STEP_VECTORS
from mmc.targets.cuda.work import BLOCKS, WARPS, Consumer, Work
from mmc.targets.tvm.primitives import primitive_outputs
from mmc.targets.tvm.stages import Plan as RowPlan

TOLD, CHUNKS, WORDS, PARTS, GAINS = 8, 32, 48, 4, 4
"""Phases that are told ahead, chunks that are supplied ahead; of a phase: words, parts, gains."""

HEAD = 8 + PARTS + GAINS
"""Words before the arguments."""

_LINE = 128
SUPPLY_BYTES = -(-(8 * (2 * TOLD + 2 * CHUNKS + TOLD * WORDS) + 4 * CHUNKS) // _LINE) * _LINE
"""`Supply` in persistent.cuh."""

MOST_SHARED = 227 << 10
"""Shared memory of a block, from Hopper on."""

MOST_SCRATCH = 6 << 10
"""Of it for reductions."""

MOST_AT_ONCE, MOST_CHUNK = 24 << 10, 16 << 10
"""Bytes of tiles that warps take at a time, and of those of a chunk, unless that is less."""

LONG_PHASE = 16 << 10
"""Bytes of weights of a block from which on they are waited for."""

_VECTOR_BYTES = 64


@dataclass(frozen=True)
class Source:
    """Where an input of a row's program comes from.

    "memory"; "exchange": another block; "sum": matrix `number` of the phase before; "scalar":
    output `number` of the row before, which every block has computed.
    """

    kind: str
    number: int = 0


@dataclass(frozen=True)
class Kind:
    """What phases that differ in addresses alone have in common.

    row, sources: the program and its inputs.  cut: values of it that epilogues have made.
    stored: its outputs that go to memory.  published: its outputs that other phases read.
    after, after_sources, epilogue: the next row's program.  kept: positions in `epilogue.cut` that
    go to memory as well.  arguments: names of the words.
    """

    row: Graph
    sources: tuple[Source, ...]
    cut: tuple[Value, ...]
    consumers: tuple[Consumer, ...]
    stored: tuple[int, ...]
    published: tuple[int, ...]
    after: Graph
    after_sources: tuple[Source, ...]
    epilogue: Epilogue
    kept: tuple[int, ...]
    arguments: tuple[str, ...]

    @property
    def parts(self) -> tuple[int, ...]:
        """The matrix of each part of the epilogue."""
        positions: dict[Value, int] = {op: i for i, op in enumerate(self.after.inputs)}
        return tuple(
            self.after_sources[positions[part.sums]].number for part in self.epilogue.parts
        )

    @property
    def tiles(self) -> int:
        """Tiles of columns, each with a tile of every part."""
        return self.epilogue.columns // TILE_ROWS

    @property
    def per_block(self) -> int:
        """The most tiles of a block."""
        return -(-self.tiles // BLOCKS)

    @property
    def block_tiles(self) -> int:
        """Tiles of a block, of all parts."""
        return len(self.parts) * self.per_block

    @property
    def split(self) -> int:
        """Warps that share a tile."""
        return Work.of(self.consumers, self.block_tiles, MOST_AT_ONCE // self.tile_bytes).split

    @property
    def chunk_tiles(self) -> int:
        """Tiles of a chunk of weights, for all warps; the last chunk may have fewer."""
        at_once = WARPS // self.split
        return max(1, MOST_CHUNK // (at_once * self.tile_bytes)) * at_once

    @property
    def chunks(self) -> int:
        """Chunks of a phase: one of gains, where it has some, and those of weights."""
        return bool(self.gains) + -(-self.block_tiles // self.chunk_tiles)

    @property
    def starts(self) -> dict[int, int]:
        """The outputs that are multiplied, and where in shared memory the int8 of each begin."""
        outputs = dict.fromkeys(consumer.output for consumer in self.consumers)
        return {output: i * self.row_bytes for i, output in enumerate(outputs)}

    @property
    def row_bytes(self) -> int:
        """Of the activations that all warps read, those past the end included."""
        matrix = self.consumers[0].matrix
        return -(-matrix.vectors // (STEP_VECTORS * self.split)) * self.split * matrix.step_bytes

    @property
    def shared(self) -> tuple[int, int]:
        """Bytes of activations, and sums that warps leave behind."""
        return len(self.starts) * self.row_bytes, self.block_tiles * self.split * TILE_ROWS

    @property
    def tile_bytes(self) -> int:
        return self.consumers[0].matrix.vectors * _VECTOR_BYTES

    @property
    def gains(self) -> tuple[int, ...]:
        """Inputs of the row that are supplied like weights: vectors as long as the row."""
        return tuple(
            i for i, (op, source) in enumerate(zip(self.row.inputs, self.sources, strict=True))
            if f"in_{i}" in self.arguments and source.kind == "memory" and self._is_gain(op)
        )[:GAINS]  # fmt: skip

    def _is_gain(self, op: Input) -> bool:
        return op.type == TensorType(DType.F32, (self.columns,)) and self.columns % 4 == 0

    @property
    def columns(self) -> int:
        """Columns of the row."""
        return self.consumers[0].matrix.k

    @property
    def chunk_bytes(self) -> int:
        """Of the largest chunk."""
        weights = min(self.chunk_tiles, self.block_tiles) * self.tile_bytes
        return max(weights, len(self.gains) * 4 * self.columns)


def row_plan(kind: Kind) -> RowPlan:
    """What a row's program computes: activations, and outputs that no epilogue has made."""
    values = primitive_outputs(kind.row)
    wanted = {c.output for c in kind.consumers} | {*kind.stored, *kind.published}
    outputs = [values[i] for i in sorted(wanted)]
    return RowPlan({*kind.row.inputs, *kind.cut}, outputs, cheap=0, rereads=False)


def is_columnwise(kind: Kind, plan: RowPlan) -> bool:
    """Whether every thread reads its own columns alone of what is in registers."""
    pairs = zip(kind.row.inputs, kind.sources, strict=True)
    late = [value for value, source in pairs if source.kind == "exchange"]
    return not any(is_read_elsewhere(plan, v) for v in (*plan.kept, *kind.cut, *late))


@dataclass(frozen=True)
class Phases:
    """Kinds, and of each phase the number of its kind and its arguments by name.

    floats: what the exchange holds.
    """

    rows: Dim
    kinds: tuple[Kind, ...]
    phases: tuple[tuple[int, Mapping[str, Word]], ...]
    floats: int

    @property
    def shared(self) -> tuple[int, int]:
        """As of each kind: what is enough for all."""
        return max(k.shared[0] for k in self.kinds), max(k.shared[1] for k in self.kinds)

    @property
    def under_way(self) -> int:
        """Chunks that a block asks for at a time: more where weights are what is waited for."""
        kinds = [self.kinds[number] for number, _ in self.phases]
        weights = sum(kind.tiles * len(kind.parts) * kind.tile_bytes for kind in kinds)
        return 2 if weights >= LONG_PHASE * BLOCKS * len(kinds) else 1

    @property
    def ring_bytes(self) -> int:
        """Shared memory for chunks."""
        activations, sums = self.shared
        return (MOST_SHARED - SUPPLY_BYTES - MOST_SCRATCH - activations - 4 * sums) // _LINE * _LINE

    def words(self) -> list[list[Word]]:
        """The words of every phase: those that `Word` in persistent.cuh names, then arguments."""
        found: list[list[Word]] = []
        for number, given in self.phases:
            kind = self.kinds[number]
            weights = [given.get(f"w_{i}", 0) for i in range(PARTS)]
            gains = [given[f"in_{i}"] for i in kind.gains]
            words = [
                number, len(kind.parts), kind.tile_bytes, kind.per_block, kind.tiles,
                kind.chunk_tiles, len(gains), 4 * kind.columns, *weights, *gains,
                *[0] * (GAINS - len(gains)), *(given[name] for name in kind.arguments),
            ]  # fmt: skip
            found.append([*words, *[0] * (WORDS - len(words))])
        return found
