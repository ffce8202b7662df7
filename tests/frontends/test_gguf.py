"""GGUF files that the package gguf wrote: the tensors it reads, and the model they are."""

from __future__ import annotations

import logging
import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGUFReader
from gguf.quants import dequantize

from mmc.api import import_source
from mmc.driver import Compilation, analyse
from mmc.errors import MmcError
from mmc.frontends.base import Stored
from mmc.frontends.checkpoint import load, open_checkpoint
from mmc.frontends.gguf_file import read_gguf
from mmc.frontends.i2s import I2S_LAYOUTS, I2sLayout
from mmc.frontends.models.transformer import FREQUENCIES, TransformerForCausalLM
from mmc.frontends.models.transformer_config import TransformerConfig
from mmc.ir.ops.attention import POSITION
from tests.frontends.gguf_files import LINEAR, SIZES, masters, permuted, trits_of, write
from tests.frontends.language_models import logits

IDS = np.arange(12, dtype=np.int64)[None] * 5 % 96
MATRICES = [f"blk.{n}.{name}.weight" for n in range(2) for name in LINEAR]


def values(checkpoint: dict[str, Stored] | Any) -> dict[str, torch.Tensor]:
    return {n: torch.tensor(s.load().astype(np.float32)) for n, s in checkpoint.items()}


def analysed(path: Path) -> Compilation:
    return analyse(load(path, 32))


def module_logits(config: dict[str, object], tensors: dict[str, torch.Tensor]) -> np.ndarray:
    """What our own module, in torch, makes of Hugging Face's tensors."""
    parsed = TransformerConfig.parse(config)
    storage = dict.fromkeys((n for n in tensors if n.endswith("proj.weight")), "quantised")
    module = TransformerForCausalLM(parsed, 32, storage)  # pyright: ignore[reportArgumentType]
    frequencies = torch.tensor(parsed.rope.frequencies(parsed.head_size))
    if parsed.tie_word_embeddings:
        tensors = {**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"]}
    module.load_state_dict({**tensors, FREQUENCIES: frequencies})
    states = {name: torch.zeros(1, *shape) for name, shape in module.state_shapes.items()}
    states[POSITION] = torch.zeros(1, dtype=torch.int64)
    with torch.no_grad():
        made = module(torch.tensor(IDS), torch.tensor([IDS.shape[1]]), *states.values())
    return made[0].numpy()


def close(found: np.ndarray, wanted: np.ndarray) -> bool:
    return float(np.abs(found - wanted).max() / np.abs(wanted).max()) <= 1e-5


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "TQ1_0"])
def test_tensors_are_those_that_gguf_reads(tmp_path: Path, kind: str) -> None:
    tensors = masters(False)
    path = write(tmp_path / "m.gguf", "llama", tensors, dict.fromkeys(MATRICES, kind))
    found = read_gguf(path)
    assert found.types["blk.1.ffn_down.weight"] == kind
    assert found.metadata["llama.block_count"] == 2
    for wanted in GGUFReader(path).tensors:
        stored = found.tensors[wanted.name]
        expected = dequantize(wanted.data, wanted.tensor_type)
        assert stored.type.shape == expected.shape
        assert np.array_equal(stored.load().astype(np.float32), expected), wanted.name


def test_dense_llama_is_the_module(tmp_path: Path) -> None:
    """Query and key rows back in Hugging Face's order, a head that is not the embedding."""
    tensors = masters(False)
    tensors["output.weight"] = tensors["token_embd.weight"][::-1].copy()
    stored = dict(tensors)
    for n in range(2):
        for part, heads in (("q", 4), ("k", 2)):
            stored[f"blk.{n}.attn_{part}.weight"] = permuted(
                tensors[f"blk.{n}.attn_{part}.weight"], heads
            )
    path = write(tmp_path / "m.gguf", "llama", stored)
    checkpoint = open_checkpoint(path)
    q = checkpoint.store["model.layers.1.self_attn.q_proj.weight"].load()
    assert np.array_equal(q, tensors["blk.1.attn_q.weight"])
    assert not np.array_equal(q, stored["blk.1.attn_q.weight"])
    assert checkpoint.config["tie_word_embeddings"] is False
    wanted = module_logits(dict(checkpoint.config), values(checkpoint.store))
    done = analysed(path)
    assert close(logits(done, IDS), wanted)
    assert not any(layer.ternary for layer in done.layers)


@pytest.mark.parametrize(
    ("arch", "kind"),
    [("bitnet", "TQ1_0"), ("bitnet-b1.58", "I2_S"), ("bitnet-25", "F16"), ("llama", "TQ2_0")],
)
def test_ternary_types_are_bit_linear(tmp_path: Path, arch: str, kind: str) -> None:
    """Of a bitnet architecture all matrices are, of llama those of a ternary type."""
    tensors = masters("bitnet" in arch)
    for n, name in enumerate(MATRICES):
        tensors[name] = trits_of(tensors[name].shape, n) * np.float32(2.0 ** -(n % 3 + 3))
    types = dict.fromkeys(MATRICES, kind)
    if arch == "llama":
        types["blk.0.ffn_up.weight"] = "Q8_0"
    path = write(tmp_path / "m.gguf", arch, tensors, types)
    checkpoint, done = open_checkpoint(path), analysed(path)
    assert [layer.ternary for layer in done.layers].count(True) == (13 if arch == "llama" else 14)
    scales = {layer.name: layer.scale for layer in done.layers}
    assert scales["model.layers.1.mlp.down_proj"] == 2.0 ** -(13 % 3 + 3)
    assert checkpoint.config["hidden_act"] == ("silu" if arch in ("llama", "bitnet") else "relu2")
    wanted = module_logits(dict(checkpoint.config), values(checkpoint.store))
    assert close(logits(done, IDS), wanted)


def test_a_scale_of_its_own_is_applied(tmp_path: Path) -> None:
    tensors = masters(True)
    for n, name in enumerate(MATRICES):
        tensors[name] = trits_of(tensors[name].shape, n).astype(np.float32)
    tensors["blk.1.attn_v.scale"] = np.array([0.25], np.float32)
    path = write(tmp_path / "m.gguf", "bitnet", tensors)
    scales = {layer.name: layer.scale for layer in analysed(path).layers}
    assert scales["model.layers.1.self_attn.v_proj"] == 0.25
    assert scales["model.layers.1.self_attn.k_proj"] == 1


def test_frequencies_are_divided_by_the_factors(tmp_path: Path) -> None:
    factors = np.linspace(1, 8, 32).astype(np.float32)
    path = write(tmp_path / "m.gguf", "llama", {**masters(False), "rope_freqs.weight": factors})
    config = TransformerConfig.parse(open_checkpoint(path).config)
    plain = 10000.0 ** (-np.arange(0, 64, 2) / 64)
    np.testing.assert_allclose(config.rope.frequencies(64), plain / factors, 1e-6)
    path = write(tmp_path / "n.gguf", "llama", {**masters(False), "rope_freqs.weight": factors[1:]})
    with pytest.raises(MmcError, match="31 RoPE factors, 32 expected"):
        load(path)


@pytest.mark.parametrize("layout", I2S_LAYOUTS)
def test_i2s_layouts(tmp_path: Path, layout: I2sLayout, caplog: pytest.LogCaptureFixture) -> None:
    """The layout that is named, and without a name the one that keeps rows apart."""
    trits = {name: trits_of(LINEAR[name.split(".")[2]], n) for n, name in enumerate(MATRICES)}
    scaled = {name: t.astype(np.float32) * np.float32(0.03) for name, t in trits.items()}
    path = write(
        tmp_path / "m.gguf", "bitnet-b1.58", {**masters(True), **scaled},
        dict.fromkeys(MATRICES, "I2_S"), i2s=layout,
    )  # fmt: skip
    for given in (layout, None) if layout != "64" else (layout,):
        found = read_gguf(path, given).tensors
        for name, wanted in scaled.items():
            assert np.array_equal(found[name].load(), wanted), (given, name)
    assert not caplog.records


def test_an_i2s_layout_that_cannot_be_told_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    random = np.random.default_rng(1)
    even = {name: random.integers(-1, 2, LINEAR[name.split(".")[2]]) for name in MATRICES}
    path = write(
        tmp_path / "m.gguf", "bitnet", {**masters(True), **even}, dict.fromkeys(MATRICES, "I2_S")
    )
    with caplog.at_level(logging.WARNING):
        assert np.array_equal(read_gguf(path).tensors[MATRICES[0]].load(), even[MATRICES[0]])
    assert "the I2_S layout cannot be told, 128 is assumed; --i2s names it" in caplog.text


@pytest.mark.parametrize(
    ("begin", "bytes_", "message"),
    [
        (0, [255], "holds the code 3: it is not I2_S"),
        (128, [0, 0, 0, 0], "its scale is 0.0, not positive"),
    ],
)
def test_i2s_that_is_none(tmp_path: Path, begin: int, bytes_: list[int], message: str) -> None:
    tensors = {"w": trits_of((4, 128), 0).astype(np.float32)}
    path = write(tmp_path / "m.gguf", "bitnet", tensors, {"w": "I2_S"})
    raw = np.fromfile(path, np.uint8)
    raw[-160:][begin : begin + len(bytes_)] = bytes_  # the only tensor is at the end
    raw.tofile(path)
    with pytest.raises(MmcError, match=message):
        read_gguf(path).tensors["w"].load()


def test_i2s_in_an_impossible_layout(tmp_path: Path) -> None:
    tensors = {"w": trits_of((6, 64), 0).astype(np.float32)}
    path = write(tmp_path / "m.gguf", "bitnet", tensors, {"w": "I2_S"})
    with pytest.raises(MmcError, match="6 x 64 cannot be in the I2_S layout 'rows'"):
        read_gguf(path, "rows").tensors["w"].load()


def test_an_i2s_layout_of_something_else(tmp_path: Path) -> None:
    with pytest.raises(MmcError, match="--i2s: only matrices in a GGUF file are I2_S"):
        import_source(tmp_path, i2s="rows")
    path = write(tmp_path / "m.gguf", "bitnet", masters(True))
    with pytest.raises(MmcError, match=r"--i2s: no layout 'blocks'.*one of 128, 64, rows"):
        import_source(path, i2s="blocks")


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"llama.expert_count": 8}, "a mixture of experts is not supported"),
        ({"llama.rope.dimension_count": 32}, "RoPE turns a part of each head only"),
        ({"llama.attention.head_count_kv": 3}, "with 3 heads"),
        ({"llama.attention.layer_norm_rms_epsilon": "small"}, "is 'small', not a number"),
        ({"llama.rope.scaling.type": "yarn"}, "'rope_type' is 'yarn'"),
        ({"llama.block_count": 3}, "tensor 'model.layers.2.input_layernorm.weight' is missing"),
        ({"general.alignment": 33}, "'general.alignment' is 33, not a power of two"),
    ],
)
def test_models_that_are_refused(tmp_path: Path, metadata: dict[str, Any], message: str) -> None:
    changed = {k: v for k, v in metadata.items() if k.removeprefix("llama.") not in SIZES}
    path = write(tmp_path / "m.gguf", "llama", masters(False), metadata=changed)
    if len(changed) < len(metadata):
        (key, value), raw = next(iter(metadata.items())), path.read_bytes()
        at = raw.index(key.encode()) + len(key) + 4
        path.write_bytes(raw[:at] + struct.pack("<I", value) + raw[at + 4 :])
    with pytest.raises(MmcError, match=message):
        load(path)


def test_an_architecture_that_is_not_known(tmp_path: Path) -> None:
    path = write(tmp_path / "m.gguf", "mamba", masters(False))
    with pytest.raises(MmcError, match=r"'mamba' is not known.*known: llama, qwen2, bitnet"):
        load(path)


def header(version: int = 3, tensors: int = 0, pairs: int = 0) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, pairs)


def text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


def info(name: bytes, sizes: tuple[int, ...], number: int, offset: int) -> bytes:
    sizes_and_type = struct.pack(f"<I{len(sizes)}QIQ", len(sizes), *sizes, number, offset)
    return text(name) + sizes_and_type


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"GGUF", "it is cut short"),
        (b"GGML" + bytes(20), "is not a GGUF file"),
        (header(1), "has GGUF version 1"),
        (header(3 << 24), "big-endian files are not known"),
        (header(pairs=1 << 60), "too short for 1152921504606846976 items"),
        (header(tensors=1 << 40), "too short for 1099511627776 items"),
        (header(pairs=1) + struct.pack("<Q", 1 << 62), "it is too short|it is cut short"),
        (header(pairs=1) + text(b"k\xff") + bytes(4), "is not UTF-8"),
        (header(pairs=1) + text(b"key") + struct.pack("<I", 99), "there is no kind 99 of value"),
        (header(pairs=1) + text(b"key") + struct.pack("<IIQ", 9, 9, 1) + bytes(9), "of kind 9"),
        (header(pairs=1) + text(b"key") + struct.pack("<IIQ", 9, 4, 1 << 61), "too short for"),
        (header(pairs=2) + (text(b"key") + struct.pack("<IB", 0, 1)) * 2, "'key' comes twice"),
        (header(tensors=1) + info(b"w", (4,), 0, 0), "bytes 0 to 16 are outside the file"),
        (header(tensors=1) + info(b"w", (1 << 40, 1 << 40), 0, 0), "are outside the file"),
        (header(tensors=1) + info(b"w", (4,), 77, 0) + bytes(64), "type 77 is not known"),
        (header(tensors=1) + info(b"w", (40,), 8, 0) + bytes(64), "40 columns are no whole Q8_0"),
        (header(tensors=1) + info(b"w", (0,), 0, 0) + bytes(64), "has an axis of no elements"),
        (header(tensors=1) + info(b"w", (1,) * 9, 0, 0) + bytes(64), "has 9 axes"),
        (
            header(tensors=2) + info(b"w", (4,), 0, 0) + info(b"v", (4,), 0, 8) + bytes(96),
            "overlap",
        ),
        (
            header(tensors=2) + info(b"w", (4,), 0, 0) + info(b"w", (4,), 0, 32) + bytes(96),
            "one name",
        ),
    ],
)
def test_damaged_files(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(content)
    with pytest.raises(MmcError, match=message):
        read_gguf(path)


def test_what_is_not_a_number_is_told(tmp_path: Path) -> None:
    tensors = {"w": np.ones((2, 32), np.float32)}
    path = write(tmp_path / "m.gguf", "llama", tensors, {"w": "Q8_0"})
    raw = bytearray(path.read_bytes())
    at = raw.rindex(np.float16(1 / 127).tobytes())
    raw[at : at + 2] = np.float16(np.nan).tobytes()
    path.write_bytes(raw)
    with pytest.raises(MmcError, match="32 of 64 elements are NaN or infinite"):
        read_gguf(path).tensors["w"].load()


def test_a_package_that_is_missing_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "m.gguf", "llama", {"w": np.ones((1, 4), np.float32)})
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(MmcError, match="needs the package gguf"):
        read_gguf(path)
