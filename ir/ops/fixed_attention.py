"""Whole numbers alone: attention with a key-value cache, and a dense head; see `fixed`.

A cache holds 16 bits a number, with one power of two for each layer's keys and one for its values:
what an embedding has, and half of what floats would take of the memory.  Scores have 27 bits, in
steps of 2^-fraction of a power of two: a softmax of base 2 needs a table of 256 steps and a shift.
"""

from __future__ import annotations

import numpy as np

from mmc.ir.fixed_point import (
    CACHE_BITS,
    NARROW,
    ONE,
    POWER_FRACTION,
    TURN_FRACTION,
    WIDE,
    as_i32,
    as_i64,
    mean_of,
    power_of_half,
    round_shift,
    saturate,
)
from mmc.ir.op import Op, Value
from mmc.ir.ops.fixed import FixedOp
from mmc.ir.types import DType, TensorType


class FixedRotary(FixedOp, mnemonic="fixed_rotary"):
    """Turn the pairs (x[j], x[j + D/2]) of each head: `rotary`, with cosines and sines of 16 bits.

    x i32[B, T, heads, D] has 18 bits, and so has the result; turn i16[B, T, D] holds D/2 cosines
    and D/2 sines, times 2^14.  Half up, saturating.
    """

    x: Value
    turn: Value

    def infer(self) -> TensorType:
        x, turn = self.x.type, self.turn.type
        fits = x.rank == 4 and x.dtype is DType.I32 and turn.dtype is DType.I16
        fits = fits and turn.shape == (*x.shape[:2], x.shape[3])
        self.require(fits, f"x is {x}, turn is {turn}: not i32[B, T, heads, D] and i16[B, T, D]")
        return x

    def reference(self, x: np.ndarray, turn: np.ndarray) -> np.ndarray:
        x, turn = as_i64(x, turn)
        cos, sin = np.split(turn[:, :, None], 2, axis=-1)
        first, second = np.split(x, 2, axis=-1)
        turned = np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
        return as_i32(saturate(round_shift(turned, TURN_FRACTION), NARROW))


class FixedNarrow(FixedOp, mnemonic="fixed_narrow"):
    """y = x * 2^-right in 16 bits, rounded half up, saturating: what goes into a cache."""

    x: Value
    right: int

    def infer(self) -> TensorType:
        self.integers(self.x)
        self.require(self.right > 0, f"shift is {self.right}")
        return self.x.type.with_dtype(DType.I16)

    def reference(self, x: np.ndarray) -> np.ndarray:
        rounded = round_shift(x.astype(np.int64), self.right)
        return saturate(rounded, CACHE_BITS).astype(np.int16)


class FixedAttention(Op, mnemonic="fixed_attention"):
    """`attention` over caches of 16 bits: y * 2^-11 is the mean of the values, in 27 bits.

    q i32[B, T, heads, D] of 18 bits, keys and values i16[B, G, S, D].  A score is the sum of
    q * key, times mantissa * 2^-exponent (which holds the scale and log2 e), in steps of
    2^-fraction; a value's share is 2^(score - the largest score).
    """

    q: Value
    keys: Value
    values: Value
    position: Value
    mantissa: int
    exponent: int
    fraction: int

    def infer(self) -> TensorType:
        q, keys, values = self.q.type, self.keys.type, self.values.type
        fits = q.rank == keys.rank == 4 and q.dtype is DType.I32 and keys.dtype is DType.I16
        fits = fits and keys == values and (keys.shape[0], keys.shape[3]) == (
            q.shape[0], q.shape[3]
        )  # fmt: skip
        self.require(fits, f"q is {q}, keys are {keys}, values are {values}")
        heads, groups = q.shape[2], keys.shape[1]
        whole = isinstance(heads, int) and isinstance(groups, int) and heads % groups == 0
        self.require(whole, f"{heads} heads cannot share {groups} groups")
        position = self.position.type
        self.require(position == TensorType(DType.I64, q.shape[:1]), f"position is {position}")
        self.require(ONE // 2 <= self.mantissa < ONE, f"the mantissa {self.mantissa}: not 16 bits")
        self.require(0 < self.exponent < 62, f"the exponent is {self.exponent}")
        known = POWER_FRACTION // 2 <= self.fraction <= POWER_FRACTION
        self.require(known, f"no table for {self.fraction} fraction bits")
        return q

    def reference(
        self, q: np.ndarray, keys: np.ndarray, values: np.ndarray, position: np.ndarray
    ) -> np.ndarray:
        q, keys, values = as_i64(q, keys, values)
        y = np.zeros(q.shape, np.int32)
        each = q.shape[2] // keys.shape[1]
        for b, t, h in np.ndindex(*q.shape[:3]):
            past = slice(0, position[b] + t + 1)
            dots = keys[b, h // each, past] @ q[b, t, h]
            scores = saturate(round_shift(dots * self.mantissa, self.exponent), WIDE)
            shares = power_of_half(scores.max() - scores, self.fraction)
            y[b, t, h] = mean_of(values[b, h // each, past], shares)
        return y


class FixedTriple(FixedOp, mnemonic="fixed_triple"):
    """y = 3 * high + low: the products of a dense matrix that is written in ternary digits."""

    high: Value
    low: Value

    def infer(self) -> TensorType:
        self.integers(self.high, self.low)
        self.require(self.high.type == self.low.type, f"{self.high.type} and {self.low.type}")
        return self.high.type

    def reference(self, high: np.ndarray, low: np.ndarray) -> np.ndarray:
        high, low = as_i64(high, low)
        return as_i32(3 * high + low)
