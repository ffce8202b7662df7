"""Generation beside the rate at which the machine reads memory, measured in the same run."""

from __future__ import annotations

import json

from benchmarks.cpu.measure import run, table
from benchmarks.cpu.models import MMC, artefact
from benchmarks.cpu.settings import Settings, bits

PROMPT = 8
COLUMNS = (
    "weights", "threads", "packed weights per step", "t/s, CPU time", "GB/s of weights",
    "GB/s that the machine reads", "part of it",
)  # fmt: skip


def fraction(settings: Settings, shape: str) -> list[str]:
    """A row for each layout and number of threads; `mmc bench` measures both in turn."""
    rows: list[list[object]] = []
    for threads in settings.threads:
        for weights in settings.layouts:
            path = artefact(settings.build, shape, weights)
            command = [MMC, "bench", path, "-p", str(PROMPT), "-n", str(settings.generate)]
            rest = ["-t", str(threads), "-r", str(settings.repeats), "--json"]
            found = json.loads(run([*settings.pin(threads), *command, *rest]).text)
            rows.append([bits(weights), threads, *figures(found)])
    return table(COLUMNS, rows)


def figures(found: dict[str, float]) -> list[str]:
    """The rest of a row."""
    step, reached, limit = found["bytes_per_token"], found["bandwidth"], found["read_limit"]
    return [
        f"{step / 2**20:.1f} MiB", f"{reached / step:.2f}", f"{reached / 1e9:.1f}",
        f"{limit / 1e9:.1f}", f"{reached / limit:.2f}",
    ]  # fmt: skip
