# pyright: basic
# Every value here is a TIR expression, which TVM does not type.
"""Where the values of a persistent kernel are (`mmc.targets.cuda.persistent`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tvm import ir
from tvm.script.ir_builder import tirx as T

from mmc.ir.op import Value
from mmc.ir.types import DType, TensorType, static_shape
from mmc.targets.cuda.code import call, do
from mmc.targets.cuda.row import Registers
from mmc.targets.cuda.work import THREADS
from mmc.targets.tvm.elementary import hold
from mmc.targets.tvm.memory import Place


def pointer_type(dtype: str) -> Any:
    return ir.PointerType(ir.PrimType(dtype))


def pointer(address: Any, dtype: str) -> Any:
    """A buffer at an address."""
    return T.decl_buffer((1 << 40,), dtype, data=T.Bind(address))


class Held:
    """A number that is there already, as a place."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def load(self, axes: Sequence[Any], lanes: int) -> Any:
        return self.value


class Ahead:
    """A place that is read where the program says so, not where the compiler would."""

    def __init__(self, place: Place) -> None:
        self.place = place

    def load(self, axes: Sequence[Any], lanes: int) -> Any:
        if self.place.type.dtype is not DType.F32:
            return self.place.load(axes, lanes)
        at = T.address_of(self.place.buffer[self.place.offset(axes)])
        return hold(call("mmc_look", "float32", at))


class Exchanged:
    """A row of floats that other blocks make, or that this one hands to them."""

    def __init__(self, exchange: tuple[Any, Any, Any], start: Any, value: Value) -> None:
        (self.buffer, *areas), self.type = exchange, value.type
        self.own, self.next = (T.Bind(area + start) for area in areas)

    def look(self, column: Any) -> Callable[[], Any]:
        """Ask for an element, and return what waits for it."""
        at = T.address_of(self.buffer[self.own + column])
        seen = hold(call("mmc_look", "float32", at))
        return lambda: hold(call("mmc_settle", "float32", seen, at))

    def store(self, axes: Sequence[Any], value: Any) -> None:
        column = axes[-1]
        at = (T.address_of(self.buffer[start + column]) for start in (self.own, self.next))
        do("mmc_publish", *at, value)

    def row(self) -> AwaitedRow:
        """The thread's columns."""
        return AwaitedRow(self.type, T.address_of(self.buffer[self.own]))


class AwaitedRow(Registers):
    """Columns of a row in a thread's registers that other blocks make."""

    def __init__(self, type_: TensorType, source: Any) -> None:
        (self.columns,), self.source = static_shape(type_.shape[-1:]), source
        self.steps = -(-self.columns // THREADS)
        super().__init__(T.alloc_buffer((self.steps,), "float32", scope="local"), type_)

    def look(self) -> None:
        """Ask for what is there."""
        self._do("mmc_look_row")

    def settle(self) -> None:
        """Wait for what was not."""
        self._do("mmc_settle_row")

    def _do(self, name: str) -> None:
        do(f"{name}<{self.steps}>", T.address_of(self.buffer[0]), self.source, self.columns)


class Activations:
    """A row of int8 in shared memory, zeros up to what all warps read."""

    def __init__(self, value: Value, buffer: Any, start: int, size: int) -> None:
        self.type, self.buffer, self.start, self.stride = value.type, buffer, start, size
        self.columns = value.type.shape[-1]

    def store(self, axes: Sequence[Any], value: Any) -> None:
        T.buffer_store(self.buffer, T.cast(value, "int8"), [axes[-1] + self.start])


class FirstBlock:
    """Places to which one block writes what all have computed."""

    def __init__(self, value: Value, places: Sequence[Any], block: Any) -> None:
        self.type, self.places, self.block = value.type, places, block

    def store(self, axes: Sequence[Any], value: Any) -> None:
        with T.If(T.EQ(self.block, 0)), T.Then():
            for place in self.places:
                place.store(axes, value)
