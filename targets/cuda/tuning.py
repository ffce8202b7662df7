"""What was measured to be fastest on a GPU: forms of the products, and the plan of a token.

`mmc tune` makes it, on a machine with a GPU.  `mmc compile --tuning FILE` takes it, anywhere: a
form changes no sum, so what was measured for one GPU is right on every other.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias, cast

from mmc.errors import MmcError

FORMAT = 1
FILE = "tuning.json"

ROW_BYTES, TILE_BYTES, COUNTER_BYTES = {4: 128, 5: 176}, 512, 16
"""Bytes of a row of q by words of a vector, of a tile of weights, and of the counters of a stage
(stage.cuh)."""

MOST_SHARED = 99 << 10
"""Bytes of shared memory that a block may have on every GPU from Ampere on."""

COPY_WARPS = 4


@dataclass(frozen=True)
class Few:
    """`multiply_few`: a block for each tile of 16 rows of weights; its warps share the columns."""

    rows: int
    warps: int

    tiles = 1

    def shared(self, words: int) -> int:
        """Bytes of shared memory besides what the kernel declares, by words of a vector."""
        return 0


@dataclass(frozen=True)
class ByWarps:
    """`multiply_by_warps`: each warp of a block has columns of its own."""

    tiles: int
    rows: int
    warps: int
    stages: int

    def shared(self, words: int) -> int:
        stage = self.rows * ROW_BYTES[words] + self.tiles * TILE_BYTES
        return self.warps * self.stages * stage


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

    def shared(self, words: int) -> int:
        stage = self.rows * ROW_BYTES[words] + self.tiles * TILE_BYTES + COUNTER_BYTES
        return self.stages * stage


Form: TypeAlias = Few | ByWarps | ByBlock
_FORMS: Mapping[str, type[Form]] = {form.__name__: form for form in (Few, ByWarps, ByBlock)}

_SOME = [ByWarps(t, 8, w, s) for t in (1, 2, 3, 4) for w in (4, 8) for s in (2, 4, 6)]
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
    name: tuple(form for form in forms if form.shared(4) <= MOST_SHARED)
    for name, forms in {
        "few": [Few(1, w) for w in (2, 4, 8, 16)], "two": [Few(2, w) for w in (2, 4, 8)],
        "some": _SOME, "several": _SEVERAL, "many": _MANY, "hundreds": _MANY, "most": _MANY,
    }.items()
}  # fmt: skip
"""What each kind of product (products.py) may be, by the name of the kind."""


def fitting(form: Form, words: int) -> Form:
    """The form with as many stages as a block has memory for, and with fewer warps before one."""
    while form.shared(words) > MOST_SHARED and not isinstance(form, Few):
        if isinstance(form, ByWarps) and form.stages == 2:
            form = replace(form, warps=form.warps // 2, stages=4)
        else:
            form = replace(form, stages=form.stages - 1)
    return form


Plan: TypeAlias = Literal["one launch", "launches"]


@dataclass(frozen=True)
class Tuning:
    """The choices of a measurement; where there is none, rules choose.

    device: where it was measured.  products: by kind and matrix ("some 5632 x 2048 2bit").
    token: how the step of one sequence runs.
    """

    device: str = ""
    products: Mapping[str, Form] = field(default_factory=dict[str, Form])
    token: Plan = "one launch"


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
    known = FORMS[name.partition(" ")[0]]
    if made not in {fitting(form, words) for form in known for words in ROW_BYTES}:
        raise ValueError(f"{made} is no form of {name!r}")
    return made
