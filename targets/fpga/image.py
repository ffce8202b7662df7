"""What lies in the FPGA's memory: weights in banks, vectors in the order of use, embeddings.

    weights      every matrix in the order of the phases, as beats (`Engine.pack`), without gaps:
                 a token is one linear read.  Bank n holds word n of each beat: a port of its own.
    constants    gains and lower bounds, in the order in which phases read them
    embedding    a row for each token; behind them, for attention, one for each position: the
                 cosines and sines that it turns by

Vectors are little-endian words of 16 bits, each filled up with zeros to whole words of the port.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from mmc.ir import packing
from mmc.ir.ops.source import Weight
from mmc.ir.types import static_shape
from mmc.targets.fpga.engine import Engine
from mmc.targets.fpga.plan import Plan

Arrays = Mapping[str, np.ndarray]


def trits_of(weight: Weight, tensors: Arrays) -> np.ndarray:
    """A ternary matrix as int8 [rows, columns], however the graph has it packed."""
    rows, columns = static_shape(weight.type.shape)
    layout = weight.type.dtype.layout
    stored = tensors[weight.name]
    return stored if layout is None else packing.unpack(stored, rows, columns, layout)


def weight_beats(plan: Plan, tensors: Arrays, engine: Engine) -> Iterator[np.ndarray]:
    """The beats u8 [beats, beat_bytes] of each matrix in turn."""
    for phase in plan.phases:
        if phase.matrix is not None:
            yield engine.pack(trits_of(phase.matrix, tensors))


def total_beats(plan: Plan, engine: Engine) -> int:
    """Beats of a token."""
    return sum(engine.beats(p.rows, p.columns) for p in plan.phases if p.matrix is not None)


def constants(plan: Plan, tensors: Arrays, engine: Engine) -> bytes:
    vectors = [tensors[v.name] for phase in plan.phases for v in phase.vectors]
    return b"".join(words(vector, engine.word_bits) for vector in vectors)


def embedding(plan: Plan, tensors: Arrays, engine: Engine) -> bytes:
    table = words(tensors[plan.embedding.name], engine.word_bits)
    if plan.attention is None:
        return table
    return table + words(tensors[plan.attention.turns.name], engine.word_bits)


def words(numbers: np.ndarray, word_bits: int) -> bytes:
    """Rows of 16-bit numbers, each filled up to whole words."""
    rows = np.atleast_2d(numbers)
    filled = np.zeros((len(rows), whole(rows.shape[1] * 16, word_bits) // 16), "<u2")
    filled[:, : rows.shape[1]] = rows.astype(np.int64) & 0xFFFF
    return filled.tobytes()


def whole(length: int, part: int) -> int:
    """The length rounded up to whole parts."""
    return -(-length // part) * part


def banks(beats: np.ndarray, ports: int) -> Sequence[np.ndarray]:
    """What each port reads of some beats."""
    return [np.ascontiguousarray(part) for part in np.split(beats, ports, axis=1)]
