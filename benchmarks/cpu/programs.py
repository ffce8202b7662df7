"""How each program is run: one function for MMC, one for each peer."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

from benchmarks.cpu.measure import Program, Rate, Rates, run
from benchmarks.cpu.models import MMC, artefact, gguf
from benchmarks.cpu.settings import Settings, bits
from mmc.ir.packing import Layout

LITESPARK = Path(__file__).with_name("litespark_worker.py")
TIMED = {"pp": 1, "tg": 3}
"""Repeats of llama-bench that are timed, behind one that is not."""

TRIES = 3
"""Where the start of one run took longer than all of another, the difference is no time."""


def mmc(
    settings: Settings,
    shape: str,
    weights: Layout,
    isa: str | None = None,
    embedding: str | None = None,
) -> Program:
    """`mmc bench`, which measures behind a run that warms up."""
    path = artefact(settings.build, shape, weights, embedding=embedding)
    forced = {"MMC_CPU_ISA": isa} if isa else {}

    def measure(threads: int) -> Rates:
        command = [MMC, "bench", path, "-p", str(settings.prompt), "-n", str(settings.generate)]
        rest = ["-t", str(threads), "-r", "1", "--json"]
        found = json.loads(run([*settings.pin(threads), *command, *rest], forced).text)
        return {row["test"]: Rate(row["rate"], row["wall_rate"]) for row in found["rows"]}

    outer = f"{embedding}; {embedding}" if embedding else "bf16, looked up; ternary"
    name = f"mmc {bits(weights)}" + (f", {embedding}" if embedding else "")
    return Program(name, bits(weights), outer, measure)


def llama(settings: Settings, binary: Path, shape: str, kind: str) -> Program:
    """llama-bench: run with one repeat and with more, so that start and warm-up cancel.

    kind: a type of llama.cpp, or two: tq2_0/q8_0 has an embedding and an output in q8_0.
    """
    name = f"llama.cpp {kind.upper()}"
    kind, _, outer = kind.partition("/")
    model = gguf(settings.build, shape, kind, outer or None)

    def measure(threads: int) -> Rates:
        read(model)
        tests = {"pp": (settings.prompt, 0), "tg": (0, settings.generate)}
        return {f"{name}{sum(n)}": one(name, *n, threads) for name, n in tests.items()}

    def one(name: str, prompt: int, generate: int, threads: int) -> Rate:
        command = [*settings.pin(threads), binary, "-m", model, "--no-warmup", "-o", "json"]
        command += ["-t", str(threads), "-p", str(prompt), "-n", str(generate)]
        for _ in range(TRIES):
            short = run([*command, "-r", "1"])
            long = run([*command, "-r", str(1 + TIMED[name])])
            seconds = (long.seconds - short.seconds) / threads
            wall = statistics.median(json.loads(long.text)[0]["samples_ts"][1:])
            if seconds > 0:
                return Rate(TIMED[name] * (prompt + generate) / seconds, wall)
        raise SystemExit(f"{name} of {model.name}: too short a test, or too busy a machine")

    outer = (outer or ("f16" if kind == "f16" else "q4_0")).upper()
    return Program(name, kind.upper(), f"{outer}; {outer}", measure)


def litespark(settings: Settings, python: Path) -> Program:
    """litespark-inference on random weights; its process measures itself, as `mmc bench` does."""

    def measure(threads: int) -> Rates:
        command = [*settings.pin(threads), python, LITESPARK, "-p", str(settings.prompt)]
        text = run([*command, "-n", str(settings.generate)], one_pool(threads)).text
        return {test: Rate(**rate) for test, rate in json.loads(text)["rates"].items()}

    return Program("litespark-inference", "2 bits", "int4; int4", measure)


def read(path: Path) -> None:
    """Bring a file into the page cache, so that every run finds it there."""
    with path.open("rb") as file:
        while file.read(2**24):
            pass


def litespark_facts(python: Path) -> dict[str, Any]:
    """Its version, and what a check of its answers found."""
    found = run([python, LITESPARK, "--check"], one_pool(1)).text
    return json.loads(found)


def one_pool(threads: int) -> dict[str, str]:
    """As many threads for OpenMP and for the BLAS of numpy."""
    return {"OMP_NUM_THREADS": str(threads), "OPENBLAS_NUM_THREADS": str(threads)}
