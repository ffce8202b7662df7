"""ONNX's control flow: Scan and Loop are the IR's scan, If is a choice between two values.

A Loop runs for a number of steps that is known as a size; where its body reads element t of a
tensor, at step t, the tensor is one of the sequences that the scan runs over.
"""

# onnx_ir leaves attribute values unknown.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import onnx_ir

from mmc.frontends.onnx_call import Call, Known, Operand, axis_of
from mmc.frontends.onnx_reduce import flipped
from mmc.frontends.onnx_sizes import counted
from mmc.frontends.operands import Unsupported, cut, moved, reshape
from mmc.ir.graph import Graph
from mmc.ir.op import Value
from mmc.ir.ops.logic import Where
from mmc.ir.ops.recurrence import Scan
from mmc.ir.ops.shape import Concat
from mmc.ir.ops.source import Input
from mmc.ir.types import Dim, DType, TensorType

if TYPE_CHECKING:
    from mmc.frontends.onnx_walk import Walk


@dataclass(frozen=True, eq=False)
class Listed:
    """A sequence of tensors: its parts, or all of them stacked along axis 0 behind a loop."""

    parts: tuple[Value, ...] = ()
    stacked: Value | None = None


@dataclass(frozen=True)
class Steps:
    """A sequence that a scan runs over, and along which axis."""

    values: Value
    axis: int

    @property
    def one(self) -> TensorType:
        shape = self.values.type.shape
        return self.values.type.with_shape((*shape[: self.axis], *shape[self.axis + 1 :]))


def _if(walk: Walk, node: onnx_ir.Node) -> Sequence[Operand | Listed]:
    """Only the branch that is taken where the condition is known, else both and a choice."""
    call = walk.call(node)
    taken = call.number(0)
    then, other = call.attribute("then_branch"), call.attribute("else_branch")
    if taken is not None:
        return walk.run(then if taken else other)
    made = [walk.values(branch, walk.run(branch)) for branch in (then, other)]
    condition = reshape(call.value(0), ())
    return [Where(condition, x, y) for x, y in zip(*made, strict=True)]


def _constant(walk: Walk, node: onnx_ir.Node) -> Sequence[Operand | Listed]:
    """A tensor that is an attribute is read like an initialiser."""
    output = node.outputs[0]
    output.const_value = onnx_ir.convenience.get_const_tensor(output)
    if output.const_value is None:
        raise Unsupported("a constant that is no tensor of numbers")
    return [walk.read(output)]


def _scan(walk: Walk, node: onnx_ir.Node) -> Sequence[Operand | Listed]:
    call = walk.call(node)
    if call.opset < 9:
        raise Unsupported("the form of opset 8, with sequence lengths and a batch")
    body, count = call.attribute("body"), call.attribute("num_scan_inputs")
    n = len(call.given) - count
    init = [call.value(i) for i in range(n)]
    xs: list[Steps] = []
    for i in range(count):
        x = call.value(n + i)
        axis = axis_of(x, _at(call, "scan_input_axes", i))
        backwards = _at(call, "scan_input_directions", i)
        xs.append(Steps(flipped(x, axis) if backwards else x, axis))
    inner = _inside(walk, init, xs)
    inner.walk.bind(body.inputs, [*inner.carries, *inner.steps])
    made = inner.walk.values(body, inner.walk.run(body))
    ranks = [y.type.rank + 1 for y in made[n:]]
    axes = [_at(call, "scan_output_axes", i) % rank for i, rank in enumerate(ranks)]
    results = inner.scan(made, axes)
    backwards = [_at(call, "scan_output_directions", i) for i in range(len(axes))]
    ys = [
        flipped(y, axis) if back else y
        for y, axis, back in zip(results[n:], axes, backwards, strict=True)
    ]
    return [*results[:n], *ys]


def _at(call: Call, name: str, index: int) -> int:
    given = call.attribute(name)
    return int(given[index]) if given else 0


@dataclass
class _Inside:
    """The body of a scan while it is made."""

    walk: Walk
    init: list[Value]
    xs: list[Steps]
    carries: list[Input]
    steps: list[Input]

    def step(self, x: Steps) -> Input:
        """One element of another sequence."""
        self.xs.append(x)
        self.steps.append(Input(f"x{len(self.steps)}", x.one))
        return self.steps[-1]

    def scan(self, made: Sequence[Value], y_axes: Sequence[int]) -> list[Value]:
        """The last carries and the sequences; the IR scans over one axis, so others move to it."""
        n = len(self.init)
        names = [*(f"carry{i}" for i in range(n)), *(f"y{i}" for i in range(len(made) - n))]
        returned = tuple(zip(names, made, strict=True))
        read = set(Graph("step", (), returned).ops)
        captured = {value: inside for value, inside in self.walk.captured.items() if inside in read}
        pairs = list(zip(self.xs, self.steps, strict=True))
        pairs = [(x, inside) for x, inside in pairs if inside in read] or pairs[:1]
        inputs = (*self.carries, *(inside for _, inside in pairs), *captured.values())
        body = Graph("step", inputs, returned).verify()
        wanted = {x.axis for x, _ in pairs} | set(y_axes)
        axis = wanted.pop() if len(wanted) == 1 else 0
        xs = tuple(moved(x.values, x.axis, axis) for x, _ in pairs)
        scan = Scan(tuple(self.init), xs, tuple(captured), body, axis)
        _ = scan.types
        ys = [moved(y, axis, to) for y, to in zip(scan.results[n:], y_axes, strict=True)]
        return [*scan.results[:n], *ys]


def _inside(walk: Walk, init: list[Value], xs: list[Steps]) -> _Inside:
    carries = [Input(f"carry{i}", value.type) for i, value in enumerate(init)]
    steps = [Input(f"x{i}", x.one) for i, x in enumerate(xs)]
    return _Inside(type(walk)(walk.model, walk), init, xs, carries, steps)


def _loop(walk: Walk, node: onnx_ir.Node) -> Sequence[Operand | Listed]:
    """A loop that ends after a number of steps; one that ends by its data is refused."""
    given = [None if v is None or v.name == "" else walk.read(v) for v in node.inputs]
    trips, condition, *state = given
    count = _trip_count(trips)
    if condition is not None and not _is_true(condition):
        raise Unsupported("a loop that starts on a condition of the model's inputs")
    body: Any = node.attributes["body"].value
    lists = [isinstance(value, Listed) for value in state]
    sources = node.inputs[2:]
    init = [
        walk.value(v, s) for v, s in zip(state, sources, strict=True) if v is not None and s
        and not isinstance(v, Listed)
    ]  # fmt: skip
    inner = _inside(walk, init, [])
    carries = iter(inner.carries)
    iteration, still, *inputs = body.inputs
    number = inner.step(Steps(counted(0, count), 0))
    given_inside = [Listed() if is_list else next(carries) for is_list in lists]
    inner.walk.bind(
        [iteration, still, *inputs], [number, Known.of(True, DType.BOOL), *given_inside]
    )
    inner.walk.at_step = lambda inside: _element(inner, inside, number, count)
    ended, *made = inner.walk.run(body)
    if not _is_true(ended):
        raise Unsupported("a loop that ends by what it computes")
    return _loop_results(inner, body, made, lists)


def _loop_results(
    inner: _Inside, body: Any, made: list[Operand | Listed], lists: list[bool]
) -> list[Operand | Listed]:
    """Carries, then lists that grew by an element a step, then what the loop itself stacked."""
    outputs = body.outputs[1:]
    carried: list[Value] = []
    stacked: list[Value] = []
    for found, source, is_list in zip(made, outputs, lists, strict=False):
        if not is_list:
            carried.append(inner.walk.value(found, source))
        elif isinstance(found, Listed) and len(found.parts) == 1:
            stacked.append(found.parts[0])
        else:
            raise Unsupported("a sequence that does not grow by one tensor a step")
    n, grown = len(lists), len(stacked)
    stacked += [inner.walk.value(f, s) for f, s in zip(made[n:], outputs[n:], strict=True)]
    results = inner.scan([*carried, *stacked], [0] * len(stacked))
    plain, ys = iter(results[: len(carried)]), results[len(carried) :]
    seqs = iter(ys[:grown])
    first = [Listed((), next(seqs)) if is_list else next(plain) for is_list in lists]
    return [*first, *ys[grown:]]


def _trip_count(trips: Operand | Listed | None) -> Dim:
    if isinstance(trips, Known) and trips.numbers.size == 1:
        return trips.numbers.flat[0]
    raise Unsupported("the number of its steps must be known, as a number or a size")


def _is_true(found: Operand | Listed | None) -> bool:
    return isinstance(found, Known) and bool(found.numbers.all())


def _element(inner: _Inside, node: onnx_ir.Node, number: Input, count: Dim) -> Value | None:
    """Element t of a tensor from outside, read at step t: a sequence that the scan runs over."""
    if node.op_type != "Gather" or node.domain or None in node.inputs:
        return None
    table, index = node.inputs
    assert table is not None and index is not None  # noqa: PT018
    found, outside = inner.walk.read(table), inner.walk.captured
    x = next((value for value, inside in outside.items() if inside is found), None)
    if x is None or inner.walk.read(index) is not number:
        return None
    axis = axis_of(x, node.attributes["axis"].value if "axis" in node.attributes else 0)
    size = x.type.shape[axis]
    if size != count and not (isinstance(size, int) and isinstance(count, int) and count < size):
        return None
    return inner.step(Steps(cut(x, axis, 0, count), axis))


def _sequence_insert(walk: Walk, node: onnx_ir.Node) -> Sequence[Operand | Listed]:
    source, tensor, *position = node.inputs
    if source is None or tensor is None or any(position):
        raise Unsupported("inserting anywhere but at the end")
    found = walk.read(source)
    if not isinstance(found, Listed) or found.stacked is not None:
        raise Unsupported("a sequence that a loop has made")
    return [Listed((*found.parts, walk.value(walk.read(tensor), tensor)))]


def _sequence_construct(walk: Walk, node: onnx_ir.Node) -> Sequence[Operand | Listed]:
    return [Listed(tuple(walk.value(walk.read(v), v) for v in node.inputs if v is not None))]


def _concat_from_sequence(walk: Walk, node: onnx_ir.Node) -> Sequence[Operand | Listed]:
    (source,) = node.inputs
    found = walk.read(source) if source is not None else None
    if not isinstance(found, Listed):
        raise Unsupported("its input is not a sequence of tensors")
    axis = int(node.attributes["axis"].value)  # pyright: ignore[reportArgumentType]
    new = "new_axis" in node.attributes and bool(node.attributes["new_axis"].value)
    if found.stacked is not None:
        rank = found.stacked.type.rank - (not new)
        apart = moved(found.stacked, 0, axis % rank)
        if new:
            return [apart]
        shape = apart.type.shape
        at = axis % rank
        return [reshape(apart, (*shape[:at], shape[at] * shape[at + 1], *shape[at + 2 :]))]
    parts = [_with_axis(part, axis) if new else part for part in found.parts]
    return [Concat(tuple(parts), axis % parts[0].type.rank)]


def _with_axis(x: Value, axis: int) -> Value:
    at = axis % (x.type.rank + 1)
    return reshape(x, (*x.type.shape[:at], 1, *x.type.shape[at:]))


Control = Callable[["Walk", onnx_ir.Node], Sequence["Operand | Listed | None"]]

CONTROL: dict[str, Control] = {
    "ConcatFromSequence": _concat_from_sequence,
    "Constant": _constant,
    "If": _if,
    "Loop": _loop,
    "Scan": _scan,
    "SequenceConstruct": _sequence_construct,
    "SequenceEmpty": lambda walk, node: [Listed()],
    "SequenceInsert": _sequence_insert,
}
