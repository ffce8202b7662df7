"""What a user gets wrong: one message, and nothing is written."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from mmc.convert import TrainingOptions, convert
from mmc.convert.source import read_source
from mmc.convert.text import read_text
from mmc.errors import MmcError
from tests.convert import tiny
from tests.convert.tiny import options, training, write_model, write_tokenizer
from tests.end_to_end.test_command_line import mmc

Changes = Mapping[str, Any]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    write_model(tmp_path / "model")
    return tmp_path / "model"


def change_config(model: Path, changes: Changes) -> None:
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | changes))


def refusal(model: Path, message: str, **changes: Any) -> None:
    """The conversion fails with the message, and leaves nothing behind."""
    out = model.parent / "out"
    to = changes.pop("to", "ternary")
    chosen = changes.pop("training", training(2))
    with pytest.raises(MmcError, match=message):
        convert(model, out, options(to, chosen, **changes))
    assert [
        path.name for path in model.parent.iterdir() if path.name.startswith(("out", "."))
    ] == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "gpt2"}, "model_type 'gpt2' is not converted"),
        ({"sliding_window": 16}, "sliding window"),
        ({"model_type": "qwen2", "sliding_window": 16}, "sliding window"),
        ({"model_type": "qwen2", "layer_types": ["sliding_attention"] * 2}, "sliding window"),
        ({"quantization_config": {"quant_method": "bitnet"}}, "quantised already"),
        ({"hidden_act": "gelu"}, "'hidden_act' is 'gelu'"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 2.0}}, "'rope_type' is 'yarn'"),
    ],
)
def test_configurations_that_are_not_converted(model: Path, changes: Changes, message: str) -> None:
    change_config(model, changes)
    refusal(model, message)


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        ("self_attn.q_proj.bias", "is not part of this model"),
        ("self_attn.q_norm.weight", "norms of queries and keys"),
        ("mlp.experts.0.up_proj.weight", "a mixture of experts"),
        ("self_attn.unheard_of", "is not part of this model"),
    ],
)
def test_tensors_that_are_not_converted(model: Path, tensor: str, message: str) -> None:
    tensors = load_file(model / "model.safetensors")
    tensors[f"model.layers.1.{tensor}"] = torch.zeros(3)
    save_file(tensors, model / "model.safetensors")
    refusal(model, message)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"to": "binary"}, "'binary' is not known"),
        ({"to": "matmul-free", "gate_order": "mine"}, "'mine' is not known"),
        ({"keep_attention": "every=2"}, "ternary keeps all attention"),
        ({"device": "tpu"}, "'tpu' is not known"),
        ({"text": ()}, "training needs a text"),
        ({"training": TrainingOptions()}, "one of them is needed"),
        ({"training": TrainingOptions(steps=1, minutes=1.0)}, "one of them is needed"),
        ({"training": training(0)}, "must be more than nothing"),
        ({"training": training(1, window=1)}, "a window of two tokens"),
        ({"training": training(1, window=65)}, "the model has 64 positions"),
        ({"training": training(1, distil=1.5)}, "1.5 is not a share"),
        ({"resume": True}, "no training to go on with"),
    ],
)
def test_options_that_do_not_fit(model: Path, changes: dict[str, Any], message: str) -> None:
    refusal(model, message, **changes)


def test_tokenizer_of_another_model(model: Path) -> None:
    write_tokenizer(model / "tokenizer.json", 300)
    refusal(model, "knows 300 tokens, the model 256")
    (model / "tokenizer.json").unlink()
    refusal(model, "is missing: the text cannot be read as tokens")


def test_texts_that_do_not_do(model: Path, tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("too short")
    refusal(model, "too short: 9 tokens to train on, at least 33", text=(text,))
    text.write_text("just long enough to train on, but" * 2)
    refusal(model, "too short: 1 tokens held out, at least 2", text=(text,), held_out=None)
    text.write_bytes(b"\xff\xfe\xfd" * 50)
    refusal(model, "is not UTF-8 text", text=(text,))
    refusal(model, "cannot be read", text=(tmp_path / "none",))


def test_folder_that_is_not_ours_is_left_alone(model: Path) -> None:
    with pytest.raises(MmcError, match="exists and is not a converted model"):
        convert(model, model, options("ternary", training(2)))


def test_text_may_be_compressed_and_is_held_out_at_its_end(model: Path, tmp_path: Path) -> None:
    raw = tiny.text().read_bytes()
    (tmp_path / "text.gz").write_bytes(gzip.compress(raw))
    files, tokenizer = [tiny.text(), tmp_path / "text.gz"], read_source(model).tokenizer()
    text = read_text(files, None, tokenizer, 32)
    held_out = 2 * len(raw) // 50
    assert (len(text.training), len(text.held_out)) == (2 * len(raw) - held_out, held_out)


def test_command_line(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = mmc("convert", model, "-o", out, "--to", "matmul-free")
    assert done.returncode == 0, done.stderr
    assert "hgrn_bit, 0.03 M parameters; not trained: expect no sentence" in done.stdout
    arguments = [
        "--to",
        "ternary",
        "--text",
        tiny.text(),
        "--steps",
        "1",
        "--window",
        "16",
        "--json",
    ]
    done = mmc("convert", model, "-o", out, *arguments)
    assert json.loads(done.stdout)["progress"]["steps"] == 1
