"""Read a model's config.json or a file like it, and say exactly which field is wrong."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

from mmc.errors import MmcError

T = TypeVar("T")

_MOST = 2**31 - 1
"""Of whole numbers: the product of two sizes is a signed word of 64 bits."""

_MOST_LAYERS = 10_000


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; raises MmcError where the file is missing or something else."""
    try:
        content = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise MmcError("the file is missing", str(path)) from None
    except (OSError, ValueError, RecursionError) as error:  # a number may have too many digits
        raise MmcError(f"cannot be read as JSON: {error}", str(path)) from error
    if not isinstance(content, dict):
        raise MmcError("is not a JSON object", str(path))
    return cast(dict[str, Any], content)


@dataclass(frozen=True)
class ConfigFields:
    """values: the parsed JSON.  source: the file's name, for messages."""

    values: Mapping[str, object]
    source: str = "config.json"

    def _typed(self, key: str, kind: type[T], default: T | None) -> T:
        value = self.values.get(key, default)
        if value is None:
            value = default
        if value is None:
            raise MmcError(f"{key!r} is missing", self.source, f"{kind.__name__} expected")
        if not isinstance(value, kind) or (kind is not bool and isinstance(value, bool)):
            raise MmcError(f"{key!r} is {value!r}, not {_ARTICLES[kind]}", self.source)
        return value

    def whole(self, key: str, default: int | None = None, least: int = 1) -> int:
        value = self._typed(key, int, default)
        if value < least:
            raise MmcError(f"{key!r} is {value}, less than {least}", self.source)
        if value > _MOST:
            raise MmcError(f"{key!r} is more than {_MOST}", self.source)
        return value

    def layers(self) -> int:
        """num_hidden_layers: they are built before a tensor is missing."""
        count = self.whole("num_hidden_layers")
        if count > _MOST_LAYERS:
            raise MmcError(f"'num_hidden_layers' is {count}, more than {_MOST_LAYERS}", self.source)
        return count

    def real(self, key: str, default: float | None = None) -> float:
        """A number that is positive and finite."""
        value = self.values.get(key, default)
        if isinstance(value, int) and not isinstance(value, bool):
            value = float(value) if abs(value) < 1e300 else float("inf")
        if not isinstance(value, float):
            raise MmcError(f"{key!r} is {value!r}, not a number", self.source)
        if not 0 < value < float("inf"):
            raise MmcError(f"{key!r} is {value}, not positive and finite", self.source)
        return value

    def reals(self, key: str) -> tuple[float, ...]:
        """A list of numbers that are positive and finite, or nothing."""
        value = self.values.get(key, [])
        if not isinstance(value, list):
            raise MmcError(f"{key!r} is {value!r}, not a list", self.source)
        listed = cast(list[object], value)
        each = ConfigFields({f"{key}[{n}]": x for n, x in enumerate(listed)}, self.source)
        return tuple(each.real(name) for name in each.values)

    def flag(self, key: str, default: bool | None = None) -> bool:
        return self._typed(key, bool, default)

    def choice(self, key: str, allowed: Sequence[str], default: str | None = None) -> str:
        value = self._typed(key, str, default)
        if value not in allowed:
            raise MmcError(f"{key!r} is {value!r}", self.source, f"allowed: {', '.join(allowed)}")
        return value

    def record(self, key: str) -> ConfigFields:
        """The object under the key; an empty one where there is none."""
        value = self.values.get(key)
        if value is not None and not isinstance(value, dict):
            raise MmcError(f"{key!r} is {value!r}, not an object", self.source)
        return ConfigFields(cast(dict[str, object], value or {}), f"{self.source}, {key}")

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of texts, or nothing."""
        value = self.values.get(key)
        listed = cast(list[object], value) if isinstance(value, list) else []
        if value is not None and not isinstance(value, list):
            raise MmcError(f"{key!r} is {value!r}, not a list", self.source)
        return tuple(str(each) for each in listed)

    def absent(self, key: str) -> bool:
        return self.values.get(key) is None

    def token_ids(self, key: str) -> tuple[int, ...]:
        """One id, a list of ids, or nothing."""
        value = self.values.get(key)
        listed = cast(list[object], value) if isinstance(value, list) else [value]
        ids = [] if value is None else listed
        found: list[int] = []
        for token in ids:
            if not isinstance(token, int) or isinstance(token, bool) or token < 0:
                raise MmcError(
                    f"{key!r} is {value!r}, not a token id or a list of them", self.source
                )
            found.append(token)
        return tuple(found)


_ARTICLES: dict[type, str] = {int: "a whole number", bool: "true or false", str: "a text"}
