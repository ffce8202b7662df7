"""Lower a language model of ternary layers to whole numbers: what an FPGA computes, bit for bit.

Norms, gates, the recurrence and attention (`fixed_attention`) become operations of
`mmc.ir.ops.fixed` and its neighbours; the ternary products stay what they are.  The fraction of
every number follows from the model's weights (`fixed_ranges`), so that nothing leaves its width
whatever the text is.  A norm of a norm is one: the inner scale drops out, and of its eps nothing is
left that int8 codes would show.

This pass changes numbers: perplexity says by how much (docs/fpga.md), the interpreter runs what
it makes and is what the FPGA is held to.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from mmc.ir.fixed_point import NARROW, STATE_SHIFT, TABLE_FRACTION, WIDE
from mmc.ir.graph import Graph, Mapped
from mmc.ir.op import Op, Value, origin, producer
from mmc.ir.ops import fixed
from mmc.ir.ops import fixed_gates as gates
from mmc.ir.ops.attention import Attention, CacheAppend, Rotary
from mmc.ir.ops.linear import Linear
from mmc.ir.ops.norm import RmsNorm, RmsStatistic
from mmc.ir.ops.pointwise import Add, Cast, Cos, Mul, Relu, Sigmoid, Silu, Sin, Square, Sub
from mmc.ir.ops.recurrence import LinearRecurrence
from mmc.ir.ops.shape import Gather, Reshape, Slice, TakePosition
from mmc.ir.ops.source import Constant, Input, Weight
from mmc.ir.ops.ternary import Dequantize, RmsNormQuantize, ScaleQuantize, TernaryMatmul
from mmc.ir.tensors import Tensors
from mmc.ir.types import static_shape
from mmc.passes.base import Log, Pass
from mmc.passes.fixed_attention import append, attention, dense_head, rotary, whole_state
from mmc.passes.fixed_numbers import Codes, Number, Numbers
from mmc.passes.fixed_ranges import fraction_for, largest_of, refusal, scalar_of
from mmc.passes.gate_patterns import bounded_gate, let_in, times_silu

LEAST_FRACTION = TABLE_FRACTION - STATE_SHIFT
"""Fewer fraction bits than these and a state would not reach the step of the sigmoid's table."""

SQUARE_SHIFT = 2 * (NARROW - 1) - (WIDE - 1)
"""What the square of a number of 18 bits loses to fit 27."""

LARGEST_EPS = 1e-3
"""Of a norm of a norm: the outer eps beside the mean square of the inner gains."""


@dataclass(frozen=True)
class ToFixedPoint(Pass):
    name: ClassVar[str] = "to-fixed-point"
    exact: ClassVar[bool] = False

    def run(self, graph: Graph, tensors: Tensors, log: Log) -> tuple[Graph, Mapped]:
        lowering = _Lowering(graph, tensors, log)
        return lowering.run(), {v: v for op in graph if lowering.kept(op) for v in op.results}


class _Lowering(Numbers):
    """One graph on its way."""

    def run(self) -> Graph:
        for op in self.graph:
            lower = LOWER.get(type(op))
            if lower is None or self.kept(op):
                continue
            with origin(op.origin):
                made = lower(self, op)
            if made is not None:
                self.numbers[op] = made
                self.log.fire(op, op.mnemonic, _told(made))
        outputs = tuple((name, self._output(value)) for name, value in self.graph.outputs)
        inputs = tuple(whole_state(op, self._cached(op)) for op in self.graph.inputs)
        return Graph(self.graph.name, inputs, outputs)

    def kept(self, op: Op) -> bool:
        """What holds no floats stays: tokens, lengths, positions."""
        return all(
            not v.type.dtype.is_float for v in (*op.results, *op.operands)
        ) and not isinstance(op, TernaryMatmul)

    def _cached(self, op: Input) -> bool:
        return any(isinstance(user, CacheAppend) for user in self.graph.users[op])

    def _output(self, value: Value) -> Value:
        found = value if self.kept(producer(value)) else self.outputs.get(value)
        if found is None and value in self.numbers:
            found = self.numbers[value].value
        if found is None:
            blamed = self._without_form()
            raise refusal(f"{blamed.mnemonic} has no form in whole numbers here", blamed)
        return found

    def _without_form(self) -> Op:
        """The first operation of a kind that nothing is known of, or that fitted nowhere."""
        sources = (Weight, Constant, Input)
        loose = [op for op in self.graph if not isinstance(op, sources) and not self.kept(op)]
        strange = [op for op in loose if type(op) not in (*LOWER, *ABSORBED)]
        return (strange or [op for op in loose if op not in self.numbers])[0]

    # Operations, one by one; None where another operation takes this one in.

    def embedding(self, op: Gather) -> Number:
        table, fraction = self.integers.sixteen(op.table)
        wanted = self.ranges.stream_fraction
        wide = gates.FixedShift(Gather(table, op.indices), fraction - wanted)
        return Number(wide, WIDE, wanted, float(np.abs(self.ranges.floats(op.table)).max()))

    def same(self, op: Cast) -> Number | None:
        return self.numbers.get(op.x)

    def moved(self, op: Slice | TakePosition | Reshape) -> Number | None:
        x = self.numbers.get(op.x)
        return x and replace(x, value=op.rebuild(lambda v: x.value if v is op.x else v))

    def _normalized(self, x: Value, eps: float, op: Op) -> fixed.FixedNormalize | None:
        inner = producer(x)
        if isinstance(inner, RmsNorm) and inner.x in self.numbers:
            gain, _ = self.integers.gain(inner.gain)
            (columns,) = static_shape(inner.x.type.shape[-1:])
            square = float(np.square(self.ranges.gain(inner.gain, columns)).mean())
            if eps > LARGEST_EPS * square:
                raise refusal(f"eps {eps} counts beside gains of mean square {square:.1e}", op)
            return fixed.FixedNormalize(self.numbers[inner.x].value, gain, 0, 0)
        if x not in self.numbers:
            return None
        return self.plain_norm(self.numbers[x], eps)

    def quantized(self, op: RmsNormQuantize | ScaleQuantize) -> None:
        by = op.by
        if (by.range, by.granularity) != (127.0, "token") or by.low > -127 or by.high < 127:
            raise refusal(f"activations are quantised by {by}; only 127 a token is built", op)
        statistic = producer(op.r) if isinstance(op, ScaleQuantize) else op
        if not isinstance(statistic, RmsNormQuantize | RmsStatistic) or statistic.x is not op.x:
            raise refusal("scales by something that is not the norm of its own vector", op)
        made = self._normalized(op.x, statistic.eps, op)
        if made is None:
            return
        gain, fraction = self.integers.gain(op.gain)
        n, r, e = made.results
        q, m, exponent = fixed.FixedQuantize(n, gain, r, e).results
        (columns,) = static_shape(n.type.shape[-1:])
        unit = math.sqrt(columns) / 127 * 2.0**-fraction
        self.codes[op.results[0]] = Codes(q, m, exponent, unit)

    def dequantized(self, op: Dequantize) -> Number | None:
        product = self.ranges.product(op)
        if product.x not in self.codes:
            return None
        codes, bound = self.codes[product.x], self.ranges.bounds[op]
        sums = TernaryMatmul(codes.q, product.w)
        real = codes.unit * self.ranges.scale(op)
        if op in self.graph.values:
            self.outputs[op] = fixed.FixedLogits(sums, codes.m, codes.e, *scalar_of(real))
            return None
        if self.ranges.reaches(op, (Rotary,)):
            bound *= math.sqrt(2)  # a pair may be turned onto one of its axes
        bits, fraction = NARROW, fraction_for(bound, NARROW)
        if self.ranges.is_residual(op):
            bits, fraction = WIDE, self.ranges.stream_fraction
        elif self.ranges.reaches(op, (Sigmoid, Silu)):
            fraction = min(fraction, TABLE_FRACTION)
            if fraction < LEAST_FRACTION:
                raise refusal(f"reaches {bound:.0f}, too much for a table of sigmoid", op)
        mantissa, exponent = scalar_of(real * 2.0**fraction)
        value = fixed.FixedRequantize(sums, codes.m, codes.e, mantissa, exponent, bits)
        return Number(value, bits, fraction, bound)

    def _narrow(self, value: Value) -> Number | None:
        """A number of 18 bits: as it is, a state without its last bits, or a norm's result."""
        made = producer(value)
        if isinstance(made, RmsNorm) and made.x in self.numbers:
            return self._normed(made)
        x = self.numbers.get(value)
        if x is None or x.bits == NARROW:
            return x
        return Number(
            gates.FixedShift(x.value, STATE_SHIFT), NARROW, x.fraction - STATE_SHIFT, x.bound
        )

    def _normed(self, op: RmsNorm) -> Number:
        n, r, e = self.plain_norm(self.numbers[op.x], op.eps).results
        gain, gain_fraction = self.integers.gain(op.gain)
        (columns,) = static_shape(n.type.shape[-1:])
        bound = largest_of(self.ranges.gain(op.gain, columns))
        fraction = fraction_for(bound, NARROW)
        constant = scalar_of(math.sqrt(columns) * 2.0 ** (fraction - gain_fraction))
        value = fixed.FixedRmsNorm(n, gain, r, e, *constant, NARROW)
        return Number(value, NARROW, fraction, bound)

    def sigmoid(self, op: Sigmoid) -> Number | None:
        x = self._narrow(op.x)
        return x and Number(gates.FixedSigmoid(x.value, x.fraction), NARROW, 16, 1.0)

    def silu(self, op: Silu) -> Number | None:
        return self._silu(op.x)

    def _silu(self, value: Value) -> Number | None:
        x = self._narrow(value)
        return x and replace(
            x, value=gates.FixedProduct(x.value, gates.FixedSigmoid(x.value, x.fraction), 16)
        )

    def relu(self, op: Relu) -> Number | None:
        x = self.numbers.get(op.x)
        return x and replace(x, value=Relu(x.value))

    def square(self, op: Square) -> Number | None:
        """In 27 bits: most of relu(x)^2 is far below its largest number."""
        x = self._narrow(op.x)
        if x is None:
            return None
        value = gates.FixedProduct(x.value, x.value, SQUARE_SHIFT)
        return Number(value, WIDE, 2 * x.fraction - SQUARE_SHIFT, x.bound**2)

    def product(self, op: Mul) -> Number | None:
        """a * b; and (p * h) * sigmoid(h) as p * silu(h), which loses less."""
        if found := times_silu(op):
            return _times(self._narrow(found[0]), self._silu(found[1]))
        for square, other in ((op.x, op.y), (op.y, op.x)):
            if isinstance(square, Square):
                return _times(self.numbers.get(square), self._narrow(other), NARROW - 1)
        return _times(self._narrow(op.x), self._narrow(op.y))

    def sum(self, op: Add) -> Number | None:
        if found := bounded_gate(op):
            return self._forget(op, *found)
        a, b = self.numbers.get(op.x), self.numbers.get(op.y)
        if a is None or b is None:
            return None
        if (a.bits, b.bits, a.fraction) != (WIDE, WIDE, b.fraction):
            raise refusal("adds numbers that are not of the residual stream", op)
        return replace(a, value=gates.FixedAdd(a.value, b.value), bound=a.bound + b.bound)

    def _forget(self, op: Add, bound: Weight, share: Weight, gate: Value) -> Number | None:
        """bound + (1 - bound) * gate."""
        s = self.numbers.get(gate)
        low = self.ranges.floats(bound)
        if np.abs(low + self.ranges.floats(share) - 1).max() > 1e-5 or not low.min() >= 0:
            raise refusal("is not a gate between a lower bound and one", op)
        return s and replace(s, value=gates.FixedForget(s.value, self.integers.gate(bound)))

    def recurrence(self, op: LinearRecurrence) -> Number | None:
        """h = f * h + (1 - f) * c: a mean of what went in, so it needs no room of its own."""
        f, new = self.numbers.get(op.a), let_in(op)
        c = None if new is None else self._narrow(new)
        if f is None or c is None or not isinstance(op.h0, Input):
            return None
        value = gates.FixedRecurrence(f.value, c.value, whole_state(op.h0, cached=False), op.axis)
        return Number(value, WIDE, c.fraction + STATE_SHIFT, c.bound)


def _times(a: Number | None, b: Number | None, shift: int = STATE_SHIFT) -> Number | None:
    if a is None or b is None:
        return None
    fraction = a.fraction + b.fraction - shift
    value = gates.FixedProduct(a.value, b.value, shift)
    return Number(value, WIDE, fraction, a.bound * b.bound)


def _told(made: Number) -> str:
    return f"{made.bits} bits, {made.fraction} of them fraction; at most {made.bound:.3g}"


LOWER: dict[type[Op], Callable[[_Lowering, Any], Number | None]] = {
    Gather: _Lowering.embedding, Cast: _Lowering.same, Slice: _Lowering.moved,
    TakePosition: _Lowering.moved, Reshape: _Lowering.moved,
    RmsNormQuantize: _Lowering.quantized, ScaleQuantize: _Lowering.quantized,
    Dequantize: _Lowering.dequantized, Sigmoid: _Lowering.sigmoid, Silu: _Lowering.silu,
    Relu: _Lowering.relu, Square: _Lowering.square, Mul: _Lowering.product, Add: _Lowering.sum,
    LinearRecurrence: _Lowering.recurrence, Rotary: rotary, CacheAppend: append,
    Attention: attention, Linear: dense_head,
}  # fmt: skip

ABSORBED: tuple[type[Op], ...] = (RmsNorm, RmsStatistic, Sub, TernaryMatmul, Cos, Sin)
"""What others take in."""

PASS = ToFixedPoint
