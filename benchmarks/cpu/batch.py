"""Several sequences at a time: the weights are read once for all of them."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.cpu.measure import Program, Rate, Rates, in_turn, run, table
from benchmarks.cpu.models import MMC, artefact
from benchmarks.cpu.settings import Settings, bits

BATCHES = (1, 2, 4, 8, 16)
PROMPT = 8
COLUMNS = (
    "weights", "threads", "sequences", "t/s of all, CPU time", "t/s of all, wall",
    "is that of one, CPU time (wall)",
)  # fmt: skip


def batched(settings: Settings, shape: str) -> list[str]:
    """Generation of all sequences together, beside one alone."""
    rows: list[list[object]] = []
    for weights in settings.layouts:
        path = artefact(settings.build, shape, weights)
        for threads in settings.threads:
            programs = [decode(settings, path, batch) for batch in BATCHES]
            found = in_turn(programs, threads, settings.repeats)
            alone = found[programs[0].name]["tg"]
            for batch, program in zip(BATCHES, programs, strict=True):
                rate = found[program.name]["tg"]
                rates = (f"{rate.cpu:.2f}", f"{rate.wall:.2f}", rate.over(alone))
                rows.append([bits(weights), threads, batch, *rates])
    return table(COLUMNS, rows)


def decode(settings: Settings, path: Path, batch: int) -> Program:
    """`mmc bench --batch`; its prompt is short, for only generation is shown."""

    def measure(threads: int) -> Rates:
        command = [MMC, "bench", path, "-p", str(PROMPT), "-n", str(settings.generate)]
        rest = ["-t", str(threads), "-r", "1", "--batch", str(batch), "--json"]
        row = json.loads(run([*settings.pin(threads), *command, *rest]).text)["rows"][1]
        return {"tg": Rate(row["rate"], row["wall_rate"])}

    return Program(f"{batch} sequences", "", "", measure)
