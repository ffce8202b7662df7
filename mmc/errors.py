"""The one error a user sees: what went wrong, where, and what to do about it."""

from __future__ import annotations


class MmcError(Exception):
    """A mistake in the input or the machine, told in one line.

    what: what was expected and what was found.
    where: file, module path or option it concerns; may be empty.
    hint: the next step for the user; may be empty.
    """

    def __init__(self, what: str, where: str = "", hint: str = "") -> None:
        super().__init__(what)
        self.what, self.where, self.hint = what, where, hint

    def __str__(self) -> str:
        where = f"{self.where}: " if self.where else ""
        hint = f" ({self.hint})" if self.hint else ""
        return f"{where}{self.what}{hint}"
