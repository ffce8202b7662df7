"""How long a token takes: the cycles of every row of the program, exact, and what memory adds.

The rows run one after the other; nothing in them depends on data.  tests compare these numbers with
the simulated RTL, cycle by cycle.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mmc.targets.fpga.engine import Engine
from mmc.targets.fpga.program import Row, tables_of

FETCH = 2
"""Cycles to read a row."""
STEP = 2
"""Cycles to begin a step of a row."""
TABLES = 31
"""Cycles in which an engine writes its tables: 27 entries and four stages on their way."""
WINDOW = 1
"""Stages between the memory of activations and the engine's window."""
SCALE_STAGES = 15
"""Of norm_quantise, with what feeds it, less the levels of its trees."""
FINISH_STAGES = 47
"""From a sum to the last number that is made of it."""
APPLY_STAGES = 54
SHIFT, ROOT, RANGE, APPLY = 9, 43, 26, 14
"""Cycles of the scalar unit's commands."""
LATENCY, BURST = 100, 16
"""Of a memory: cycles to the first word of a burst; words of a burst (memory_reader.sv)."""
TOKEN = 4
"""Before the first row and with the last, "end"."""


def levels(n: int) -> int:
    """Registers of a tree over n numbers."""
    return (n - 1).bit_length()


def ternary_levels(n: int) -> int:
    """Registers of a tree that adds three of n numbers at a time, down to one or two."""
    return 0 if n <= 2 else 1 + ternary_levels(n // 3 + n % 3)


def product_cycles(engine: Engine, slices: int, groups: int) -> int:
    """From start to idle: every slice writes its tables, then takes a beat a cycle.

    slices * (31 + groups), more where the next window is not there in time, and the fill: the first
    window, and the pipeline behind the last beat.
    """
    window = engine.columns // engine.lanes
    late = max(0, window + WINDOW - groups)
    fill = window + ternary_levels(tables_of(engine)) + 6
    return slices * (TABLES + groups) + (slices - 1) * late + fill


def row_cycles(row: Row, engine: Engine) -> int:
    """Cycles of one row where the memory is never late."""
    scale = row.words + SCALE_STAGES + levels(engine.lanes)
    match row.operation:
        case "embed":
            return FETCH + STEP + scale
        case "norm":
            return FETCH + 4 * STEP + 2 * scale + SHIFT + ROOT
        case "quantise":
            return FETCH + 3 * STEP + 2 * scale + RANGE
        case "apply":
            return FETCH + 3 * STEP + scale + row.words + APPLY_STAGES + APPLY
        case "product":
            return FETCH + STEP + product_cycles(engine, row.slices, row.groups) + 1
        case "finish":
            return FETCH + STEP + row.words + FINISH_STAGES
        case _:
            return 0


def token_cycles(rows: Sequence[Row], engine: Engine) -> int:
    """Cycles of one token where the memory is never late."""
    return TOKEN + sum(row_cycles(row, engine) for row in rows)


def beats(rows: Sequence[Row]) -> int:
    """Beats of weights in a token."""
    return sum(row.slices * row.groups for row in rows)


@dataclass(frozen=True)
class Timeline:
    """A token with a memory of finite bandwidth."""

    cycles: float
    starved: float
    """Cycles in which the engine waited for weights."""
    memory_idle: float
    """Cycles in which the memory could have sent weights and nobody had room for them."""


def timeline(rows: Sequence[Row], engine: Engine, beats_per_cycle: float, ahead: float) -> Timeline:
    """Weights flow into a buffer of `ahead` beats while vectors are worked on, out in products.

    The buffer is full when the token begins: tokens follow one another, and the reader does not
    wait for the token before.  A memory that had stopped, because the buffer was full, sends again
    LATENCY cycles after a burst is taken out; it is as if the buffer were so much smaller.
    """
    ahead = max(BURST, ahead - (LATENCY + BURST) * min(1.0, beats_per_cycle))
    total = beats(rows)
    held: float = ahead
    arrived: float = ahead
    idle: float = 0
    wait, now = 0.0, float(TOKEN)

    def fill(cycles: float) -> None:
        nonlocal held, arrived, idle
        can = cycles * beats_per_cycle
        got = min(can, ahead - held, total - arrived)
        if arrived + got < total:
            idle += (can - got) / beats_per_cycle
        held, arrived = held + got, arrived + got

    for row in rows:
        cycles = row_cycles(row, engine)
        if row.operation != "product":
            fill(cycles)
            now += cycles
            continue
        for _ in range(row.slices):
            fill(TABLES)
            took = max(row.groups, (row.groups - held) / beats_per_cycle)
            wait += took - row.groups
            now += took - row.groups
            sent = min(took * beats_per_cycle, total - arrived)
            held, arrived = max(0.0, held + sent - row.groups), arrived + sent
            if held > ahead:
                idle += (held - ahead) / beats_per_cycle
                arrived, held = arrived - (held - ahead), ahead
        fill(max(0, cycles - row.slices * (TABLES + row.groups)))
        now += cycles
    return Timeline(now, wait, idle)
