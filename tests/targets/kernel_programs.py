"""Kernels alone: a program that has an entry for each, and memory to call them with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import tvm

from mmc.targets.tvm import host, loader

AVX512 = tvm.target.Target({"kind": "llvm", "mcpu": "icelake-server"})


def program_of(kernels: Mapping[str, host.Kernel], target: Any = AVX512) -> loader.Program:
    """One object file; an entry takes what its kernel does, the pointers first."""
    entries: list[host.Entry] = []
    for name, kernel in kernels.items():
        pointers = [p for p, kind in kernel.parameters.items() if kind.endswith("*")]
        tensors = tuple(host.Tensor(p, 0) for p in pointers)
        sizes = tuple(host.size_variable(p) for p in kernel.parameters if p not in pointers)
        call = host.KernelCall(kernel, (*(t.at() for t in tensors), *sizes))
        entries.append(host.Entry(name, tensors, sizes, (call,)))
    return loader.Program(host.build(entries, target))


def aligned(array: np.ndarray) -> np.ndarray:
    """A copy that starts where kernels may read whole vectors."""
    memory = loader.aligned_zeros(array.nbytes)
    memory[:] = array.reshape(-1).view(np.uint8)
    return memory.view(array.dtype).reshape(array.shape)
