"""The tokenizer in a GGUF file as a tokenizer.json.

Keys: tokenizer.ggml.* (gguf-py, constants.py).  How byte-level BPE cuts a text before it merges is
said by a name alone; what the names mean is llama.cpp's (src/llama-vocab.cpp).
"""

from __future__ import annotations

from typing import Any, cast

from mmc.errors import MmcError
from mmc.frontends.gguf_file import GgufFile
from mmc.frontends.models.config_fields import ConfigFields
from mmc.frontends.vocabulary import (
    NORMAL,
    SentencePieces,
    Vocabulary,
    byte_level,
    sentencepiece,
)

_GPT2 = ("gpt-2", "mpt", "olmo")
_DIGITS = ("smollm", "starcoder", "refact", "command-r", "codeshell")
"""As GPT-2, after every digit was cut off."""
_LLAMA3 = ("llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1")
_LLAMA3_CUT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2 = ("qwen2", "deepseek-r1-qwen")
_QWEN2_CUT = _LLAMA3_CUT.replace("{1,3}", "")
"""Every digit is cut off."""
_CUTS = dict.fromkeys(_LLAMA3, _LLAMA3_CUT) | dict.fromkeys(_QWEN2, _QWEN2_CUT)


def tokenizer_json(file: GgufFile) -> bytes:
    """The content of a tokenizer.json; MmcError for a kind that is not known."""
    fields = ConfigFields(file.metadata, str(file.path))
    if fields.choice("tokenizer.ggml.model", ("gpt2", "llama")) == "llama":
        prefix = fields.flag("tokenizer.ggml.add_space_prefix", True)
        made = sentencepiece(_vocabulary(fields, True), SentencePieces(prefix=prefix))
    else:
        made = _byte_level(fields)
    return made.to_str().encode()


def _byte_level(fields: ConfigFields) -> Any:
    from tokenizers import Regex, pre_tokenizers

    cut = fields.choice("tokenizer.ggml.pre", (*_GPT2, *_DIGITS, *_CUTS))
    plain, llama3 = cut not in _CUTS, cut in _LLAMA3
    cuts: list[Any] = [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=plain)]
    if cut in _DIGITS:
        cuts.insert(0, pre_tokenizers.Digits(individual_digits=True))
    if not plain:
        cuts.insert(0, pre_tokenizers.Split(Regex(_CUTS[cut]), "isolated"))
    merges = _texts(fields, "tokenizer.ggml.merges")
    return byte_level(_vocabulary(fields, llama3), merges, cuts, whole_words=llama3)


def _vocabulary(fields: ConfigFields, begins: bool) -> Vocabulary:
    """begins: a text has a first token where the file does not say."""
    tokens = _texts(fields, "tokenizer.ggml.tokens")
    kinds = _numbers(fields, "tokenizer.ggml.token_type", len(tokens), NORMAL)
    scores = _numbers(fields, "tokenizer.ggml.scores", len(tokens), 0.0)
    first = fields.flag("tokenizer.ggml.add_bos_token", begins)
    last = fields.flag("tokenizer.ggml.add_eos_token", False)
    return Vocabulary(
        tokens, kinds, fields.source, scores,
        _token(fields, "tokenizer.ggml.bos_token_id", len(tokens)) if first else None,
        _token(fields, "tokenizer.ggml.eos_token_id", len(tokens)) if last else None,
    )  # fmt: skip


def _texts(fields: ConfigFields, key: str) -> list[str]:
    found = fields.values.get(key)
    if not isinstance(found, list) or not all(isinstance(t, str) for t in cast(list[Any], found)):
        raise MmcError(f"{key!r} is missing or not a list of texts", fields.source)
    return cast(list[str], found)


def _numbers(fields: ConfigFields, key: str, count: int, default: float) -> list[Any]:
    found = cast(Any, fields.values.get(key, [default] * count))
    if not isinstance(found, list) or len(cast(list[Any], found)) != count:
        raise MmcError(f"{key!r} is not a list of {count} numbers", fields.source)
    if any(isinstance(n, str) for n in cast(list[Any], found)):
        raise MmcError(f"{key!r} is a list of texts, not of numbers", fields.source)
    return cast(list[Any], found)


def _token(fields: ConfigFields, key: str, count: int) -> int | None:
    if fields.absent(key):
        return None
    found = fields.whole(key, least=0)
    if found >= count:
        raise MmcError(f"{key!r} is {found}, of {count} tokens", fields.source)
    return found
