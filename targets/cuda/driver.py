# pyright: basic
# NVIDIA's bindings are not typed.
"""The CUDA driver, as far as it is needed: a device, its memory, launches and graphs of them.

Everything runs on one stream, in order; memory is freed when its last user is gone.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import importlib.util
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from mmc.errors import MmcError

_ALIGNMENT = 256


@functools.cache
def driver() -> Any:
    """NVIDIA's bindings of the driver."""
    return importlib.import_module("cuda.bindings.driver")


def installed(name: str) -> bool:
    """Whether a module can be imported."""
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # not even its parent
        return False


def problem() -> str | None:
    """Why no kernel can run here; None where one can."""
    if not installed("cuda.bindings"):
        return "the package cuda-bindings is not installed"
    try:
        device()
    except MmcError as error:
        return error.what
    return None


def check(answer: tuple[Any, ...]) -> Any:
    """What a call of the driver returned besides its status; MmcError where it failed."""
    status, *values = answer
    if status != driver().CUresult.CUDA_SUCCESS:
        name = getattr(status, "name", str(status)).removeprefix("CUDA_ERROR_").lower()
        hint = "use a GPU with more memory" if "memory" in name else "see `nvidia-smi`"
        raise MmcError(f"the GPU's driver says {name.replace('_', ' ')}", "cuda", hint)
    return values[0] if len(values) == 1 else tuple(values)


class Device:
    """The first GPU, with a stream."""

    def __init__(self) -> None:
        cu = driver()
        try:
            check(cu.cuInit(0))
        except RuntimeError as error:  # the bindings find no library
            raise MmcError("there is no NVIDIA driver (libcuda.so.1)", "cuda") from error
        if check(cu.cuDeviceGetCount()) == 0:
            raise MmcError("there is no GPU", "cuda")
        self.handle = check(cu.cuDeviceGet(0))
        check(cu.cuCtxSetCurrent(check(cu.cuDevicePrimaryCtxRetain(self.handle))))
        self.stream = check(cu.cuStreamCreate(int(cu.CUstream_flags.CU_STREAM_NON_BLOCKING)))
        self.name = check(cu.cuDeviceGetName(128, self.handle)).split(b"\0")[0].decode()
        major = cu.CUdevice_attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR
        minor = cu.CUdevice_attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR
        self.capability = tuple(
            check(cu.cuDeviceGetAttribute(a, self.handle)) for a in (major, minor)
        )

    def synchronize(self) -> None:
        """Wait until the stream is empty."""
        check(driver().cuStreamSynchronize(self.stream))


@functools.cache
def device() -> Device:
    """The GPU that everything runs on; MmcError where there is none."""
    return Device()


class Memory:
    """Bytes on the device."""

    def __init__(self, size: int) -> None:
        cu = driver()
        self.size = size
        self.address = int(check(cu.cuMemAllocAsync(max(size, _ALIGNMENT), device().stream)))
        weakref.finalize(self, _free, self.address)

    def write(self, offset: int, array: np.ndarray) -> None:
        """Copy a contiguous array to the device."""
        source = array.ctypes.data
        check(
            driver().cuMemcpyHtoDAsync(self.address + offset, source, array.nbytes, device().stream)
        )

    def read(self, offset: int, array: np.ndarray) -> None:
        """Copy from the device into a contiguous array, and wait for it."""
        target = array.ctypes.data
        check(
            driver().cuMemcpyDtoHAsync(target, self.address + offset, array.nbytes, device().stream)
        )
        device().synchronize()

    def copy(self, offset: int, source: Memory, start: int, size: int) -> None:
        """Copy from other memory of the device."""
        to, begin = self.address + offset, source.address + start
        check(driver().cuMemcpyDtoDAsync(to, begin, size, device().stream))


def _free(address: int) -> None:
    driver().cuMemFreeAsync(address, device().stream)


class Code:
    """Loaded device code."""

    def __init__(self, image: bytes) -> None:
        self._module = check(driver().cuModuleLoadData(image))
        self._functions: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        """A kernel by name."""
        if name not in self._functions:
            self._functions[name] = check(driver().cuModuleGetFunction(self._module, name.encode()))
        return self._functions[name]


def launch(function: Any, blocks: int, threads: int, arguments: Sequence[tuple[int, Any]]) -> None:
    """Put a launch on the stream; arguments with their ctypes types."""
    values, types = zip(*arguments, strict=True)
    grid = blocks, 1, 1, threads, 1, 1
    check(driver().cuLaunchKernel(function, *grid, 0, device().stream, (values, types), 0))


class Recorded:
    """Launches that were recorded once, and run as one."""

    def __init__(self, record: Callable[[], None]) -> None:
        cu = driver()
        stream = device().stream
        mode = cu.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        check(cu.cuStreamBeginCapture(stream, mode))
        try:
            record()
        finally:
            graph = check(cu.cuStreamEndCapture(stream))
        self._executable = check(cu.cuGraphInstantiate(graph, 0))
        check(cu.cuGraphDestroy(graph))
        weakref.finalize(self, cu.cuGraphExecDestroy, self._executable)

    def __call__(self) -> None:
        check(driver().cuGraphLaunch(self._executable, device().stream))


POINTER, INT64, INT32 = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int32
