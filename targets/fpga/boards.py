"""FPGA boards as data: what a board has, where each figure comes from."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from mmc.errors import MmcError

BLOCK_BITS, LARGE_BLOCK_BITS = 36_864, 294_912
"""Bits of a block RAM and of an UltraRAM."""

FOLDER = Path(__file__).with_name("boards")


@dataclass(frozen=True)
class Board:
    """Resources and memory of a board."""

    name: str
    title: str
    device: str
    lut: int
    """Look-up tables; an ALM of Intel counts as two."""
    ff: int
    bram36: int
    """Blocks of 36 kbit; two of 18 kbit count as one."""
    uram: int
    """Blocks of 288 kbit."""
    dsp: int
    memory_ports: int
    """Ports that a design can read through at the same time."""
    port_gbps: float
    """One of them, at its peak."""
    memory_gbps: float
    """All together, at their peak."""
    memory_gigabytes: float
    memory_efficiency: float
    """The part of the peak that long sequential reads reach."""
    clock_mhz: float
    source: Mapping[str, str]
    """Where the figures come from: "logic", "memory", "ports", "clock", "efficiency"."""

    def bytes_per_second(self, ports: int) -> float:
        """What sequential reads get through so many ports."""
        return min(self.memory_gbps, ports * self.port_gbps) * 1e9 * self.memory_efficiency

    @property
    def memory_bits(self) -> int:
        """Block RAM and UltraRAM."""
        return self.bram36 * BLOCK_BITS + self.uram * LARGE_BLOCK_BITS


def board_names() -> list[str]:
    """Every board that comes with MMC."""
    return sorted(path.stem for path in FOLDER.glob("*.toml") if path.stem != "template")


def load_board(name: str) -> Board:
    """A board by its name, or by the path of a .toml file like boards/template.toml."""
    path = Path(name) if name.endswith(".toml") else FOLDER / f"{name}.toml"
    if not path.is_file():
        hint = f"one of {', '.join(board_names())}, or the path of a .toml file like {FOLDER.name}/"
        raise MmcError(f"unknown board {name!r}", "--board", f"{hint}template.toml")
    try:
        record = tomllib.loads(path.read_text())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise MmcError(f"is not TOML: {error}", str(path)) from None
    return _board(record, str(path))


def _board(record: Mapping[str, Any], where: str) -> Board:
    known = {field.name: field.type for field in fields(Board)}
    if wrong := sorted(known.keys() ^ record.keys()):
        raise MmcError(f"lacks or does not know {', '.join(wrong)}", where)
    for name, kind in known.items():
        value = record[name]
        fits = {
            "str": isinstance(value, str) and value != "",
            "Mapping[str, str]": isinstance(value, dict),
        }.get(str(kind), isinstance(value, int | float) and not isinstance(value, bool))
        if not fits:
            raise MmcError(f"{name} is {value!r}", where, f"it must be {kind}")
        if isinstance(value, int | float) and (value < 0 or (value == 0 and name not in MAY_LACK)):
            raise MmcError(f"{name} is {value}", where, "it must be positive")
    return Board(**record)


MAY_LACK = ("uram", "dsp")
"""Resources that a board may have none of."""
