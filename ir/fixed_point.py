"""The arithmetic of whole numbers that an FPGA does: one definition for every place that needs it.

A real number is an integer times 2^-fraction; the pass `to-fixed-point` chooses the fractions and
says why nothing leaves its width.  Widths, in bits: 27 and 18 are the two ports of a multiplier
(DSP48E2), 16 that of a constant.  Three rules hold everywhere:

    >>            floor, also below zero
    half up       (v + 2^(k-1)) >> k: what `round_shift` does
    m * 2^-e      what one vector needs of a real number: m has 16 bits, 2^15 <= m < 2^16

There is no division but two for a vector and one for a head of attention, 16 steps of shift and
subtract each, and one root.
"""

from __future__ import annotations

import numpy as np

Scalar = tuple[np.ndarray, np.ndarray]
"""Mantissas and exponents: m * 2^-e."""

WIDE, NARROW = 27, 18
"""Bits of the residual stream, of states and of products; bits of everything else."""

ONE = 1 << 16
"""1.0 as a gate has it."""

STATE_SHIFT = NARROW // 2
"""Bits that a state has below those of what goes into it: small steps must not get lost."""

NORM_BITS, CODE_BITS = NARROW - 1, 16
"""Bits without sign to which a vector is brought before its norm, and before its int8 codes."""

SMALLEST_SHIFT, LARGEST_SHIFT = 1, 47
TABLE_FRACTION, TABLE_STEP = 13, 8
"""Fraction bits of the position in the sigmoid's table; bits of it between two entries."""


def as_i64(*arrays: np.ndarray) -> list[np.ndarray]:
    """Arrays in which sums and products of two numbers have room."""
    return [array.astype(np.int64) for array in arrays]


def as_i32(v: np.ndarray) -> np.ndarray:
    return v.astype(np.int32)


def bit_length(v: np.ndarray) -> np.ndarray:
    """Bits of v >= 0; 0 has none."""
    return sum((np.asarray(v >> k > 0, np.int64) for k in range(63)), np.zeros_like(v))


def shift_right(v: np.ndarray, k: np.ndarray | int) -> np.ndarray:
    """Floor of v * 2^-k; k may be negative."""
    k = np.asarray(k)
    return v << np.maximum(-k, 0) >> np.maximum(k, 0)


def round_shift(v: np.ndarray, k: np.ndarray | int) -> np.ndarray:
    """v * 2^-k, halves up; k may be negative."""
    k = np.asarray(k)
    return shift_right(v + (np.where(k > 0, 1, 0) << np.maximum(k - 1, 0)), k)


def saturate(v: np.ndarray, bits: int) -> np.ndarray:
    """The nearest number that fits, the lowest one left out."""
    largest = (1 << (bits - 1)) - 1
    return np.clip(v, -largest, largest)


def multiply_scalars(a: Scalar, b: Scalar) -> Scalar:
    """The product of two scalars, its mantissa cut to 16 bits."""
    product = a[0] * b[0]
    drop = np.where(product >> 31 > 0, 16, 15)
    return product >> drop, a[1] + b[1] - drop


def root_and_reciprocal(total: np.ndarray) -> Scalar:
    """1 / sqrt(total) as a scalar: total is brought to 32 bits, its root has 16."""
    half = (bit_length(total) + 1) // 2 - 16
    root = np.floor(np.sqrt(shift_right(total, 2 * half).astype(np.float64))).astype(np.int64)
    return ((1 << 31) - 1) // root, 31 + half


def sigmoid_table() -> np.ndarray:
    """65536 * sigmoid at -16, -16 + 1/32, ... 16: 1025 entries of 16 bits."""
    x = np.arange(1025) / 32 - 16
    return np.minimum(np.rint(ONE / (1 + np.exp(-x))), ONE - 1).astype(np.int64)


def sigmoid(x: np.ndarray, fraction: int) -> np.ndarray:
    """Of x * 2^-fraction, times 65536: from the table, with a straight line between entries."""
    table, between = sigmoid_table(), 1 << TABLE_STEP
    p = np.clip((x << (TABLE_FRACTION - fraction)) + (1 << 17), 0, (1 << 18) - 1)
    entry, rest = p >> TABLE_STEP, p & (between - 1)
    rise = table[entry + 1] - table[entry]
    return table[entry] + ((rise * rest + between // 2) >> TABLE_STEP)


def largest(v: np.ndarray) -> np.ndarray:
    return np.abs(v).max(-1, keepdims=True)


def codes(n: np.ndarray, gain: np.ndarray | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """n * gain brought to 16 bits: (w, their largest, the shift t that did it)."""
    u = n << 15 if gain is None else n * gain
    top = largest(u)
    t = np.where(top > 0, bit_length(top) - CODE_BITS, 0)
    return shift_right(u, t), np.where(top > 0, shift_right(top, t), 1 << 15), t


# Attention.

CACHE_BITS = 16
TURN_FRACTION = 14
"""Fraction bits of cosines and sines."""
POWER_FRACTION = 16
"""The most fraction bits of a score."""
SHARE_BITS = 24
"""2^24 is the share of the largest score."""
MEAN_SHIFT = WIDE - CACHE_BITS
"""Bits that a mean of values has below those of the values."""


def power_table() -> np.ndarray:
    """2^18 * 2^-(n / 256) for n from 0 to 256: 257 entries of 19 bits."""
    return np.rint(2.0 ** (18 - np.arange(257) / 256)).astype(np.int64)


def power_of_half(x: np.ndarray, fraction: int) -> np.ndarray:
    """2^24 * 2^-(x * 2^-fraction), x >= 0: straight lines between the table's entries, a shift."""
    table, x = power_table(), x << (POWER_FRACTION - fraction)
    entry, rest = x >> 8 & 255, x & 255
    fall = table[entry] - table[entry + 1]
    power = table[entry] - ((fall * rest + 128) >> 8)
    return power << (SHARE_BITS - 18) >> np.minimum(x >> POWER_FRACTION, 31)


def mean_of(values: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """The mean of rows values [S, D] by their shares [S], times 2^11; one reciprocal a mean."""
    total, sums = shares.sum(), shares @ values
    drop = bit_length(total) - 16
    reciprocal = ((1 << 31) - 1) // (total >> drop)
    mean = round_shift((sums >> (drop + 8)) * reciprocal, 31 - 8 - MEAN_SHIFT)
    return saturate(mean, WIDE)
