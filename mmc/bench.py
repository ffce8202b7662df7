"""How fast an artefact runs here, beside the bound that memory sets.

A step of generation reads every packed weight once: bytes per step times steps per second is the
bandwidth that was reached, and the machine's read limit, measured in the same run and in turn with
the model, says how much more there is.  Rates on a CPU are by CPU time of the process over the
threads that work, so that another process on the machine does not count, with the clock on the wall
beside it; where a CPU only waits for a device, by the clock on the wall alone.
"""

from __future__ import annotations

import statistics
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from mmc.errors import MmcError
from mmc.runtime import Model
from mmc.targets.base import Meter

ENERGY_SECONDS = 3.0
"""How long generation goes on for its energy: counters are read every tenth of a second or so."""


@dataclass(frozen=True)
class BenchOptions:
    """prompt, generate: tokens; batch: sequences at a time."""

    prompt: int = 512
    generate: int = 128
    threads: int = 1
    repeats: int = 5
    batch: int = 1


@dataclass(frozen=True)
class Row:
    """One test, in tokens/s: pp512 is a prompt of 512 tokens, tg128 generates 128."""

    test: str
    rate: float
    deviation: float
    wall_rate: float


@dataclass(frozen=True)
class Bench:
    """The rows; bytes of packed weights that a step reads; rates in bytes a second.

    clock: what `rate` is by, "CPU time" or "wall".  memory: bytes by what takes them.
    joules_per_token: a number, or why there is none.
    """

    options: BenchOptions
    clock: str
    rows: tuple[Row, ...]
    bytes_per_token: int
    bandwidth: float
    read_limit: float | None
    memory: Mapping[str, int]
    joules_per_token: float | str

    def record(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        memory = ", ".join(f"{name} {size / 2**20:.0f} MiB" for name, size in self.memory.items())
        return "\n".join(
            [*self._table(), self._reading(), f"memory: {memory}", f"energy: {self._energy()}"]
        )

    def _table(self) -> list[str]:
        options = self.options
        if self.clock == "wall":
            columns = "| test | batch | tokens/s (wall) | ms per step (wall) |"
            rows = [
                f"| {row.test} | {options.batch} | {row.rate:.2f} ± {row.deviation:.2f} "
                f"| {self._milliseconds(row):.3f} |"
                for row in self.rows
            ]
        else:
            columns = "| test | threads | batch | tokens/s (CPU time) | tokens/s (wall) |"
            rows = [
                f"| {row.test} | {options.threads} | {options.batch} "
                f"| {row.rate:.2f} ± {row.deviation:.2f} | {row.wall_rate:.2f} |"
                for row in self.rows
            ]
        return [columns, "|---" * (columns.count("|") - 1) + "|", *rows]

    def _milliseconds(self, row: Row) -> float:
        """Of a whole prompt, or of one token of each sequence."""
        tokens = self.options.prompt if row.test.startswith("pp") else 1
        return 1e3 * tokens * self.options.batch / row.wall_rate

    def _reading(self) -> str:
        read = f"{self.bytes_per_token / 2**20:.1f} MiB of packed weights per step"
        if self.read_limit:
            part = self.bandwidth / self.read_limit
            read += (
                f", {self.bandwidth / 1e9:.1f} GB/s, {part:.2f} of the {self.read_limit / 1e9:.1f} "
                "GB/s that this machine reads"
            )
        return read

    def _energy(self) -> str:
        joules = self.joules_per_token
        return joules if isinstance(joules, str) else f"{joules:.4f} J per token, the whole board"


def bench(
    model: Model, options: BenchOptions, progress: Callable[[float], None] = lambda _: None
) -> Bench:
    """Measure prompt and generation `repeats` times, in turn with the read limit."""
    for name in ("prompt", "generate", "threads", "repeats", "batch"):
        if getattr(options, name) < 1:
            raise MmcError(f"{name} must be at least 1, not {getattr(options, name)}")
    model.use_threads(options.threads)
    meter = model.meter()
    random = np.random.default_rng(0)
    ids = random.integers(0, model.vocab_size, (options.batch, options.prompt))
    _, state = model.prefill(ids)

    def prompt() -> None:
        model.prefill(ids)

    def generate() -> None:
        deque(model.greedy(ids[:, 0], state, options.generate), maxlen=0)

    tests = {
        f"pp{options.prompt}": (options.prompt, prompt),
        f"tg{options.generate}": (options.generate, generate),
    }
    rates: dict[str, list[tuple[float, float]]] = {name: [] for name in tests}
    limits: list[float] = []
    for run in (prompt, generate, generate):  # warm: pages of the weights, recorded launches
        run()
    memory = {**model.meter().memory(), "states": state.bytes}  # before the limit's buffer
    for n in range(options.repeats):
        for name, (tokens, run) in tests.items():
            cpu, wall = _timed(run)
            count = tokens * options.batch
            by_clock = wall if meter.clock == "wall" else cpu / options.threads
            rates[name].append((count / by_clock, count / wall))
        limits += [limit] if (limit := meter.read_limit()) else []
        progress((n + 1) / options.repeats)
    rows = tuple(_row(name, found) for name, found in rates.items())
    size = bytes_per_step(model)
    return Bench(
        options, meter.clock, rows, size, size * rows[1].rate / options.batch,
        statistics.median(limits) if limits else None,
        memory, _joules_per_token(meter, generate, options.generate * options.batch),
    )  # fmt: skip


def _timed(run: Callable[[], object]) -> tuple[float, float]:
    """CPU seconds of the process, and seconds on the wall."""
    cpu, wall = time.process_time(), time.perf_counter()
    run()
    return time.process_time() - cpu, time.perf_counter() - wall


def _row(name: str, found: list[tuple[float, float]]) -> Row:
    rates = [rate for rate, _ in found]
    wall = statistics.median(rate for _, rate in found)
    return Row(name, statistics.mean(rates), statistics.pstdev(rates), wall)


def bytes_per_step(model: Model) -> int:
    """Packed weights: what every step of a batch reads once."""
    sizes: dict[str, int] = model.artifact.manifest["sizes"]["weight_bytes"]
    return sum(count for kind, count in sizes.items() if kind.startswith("ternary"))


def _joules_per_token(meter: Meter, generate: Callable[[], None], tokens: int) -> float | str:
    """Of generation again and again; what the board takes when it does nothing is in it."""
    before, began, made = meter.joules(), time.perf_counter(), 0
    if isinstance(before, str):
        return before
    while time.perf_counter() - began < ENERGY_SECONDS:
        generate()
        made += tokens
    after = meter.joules()
    return after if isinstance(after, str) else (after - before) / made
