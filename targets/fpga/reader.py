"""The phases of a token, read from a graph of whole numbers; a graph of another form is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

from mmc.errors import MmcError
from mmc.ir.graph import Graph
from mmc.ir.op import Op, Value, producer
from mmc.ir.ops.attention import CacheAppend
from mmc.ir.ops.fixed import (
    FixedLogits,
    FixedNormalize,
    FixedQuantize,
    FixedRequantize,
    FixedRmsNorm,
)
from mmc.ir.ops.fixed_attention import FixedAttention, FixedNarrow, FixedRotary, FixedTriple
from mmc.ir.ops.fixed_gates import (
    FixedAdd,
    FixedForget,
    FixedProduct,
    FixedRecurrence,
    FixedShift,
    FixedSigmoid,
)
from mmc.ir.ops.pointwise import Relu
from mmc.ir.ops.shape import Gather, Reshape, Slice
from mmc.ir.ops.source import Input, Weight
from mmc.ir.ops.ternary import TernaryMatmul
from mmc.ir.types import static_shape
from mmc.targets.fpga.plan import HEADS, Attention, Phase, Plan

_Kind = TypeVar("_Kind", bound=Op)


def plan_of(graph: Graph) -> Plan:
    """The phases of a graph that `to-fixed-point` made; raise MmcError where it has others."""
    return _Reader().read(graph)


def _refuse(op: Op, wanted: str) -> MmcError:
    what = f"the FPGA has no phase for this {op.mnemonic}: it expects {wanted}"
    return MmcError(what, str(op.origin or ""), "--target reference runs it")


def _expect(value: Value, kind: type[_Kind], wanted: str) -> _Kind:
    op = producer(value)
    if not isinstance(op, kind):
        raise _refuse(op, wanted)
    return op


def _weight(value: Value | None) -> Weight | None:
    if value is None or isinstance(value, Weight):
        return value
    raise _refuse(producer(value), "a weight")


class _Reader:
    """Reads backwards, from the logits to the embedding."""

    def __init__(self) -> None:
        self.phases: list[Phase] = []
        self.states: list[str] = []
        self.caches: list[tuple[str, str]] = []
        self.attention: Attention | None = None

    def read(self, graph: Graph) -> Plan:
        stream = self._head(_expect(dict(graph.outputs)["logits"], FixedLogits, "logits"))
        while isinstance(add := producer(stream), FixedAdd):
            stream = self._block(add)
        wide = _expect(stream, FixedShift, "an embedding")
        gather = _expect(wide.x, Gather, "an embedding")
        table = _weight(gather.table)
        assert table is not None
        return Plan(
            table, wide.right, tuple(self._numbered()), tuple(reversed(self.states)),
            tuple(reversed(self.caches)), self.attention,
        )  # fmt: skip

    def _numbered(self) -> list[Phase]:
        """In order, with layers counted, and norms that are shared marked."""
        found: list[Phase] = []
        recurrences = attentions = 0
        for phase in reversed(self.phases):
            recurrences += phase.kind == "forget"
            attentions += phase.kind == "query"
            ended = not found or found[-1].kind in ("residual", "attend")
            shared = not ended and _same_norm(found[-1], phase)
            counted = replace(
                phase, layer=recurrences + attentions - (phase.kind not in HEADS),
                normalize=phase.kind != "attend" and not shared,
            )  # fmt: skip
            if phase.kind == "state":
                counted = replace(counted, slot=recurrences - 1)
            if phase.kind in ("query", "key", "value", "attend"):
                counted = replace(counted, slot=attentions - 1)
            found.append(counted)
        return found

    def _phase(
        self, kind: str, op: FixedRequantize | FixedLogits | FixedRmsNorm, norm: FixedNormalize,
        source: str, gain: Value | None, matrix: Weight | None,
    ) -> Phase:  # fmt: skip
        (rows,) = static_shape(op.type.shape[-1:])
        (columns,) = static_shape(norm.x.type.shape[-1:])
        phase = Phase(
            kind, op.origin.path if op.origin else "", 0, 0, source, True, _weight(norm.gain),
            norm.eps_mantissa, norm.eps_exponent, _weight(gain), matrix, rows, columns,
            op.mantissa, op.exponent,
        )  # fmt: skip
        self.phases.append(phase)
        return phase

    def _project(
        self, kind: str, op: FixedRequantize | FixedLogits, source: str,
        fraction: int = 0, bound: Weight | None = None, sums: Value | None = None,
    ) -> Value:  # fmt: skip
        """A phase with a matrix; returns the vector that it normalises."""
        product = _expect(op.sums if sums is None else sums, TernaryMatmul, "a ternary product")
        codes = _expect(product.x, FixedQuantize, "int8 codes")
        norm = _expect(codes.n, FixedNormalize, "a norm")
        phase = self._phase(kind, op, norm, source, codes.gain, _weight(product.w))
        self.phases[-1] = replace(phase, fraction=fraction, bound=bound)
        return norm.x

    def _head(self, logits: FixedLogits) -> Value:
        """A ternary head, or the digits of a dense one from the lowest up."""
        sums = logits.sums
        if not isinstance(sums, FixedTriple):
            return self._project("head", logits, "stream")
        kind = "digits"
        while isinstance(sums, FixedTriple):
            self._project(kind, logits, "stream", sums=sums.low)
            kind, self.phases[-1] = "digit", replace(self.phases[-1], slot=1)
            sums = sums.high
        return self._project("digit", logits, "stream", sums=sums)

    def _block(self, add: FixedAdd) -> Value:
        """One residual: a mixer or an MLP; returns the stream before it."""
        ends = [v for v in (add.a, add.b) if isinstance(v, FixedRequantize)]
        if len(ends) != 1:
            raise _refuse(add, "the residual stream and a projection")
        stream = add.b if ends[0] is add.a else add.a
        inside = producer(self._project("residual", ends[0], "product"))
        if isinstance(inside, Reshape):
            sources = self._attend(_expect(inside.x, FixedAttention, "attention"))
        else:
            product = _expect(inside.results[0], FixedProduct, "a product")
            norms = [v for v in (product.a, product.b) if isinstance(v, FixedRmsNorm)]
            sources = self._mixer(product, norms[0]) if norms else self._glu(product)
        if any(source is not stream for source in sources):
            raise _refuse(inside, "what comes from the residual stream alone")
        return stream

    def _glu(self, product: FixedProduct) -> list[Value]:
        for gate, up in ((product.a, product.b), (product.b, product.a)):
            if not isinstance(gate, FixedProduct):
                continue
            if isinstance(up, FixedRequantize):
                times = self._project("times", up, "stream", product.shift)
                return [times, self._activation(gate)]
            if isinstance(up, Slice):
                x, fraction = _silu(gate)
                first = _expect(x, Slice, "the first half of a projection")
                both = _expect(first.x, FixedRequantize, "a projection")
                halves = first.start == 0 and up.start == first.length and up.x is both
                if halves and both.type.shape[-1] == 2 * static_shape((first.length,))[0]:
                    return [self._project("glu", both, "stream", fraction)]
        raise _refuse(product, "silu(gate) * up or relu(gate)^2 * up")

    def _activation(self, gate: FixedProduct) -> Value:
        if isinstance(gate.a, Relu) and gate.a is gate.b:
            end = _expect(gate.a.x, FixedRequantize, "the projection of a gate")
            return self._project("square", end, "stream", gate.shift)
        x, fraction = _silu(gate)
        end = _expect(x, FixedRequantize, "the projection of a gate")
        return self._project("silu", end, "stream", fraction)

    def _attend(self, op: FixedAttention) -> list[Value]:
        """P = attention: phases query, key, value and attend, here the last first."""
        keys, values = (_expect(v, CacheAppend, "a cache") for v in (op.keys, op.values))
        key, value = (_expect(c.x, FixedNarrow, "16 bits").x for c in (keys, values))
        names = tuple(_expect(c.cache, Input, "a cache").name for c in (keys, values))
        self.caches.append((names[0], names[1]))
        turned = [_expect(v, FixedRotary, "what is turned") for v in (op.q, key)]
        ends = [_expect(v, Reshape, "a projection").x for v in (turned[0].x, turned[1].x, value)]
        projections = [_expect(v, FixedRequantize, "a projection") for v in ends]
        self._share(op, turned)
        heads = static_shape(op.type.shape[2:])
        rows = heads[0] * heads[1]
        name = op.origin.path if op.origin else ""
        attend = Phase(
            "attend", name, 0, 0, "product", False, None, 0, 0, None, None, rows, rows,
            op.mantissa, op.exponent, op.fraction,
        )  # fmt: skip
        self.phases.append(attend)
        kinds = ("value", "key", "query")
        pairs = zip(kinds, reversed(projections), strict=True)
        return [self._project(kind, end, "stream") for kind, end in pairs]

    def _share(self, op: FixedAttention, turned: list[FixedRotary]) -> None:
        """What this layer's attention has, as all others."""
        heads, width = static_shape(op.type.shape[2:])
        groups, context = static_shape(op.keys.type.shape[1:3])
        tables = [_expect(v.turn, Gather, "a table of turns").table for v in turned]
        turns = _weight(tables[0])
        assert turns is not None
        found = Attention(heads, groups, width, context, turns)
        if tables[1] is not turns or self.attention not in (None, found):
            raise _refuse(op, f"the same heads in every layer, not {self.attention} and {found}")
        self.attention = found

    def _mixer(self, product: FixedProduct, normed: FixedRmsNorm) -> list[Value]:
        """P = norm(g) * silu(h): phases forget, state, store and gate, here the last first."""
        other = product.b if normed is product.a else product.a
        norm = _expect(normed.n, FixedNormalize, "a norm")
        g = _expect(norm.x, FixedRequantize, "a norm of the projection g")
        h_narrow, fraction = _silu(_expect(other, FixedProduct, "silu of the state"))
        h = _expect(_expect(h_narrow, FixedShift, "a state").x, FixedRecurrence, "a state")
        state = _expect(h.h0, Input, "a state that comes from outside")
        self.states.append(state.name)
        self._phase("gate", normed, norm, "gate", normed.gain, None)
        sources = [self._project("store", g, "stream")]
        i, i_fraction = _silu(_expect(h.c, FixedProduct, "silu of the projection i"))
        if i_fraction != fraction:
            raise _refuse(h, "one fraction for the state and what goes into it")
        i_end = _expect(i, FixedRequantize, "the projection i")
        sources.append(self._project("state", i_end, "stream", fraction))
        return [*sources, self._forget(h.f)]

    def _forget(self, f: Value) -> Value:
        bounded = producer(f)
        bound = None
        if isinstance(bounded, FixedForget):
            bound, f = _weight(bounded.bound), bounded.s
        s = _expect(f, FixedSigmoid, "a sigmoid of the projection f")
        end = _expect(s.x, FixedRequantize, "the projection f")
        return self._project("forget", end, "stream", s.fraction, bound)


def _silu(product: FixedProduct) -> tuple[Value, int]:
    """(x, fraction) of x * sigmoid(x)."""
    for x, gate in ((product.a, product.b), (product.b, product.a)):
        if isinstance(gate, FixedSigmoid) and gate.x is x and product.shift == 16:
            return x, gate.fraction
    raise _refuse(product, "silu")


def _same_norm(a: Phase, b: Phase) -> bool:
    return (a.source, a.inner_gain, a.eps_mantissa, a.eps_exponent) == (
        b.source, b.inner_gain, b.eps_mantissa, b.eps_exponent
    )  # fmt: skip
