"""A tiny Transformer with its tokenizer and text, trained once for a test run."""

from __future__ import annotations

import json
import random
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from mmc.convert import ConvertOptions, TrainingOptions
from mmc.convert.source import read_source
from mmc.convert.text import read_text
from mmc.convert.training import Trainer
from mmc.frontends.models.transformer_config import TransformerConfig
from mmc.nn import Transformer
from tests.folders import workspace

CONFIG: dict[str, Any] = {
    "model_type": "llama", "vocab_size": 256, "hidden_size": 32, "intermediate_size": 48,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "max_position_embeddings": 64, "rms_norm_eps": 1e-6, "tie_word_embeddings": True,
    "rope_theta": 1000.0, "eos_token_id": 0,
}  # fmt: skip
WINDOW = 32
WORDS = (
    ("the", "a", "every", "no"),
    ("old", "small", "ternary", "quiet", "second", "wide"),
    ("adder", "river", "clock", "teacher", "garden", "kernel", "letter", "stone"),
    ("counts", "follows", "rounds", "keeps", "loses", "waits for"),
)
"""Of which sentences are made: articles, adjectives, nouns, verbs."""


def options(to: str, training: TrainingOptions, **changes: Any) -> ConvertOptions:
    """Of a conversion on the CPU, with the text."""
    given: dict[str, Any] = {"text": (text(),), "held_out": held_out(), "device": "cpu", **changes}
    return ConvertOptions(to, training=training, **given)


def training(steps: int, **changes: Any) -> TrainingOptions:
    small: dict[str, Any] = {"batch": 8, "window": WINDOW, "learning_rate": 1e-2, "log_every": 1}
    return TrainingOptions(steps, **(small | changes))


@cache
def text() -> Path:
    """To train on."""
    return _written("text.txt", 1, 25000)


@cache
def held_out() -> Path:
    return _written("held-out.txt", 2, 3000)


def _written(name: str, seed: int, characters: int) -> Path:
    chosen, lines, order = random.Random(seed), list[str](), (0, 1, 2, 3, 0, 2)
    while sum(map(len, lines)) < characters:
        words = (chosen.choice(WORDS[n]) for n in order)
        lines.append(f"{len(lines) % 97}. {' '.join(words)}.\n")
    path = workspace() / name
    path.write_text("".join(lines)[:characters])
    return path


def write_tokenizer(path: Path, size: int = 256) -> None:
    """A token for each byte."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    letters += [f"<{n}>" for n in range(size - len(letters))]
    tokenizer = Tokenizer(models.BPE({letter: n for n, letter in enumerate(letters)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(path))


def write_model(folder: Path, changes: dict[str, Any] | None = None) -> Transformer:
    """A checkpoint with random weights; the module is returned."""
    config = {**CONFIG, **(changes or {})}
    torch.manual_seed(0)
    module = Transformer(TransformerConfig.parse(config))
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    write_tokenizer(folder / "tokenizer.json")
    save_file(module.tensors(), folder / "model.safetensors")
    return module


@cache
def teacher() -> Path:
    """The folder of a Transformer that knows something of the text."""
    folder = workspace() / "teacher"
    module = write_model(folder)
    tokens = read_text((text(),), held_out(), read_source(folder).tokenizer(), WINDOW)
    trainer = Trainer(module, None, tokens, training(150, batch=16), torch.device("cpu"))
    trainer.run(lambda: None)
    save_file(module.tensors(), folder / "model.safetensors")
    return folder
