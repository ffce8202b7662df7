"""Tokenizers out of GGUF files and SentencePiece models, against the libraries that made them."""

from __future__ import annotations

import io
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece
from tokenizers import Tokenizer

from mmc.errors import MmcError
from mmc.frontends.checkpoint import open_checkpoint
from mmc.frontends.tokenizer_files import from_sentencepiece, tokenizer_of
from tests.frontends.gguf_files import masters, write
from tests.frontends.vocabularies import PAGES, bpe_keys, byte_level

TEXTS = [
    "Hello world", " two  spaces ", "it's 1234 o'clock\n\n\tand 5", "naïve café, 你好 🙂", "",
    "x = {'a': [1, 2]}  # no\r\n", *(page.read_text()[:3000] for page in PAGES),
]  # fmt: skip


@cache
def trained(kind: str, prefix: bool = True) -> bytes:
    """A SentencePiece model as Llama's are: bytes for what it does not know, nothing normalised."""
    made = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(  # pyright: ignore[reportAttributeAccessIssue]
        sentence_iterator=iter(line for page in PAGES for line in page.read_text().splitlines()),
        model_writer=made,
        vocab_size=600,
        model_type=kind,
        byte_fallback=True,
        add_dummy_prefix=prefix,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        minloglevel=2,
        user_defined_symbols=["<tool>"],
    )
    return made.getvalue()


@pytest.mark.parametrize("prefix", [True, False])
@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_sentencepiece(tmp_path: Path, kind: str, prefix: bool) -> None:
    path = tmp_path / "tokenizer.model"
    path.write_bytes(trained(kind, prefix))
    theirs: Any = sentencepiece.SentencePieceProcessor(model_proto=trained(kind, prefix))
    made = tokenizer_of(tmp_path)
    assert made is not None
    ours = Tokenizer.from_str(made().decode())
    assert ours.get_vocab_size() == theirs.vocab_size()
    # With a prefix, tokenizers and llama.cpp put one behind a token that stands in the text, too.
    for text in TEXTS if prefix else [*TEXTS, "a<tool>b"]:
        ids = ours.encode(text).ids
        assert ids == [theirs.bos_id(), *theirs.encode(text)], text
        assert ours.decode(ids) == theirs.decode(ids) == text


def gguf(path: Path, metadata: dict[str, Any]) -> Tokenizer:
    """The tokenizer of a file with these keys."""
    keys = {f"tokenizer.ggml.{key}": value for key, value in metadata.items()}
    write(path, "llama", masters(False), metadata=keys)
    made = open_checkpoint(path).tokenizer
    assert made is not None
    return Tokenizer.from_str(made().decode())


def test_byte_level_out_of_gguf(tmp_path: Path) -> None:
    ours, theirs = gguf(tmp_path / "m.gguf", bpe_keys()), byte_level()
    for text in [*TEXTS, "end<|end|>of"]:
        ids = ours.encode(text).ids
        assert ids == theirs.encode(text).ids, text
        assert ours.decode(ids, skip_special_tokens=False) == text
    assert ours.decode(ours.encode("end<|end|>of").ids) == "endof"


def test_llama3_keeps_three_digits_and_begins_with_a_token(tmp_path: Path) -> None:
    """A word that is a token is taken whole: here one that no merge makes."""
    keys = bpe_keys("llama-bpe")
    keys["tokens"] = [*keys["tokens"], "Ġzq", "123"]
    keys["token_type"] = [*keys["token_type"], 1, 1]
    ours = gguf(tmp_path / "m.gguf", keys)
    assert ours.encode("a zq 1234").tokens == ["<|end|>", "a", "Ġzq", "Ġ", "123", "4"]
    qwen2 = gguf(tmp_path / "p.gguf", {**keys, "pre": "qwen2"})
    assert qwen2.encode("a zq 1234").tokens == ["a", "Ġ", "z", "q", "Ġ", "1", "2", "3", "4"]
    without = gguf(tmp_path / "n.gguf", {**keys, "add_bos_token": False, "add_eos_token": True})
    assert without.encode("a zq").tokens == ["a", "Ġzq", "<|end|>"]
    smollm = gguf(tmp_path / "o.gguf", {**keys, "pre": "smollm"})
    assert smollm.encode("a zq").tokens == ["a", "Ġ", "z", "q"]


def test_sentencepiece_out_of_gguf(tmp_path: Path) -> None:
    theirs: Any = sentencepiece.SentencePieceProcessor(model_proto=trained("bpe"))
    # Ordinary tokens in another order: what is merged first is said by the scores.
    order = [*range(260), *reversed(range(260, theirs.vocab_size()))]
    tokens = [theirs.id_to_piece(n) for n in order]
    kinds = [2, 3, 3, 4, *[6] * 256, *[1] * (len(tokens) - 260)]
    scores = [float(np.float32(theirs.get_score(n))) for n in order]
    keys = {"model": "llama", "tokens": tokens, "token_type": kinds, "scores": scores}
    ours = gguf(tmp_path / "m.gguf", {**keys, "bos_token_id": 1})
    for text in TEXTS:
        ids = ours.encode(text).ids
        assert [tokens[n] for n in ids] == ["<s>", *theirs.encode(text, out_type=str)], text
        assert ours.decode(ids) == text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "bert"}, "'tokenizer.ggml.model' is 'bert'"),
        ({"pre": "viking"}, "'tokenizer.ggml.pre' is 'viking'.*allowed: gpt-2"),
        ({"tokens": [1, 2]}, "'tokenizer.ggml.tokens' is missing or not a list of texts"),
        ({"token_type": [1]}, "'tokenizer.ggml.token_type' is not a list of 500 numbers"),
        ({"merges": ["a"]}, "a merge is not two tokens and a space between"),
        ({"merges": ["zz qq"]}, "the tokenizer cannot be made"),
        ({"add_bos_token": True, "bos_token_id": 500}, "is 500, of 500 tokens"),
    ],
)
def test_tokenizers_that_are_refused(tmp_path: Path, change: Any, message: str) -> None:
    with pytest.raises(MmcError, match=message):
        gguf(tmp_path / "m.gguf", bpe_keys() | change)


def test_a_model_that_is_none(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.model"
    path.write_bytes(b"\xff" * 40)
    with pytest.raises(MmcError, match="is not a SentencePiece model"):
        from_sentencepiece(path)
    path.write_bytes(b"")
    with pytest.raises(MmcError, match="it has no pieces"):
        from_sentencepiece(path)
    assert tokenizer_of(tmp_path / "nowhere") is None


def test_a_package_that_is_missing_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    with pytest.raises(MmcError, match="needs the package sentencepiece"):
        from_sentencepiece(tmp_path / "tokenizer.model")
