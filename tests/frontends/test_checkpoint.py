"""Model folders, good and bad."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from mmc.errors import MmcError
from mmc.frontends.base import Imported
from mmc.frontends.checkpoint import load, read_store
from mmc.frontends.models.hgrn_bit import HgrnBitForCausalLM
from mmc.frontends.models.hgrn_bit_config import HgrnBitConfig
from mmc.frontends.safetensors_file import read_file
from mmc.frontends.torch_types import array_of
from mmc.ir.evaluate import evaluate
from mmc.ir.types import DType

CONFIG: dict[str, Any] = {
    "model_type": "hgrn_bit",
    "vocab_size": 12,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "intermediate_size": 20,
    "max_position_embeddings": 64,
    "eos_token_id": [2, 5],
}
PROJECTION = "model.layers.0.attn.i_proj.weight"


def write(folder: Path, tensors: dict[str, torch.Tensor], config: dict[str, Any]) -> Path:
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def random_tensors(config: dict[str, Any], dtype: torch.dtype = torch.bfloat16) -> dict[str, Any]:
    torch.manual_seed(0)
    module = HgrnBitForCausalLM(HgrnBitConfig.parse(config))
    state = module.state_dict()
    return {name: torch.randn(tensor.shape).to(dtype) for name, tensor in state.items()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Imported:
    """The model of the fixture `folder`, from an untouched folder of its own."""
    path = tmp_path_factory.mktemp("whole")
    (path / "tokenizer.json").write_text("{}")
    return load(write(path, random_tensors(CONFIG), CONFIG))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(tmp_path, random_tensors(CONFIG), CONFIG)


def rewrite(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> Path:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")
    return folder


def logits(imported: Imported) -> np.ndarray:
    inputs = {"ids": np.array([[3, 1, 4, 1]]), "lengths": np.array([4])}
    inputs |= {op.name: np.zeros((1, 16), np.float32) for op in imported.graph.inputs[2:]}
    return evaluate(imported.graph, inputs, imported.tensors)["logits"]


def shard(folder: Path) -> dict[str, str]:
    """Split the folder's file in two; returns the index's weight_map."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    parts = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, held in parts.items():
        save_file({name: tensors[name] for name in held}, folder / file)
    weight_map = {name: file for file, held in parts.items() for name in held}
    index(folder, weight_map)
    return weight_map


def index(folder: Path, weight_map: object) -> None:
    content = json.dumps({"metadata": {}, "weight_map": weight_map})
    (folder / "model.safetensors.index.json").write_text(content)


def test_facts(whole: Imported) -> None:
    assert whole.kind == "causal_lm"
    assert (whole.vocab_size, whole.max_positions, whole.eos_token_ids) == (12, 64, (2, 5))
    assert whole.tokenizer is not None
    assert whole.tokenizer() == Path(whole.source, "tokenizer.json").read_bytes()
    assert whole.config == CONFIG


def test_shards_are_the_whole(folder: Path, whole: Imported) -> None:
    shard(folder)
    found = load(folder)
    assert found.tokenizer is None
    np.testing.assert_array_equal(logits(found), logits(whole))


@pytest.mark.parametrize(
    ("dtype", "wanted"),
    [(torch.float32, DType.F32), (torch.float16, DType.F16), (torch.bfloat16, DType.BF16)],
)
def test_stored_tensors_are_read_as_they_are(
    tmp_path: Path, dtype: torch.dtype, wanted: DType
) -> None:
    tensors = random_tensors(CONFIG, dtype)
    store = read_store(write(tmp_path, tensors, CONFIG))
    assert store.keys() == tensors.keys()
    for name, stored in store.items():
        assert stored.type.dtype is wanted
        np.testing.assert_array_equal(stored.load(), array_of(tensors[name]))


def test_weights_keep_their_element_type(whole: Imported) -> None:
    assert {op.declared.dtype for op in whole.graph.weights} == {DType.BF16}


def test_untied_copy_of_a_tied_matrix_may_be_missing(tmp_path: Path) -> None:
    config = CONFIG | {"tie_word_embeddings": True}
    tensors = random_tensors(config)
    tensors["lm_head.weight"] = tensors["model.embeddings.weight"].clone()
    both = logits(load(write(tmp_path, tensors, config)))
    del tensors["lm_head.weight"]
    np.testing.assert_array_equal(logits(load(write(tmp_path, tensors, config))), both)


def test_unused_convolution_is_tolerated(tmp_path: Path) -> None:
    config = CONFIG | {"use_short_conv": True, "share_conv_kernel": False}
    tensors = random_tensors(config)
    tensors["model.layers.0.attn.q_conv1d.weight"] = torch.ones(16, 1, 4)
    found = load(write(tmp_path, tensors, config))
    assert found.graph.states == (
        "model.layers.0.attn.h",
        "model.layers.0.attn.i_conv1d.state",
        "model.layers.0.attn.f_conv1d.state",
    )


def _as_ternary(tensors: dict[str, torch.Tensor], form: str) -> None:
    """Replace every projection by what quantising it offline gives."""
    projections = [n for n in tensors if n.endswith(("_proj.weight", "lm_head.weight"))]
    for name in projections:
        w = tensors[name].to(torch.float32)
        size = w.abs().mean()
        t = (w / size).round().clamp(-1, 1)
        inverse = form == "bitlinear"
        tensors[f"{name}_scale"] = (1 / size if inverse else size).reshape(1)
        if form == "int8":
            tensors[name] = t.to(torch.int8)
        else:
            first, second, third, fourth = (t + 1).to(torch.uint8).reshape(4, -1, t.shape[1])
            tensors[name] = first | second << 2 | third << 4 | fourth << 6


@pytest.mark.parametrize("form", ["int8", "bitlinear", "autobitlinear"])
def test_matrices_quantised_offline(folder: Path, whole: Imported, form: str) -> None:
    rewrite(folder, lambda tensors: _as_ternary(tensors, form))
    quantization = {"quant_method": "bitnet", "linear_class": form}
    if form != "int8":
        config = CONFIG | {"quantization_config": quantization}
        (folder / "config.json").write_text(json.dumps(config))
    found, online = load(folder), logits(whole)
    stored = {op.name: op.declared.dtype for op in found.graph.weights}
    assert stored[PROJECTION] is (DType.I8 if form == "int8" else DType.U8)
    assert np.abs(logits(found) - online).max() <= 1e-5 * np.abs(online).max()


def refuse(folder: Path, *message: str) -> None:
    with pytest.raises(MmcError) as caught:
        load(folder)
    for part in message:
        assert part in str(caught.value)


def test_no_folder(tmp_path: Path) -> None:
    refuse(tmp_path / "none", "none", "there is no such folder")


def test_no_config(tmp_path: Path) -> None:
    refuse(tmp_path, "config.json", "the file is missing")


@pytest.mark.parametrize("text", ["{", "[1]", "\xff", "1" * 5000])
def test_config_is_not_json(folder: Path, text: str) -> None:
    (folder / "config.json").write_bytes(text.encode("latin-1"))
    refuse(folder, "config.json", "JSON")


def test_ends_of_a_text_are_those_of_generation_config(folder: Path) -> None:
    said = folder / "generation_config.json"
    for content, ends in (("{}", (2, 5)), ('{"eos_token_id": [3, 7]}', (3, 7))):
        said.write_text(content)
        assert load(folder).eos_token_ids == ends
    said.write_text('{"eos_token_id": "x"}')
    refuse(folder, "generation_config.json: 'eos_token_id' is 'x'")


@pytest.mark.parametrize("found", ["llamoid", None, 3])
def test_unknown_model_type(folder: Path, found: object) -> None:
    (folder / "config.json").write_text(json.dumps(CONFIG | {"model_type": found}))
    refuse(folder, f"model_type {found!r} is not known", "known: hgrn_bit")


def test_no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    refuse(folder, "neither model.safetensors nor")


def test_missing_tensor(folder: Path) -> None:
    refuse(
        rewrite(folder, lambda t: t.pop(PROJECTION)), f"{PROJECTION!r} is missing", "f32[16, 16]"
    )


def test_extra_tensor(folder: Path) -> None:
    def add(tensors: dict[str, torch.Tensor]) -> None:
        tensors["model.extra"] = torch.ones(1)

    refuse(rewrite(folder, add), "'model.extra' is not part of this model")


def test_wrong_shape(folder: Path) -> None:
    def cut(tensors: dict[str, torch.Tensor]) -> None:
        tensors[PROJECTION] = tensors[PROJECTION][:8].clone()

    refuse(rewrite(folder, cut), PROJECTION, "bf16[8, 16]", "expected f32[16, 16]")


def test_integers_without_a_scale(folder: Path) -> None:
    def whole(tensors: dict[str, torch.Tensor]) -> None:
        tensors[PROJECTION] = tensors[PROJECTION].to(torch.int8)

    refuse(rewrite(folder, whole), PROJECTION, "i8[16, 16]", "expected f32[16, 16]")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_not_a_number(tmp_path: Path, dtype: torch.dtype, value: float) -> None:
    tensors = random_tensors(CONFIG, dtype)
    tensors[PROJECTION][3, 3] = value
    store = read_store(write(tmp_path, tensors, CONFIG))
    with pytest.raises(MmcError, match=f"{PROJECTION}.*1 of 256 elements are NaN or infinite"):
        store[PROJECTION].load()


def test_missing_shard(folder: Path) -> None:
    shard(folder)
    (folder / "b.safetensors").unlink()
    refuse(folder, "b.safetensors", "the shard is missing")


@pytest.mark.parametrize("file", ["../a.safetensors", "/etc/a.safetensors", "a.bin", 3, ".."])
def test_index_leads_out_of_the_folder(folder: Path, file: object) -> None:
    weight_map = shard(folder)
    index(folder, weight_map | {PROJECTION: file})
    refuse(folder, "index.json", PROJECTION, "not a plain file name")


def test_index_names_the_wrong_shard(folder: Path) -> None:
    weight_map = shard(folder)
    other = {"a.safetensors": "b.safetensors", "b.safetensors": "a.safetensors"}
    index(folder, weight_map | {PROJECTION: other[weight_map[PROJECTION]]})
    refuse(folder, PROJECTION, "is not in this shard")


def test_index_leaves_a_tensor_out(folder: Path) -> None:
    weight_map = shard(folder)
    del weight_map[PROJECTION]
    index(folder, weight_map)
    refuse(folder, PROJECTION, "is in a shard but not in the index")


def test_index_without_a_map(folder: Path) -> None:
    shard(folder)
    index(folder, [])
    refuse(folder, "'weight_map' is missing")


def file_of(folder: Path, header: object, data: int = 16) -> Path:
    """A safetensors file with this header and so many bytes of data."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path = folder / "model.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(data))
    return path


def tensor(begin: int, end: int, shape: object = (2,), dtype: str = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (b"{", "its header is not JSON"),
        (b"\xff\xfe", "its header is not JSON"),
        (b"[" * 100_000, "its header is not JSON"),
        ([], "its header is not a JSON object"),
        ({"a": 3}, "tensor 'a': its header entry is not an object"),
        ({"a": tensor(0, 8, dtype="F8")}, "tensor 'a': dtype 'F8' is not supported"),
        ({"a": tensor(0, 24, [6])}, "tensor 'a': bytes 0 to 24 are outside the file"),
        ({"a": tensor(8, 0)}, "tensor 'a': bytes 8 to 0 are outside the file"),
        ({"a": tensor(0, 8, [3])}, "tensor 'a': f32\\[3\\] needs 12 bytes, the file has 8"),
        ({"a": tensor(0, 8, [-2])}, "tensor 'a': its shape or offsets"),
        ({"a": tensor(-8, 0)}, "tensor 'a': its shape or offsets"),
        ({"a": tensor(0, 8, [True, 2])}, "tensor 'a': its shape or offsets"),
        ({"a": tensor(0, 8, "2")}, "tensor 'a': its shape or offsets"),
        ({"a": {"dtype": "F32", "shape": [2]}}, "tensor 'a': its shape or offsets"),
        ({"a": tensor(0, 8), "b": tensor(4, 12)}, "tensors 'a' and 'b' overlap"),
    ],
)
def test_bad_header(tmp_path: Path, header: object, message: str) -> None:
    with pytest.raises(MmcError, match=message) as caught:
        read_file(file_of(tmp_path, header))
    assert "model.safetensors" in caught.value.where


@pytest.mark.parametrize(
    "content", [b"", b"abc", (2**63).to_bytes(8, "little"), b"\x09" + bytes(7)]
)
def test_truncated_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(MmcError, match=r"model.safetensors: it is cut short"):
        read_store(tmp_path)


@pytest.mark.parametrize("form", ["int8", "bitlinear"])
def test_matrix_that_is_not_ternary(folder: Path, form: str) -> None:
    def spoil(tensors: dict[str, torch.Tensor]) -> None:
        _as_ternary(tensors, form)
        tensors[PROJECTION][1, 1] = -128 if form == "int8" else 0b00110100

    found = load(rewrite(folder, spoil))
    with pytest.raises(MmcError, match=f"{PROJECTION}' is not ternary"):
        found.tensors[PROJECTION]
    assert found.tensors["lm_head.weight"].dtype.kind in "iu"


def test_file_cut_while_in_use(folder: Path) -> None:
    store = read_store(folder)
    (folder / "model.safetensors").write_bytes(b"")
    with pytest.raises(MmcError, match=f"cannot read tensor '{PROJECTION}'"):
        store[PROJECTION].load()


def test_truncated_data(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    refuse(folder, "tensor ", "are outside the file")


def test_empty_and_scalar_tensors(tmp_path: Path) -> None:
    found = read_file(file_of(tmp_path, {"a": tensor(0, 0, [0, 3]), "b": tensor(0, 4, [])}, 4))
    assert found["a"].load().shape == (0, 3)
    assert found["b"].load() == 0
