"""Walk an ONNX graph and make IR operations of its nodes."""

# onnx_ir leaves tensors and attribute values unknown.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false
from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir

from mmc.errors import MmcError
from mmc.frontends.onnx_call import Call, Known, Operand, dtype_of
from mmc.frontends.onnx_control import CONTROL, Listed
from mmc.frontends.onnx_sizes import known_result
from mmc.frontends.onnx_table import TABLE
from mmc.frontends.operands import Unsupported
from mmc.ir.op import Origin, Value, VerifyError, origin
from mmc.ir.ops.source import Constant, Input, Iota
from mmc.ir.tensors import Tensors
from mmc.ir.types import DType, TensorType

_FEW = 1024
"""Elements of an integer tensor that may be a shape or a list of axes, and are known."""
_LARGEST_VALUE = 2**40
"""Elements: a value of more is a mistake or an attack."""


@dataclass
class Model:
    """What the graphs of one file share."""

    file: str
    opsets: Mapping[str, int]
    tensors: Tensors = field(default_factory=Tensors)
    stored: dict[onnx_ir.Value, Operand] = field(default_factory=dict[onnx_ir.Value, Operand])


class Walk:
    """One graph; a nested one reads the values of the graph around it as captured inputs."""

    def __init__(self, model: Model, outer: Walk | None = None) -> None:
        self.model, self._outer = model, outer
        self._made: dict[onnx_ir.Value, Operand | Listed] = {}
        self.captured: dict[Value, Input] = {}
        self.at_step: Callable[[onnx_ir.Node], Value | None] = lambda node: None
        """In the body of a loop: the element that a node reads of a sequence, if it does."""

    def bind(self, names: Iterable[onnx_ir.Value], values: Iterable[Operand | Listed]) -> None:
        self._made |= zip(names, values, strict=True)

    def run(self, graph: onnx_ir.Graph) -> list[Operand | Listed]:
        """What the graph returns; its inputs have been bound."""
        for node in graph:
            self._node(node)
        return [self.read(value) for value in graph.outputs]

    def values(self, graph: onnx_ir.Graph, made: Sequence[Operand | Listed]) -> list[Value]:
        """What a graph returned, as values of the IR."""
        pairs = zip(made, graph.outputs, strict=True)
        return [self.value(found, value) for found, value in pairs]

    def value(self, found: Operand | Listed, source: onnx_ir.Value) -> Value:
        if isinstance(found, Listed):
            raise Unsupported(f"{source.name!r} is a sequence of tensors")
        return (
            found.value(self.model.tensors, str(source.name)) if isinstance(found, Known) else found
        )

    def read(self, value: onnx_ir.Value) -> Operand | Listed:
        if value in self._made:
            return self._made[value]
        if value.const_value is not None:
            return self._stored(value)
        if self._outer is None:
            raise Unsupported(f"reads {value.name!r}, which nothing before it makes")
        found = self._outer.read(value)
        return found if isinstance(found, Known | Listed) else self._capture(found)

    def _capture(self, found: Value) -> Value:
        """A value from outside, a weight too, comes through an input; a number needs none."""
        if isinstance(found, Constant | Iota):
            return found
        if found not in self.captured:
            self.captured[found] = Input(f"captured{len(self.captured)}", found.type)
        return self.captured[found]

    def _stored(self, value: onnx_ir.Value) -> Operand:
        """An initialiser: known where it is one number or may be a shape, else a weight."""
        if value not in self.model.stored:
            self.model.stored[value] = _operand(value, self.model)
        found = self.model.stored[value]
        return found if self._outer is None or isinstance(found, Known) else self._capture(found)

    def call(self, node: onnx_ir.Node) -> Call:
        given: list[Operand | None] = []
        for source in node.inputs:
            found = None if source is None or source.name == "" else self.read(source)
            if isinstance(found, Listed):
                raise Unsupported("a sequence of tensors among its inputs")
            given.append(found)
        return Call(node, given, self.model.opsets.get(node.domain, 0), self.model.tensors)

    def _node(self, node: onnx_ir.Node) -> None:
        where = origin_of(node)
        try:
            with origin(where):
                made = self._translate(node)
            for result in made:
                _refuse_huge(result)
        except (VerifyError, Unsupported, ValueError, ArithmeticError) as error:
            raise MmcError(
                f"operator {spelt(node)}: {error}", f"{self.model.file}, node {told(node)}"
            ) from error
        except MmcError as error:
            if error.where:
                raise
            raise MmcError(
                f"operator {spelt(node)}: {error.what}",
                f"{self.model.file}, node {told(node)}",
                error.hint,
            ) from error
        pairs = zip(node.outputs, made, strict=False)
        self._made |= {output: found for output, found in pairs if found is not None}

    def _translate(self, node: onnx_ir.Node) -> Sequence[Operand | Listed | None]:
        name = spelt(node)
        if name in CONTROL:
            return CONTROL[name](self, node)
        element = self.at_step(node)
        if element is not None:
            return [element]
        call = self.call(node)
        known = known_result(call) if not node.domain else None
        if known is not None:
            return [known]
        made = TABLE[name](call)
        return made if isinstance(made, Sequence) else [made]


def _operand(value: onnx_ir.Value, model: Model) -> Operand:
    tensor = value.const_value
    assert tensor is not None
    shape = tuple(int(str(d)) for d in tensor.shape)
    if tensor.dtype is onnx_ir.DataType.DOUBLE and tensor.size == 1:  # such as an eps
        return Known.of(tensor.numpy().astype(object).reshape(shape), DType.F32)
    dtype = dtype_of(tensor.dtype, narrow=True)
    size, counts = tensor.size, dtype in (DType.I64, DType.I32, DType.BOOL)
    if size == 1 or (counts and size <= _FEW):
        return Known.of(tensor.numpy().astype(object).reshape(shape), dtype)

    def load() -> np.ndarray:
        return np.ascontiguousarray(tensor.numpy()).astype(dtype.numpy, copy=False)

    return model.tensors.add(str(value.name), TensorType(dtype, shape), load)


def _refuse_huge(result: Operand | Listed | None) -> None:
    if not isinstance(result, Value):
        return
    count = 1
    for dim in result.type.shape:
        count *= dim if isinstance(dim, int) else 1
    if count > _LARGEST_VALUE:
        raise Unsupported(f"its result would be {result.type}")


def spelt(node: onnx_ir.Node) -> str:
    """The operator as the table spells it: with its domain unless that is ONNX's own."""
    return f"{node.domain}.{node.op_type}" if node.domain else str(node.op_type)


def told(node: onnx_ir.Node) -> str:
    """The name of a node, or of what it makes."""
    return repr(node.name or next((o.name for o in node.outputs if o.name), ""))


def origin_of(node: onnx_ir.Node) -> Origin:
    """The module that a node comes from where its exporter noted it, else the node's own name."""
    try:
        scopes = ast.literal_eval(node.metadata_props.get("pkg.torch.onnx.name_scopes", "[]"))
        modules = [str(scope) for scope in scopes[:-1] if scope]
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        modules = []
    if modules:
        return Origin(modules[-1])
    name = node.name or next((o.name for o in node.outputs if o.name), "") or ""
    if own := re.fullmatch(rf"(.+)\.{re.escape(node.op_type)}(\.\d+)?", name):
        return Origin(own[1])  # as `mmc export` names nodes: the module, then the operator
    parts = [part for part in name.split("/") if part]
    return Origin(".".join(parts[:-1]) if name.startswith("/") and len(parts) > 1 else name)
