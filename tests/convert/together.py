"""What test_processes.py has torchrun start: `-m tests.convert.together WHAT` and arguments."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch

from mmc.cli import main as command_line
from mmc.convert import ConvertOptions, TrainingOptions, convert
from mmc.convert import training as loop
from mmc.convert.processes import Processes, together
from mmc.errors import MmcError

STEPS, KILLED_AT, SAVE_EVERY = 12, 9, 4


def conversions(source: Path, text: Path, held_out: Path, folder: Path) -> None:
    """Some that end, one whose loss is no number in one process, and one that is killed."""

    def options(to: str, steps: int = STEPS, **changes: Any) -> ConvertOptions:
        training = TrainingOptions(
            steps, batch=8, window=32, learning_rate=1e-2, log_every=1, save_every=SAVE_EVERY,
            evaluate_every=6, **changes,
        )  # fmt: skip
        return ConvertOptions(to, text=(text,), held_out=held_out, training=training, device="cpu")

    with together("cpu") as processes:
        convert(source, folder / "whole", options("matmul-free"), processes=processes)
        convert(
            source, folder / "ternary", options("ternary", 6, checkpointing=True),
            processes=processes,
        )  # fmt: skip
        convert(source, folder / "all", options("matmul-free", shard=False), processes=processes)
        said = no_number(source, folder, options("ternary"), processes)
        (folder / f"no-number-{processes.rank}.json").write_text(json.dumps(said))
        convert(source, folder / "killed", options("matmul-free"), die, processes)


def die(stage: str, done: float) -> None:
    if f"step {KILLED_AT} " in stage:
        os._exit(9)


def no_number(source: Path, folder: Path, options: ConvertOptions, processes: Processes) -> str:
    """The message; only the second process has such a loss, in its 8th step."""
    whole, calls = loop.distillation_losses, list[int]()

    def broken(*arguments: Any) -> torch.Tensor:
        calls.append(1)
        return whole(*arguments) * (float("nan") if len(calls) == 8 and processes.rank else 1)

    loop.distillation_losses = broken
    try:
        convert(source, folder / "no-number", options, processes=processes)
    except MmcError as error:
        return str(error)
    finally:
        loop.distillation_losses = whole
    return "it went well"


def memory_runs_out() -> None:
    """In the third step of the second process."""
    trainer: Any = loop.Trainer
    step, calls = trainer._step, list[int]()

    def full(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 3 and os.environ["RANK"] == "1":
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return step(*arguments)

    trainer._step = full


if __name__ == "__main__":
    what, *arguments = sys.argv[1:]
    torch.set_num_threads(1)
    if what == "conversions":
        conversions(*map(Path, arguments))
    else:
        memory_runs_out()
        sys.argv = ["mmc", *arguments]
        command_line()
