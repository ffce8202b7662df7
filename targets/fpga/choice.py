"""Which engine suits a model and a board: every size and code of weights is tried."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from mmc.errors import MmcError
from mmc.targets.fpga import program
from mmc.targets.fpga.attention import AttentionUnit
from mmc.targets.fpga.boards import (
    BLOCK_BITS,
    LARGE_BLOCK_BITS,
    Board,
    board_names,
    load_board,
)
from mmc.targets.fpga.codec import CODECS
from mmc.targets.fpga.cycles import TOKEN, row_cycles
from mmc.targets.fpga.engine import Engine
from mmc.targets.fpga.estimate import (
    AHEAD,
    FULLEST,
    Estimate,
    assess,
    beats_per_cycle,
    demand,
    weight_beats,
)
from mmc.targets.fpga.plan import Phase, Plan
from mmc.targets.fpga.program import Row
from mmc.targets.fpga.resources import Resources, lut_per_weight

LANES = (2, 4, 8, 16, 32, 64)
ROWS_PER_LANE = (1, 2, 4)
WORD_BITS = (128, 256, 512, 1024)
"""Of a port; AXI4 has no wider ones, and a bridge makes narrower ones of them."""
FILLED = 0.9
"""The part of what is read that is weights at least, where vectors are long enough for that."""
LARGEST_BEAT = 65_536
"""Bits; wider is no engine that anybody places."""
MOST = 4.0
"""Weights a cycle that are worth having, in units of what the memory gives."""
LEAN = 8.0
"""Look-up tables of the engine for a weight a cycle; dearer ones only where no other fits."""

TRIED = 24
"""Engines that are looked at closely."""
ENOUGH = 0.998
"""What is as good as the best: a smaller engine is worth that much."""


def estimate(
    plan: Plan, board: Board, codec: str | None = None, target_tps: float | None = None
) -> Estimate:
    """The model on the board; MmcError where it does not fit, or does not reach `target_tps`."""
    return assess(plan, board, choose(plan, board, codec, target_tps))


def choose(
    plan: Plan, board: Board, codec: str | None = None, target_tps: float | None = None
) -> Engine:
    """The fastest engine that fits; with `target_tps` the smallest that is as fast as that."""
    names = _codecs(codec)
    if target_tps is not None and not target_tps > 0:
        raise MmcError(f"{target_tps} tokens a second", "--target-tps", "above zero")
    found = list(_candidates(plan, board, names))
    fitting = [c for c in found if not c.too_much]
    if not fitting:
        raise _too_small(plan, board, found)
    fitting = [c for c in fitting if c.lut_per_weight <= LEAN] or fitting
    if target_tps is not None:
        for candidate in sorted(fitting, key=lambda c: c.needs.lut):
            if candidate.most >= target_tps:
                given = assess(plan, board, candidate.engine)
                if given.tokens_per_second >= target_tps:
                    return candidate.engine
    # Where memory bounds many alike, those that compute faster hide more.
    fitting.sort(key=lambda c: (round(math.log(c.most), 2), -c.cycles), reverse=True)
    close = [assess(plan, board, c.engine) for c in fitting[:TRIED]]
    best = max(close, key=lambda e: e.tokens_per_second)
    if target_tps is not None:
        raise MmcError(
            f"{target_tps:g} tokens a second; this board reaches {best.tokens_per_second:.4g}, "
            f"bound by its {best.bound}",
            f"--target-tps on {board.name}",
            f"ask for {math.floor(best.tokens_per_second)}",
        )
    enough = [e for e in close if e.tokens_per_second >= ENOUGH * best.tokens_per_second]
    return min(enough, key=lambda e: e.needs.lut).engine


def _codecs(codec: str | None) -> list[str]:
    if codec is None or codec == "auto":
        return list(CODECS)
    if codec not in CODECS:
        hint = f"one of auto, {', '.join(CODECS)}"
        raise MmcError(f"no code of weights {codec!r}", "--weights", hint)
    return [codec]


@dataclass(frozen=True)
class _Candidate:
    engine: Engine
    cycles: int
    most: float
    """Tokens a second, if the memory never stopped."""
    needs: Resources
    lut_per_weight: float
    """Of the ternary engine alone."""
    too_much: Mapping[str, tuple[float, float]]


def _candidates(plan: Plan, board: Board, names: list[str]) -> Iterator[_Candidate]:
    phases = Counter(
        replace(p, layer=0, slot=0, name="", matrix=p.matrix and plan.embedding)
        for p in plan.phases
    )
    full = list(_engines(plan, board, names, FILLED))
    for engine in full or _engines(plan, board, names, 0.0):
        cycles, beats = _totals(phases, plan, engine)
        delivered = beats_per_cycle(plan, board, engine)
        most = board.clock_mhz * 1e6 / max(cycles, beats / delivered)
        needs = demand(plan, engine, AHEAD[0], board)
        luts = lut_per_weight(program.parameters(plan, engine))
        wrong = _too_much(plan, board, engine, beats, needs)
        yield _Candidate(engine, cycles, most, needs, luts, wrong)


def _engines(plan: Plan, board: Board, names: list[str], filled: float) -> Iterator[Engine]:
    """Engines that suit the vectors; of what they read at least `filled` is weights."""
    whole = math.gcd(plan.hidden, plan.inner, plan.attended, plan.wide)
    bits = board.bytes_per_second(board.memory_ports) / (board.clock_mhz * 1e6) * 8
    for name in names:
        codec = CODECS[name]
        trits = 5 if codec.trits == 5 else 3
        for lanes in (n for n in LANES if whole % n == 0 and 2 * n <= whole):
            for columns in _columns(plan, lanes * trits):
                for rows in (lanes * n for n in ROWS_PER_LANE):
                    beat = rows * columns * codec.bits // codec.trits
                    if beat > min(LARGEST_BEAT, max(MOST * bits, 2 * WORD_BITS[0])):
                        continue
                    for word_bits, ports in _ports(board, beat, filled):
                        yield Engine(rows, columns, name, lanes, word_bits, ports)


def _ports(board: Board, beat: int, filled: float) -> Iterator[tuple[int, int]]:
    """The narrowest words, so the most ports, that read a beat with little filling; or none."""
    for word_bits in WORD_BITS:
        ports = -(-beat // word_bits)
        if ports <= board.memory_ports and beat > filled * ports * word_bits:
            yield word_bits, ports
            return


def _columns(plan: Plan, unit: int) -> list[int]:
    """Columns of a slice, whole units, that waste little of the last slice."""
    found: set[int] = set()
    for length in {plan.hidden, plan.wide}:
        for slices in range(1, 1 + -(-length // unit)):
            columns = -(-length // (slices * unit)) * unit
            if -(-length // columns) == slices:
                found.add(columns)
    return sorted(found)


def _totals(phases: Counter[Phase], plan: Plan, engine: Engine) -> tuple[int, int]:
    """Cycles and beats of a token."""
    embed = Row("embed", words=plan.hidden // engine.lanes)
    cycles, beats = TOKEN + row_cycles(embed, engine), 0
    for phase, count in phases.items():
        for row in program.phase_rows(phase, plan, engine):
            cycles += count * row_cycles(row, engine)
            beats += count * row.slices * row.groups
    return cycles, beats


def _too_much(
    plan: Plan, board: Board, engine: Engine, beats: int, needs: Resources
) -> dict[str, tuple[float, float]]:
    wrong = needs.too_much(board, FULLEST)
    stored = (beats * engine.beat_bytes + 2 * plan.vocabulary * plan.hidden) / 1e9
    stored += AttentionUnit.of(plan, engine).bytes / 1e9
    if stored > board.memory_gigabytes:
        wrong["gigabytes of memory"] = (stored, board.memory_gigabytes)
    return wrong


def _too_small(plan: Plan, board: Board, found: list[_Candidate]) -> MmcError:
    """What does not fit even with the smallest engine, and the nearest board that it fits."""
    if not found:
        return MmcError(
            f"vectors of {plan.hidden}, {plan.inner or plan.attended} and {plan.wide} numbers are "
            "not whole words of two numbers or more",
            f"--board {board.name}",
        )
    nearest = min(found, key=lambda c: max(n / max(h, 1e-9) for n, h in c.too_much.values()))
    wrong = "; ".join(
        f"{name}: {needed:,.6g} needed, {there:,.6g} there"
        for name, (needed, there) in nearest.too_much.items()
    )
    engine = nearest.engine
    return MmcError(
        f"does not fit {board.name}: {wrong}",
        f"the nearest setting, {engine.rows} rows x {engine.columns} columns in "
        f"{engine.codec_name} with {engine.lanes} lanes",
        _nearest_board(plan),
    )


def _nearest_board(plan: Plan) -> str:
    boards = sorted(map(load_board, board_names()), key=lambda b: b.lut)
    for board in boards:
        if any(not c.too_much for c in _candidates(plan, board, list(CODECS))):
            return f"the smallest board that it fits is {board.name}"
    return "it fits no board that MMC knows"


@dataclass(frozen=True)
class OnChip:
    """A model whose weights lie in the block RAM and UltraRAM of one or more boards."""

    boards: int
    engine: Engine
    tokens_per_second: float
    """One sequence; as many run at the same time as there are boards, each with its layers."""


def on_chip(plan: Plan, board: Board) -> OnChip:
    """How many boards hold the weights, in the tightest code, and how fast they are then.

    Reading a block RAM takes no time, so engines may be as large as look-up tables allow; among
    those that fill up little, the fastest.  Its vectors take block RAM too, so a slower one with
    fewer lanes can need fewer boards.
    """
    free = replace(
        board, memory_ports=LARGEST_BEAT, port_gbps=1e6, memory_gbps=1e6, memory_gigabytes=1e6,
        memory_efficiency=1.0,
    )  # fmt: skip
    fitting = [c for c in _candidates(plan, free, ["8b5t"]) if not c.too_much]
    if not fitting:
        raise _too_small(plan, board, fitting)
    tightest = min(_stored_bits(plan, c.engine) for c in fitting)
    tight = [c for c in fitting if _stored_bits(plan, c.engine) <= FILLING * tightest]
    found = assess(plan, free, min(tight, key=lambda c: c.cycles).engine)
    used = found.needs.bram36 * BLOCK_BITS + found.needs.uram * LARGE_BLOCK_BITS
    room = FULLEST * board.memory_bits - used
    boards = math.ceil(_stored_bits(plan, found.engine) / room)
    return OnChip(boards, found.engine, found.tokens_per_second)


FILLING = 1.03
"""Weights of nothing that a slice's end may add to a model on chip."""


def _stored_bits(plan: Plan, engine: Engine) -> int:
    return weight_beats(plan, engine) * program.beat_bytes(engine) * 8
