"""What one run measures: models, peers, repeats, processors."""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass
from pathlib import Path

from benchmarks.make_random_model import SHAPES
from mmc.ir.packing import Layout

LAYOUTS: tuple[Layout, ...] = ("2bit", "1.67bit", "1.6bit")


def bits(layout: Layout) -> str:
    """A layout as the tables name it."""
    return layout.replace("bit", " bits")


QUICK_PROMPT, QUICK_GENERATE, QUICK_CONTEXT = 64, 16, 1000


@dataclass(frozen=True)
class Settings:
    """processors: those that work is pinned to, in order; a peer that is None is left out."""

    models: tuple[str, ...]
    layouts: tuple[Layout, ...]
    build: Path
    threads: tuple[int, ...]
    repeats: int
    prompt: int
    generate: int
    context: int
    processors: tuple[int, ...]
    isa: str
    llama_bench: Path | None
    llama_bench_avx2: Path | None
    llama_types: tuple[str, ...]
    llama_python: Path | None
    litespark: Path | None

    def pin(self, threads: int) -> list[str]:
        """The command prefix that keeps a program on the first `threads` processors."""
        return ["taskset", "-c", ",".join(map(str, self.processors[:threads]))]


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options that `settings` reads."""

    def names(text: str) -> tuple[str, ...]:
        return tuple(text.lower().split(","))

    def numbers(text: str) -> tuple[int, ...]:
        return tuple(map(int, text.split(",")))

    every = tuple(sorted(os.sched_getaffinity(0)))
    add = parser.add_argument
    add("--models", type=names, default=tuple(SHAPES), help="shapes of make_random_model.py")
    add("--layouts", type=names, default=LAYOUTS, help="packings of the weights that are compared")
    add("--build", type=Path, default=Path("build/benchmarks"), help="where models are kept")
    add("-t", "--threads", type=numbers, default=(1, 2), help="such as 1,2")
    add("-r", "--repeats", type=int, default=5, help="rounds; each figure is the median")
    add("-p", "--prompt", type=int, default=512)
    add("-n", "--generate", type=int, default=64)
    add("--context", type=int, default=10_000, help="the late position of the context section")
    add("--processors", type=numbers, default=every, help="pin to the first of these")
    add("--isa", default="avx2", help="MMC_CPU_ISA of the section avx2")
    add("--llama-bench", type=Path, help="llama.cpp built for this processor")
    add("--llama-bench-avx2", type=Path, help="llama.cpp built without AVX-512")
    add("--llama-types", type=names, help="default: tq2_0,tq1_0; tq2_0/q8_0 has a head of Q8_0")
    add("--llama-python", type=Path, help="Python of an environment that has llama-cpp-python")
    add("--litespark", type=Path, help="Python of an environment that has litespark-inference")
    add("--quick", action="store_true", help="one round, one thread, short tests: to try it out")


def settings(given: argparse.Namespace) -> Settings:
    """What the command line says."""
    quick = bool(given.quick)
    if not quick and max(given.threads) > len(given.processors):
        raise SystemExit(f"{max(given.threads)} threads need as many --processors")
    return Settings(
        models=given.models,
        layouts=given.layouts,
        build=given.build,
        threads=(1,) if quick else given.threads,
        repeats=1 if quick else given.repeats,
        prompt=QUICK_PROMPT if quick else given.prompt,
        generate=QUICK_GENERATE if quick else given.generate,
        context=QUICK_CONTEXT if quick else given.context,
        processors=given.processors,
        isa=given.isa,
        llama_bench=given.llama_bench,
        llama_bench_avx2=given.llama_bench_avx2,
        llama_types=given.llama_types or (),
        llama_python=given.llama_python,
        litespark=given.litespark,
    )
