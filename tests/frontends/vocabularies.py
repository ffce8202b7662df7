"""A small tokenizer in the manner of SmolLM's, trained on a page of ours, and its keys in GGUF."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from tests.end_to_end.compiled import ROOT

PAGE = ROOT / "tests" / "data" / "page.md"


@cache
def byte_level() -> Tokenizer:
    """A tokenizer as SmolLM's: digits one by one, then GPT-2's."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    made.decoder = decoders.ByteLevel()
    made.train(
        [str(PAGE)],
        trainers.BpeTrainer(
            vocab_size=500, special_tokens=["<|end|>"], show_progress=False,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        ),
    )  # fmt: skip
    return made


def bpe_keys(pre: str = "smollm") -> dict[str, Any]:
    made = byte_level()
    tokens = [made.id_to_token(n) for n in range(made.get_vocab_size())]
    merges = [" ".join(pair) for pair in json.loads(made.to_str())["model"]["merges"]]
    kinds = [3] + [1] * (len(tokens) - 1)
    return {
        "model": "gpt2", "pre": pre, "tokens": tokens, "token_type": kinds, "merges": merges,
        "bos_token_id": 0, "eos_token_id": 0,
    }  # fmt: skip
