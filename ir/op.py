"""Operations and the values they define.

An operation is a frozen record of operands (fields annotated `Value`, `Value | None` or
`tuple[Value, ...]`) and attributes (every other field).  Equal operations are one object, so a
graph cannot hold a duplicate, a cycle or a dangling use, and comparing two graphs is comparing
two pointers.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cached_property
from typing import Any, ClassVar, cast, dataclass_transform

from mmc.ir.intern import intern
from mmc.ir.types import SymbolicDim, TensorType, bind_dim


class VerifyError(Exception):
    """An operation breaks its own contract."""


class Value:
    """Anything an operation can consume."""

    @property
    def type(self) -> TensorType:
        raise NotImplementedError


@dataclass(frozen=True)
class Origin:
    """Where an operation comes from: the module path, and the source line if one is known."""

    path: str
    line: str = ""

    def __str__(self) -> str:
        return f"{self.path}, {self.line}" if self.line else self.path


_ORIGIN: ContextVar[Origin | None] = ContextVar("origin", default=None)


@contextmanager
def origin(where: Origin | None) -> Generator[None]:
    """Operations first made inside carry this origin: a note, not a part of their identity."""
    token = _ORIGIN.set(where)
    try:
        yield
    finally:
        _ORIGIN.reset(token)


def _identity(attribute: object) -> object:
    """What tells attributes apart: 1, 1.0 and True compare equal, and so do 0.0 and -0.0."""
    if isinstance(attribute, Value):
        return attribute
    if isinstance(attribute, tuple):
        return tuple(_identity(a) for a in cast(tuple[object, ...], attribute))
    if isinstance(attribute, float):
        return (float, float.__repr__(attribute))
    if _is_record(attribute):
        return (type(attribute), *map(_identity, vars(attribute).values()))
    return (type(attribute), attribute)


def _is_record(attribute: Any) -> bool:
    """True for attributes such as `absmax(range=127.0)`."""
    plain = is_dataclass(attribute) and not isinstance(attribute, Value | SymbolicDim | TensorType)
    return plain and type(attribute).__hash__ is not object.__hash__


def _fits(value: object, kind: str) -> bool:
    """True where a field annotated `kind` may hold the value."""
    if kind.startswith("tuple["):
        inner = kind[len("tuple[") : -len(", ...]")]
        return isinstance(value, tuple) and all(
            _fits(v, inner) for v in cast(tuple[object, ...], value)
        )
    match kind:
        case "Value":
            return isinstance(value, Value)
        case "None":
            return value is None
        case "float":
            return isinstance(value, float) or type(value) is int
        case "Dim":
            return type(value) is int or isinstance(value, SymbolicDim)
        case "Shape":
            return _fits(value, "tuple[Dim, ...]")
        case "Layout" | "packing.Layout":  # names of packed layouts
            return isinstance(value, str)
        case _:
            return type(value).__name__ == kind


def _misfit(record: Any) -> str | None:
    """Which field of an operation or of a record that it holds is of the wrong kind, if one is."""
    for each in fields(record):
        value, kinds = getattr(record, each.name), str(each.type)
        if not any(_fits(value, kind) for kind in kinds.split(" | ")):
            return f"{each.name} is {value!r}, not {kinds}"
        if _is_record(value) and (inner := _misfit(value)):
            return inner
    return None


class _Interned(type):
    """Make equal operations the same object."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        op: Op = super().__call__(*args, **kwargs)
        kept = intern((cls, *map(_identity, op.fields)), op)
        if kept.origin is None and kept.keeps_origin:
            object.__setattr__(kept, "origin", _ORIGIN.get())
        return kept


@dataclass_transform(frozen_default=True, eq_default=False, field_specifiers=(field,))
class Op(Value, metaclass=_Interned):
    """Base of every operation: declare fields, `infer` result types, define the `reference`.

    An operation with one result is that value; one with several is unpacked: `q, s = Quantize(x)`.
    """

    mnemonic: ClassVar[str]
    field_names: ClassVar[tuple[str, ...]]
    operand_names: ClassVar[tuple[str, ...]]
    registry: ClassVar[dict[str, type[Op]]] = {}
    _results: ClassVar[tuple[str, ...]]

    commutative: ClassVar[bool] = False
    """The first two operands may trade places without changing a single bit."""

    positionwise: ClassVar[bool] = False
    """Element [b, t] of the result reads of each operand [b, t, ...] that element alone."""

    reference: ClassVar[Callable[..., Any]]
    """The meaning of this operation, written for reading: the oracle of every backend."""

    keeps_origin: ClassVar[bool] = True
    """False for what has no place of its own: inputs, weights, constants."""

    origin: ClassVar[Origin | None] = (
        None  # set on the instance: not a field, so not part of identity
    )

    def __init_subclass__(
        cls, mnemonic: str | None = None, results: tuple[str, ...] = ("",)
    ) -> None:
        dataclass(frozen=True, eq=False, repr=False)(cls)
        if mnemonic is None:  # an abstract family such as Unary
            return
        declared = fields(cls)  # pyright: ignore[reportArgumentType]
        cls._results = results
        cls.mnemonic, cls.field_names = mnemonic, tuple(f.name for f in declared)
        cls.operand_names = tuple(f.name for f in declared if "Value" in str(f.type))
        if Op.registry.setdefault(mnemonic, cls) is not cls:
            raise TypeError(f"two operations are called {mnemonic!r}")

    @property
    def fields(self) -> tuple[Any, ...]:
        return tuple(getattr(self, name) for name in self.field_names)

    @property
    def operands(self) -> tuple[Value, ...]:
        """Every operand in order, tuples of operands flattened, absent ones left out."""
        flat: list[Value] = []
        for name in self.operand_names:
            operand = getattr(self, name)
            flat += operand if isinstance(operand, tuple) else () if operand is None else (operand,)
        return tuple(flat)

    @property
    def attributes(self) -> dict[str, Any]:
        return {n: getattr(self, n) for n in self.field_names if n not in self.operand_names}

    @property
    def result_names(self) -> tuple[str, ...]:
        """A suffix for each result; one empty suffix where there is one result."""
        return self._results

    @property
    def results(self) -> tuple[Value, ...]:
        if self.result_names == ("",):
            return (self,)
        return tuple(Result(self, i) for i in range(len(self.result_names)))

    def __iter__(self) -> Iterator[Value]:
        return iter(self.results)

    @property
    def type(self) -> TensorType:
        self.require(self.result_names == ("",), "has several results: unpack them")
        return self.types[0]

    @cached_property
    def types(self) -> tuple[TensorType, ...]:
        if misfit := _misfit(self):
            raise VerifyError(self._told(misfit))
        try:
            inferred = self.infer()
        except ValueError as error:
            raise VerifyError(self._told(str(error))) from None
        return inferred if isinstance(inferred, tuple) else (inferred,)

    def infer(self) -> TensorType | tuple[TensorType, ...]:
        """The result types; raise `VerifyError` or ValueError where the operands do not fit."""
        raise NotImplementedError(type(self).__name__)

    def rebuild(self, replace: Callable[[Value], Value], keep_origin: bool = True) -> Op:
        """This operation over other operands."""

        def swap(name: str) -> Any:
            field = getattr(self, name)
            if name not in self.operand_names or field is None:
                return field
            if isinstance(field, tuple):
                return tuple(map(replace, cast(tuple[Value, ...], field)))
            return replace(field)

        with origin(self.origin if keep_origin else None):
            return type(self)(*map(swap, self.field_names))

    def bind(self, symbols: Mapping[str, int]) -> Op:
        """This operation with numbers for the symbols of its attributes (its operands stay)."""

        def number(attribute: Any) -> Any:
            match attribute:
                case SymbolicDim():
                    return bind_dim(attribute, symbols)
                case TensorType():
                    return attribute.bind(symbols)
                case tuple() if not any(isinstance(a, Value) for a in attribute):  # pyright: ignore[reportUnknownVariableType]
                    return tuple(map(number, attribute))  # pyright: ignore[reportUnknownArgumentType]
                case _:
                    return attribute

        with origin(self.origin):
            return type(self)(*map(number, self.fields))

    def __repr__(self) -> str:
        # Never the operands: a graph of n operations can spell out to 2**n.
        return f"<{self.mnemonic}>"

    def __rshift__(self, after: Value) -> tuple[Op, Value]:
        return self, after

    def require(self, holds: bool, message: str) -> None:
        if not holds:
            raise VerifyError(self._told(message))

    def _told(self, message: str) -> str:
        where = f" at {self.origin}" if self.origin else ""
        return f"{self.mnemonic}{where}: {message}"


@dataclass(frozen=True)
class Result(Value):
    """One of several results of an operation."""

    op: Op
    index: int

    @property
    def type(self) -> TensorType:
        return self.op.types[self.index]

    def __rshift__(self, after: Value) -> tuple[Value, Value]:
        return self, after


def producer(value: Value) -> Op:
    """The operation that defines the value."""
    match value:
        case Op():
            return value
        case Result(op, _):
            return op
        case _:
            raise TypeError(f"{value} has no producer")
