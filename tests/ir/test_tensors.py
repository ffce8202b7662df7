"""Tensors: loaded and derived when they are asked for, under names that are never taken twice."""

from __future__ import annotations

import numpy as np
import pytest

from mmc.ir.ops.pointwise import Mul, Neg
from mmc.ir.ops.source import Weight, scalar
from mmc.ir.tensors import Tensors
from mmc.ir.types import DType, TensorType

F32 = TensorType(DType.F32, (2,))


def test_an_array_a_loader_and_a_recipe() -> None:
    tensors, loads = Tensors(), list[str]()

    def load() -> np.ndarray:
        loads.append("read")
        return np.array([1, 2], np.float32)

    array = np.array([5, 6], np.float32)
    w = tensors.add("w", F32, load)
    twice = tensors.add("twice", F32, Mul(w, scalar(2.0)))
    minus = tensors.add("minus", F32, Neg(twice))
    tensors.add("array", F32, array)
    assert loads == []  # nothing is read before somebody asks
    assert tensors["minus"].tolist() == [-2, -4]
    assert loads == ["read"]
    assert tensors["array"] is array
    assert list(tensors) == ["w", "twice", "minus", "array"]
    assert len(tensors) == 4
    assert w is Weight("w", F32)
    assert minus.type == F32


def test_a_name_that_is_taken_gets_a_number() -> None:
    tensors = Tensors()
    arrays = [np.full(2, n, np.float32) for n in range(4)]
    names = [tensors.add("w", F32, array).name for array in arrays[:2]]
    names += [tensors.add("w.2", F32, arrays[2]).name, tensors.add("w", F32, arrays[3]).name]
    assert names == ["w", "w.2", "w.2.2", "w.3"]
    assert [tensors[name][0] for name in names] == [0, 1, 2, 3]


def test_an_unknown_name_is_an_error() -> None:
    with pytest.raises(KeyError):
        _ = Tensors()["nothing"]
    assert "nothing" not in Tensors()
