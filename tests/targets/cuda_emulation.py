"""CUDA's kernels where there is no GPU: their source, compiled for the CPU (`cuda_threads.hpp`).

A function of the headers that is written in PTX loses its body, and gets another one in
`cuda_device.hpp`; all others are compiled as they are.
"""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from mmc.targets.cuda import code
from tests.folders import workspace
from tests.targets.test_cuda_build import parameters

HERE = Path(__file__).parent
HEADERS = "device", "barrier", "digits", "tile", "supply", "persistent", "tiles"
"""Those that are compiled; the others are products on tensor cores, in PTX."""

emulated = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")


def emulated_launches(name: str, text: str, kernels: Sequence[str], together: bool) -> ctypes.CDLL:
    """A library with `run_NAME(grid, the kernel's parameters)` for each kernel of a CUDA source.

    together: its blocks are there at once, each in a thread of the system.  `hazards()` counts what
    threads do to the same element of shared memory without a barrier between (`cuda_shared.hpp`).
    """
    made = [f'#include "{HERE / name}.hpp"' for name in ("cuda_threads", "cuda_shared")]
    made += map(_header, HEADERS)
    made.append(f'#include "{HERE / "cuda_device.hpp"}"')
    for each in kernels:
        made += [_kernel(text, each), _launch(text, each, together)]
    source = workspace() / f"{name}.cpp"
    source.write_text("\n".join(made))
    library = source.with_suffix(".so")
    subprocess.run(
        ["g++", "-std=c++17", "-O1", "-ffp-contract=off", "-shared", "-fPIC", "-w", "-pthread",
         source, "-o", library],
        check=True,
    )  # fmt: skip
    return ctypes.CDLL(str(library))


def _header(name: str) -> str:
    return without_ptx(Path(code.__file__).with_name(f"{name}.cuh").read_text())


def _kernel(text: str, name: str) -> str:
    """The definition of a kernel."""
    (match,) = re.finditer(rf'extern "C" __global__ void [^;{{]*\b{name}_kernel\([^;{{]*\{{', text)
    found = text[match.start() : _end_of_block(text, match.end())]
    floats = r"__shared__ alignas\(\d+\) float (\w+)\[(\d+)\];"
    return re.sub(floats, r"static thread_local threads::Shared<float, \2> \1;", found)


def _launch(text: str, name: str, together: bool) -> str:
    threads, taken = parameters(text)[name]
    names = ", ".join(parameter.split()[-1] for parameter in taken)
    call = f"[=] {{ {name}_kernel({names}); }}"
    run = f"threads::run(grid, {threads}, {str(together).lower()}, {call});"
    return f'extern "C" void run_{name}(int grid, {", ".join(taken)}) {{ {run} }}'


def without_ptx(text: str) -> str:
    """The text in which functions with PTX are only declared."""
    kept, begin = list[str](), 0
    for match in re.finditer(r"__device__[^;{}]*\([^;{}]*\)\s*(const\s*)?\{", text):
        end = _end_of_block(text, match.end())
        if re.search(r"\basm\b", text[match.end() : end]):
            kept += [text[begin : match.end() - 1].rstrip(), ";"]
            begin = end
    shared = r"extern __shared__ \S+ unsigned char (\w+)\[\];"
    named = r"static unsigned char* const \1_of() { return threads::shared; }\n#define \1 (\1_of())"
    return re.sub(shared, named, "".join([*kept, text[begin:]]))


def _end_of_block(text: str, begin: int) -> int:
    """Behind the brace that closes what the one before `begin` opened."""
    depth, at = 1, begin
    while depth:
        depth += {"{": 1, "}": -1}.get(text[at], 0)
        at += 1
    return at
