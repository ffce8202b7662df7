"""The text to train on: tokens, the part that is held out, and the batches of each step."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mmc.errors import MmcError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_PIECE = 1 << 18
"""Characters that are tokenised at a time, in parallel; a piece ends with a line."""

MOST_HELD_OUT = 1 << 16


@dataclass(frozen=True)
class Text:
    """Tokens i32[N] to train on, and to measure with."""

    training: np.ndarray
    held_out: np.ndarray

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.training.tobytes() + self.held_out.tobytes()).hexdigest()

    def starts(self, seed: int, step: int, batch: int, window: int) -> np.ndarray:
        """Where the windows of a step begin, i64[batch]; they follow from seed and step alone."""
        random = np.random.default_rng((seed, step))
        return random.integers(0, len(self.training) - window, batch)

    def probe(self, window: int) -> np.ndarray:
        """The first windows, at most eight, to look at activations with."""
        count = min(len(self.training) // window, 8)
        return self.training[: count * window].reshape(count, window)


def read_text(
    files: Sequence[Path], held_out: Path | None, tokenizer: Tokenizer, window: int
) -> Text:
    """Tokens of the files one after the other.

    held_out: a file; without it the last 2 % of the text, at most 65536 tokens.
    Raises MmcError where a file cannot be read, or there are fewer tokens than a window and one
    more to train on, or two to measure with.
    """
    training = np.concatenate([_encoded(tokenizer, path, _PIECE) for path in files])
    if held_out is not None:
        measured = _encoded(tokenizer, held_out, 0)
    else:
        cut = len(training) - min(len(training) // 50, MOST_HELD_OUT)
        training, measured = training[:cut], training[cut:]
    for name, tokens, least in (("to train on", training, window + 1), ("held out", measured, 2)):
        if len(tokens) < least:
            where = ", ".join(map(str, files if held_out is None else [*files, held_out]))
            raise MmcError(
                f"the text is too short: {len(tokens)} tokens {name}, at least {least} needed",
                where,
                "give more text, or a smaller --window",
            )
    return Text(training, measured)


def _encoded(tokenizer: Tokenizer, path: Path, piece: int) -> np.ndarray:
    """Tokens i32[N]; piece: how many characters at a time, 0 for the text as a whole."""
    text = _read(path)
    pieces = list(_pieces(text, piece)) if piece else [text]
    # What is measured begins as `mmc eval` begins it.
    encoded = tokenizer.encode_batch_fast(pieces, add_special_tokens=not piece)
    return np.concatenate([np.array(part.ids, np.int32) for part in encoded])


def _read(path: Path) -> str:
    try:
        raw = path.read_bytes()
        return (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode("utf-8")
    except (OSError, EOFError, gzip.BadGzipFile) as error:
        raise MmcError(f"cannot be read: {error}", str(path)) from None
    except UnicodeDecodeError as error:
        raise MmcError(f"is not UTF-8 text: {error.reason}", str(path)) from None


def _pieces(text: str, size: int) -> list[str]:
    """The text in parts of at least `size` characters that end with a line."""
    parts: list[str] = []
    start = 0
    while start < len(text):
        end = text.find("\n", start + size) + 1 or len(text)
        parts.append(text[start:end])
        start = end
    return parts or [""]
