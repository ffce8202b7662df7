"""Caches of attention in 8 bits a number, for less memory: a change of the model, as asked for.

What is appended to a cache is rounded before: a row of keys (turned by its position) or values of
one head and position has codes from 1 to 255 and a step, its largest magnitude over 127.  The
caches become two states each, NAME u8[B, G, S, D] and NAME.steps f32[B, G, S, 1].  Passes keep the
meaning of a graph and may not do this.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from mmc.errors import MmcError
from mmc.frontends.base import Imported
from mmc.ir.graph import Graph
from mmc.ir.op import Op, Value, origin, producer
from mmc.ir.ops.attention import ZERO, Attention, AttentionCodes, CacheAppend
from mmc.ir.ops.pointwise import Add, Cast
from mmc.ir.ops.source import Input, scalar
from mmc.ir.ops.ternary import AbsMax, Quantize
from mmc.ir.types import DType, TensorType

KV_CACHES = ("int8",)
"""What `--kv-cache` takes; without it caches are float32."""

_BY = AbsMax(low=-127, eps=1e-30)


@dataclass(frozen=True)
class _Rounded:
    """A cache that became codes and steps: the states before, and after the new positions."""

    codes: Input
    steps: Input
    new_codes: CacheAppend
    new_steps: CacheAppend


def with_int8_caches(imported: Imported) -> Imported:
    """The model with caches of codes; raises MmcError where it has none that are attention's."""
    graph = imported.graph
    made: dict[Op, _Rounded] = {}
    new: dict[Value, Value] = {}

    def moved_value(value: Value) -> Value:
        return new.get(value, value)

    for op in graph.ops:
        with origin(op.origin):
            if isinstance(op, CacheAppend):
                made[op] = _rounded(op, graph, new)
            elif isinstance(op, Attention) and {op.keys, op.values} <= made.keys():
                new[op] = _attention(op, made, new)
            else:
                moved = op.rebuild(moved_value)
                new |= zip(op.results, moved.results, strict=True)
    if not made:
        raise MmcError("the model has no caches", imported.source, "leave out --kv-cache int8")
    return replace(
        imported,
        graph=_with_states(graph, list(made.values()), new),
        positive=imported.positive | {r.steps.name for r in made.values()},
    )


def _rounded(op: CacheAppend, graph: Graph, new: Mapping[Value, Value]) -> _Rounded:
    """Appending to a cache as appending to two."""
    cache = op.cache
    known = isinstance(cache, Input) and dict(graph.outputs).get(cache.name) is op
    others = [user for user in graph.users[op] if not isinstance(user, Attention)]
    if not known or not isinstance(cache, Input) or others or op.type.dtype is not DType.F32:
        raise MmcError("its cache is read by more than attention", str(op.origin or op.mnemonic))
    q, steps = Quantize(new.get(op.x, op.x), _BY).results
    codes = Cast(Add(Cast(q, DType.F32), scalar(float(ZERO))), DType.U8)
    held = cache.type.shape
    narrow = Input(cache.name, TensorType(DType.U8, held))
    beside = Input(f"{cache.name}.steps", TensorType(DType.F32, (*held[:-1], 1)))
    where = new.get(op.position, op.position), new.get(op.lengths, op.lengths)
    return _Rounded(
        narrow, beside, CacheAppend(narrow, codes, *where), CacheAppend(beside, steps, *where)
    )


def _attention(op: Attention, made: Mapping[Op, _Rounded], new: Mapping[Value, Value]) -> Value:
    keys, values = made[producer(op.keys)], made[producer(op.values)]
    return AttentionCodes(
        new.get(op.q, op.q), keys.new_codes, keys.new_steps, values.new_codes, values.new_steps,
        new.get(op.position, op.position), op.scale,
    )  # fmt: skip


def _with_states(graph: Graph, made: list[_Rounded], new: Mapping[Value, Value]) -> Graph:
    """The graph with the new states in the places of the old ones."""
    by_name = {r.codes.name: r for r in made}
    inputs: list[Input] = []
    for op in graph.inputs:
        rounded = by_name.get(op.name)
        inputs += [op] if rounded is None else [rounded.codes, rounded.steps]
    outputs: list[tuple[str, Value]] = []
    for name, value in graph.outputs:
        if name in by_name:
            rounded = by_name[name]
            outputs += [(name, rounded.new_codes), (rounded.steps.name, rounded.new_steps)]
        else:
            outputs.append((name, new.get(value, value)))
    return Graph(graph.name, tuple(inputs), tuple(outputs)).verify()
