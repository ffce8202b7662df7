# pyright: basic
"""Load an object file built by `mmc.targets.tvm.host` and run its entries on numpy arrays.

Only the TVM runtime library is loaded, not the compiler.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import importlib.util
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from mmc.targets.layout import ALIGNMENT


def _import_without_torch(name: str) -> Any:
    """Import tvm_ffi, which looks for torch to exchange tensors with it.

    We pass numpy arrays alone, and importing torch takes seconds.
    """
    absent: dict[str, ModuleType | None] = sys.modules  # pyright: ignore[reportAssignmentType]
    hide = "torch" not in sys.modules
    if hide:
        absent["torch"] = None
    try:
        return importlib.import_module(name)
    finally:
        if hide:
            del absent["torch"]


tvm_ffi = _import_without_torch("tvm_ffi")


class Program:
    """The entries of a loaded object file, by name."""

    def __init__(self, code: bytes | Path) -> None:
        """Link `code`, an object file or the path of one, into this process."""
        _load_runtime()
        import tvm_ffi_orcjit  # its symbols are found only after the runtime is loaded

        self._module = tvm_ffi_orcjit.default_session().load_module(code)
        self._entries: dict[str, Callable[..., None]] = {}

    def __getitem__(self, entry: str) -> Callable[..., None]:
        """Return an entry: it takes `as_tensor` values, then the sizes as integers.

        It raises RuntimeError where a tensor is too small, and TypeError or ValueError where an
        argument is of the wrong kind.
        """
        if entry not in self._entries:
            try:
                self._entries[entry] = self._module.get_function(entry)
            except (AttributeError, RuntimeError) as error:
                raise KeyError(f"the program has no entry {entry!r}") from error
        return self._entries[entry]


def as_tensor(array: npt.NDArray[np.generic]) -> Any:
    """Wrap the bytes of a writeable, contiguous, aligned array; nothing is copied.

    The tensor keeps the array alive.  A file is mapped with `np.memmap(path, mode="c")`: private
    pages, which count as writeable and cost nothing while nobody writes.  Raises ValueError where
    the array cannot be used as it is.
    """
    if not array.flags.c_contiguous:
        raise ValueError("the array must be contiguous")
    if not array.flags.writeable:
        raise ValueError('the array must be writeable; map a file with np.memmap(path, mode="c")')
    if array.ctypes.data % ALIGNMENT:
        raise ValueError(f"the array must start at a multiple of {ALIGNMENT} bytes")
    return tvm_ffi.from_dlpack(array.view(np.ndarray).reshape(-1).view(np.uint8))


def aligned_zeros(size: int) -> npt.NDArray[np.uint8]:
    """Make `size` zero bytes that start at a multiple of `ALIGNMENT`."""
    block = np.zeros(size + ALIGNMENT, np.uint8)
    start = -block.ctypes.data % ALIGNMENT
    return block[start:][:size]  # in two steps: an empty slice starts where its array does


def set_threads(count: int) -> None:
    """Let parallel loops that this Python thread starts use `count` threads from now on.

    May be called any number of times, before or after `Program`.  TVM keeps one pool per calling
    thread.  It cannot grow once it is made, so it is made as large as the machine, and this only
    says how many of its threads get work.  Left alone TVM makes half as many threads as there are
    CPUs and ties each, and the caller, to CPUs of its choice for good: both are turned off when the
    runtime is loaded, through TVM_NUM_THREADS and TVM_BIND_THREADS, unless the environment has
    them.

    Raises ValueError where the pool has fewer threads than `count`.
    """
    _load_runtime()
    if count < 1:
        raise ValueError(f"the number of threads must be at least 1, not {count}")
    any_core = 1
    tvm_ffi.get_global_func("runtime.config_threadpool")(any_core, count)
    used: int = tvm_ffi.get_global_func("runtime.NumThreads")()
    if used != count:
        raise ValueError(
            f"TVM's pool has {used} threads, not {count}; set TVM_NUM_THREADS before the first run"
        )


@functools.cache
def _load_runtime() -> None:
    """Load the TVM runtime so that the symbols of an object file resolve against it."""
    os.environ.setdefault("TVM_NUM_THREADS", str(os.cpu_count() or 1))
    os.environ.setdefault("TVM_BIND_THREADS", "0")
    found = importlib.util.find_spec("tvm")
    if found is None or found.origin is None:
        raise ImportError("the package apache-tvm is not installed")
    library = Path(found.origin).with_name("lib") / "libtvm_runtime.so"
    ctypes.CDLL(str(library), ctypes.RTLD_GLOBAL)
