"""Attention with a key-value cache: rotary positions, appending to the cache, the weighted sum.

A cache [B, G, S, D] is a state: G groups of heads share its keys or values, S is the largest
context, and a second state i64[B] says how many positions of each sequence it holds.  What lies
behind them is no part of the state.  A prompt and a single token are the same operations, with
T positions or one.

A cache may hold codes of 8 bits, with a cache of steps [B, G, S, 1] beside it: a number is
(code - `ZERO`) * step.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from mmc.ir.op import Op, Value
from mmc.ir.types import DType, TensorType

POSITION = "position"
"""The state i64[B] of a language model with caches: how many positions they hold."""

ZERO = 128
"""The code of zero: unsigned, because the rows of int8 tensors are padded in memory."""


class Rotary(Op, mnemonic="rotary"):
    """Turn the pairs (x[j], x[j + D/2]) of each head by the angle of their position.

    y[j] = x[j] * cos[j] - x[j + D/2] * sin[j], y[j + D/2] = x[j + D/2] * cos[j] + x[j] * sin[j];
    x [B, T, heads, D], cos and sin [B, T, D/2].  Rotary position embedding (arXiv:2104.09864).
    """

    x: Value
    cos: Value
    sin: Value

    positionwise: ClassVar[bool] = True

    def infer(self) -> TensorType:
        x, cos, sin = self.x.type, self.cos.type, self.sin.type
        self.require(x.rank == 4 and x.dtype is DType.F32, f"x must be f32[B, T, heads, D]: {x}")
        half, fits = cos.shape[-1:], cos.dtype is DType.F32 and cos == sin
        fits = fits and cos.shape[:-1] == x.shape[:2] and half[0] * 2 == x.shape[3]
        self.require(fits, f"cos is {cos}, sin is {sin}, x is {x}")
        return x

    def reference(self, x: np.ndarray, cos: np.ndarray, sin: np.ndarray) -> np.ndarray:
        pairs = np.stack(np.split(x, 2, axis=-1), axis=-1)
        turned = (pairs[..., 0] + 1j * pairs[..., 1]) * (cos + 1j * sin)[:, :, None]
        return np.concatenate([turned.real, turned.imag], axis=-1).astype(x.dtype)


class CacheAppend(Op, mnemonic="cache_append"):
    """The cache with y[b, g, position[b] + t] = x[b, t, g] for each t < lengths[b].

    cache [B, G, S, D], x [B, T, G, D].  What would lie outside of the cache is dropped.  Only a
    target may do this in place.
    """

    cache: Value
    x: Value
    position: Value
    lengths: Value

    def infer(self) -> TensorType:
        cache, x = self.cache.type, self.x.type
        fits = cache.rank == x.rank == 4 and cache.dtype is x.dtype
        fits = fits and x.shape[::2] == cache.shape[:2] and x.shape[3] == cache.shape[3]
        self.require(fits, f"cache is {cache}, x is {x}: not [B, G, S, D] and [B, T, G, D]")
        for name in ("position", "lengths"):
            given = getattr(self, name).type
            self.require(given == TensorType(DType.I64, cache.shape[:1]), f"{name} is {given}")
        return cache

    def reference(
        self, cache: np.ndarray, x: np.ndarray, position: np.ndarray, lengths: np.ndarray
    ) -> np.ndarray:
        y = cache.copy()
        for b, t in np.ndindex(*x.shape[:2]):
            if t < lengths[b] and 0 <= position[b] + t < cache.shape[2]:
                y[b, :, position[b] + t] = x[b, t]
        return y


def _check_heads(op: Op, q: TensorType, keys: TensorType, position: TensorType) -> None:
    """Raise VerifyError where heads do not fit caches of keys [B, G, S, D]."""
    op.require(q.rank == 4 and q.dtype is DType.F32, f"q must be f32[B, T, heads, D]: {q}")
    fits = keys.rank == 4 and keys.shape[0] == q.shape[0] and keys.shape[3] == q.shape[3]
    op.require(fits, f"keys are {keys}, q is {q}")
    heads, groups = q.shape[2], keys.shape[1]
    whole = isinstance(heads, int) and isinstance(groups, int) and heads % groups == 0
    op.require(whole, f"{heads} heads cannot share {groups} groups")
    op.require(position == TensorType(DType.I64, q.shape[:1]), f"position is {position}")


def _attended(
    q: np.ndarray, keys: np.ndarray, values: np.ndarray, position: np.ndarray, scale: float
) -> np.ndarray:
    """One position of one head at a time."""
    y = np.zeros_like(q)
    each = q.shape[2] // keys.shape[1]
    for b, t, h in np.ndindex(*q.shape[:3]):
        past = slice(0, position[b] + t + 1)
        scores = keys[b, h // each, past] @ q[b, t, h] * np.float32(scale)
        weights = np.exp(scores - scores.max())
        y[b, t, h] = weights / weights.sum() @ values[b, h // each, past]
    return y


class Attention(Op, mnemonic="attention"):
    """y[b, t, h] = sum over s of p[s] * values[b, g, s], for s from 0 to position[b] + t.

    p = softmax over s of scale * (q[b, t, h] . keys[b, g, s]); q [B, T, heads, D], keys and values
    [B, G, S, D] hold the T new positions already, position is where they begin.  Head h reads
    group g = h // (heads / G) (arXiv:1706.03762, section 3.2.1; groups: arXiv:2305.13245).
    """

    q: Value
    keys: Value
    values: Value
    position: Value
    scale: float

    def infer(self) -> TensorType:
        q, keys, values = self.q.type, self.keys.type, self.values.type
        same = keys == values and keys.dtype is DType.F32
        self.require(same, f"keys are {keys}, values are {values}, q is {q}")
        _check_heads(self, q, keys, self.position.type)
        return q

    def reference(
        self, q: np.ndarray, keys: np.ndarray, values: np.ndarray, position: np.ndarray
    ) -> np.ndarray:
        return _attended(q, keys, values, position, self.scale)


class AttentionCodes(Op, mnemonic="attention_codes"):
    """`attention` over caches of codes: keys = (key_codes - 128) * key_steps, values likewise.

    codes u8[B, G, S, D], steps f32[B, G, S, 1]: one for each group and position.
    """

    q: Value
    key_codes: Value
    key_steps: Value
    value_codes: Value
    value_steps: Value
    position: Value
    scale: float

    def infer(self) -> TensorType:
        keys, steps = self.key_codes.type, self.key_steps.type
        self.require(keys.dtype is DType.U8 and keys.rank == 4, f"codes are {keys}, not u8")
        self.require(keys == self.value_codes.type, f"codes are {keys}, {self.value_codes.type}")
        wanted = TensorType(DType.F32, (*keys.shape[:-1], 1))
        same = steps == self.value_steps.type == wanted
        self.require(same, f"steps are {steps} and {self.value_steps.type}, not {wanted}")
        _check_heads(self, self.q.type, keys, self.position.type)
        return self.q.type

    def reference(
        self,
        q: np.ndarray,
        key_codes: np.ndarray,
        key_steps: np.ndarray,
        value_codes: np.ndarray,
        value_steps: np.ndarray,
        position: np.ndarray,
    ) -> np.ndarray:
        keys = (key_codes.astype(np.float32) - ZERO) * key_steps
        values = (value_codes.astype(np.float32) - ZERO) * value_steps
        return _attended(q, keys, values, position, self.scale)
