"""A conversion on a GPU, and on two: what was killed goes on, and what is shared is the same."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mmc.convert import convert
from tests.convert.test_processes import mmc_convert, torchrun
from tests.convert.test_training import killed
from tests.convert.tiny import options, teacher, training

pytestmark = [
    pytest.mark.gpu,
    # torch.compile has advice.
    pytest.mark.filterwarnings("default"),
]

TOLERANCE = 1e-3
"""In nats: attention adds up its gradients in no fixed order there."""


def test_resumed_training_has_the_same_losses(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """Also where the process has trained with other sizes before, and the killed one has not."""
    chosen = training(24, save_every=5)
    given = options("matmul-free", chosen, device="cuda", keep_attention="every=2")
    convert(teacher(), tmp_path / "before", replace(given, training=training(2, batch=4)))
    convert(teacher(), tmp_path / "whole", given)
    killed(teacher(), tmp_path / "resumed", given)
    convert(teacher(), tmp_path / "resumed", replace(given, resume=True))

    pairs = zip(losses(tmp_path / "resumed"), losses(tmp_path / "whole"), strict=True)
    apart = max(abs(new - old) for new, old in pairs)
    record_property("nats apart", apart)
    assert apart < TOLERANCE


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
@pytest.mark.parametrize("how", ["--shard", "--no-shard"])
def test_two_gpus_are_one_that_takes_each_batch_in_two_parts(how: str, tmp_path: Path) -> None:
    """To the bit, also where a CUDA graph holds what they tell one another."""
    chosen = training(24, log_every=10, save_every=4, accumulate=2)
    convert(teacher(), tmp_path / "parts", options("matmul-free", chosen, device="cuda"))
    more = ("--to", "matmul-free", "--steps", 24, "--device", "cuda", how)
    done = torchrun("-m", "mmc", *mmc_convert(tmp_path / "two", *more))
    assert done.returncode == 0, done.stderr
    assert losses(tmp_path / "two") == losses(tmp_path / "parts")


def losses(folder: Path) -> list[float]:
    with (folder / "curve.csv").open() as file:
        return [float(row["loss"]) for row in csv.DictReader(file)]
