"""Equal operations and graphs are one object, within a world.

The first origin of an operation stays with it.  A compilation therefore gets a world of its own, so
that another model that is alive in the process lends it no names: what is written would differ.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar
from weakref import WeakValueDictionary

T = TypeVar("T")
Table = WeakValueDictionary[object, Any]

_EVERYDAY: Table = WeakValueDictionary()
_TABLE: ContextVar[Table] = ContextVar("table", default=_EVERYDAY)


def intern(key: object, made: T) -> T:
    """The living object of that key, or `made`, which becomes it."""
    return _TABLE.get().setdefault(key, made)


@contextmanager
def own_world() -> Generator[None]:
    """What is made inside is never the same object as what was made outside."""
    token = _TABLE.set(WeakValueDictionary())
    try:
        yield
    finally:
        _TABLE.reset(token)
