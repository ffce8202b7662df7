"""A GGUF file by way of the command line: compiled, checked, run."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import numpy as np
from typer.testing import CliRunner

import mmc
from mmc.cli import app
from tests.folders import workspace
from tests.frontends.gguf_files import LINEAR, VOCABULARY, masters, trits_of, write
from tests.frontends.vocabularies import bpe_keys, byte_level

TOKENS = byte_level().get_vocab_size()
CONTEXT = 48


@cache
def file() -> Path:
    """Ternary matrices with one scale, but for ffn_down: there each block of 256 has its own."""
    tensors = masters(True)
    assert len(tensors["token_embd.weight"]) == VOCABULARY
    random = np.random.default_rng(5)
    tensors["token_embd.weight"] = random.standard_normal((TOKENS, 256)).astype(np.float32)
    for n in range(2):
        for m, (name, shape) in enumerate(LINEAR.items()):
            scales = np.full((shape[0], shape[1] // 256), 2**-4)
            if name == "ffn_down":
                scales = 2.0 ** -random.integers(3, 6, scales.shape)
            trits = trits_of(shape, 10 * n + m)
            tensors[f"blk.{n}.{name}.weight"] = (trits * scales.repeat(256, 1)).astype(np.float32)
    types = {f"blk.{n}.{name}.weight": "TQ2_0" for n in range(2) for name in LINEAR}
    types["token_embd.weight"] = "Q8_0"
    keys = {f"tokenizer.ggml.{key}": value for key, value in bpe_keys().items()}
    return write(workspace() / "tiny.gguf", "bitnet-b1.58", tensors, types, keys)


@cache
def artifact(target: str) -> Path:
    out = workspace() / f"gguf-{target}"
    check = target == "cpu"
    mcpu = "native" if check else None
    mmc.compile(file(), target=target, out=out, mcpu=mcpu, context=CONTEXT, check=check)
    return out


def model(target: str) -> mmc.Model:
    loaded = mmc.load(artifact(target))
    assert isinstance(loaded, mmc.Model)
    return loaded


TEXTS = (
    "Compile a model for the CPU, then run it.",
    "The quick brown fox jumps over the lazy dog.",
    "Numbers 1 2 3 4 and some words.",
)


def test_cpu_is_the_interpreter() -> None:
    """Every kernel, and the logits of texts; one position at a time gives the same bits.

    An activation of a text may round the other way (then 0.02); most texts have none.
    """
    record = json.loads((artifact("cpu") / "certificate.json").read_text())["target"]
    assert record["failures"] == []
    own, errors = model("cpu"), list[float]()
    for text in TEXTS:
        ids = np.array([own.encode(text)[:CONTEXT]])
        found, wanted = own.forward(ids), model("reference").forward(ids)
        errors.append(float(np.abs(found - wanted).max() / np.abs(wanted).max()))
        state = own.empty_state(1)
        for t in range(ids.shape[1]):
            logits, state = own.decode(ids[:, t], state)
            assert np.array_equal(logits, found[:, t]), t
    assert max(errors) <= 0.02
    assert sum(error <= 1e-5 for error in errors) >= 2


def test_what_was_recognised() -> None:
    layers = json.loads((artifact("cpu") / "manifest.json").read_text())["layers"]
    ternary = {layer["name"]: layer for layer in layers if layer["ternary"]}
    assert len(ternary) == 14
    down = ternary["model.layers.1.mlp.down_proj"]
    assert (down["granularity"], down["columns"]) == ("group of 256", 512)
    assert ternary["model.layers.1.mlp.up_proj"]["granularity"] == "tensor"


def test_the_tokenizer_is_in_the_artefact() -> None:
    result = CliRunner().invoke(app, ["run", str(artifact("cpu")), "-p", "Layers", "-n", "4"])
    assert result.exit_code == 0
    assert result.output.startswith("Layers")
    text = "MMC compiles 1234 layers.\n"
    assert model("cpu").tokenizer.decode(model("cpu").encode(text)) == text
