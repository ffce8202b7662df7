"""The tokenizer in a GGUF file as a tokenizer.json.

Keys: tokenizer.ggml.* (gguf-py, constants.py).
"""

from __future__ import annotations

import logging
from typing import Any, cast

from mmc.errors import MmcError
from mmc.frontends.gguf_file import GgufFile
from mmc.frontends.models.config_fields import ConfigFields
from mmc.frontends.pre_tokenizers import PRE_TOKENIZERS
from mmc.frontends.vocabulary import (
    NORMAL,
    SentencePieces,
    Vocabulary,
    byte_level,
    sentencepiece,
)

_log = logging.getLogger(__name__)


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
    from tokenizers import Regex, normalizers, pre_tokenizers

    if fields.absent("tokenizer.ggml.pre"):
        _log.warning("%s: 'tokenizer.ggml.pre' is missing, 'default' is assumed", fields.source)
    kind = PRE_TOKENIZERS[fields.choice("tokenizer.ggml.pre", tuple(PRE_TOKENIZERS), "default")]
    cuts: list[Any] = [pre_tokenizers.Split(Regex(cut), "isolated") for cut in kind.cuts]
    cuts.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False))
    merges = _texts(fields, "tokenizer.ggml.merges")
    made = byte_level(_vocabulary(fields, kind.begins), merges, cuts, kind.whole_words)
    if kind.composed:
        made.normalizer = normalizers.NFC()
    return made


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
