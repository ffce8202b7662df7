"""The tensors that `weight` operations name: read lazily, derived lazily, never copied twice."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np

from mmc.errors import MmcError
from mmc.ir.evaluate import value_of
from mmc.ir.op import Value
from mmc.ir.ops.source import Weight
from mmc.ir.types import TensorType

Load = Callable[[], np.ndarray]


class MissingTensor(MmcError, KeyError):
    """A graph names a tensor whose bytes nobody gave."""

    def __init__(self, name: str) -> None:
        super().__init__("its values are needed here and were not given", f"weight {name}")


class Tensors(Mapping[str, np.ndarray]):
    """Name to array; only ever grows: a graph from before a pass still finds its tensors.

    A tensor is a loader (its bytes stay in the file), a recipe (a value over other weights, run by
    the interpreter when it is asked for), or an array.
    """

    def __init__(self) -> None:
        self._load: dict[str, Load] = {}
        self._recipes: dict[str, Value] = {}

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self._load:
            raise MissingTensor(name)
        return self._load[name]()

    def __contains__(self, name: object) -> bool:
        return name in self._load

    def __iter__(self) -> Iterator[str]:
        return iter(self._load)

    def __len__(self) -> int:
        return len(self._load)

    def add(self, name: str, declared: TensorType, content: Load | Value | np.ndarray) -> Weight:
        """Name a tensor; a name that is taken gets a number.  Returns what reads it."""
        unique, n = name, 1
        while unique in self._load:
            n += 1
            unique = f"{name}.{n}"
        self._load[unique] = self._loader(content)
        if isinstance(content, Value):
            self._recipes[unique] = content
        return Weight(unique, declared)

    def recipe(self, name: str) -> Value | None:
        """The value that the tensor is computed from, if it is."""
        return self._recipes.get(name)

    def _loader(self, content: Load | Value | np.ndarray) -> Load:
        match content:
            case np.ndarray():
                return lambda: content
            case Value():
                return lambda: value_of(content, self)
            case _:
                return content
