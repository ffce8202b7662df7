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
from mmc.frontends.i2s import I2sLayout, read_i2s
from mmc.frontends.models.bit_linear import BitLinear, Quantiser, Storage
from mmc.ir.text import render
from mmc.passes.ternary_values import TernaryMatrix, find_ternary
from tests.end_to_end.transformers import MODELS
from tests.frontends.gguf_files import masters, pack_i2s, trits_of, write
from tests.frontends.language_models import logits

I2S = Path(__file__).parents[1] / "data" / "i2s.safetensors"
ROWS, COLUMNS = 64, 256
TRITS = trits_of((ROWS, COLUMNS), 3)
SCALE = np.float32(2**-5)
BLOCK = 32
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
            float_model(), bits=bits, block_size=BLOCK, is_symmetric=symmetric, accuracy_level=1
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
    "onnxruntime 8 bits, symmetric": by_onnxruntime(8, True),
}


@pytest.mark.parametrize("name", FORMATS)
def test_trits_are_those_that_were_packed(name: str, tmp_path: Path) -> None:
    found = find_ternary(FORMATS[name](tmp_path))
    assert isinstance(found, TernaryMatrix)
    assert np.array_equal(found.trits, TRITS)
    if "onnxruntime" not in name:  # its quantiser spreads 2 * SCALE over 2**bits - 1 steps
        assert found.granularity == "tensor"
        np.testing.assert_allclose(found.scale, SCALE, 1e-3)


TRUNCATED = {
    "Q4_0": (by_gguf("Q4_0"), (-7 / 8, 0, 1), (-1, 0, 7 / 8)),
    "Q5_0": (by_gguf("Q5_0"), (-15 / 16, 0, 1), (-1, 0, 15 / 16)),
    "Q4_1": (by_gguf("Q4_1"), (-1, -0.067, 1)),
    "Q5_1": (by_gguf("Q5_1"), (-1, 0.032, 1)),
    "onnxruntime 2 bits, symmetric": (by_onnxruntime(2, True), (-1, 0, 1 / 2)),
    "onnxruntime 4 bits, symmetric": (by_onnxruntime(4, True), (-1, 0, 7 / 8)),
    "onnxruntime 4 bits": (by_onnxruntime(4), (-14 / 15, 0, 16 / 15)),
}
"""What a block of 32 columns with both signs holds in place of (-s, 0, s), over s.  Symmetric grids
reach from -2**(bits - 1) to one less, and the first s of a block (gguf) gets their longer side;
others spread 2s over 2**bits - 1 steps: there is none in the middle."""


BITNET_CPP: dict[str, I2sLayout] = {
    "x86_parallel": "128",
    "x86": "rows",
    "arm": "64",
    "converter": "128",
    "converter_packed": "128",
}


@pytest.mark.parametrize("name", BITNET_CPP)
def test_i2s_of_bitnet_cpp(name: str) -> None:
    """Bytes that its own code wrote (tests/data/make_i2s.py), and those of `pack_i2s`."""
    held = load_file(I2S)
    layout, trits, (scale,) = BITNET_CPP[name], held["trits"], held["scale"]
    found, factor = read_i2s(held[name], trits.shape, layout, name)
    assert np.array_equal(found, trits)
    assert factor == scale
    assert np.array_equal(pack_i2s(trits, scale, layout), held[name])


@pytest.mark.parametrize("name", TRUNCATED)
def test_a_format_without_room_for_three_values_is_dense(name: str, tmp_path: Path) -> None:
    """Other sizes than went in: what the tool wrote is what it means, and not ternary."""
    read, *grids = TRUNCATED[name]
    floats = read(tmp_path)
    blocks = (floats / SCALE).reshape(-1, BLOCK)
    trits = TRITS.reshape(-1, BLOCK)
    for block, three in zip(blocks, trits, strict=True):
        if {-1, 1} <= set(three):  # with one sign alone the block is exact
            fits = [np.allclose(block, np.array(g)[three + 1], atol=1e-3) for g in grids]
            assert any(fits)
        else:
            np.testing.assert_allclose(block, three, atol=1e-3)
    assert "dense" in str(find_ternary(floats))


def test_four_bits_hold_three_values_where_the_step_is_their_size(tmp_path: Path) -> None:
    """Q4_0's grid is d * (-8 .. 7): no tool above takes d = s, and a file that does is ternary."""
    path = write(tmp_path / "m.gguf", "llama", {"w": FLOATS}, {"w": "Q4_0"})
    raw = bytearray(path.read_bytes())
    codes = (TRITS.reshape(-1, 2, BLOCK // 2) + 8).astype(np.uint8)
    step = np.broadcast_to(np.array([SCALE], np.float16).view(np.uint8), (len(codes), 2))
    packed = np.concatenate([step, codes[:, 0] | codes[:, 1] << 4], axis=1).tobytes()
    raw[-len(packed) :] = packed
    path.write_bytes(raw)
    found = find_ternary(read_gguf(path).tensors["w"].load())
    assert isinstance(found, TernaryMatrix)
    assert np.array_equal(found.trits, TRITS)


WEIGHTS = "model.safetensors"
SCALES = {"bitnet-packed": "autobitlinear", "llama-bitnet": "bitlinear"}


def inverted(folder: Path, name: str) -> None:
    """Scales that are the inverse of what their configuration says."""
    shutil.copy(MODELS / name / "config.json", folder)
    held = load_file(MODELS / name / WEIGHTS)
    inverse = {k: 1 / v.astype(np.float32) for k, v in held.items() if k.endswith("_scale")}
    save_file({**held, **inverse}, folder / WEIGHTS)


def misnamed(folder: Path, name: str) -> None:
    """A configuration that says the other direction than its scales have."""
    shutil.copy(MODELS / name / WEIGHTS, folder)
    config = json.loads((MODELS / name / "config.json").read_text())
    (other,) = {*SCALES.values()} - {SCALES[name]}
    config["quantization_config"]["linear_class"] = other
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize("change", [inverted, misnamed])
@pytest.mark.parametrize("name", SCALES)
def test_a_scale_in_the_wrong_direction_is_named(
    name: str, change: Callable[[Path, str], None], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    analyse(import_source(MODELS / name))
    assert "scale above 1" not in caplog.text
    change(tmp_path, name)
    analyse(import_source(tmp_path))
    assert "ternary layers multiply by a scale above 1" in caplog.text
    assert "1/s may have been given where s was meant" in caplog.text


@pytest.mark.parametrize("inverse", [False, True])
def test_a_scale_in_the_wrong_direction_in_a_gguf_file(
    inverse: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As bitnet.cpp's converter writes it, which takes weight_scale for the factor."""
    held = masters(True)
    kinds = {name: "I2_S" for name, w in held.items() if w.ndim == 2 and "embd" not in name}
    for name in kinds:
        scale = np.abs(held[name]).mean()
        trits = np.clip(np.round(held[name] / scale), -1, 1)
        held[name] = (trits / scale if inverse else trits * scale).astype(np.float32)
    analyse(import_source(write(tmp_path / "m.gguf", "bitnet-b1.58", held, kinds), i2s="128"))
    assert ("14 of 14 ternary layers multiply by a scale above 1" in caplog.text) == inverse


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
