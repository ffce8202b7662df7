"""A conversion on a GPU: what was killed goes on with the losses of what was not."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from mmc.convert import convert
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
    chosen = training(24, save_every=5)
    given = options("matmul-free", chosen, device="cuda", keep_attention="every=2")
    convert(teacher(), tmp_path / "whole", given)
    killed(teacher(), tmp_path / "resumed", given)
    convert(teacher(), tmp_path / "resumed", replace(given, resume=True))

    def losses(name: str) -> list[float]:
        with (tmp_path / name / "curve.csv").open() as file:
            return [float(row["loss"]) for row in csv.DictReader(file)]

    pairs = zip(losses("resumed"), losses("whole"), strict=True)
    apart = max(abs(new - old) for new, old in pairs)
    record_property("nats apart", apart)
    assert apart < TOLERANCE
