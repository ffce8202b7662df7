# pyright: basic
# NVIDIA's bindings are not typed.
"""Loaded device code, launches of its kernels, and graphs of them."""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Callable, Sequence
from typing import Any

from mmc.targets.cuda.driver import check, device, driver

POINTER, INT64, INT32 = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int32
"""Types of arguments."""

_USUAL_SHARED = 48 << 10
"""Bytes of shared memory that a launch may ask for unless its kernel allows for more."""


class Code:
    """Loaded device code."""

    def __init__(self, image: bytes) -> None:
        self._module = check(driver().cuModuleLoadData(image))
        self._functions: dict[str, Any] = {}

    def kernel(self, name: str, shared: int = 0) -> Any:
        """A kernel by name, ready to be launched with so many bytes of shared memory."""
        if name not in self._functions:
            self._functions[name] = check(driver().cuModuleGetFunction(self._module, name.encode()))
        if shared > _USUAL_SHARED:
            most = driver().CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
            check(driver().cuFuncSetAttribute(self._functions[name], most, shared))
        return self._functions[name]

    def can_wait(self, name: str) -> bool:
        """Whether a kernel can wait itself for launches before it: the code is for Hopper."""
        version = driver().CUfunction_attribute.CU_FUNC_ATTRIBUTE_BINARY_VERSION
        return check(driver().cuFuncGetAttribute(version, self.kernel(name))) >= 90

    def static_shared(self, name: str) -> int:
        """The bytes of shared memory that a kernel declares."""
        attribute = driver().CUfunction_attribute.CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES
        return check(driver().cuFuncGetAttribute(attribute, self.kernel(name)))


def launch(
    function: Any, blocks: int, threads: int, arguments: Sequence[tuple[int, Any]],
    shared: int = 0, *, together: bool = False, early: bool = False,
) -> None:  # fmt: skip
    """Put a launch on the stream; arguments with their ctypes types.

    together: all blocks are on the device at once, or the launch fails.  early: the launch before
    it may say when this one begins; the kernel waits itself for what it needs.
    """
    values, types = zip(*arguments, strict=True)
    given = function, blocks, 1, 1, threads, 1, 1, shared, device().stream, (values, types)
    if together:
        check(driver().cuLaunchCooperativeKernel(*given))
    elif early:
        check(driver().cuLaunchKernelEx(_early(*given[1:9]), function, given[-1], 0))
    else:
        check(driver().cuLaunchKernel(*given, 0))


def _early(*given: Any) -> Any:
    """A launch that begins when all blocks of the launch before it allow it."""
    cu = driver()
    attribute = cu.CUlaunchAttribute()
    attribute.id = cu.CUlaunchAttributeID.CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION
    value = cu.CUlaunchAttributeValue()
    value.programmaticStreamSerializationAllowed = 1
    attribute.value = value
    config = cu.CUlaunchConfig()
    names = "gridDimX", "gridDimY", "gridDimZ", "blockDimX", "blockDimY", "blockDimZ"
    for name, number in zip((*names, "sharedMemBytes", "hStream"), given, strict=True):
        setattr(config, name, number)
    config.attrs, config.numAttrs = [attribute], 1
    return config


class Recorded:
    """Launches that were recorded once, and run as one."""

    def __init__(self, record: Callable[[], None]) -> None:
        cu = driver()
        mode = cu.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        with device().capturing() as stream:
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
