"""What was measured to be fastest on a GPU: forms of the products, and the plan of a token.

`mmc tune` makes it, on a machine with a GPU.  `mmc compile --tuning FILE` takes it, anywhere: a
form changes no sum, so what was measured for one GPU is right on every other.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias, cast

from mmc.errors import MmcError

FORMAT = 1
FILE = "tuning.json"

ROW_BYTES, TILE_BYTES, COUNTER_BYTES = 128, 512, 16
"""Bytes of a row of q, of a tile of weights, and of the counters of a stage (stage.cuh)."""

MOST_SHARED = 99 << 10
"""Bytes of shared memory that a block may have on every GPU from Ampere on."""

COPY_WARPS = 4


@dataclass(frozen=True)
class Dots:
    """dp4a: a block for each tile of 16 rows of weights and each row of q, with so many warps."""

    warps: int

    tiles, rows, shared = 1, 1, 0


@dataclass(frozen=True)
class ByWarps:
    """`multiply_by_warps`: each warp of a block has columns of its own."""

    tiles: int
    rows: int
    warps: int
    stages: int

    @property
    def shared(self) -> int:
        return self.warps * self.stages * (self.rows * ROW_BYTES + self.tiles * TILE_BYTES)


@dataclass(frozen=True)
class ByBlock:
    """`multiply_by_block`: 4 warps of each group have a tile each, 4 more warps copy."""

    groups: int
    rows: int
    stages: int
    resident: int
    registers: int = 0

    @property
    def tiles(self) -> int:
        return 4 * self.groups

    @property
    def warps(self) -> int:
        return self.tiles + COPY_WARPS

    @property
    def shared(self) -> int:
        return self.stages * (self.rows * ROW_BYTES + self.tiles * TILE_BYTES + COUNTER_BYTES)


Form: TypeAlias = Dots | ByWarps | ByBlock
_FORMS: Mapping[str, type[Form]] = {form.__name__: form for form in (Dots, ByWarps, ByBlock)}

_SOME = [ByWarps(t, 8, w, s) for t in (1, 2, 3) for w in (4, 8) for s in (2, 4, 6)]
_SEVERAL = [
    *(ByWarps(t, 32, w, s) for t in (1, 2, 3) for w in (4, 8) for s in (2, 4)),
    *(ByBlock(g, 32, s, resident=r) for g in (1, 2, 4) for s in (4, 8) for r in (1, 2)),
]
_MANY: list[Form] = [
    *(ByBlock(1, 128, s, resident=r) for s in (3, 4, 5) for r in (1, 2)),
    *(ByBlock(2, 128, s, resident=1) for s in (3, 4, 5)),
    ByBlock(4, 128, 4, resident=1, registers=112),
]

FORMS: Mapping[str, tuple[Form, ...]] = {
    name: tuple(form for form in forms if form.shared <= MOST_SHARED)
    for name, forms in {
        "few": [Dots(w) for w in (1, 2, 4, 8)],
        "some": _SOME, "several": _SEVERAL, "many": _MANY, "most": _MANY,
    }.items()
}  # fmt: skip
"""What each kind of product (products.py) may be, by the name of the kind."""

Plan: TypeAlias = Literal["one launch", "launches"]


@dataclass(frozen=True)
class Tuning:
    """The choices of a measurement; where there is none, rules choose.

    device: where it was measured.  products: by kind, rows and columns ("some 5632 x 2048").
    token: how the step of one sequence runs.
    """

    device: str = ""
    products: Mapping[str, Form] = field(default_factory=dict[str, Form])
    token: Plan = "one launch"


def key(kind: str, n: int, k: int) -> str:
    """The name of a product of a kind with a matrix of n rows and k columns."""
    return f"{kind} {n} x {k}"


def to_json(tuning: Tuning) -> str:
    """The same text for the same choices."""
    forms = {name: {type(form).__name__: asdict(form)} for name, form in tuning.products.items()}
    record = {
        "format": FORMAT, "device": tuning.device, "token": tuning.token, "products": forms,
    }  # fmt: skip
    return json.dumps(record, indent=1, sort_keys=True) + "\n"


def read(path: Path) -> Tuning:
    """What `to_json` wrote; MmcError for anything else."""
    try:
        record = cast(dict[str, Any], json.loads(path.read_text()))
        if record["format"] != FORMAT or record["token"] not in ("one launch", "launches"):
            raise ValueError(f"its format is not {FORMAT}")
        products = {name: _form(name, form) for name, form in record["products"].items()}
        return Tuning(str(record["device"]), products, record["token"])
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise MmcError(
            f"is no tuning: {error}", str(path), "make one with `mmc tune` on a GPU"
        ) from None


def _form(name: str, record: Mapping[str, Mapping[str, int]]) -> Form:
    ((form, sizes),) = record.items()
    made = _FORMS[form](**sizes)
    if made not in FORMS[name.partition(" ")[0]]:
        raise ValueError(f"{made} is no form of {name!r}")
    return made
