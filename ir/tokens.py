"""Cutting the text form into tokens, and pointing at the one that is wrong."""

from __future__ import annotations

import re
from dataclasses import dataclass

from mmc.errors import MmcError

_TOKEN = re.compile(
    r"""(?P<space>[ \t\r\n]+) | (?P<comment>\#[^\n]*)
      | (?P<value>%[\w.]*\w) | (?P<string>"(?:[^"\\\n]|\\.)*")
      | (?P<number>-?\d+(?:\.\d+)?(?:e[+-]?\d+)?(?![\w.])) | (?P<word>[A-Za-z_][\w.]*)
      | (?P<mark>[@{}()\[\]=,:*+-])""",
    re.VERBOSE,
)
_DIMENSION = re.compile(r"-?[\w.]+(?:\*[\w.]+)*(?:[+-][\w.]+(?:\*[\w.]+)*)*")


class ParseError(MmcError):
    """Text that is not a graph: file, line, column and a caret under the place."""

    def __init__(self, source: str, line: int, column: int, text: str, message: str) -> None:
        caret = f"{message}\n  {text}\n  {' ' * column}^"
        super().__init__(caret, f"{source}:{line}:{column + 1}")
        self.line, self.column = line, column + 1


@dataclass(frozen=True)
class Token:
    kind: str
    text: str
    at: int


class Tokens:
    """A cursor over the tokens of a text."""

    def __init__(self, text: str, source: str) -> None:
        self._text, self._source = text, source
        self._list: list[Token] = []
        self._comments: dict[int, str] = {}
        self._next = 0
        at = end = 0
        while at < len(text):
            found = _TOKEN.match(text, at)
            if found is None:
                raise self.error(Token("", "", at), f"unexpected character {text[at]!r}")
            kind = found.lastgroup or ""
            if kind == "comment" and "\n" in text[end:at]:
                kind = "space"  # a line of its own is the origin of nothing
            if kind == "comment":
                self._comments[len(self._list)] = found[0][1:].strip()
            elif kind != "space":
                kind = {"value": "%", "mark": found[0]}.get(kind, kind)
                self._list.append(Token(kind, found[0], at))
                end = found.end()
            at = found.end()
        self._list.append(Token("end", "", len(text)))

    def peek(self, ahead: int = 0) -> Token:
        return self._list[min(self._next + ahead, len(self._list) - 1)]

    def next(self) -> Token:
        token = self.peek()
        self._next += 1
        return token

    def accept(self, kind: str) -> bool:
        if self.peek().kind != kind:
            return False
        self._next += 1
        return True

    def expect(self, kind: str, text: str = "") -> Token:
        token = self.peek()
        if token.kind != kind or (text and token.text != text):
            wanted = {"word": "a name", "%": "a value such as %x", "end": "the end of the text"}
            found = repr(token.text) if token.text else "the end of the text"
            raise self.error(
                token, f"expected {text or wanted.get(kind, repr(kind))}, found {found}"
            )
        return self.next()

    def comment(self) -> str:
        """The comment between the last token and the next, or an empty text."""
        return self._comments.get(self._next, "")

    def is_dimension(self) -> bool:
        """True where a number opens a dimension such as 2*T."""
        return self.peek().kind == "number" and self.peek(1).kind in ("*", "+")

    def dimension(self) -> Token:
        """The next tokens, taken together as one dimension."""
        first = self.peek()
        found = _DIMENSION.match(self._text, first.at)
        if found is None:
            raise self.error(first, f"expected a dimension, found {first.text!r}")
        while self.peek().kind != "end" and self.peek().at < found.end():
            self._next += 1
        return Token("dimension", found[0], first.at)

    def error(self, token: Token, message: str) -> ParseError:
        line = self._text.count("\n", 0, token.at) + 1
        begin = self._text.rfind("\n", 0, token.at) + 1
        end = self._text.find("\n", token.at)
        text = self._text[begin : len(self._text) if end < 0 else end]
        return ParseError(self._source, line, token.at - begin, text, message)
