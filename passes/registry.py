"""Every pass by name; a pass's file is imported when it is asked for."""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from mmc.errors import MmcError
from mmc.passes.base import Pass, RulePass

PASSES: tuple[str, ...] = (
    "find-recurrence",
    "roll-up",
    "strip-ste",
    "canonicalize",
    "fold-constants",
    "find-ternary-linear",
    "find-activation-quantiser",
    "matmul-to-ternary",
    "fuse-norm-quantize",
    "share-statistics",
    "merge-projections",
    "to-fixed-point",
    "narrow-weights",
    "pack-ternary",
    "factor-norms",
    "last-position",
    "single-step",
    "fuse-kernels",
    "convert-layers",
)
"""In the order in which they run; the last one runs where it is asked for alone."""


def load_pass(name: str, options: Mapping[str, Any] | None = None) -> Pass:
    """The pass of that name with its options; raise MmcError where either is unknown."""
    if name not in PASSES:
        raise MmcError(f"unknown pass {name!r}", hint=f"one of {', '.join(PASSES)}")
    module = importlib.import_module(f"mmc.passes.{name.replace('-', '_')}")
    if not hasattr(module, "PASS"):
        if options:
            raise MmcError(f"{name} has no options", hint=f"given {', '.join(options)}")
        return RulePass(name, module.RULES, getattr(module, "leftovers", lambda _: ()))
    known = {f.name for f in fields(module.PASS)}
    if unknown := set(options or {}) - known:
        raise MmcError(
            f"{name} has no option {sorted(unknown)[0]!r}", hint=f"it has {sorted(known)}"
        )
    return module.PASS(**(options or {}))


def describe(name: str) -> tuple[str, dict[str, str]]:
    """The first line of what a pass does, and its options with their defaults."""
    module = importlib.import_module(f"mmc.passes.{name.replace('-', '_')}")
    made = load_pass(name)
    options = (
        {}
        if isinstance(made, RulePass)
        else {f.name: repr(getattr(made, f.name)) for f in _options(made)}
    )
    return (module.__doc__ or "").split("\n\n")[0].replace("\n", " "), options


def _options(made: Pass) -> tuple[Any, ...]:
    return fields(made)  # pyright: ignore[reportArgumentType]


def parse_pipeline(text: str) -> list[Pass]:
    """Read `fold-constants,pack-ternary{layout=1.6bit}`."""
    passes: list[Pass] = []
    rest = text.strip()
    while rest:
        found = re.match(r"\s*([\w-]+)\s*(?:\{([^}]*)\})?\s*(,|$)", rest)
        if found is None:
            raise MmcError(f"cannot read {rest!r}", "--passes", "write a,b{option=value}")
        passes.append(load_pass(found[1], _parse_options(found[1], found[2] or "")))
        rest = rest[found.end() :]
    return passes


def _parse_options(name: str, text: str) -> dict[str, Any]:
    options: dict[str, Any] = {}
    # A comma in a value, as in keep_attention=layers=0,3, has no option behind it.
    for part in filter(None, (p.strip() for p in re.split(r",(?=\s*\w+\s*=)", text))):
        key, equals, value = part.partition("=")
        if not equals:
            raise MmcError(f"option {part!r} has no value", name, "write option=value")
        options[key.strip()] = _typed(name, key.strip(), value.strip())
    return options


def _typed(name: str, key: str, text: str) -> Any:
    """The value in the type of the option's default."""
    default = getattr(load_pass(name), key, None)
    if isinstance(default, bool):
        if text not in ("true", "false"):
            raise MmcError(f"option {key} is true or false, not {text!r}", name)
        return text == "true"
    try:
        return type(default)(text) if default is not None else text
    except ValueError:
        raise MmcError(f"option {key} is a {type(default).__name__}, not {text!r}", name) from None
