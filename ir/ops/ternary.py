"""The MatMul-free core: ternary projections and the quantised activations that feed them.

BitLinear (arXiv:2402.17764, arXiv:2406.02528 section 3.2): int8 activations with one scale a token,
weights in {-1, 0, 1} with one scale a tensor, row or group.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from mmc.ir import packing
from mmc.ir.op import Op, Value
from mmc.ir.ops.norm import rms_statistic
from mmc.ir.ops.pointwise import ROUNDINGS
from mmc.ir.types import DType, TensorType, static_shape

ORDER_ERROR = 32 * 2.0**-24
"""How far two orders of the products behind an activation are apart, relatively: each rounds at
most 16 times, by half a unit in the last place."""


@dataclass(frozen=True)
class AbsMax:
    """How activations are quantised: what differs, silently, between real checkpoints.

    scale = range / max(max|x|, eps); q = clamp(round(x * scale), low, high).
    granularity: "token" takes the maximum over the last axis, "tensor" over all.
    """

    range: float = 127.0
    low: int = -128
    high: int = 127
    eps: float = 1e-5
    rounding: str = "half_even"
    granularity: str = "token"

    def __post_init__(self) -> None:
        """One spelling: a checkpoint may say 127 or 127.0."""
        for name, kind in (("range", float), ("eps", float), ("low", int), ("high", int)):
            value = getattr(self, name)
            number = isinstance(value, int | float) and math.isfinite(value)
            if number and kind(value) == value:  # not the hole of a pattern
                object.__setattr__(self, name, kind(value))

    def quantize(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns q (int8) and the step 1 / scale (float32), so that x is about q * step."""
        axes = -1 if self.granularity == "token" else tuple(range(x.ndim))
        scale = self.scale(np.abs(x).max(axes, keepdims=True))
        return self.rounded(x * scale), (np.float32(1) / scale).astype(np.float32)

    def scale(self, largest: np.ndarray) -> np.ndarray:
        return np.float32(self.range) / np.maximum(largest, np.float32(self.eps))

    def rounded(self, x: np.ndarray) -> np.ndarray:
        return np.clip(ROUNDINGS[self.rounding](x), self.low, self.high).astype(np.int8)

    def types(self, x: TensorType) -> tuple[TensorType, TensorType]:
        if self.rounding not in ROUNDINGS:
            raise ValueError(f"unknown rounding {self.rounding!r}")
        if self.granularity not in ("token", "tensor"):
            raise ValueError(f"unknown granularity {self.granularity!r}")
        if not -128 <= self.low <= self.high <= 127:
            raise ValueError(f"[{self.low}, {self.high}] does not fit int8")
        steps = (*x.shape[:-1], 1) if self.granularity == "token" else (1,) * x.rank
        return x.with_dtype(DType.I8), TensorType(DType.F32, steps)


class Quantizes(Op):
    """An operation that ends in int8: results q (int8) and s (float32), x about q * s."""

    @property
    def how(self) -> AbsMax:
        """The attribute `by`."""
        return self.attributes["by"]

    @property
    def positionwise(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.how.granularity == "token"


class Quantize(Quantizes, mnemonic="quantize", results=("q", "s")):
    """(q, s) with q int8 and x about q * s."""

    x: Value
    by: AbsMax

    def infer(self) -> tuple[TensorType, TensorType]:
        self.require(self.x.type.dtype is DType.F32, f"x is {self.x.type.dtype}, not f32")
        return self.by.types(self.x.type)

    def reference(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self.by.quantize(x)


class RmsNormQuantize(Quantizes, mnemonic="rms_norm_quantize", results=("q", "s")):
    """`quantize(rms_norm(x))` in one trip through memory: rows are rounded on chip."""

    x: Value
    gain: Value | None
    eps: float
    by: AbsMax

    def infer(self) -> tuple[TensorType, TensorType]:
        return self.by.types(self.x.type)

    def reference(
        self, x: np.ndarray, gain: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        y = x * rms_statistic(x, self.eps)
        return self.by.quantize(y if gain is None else y * gain)


class ScaleQuantize(Quantizes, mnemonic="scale_quantize", results=("q", "s")):
    """`quantize(x * r * gain)`: RMSNorm and quantisation where others share the statistic r."""

    x: Value
    r: Value
    gain: Value | None
    by: AbsMax

    def infer(self) -> tuple[TensorType, TensorType]:
        x, r = self.x.type, self.r.type
        self.require(r.shape == (*x.shape[:-1], 1), f"r is {r}, x is {x}")
        return self.by.types(x)

    def reference(
        self, x: np.ndarray, r: np.ndarray, gain: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        y = x * r
        return self.by.quantize(y if gain is None else y * gain)


class FactoredQuantize(Quantizes, mnemonic="factored_quantize", results=("q", "s")):
    """`quantize(x * gain * r)` with r behind the maximum of the row.

    u = x * gain; scale = range / max(max|u| * |r|, eps); q = clamp(round(u * (r * scale))).

    One look at the row finds the maximum and what r, a number for each row, is made of.
    `ScaleQuantize` multiplies by r first: where it has a number that floats cannot tell from the
    middle of two integers (`undecided`), this one may round the other way.
    """

    x: Value
    r: Value
    gain: Value | None
    by: AbsMax

    def infer(self) -> tuple[TensorType, TensorType]:
        x, r = self.x.type, self.r.type
        self.require(r.shape == (*x.shape[:-1], 1), f"r is {r}, x is {x}")
        self.require(self.by.granularity == "token", f"one step for a {self.by.granularity}")
        return self.by.types(x)

    def reference(
        self, x: np.ndarray, r: np.ndarray, gain: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        u, scale = self._scaled(x, r, gain)
        return self.by.rounded(u * (r * scale)), (np.float32(1) / scale).astype(np.float32)

    def undecided(self, x: np.ndarray, r: np.ndarray, gain: np.ndarray | None = None) -> np.ndarray:
        """Where the order of the products may decide to which integer a number is rounded."""
        u, scale = self._scaled(x, r, gain)
        y = np.abs(np.multiply(u, r * scale, dtype=np.float64))
        return np.abs(y - np.floor(y) - 0.5) <= y * ORDER_ERROR

    def _scaled(
        self, x: np.ndarray, r: np.ndarray, gain: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        u = x if gain is None else x * gain
        return u, self.by.scale(np.abs(u).max(-1, keepdims=True) * np.abs(r))


class Dequantize(Op, mnemonic="dequantize"):
    """y = q * (s * w): integers back to real numbers; w, the scale of the weights, may be absent.

    s has a value for each row of q ([..., 1]); w is one number or one for each column.
    """

    q: Value
    s: Value
    w: Value | None = None
    positionwise: ClassVar[bool] = True

    def infer(self) -> TensorType:
        q, s = self.q.type, self.s.type
        self.require(q.dtype in (DType.I8, DType.I32), f"q is {q.dtype}")
        self.require(s.dtype is DType.F32 and s.rank == q.rank, f"s is {s}, q is {q}")
        if self.w is not None:
            fits = self.w.type.shape in ((), q.shape[-1:])
            self.require(fits, f"w is {self.w.type}, q is {q}")
        return q.with_dtype(DType.F32)

    def reference(self, q: np.ndarray, s: np.ndarray, w: np.ndarray | None = None) -> np.ndarray:
        return q.astype(np.float32) * (s if w is None else s * w)


class ExpandTernary(Op, mnemonic="expand_ternary"):
    """w[n, k] = t[n, k] * scale: one [], one a row [N], or one a group of columns [N, groups]."""

    t: Value
    scale: Value

    def infer(self) -> TensorType:
        t, scale = self.t.type, self.scale.type
        self.require(t.dtype.is_ternary and t.rank == 2, f"t is {t}, not ternary[N, K]")
        n, k = static_shape(t.shape)
        shape = static_shape(scale.shape)
        groups = shape[1] if len(shape) == 2 else 1
        fits = len(shape) <= 2 and shape[:1] in ((), (n,)) and groups > 0 and k % groups == 0
        self.require(fits, f"scale is {scale}, t is {t}")
        return TensorType(DType.F32, t.shape)

    def reference(self, t: np.ndarray, scale: np.ndarray) -> np.ndarray:
        per_group = scale.reshape(-1, 1) if scale.ndim < 2 else scale
        per_column = np.repeat(per_group, t.shape[1] // per_group.shape[1], axis=1)
        return t.astype(np.float32) * per_column


class PackTernary(Op, mnemonic="pack_ternary"):
    """The same ternary matrix in a packed layout of `mmc.ir.packing`."""

    t: Value
    layout: packing.Layout

    def infer(self) -> TensorType:
        self.require(self.t.type.dtype is DType.TERNARY, f"t is {self.t.type}")
        self.require(self.layout in packing.BLOCKS, f"unknown layout {self.layout!r}")
        return self.t.type.with_dtype(DType.packed(self.layout))

    def reference(self, t: np.ndarray) -> np.ndarray:
        return packing.pack(t, self.layout)


class TernaryMatmul(Op, mnemonic="ternary_matmul"):
    """y[..., n] = sum of x[..., k] over w[n, k] = +1, minus the sum over w[n, k] = -1.

    No multiplication takes part: int8 activations are added, subtracted or skipped, and the int32
    sum is exact.  Scales are applied by the `dequantize` that follows.
    """

    x: Value
    w: Value
    positionwise: ClassVar[bool] = True

    def infer(self) -> TensorType:
        x, w = self.x.type, self.w.type
        self.require(x.dtype is DType.I8, f"activations must be i8, not {x.dtype}")
        self.require(w.dtype.is_ternary and w.rank == 2, f"weights must be ternary[N, K], not {w}")
        self.require(
            x.shape[-1] == w.shape[-1], f"x has {x.shape[-1]} columns, w has {w.shape[-1]}"
        )
        return TensorType(DType.I32, (*x.shape[:-1], w.shape[0]))

    def reference(self, x: np.ndarray, w: np.ndarray) -> np.ndarray:
        n, k = static_shape(self.w.type.shape)
        layout = self.w.type.dtype.layout
        t = w if layout is None else packing.unpack(w, n, k, layout)
        # Exact: every partial sum is an integer far below 2^53.
        return (x.astype(np.float64) @ t.astype(np.float64).T).astype(np.int32)
