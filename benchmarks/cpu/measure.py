"""Run a program pinned and in turn with others, and measure its CPU time from outside."""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Rate:
    """Tokens a second: by CPU time (times the threads), and by the clock on the wall."""

    cpu: float
    wall: float

    def over(self, other: Rate) -> str:
        """The ratio by CPU time, and by the wall."""
        return f"{self.cpu / other.cpu:.2f} ({self.wall / other.wall:.2f})"


Rates = Mapping[str, Rate]
"""Rates by test: pp512, tg64."""


@dataclass(frozen=True)
class Program:
    """One side of a comparison; `measure` runs every test once with that many threads."""

    name: str
    weights: str
    outer: str
    measure: Callable[[int], Rates]


@dataclass(frozen=True)
class Child:
    """What a program printed, what it said on stderr, and the CPU seconds it took."""

    text: str
    said: str
    seconds: float


def run(
    command: Sequence[str | Path], environment: Mapping[str, str] | None = None
) -> Child:  # fmt: skip
    """Run a program to its end; fail with what it said where it fails."""
    before = _children()
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True,
        env={**os.environ, **(environment or {})},
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"failed: {' '.join(map(str, command))}\n{done.stderr.strip()[-2000:]}")
    return Child(done.stdout, done.stderr, _children() - before)


def _children() -> float:
    """CPU seconds of the children that have ended, user and system."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def in_turn(programs: Sequence[Program], threads: int, repeats: int) -> dict[str, Rates]:
    """Rates by program: the median of the rounds, each of which runs every program once."""
    rounds: dict[str, list[Rates]] = {program.name: [] for program in programs}
    for n in range(repeats):
        for program in programs:
            note = f"round {n + 1} of {repeats}: {program.name}, threads: {threads}"
            print(note, file=sys.stderr, flush=True)
            rounds[program.name].append(program.measure(threads))
    return {name: _median(found) for name, found in rounds.items()}


def _median(rounds: Sequence[Rates]) -> Rates:
    """Test by test."""
    return {
        test: Rate(
            statistics.median(found[test].cpu for found in rounds),
            statistics.median(found[test].wall for found in rounds),
        )
        for test in rounds[0]
    }


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    """A markdown table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return [f"| {' | '.join(map(str, line))} |" for line in lines]
