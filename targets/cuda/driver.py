# pyright: basic
# NVIDIA's bindings are not typed.
"""The CUDA driver, as far as it is needed: a device, its streams and its memory.

Everything runs on one stream at a time, in order; memory is freed when its last user is gone.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import importlib.util
import weakref
from collections.abc import Generator
from contextlib import contextmanager
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
        raise MmcError(
            f"the GPU's driver says {name.replace('_', ' ')}", "cuda", "see `nvidia-smi`"
        )
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
        self._own = check(cu.cuStreamCreate(int(cu.CUstream_flags.CU_STREAM_NON_BLOCKING)))
        self.stream = self._own
        self.allocated = self.most_allocated = 0  # bytes
        self.name = check(cu.cuDeviceGetName(128, self.handle)).split(b"\0")[0].decode()
        major, minor = (
            self._attribute(f"COMPUTE_CAPABILITY_{part}") for part in ("MAJOR", "MINOR")
        )
        self.capability = major, minor
        self.processors = self._attribute("MULTIPROCESSOR_COUNT")
        self.most_shared = self._attribute("MAX_SHARED_MEMORY_PER_BLOCK_OPTIN")  # bytes
        self.bus = check(cu.cuDeviceGetPCIBusId(32, self.handle)).split(b"\0")[0].decode()

    def _attribute(self, name: str) -> int:
        attribute = getattr(driver().CUdevice_attribute, f"CU_DEVICE_ATTRIBUTE_{name}")
        return check(driver().cuDeviceGetAttribute(attribute, self.handle))

    def resident_blocks(self, function: Any, threads: int, shared: int) -> int:
        """How many blocks of a kernel are on the device at once."""
        each = driver().cuOccupancyMaxActiveBlocksPerMultiprocessor
        return self.processors * check(each(function, threads, shared))

    def synchronize(self) -> None:
        """Wait until the stream is empty."""
        check(driver().cuStreamSynchronize(self.stream))

    def free_bytes(self) -> int:
        """Memory that nobody has taken."""
        return check(driver().cuMemGetInfo())[0]

    @contextmanager
    def using(self, stream: int) -> Generator[None]:
        """Put everything on another stream, behind what was put on this one; then come back.

        stream: the driver's handle; 0 is the default stream.
        """
        cu = driver()
        before, after = self.stream, cu.CUstream(stream)
        idle = cu.CUstreamCaptureStatus.CU_STREAM_CAPTURE_STATUS_NONE
        if check(cu.cuStreamIsCapturing(after)) != idle:
            raise MmcError(
                "a stream that is being captured cannot be used", "cuda",
                "call the model outside of torch.cuda.graph: it records graphs of its own",
            )  # fmt: skip
        self.before(stream)
        self.stream = after
        try:
            yield
        finally:
            self.stream = before
            self.after(stream)

    def before(self, stream: int) -> None:
        """What is put on another stream from now on waits for what is on this one."""
        Event(self.stream).then(driver().CUstream(stream))

    def after(self, stream: int) -> None:
        """What is put on this stream from now on waits for what is on another one."""
        Event(driver().CUstream(stream)).then(self.stream)

    @contextmanager
    def capturing(self) -> Generator[Any]:
        """Launches are recorded instead of run; yields the stream."""
        before, self.stream = self.stream, self._own
        try:
            yield self._own
        finally:
            self.stream = before


@functools.cache
def device() -> Device:
    """The GPU that everything runs on; MmcError where there is none."""
    return Device()


class Event:
    """A point on a stream, behind what is on it now."""

    def __init__(self, stream: Any = None) -> None:
        cu = driver()
        self._event = check(cu.cuEventCreate(0))
        weakref.finalize(self, cu.cuEventDestroy, self._event)
        check(cu.cuEventRecord(self._event, device().stream if stream is None else stream))

    def then(self, stream: Any) -> None:
        """What is put on the other stream from now on waits for this point."""
        check(driver().cuStreamWaitEvent(stream, self._event, 0))

    def wait(self) -> None:
        """Wait until the device is there."""
        check(driver().cuEventSynchronize(self._event))

    def seconds_since(self, other: Event) -> float:
        """Time on the device between two points that it has reached."""
        return check(driver().cuEventElapsedTime(other._event, self._event)) / 1e3


class Memory:
    """Bytes on the device."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.address = _allocated(max(size, _ALIGNMENT))
        device().allocated += size
        device().most_allocated = max(device().most_allocated, device().allocated)
        weakref.finalize(self, _free, self.address, size)

    def fill(self, word: int) -> None:
        """Set every four bytes."""
        check(driver().cuMemsetD32Async(self.address, word, self.size // 4, device().stream))

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

    def copy(self, offset: int, source: int, size: int) -> None:
        """Copy from an address of the device."""
        check(driver().cuMemcpyDtoDAsync(self.address + offset, source, size, device().stream))


def _allocated(size: int) -> int:
    """The address of so many bytes; MmcError where the device has not as many."""
    status, address = driver().cuMemAllocAsync(size, device().stream)
    if status == driver().CUresult.CUDA_ERROR_OUT_OF_MEMORY:
        raise MmcError(
            f"needs {size / 2**20:.0f} MiB of the GPU's memory, of which "
            f"{device().free_bytes() / 2**20:.0f} MiB are free",
            device().name,
            "take fewer sequences or a shorter prompt at a time, or a GPU with more memory",
        )
    return int(check((status, address)))


def _free(address: int, size: int) -> None:
    device().allocated -= size
    driver().cuMemFreeAsync(address, device().stream)


class HostMemory:
    """Bytes on the host that kernels read and write; what they wrote is there behind an event."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.address = int(check(driver().cuMemHostAlloc(size, 0)))
        weakref.finalize(self, _free_host, self.address)
        memory = (ctypes.c_uint8 * size).from_address(self.address)
        self._content = np.ctypeslib.as_array(memory)

    def write(self, array: np.ndarray) -> None:
        """Copy bytes there."""
        self._content[...] = array

    def copy(self, start: int, count: int) -> np.ndarray:
        """Some of them taken for integers, int64 [count]."""
        return self._content.view(np.int64)[start : start + count].copy()


def _free_host(address: int) -> None:
    device().synchronize()
    driver().cuMemFreeHost(address)
