"""What one run measures."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.cuda.shapes import SHAPES, Shape


@dataclass(frozen=True)
class Settings:
    """prepared: the folder of `benchmarks.cuda.prepare`; a peer that is None is left out."""

    prepared: Path
    models: tuple[str, ...]
    rounds: int
    tokens: int
    context: int
    prompt: int
    compiled: bool
    compile_mode: str
    w2a8: Path | None
    upstream: Path | None
    shapes: dict[str, Shape] = field(default_factory=dict[str, Shape])


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options that `settings` reads."""
    add = parser.add_argument
    add("--prepared", type=Path, required=True, help="what python -m benchmarks.cuda.prepare wrote")
    add("--models", default=",".join(SHAPES), help="some of these")
    add("-r", "--rounds", type=int, default=5, help="each figure is the median of the rounds")
    add("-n", "--tokens", type=int, default=128, help="tokens of a generation")
    add("--context", type=int, default=512, help="positions that the Llama attends to")
    add("-p", "--prompt", type=int, default=2048, help="tokens of a prompt")
    add("--no-compile", action="store_true", help="leave out torch.compile, which takes minutes")
    add("--compile-mode", default="default", help="torch.compile's; max-autotune-no-cudagraphs")
    add("--upstream", type=Path, help="a checkout of ridgerchu/matmulfreellm, up to 2.7b")
    add("--w2a8", type=Path, help="the folder gpu/bitnet_kernels of microsoft/BitNet; needs nvcc")


def settings(given: argparse.Namespace) -> Settings:
    """What the command line says."""
    models = tuple(given.models.split(","))
    return Settings(
        prepared=given.prepared,
        models=models,
        rounds=given.rounds,
        tokens=given.tokens,
        context=given.context,
        prompt=given.prompt,
        compiled=not given.no_compile,
        compile_mode=given.compile_mode,
        w2a8=given.w2a8,
        upstream=given.upstream,
        shapes={name: SHAPES[name] for name in models},
    )
