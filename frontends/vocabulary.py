"""Tokenizers made from a list of tokens: byte-level BPE, and SentencePiece's BPE and unigram.

Kinds of tokens are numbered alike in SentencePiece's models and in GGUF.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mmc.errors import MmcError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
_SPACE = "▁"
"""SentencePiece writes it for a space."""


@dataclass(frozen=True)
class Vocabulary:
    """tokens, their kinds, and for SentencePiece their scores; `first` and `last` frame a text.

    where: the file, for messages.
    """

    tokens: Sequence[str]
    kinds: Sequence[int]
    where: str
    scores: Sequence[float] = ()
    first: int | None = None
    last: int | None = None

    @property
    def ids(self) -> dict[str, int]:
        return {token: n for n, token in enumerate(self.tokens)}

    def of_kind(self, *kinds: int) -> list[str]:
        return [t for t, kind in zip(self.tokens, self.kinds, strict=True) if kind in kinds]


@dataclass(frozen=True)
class SentencePieces:
    """What a SentencePiece model does besides its vocabulary.

    prefix: a space is put in front of a text.  squeeze: spaces at the ends and doubled ones go.
    charmap: the table that characters are replaced by; empty where they stay.
    """

    unigram: bool = False
    prefix: bool = True
    squeeze: bool = False
    charmap: bytes = b""


def byte_level(
    vocabulary: Vocabulary, merges: Sequence[str], cuts: Sequence[Any], whole_words: bool
) -> Tokenizer:
    """BPE over bytes, as GPT-2 has it.

    cuts: pre-tokenizers.  whole_words: a word that is a token is one, whatever the merges say.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    pairs = [tuple(merge.split(" ")) for merge in merges]
    if any(len(pair) != 2 for pair in pairs):
        raise MmcError("a merge is not two tokens and a space between", vocabulary.where)
    model = _checked(models.BPE, vocabulary, vocabulary.ids, pairs, ignore_merges=whole_words)
    made = Tokenizer(model)
    made.pre_tokenizer = pre_tokenizers.Sequence(list(cuts))
    made.decoder = decoders.ByteLevel()
    return _finished(made, vocabulary)


def sentencepiece(vocabulary: Vocabulary, own: SentencePieces) -> Tokenizer:
    """SentencePiece's algorithm; BPE joins the pair that makes the token of the best score."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers

    bytes_known = BYTE in vocabulary.kinds
    if own.unigram:
        scored = list(zip(vocabulary.tokens, vocabulary.scores, strict=True))
        unknown = next((n for n, kind in enumerate(vocabulary.kinds) if kind == UNKNOWN), None)
        model = _checked(models.Unigram, vocabulary, scored, unknown, bytes_known)
    else:
        model = _checked(
            models.BPE, vocabulary, vocabulary.ids, _merges(vocabulary),
            unk_token=next(iter(vocabulary.of_kind(UNKNOWN)), None),
            fuse_unk=True, byte_fallback=bytes_known,
        )  # fmt: skip
    made = Tokenizer(model)
    steps: list[Any] = [normalizers.Precompiled(own.charmap)] if own.charmap else []
    if own.squeeze:
        steps += [normalizers.Strip(), normalizers.Replace(Regex(" {2,}"), " ")]
    steps += [normalizers.Prepend(_SPACE)] if own.prefix else []
    made.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", _SPACE)])
    back: list[Any] = [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    made.decoder = decoders.Sequence(back + [decoders.Strip(" ", 1, 0)] * own.prefix)
    return _finished(made, vocabulary)


def _merges(vocabulary: Vocabulary) -> list[tuple[str, str]]:
    """The pairs of tokens that make another, those with the best score first."""
    ids = vocabulary.ids
    found: list[tuple[float, int, int, str, str]] = []
    for token, score in zip(vocabulary.tokens, vocabulary.scores, strict=True):
        cuts = ((token[:n], token[n:]) for n in range(1, len(token)))
        found += [(-score, ids[a], ids[b], a, b) for a, b in cuts if a in ids and b in ids]
    return [(a, b) for *_, a, b in sorted(found)]


def _checked(model: Any, vocabulary: Vocabulary, *args: Any, **options: Any) -> Any:
    """A model; whatever the library says against it becomes one MmcError."""
    try:
        return model(*args, **options)
    except Exception as error:  # its own exceptions have no common type
        raise MmcError(f"the tokenizer cannot be made: {error}", vocabulary.where) from error


def _finished(made: Any, vocabulary: Vocabulary) -> Tokenizer:
    """With its special tokens, and those that frame a text."""
    from tokenizers import AddedToken, processors

    made.add_special_tokens(
        [
            AddedToken(t, special=True, normalized=False)
            for t in vocabulary.of_kind(CONTROL, UNKNOWN)
        ]
    )
    made.add_tokens([AddedToken(t, normalized=False) for t in vocabulary.of_kind(USER_DEFINED)])
    ends = [
        None if n is None else vocabulary.tokens[n] for n in (vocabulary.first, vocabulary.last)
    ]
    if any(ends):
        template = " ".join(each for each in (ends[0], "$A", ends[1]) if each)
        ids = {t: n for t, n in vocabulary.ids.items() if t in ends}
        made.post_processor = processors.TemplateProcessing(template, None, list(ids.items()))
    return made
