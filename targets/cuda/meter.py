"""What a GPU tells while a model runs on it: time, memory, energy, and how fast it reads."""

from __future__ import annotations

import ctypes
import statistics
from collections.abc import Mapping
from functools import cache
from itertools import pairwise
from typing import Any, ClassVar

from mmc.targets.base import Meter
from mmc.targets.cuda.driver import Event, Memory, device
from mmc.targets.cuda.launch import INT64, POINTER, Code, launch

READ_BYTES = 4 << 30
READS = 5
BLOCKS_PER_PROCESSOR, THREADS = 2, 1024
"""What read fastest on an H100, of 1 or 2 blocks of 256 to 1024 threads."""


class CudaMeter(Meter):
    """resident: bytes that stay taken, of the device unless said, by what they are for."""

    clock: ClassVar[str] = "wall"

    def __init__(self, code: Code, resident: Mapping[str, int]) -> None:
        self._code, self._resident = code, resident

    def read_limit(self) -> float:
        """Bytes a second over memory that no cache holds, which is given back then."""
        limit = self._read()
        device().synchronize()  # here, not in what is timed next
        return limit

    def _read(self) -> float:
        size = min(READ_BYTES, device().free_bytes() // 2) & -4096
        data, blocks = Memory(size), BLOCKS_PER_PROCESSOR * device().processors
        sums = Memory(4 * blocks * THREADS)
        data.fill(0x9E3779B9)
        given = [(data.address, POINTER), (size // 16, INT64), (sums.address, POINTER)]
        points = [Event()]
        for _ in range(READS + 1):  # the first one warms up
            launch(self._code.kernel("mmc_read"), blocks, THREADS, given)
            points.append(Event())
        points[-1].wait()
        times = [b.seconds_since(a) for a, b in pairwise(points[1:])]
        return size / statistics.median(times)

    def memory(self) -> dict[str, int]:
        """What stays taken, and the most that was taken at a time; without the driver's own."""
        return {**self._resident, "peak device": device().most_allocated}

    def joules(self) -> float | str:
        """The board's energy since the driver was loaded; why not, where there is no counter."""
        return joules(device().bus)


@cache
def _library() -> Any:
    """NVIDIA's management library, ready; None where there is none."""
    try:
        library = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return None
    return library if library.nvmlInit_v2() == 0 else None


def joules(bus: str) -> float | str:
    """The energy counter of the GPU at a PCI address, which counts millijoules."""
    library = _library()
    if library is None:
        return "there is no libnvidia-ml.so.1 that works"
    handle, energy = ctypes.c_void_p(), ctypes.c_ulonglong()
    if library.nvmlDeviceGetHandleByPciBusId_v2(bus.encode(), ctypes.byref(handle)):
        return f"libnvidia-ml does not know the GPU at {bus}"
    if library.nvmlDeviceGetTotalEnergyConsumption(handle, ctypes.byref(energy)):
        return "the GPU has no energy counter"
    return energy.value / 1e3
