"""The phases of a token, read from a graph of whole numbers: what an FPGA does, in order.

There is one engine.  A phase normalises a vector, quantises it, multiplies it by one matrix and
does something with each sum as it comes.  The phases of a layer, as the model was released:

    forget    F = sigmoid(f), between its lower bound and one
    state     H = F * H + (1 - F) * silu(i);  S = silu(H)
    store     G = g
    gate      P = norm(G) * S                                    no matrix
    residual  X = X + o, from the norm of P
    glu       P = silu(gate) * up, one matrix for both
    residual  X = X + down, from the norm of P

and behind the last layer `head`.  A graph of another form is refused, naming what differs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeVar

from mmc.errors import MmcError
from mmc.ir.graph import Graph
from mmc.ir.op import Op, Value, producer
from mmc.ir.ops.fixed import (
    FixedLogits,
    FixedNormalize,
    FixedQuantize,
    FixedRequantize,
    FixedRmsNorm,
)
from mmc.ir.ops.fixed_gates import (
    FixedAdd,
    FixedForget,
    FixedProduct,
    FixedRecurrence,
    FixedShift,
    FixedSigmoid,
)
from mmc.ir.ops.shape import Gather, Slice
from mmc.ir.ops.source import Input, Weight
from mmc.ir.ops.ternary import TernaryMatmul
from mmc.ir.types import static_shape

KINDS = ("forget", "state", "store", "gate", "residual", "glu", "head")
SOURCES = ("stream", "product", "gate")

_Kind = TypeVar("_Kind", bound=Op)


@dataclass(frozen=True)
class Phase:
    """One row of the sequencer's table."""

    kind: str
    name: str
    """The module path of what it computes."""
    layer: int
    """Counted from 0; behind the last for the head."""
    source: str
    """The vector that is normalised: "stream" (X), "product" (P) or "gate" (G)."""
    normalize: bool
    """False where the phase before has normalised the same vector in the same way."""
    inner_gain: Weight | None
    eps_mantissa: int
    eps_exponent: int
    gain: Weight | None
    matrix: Weight | None
    """[rows, columns]; None for the kind "gate"."""
    rows: int
    columns: int
    mantissa: int
    exponent: int
    """The constant of requantisation (or, for "gate", of the norm)."""
    fraction: int = 0
    """Fraction bits of what reaches the sigmoid: kinds forget, state and glu."""
    bound: Weight | None = None
    """The lower bound of a forget gate."""

    @property
    def vectors(self) -> tuple[Weight, ...]:
        """The vectors that it reads, in this order: of 16 bits a number."""
        inner = self.inner_gain if self.normalize else None
        return tuple(v for v in (inner, self.gain, self.bound) if v is not None)


@dataclass(frozen=True)
class Plan:
    """A model as the FPGA runs it."""

    embedding: Weight
    embedding_shift: int
    """X = embedding shifted right by that, to the left where it is negative."""
    phases: tuple[Phase, ...]
    states: tuple[str, ...]
    """The name of each layer's state."""

    @property
    def vocabulary(self) -> int:
        return static_shape(self.embedding.type.shape)[0]

    @property
    def hidden(self) -> int:
        return static_shape(self.embedding.type.shape)[1]

    @property
    def inner(self) -> int:
        """Numbers of a layer's state."""
        return next(p.rows for p in self.phases if p.kind == "state")

    @property
    def wide(self) -> int:
        """Numbers of a GLU's product."""
        return max(p.rows // 2 for p in self.phases if p.kind == "glu")

    @property
    def layers(self) -> int:
        return len(self.states)


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

    def read(self, graph: Graph) -> Plan:
        logits = _expect(dict(graph.outputs)["logits"], FixedLogits, "logits")
        stream = self._project("head", logits, "stream")
        while isinstance(add := producer(stream), FixedAdd):
            stream = self._block(add)
        wide = _expect(stream, FixedShift, "an embedding")
        gather = _expect(wide.x, Gather, "an embedding")
        table = _weight(gather.table)
        assert table is not None
        names = tuple(reversed(self.states))
        return Plan(table, wide.right, tuple(self._numbered()), names)

    def _numbered(self) -> list[Phase]:
        """In order, with layers counted, and norms that are shared marked."""
        found: list[Phase] = []
        layer = -1
        for phase in reversed(self.phases):
            layer += phase.kind == "forget"
            number = len(self.states) if phase.kind == "head" else layer
            shared = bool(found) and found[-1].kind != "residual" and _same_norm(found[-1], phase)
            found.append(replace(phase, layer=number, normalize=not shared))
        return found

    def _phase(
        self, kind: str, op: FixedRequantize | FixedLogits | FixedRmsNorm, norm: FixedNormalize,
        source: str, gain: Value | None, matrix: Weight | None,
    ) -> Phase:  # fmt: skip
        (rows,) = static_shape(op.type.shape[-1:])
        (columns,) = static_shape(norm.x.type.shape[-1:])
        phase = Phase(
            kind, op.origin.path if op.origin else "", 0, source, True, _weight(norm.gain),
            norm.eps_mantissa, norm.eps_exponent, _weight(gain), matrix, rows, columns,
            op.mantissa, op.exponent,
        )  # fmt: skip
        self.phases.append(phase)
        return phase

    def _project(
        self, kind: str, op: FixedRequantize | FixedLogits, source: str,
        fraction: int = 0, bound: Weight | None = None,
    ) -> Value:  # fmt: skip
        """A phase with a matrix; returns the vector that it normalises."""
        product = _expect(op.sums, TernaryMatmul, "a ternary product")
        codes = _expect(product.x, FixedQuantize, "int8 codes")
        norm = _expect(codes.n, FixedNormalize, "a norm")
        phase = self._phase(kind, op, norm, source, codes.gain, _weight(product.w))
        self.phases[-1] = replace(phase, fraction=fraction, bound=bound)
        return norm.x

    def _block(self, add: FixedAdd) -> Value:
        """One residual: a mixer or a GLU; returns the stream before it."""
        ends = [v for v in (add.a, add.b) if isinstance(v, FixedRequantize)]
        if len(ends) != 1:
            raise _refuse(add, "the residual stream and a projection")
        stream = add.b if ends[0] is add.a else add.a
        product = _expect(self._project("residual", ends[0], "product"), FixedProduct, "a product")
        norms = [v for v in (product.a, product.b) if isinstance(v, FixedRmsNorm)]
        sources = self._mixer(product, norms[0]) if norms else self._glu(product)
        if any(source is not stream for source in sources):
            raise _refuse(product, "what comes from the residual stream alone")
        return stream

    def _glu(self, product: FixedProduct) -> list[Value]:
        for gate, up in ((product.a, product.b), (product.b, product.a)):
            if isinstance(up, Slice) and isinstance(gate, FixedProduct):
                x, fraction = _silu(gate)
                first = _expect(x, Slice, "the first half of a projection")
                both = _expect(first.x, FixedRequantize, "a projection")
                halves = first.start == 0 and up.start == first.length and up.x is both
                if halves and both.type.shape[-1] == 2 * static_shape((first.length,))[0]:
                    return [self._project("glu", both, "stream", fraction)]
        raise _refuse(product, "silu(gate) * up, the two halves of one projection")

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
