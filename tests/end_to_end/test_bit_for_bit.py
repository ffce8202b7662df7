# pyright: basic
"""What must not change a bit: how a text is cut up, batched, spread over threads and packed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import mmc
from mmc.ir.text import parse
from mmc.targets.base import BuildOptions
from mmc.targets.cpu.executable import CpuExecutable
from mmc.targets.cpu.features import ISA_FLAGS, cpu_flags
from mmc.targets.registry import load_target
from mmc.targets.tvm.loader import Program, set_threads
from mmc.targets.tvm.plan import Plan
from mmc.targets.weights_file import WeightsFile
from tests.end_to_end.compiled import EVERY_ISA, VARIANTS, artifact, model, token_ids
from tests.end_to_end.states import decoded, states_are_equal

NAMES = ("example", *VARIANTS)
HERE = [isa for isa, flags in ISA_FLAGS.items() if flags <= cpu_flags()]
"""Instruction sets that this processor has, best first."""


@pytest.mark.parametrize("name", NAMES)
def test_token_by_token_is_prefill_is_forward(name: str) -> None:
    loaded = model(name)
    ids = token_ids(loaded.vocab_size, 2, 19)
    stepped, state = decoded(loaded, ids)
    last, prefilled = loaded.prefill(ids)
    assert np.array_equal(stepped, loaded.forward(ids))
    assert np.array_equal(stepped[:, -1], last)
    states_are_equal(state, prefilled)


@pytest.mark.parametrize("name", NAMES)
def test_prompt_in_two_parts_is_the_prompt(name: str) -> None:
    loaded = model(name)
    ids = token_ids(loaded.vocab_size, 2, 11)
    _, state = loaded.prefill(ids[:, :4])
    logits, state = loaded.extend(ids[:, 4:], None, state)
    wanted, wanted_state = loaded.prefill(ids)
    assert np.array_equal(logits, wanted)
    states_are_equal(state, wanted_state)


@pytest.mark.parametrize("name", NAMES)
def test_batch_of_different_lengths_is_each_alone(name: str) -> None:
    loaded = model(name)
    ids, lengths = token_ids(loaded.vocab_size, 3, 9), [9, 1, 5]
    logits, state = loaded.prefill(ids, lengths)
    for row, length in enumerate(lengths):
        alone, own = loaded.prefill(ids[row : row + 1, :length])
        assert np.array_equal(logits[row : row + 1], alone)
        for key, array in own.arrays.items():
            assert np.array_equal(state.arrays[key][row : row + 1], array), key


@pytest.fixture
def two_threads() -> Iterator[None]:
    set_threads(2)
    yield
    set_threads(1)


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one processor")
def test_two_threads_are_one(two_threads: None) -> None:
    loaded = model("example")
    ids = token_ids(loaded.vocab_size, 2, 13)
    logits = loaded.forward(ids)
    stepped, _ = decoded(loaded, ids[:, :3])
    set_threads(1)
    assert np.array_equal(logits, loaded.forward(ids))
    assert np.array_equal(stepped, logits[:, :3])


@pytest.mark.parametrize("weights", ["1.67bit", "1.6bit"])
@pytest.mark.parametrize("name", ["example", "two_convs"])
def test_every_packing_gives_the_same_logits(name: str, weights: str) -> None:
    two = model(name)
    ids = token_ids(two.vocab_size, 2, 9)
    assert np.array_equal(two.forward(ids), model(name, weights=weights).forward(ids))


@pytest.mark.parametrize("lengths", [[11, 11], [11, 7]])
def test_pieces_of_a_prompt_are_the_whole(
    lengths: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = model("tiny")
    ids = token_ids(loaded.vocab_size, 2, 11)
    logits, state = loaded.prefill(ids, lengths)
    monkeypatch.setattr(loaded, "_prompt_rows", 7)  # pieces of three tokens
    seen: list[int] = []
    step = loaded._step  # pyright: ignore[reportPrivateUsage]
    monkeypatch.setattr(loaded, "_step", lambda t, n, s: seen.append(t.shape[1]) or step(t, n, s))
    again, after = loaded.prefill(ids, lengths)
    assert seen == ([3, 3, 3, 2] if lengths[1] == 11 else [3, 3, 5])
    assert np.array_equal(logits, again)
    states_are_equal(after, state)


def test_mapped_weights_give_the_same_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    ids = token_ids(model("example").vocab_size, 1, 5)
    monkeypatch.setenv("MMC_HUGE_PAGES", "0")
    mapped = mmc.load(artifact("example"))
    assert isinstance(mapped, mmc.Model)
    assert np.array_equal(mapped.forward(ids), model("example").forward(ids))


def with_code(name: str, isa: str) -> CpuExecutable:
    """The artefact with the code for an instruction set, whatever this processor would choose."""
    folder = artifact(name)
    plan = Plan(parse((folder / "graph.mmc").read_text()))
    program = Program(folder / "lib" / f"{isa}.o")
    return CpuExecutable(
        program, WeightsFile.open(folder / "weights.safetensors"), {"forward": plan}
    )


@pytest.mark.parametrize("isa", HERE[1:])
@pytest.mark.parametrize("name", EVERY_ISA)
def test_instruction_sets_agree(name: str, isa: str) -> None:
    """Float sums may be ordered differently, so an activation may round the other way."""
    ids = token_ids(model(name).vocab_size, 2, 9)
    inputs = {"ids": ids, "lengths": np.full(2, 9), **model(name).empty_state(2).arrays}
    best, other = (with_code(name, x).run("forward", inputs)["logits"] for x in (HERE[0], isa))
    error = np.abs(other - best).max(-1) / np.abs(best).max()
    assert error.max() <= 0.02
    assert (error <= 1e-5).mean() >= 0.9


@pytest.mark.parametrize("isa", HERE)
def test_sums_of_each_instruction_set_are_the_interpreters(
    isa: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every kernel's int32 results on what it really got; `check` raises where one differs."""
    monkeypatch.setenv("MMC_CPU_ISA", isa)
    folder = artifact("tiny")
    graph = parse((folder / "graph.mmc").read_text())
    states = model("tiny").empty_state(2).arrays
    probe = {"ids": token_ids(17, 2, 5), "lengths": np.array([5, 3]), **states}
    record = load_target("cpu").check(
        folder, {"forward": graph}, {"forward": probe}, BuildOptions()
    )
    assert record["instruction_set"] == isa
    assert record["sums"] > 0
    assert record["failures"] == []


LOGITS_TO_FILE = """
import sys, numpy as np, mmc
np.save(sys.argv[2], mmc.load(sys.argv[1]).forward(np.load(sys.argv[3])))
"""


def test_instruction_set_can_be_forced(tmp_path: Path) -> None:
    """The code of the other set, chosen by the environment, gives the same tokens."""
    ids = token_ids(8192, 2, 9)
    np.save(tmp_path / "ids.npy", ids)
    command = [sys.executable, "-c", LOGITS_TO_FILE, str(artifact("example"))]
    command += [str(tmp_path / "out.npy"), str(tmp_path / "ids.npy")]
    subprocess.run(command, check=True, env={**os.environ, "MMC_CPU_ISA": "portable"})
    found, wanted = np.load(tmp_path / "out.npy"), model("example").forward(ids)
    assert np.abs(found - wanted).max() <= 0.02 * np.abs(wanted).max()
