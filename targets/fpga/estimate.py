"""What a board makes of a model with a given engine: cycles, tokens a second, resources.

Cycles are those of the RTL (`mmc.targets.fpga.cycles`, exact), and behind them those of attention
with a full cache (`attention`, projected); what a board's memory and clock do is what its .toml
file says.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from mmc.targets.fpga import program, resources
from mmc.targets.fpga.attention import AttentionUnit
from mmc.targets.fpga.boards import Board
from mmc.targets.fpga.cycles import timeline, token_cycles
from mmc.targets.fpga.engine import Engine
from mmc.targets.fpga.plan import Plan
from mmc.targets.fpga.resources import Resources

AHEAD = (256, 1024, 4096, 16384)
"""Beats that are read ahead: more than a memory of a hundred cycles' latency has under way."""
AS_FAST = 0.999
"""What reading further ahead must at least bring."""
FULLEST = 0.9
"""The part of a resource that a design may take: more is not placed."""


@dataclass(frozen=True)
class Estimate:
    """One model on one board."""

    board: Board
    engine: Engine
    cycles: float
    """A token, with the memory's delays."""
    compute_cycles: int
    """A token, if the memory never delayed it."""
    starved: float
    memory_idle: float
    bytes_per_token: int
    ahead: int
    """Beats that are read ahead."""
    needs: Resources
    lut_per_weight: float
    """Of the ternary engine alone."""
    attention: AttentionUnit
    """`cycles`, `compute_cycles` and `bytes_per_token` have its part with a full cache."""

    @property
    def attention_cycles(self) -> int:
        """Of a token with a full cache."""
        return self.attention.cycles(self.attention.context, self.board)

    @property
    def empty_tokens_per_second(self) -> float:
        """With an empty cache."""
        first = self.attention.cycles(1, self.board)
        return self.board.clock_mhz * 1e6 / (self.cycles - self.attention_cycles + first)

    @property
    def derived(self) -> str:
        """What the cycles are: the RTL, whose formula is exact, has no attention."""
        return "projected" if self.attention.layers else "derived"

    @property
    def tokens_per_second(self) -> float:
        return self.board.clock_mhz * 1e6 / self.cycles

    @property
    def bound(self) -> str:
        """What a faster board would have to have more of."""
        rate = self.board.bytes_per_second(self.engine.ports)
        busy = self.bytes_per_token / rate * self.tokens_per_second
        return "memory" if busy > 0.95 else "engine"

    @property
    def counts(self) -> str:
        """What the counts are: the model is calibrated for UltraScale+, without attention."""
        calibrated = "UltraScale+" in self.board.device and not self.attention.layers
        return "derived" if calibrated else "projected"

    def record(self) -> dict[str, Any]:
        """Everything, each figure with what it is."""
        engine, needs = self.engine, asdict(self.needs)
        label = {"cycles": self.derived, "tokens_per_second": "projected", "resources": self.counts}
        return {
            "board": self.board.name,
            "engine": {
                "rows": engine.rows, "columns": engine.columns, "weights": engine.codec_name,
                "lanes": engine.lanes, "beat_bytes": engine.beat_bytes, "beats_ahead": self.ahead,
                "lut_per_weight": round(self.lut_per_weight, 2),
            },
            "cycles_per_token": round(self.cycles),
            "cycles_without_memory": self.compute_cycles,
            "cycles_starved": round(self.starved),
            "cycles_memory_idle": round(self.memory_idle),
            "tokens_per_second": self.tokens_per_second,
            "bound": self.bound,
            "bytes_per_token": self.bytes_per_token,
            "attention": self._attention() if self.attention.layers else None,
            "resources": {
                name: {"needed": value, "of": getattr(self.board, name)}
                for name, value in needs.items()
            },
            "watts": None,
            "label": label,
            "sources": dict(self.board.source),
        }  # fmt: skip

    def _attention(self) -> dict[str, Any]:
        """What the cache's length changes."""
        return {
            "context": self.attention.context, "cycles": self.attention_cycles,
            "cache_bytes": self.attention.bytes,
            "tokens_per_second_of_an_empty_cache": self.empty_tokens_per_second,
            "label": "projected",
        }  # fmt: skip


def beats_per_cycle(plan: Plan, board: Board, engine: Engine) -> float:
    """What the memory delivers, less what constants take of it."""
    beats = weight_beats(plan, engine) * engine.beat_bytes
    share = beats / (beats + constant_bytes(plan))
    rate = board.bytes_per_second(engine.ports) / (board.clock_mhz * 1e6)
    return share * rate / engine.beat_bytes


def weight_beats(plan: Plan, engine: Engine) -> int:
    return sum(engine.beats(p.rows, p.columns) for p in plan.phases if p.matrix is not None)


def constant_bytes(plan: Plan) -> int:
    """Bytes of a token's row of the embedding, gains and bounds."""
    lengths = (
        math.prod(map(int, map(str, v.declared.shape))) for p in plan.phases for v in p.vectors
    )
    return 2 * (plan.hidden + sum(lengths))


def demand(plan: Plan, engine: Engine, ahead: int, board: Board) -> Resources:
    """What the token engine takes."""
    parameters = {**program.parameters(plan, engine), "AHEAD": ahead}
    total = resources.token_engine(parameters, board)
    if plan.has_digits:
        words = -(-plan.vocabulary // engine.lanes)
        total += resources.memory(32 * engine.lanes, words, uram=board.uram > 0)
    return total + AttentionUnit.of(plan, engine).resources(board)


def assess(plan: Plan, board: Board, engine: Engine) -> Estimate:
    """The model on the board with that engine, reading ahead as far as it helps and fits."""
    rows = program.program(plan, engine)
    delivered = beats_per_cycle(plan, board, engine)
    luts = resources.lut_per_weight(program.parameters(plan, engine))
    attention = AttentionUnit.of(plan, engine)
    attended = attention.cycles(attention.context, board)
    moved = weight_beats(plan, engine) * engine.beat_bytes + constant_bytes(plan) + attention.bytes
    # Tokens follow one another: none can take less than its bytes.
    least = moved / board.bytes_per_second(engine.ports) * board.clock_mhz * 1e6
    found: list[Estimate] = []
    for ahead in AHEAD:
        needs = demand(plan, engine, ahead, board)
        if not found or not needs.too_much(board, FULLEST):
            time = timeline(rows, engine, delivered, ahead)
            found.append(Estimate(
                board, engine, max(time.cycles + attended, least),
                token_cycles(rows, engine) + attended, time.starved, time.memory_idle, moved,
                ahead, needs, luts, attention,
            ))  # fmt: skip
    best = min(e.cycles for e in found)
    return next(e for e in found if AS_FAST * e.cycles <= best)
