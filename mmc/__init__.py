"""MMC, the MatMul-free compiler: trained ternary, recurrent language models for CPU, GPU and FPGA.

artifact = mmc.compile("examples/mmfree-9m", target="cpu", out="build/mmfree-9m")
model = mmc.load(artifact.path)
print(model.generate("Search backward", max_new_tokens=32))
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mmc.errors import MmcError

if TYPE_CHECKING:
    from mmc.api import compile, load
    from mmc.artifact import Artifact
    from mmc.fpga import FpgaModel
    from mmc.frontends.over_time import over_time
    from mmc.module import Module
    from mmc.runtime import Model, State

__all__ = [
    "Artifact",
    "FpgaModel",
    "MmcError",
    "Model",
    "Module",
    "State",
    "compile",
    "load",
    "over_time",
]

_HOMES = {
    "Artifact": "mmc.artifact", "FpgaModel": "mmc.fpga", "Model": "mmc.runtime",
    "Module": "mmc.module", "State": "mmc.runtime", "compile": "mmc.api", "load": "mmc.api",
    "over_time": "mmc.frontends.over_time",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    """Import the heavy parts when they are asked for: `import mmc` itself stays light."""
    from importlib import import_module

    if name == "substitutions":
        return import_module("mmc.substitutions")
    if name not in _HOMES:
        raise AttributeError(f"module 'mmc' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
