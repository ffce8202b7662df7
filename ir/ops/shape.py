"""Moving elements without changing them."""

from __future__ import annotations

import numpy as np

from mmc.ir.op import Op, Value
from mmc.ir.types import Dim, DType, Shape, TensorType, broadcast, numel, static_shape


class Reshape(Op, mnemonic="reshape"):
    """The same elements in row-major order under another shape."""

    x: Value
    shape: Shape

    def infer(self) -> TensorType:
        x = self.x.type
        same = numel(x.shape) == numel(self.shape)
        self.require(same, f"{x} does not have the elements of {list(map(str, self.shape))}")
        return x.with_shape(self.shape)

    def reference(self, x: np.ndarray) -> np.ndarray:
        return x.reshape(static_shape(self.shape))


class Permute(Op, mnemonic="permute"):
    """Axis i of the result is axis order[i] of x."""

    x: Value
    order: tuple[int, ...]

    def infer(self) -> TensorType:
        x = self.x.type
        self.require(
            sorted(self.order) == list(range(x.rank)), f"{self.order} does not permute {x}"
        )
        return x.with_shape(tuple(x.shape[i] for i in self.order))

    def reference(self, x: np.ndarray) -> np.ndarray:
        return x.transpose(self.order)


class Expand(Op, mnemonic="expand"):
    """Axes of length 1, and missing leading axes, are repeated to the shape."""

    x: Value
    shape: Shape

    def infer(self) -> TensorType:
        x = self.x.type
        self.require(broadcast(x.shape, self.shape) == self.shape, f"{x} does not expand")
        return x.with_shape(self.shape)

    def reference(self, x: np.ndarray) -> np.ndarray:
        return np.broadcast_to(x, static_shape(self.shape))


class Slice(Op, mnemonic="slice"):
    """`length` elements of one axis from `start` on, every `step`-th."""

    x: Value
    axis: int
    start: Dim
    length: Dim
    step: int = 1

    @property
    def positionwise(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.axis == -1 or self.axis >= 2

    def infer(self) -> TensorType:
        x = self.x.type
        self.require(-x.rank <= self.axis < x.rank, f"no axis {self.axis} in {x}")
        axis = self.axis % x.rank
        ints = (self.start, self.length, x.shape[axis])
        if all(isinstance(i, int) for i in ints):
            start, length, full = static_shape(ints)
            last = start + (length - 1) * self.step
            self.require(
                length >= 0 and start >= 0, f"start {start} or length {length} is negative"
            )
            self.require(
                length == 0 or last < full, f"element {last} of axis {axis} is outside {x}"
            )
        return x.with_shape((*x.shape[:axis], self.length, *x.shape[axis + 1 :]))

    def reference(self, x: np.ndarray) -> np.ndarray:
        start, length = static_shape((self.start, self.length))
        index: list[slice] = [slice(None)] * x.ndim
        index[self.axis] = slice(start, start + length * self.step, self.step)
        return x[tuple(index)]


class Concat(Op, mnemonic="concat"):
    """The operands one after the other along one axis."""

    parts: tuple[Value, ...]
    axis: int

    def infer(self) -> TensorType:
        self.require(bool(self.parts), "needs an operand")
        first = self.parts[0].type
        self.require(-first.rank <= self.axis < first.rank, f"no axis {self.axis} in {first}")
        axis = self.axis % first.rank
        total: Dim = 0
        for part in self.parts:
            shape = part.type.shape
            rest = (*shape[:axis], *shape[axis + 1 :])
            fits = rest == (*first.shape[:axis], *first.shape[axis + 1 :])
            self.require(
                fits and part.type.dtype is first.dtype, f"{part.type} does not follow {first}"
            )
            total = total + shape[axis]
        return first.with_shape((*first.shape[:axis], total, *first.shape[axis + 1 :]))

    def reference(self, *parts: np.ndarray) -> np.ndarray:
        return np.concatenate(parts, self.axis)


class Pad(Op, mnemonic="pad"):
    """One axis grows by `before` and `after` elements of `value`."""

    x: Value
    axis: int
    before: int
    after: int
    value: float | int = 0

    def infer(self) -> TensorType:
        x = self.x.type
        self.require(-x.rank <= self.axis < x.rank, f"no axis {self.axis} in {x}")
        self.require(self.before >= 0 and self.after >= 0, "cannot pad by a negative number")
        axis = self.axis % x.rank
        grown = x.shape[axis] + (self.before + self.after)
        return x.with_shape((*x.shape[:axis], grown, *x.shape[axis + 1 :]))

    def reference(self, x: np.ndarray) -> np.ndarray:
        widths = [(0, 0)] * x.ndim
        widths[self.axis] = (self.before, self.after)
        return np.pad(x, widths, constant_values=self.value)


class Gather(Op, mnemonic="gather"):
    """y[i..., :] = table[indices[i...], :]; an index outside the table is an error."""

    table: Value
    indices: Value

    def infer(self) -> TensorType:
        table, indices = self.table.type, self.indices.type
        self.require(indices.dtype in (DType.I64, DType.I32), f"indices are {indices.dtype}")
        self.require(table.rank >= 1, "the table has no rows")
        return table.with_shape((*indices.shape, *table.shape[1:]))

    def reference(self, table: np.ndarray, indices: np.ndarray) -> np.ndarray:
        if indices.size and not 0 <= indices.min() <= indices.max() < len(table):
            bad = indices.min() if indices.min() < 0 else indices.max()
            raise IndexError(f"index {bad} is outside a table of {len(table)} rows")
        return table[indices]


class TakePosition(Op, mnemonic="take_position"):
    """y[b, 0, ...] = x[b, index[b], ...]: one position of each sequence."""

    x: Value
    index: Value

    def infer(self) -> TensorType:
        x, index = self.x.type, self.index.type
        self.require(x.rank >= 2, f"x needs [B, T, ...], not {x}")
        self.require(index == TensorType(DType.I64, x.shape[:1]), f"index is {index}, x is {x}")
        return x.with_shape((x.shape[0], 1, *x.shape[2:]))

    def reference(self, x: np.ndarray, index: np.ndarray) -> np.ndarray:
        return np.stack([row[i : i + 1] for row, i in zip(x, index, strict=True)])
