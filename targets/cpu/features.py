"""What the processor can do, and which instruction set an artefact's code uses."""

from __future__ import annotations

import functools
import os
import platform
from pathlib import Path
from typing import Literal

from mmc.errors import MmcError

Isa = Literal["avx512_vnni", "avx_vnni", "avx2", "portable"]

_AVX2 = frozenset({
    "pni", "ssse3", "sse4_1", "sse4_2", "popcnt", "avx", "avx2", "bmi1", "bmi2", "abm", "movbe",
    "f16c", "fma",
})  # fmt: skip
_AVX512 = frozenset({
    "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl", "avx512vbmi",
})  # fmt: skip

ISA_FLAGS: dict[Isa, frozenset[str]] = {
    "avx512_vnni": _AVX2 | _AVX512 | {"avx512_vnni"},
    "avx_vnni": _AVX2 | {"avx_vnni"},
    "avx2": _AVX2,
    "portable": frozenset(),
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
    """The best instruction set that this processor has; raise MmcError where it is forced away."""
    forced = os.environ.get(FORCE)
    if forced is None:
        return best_isa(cpu_flags())
    if forced not in ISA_FLAGS:
        raise MmcError(
            f"unknown instruction set {forced!r}", FORCE, f"one of {', '.join(ISA_FLAGS)}"
        )
    require_flags(ISA_FLAGS[forced], f"{FORCE}={forced}", FORCE, f"unset {FORCE}")
    return forced


def best_isa(flags: frozenset[str]) -> Isa:
    """The best instruction set for a processor with these flags."""
    return next(isa for isa, needed in ISA_FLAGS.items() if needed <= flags)


def require_flags(needed: frozenset[str], what: str, where: str, hint: str) -> None:
    """Raise MmcError where this processor lacks a flag that `what` needs."""
    if missing := sorted(needed - cpu_flags()):
        raise MmcError(
            f"this processor lacks {', '.join(missing)}, which {what} needs", where, hint
        )


def require_only(mcpu: str, needed: frozenset[str]) -> None:
    """Raise MmcError where an artefact that was compiled for one processor does not run here."""
    if FORCE in os.environ:
        raise MmcError(f"the artefact holds code for {mcpu} alone", FORCE, f"unset {FORCE}")
    hint = "compile without --mcpu, or with --mcpu native"
    require_flags(needed, f"code for {mcpu}", f"lib/{mcpu}.o", hint)


def processor_problems() -> list[str]:
    """Why code for x86-64 with AVX2 does not run here; empty where it does."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return [f"it makes code for x86-64, this machine is {platform.machine()}"]
    try:
        choose_isa()
    except MmcError as error:
        return [error.what]
    return []
