"""What the token engine reads: the rows of its sequencer, its constants, its weights.

A row is 128 bits, from the lowest: operation 4, kind 4, source 2, gain 1, fraction 4, one free,
words 16, offset 16, base 16, slices 16, row groups 16, mantissa 16, exponent 12.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from mmc.errors import MmcError
from mmc.ir.fixed_point import sigmoid_table
from mmc.ir.ops.source import Weight
from mmc.targets.fpga import image
from mmc.targets.fpga.engine import Engine
from mmc.targets.fpga.plan import SOURCES, Phase, Plan

OPERATIONS = ("end", "embed", "norm", "quantise", "apply", "product", "finish")
FINISHES = ("store", "forget", "state", "residual", "silu", "gated", "head")
"""What is made of sums; a GLU is "silu" of its first half, then "gated" of its second."""

FINISH_OF = {
    "query": "store", "key": "store", "value": "store", "square": "silu", "times": "gated",
    "digit": "store", "digits": "head",
}  # fmt: skip
"""What takes as long as phases that the RTL does not have: see `refuse_strange`."""

PLAIN_SHIFT = 26
"""A pass gives (t << left) >> 26: left is 26 where nothing is shifted."""


@dataclass(frozen=True)
class Row:
    """One row of the sequencer's program; the fields as in the module's drawing."""

    operation: str
    kind: str = "store"
    source: str = "stream"
    gain: bool = False
    fraction: int = 0
    words: int = 0
    offset: int = 0
    base: int = 0
    slices: int = 0
    groups: int = 0
    mantissa: int = 0
    exponent: int = 0

    def bits(self) -> int:
        fields = (
            (OPERATIONS.index(self.operation), 4), (FINISHES.index(self.kind), 4),
            (SOURCES.index(self.source), 2), (int(self.gain), 1), (self.fraction, 4), (0, 1),
            (self.words, 16), (self.offset, 16), (self.base, 16), (self.slices, 16),
            (self.groups, 16), (self.mantissa, 16), (self.exponent % 4096, 12),
        )  # fmt: skip
        row = at = 0
        for value, width in fields:
            if not 0 <= value < 1 << width:
                raise MmcError(f"{value} does not fit a row's field of {width} bits", str(self))
            row |= value << at
            at += width
        return row


def refuse_strange(plan: Plan) -> None:
    """Raise MmcError for a plan that the token engine in SystemVerilog has no phases for."""
    for phase in plan.phases:
        if phase.kind in ("attend", "silu", *FINISH_OF):
            raise MmcError(
                f"the RTL has no phase {phase.kind!r}: it runs MatMul-free models alone",
                phase.name, "the HLS project has it: `make -C OUT csim`",
            )  # fmt: skip


def program(plan: Plan, engine: Engine) -> list[Row]:
    """The rows of one token; raise MmcError where vectors are not whole words."""
    lengths = {
        "hidden": plan.hidden, "inner": plan.inner, "attended": plan.attended, "wide": plan.wide
    }  # fmt: skip
    for name, length in lengths.items():
        if length % engine.lanes:
            raise MmcError(
                f"{length} {name} numbers are not whole words of {engine.lanes}",
                "the token engine",
                "take fewer lanes",
            )
    embed = Row(
        "embed", words=plan.hidden // engine.lanes, mantissa=PLAIN_SHIFT - plan.embedding_shift
    )
    rows = [embed]
    for phase in plan.phases:
        rows += phase_rows(phase, plan, engine)
    return [*rows, Row("end")]


def phase_rows(phase: Phase, plan: Plan, engine: Engine) -> Iterator[Row]:
    """The rows of one phase."""
    if phase.kind == "attend":
        return  # `attention.py` counts it
    words, constant = phase.columns // engine.lanes, (phase.mantissa, phase.exponent)
    if phase.normalize:
        yield Row(
            "norm", source=phase.source, gain=phase.inner_gain is not None, words=words,
            mantissa=phase.eps_mantissa, exponent=phase.eps_exponent,
        )  # fmt: skip
    gain = phase.gain is not None
    if phase.kind == "gate":
        yield Row(
            "apply", "gated", gain=gain, words=words, mantissa=constant[0], exponent=constant[1]
        )
        return
    yield Row("quantise", gain=gain, words=words)
    yield Row(
        "product", slices=engine.slices(phase.columns), groups=engine.blocks(phase.rows),
        mantissa=constant[0], exponent=constant[1],
    )  # fmt: skip
    sums = -(-phase.rows // engine.lanes)
    if phase.kind == "glu":
        yield Row("finish", "silu", fraction=phase.fraction, words=sums // 2)
        yield Row("finish", "gated", words=sums // 2, offset=sums // 2)
        return
    base = {
        "state": phase.slot * plan.inner // engine.lanes,
        "head": phase.rows % engine.lanes,
    }.get(phase.kind, 0)
    bound = phase.bound is not None
    kind = FINISH_OF.get(phase.kind, phase.kind)
    yield Row("finish", kind, gain=bound, fraction=phase.fraction, words=sums, base=base)


def _row_count(phase: Phase) -> int:
    """Rows that `phase_rows` gives."""
    own = {"gate": 1, "glu": 4, "attend": 0}.get(phase.kind, 3)
    return own + phase.normalize


def _whole(rows: int) -> int:
    """The next power of two: an address of the program needs no comparison then."""
    return 1 << (rows - 1).bit_length()


def program_text(rows: list[Row]) -> str:
    """The rows as $readmemh takes them, filled up with "end"."""
    filled = [*rows, *[Row("end")] * (_whole(len(rows)) - len(rows))]
    return "".join(f"{row.bits():032x}\n" for row in filled)


def sigmoid_text() -> str:
    """The sigmoid's table as $readmemh takes it: 10 bits of slope above 16 bits of value."""
    table = sigmoid_table()
    return "".join(
        f"{(after - here) << 16 | here:07x}\n"
        for here, after in zip(table[:-1].tolist(), table[1:].tolist(), strict=True)
    )


def parameters(plan: Plan, engine: Engine) -> dict[str, int]:
    """The parameters of token_engine.sv."""
    lanes = engine.lanes
    tallest = max(engine.blocks(p.rows) for p in plan.phases if p.matrix is not None)
    widest = max(engine.slices(p.columns) for p in plan.phases if p.matrix is not None)
    inner = max(plan.inner, plan.attended, plan.wide)
    return {
        "P": engine.rows, "GROUPS": groups_of(engine), "CODEC": CODEC_NUMBERS[engine.codec_name],
        "LANES": lanes, "X_WORDS": plan.hidden // lanes, "P_WORDS": inner // lanes,
        "F_WORDS": plan.inner // lanes, "H_WORDS": len(plan.states) * plan.inner // lanes,
        "Q_WORDS": widest * engine.columns // lanes, "Y_WORDS": tallest,
        "ROWS": _whole(2 + sum(_row_count(phase) for phase in plan.phases)),
    }  # fmt: skip


CODEC_NUMBERS = {"2b1t": 0, "5b3t": 1, "8b5t": 2}
"""Codecs as weight_decode.sv numbers them."""


def groups_of(engine: Engine) -> int:
    """Groups of weights in a row as weight_decode.sv counts them: of 3 or 5."""
    return engine.columns // (5 if engine.codec_name == "8b5t" else 3)


def tables_of(engine: Engine) -> int:
    """Tables of a row: one for a group of 3 weights, two for a group of 5."""
    return groups_of(engine) * (2 if engine.codec_name == "8b5t" else 1)


def constants(plan: Plan, tensors: Mapping[str, np.ndarray], engine: Engine) -> np.ndarray:
    """Gains and lower bounds in the order of their use: i16 [words, lanes]."""
    vectors = [_numbers(tensors, v) for phase in plan.phases for v in phase.vectors]
    return np.concatenate(vectors).reshape(-1, engine.lanes)


def embedding(plan: Plan, tensors: Mapping[str, np.ndarray], engine: Engine) -> np.ndarray:
    """The table of the embedding: i16 [words, lanes]."""
    return _numbers(tensors, plan.embedding).reshape(-1, engine.lanes)


def _numbers(tensors: Mapping[str, np.ndarray], weight: Weight) -> np.ndarray:
    """16 bits each, whatever their sign."""
    return tensors[weight.name].reshape(-1).astype("<i8").astype("<u2")


def weights(plan: Plan, tensors: Mapping[str, np.ndarray], engine: Engine) -> bytes:
    """The beats of every matrix in the order of the phases, in whole bytes."""
    size = beat_bytes(engine)
    beats = image.weight_beats(plan, tensors, engine)
    return b"".join(matrix[:, :size].tobytes() for matrix in beats)


def beat_bytes(engine: Engine) -> int:
    """Bytes of a beat without the filling to whole words of memory ports."""
    return -(-engine.rows * engine.groups * engine.codec.bits // 8)
