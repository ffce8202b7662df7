# pyright: basic
# Every value here is a TIR expression, which TVM does not type.
"""Elementary functions on TIR expressions of one lane or many.

exp, sigmoid and tanh are polynomials, so that 16 lanes cost little more than one; each lane runs
the same instructions whatever the number of lanes.  The rest calls the C library lane by lane.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np
from tvm import ir, tirx
from tvm.script.ir_builder import tirx as T

Vector: TypeAlias = Any
"""A TIR expression: a number, or a vector of numbers."""


def dtype_of(x: Vector) -> tuple[str, int]:
    """Return the element type and the number of lanes."""
    name, _, lanes = str(x.ty).partition("x")
    return name, int(lanes or 1)


def spread(x: Vector, lanes: int) -> Vector:
    """Repeat a number over the lanes."""
    return x if lanes == 1 else T.broadcast(x, lanes)


def hold(x: Vector) -> Vector:
    """Compute `x` here and give it a name.

    The name is that of a variable in memory, which LLVM keeps in a register: TVM would put the
    value of a pure binding in the place of each of its uses, and grow an expression exponentially.
    """
    if isinstance(x, ir.Var | tirx.IntImm | tirx.FloatImm):
        return x
    if isinstance(x, ir.expr.TensorLoad):
        return T.Bind(x)
    if isinstance(x, tirx.Broadcast) and hold(x.value).same_as(x.value):
        return x
    made = variable(str(x.ty))
    T.buffer_store(made, x, [0])
    return T.Bind(made[0])


Functions = Mapping[str, Callable[..., Vector]]

_SCOPE = ContextVar("scope", default="global")
_OWN: ContextVar[Functions] = ContextVar("own", default=MappingProxyType({}))


@contextlib.contextmanager
def on_device(own: Functions) -> Iterator[None]:
    """Inside, variables are those of a thread on a device; on a CPU LLVM takes longer for these.

    own: functions of the device, by the names that they have here.
    """
    tokens = _SCOPE.set("local"), _OWN.set(own)
    try:
        yield
    finally:
        _SCOPE.reset(tokens[0])
        _OWN.reset(tokens[1])


def variable(dtype: str) -> Any:
    """A buffer of one element, which the compiler keeps in a register."""
    return T.alloc_buffer((1,), dtype, scope=_SCOPE.get())


def number(value: float | int | bool, dtype: str, lanes: int = 1) -> Vector:
    """A constant of an element type, repeated over the lanes."""
    if dtype.startswith("float"):
        return spread(T.FloatImm(dtype, float(value)), lanes)
    return spread(T.IntImm(dtype, int(value)), lanes)


def like(x: Vector, value: float | int) -> Vector:
    """A constant of the type of `x`."""
    return number(value, *dtype_of(x))


def convert(x: Vector, dtype: str) -> Vector:
    """Cast the elements; floats go to integers towards zero."""
    old, lanes = dtype_of(x)
    if old == dtype:
        return x
    return T.cast(x, dtype if lanes == 1 else f"{dtype}x{lanes}")


def truth(condition: Vector) -> Vector:
    """1 where the condition holds, else 0, as uint8: TVM cannot bind vectors of bool."""
    _, lanes = dtype_of(condition)
    return T.Select(condition, number(1, "uint8", lanes), number(0, "uint8", lanes))


def bits(x: Vector, dtype: str) -> Vector:
    """The same bits as another type of the same width."""
    _, lanes = dtype_of(x)
    return T.reinterpret(dtype if lanes == 1 else f"{dtype}x{lanes}", x)


def magnitude(x: Vector) -> Vector:
    """|x|."""
    name, _ = dtype_of(x)
    if name == "float32" and "magnitude" in _OWN.get():
        return hold(_OWN.get()["magnitude"](x))
    if name == "float32":
        integer = bits(x, "int32")
        return bits(integer & like(integer, 0x7FFFFFFF), "float32")
    return x if name[0] in "ub" else T.Select(x < like(x, 0), like(x, 0) - x, x)


def clamp(x: Vector, low: float | int | None, high: float | int | None) -> Vector:
    """min(max(x, low), high); what is not a number stays so."""
    if low is not None:
        x = hold(T.Select(x < like(x, low), like(x, low), x))
    if high is not None:
        x = hold(T.Select(x > like(x, high), like(x, high), x))
    return x


def polynomial(x: Vector, coefficients: Sequence[float]) -> Vector:
    """Horner's rule, highest power first."""
    total = like(x, coefficients[0])
    for coefficient in coefficients[1:]:
        total = total * x + like(x, coefficient)
    return total


def exp(x: Vector) -> Vector:
    """e^x within 2 ulp; 0 below -104, infinity above 89, in between 2^n * e^r with |r| < 0.35.

    2^n is applied in two halves, so that subnormal results come out rounded.  ln 2 is subtracted
    in two pieces (Cody and Waite); the polynomial is that of Cephes' expf.
    """
    bounded = clamp(x, -104.0, 89.0)
    n = hold(T.nearbyint(bounded * like(x, math.log2(math.e))))
    r = hold(bounded - n * like(x, 0.693359375) - n * like(x, -2.12194440e-4))
    tail = polynomial(
        r,
        (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 0.5),
    )
    mantissa = hold(tail * r * r + r + like(r, 1.0))
    whole = hold(convert(n, "int32"))
    half = hold(T.shift_right(whole, like(whole, 1)))
    return hold(mantissa * _power_of_two(half) * _power_of_two(whole - half))


def _power_of_two(n: Vector) -> Vector:
    return bits(T.shift_left(n + like(n, 127), like(n, 23)), "float32")


def sigmoid(x: Vector) -> Vector:
    """1 / (1 + e^-x): e^-x may be infinite, the result is then 0."""
    if "sigmoid" in _OWN.get():
        return hold(_OWN.get()["sigmoid"](x))
    return hold(like(x, 1.0) / (like(x, 1.0) + exp(like(x, 0.0) - x)))


def silu(x: Vector) -> Vector:
    """X / (1 + e^-x)."""
    if "silu" in _OWN.get():
        return hold(_OWN.get()["silu"](x))
    return hold(x / (like(x, 1.0) + exp(like(x, 0.0) - x)))


def over(x: Vector, count: int) -> Vector:
    """X / count."""
    if "over" in _OWN.get() and dtype_of(x) == ("float32", 1) and count & (count - 1):
        inverse = np.float32(1) / np.float32(count)
        return hold(_OWN.get()["over"](x, like(x, count), like(x, float(inverse))))
    return x / like(x, count)


def inverse_root(x: Vector, least: float) -> Vector:
    """1 / sqrt(x), where x is `least` or more."""
    if "inverse_root" in _OWN.get() and dtype_of(x) == ("float32", 1) and least >= 2.0**-100:
        return hold(_OWN.get()["inverse_root"](x))
    return like(x, 1.0) / T.sqrt(x)


def quotient(x: Vector, y: Vector) -> Vector:
    """X / y, the scale of a quantiser (`mmc.targets.tvm.bounds`)."""
    return hold(_OWN.get()["quotient"](x, y)) if "quotient" in _OWN.get() else x / y


def reciprocal(x: Vector) -> Vector:
    """1 / x of such a scale."""
    return hold(_OWN.get()["reciprocal"](x)) if "reciprocal" in _OWN.get() else like(x, 1.0) / x


def tanh(x: Vector) -> Vector:
    """An odd polynomial near 0 (Cephes' tanhf), else 1 - 2 / (e^2|x| + 1) with the sign of x."""
    size = hold(magnitude(x))
    far = like(x, 1.0) - like(x, 2.0) / (exp(size + size) + like(x, 1.0))
    far = T.Select(x < like(x, 0.0), like(x, 0.0) - far, far)
    square = hold(x * x)
    tail = polynomial(
        square,
        (
            -5.70498872745e-3,
            2.06390887954e-2,
            -5.37397155531e-2,
            1.33314422036e-1,
            -3.33332819422e-1,
        ),
    )
    return hold(T.Select(size < like(x, 0.625), tail * square * x + x, far))


def softplus(x: Vector) -> Vector:
    """max(x, 0) + ln(1 + e^-|x|)."""
    decayed = exp(like(x, 0.0) - magnitude(x))
    # ln(1 + u) = u * ln(1 + u) / ((1 + u) - 1) makes up for the rounding of 1 + u (Kahan).
    grown = hold(like(x, 1.0) + decayed)
    lost = hold(grown - like(x, 1.0))
    exact = decayed * T.log(grown) / T.Select(T.EQ(lost, like(x, 0.0)), like(x, 1.0), lost)
    return T.max(x, like(x, 0.0)) + T.Select(T.EQ(lost, like(x, 0.0)), decayed, exact)


def round_to(x: Vector, mode: str) -> Vector:
    """The nearest integer; `mode` says where halves go."""
    if mode == "half_even":
        return hold(T.nearbyint(x))
    if mode == "half_up":
        return hold(T.floor(x + like(x, 0.5)))
    # 0.49999997, the float below one half: adding a half would carry 0.49999997 itself to 1.
    sign = bits(x, "int32") & like(bits(x, "int32"), -0x80000000)
    nudge = bits(sign | like(sign, 0x3EFFFFFF), "float32")
    return hold(T.trunc(x + nudge))


def widen_bf16(x: Vector) -> Vector:
    """The float32 that a bfloat16, given as uint16, stands for."""
    wide = convert(x, "uint32")
    return bits(T.shift_left(wide, like(wide, 16)), "float32")


def narrow_bf16(x: Vector) -> Vector:
    """Round float32 to bfloat16, halves to even; the result is uint16."""
    raw = hold(bits(x, "uint32"))
    odd = T.shift_right(raw, like(raw, 16)) & like(raw, 1)
    rounded = T.shift_right(raw + like(raw, 0x7FFF) + odd, like(raw, 16))
    quiet = T.shift_right(raw, like(raw, 16)) | like(raw, 0x40)
    return convert(T.Select(T.EQ(x, x), rounded, quiet), "uint16")


def widen_f16(x: Vector) -> Vector:
    """The float32 that a float16, given as uint16, stands for, without a conversion instruction."""
    wide = hold(convert(x, "uint32"))
    size = hold(wide & like(wide, 0x7FFF))
    scaled = bits(T.shift_left(size, like(wide, 13)), "float32")
    finite = bits(scaled * like(scaled, 2.0**112), "uint32")
    special = T.shift_left(size, like(wide, 13)) | like(wide, 0x7F800000)
    sign = T.shift_left(wide & like(wide, 0x8000), like(wide, 16))
    magnitude_bits = T.Select(size >= like(wide, 0x7C00), special, finite)
    return hold(bits(magnitude_bits | sign, "float32"))


def narrow_f16(x: Vector) -> Vector:
    """Round float32 to float16, halves to even; the result is uint16.

    Normal results round in integers; for subnormal ones adding 0.5 puts their last bit last.
    """
    raw = hold(bits(x, "uint32"))
    size = hold(raw & like(raw, 0x7FFFFFFF))
    odd = T.shift_right(size, like(raw, 13)) & like(raw, 1)
    normal = T.shift_right(size - like(raw, 112 << 23) + like(raw, 0xFFF) + odd, like(raw, 13))
    tiny = bits(bits(size, "float32") + like(x, 0.5), "uint32") - like(raw, 0x3F000000)
    fits = T.Select(size < like(raw, 113 << 23), tiny, normal)
    large = T.Select(size >= like(raw, 0x477FF000), like(raw, 0x7C00), fits)
    total = T.Select(size > like(raw, 0x7F800000), like(raw, 0x7E00), large)
    sign = T.shift_right(raw, like(raw, 16)) & like(raw, 0x8000)
    return convert(total | sign, "uint16")
