"""Ternary matrices as each tool packs them: the trits that we read are those that went in."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import load_file, save_file

from mmc.api import import_source
from mmc.driver import analyse
from mmc.frontends.gguf_file import read_gguf
from mmc.frontends.models.bit_linear import BitLinear, Quantiser, Storage
from mmc.ir.text import render
from mmc.passes.ternary_values import TernaryMatrix, find_ternary
from tests.end_to_end.transformers import MODELS
from tests.frontends.gguf_files import trits_of, write
from tests.frontends.language_models import logits

ROWS, COLUMNS = 64, 256
TRITS = trits_of((ROWS, COLUMNS), 3)
SCALE = np.float32(2**-5)
FLOATS = TRITS.astype(np.float32) * SCALE


def by_gguf(kind: str) -> Callable[[Path], np.ndarray]:
    def read(folder: Path) -> np.ndarray:
        path = write(folder / "m.gguf", "llama", {"w": FLOATS}, {"w": kind})
        return read_gguf(path).tensors["w"].load()

    return read


def by_transformers(storage: Storage, scale: float) -> Callable[[Path], np.ndarray]:
    def read(_: Path) -> np.ndarray:
        bitnet = pytest.importorskip("transformers.integrations.bitnet", exc_type=ImportError)
        packed = bitnet.pack_weights(torch.tensor(TRITS))
        layer = BitLinear(COLUMNS, ROWS, Quantiser(None), storage)
        layer.load_state_dict({"weight": packed, "weight_scale": torch.tensor([scale])})
        return layer.matrix().numpy()

    return read


def by_onnxruntime(bits: int, symmetric: bool = False) -> Callable[[Path], np.ndarray]:
    def read(folder: Path) -> np.ndarray:
        from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

        quantiser: Any = MatMulNBitsQuantizer(
            float_model(), bits=bits, block_size=32, is_symmetric=symmetric, accuracy_level=1
        )
        quantiser.process()
        onnx.save(quantiser.model.model, folder / "m.onnx")
        done = analyse(import_source(folder / "m.onnx"))
        held = [w for w in done.manager.steps[-1].after.weights if w.type.shape == (ROWS, COLUMNS)]
        return done.imported.tensors[held[0].name].astype(np.float32)

    return read


def float_model() -> onnx.ModelProto:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["B", COLUMNS])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["B", ROWS])
    w = numpy_helper.from_array(np.ascontiguousarray(FLOATS.T), "w")
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "g", [x], [y], [w])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


FORMATS: dict[str, Callable[[Path], np.ndarray]] = {
    "gguf TQ1_0": by_gguf("TQ1_0"),
    "gguf TQ2_0": by_gguf("TQ2_0"),
    "gguf I2_S": by_gguf("I2_S"),
    "gguf Q8_0": by_gguf("Q8_0"),
    "gguf F16": by_gguf("F16"),
    "transformers autobitlinear": by_transformers("packed_multiply", float(SCALE)),
    "transformers bitlinear": by_transformers("packed_divide", float(1 / SCALE)),
    "onnxruntime 2 bits": by_onnxruntime(2),
    "onnxruntime 8 bits": by_onnxruntime(8),
}


@pytest.mark.parametrize("name", FORMATS)
def test_trits_are_those_that_were_packed(name: str, tmp_path: Path) -> None:
    found = find_ternary(FORMATS[name](tmp_path))
    assert isinstance(found, TernaryMatrix)
    assert np.array_equal(found.trits, TRITS)
    if "onnxruntime" not in name:  # its quantiser spreads 2 * SCALE over 2**bits - 1 steps
        assert found.granularity == "tensor"
        np.testing.assert_allclose(found.scale, SCALE, 1e-3)


@pytest.mark.parametrize(
    "read",
    [by_gguf("Q4_0"), *(by_onnxruntime(b, s) for b, s in ((2, True), (4, True), (4, False)))],
)
def test_a_format_without_room_for_three_values_is_dense(
    tmp_path: Path, read: Callable[[Path], np.ndarray]
) -> None:
    """-s and s do not both lie on its grid of 2**bits steps: the signs stay, the sizes differ."""
    floats = read(tmp_path)
    assert np.array_equal(np.sign(floats), TRITS)
    assert "dense" in str(find_ternary(floats))


WEIGHTS = "model.safetensors"
SCALES = {"bitnet-packed": "autobitlinear", "llama-bitnet": "bitlinear"}


@pytest.mark.parametrize("name", SCALES)
def test_a_scale_in_the_wrong_direction_is_named(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    analyse(import_source(MODELS / name))
    assert "scale above 1" not in caplog.text
    for file in ("config.json", WEIGHTS):
        shutil.copy(MODELS / name / file, tmp_path)
    held = load_file(tmp_path / WEIGHTS)
    inverse = {k: 1 / v.astype(np.float32) for k, v in held.items() if k.endswith("_scale")}
    save_file({**held, **inverse}, tmp_path / WEIGHTS)
    analyse(import_source(tmp_path))
    assert "ternary layers multiply by a scale above 1" in caplog.text
    assert "1/s may have been given where s was meant" in caplog.text


def test_1bitllm_is_bitnet_by_other_names(tmp_path: Path) -> None:
    """The checkpoint of transformers' module under the names that 1bitLLM's code has."""
    held = load_file(MODELS / "bitnet" / WEIGHTS)
    names = {"attn_sub_norm": "inner_attn_ln", "ffn_sub_norm": "ffn_layernorm"}
    for ours, theirs in names.items():
        held = {name.replace(ours, theirs): array for name, array in held.items()}
    save_file(held, tmp_path / WEIGHTS)
    config = json.loads((MODELS / "bitnet" / "config.json").read_text())
    del config["quantization_config"]
    config |= {"model_type": "llama", "architectures": ["BitnetForCausalLM"], "weight_bits": 1}
    (tmp_path / "config.json").write_text(json.dumps(config))
    found, wanted = (analyse(import_source(path)) for path in (tmp_path, MODELS / "bitnet"))
    assert render(found.core) == render(wanted.core)
    assert sum(layer.ternary for layer in found.layers) == 14


@pytest.mark.parametrize("mode", ["online", "offline"])
def test_autobitlinear_in_a_llama(mode: str, tmp_path: Path) -> None:
    """Masters, as Falcon-E's `prequantized` has them, and packed ones that are multiplied."""
    for part in ("integrations.bitnet", "models.llama.modeling_llama"):
        pytest.importorskip(f"transformers.{part}", exc_type=ImportError)  # which may warn
    from tests.data.make_transformers import fill, made

    torch.manual_seed(2)
    quantisation = {"linear_class": "autobitlinear", "quantization_mode": mode}
    sizes = {"num_attention_heads": 4, "num_key_value_heads": 2, "rms_norm_eps": 1e-5}
    module, config = made("llama", {**sizes, "quantization_config": quantisation})
    save_file({name: each.numpy() for name, each in fill(module).items()}, tmp_path / WEIGHTS)
    (tmp_path / "config.json").write_text(json.dumps(config))
    ids = torch.randint(0, config["vocab_size"], (2, 24))
    with torch.no_grad(), torch.compiler.set_stance("force_eager"):
        wanted = module.eval()(ids).logits.numpy()
    done = analyse(import_source(tmp_path))
    assert sum(layer.ternary for layer in done.layers) == 14
    error = np.abs(logits(done, ids.numpy()) - wanted).max(-1) / np.abs(wanted).max()
    assert error.max() <= 0.02
    assert (error <= 1e-5).mean() >= 0.8  # where no activation rounds the other way
