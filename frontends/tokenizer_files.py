"""The tokenizer of a folder: tokenizer.json, or SentencePiece's tokenizer.model as one."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from mmc.errors import MmcError
from mmc.frontends.vocabulary import CONTROL, SentencePieces, Vocabulary, sentencepiece

_UNIGRAM, _BPE = 1, 2
"""Model types of sentencepiece_model.proto."""


def tokenizer_of(folder: Path) -> Callable[[], bytes] | None:
    """What gives the content of a tokenizer.json; None where there is no tokenizer."""
    ready, model = folder / "tokenizer.json", folder / "tokenizer.model"
    if ready.is_file():
        return ready.read_bytes
    return partial(from_sentencepiece, model) if model.is_file() else None


def from_sentencepiece(path: Path) -> bytes:
    """The model as a tokenizer.json; a text begins with <s>, as Llama has it.

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
    tokens, kinds = [p.piece for p in proto.pieces], [p.type for p in proto.pieces]
    first = proto.trainer_spec.bos_id
    known = 0 <= first < len(kinds) and kinds[first] == CONTROL
    scores = [p.score for p in proto.pieces]
    vocabulary = Vocabulary(tokens, kinds, str(path), scores, first if known else None)
    return sentencepiece(vocabulary, own).to_str().encode()


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
