"""A training shared by two processes that torchrun starts: the course of one, and its errors."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
from safetensors.torch import load_file
from torch import equal

from mmc.convert import convert
from mmc.convert.processes import Processes
from mmc.convert.resume import last_saved
from mmc.errors import MmcError
from tests.convert.tiny import held_out, options, teacher, text, training
from tests.convert.together import KILLED_AT, SAVE_EVERY, STEPS
from tests.end_to_end.compiled import ROOT
from tests.folders import workspace

EARLY, LATER = 1e-5, 1e-2
"""How far the losses of two processes may be from those of one, in nats, in three steps and later:
sums in another order in time move weights over the thresholds of quantisers.  From those of one
that takes each batch in two parts they may not be away at all."""
TRAINING = (
    "--batch", 8, "--window", 32, "--learning-rate", "1e-2", "--save-every", SAVE_EVERY,
    "--device", "cpu",
)  # fmt: skip


def torchrun(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Two processes, of one thread each."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2]
    return subprocess.run(
        [str(part) for part in (*command, *arguments)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        timeout=300,
        check=False,
    )


def mmc_convert(out: Path, *more: object) -> tuple[object, ...]:
    """The command's arguments."""
    texts = ("--text", text(), "--held-out", held_out())
    return ("convert", teacher(), "-o", out, *texts, *TRAINING, *more)


@cache
def conversions() -> Path:
    """The folder of the conversions by two processes; the last one was killed."""
    folder = workspace() / "together"
    folder.mkdir()
    arguments = (teacher(), text(), held_out(), folder)
    done = torchrun("-m", "tests.convert.together", "conversions", *arguments)
    assert done.returncode != 0
    assert "exitcode  : 9 " in done.stderr, done.stderr
    return folder


def curve(folder: Path) -> list[dict[str, float]]:
    with (folder / "curve.csv").open() as file:
        return [{k: float(v) for k, v in row.items() if v} for row in csv.DictReader(file)]


def losses(folder: Path) -> list[tuple[float, float]]:
    return [(row["loss"], row["gradient_norm"]) for row in curve(folder)]


def assert_same_course(found: Path, wanted: Path) -> None:
    pairs = list(zip(curve(found), curve(wanted), strict=True))
    for key in ("loss", "cross_entropy", "gradient_norm"):
        assert max(abs(new[key] - old[key]) for new, old in pairs[:3]) < EARLY
    for key in ("loss", "held_out"):
        assert max(abs(new[key] - old[key]) for new, old in pairs if key in old) < LATER
    figures = [json.loads((f / "conversion.json").read_text()) for f in (found, wanted)]
    new, old = (figure["nats_per_token"] for figure in figures)
    for name in ("teacher", "rounded without training", "before training"):
        assert new[name] == pytest.approx(old[name], abs=EARLY)
    assert new["converted"] == pytest.approx(old["converted"], abs=LATER)
    assert [figure["processes"] for figure in figures] == [2, 1]


@pytest.mark.slow
def test_losses_are_those_of_one_process(tmp_path: Path) -> None:
    chosen = training(STEPS, evaluate_every=6)
    convert(teacher(), tmp_path / "whole", options("matmul-free", chosen))
    assert_same_course(conversions() / "whole", tmp_path / "whole")
    assert " s on 2 of cpu." in (conversions() / "whole" / "README.md").read_text()
    chosen = training(6, evaluate_every=6)
    convert(teacher(), tmp_path / "ternary", options("ternary", chosen))
    assert_same_course(conversions() / "ternary", tmp_path / "ternary")


@pytest.mark.slow
def test_two_processes_are_one_that_takes_each_batch_in_two_parts(tmp_path: Path) -> None:
    """To the bit; but the norm of gradients of which each has a part is another sum."""
    chosen = training(STEPS, evaluate_every=6, accumulate=2)
    convert(teacher(), tmp_path / "parts", options("matmul-free", chosen))
    wanted, found = (
        load_file(folder / "model.safetensors")
        for folder in (tmp_path / "parts", conversions() / "all")
    )
    assert all(equal(found[name], wanted[name]) for name in wanted)
    assert losses(conversions() / "all") == losses(tmp_path / "parts")
    assert_same_course(conversions() / "whole", tmp_path / "parts")
    convert(teacher(), tmp_path / "one", options("matmul-free", replace(chosen, accumulate=1)))
    assert_same_course(conversions() / "all", tmp_path / "one")


@pytest.mark.slow
def test_killed_training_goes_on(tmp_path: Path) -> None:
    """By two processes with the same bits, by one with the same losses."""
    folder = conversions()
    assert not (folder / "killed").exists()
    saved = last_saved(folder / "killed.training")
    assert saved is not None
    assert saved.name == f"step-{KILLED_AT // SAVE_EVERY * SAVE_EVERY}"
    shutil.copytree(folder / "killed.training", tmp_path / "alone.training")
    more = ("--to", "matmul-free", "--steps", STEPS, "--resume")
    done = torchrun("-m", "mmc", *mmc_convert(folder / "killed", *more))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("nats per token of") == 1
    found, wanted = (load_file(folder / n / "model.safetensors") for n in ("killed", "whole"))
    assert all(equal(found[name], wanted[name]) for name in wanted)
    chosen = training(STEPS, evaluate_every=6)
    convert(teacher(), tmp_path / "alone", options("matmul-free", chosen, resume=True))
    assert_same_course(folder / "whole", tmp_path / "alone")


@pytest.mark.slow
def test_loss_that_is_no_number_in_one_process_stops_both() -> None:
    folder = conversions()
    for rank in range(2):
        said = json.loads((folder / f"no-number-{rank}.json").read_text())
        assert said.startswith("the loss is not a number at step 8 (the last good checkpoint")
    saved = last_saved(folder / "no-number.training")
    assert saved is not None
    assert saved.name == f"step-{SAVE_EVERY}"
    assert not (folder / "no-number").exists()


@pytest.mark.slow
def test_error_of_one_process_ends_both_with_one_message(tmp_path: Path) -> None:
    out = tmp_path / "out"
    given = mmc_convert(out, "--to", "ternary", "--steps", 9)
    done = torchrun("-m", "tests.convert.together", "memory", *given)
    assert done.returncode != 0
    told = [line for line in done.stderr.splitlines() if "mmc: error" in line]
    assert told == [
        "mmc: error: memory of the device cpu ran out "
        "(give --accumulate 2 or --gradient-checkpointing, or lower --batch or --window)"
    ]
    assert not out.exists()


@pytest.mark.slow
def test_error_of_both_is_told_once(tmp_path: Path) -> None:
    given = mmc_convert(tmp_path / "out", "--to", "ternary", "--steps", 9, "--batch", 3)
    done = torchrun("-m", "mmc", *given)
    assert done.returncode != 0
    assert done.stderr.count("mmc: error") == 1
    assert "--batch: 3 windows cannot be shared evenly by 2 processes" in done.stderr


def test_more_processes_than_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    with pytest.raises(MmcError, match="torch sees 1 GPUs here, and each process needs one"):
        Processes(1, 2, joined=True).device("cuda")
