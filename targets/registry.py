"""Every target by name; its package is imported when it is asked for."""

from __future__ import annotations

import importlib

from mmc.errors import MmcError
from mmc.targets.base import Target

TARGETS: dict[str, str] = {
    "cpu": "mmc.targets.cpu.target",
    "cuda": "mmc.targets.cuda.target",
    "fpga": "mmc.targets.fpga.target",
    "reference": "mmc.targets.reference",
}
"""Name to the module that holds its `TARGET`."""


def load_target(name: str) -> Target:
    """The target of that name; raise MmcError where there is none."""
    if name not in TARGETS:
        raise MmcError(f"unknown target {name!r}", hint=f"one of {', '.join(TARGETS)}")
    return importlib.import_module(TARGETS[name]).TARGET
