"""Tokenizers out of GGUF files and SentencePiece models, against the libraries that made them."""

from __future__ import annotations

import io
import json
import os
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
from mmc.frontends.gguf_file import read_gguf
from mmc.frontends.gguf_tokenizer import tokenizer_json
from mmc.frontends.tokenizer_files import from_sentencepiece, tokenizer_of
from tests.frontends.gguf_files import masters, write
from tests.frontends.vocabularies import PAGE, bpe_keys, byte_level

TEXTS = [
    "Hello world", " two  spaces ", "it's 1234 o'clock\n\n\tand 5", "naïve café, 你好 🙂", "",
    "x = {'a': [1, 2]}  # no\r\n", *(PAGE.read_text()[n : n + 3000] for n in (0, 3000, 6000)),
]  # fmt: skip


@cache
def trained(kind: str, prefix: bool = True) -> bytes:
    """A SentencePiece model as Llama's are: bytes for what it does not know, nothing normalised."""
    made = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(  # pyright: ignore[reportAttributeAccessIssue]
        sentence_iterator=iter(PAGE.read_text().splitlines()),
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


PIECES = {
    "gpt-2": "I|'|LL| have| 12345| cmDay|!!|\r\n\n | x|++;| é中文",
    "smollm": "I|'|LL| have| |1|2|3|4|5| cmDay|!!|\r\n\n | x|++;| é中文",
    "llama-bpe": "I|'LL| have| |123|45| cmDay|!!\r\n\n| | x|++;| é中文",
    "qwen2": "I|'LL| have| |1|2|3|4|5| cmDay|!!\r\n\n| | x|++;| é中文",
    "deepseek-llm": "I|'|LL| have| |12345| cmDay|!!|\r|\n|\n| | x|++;| é|中文",
    "deepseek-coder": "I|'|LL| have| |1|2|3|4|5| cmDay|!!|\r|\n|\n| | x|++|;| é|中文",
    "deepseek-v3": "I|'LL| have| |123|45| cmDay|!!\r\n\n| | x|++;| é|中文",
    "falcon": "I|'|LL| have| |123|45| cmDay|!!|\r\n\n | x|++;| é中文",
    "default": "I|'|LL| have| |123|45| cmDay|!!|\r\n\n | x|++;| é中文",
    "tekken": "I|'LL| have| |1|2|3|4|5| cm|Day|!!\r\n\n| | x|++;| é中文",
    "gpt-4o": "I'LL| have| |123|45| cm|Day|!!\r\n\n| | x|++;| é中文",
}
"""How each kind cuts one text."""


def pieces_of(tokenizer: Tokenizer, text: str) -> list[str]:
    assert tokenizer.pre_tokenizer is not None
    return [text[a:b] for _, (a, b) in tokenizer.pre_tokenizer.pre_tokenize_str(text)]


@pytest.mark.parametrize("kind", PIECES)
def test_pre_tokenizers(tmp_path: Path, kind: str) -> None:
    ours = gguf(tmp_path / "m.gguf", bpe_keys(kind))
    pieces = PIECES[kind].split("|")
    whole = "".join(pieces)
    assert pieces_of(ours, whole) == pieces


VOCABULARIES = os.environ.get("MMC_VOCABULARIES", "")


@pytest.mark.long
@pytest.mark.skipif(not VOCABULARIES, reason="MMC_VOCABULARIES names no folder")
def test_vocabularies_of_llama_cpp() -> None:
    """Its folder models/: ggml-vocab-*.gguf, texts, and the tokens of the original tokenizers.

    The sdist of PyPI's llama-cpp-python holds it (vendor/llama.cpp/models).
    """
    seen: set[str] = set()
    for texts in sorted(Path(VOCABULARIES).glob("*.gguf.inp")):
        file = read_gguf(texts.with_suffix(""))
        if file.metadata["tokenizer.ggml.model"] not in ("gpt2", "llama"):
            continue
        ours = Tokenizer.from_str(tokenizer_json(file).decode())
        cases = texts.read_text("utf-8").split("\n__ggml_vocab_test__\n")
        for text, tokens in zip(
            cases, texts.with_suffix(".out").read_text().split("\n"), strict=True
        ):
            found = ours.encode(text, add_special_tokens=False).ids
            assert found == [int(t) for t in tokens.split()], (texts.name, text)
        seen.add(file.metadata["tokenizer.ggml.pre"])
    assert len(seen) >= 12


def test_a_pre_tokenizer_that_is_not_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    keys = bpe_keys()
    del keys["pre"]
    assert pieces_of(gguf(tmp_path / "m.gguf", keys), "1234") == ["123", "4"]
    assert "'tokenizer.ggml.pre' is missing, 'default' is assumed" in caplog.text


def test_characters_are_composed_where_the_original_does_it(tmp_path: Path) -> None:
    qwen, gpt2 = (gguf(tmp_path / f"{k}.gguf", bpe_keys(k)) for k in ("qwen2", "gpt-2"))
    assert qwen.encode("e\u0301").ids == qwen.encode("\u00e9").ids
    assert gpt2.encode("e\u0301").ids != gpt2.encode("\u00e9").ids


ENDS = {"bos_token": "<s>", "eos_token": "</s>"}


@pytest.mark.parametrize(
    ("said", "first", "last"),
    [
        ({}, True, False),
        ({"add_bos_token": False}, False, False),
        ({"add_bos_token": False, "add_eos_token": True}, False, True),
        ({"add_eos_token": True}, True, True),
    ],
)
def test_tokenizer_config_frames_a_text(
    tmp_path: Path, said: dict[str, bool], first: bool, last: bool
) -> None:
    (tmp_path / "tokenizer.model").write_bytes(trained("bpe"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({**ENDS, **said}))
    made = tokenizer_of(tmp_path)
    assert made is not None
    tokens = Tokenizer.from_str(made().decode()).encode("a").tokens
    assert (tokens[0] == "<s>", tokens[-1] == "</s>") == (first, last)


def test_a_tokenizer_json_frames_a_text_itself(tmp_path: Path) -> None:
    """As transformers does it with the same files."""
    byte_level().save(str(tmp_path / "tokenizer.json"))
    said = {"bos_token": "<|end|>", "add_bos_token": True, "eos_token": "<|end|>"}
    said["tokenizer_class"] = "PreTrainedTokenizerFast"
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(said))
    made = tokenizer_of(tmp_path)
    assert made is not None
    theirs = pytest.importorskip("transformers").AutoTokenizer.from_pretrained(tmp_path)
    assert Tokenizer.from_str(made().decode()).encode("a b").ids == theirs("a b")["input_ids"]


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
        ({"pre": "kimi-k2"}, "'tokenizer.ggml.pre' is 'kimi-k2'.*allowed: gpt-2"),
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
