"""Tokens of one sequence as text."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any, Protocol

import numpy as np


class Tokenizer(Protocol):
    """What the model needs of a tokenizer."""

    def encode(self, sequence: str) -> Any: ...
    def decode(self, ids: Sequence[int]) -> str: ...


def text_pieces(
    tokens: Iterator[np.ndarray], tokenizer: Tokenizer, ends: Collection[int]
) -> Iterator[str]:
    """Pieces of text as soon as they are whole: a character may take several tokens."""
    ids: list[int] = []
    said = ""
    for token in tokens:
        if int(token[0]) in ends:
            break
        ids.append(int(token[0]))
        text = tokenizer.decode(ids)
        if not text.endswith("\ufffd"):
            yield text[len(said) :]
            said = text
    rest = tokenizer.decode(ids)[len(said) :]
    if rest:
        yield rest
