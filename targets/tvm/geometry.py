"""A plan with numbers for its sizes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate
from math import prod
from operator import mul
from typing import Any

import numpy as np

from mmc.ir.op import Value
from mmc.ir.types import static_shape
from mmc.targets.tvm.plan import Plan, storage_type, symbols_of


@dataclass(frozen=True)
class Place:
    """Where a value lies in an arena; its rows may be further apart than they are long."""

    arena: str
    start: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    strides: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of the elements."""
        return prod(self.shape) * self.dtype.itemsize

    @property
    def span(self) -> int:
        """Bytes from the first element to the end of the last."""
        steps = sum((n - 1) * stride for n, stride in zip(self.shape, self.strides, strict=True))
        return steps + self.dtype.itemsize if self.nbytes else 0

    @property
    def extent(self) -> int:
        """Bytes from the first element to the end of the last row, with what lies behind it."""
        return self.strides[0] * self.shape[0] if self.shape else self.dtype.itemsize

    def reshaped(self, shape: tuple[int, ...]) -> Place:
        """The same elements, which lie side by side, in another shape."""
        strides = tuple(accumulate((self.dtype.itemsize, *reversed(shape)), mul))[-2::-1]
        return Place(self.arena, self.start, shape, self.dtype, strides)

    def array(self, memory: Mapping[str, np.ndarray]) -> np.ndarray:
        """The value; a view."""
        return np.ndarray(self.shape, self.dtype, memory[self.arena], self.start, self.strides)


class Geometry:
    """A plan with numbers for its sizes: where each value lies, worked out once."""

    def __init__(self, plan: Plan, symbols: Mapping[str, int]) -> None:
        self.plan, self.symbols = plan, symbols
        self.sizes = tuple(symbols[name] for name in symbols_of(plan.graph))
        self.offsets = {name: arena.offsets(symbols) for name, arena in plan.arenas.items()}
        self.arena_bytes = {name: offsets[-1] for name, offsets in self.offsets.items()}
        self._places: dict[Value, Place] = {}
        self._shapes: dict[Value, tuple[int, ...]] = {}

    def place(self, value: Value) -> Place:
        """The place of a value that is neither a weight nor a reshape."""
        if value not in self._places:
            location = self.plan.locations[value]
            start = self.offsets[location.arena][location.slot]
            stored = storage_type(value.type).bind(self.symbols)
            dtype = stored.dtype.numpy
            sizes = (dtype.itemsize, *reversed(static_shape(stored.shape)))
            strides = tuple(accumulate(sizes, mul))[-2::-1]
            self._places[value] = Place(location.arena, start, self.shape(value), dtype, strides)
        return self._places[value]

    def shape(self, value: Value) -> tuple[int, ...]:
        """The shape of a value in numbers."""
        if value not in self._shapes:
            self._shapes[value] = static_shape(value.type.bind(self.symbols).shape)
        return self._shapes[value]
