# pyright: basic
# TVM does not type its targets.
"""Which processor code is made for: LLVM's name of it, and what it must have in /proc/cpuinfo."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass

import tvm
from tvm.target import codegen

from mmc.errors import MmcError
from mmc.targets.cpu.features import Isa, best_isa, cpu_flags

FLAG_OF: dict[str, str] = {
    "sse3": "pni", "sse4.1": "sse4_1", "sse4.2": "sse4_2", "bmi": "bmi1", "lzcnt": "abm",
    "avx512vnni": "avx512_vnni", "avx512vbmi2": "avx512_vbmi2", "avx512bitalg": "avx512_bitalg",
    "avx512vpopcntdq": "avx512_vpopcntdq", "avx512bf16": "avx512_bf16",
    "avx512fp16": "avx512_fp16", "avxvnni": "avx_vnni", "avxifma": "avx_ifma",
    "avxneconvert": "avx_ne_convert", "avxvnniint8": "avx_vnni_int8",
    "avxvnniint16": "avx_vnni_int16",
    **{
        same: same
        for same in ("ssse3", "sse4a", "popcnt", "avx", "avx2", "bmi2", "movbe", "f16c", "fma",
                     "fma4", "xop", "tbm", "gfni", "avx512f", "avx512bw", "avx512cd", "avx512dq",
                     "avx512vl", "avx512ifma", "avx512vbmi")
    },
}  # fmt: skip
"""Features by LLVM's name, and by that of /proc/cpuinfo: those whose instructions LLVM may choose.

Tuning advice and instructions that are never chosen for plain code (aes, sha, rdrnd) are left out.
"""


@dataclass(frozen=True)
class Processor:
    """An LLVM CPU, with features switched on ("+avxvnni") or off."""

    mcpu: str
    attributes: tuple[str, ...] = ()

    @property
    def target(self) -> tvm.target.Target:
        return tvm.target.Target(
            {"kind": "llvm", "mcpu": self.mcpu, "mattr": list(self.attributes)}
        )

    @property
    def flags(self) -> frozenset[str]:
        """What /proc/cpuinfo must say."""
        features: Iterable[str] = map(str, codegen.llvm_get_cpu_features(self.target))
        return frozenset(FLAG_OF[name] for name in features if name in FLAG_OF)

    @property
    def isa(self) -> Isa:
        """The kernels that suit it best."""
        return best_isa(self.flags)


PROCESSORS: dict[Isa, Processor] = {
    "avx512_vnni": Processor("cascadelake", ("+avx512vbmi",)),
    "avx_vnni": Processor("x86-64-v3", ("+avxvnni",)),
    "avx2": Processor("x86-64-v3"),
    "portable": Processor("x86-64"),
}
"""The least processor that has an instruction set."""


def processor_named(name: str) -> Processor:
    """The processor with that LLVM name, or this one ("native"); raise MmcError where it is none.

    Of this one LLVM may know features that a virtual machine hides: those are switched off.
    """
    if name == "native":
        here = Processor(codegen.llvm_get_system_cpu())
        hidden = here.flags - cpu_flags()
        return Processor(here.mcpu, tuple(f"-{f}" for f, flag in FLAG_OF.items() if flag in hidden))
    with PROCESSORS["portable"].target:
        known = sorted(map(str, codegen.llvm_get_cpu_archlist()))
    if name not in known:
        near = difflib.get_close_matches(name, known, 5, 0.4) or ["haswell", "znver4", "alderlake"]
        raise MmcError(
            f"LLVM knows no processor {name!r}",
            "--mcpu",
            f"for example {', '.join(near)} or native",
        )
    processor = Processor(name)
    if "64bit" not in map(str, codegen.llvm_get_cpu_features(processor.target)):
        raise MmcError(f"{name} is no 64 bit processor", "--mcpu", "x86-64 is the least")
    return processor
