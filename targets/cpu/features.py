"""What the processor can do, and which instruction set an artefact's code uses."""

from __future__ import annotations

import functools
import os
import platform
from pathlib import Path
from typing import Literal

from mmc.errors import MmcError

Isa = Literal["avx512_vnni", "portable"]

ISA_FLAGS: dict[Isa, frozenset[str]] = {
    "avx512_vnni": frozenset({"avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni"}),
    "portable": frozenset({"avx2", "fma", "bmi2", "f16c"}),
}
"""Instruction sets, best first, and the flags of /proc/cpuinfo that each needs."""

FORCE = "MMC_CPU_ISA"
"""Environment variable that forces an instruction set, for tests."""


@functools.cache
def cpu_flags() -> frozenset[str]:
    """The flags of the first processor; empty where the system does not tell."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    flags = next((line for line in lines if line.startswith("flags")), ":")
    return frozenset(flags.split(":", 1)[1].split())


def choose_isa() -> Isa:
    """The best instruction set that this processor has; raise MmcError where it has none."""
    forced = os.environ.get(FORCE)
    allowed: list[Isa] = [isa for isa in ISA_FLAGS if forced is None or isa == forced]
    if not allowed:
        known = ", ".join(ISA_FLAGS)
        raise MmcError(f"unknown instruction set {forced!r}", FORCE, f"one of {known}")
    for isa in allowed:
        if not ISA_FLAGS[isa] - cpu_flags():
            return isa
    wanted = allowed[-1]
    missing = ", ".join(sorted(ISA_FLAGS[wanted] - cpu_flags()))
    raise MmcError(
        f"this processor lacks {missing}, which {wanted} code needs",
        "target cpu",
        "use --target reference",
    )


def processor_problems() -> list[str]:
    """Why code for x86-64 with AVX2 does not run here; empty where it does."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return [f"it makes code for x86-64, this machine is {platform.machine()}"]
    try:
        choose_isa()
    except MmcError as error:
        return [error.what]
    return []
