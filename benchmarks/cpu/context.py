"""Time of a token early and late in a text, what a state takes, and the peak of memory.

    python -m benchmarks.cpu.context ARTEFACT [--early 10] [--late 10000]

One process holds both states and decodes from them in turn, so that the machine's moods meet both.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import sys
import time
from pathlib import Path

import numpy as np

import mmc
from benchmarks.cpu.measure import run, table
from benchmarks.cpu.models import artefact
from benchmarks.cpu.settings import Settings, bits
from mmc.runtime import State

EARLY, PIECE, STEPS, WARM = 10, 512, 8, 16
COLUMNS = (
    "weights", "threads", "position", "ms per token, CPU time", "ms per token, wall",
    "late over early", "state", "weights in memory", "peak", "peak over weights",
)  # fmt: skip


def flat(settings: Settings, shape: str) -> list[str]:
    """A row for the early position and one for the late."""
    rows: list[list[object]] = []
    for weights in settings.layouts:
        path = artefact(settings.build, shape, weights)
        for threads in settings.threads:
            command = [sys.executable, "-m", "benchmarks.cpu.context", path, "-t", str(threads)]
            command += ["--late", str(settings.context), "--rounds", str(20 * settings.repeats)]
            found = json.loads(run([*settings.pin(threads), *command]).text)
            head = [bits(weights), threads]
            for which, position in enumerate((EARLY, settings.context)):
                rows.append([*head, position, *figures(found, which)])
    return table(COLUMNS, rows)


def figures(found: dict[str, list[float]], which: int) -> list[str]:
    """The rest of a row; memory is one figure for both."""
    cpu, wall = found["cpu"], found["wall"]
    times = [f"{1e3 * cpu[which]:.3f}", f"{1e3 * wall[which]:.3f}"]
    ratio = f"{cpu[1] / cpu[0]:.3f} ({wall[1] / wall[0]:.3f})" if which else ""
    state = f"{found['state'][which] / 1024:.1f} KiB"
    peak, weights = found["memory"]
    memory = [f"{weights / 1e6:.0f} MB", f"{peak / 1e6:.0f} MB", f"{(peak - weights) / 1e6:.0f} MB"]
    return [*times, ratio, state, *(memory if which else ["", "", ""])]


def measured(path: Path, late: int, threads: int, rounds: int) -> dict[str, list[float]]:
    """Seconds per token at both positions, bytes of both states, and peak and weights."""
    model = mmc.load(path)
    assert isinstance(model, mmc.Model)
    model.use_threads(threads)
    ids = np.random.default_rng(0).integers(0, model.vocab_size, (1, late))
    states = [after(model, ids[:, :EARLY]), after(model, ids)]
    token = ids[:, 0]
    times: list[list[tuple[float, float]]] = [[], []]
    for n in range(-WARM, rounds):
        for which in (0, 1) if n % 2 else (1, 0):
            cpu, wall = time.process_time(), time.perf_counter()
            for _ in range(STEPS):
                model.decode(token, states[which])
            spent = (time.process_time() - cpu) / STEPS, (time.perf_counter() - wall) / STEPS
            times[which] += [spent] if n >= 0 else []
    weights = model.artifact.manifest["sizes"]["weight_bytes_total"]
    return {
        "cpu": [statistics.median(cpu for cpu, _ in found) for found in times],
        "wall": [statistics.median(wall for _, wall in found) for found in times],
        "state": [state.bytes for state in states],
        "memory": [resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, weights],
    }


def after(model: mmc.Model, ids: np.ndarray) -> State:
    """The state behind a text, which goes in piece by piece."""
    state = model.empty_state(1)
    for start in range(0, ids.shape[1], PIECE):
        _, state = model.extend(ids[:, start : start + PIECE], None, state)
    return state


def main() -> None:
    """Print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("artefact", type=Path)
    parser.add_argument("--late", type=int, default=10_000)
    parser.add_argument("-t", "--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=100)
    given = parser.parse_args()
    print(json.dumps(measured(given.artefact, given.late, given.threads, given.rounds)))


if __name__ == "__main__":
    main()
