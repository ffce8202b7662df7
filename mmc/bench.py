"""How fast an artefact runs here, beside the bound that memory sets.

A step of generation reads every packed weight once: bytes per step times steps per second is the
bandwidth that was reached, and the machine's read limit, measured in the same run and in turn with
the model, says how much more there is.  Times are CPU time of the process over the threads that
work, so that another process on the machine does not count; wall-clock time is given beside it.
"""

from __future__ import annotations

import resource
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from mmc.errors import MmcError
from mmc.runtime import Model


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
    """The rows; bytes of packed weights that a token reads; rates in bytes a second."""

    options: BenchOptions
    rows: tuple[Row, ...]
    bytes_per_token: int
    bandwidth: float
    read_limit: float | None
    peak_resident_bytes: int

    def record(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        options = self.options
        lines = [
            "| test | threads | batch | tokens/s (CPU time) | tokens/s (wall) |",
            "|---|---|---|---|---|",
        ]
        lines += [
            f"| {row.test} | {options.threads} | {options.batch} "
            f"| {row.rate:.2f} ± {row.deviation:.2f} | {row.wall_rate:.2f} |"
            for row in self.rows
        ]
        read = f"{self.bytes_per_token / 2**20:.1f} MiB of packed weights per step"
        if self.read_limit:
            part = self.bandwidth / self.read_limit
            read += (
                f", {self.bandwidth / 1e9:.1f} GB/s, {part:.2f} of the {self.read_limit / 1e9:.1f} "
                "GB/s that this machine reads"
            )
        return "\n".join(
            [*lines, read, f"peak resident memory {self.peak_resident_bytes / 2**20:.0f} MiB"]
        )


def bench(
    model: Model, options: BenchOptions, progress: Callable[[float], None] = lambda _: None
) -> Bench:
    """Measure prompt and generation `repeats` times, in turn with the read limit."""
    for name in ("prompt", "generate", "threads", "repeats", "batch"):
        if getattr(options, name) < 1:
            raise MmcError(f"{name} must be at least 1, not {getattr(options, name)}")
    model.use_threads(options.threads)
    random = np.random.default_rng(0)
    ids = random.integers(0, model.vocab_size, (options.batch, options.prompt))
    _, state = model.prefill(ids)
    token = ids[:, 0]

    def generate() -> None:
        for _ in range(options.generate):
            model.decode(token, state)

    tests = {
        f"pp{options.prompt}": (options.prompt, lambda: model.prefill(ids)),
        f"tg{options.generate}": (options.generate, generate),
    }
    rates: dict[str, list[tuple[float, float]]] = {name: [] for name in tests}
    limits: list[float] = []
    generate()  # warm: pages of the weights, memory of the calls
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # before the limit's buffer
    for n in range(options.repeats):
        for name, (tokens, run) in tests.items():
            cpu, wall = _timed(run)
            count = tokens * options.batch
            rates[name].append((count / cpu * options.threads, count / wall))
        limits += [limit] if (limit := model.read_limit()) else []
        progress((n + 1) / options.repeats)
    rows = tuple(_row(name, found) for name, found in rates.items())
    size = _bytes_per_step(model)
    return Bench(
        options, rows, size, size * rows[1].rate / options.batch,
        statistics.median(limits) if limits else None,
        peak,
    )  # fmt: skip


def _timed(run: Callable[[], object]) -> tuple[float, float]:
    """CPU seconds of the process, and seconds on the wall."""
    cpu, wall = time.process_time(), time.perf_counter()
    run()
    return time.process_time() - cpu, time.perf_counter() - wall


def _row(name: str, found: list[tuple[float, float]]) -> Row:
    cpu = [rate for rate, _ in found]
    wall = statistics.median(rate for _, rate in found)
    return Row(name, statistics.mean(cpu), statistics.pstdev(cpu), wall)


def _bytes_per_step(model: Model) -> int:
    """Packed weights: what every step of a batch reads once."""
    sizes: dict[str, int] = model.artifact.manifest["sizes"]["weight_bytes"]
    return sum(count for kind, count in sizes.items() if kind.startswith("ternary"))
