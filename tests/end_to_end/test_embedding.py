"""`--embedding int8` and `int4`: the model whose table was rounded by hand, in less memory."""

from __future__ import annotations

import shutil
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import mmc
from mmc.errors import MmcError
from mmc.ir.compare import relative_error
from mmc.ir.ops.int4 import QuantizeInt4
from mmc.ir.ops.source import Input
from mmc.ir.types import DType, TensorType
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
    torch.manual_seed(0)
    module, ids = Tied(24).eval(), torch.arange(6).reshape(1, 6)
    artifact = mmc.compile(module, (ids,), out=tmp_path / "out", embedding="int8", mcpu="native")
    assert artifact.manifest["sizes"]["weight_bytes"] == {"u8": 50 * 24, "f32": 2 * 4 * 50}
    made = mmc.load(artifact.path)
    assert not isinstance(made, mmc.Model)
    exact, rounded = module(ids).detach().numpy(), np.asarray(made(ids.numpy()))
    assert 0 < np.abs(exact - rounded).max() < 0.02 * np.abs(exact).max()


class Tied(torch.nn.Module):
    """A head that is the embedding."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.table = torch.nn.Embedding(50, width)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.linear(self.table(ids), self.table.weight)


@pytest.mark.parametrize(("width", "isa"), [(128, None), (64, None), (96, None), (128, "avx2")])
def test_a_table_of_4_bits_is_read_by_the_head_too(
    width: int, isa: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Widths of whole vectors of 64 and of 32 bytes, and one of neither."""
    if isa:
        monkeypatch.setenv("MMC_CPU_ISA", isa)
    torch.manual_seed(0)
    module, ids = Tied(width).eval(), torch.arange(6).reshape(1, 6)
    artifact = mmc.compile(module, (ids,), out=tmp_path / "out", embedding="int4")
    assert artifact.manifest["sizes"]["weight_bytes"] == {
        "u8": 25 * width,
        "f16": 100 * width // 32,
    }
    made = mmc.load(artifact.path)
    assert not isinstance(made, mmc.Model)
    rounded = by_gguf(module.table.weight.detach().numpy())
    wanted = rounded[ids.numpy()] @ rounded.T
    found, exact = np.asarray(made(ids.numpy())), module(ids).detach().numpy()
    assert relative_error(wanted, found) <= 2e-5
    assert 1e-3 < relative_error(exact, found) < 0.1


def by_gguf(table: np.ndarray) -> np.ndarray:
    """What the rounding of a table leaves, group by group."""
    codes, steps = QuantizeInt4(Input("x", TensorType(DType.F32, table.shape))).reference(table)
    blocks = np.concatenate([steps[..., None].view(np.uint8), codes.reshape(*steps.shape, 16)], -1)
    kind = gguf.GGMLQuantizationType.Q4_0
    return gguf.quants.dequantize(blocks.reshape(len(table), -1), kind)


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
    with pytest.raises(MmcError, match="no kind 'int3'"):
        mmc.compile(checkpoint("tiny"), out=tmp_path / "out", embedding="int3")
    with pytest.raises(MmcError, match="4 bits go in groups of 32, the table has 40 columns"):
        mmc.compile(checkpoint("tiny"), out=tmp_path / "out", embedding="int4")
    linear, x = torch.nn.Linear(4, 4), torch.zeros(2, 4)
    with pytest.raises(MmcError, match="looks up no table of floats"):
        mmc.compile(linear, (x,), out=tmp_path / "out", embedding="int8")
    assert not (tmp_path / "out").exists()
