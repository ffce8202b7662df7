"""Attention and a dense head in whole numbers: a part of `to-fixed-point`.

What is turned, or goes into a cache, comes from projections, whose bounds are known; a turned pair
is as long as before, so sqrt(2) is room enough.  A mean of values needs no room of its own.
A dense head is written in ternary digits: the engine multiplies it as six ternary matrices, and
no multiplier is needed (`fixed_triple`).
"""

from __future__ import annotations

import math

import numpy as np

from mmc.ir.fixed_point import CACHE_BITS, MEAN_SHIFT, NARROW, POWER_FRACTION, WIDE
from mmc.ir.fixed_point import TURN_FRACTION as TURN
from mmc.ir.op import Value, producer
from mmc.ir.ops import fixed
from mmc.ir.ops import fixed_attention as fixed_attention
from mmc.ir.ops.attention import Attention, CacheAppend, Rotary
from mmc.ir.ops.linear import Linear
from mmc.ir.ops.norm import RmsNorm
from mmc.ir.ops.pointwise import Cast, Clamp, Cos, Mul, Sin
from mmc.ir.ops.shape import Gather, Reshape
from mmc.ir.ops.source import Input, Weight
from mmc.ir.ops.ternary import TernaryMatmul
from mmc.ir.types import DType, TensorType, static_shape
from mmc.passes.fixed_numbers import Number, Numbers
from mmc.passes.fixed_ranges import MOST_COLUMNS, fraction_for, refusal, scalar_of

HEAD_DIGITS = 6
"""Ternary digits of a weight of a dense head: 729 steps, the largest weight half of them."""

LEAST_FRACTION = POWER_FRACTION // 2
"""Of a score: below, the table of powers would be read in steps larger than its own."""


def rotary(self: Numbers, op: Rotary) -> Number | None:
    """By a table of the cosines and sines of every position that a cache has."""
    x = self.numbers.get(op.x)
    if x is None:
        return None
    position, frequencies = _angles(op)
    table = _turns(self, op, frequencies)
    last = static_shape(table.type.shape[:1])[0] - 1
    turn = Gather(table, Clamp(position, 0, last))
    return Number(fixed_attention.FixedRotary(x.value, turn), NARROW, x.fraction, x.bound)


def _angles(op: Rotary) -> tuple[Value, Weight]:
    """(position i64[B, T], frequencies) of cos(position * frequencies) and its sine."""
    cos, sin = op.cos, op.sin
    if isinstance(cos, Cos) and isinstance(sin, Sin) and sin.x is cos.x:
        angles = producer(cos.x)
        pairs = [(angles.x, angles.y), (angles.y, angles.x)] if isinstance(angles, Mul) else []
        for steps, frequencies in pairs:
            whole = producer(steps)
            if isinstance(whole, Cast) and isinstance(frequencies, Weight):
                position = producer(whole.x)
                if isinstance(position, Reshape) and position.x.type.rank == 2:
                    return position.x, frequencies
    raise refusal("turns by angles that are not position times frequency", op)


def _turns(self: Numbers, op: Rotary, frequencies: Weight) -> Weight:
    """i16 [S, D]: D/2 cosines, D/2 sines; S is what the caches hold.

    Angles are those of f32, as the model has them; in f64 no processor rounds a cosine otherwise.
    """
    caches = [found for found in self.graph if isinstance(found, CacheAppend)]
    if not caches:
        raise refusal("turns something that goes into no cache", op)
    (context,) = static_shape(caches[0].type.shape[2:3])

    def turns() -> np.ndarray:
        floats = np.asarray(self.ranges.floats(frequencies), np.float32)
        angles = (np.arange(context, dtype=np.float32)[:, None] * floats).astype(np.float64)
        both = np.concatenate([np.cos(angles), np.sin(angles)], axis=1)
        return np.rint(both * (1 << TURN)).astype(np.int16)

    return self.integers.derived(f"{frequencies.name}.turns", DType.I16, turns)


def append(self: Numbers, op: CacheAppend) -> Number | None:
    x = self.numbers.get(op.x)
    if x is None or x.bits != NARROW or not isinstance(op.cache, Input):
        return None
    right = NARROW - CACHE_BITS
    narrow = fixed_attention.FixedNarrow(x.value, right)
    made = CacheAppend(whole_state(op.cache, cached=True), narrow, op.position, op.lengths)
    return Number(made, CACHE_BITS, x.fraction - right, x.bound)


def attention(self: Numbers, op: Attention) -> Number | None:
    """Scores in powers of two, in the finest steps that their bound leaves room for."""
    given = [self.numbers.get(v) for v in (op.q, op.keys, op.values)]
    q, keys, values = given
    if q is None or keys is None or values is None:
        return None
    if not isinstance(producer(op.q), Rotary):
        raise refusal("its queries are not turned by their position", op)
    (width,) = static_shape(op.type.shape[-1:])
    scale = op.scale * math.log2(math.e)
    fraction = min(fraction_for(width * q.bound * keys.bound * scale, WIDE), POWER_FRACTION)
    constant = scalar_of(scale * 2.0 ** (fraction - q.fraction - keys.fraction))
    if fraction < LEAST_FRACTION or not 0 < constant[1] < 62:
        reached = width * q.bound * keys.bound * op.scale
        raise refusal(f"scores reach {reached:.3g}: too much for a table of powers", op)
    made = fixed_attention.FixedAttention(
        q.value, keys.value, values.value, op.position, *constant, fraction
    )
    return Number(made, WIDE, values.fraction + MEAN_SHIFT, values.bound)


def whole_state(op: Input, cached: bool) -> Input:
    """A state as integers: of 16 bits where it is a cache."""
    if not op.type.dtype.is_float:
        return op
    return Input(op.name, op.type.with_dtype(DType.I16 if cached else DType.I32))


def dense_head(self: Numbers, op: Linear) -> None:
    """norm(x) in int8 times a matrix of floats, as ternary digits with one scale for all."""
    norm, matrix = producer(op.x), producer(op.w)
    if op not in self.graph.values:
        raise refusal("dense: of the layers that are not ternary the FPGA has the head alone", op)
    if not isinstance(matrix, Weight) or op.bias is not None:
        raise refusal("a dense head with a bias", op)
    if not isinstance(norm, RmsNorm) or norm.x not in self.numbers:
        raise refusal("a dense head of something that is not a norm", op)
    n, r, e = self.plain_norm(self.numbers[norm.x], norm.eps).results
    gain, fraction = self.integers.gain(norm.gain)
    q, m, exponent = fixed.FixedQuantize(n, gain, r, e).results
    digits, unit = _digits(self, matrix, op)
    high: Value | None = None
    for digit in digits:
        low = TernaryMatmul(q, digit)
        high = low if high is None else fixed_attention.FixedTriple(high, low)
    assert high is not None
    (columns,) = static_shape(n.type.shape[-1:])
    real = math.sqrt(columns) / 127 * 2.0**-fraction * unit
    self.outputs[op] = fixed.FixedLogits(high, m, exponent, *scalar_of(real))


def _digits(self: Numbers, matrix: Weight, op: Linear) -> tuple[list[Weight], float]:
    """The ternary matrices of a dense one, the highest digit first, and the lowest one's unit."""
    rows, columns = static_shape(matrix.type.shape)
    most = (3**HEAD_DIGITS - 1) // 2
    if columns > MOST_COLUMNS or 127 * columns * most >= 1 << 31:
        raise refusal(f"{columns} columns of a dense head: sums would leave 32 bits", op)
    largest = float(np.abs(np.asarray(self.ranges.tensors[matrix.name], np.float32)).max())
    unit = (largest or 1.0) / most

    def digit(n: int) -> np.ndarray:
        left = np.rint(np.asarray(self.ranges.tensors[matrix.name], np.float32) / unit)
        left = left.astype(np.int16)
        for _ in range(n):
            left = (left + 1) // 3  # what is left once the lowest digit is taken off
        return ((left + 1) % 3 - 1).astype(np.int8)

    kind = DType.TERNARY
    names = [(n, f"{matrix.name}.digit{n}") for n in reversed(range(HEAD_DIGITS))]
    shape = TensorType(kind, (rows, columns))
    return [self.ranges.tensors.add(f, shape, lambda n=n: digit(n)) for n, f in names], unit
