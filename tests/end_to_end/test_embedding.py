"""`--embedding int8`: the model whose table was rounded by hand, in a quarter of the memory."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import mmc
from mmc.errors import MmcError
from tests.end_to_end.compiled import checkpoint, model, token_ids

TABLE = "model.embeddings.weight"


def language_model(source: Path, out: Path, embedding: str | None = None) -> mmc.Model:
    artifact = mmc.compile(source, target="reference", out=out, embedding=embedding)
    loaded = mmc.load(artifact.path)
    assert isinstance(loaded, mmc.Model)
    return loaded


def rounded_by_hand(folder: Path) -> Path:
    """The tiny checkpoint with its embedding rounded to 255 steps a row; one row is zero."""
    shutil.copytree(checkpoint("tiny"), folder)
    tensors = load_file(folder / "model.safetensors")
    table = tensors[TABLE].float().numpy()
    largest = np.abs(table).max(axis=1, keepdims=True)
    rounded = np.round(table * (np.float32(127) / largest)) * (largest / np.float32(127))
    save_file(tensors | {TABLE: torch.from_numpy(rounded)}, folder / "model.safetensors")
    return folder


def test_the_logits_are_those_of_the_rounded_table(tmp_path: Path) -> None:
    made = language_model(checkpoint("tiny"), tmp_path / "int8", embedding="int8")
    expected = language_model(rounded_by_hand(tmp_path / "rounded"), tmp_path / "float")
    ids = token_ids(made.vocab_size, 2, 9)
    assert np.allclose(made.forward(ids), expected.forward(ids), rtol=1e-4, atol=1e-4)
    assert not np.allclose(made.forward(ids), model("tiny").forward(ids), rtol=1e-4, atol=1e-4)


def test_the_table_takes_a_byte_a_number(tmp_path: Path) -> None:
    artifact = mmc.compile(
        checkpoint("tiny"), out=tmp_path / "out", embedding="int8", mcpu="native"
    )
    assert artifact.manifest["sizes"]["weight_bytes"]["u8"] == 17 * 40
    made = mmc.load(artifact.path)
    assert isinstance(made, mmc.Model)
    ids = token_ids(made.vocab_size, 1, 5)
    reference = language_model(checkpoint("tiny"), tmp_path / "ref", embedding="int8")
    assert np.allclose(made.forward(ids), reference.forward(ids), rtol=1e-4, atol=1e-4)


def test_a_head_that_is_the_table_reads_its_codes(tmp_path: Path) -> None:
    class Tied(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = torch.nn.Embedding(50, 24)

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.linear(self.table(ids), self.table.weight)

    torch.manual_seed(0)
    module, ids = Tied().eval(), torch.arange(6).reshape(1, 6)
    artifact = mmc.compile(module, (ids,), out=tmp_path / "out", embedding="int8", mcpu="native")
    assert artifact.manifest["sizes"]["weight_bytes"] == {"u8": 50 * 24, "f32": 2 * 4 * 50}
    made = mmc.load(artifact.path)
    assert not isinstance(made, mmc.Model)
    exact, rounded = module(ids).detach().numpy(), np.asarray(made(ids.numpy()))
    assert 0 < np.abs(exact - rounded).max() < 0.02 * np.abs(exact).max()


def test_a_row_of_zeros_stays_zero(tmp_path: Path) -> None:
    folder = tmp_path / "zeros"
    shutil.copytree(checkpoint("tiny"), folder)
    tensors = load_file(folder / "model.safetensors")
    tensors[TABLE][3] = 0
    save_file(tensors, folder / "model.safetensors")
    plain = language_model(folder, tmp_path / "plain")
    rounded = language_model(folder, tmp_path / "int8", embedding="int8")
    ids = np.full((1, 1), 3)
    assert np.array_equal(plain.forward(ids), rounded.forward(ids))


def test_what_cannot_be_rounded_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MmcError, match="no kind 'int4'"):
        mmc.compile(checkpoint("tiny"), out=tmp_path / "out", embedding="int4")
    linear, x = torch.nn.Linear(4, 4), torch.zeros(2, 4)
    with pytest.raises(MmcError, match="looks up no table of floats"):
        mmc.compile(linear, (x,), out=tmp_path / "out", embedding="int8")
    assert not (tmp_path / "out").exists()
