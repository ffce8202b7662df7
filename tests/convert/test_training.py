"""The training itself: its loss, its batches, and going on after it was killed."""

from __future__ import annotations

import itertools
import math
import multiprocessing
import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from mmc.convert import ConvertOptions, TrainingOptions, convert
from mmc.convert.resume import last_saved
from mmc.convert.text import Text
from mmc.convert.training import distillation_losses, learning_rate
from mmc.errors import MmcError
from tests.convert.tiny import options, teacher, training


def test_losses() -> None:
    logits, wanted = torch.randn(2, 3, 7), torch.randn(2, 3, 7)
    targets = torch.randint(0, 7, (2, 3))
    entropy = nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
    said, truth = (x.log_softmax(-1).flatten(0, 1) for x in (logits, wanted))
    divergence = nn.functional.kl_div(said, truth, reduction="batchmean", log_target=True)
    found = distillation_losses(logits, wanted, targets, 0.3)
    torch.testing.assert_close(found, torch.stack([0.3 * divergence + 0.7 * entropy, entropy]))
    alone = distillation_losses(logits, None, targets, 0.3)
    torch.testing.assert_close(alone, torch.stack([entropy, entropy]))


def test_learning_rate_rises_and_falls() -> None:
    options = TrainingOptions(steps=100, learning_rate=2.0, warmup=0.1)
    rates = [learning_rate(options, step / 100) for step in range(101)]
    assert 0 < rates[0] < 0.1
    assert rates[10] == pytest.approx(2.0)
    assert rates[55] == pytest.approx(1.0)
    assert rates[100] == pytest.approx(0.0)
    assert np.argmax(rates) == 10


def test_batches_follow_from_seed_and_step() -> None:
    text = Text(np.arange(40, dtype=np.int32), np.arange(2, dtype=np.int32))
    first = text.starts(1, 5, 1000, 32)
    assert (first == text.starts(1, 5, 1000, 32)).all()
    assert (first != text.starts(1, 6, 1000, 32)).any()
    assert (first != text.starts(2, 5, 1000, 32)).any()
    # A window and the token behind it fit: the last start is 40 - 33.
    assert set(first) == set(range(8))


def losses(record_folder: Path) -> list[str]:
    """The curve without its times."""
    rows = [row.split(",") for row in (record_folder / "curve.csv").read_text().splitlines()]
    return [",".join([*row[:2], *row[3:]]) for row in rows]


def convert_and_die(source: Path, out: Path, given: ConvertOptions, threads: int) -> None:
    """In a process of its own, which ends in step 13."""

    def die(stage: str, done: float) -> None:
        if "step 13 " in stage:
            os._exit(9)

    torch.set_num_threads(threads)
    convert(source, out, given, die)


def killed(source: Path, out: Path, given: ConvertOptions) -> None:
    """Begin a training; nothing but its last checkpoint is left of it."""
    arguments = (source, out, given, torch.get_num_threads())
    child = multiprocessing.get_context("spawn").Process(target=convert_and_die, args=arguments)
    child.start()
    child.join()
    assert child.exitcode == 9
    assert not out.exists()


@pytest.mark.parametrize("kept", [None, "every=2"])
def test_resumed_training_is_the_same_bit_for_bit(kept: str | None, tmp_path: Path) -> None:
    """The process is gone between two checkpoints, without a chance to write anything."""
    chosen = training(24, save_every=5, evaluate_every=6)
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    source, given = teacher(), options("matmul-free", chosen, keep_attention=kept)
    convert(source, whole, given)
    killed(source, resumed, given)
    with pytest.raises(MmcError, match="holds an unfinished training"):
        convert(source, resumed, given)
    with pytest.raises(MmcError, match="belongs to a training with another steps"):
        convert(source, resumed, replace(given, training=training(25), resume=True))
    convert(source, resumed, replace(given, resume=True))
    assert losses(resumed) == losses(whole)
    found, wanted = (load_file(folder / "model.safetensors") for folder in (resumed, whole))
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_loss_that_is_no_number_keeps_the_last_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mmc.convert import training as module

    def broken(*arguments: Any) -> torch.Tensor:
        found = distillation_losses(*arguments)
        calls.append(found)
        return found * (float("nan") if len(calls) > 7 else 1)

    calls: list[torch.Tensor] = []
    monkeypatch.setattr(module, "distillation_losses", broken)
    chosen = training(20, save_every=5, log_every=3)
    with pytest.raises(MmcError, match="not a number at step 9"):
        convert(teacher(), tmp_path / "out", options("ternary", chosen))
    assert not (tmp_path / "out").exists()
    kept = last_saved(tmp_path / "out.training")
    assert kept is not None
    assert kept.name == "step-5"
    monkeypatch.undo()
    going_on = options("ternary", chosen, resume=True)
    file = next(kept.glob("*.distcp"))
    whole = file.read_bytes()
    file.write_bytes(whole[:1000])
    with pytest.raises(MmcError, match="step-5: cannot be read") as told:
        convert(teacher(), tmp_path / "out", going_on)
    assert "\n" not in str(told.value)
    file.write_bytes(whole)
    record = convert(teacher(), tmp_path / "out", going_on)
    assert math.isfinite(record["nats_per_token"]["converted"])


def test_checkpoint_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "out.training").write_text("a file")
    with pytest.raises(MmcError, match="step-0: cannot be written") as told:
        convert(teacher(), tmp_path / "out", options("ternary", training(2)))
    assert "\n" not in str(told.value)
    assert not (tmp_path / "out").exists()


def test_memory_that_runs_out_says_what_to_lower(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mmc.convert.training import Trainer

    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(Trainer, "_step", full)
    with pytest.raises(MmcError, match="lower --batch or --window"):
        convert(teacher(), tmp_path / "out", options("ternary", training(2)))


def test_minutes_end_the_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that goes on by 0.1 s each time it is read, at most three times in a step."""
    clock = SimpleNamespace(monotonic=map((0.1).__mul__, itertools.count()).__next__)
    monkeypatch.setattr("mmc.convert.training.time", clock)
    chosen = TrainingOptions(minutes=0.02, batch=2, window=16, learning_rate=1e-2)
    record = convert(teacher(), tmp_path / "out", options("ternary", chosen))
    assert record["progress"]["steps"] >= 4
    assert 1.2 <= record["progress"]["seconds"] < 1.5
