"""The tokenizer of a folder: tokenizer.json, or SentencePiece's tokenizer.model as one."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from mmc.errors import MmcError
from mmc.frontends.models.config_fields import ConfigFields, read_json
from mmc.frontends.vocabulary import CONTROL, SentencePieces, Vocabulary, sentencepiece

_UNIGRAM, _BPE = 1, 2
"""Model types of sentencepiece_model.proto."""


def tokenizer_of(folder: Path) -> Callable[[], bytes] | None:
    """What gives the content of a tokenizer.json; None where there is no tokenizer.

    A tokenizer.json says itself what frames a text: `add_bos_token` and `add_eos_token` of
    tokenizer_config.json count beside a tokenizer.model alone, as in transformers 5.
    """
    ready, model = folder / "tokenizer.json", folder / "tokenizer.model"
    if ready.is_file():
        return ready.read_bytes
    return partial(from_sentencepiece, model) if model.is_file() else None


def from_sentencepiece(path: Path) -> bytes:
    """The model as a tokenizer.json; a text begins with <s>, as Llama has it, if none says no.

    Raises MmcError for a file that is none, and for models of words or characters.
    """
    proto = _parsed(path)
    kind = proto.trainer_spec.model_type
    if kind not in (_UNIGRAM, _BPE):
        raise MmcError(f"SentencePiece model of type {kind}: neither unigram nor BPE", str(path))
    normal = proto.normalizer_spec
    own = SentencePieces(
        unigram=kind == _UNIGRAM,
        prefix=normal.add_dummy_prefix,
        squeeze=normal.remove_extra_whitespaces,
        charmap=normal.precompiled_charsmap,
    )
    return sentencepiece(_vocabulary(proto, path), own).to_str().encode()


def _vocabulary(proto: Any, path: Path) -> Vocabulary:
    """The pieces, and the tokens that tokenizer_config.json wants around a text."""
    said = path.parent / "tokenizer_config.json"
    fields = ConfigFields(read_json(said) if said.is_file() else {}, str(said))
    kinds = [piece.type for piece in proto.pieces]

    def end(key: str, default: bool, token: int) -> int | None:
        known = 0 <= token < len(kinds) and kinds[token] == CONTROL
        return token if fields.flag(key, default) and known else None

    return Vocabulary(
        [piece.piece for piece in proto.pieces],
        kinds,
        str(path),
        [piece.score for piece in proto.pieces],
        end("add_bos_token", True, proto.trainer_spec.bos_id),
        end("add_eos_token", False, proto.trainer_spec.eos_id),
    )


def _parsed(path: Path) -> Any:
    try:
        from sentencepiece import sentencepiece_model_pb2
    except ImportError as error:
        raise MmcError(
            "reading it needs the package sentencepiece", str(path), "pip install sentencepiece"
        ) from error
    messages: Any = sentencepiece_model_pb2  # made when it is imported: nothing to check against
    proto = messages.ModelProto()
    try:
        proto.ParseFromString(path.read_bytes())
    except Exception as error:  # protobuf's DecodeError, which only it can name
        raise MmcError(f"is not a SentencePiece model: {error}", str(path)) from error
    if not proto.pieces:
        raise MmcError("is not a SentencePiece model: it has no pieces", str(path))
    return proto
