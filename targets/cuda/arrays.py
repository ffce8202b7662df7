"""Arrays that stay on the device, and those of others that lie there."""

from __future__ import annotations

from typing import Any

import numpy as np

from mmc.targets.cuda.dlpack import DEVICE, exported
from mmc.targets.cuda.driver import Memory, device
from mmc.targets.tvm.geometry import Place


class Window:
    """Memory that a call wrote: while somebody holds it, no other call writes there."""

    __slots__ = ("__weakref__", "memory")

    def __init__(self, memory: Memory) -> None:
        self.memory = memory


class DeviceArray:
    """An array on the device; numpy sees a copy, and what speaks DLPack the memory itself.

    Nobody may write to a state there: calls that follow read it.
    """

    __slots__ = ("place", "window")

    def __init__(self, window: Window, place: Place) -> None:
        self.window, self.place = window, place

    @property
    def shape(self) -> tuple[int, ...]:
        return self.place.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.place.dtype

    @property
    def nbytes(self) -> int:
        return self.place.nbytes

    @property
    def address(self) -> int:
        """Of the first element."""
        return self.window.memory.address + self.place.start

    def __len__(self) -> int:
        return self.shape[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        raw = np.empty(self.place.span, np.uint8)
        self.window.memory.read(self.place.start, raw)
        place = Place("", 0, self.place.shape, self.place.dtype, self.place.strides)
        return place.array({"": raw}).astype(dtype or self.place.dtype, copy=False)

    def __dlpack_device__(self) -> tuple[int, int]:
        return DEVICE

    def __dlpack__(self, *, stream: int | None = None, **_: Any) -> Any:
        """A capsule; what is put on `stream` from now on finds the array as it is."""
        reader = None if stream in (None, -1) else stream
        if reader is not None:
            device().before(reader)
        return exported(self, self.address, self.place, reader)


def address_of(array: Any) -> int | None:
    """Where an array lies on the device, rows side by side; None for one on the host."""
    if isinstance(array, DeviceArray):
        return array.address
    described = getattr(array, "__cuda_array_interface__", None)
    return None if described is None else described["data"][0]
