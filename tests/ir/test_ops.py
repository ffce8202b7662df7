"""Every operation: what it accepts and refuses, its numbers against torch or onnxruntime."""

# pyright: reportUnknownLambdaType=false, reportUnknownParameterType=false
# The tables below are full of lambdas that torch gives their types.

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from onnx import helper

import mmc.ir.ops.catalog  # noqa: F401  # pyright: ignore[reportUnusedImport]
from mmc.errors import MmcError
from mmc.ir.evaluate import evaluate
from mmc.ir.graph import graph_of
from mmc.ir.op import Op, Value, VerifyError
from mmc.ir.ops import (
    attention,
    int4,
    linear,
    logic,
    norm,
    pointwise,
    recurrence,
    reduce,
    shape,
    source,
    ternary,
)
from mmc.ir.ops.source import Input, scalar
from mmc.ir.ops.ternary import AbsMax
from mmc.ir.packing import pack
from mmc.ir.types import DType, TensorType
from tests.inputs import B, T, given
from tests.random_graphs import check_types

F32, F16, BF16 = DType.F32, DType.F16, DType.BF16
I8, I32, I64, BOOL, TRITS = DType.I8, DType.I32, DType.I64, DType.BOOL, DType.TERNARY
RNG = np.random.default_rng(0)


def normal(*dims: int) -> np.ndarray:
    return RNG.normal(size=dims).astype(np.float32)


def as_floats(values: list[Any]) -> np.ndarray:
    return np.array(values, np.float32)


def integers(low: int, high: int, *dims: int, dtype: type[Any] = np.int32) -> np.ndarray:
    return RNG.integers(low, high, dims).astype(dtype)


Reference = Callable[..., Any]


@dataclass(frozen=True)
class Case:
    """One call of an operation: its arguments, and the same by someone else."""

    make: Callable[..., Op]
    arrays: tuple[np.ndarray, ...]
    other: Reference
    """From torch tensors to torch tensors, or numpy arrays; one, or a tuple."""
    exact: bool = False


CASES: dict[str, list[Case]] = {}


def case(
    kind: type[Op],
    make: Callable[..., Op],
    arrays: tuple[np.ndarray, ...],
    other: Reference,
    exact: bool = False,
) -> None:
    CASES.setdefault(kind.mnemonic, []).append(Case(make, arrays, other, exact))


DTYPES = {d.numpy: d for d in reversed(DType) if not d.layout and d is not TRITS}


def run(made: Callable[..., Op], arrays: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
    """The operation by the interpreter, once with fixed and once with symbolic shapes."""
    fixed = [Input(f"x{n}", TensorType(DTYPES[a.dtype], a.shape)) for n, a in enumerate(arrays)]
    op = made(*fixed)
    graph = graph_of("g", {f"y{n}": v for n, v in enumerate(op.results)}, fixed)
    found = evaluate(graph, {f"x{n}": a for n, a in enumerate(arrays)}, observe=check_types)
    return tuple(found.values())


def torch_of(array: np.ndarray) -> torch.Tensor:
    if array.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(array.astype(np.float32)).bfloat16()
    return torch.from_numpy(array)


def numpy_of(value: Any) -> np.ndarray:
    if isinstance(value, torch.Tensor):
        return value.float().numpy() if value.dtype == torch.bfloat16 else value.numpy()
    return np.asarray(value)


def test_every_operation_has_a_case() -> None:
    fixed = {name for name in Op.registry if name.startswith("fixed_")}  # tests/ir/test_fixed.py
    assert set(Op.registry) == set(CASES) | set(OWN) | fixed


OWN = {"input", "weight", "constant", "iota", "scan", "kernel", "pack_ternary"}
"""Operations with tests of their own below."""


def all_cases() -> list[Any]:
    named = ((name, n, each) for name, cases in CASES.items() for n, each in enumerate(cases))
    return [pytest.param(each, id=f"{name}-{n}") for name, n, each in named]


# Element by element.

VALUES = np.array(
    [
        -100,
        -3.7,
        -2.5,
        -1.5,
        -1,
        -0.5,
        -1e-3,
        -0.0,
        0,
        1e-45,
        1e-3,
        0.5,
        1,
        1.5,
        2.5,
        3.49999,
        88,
        1e9,
        np.inf,
        -np.inf,
        np.nan,
    ],
    np.float32,
)
HALVES = np.arange(-9, 10, dtype=np.float32) / 2
TORCH_UNARY: dict[type[Op], Reference] = {
    pointwise.Detach: lambda x: x,
    pointwise.Neg: torch.neg,
    pointwise.Abs: torch.abs,
    pointwise.Exp: torch.exp,
    pointwise.Log: torch.log,
    pointwise.Sqrt: torch.sqrt,
    pointwise.Rsqrt: torch.rsqrt,
    pointwise.Reciprocal: torch.reciprocal,
    pointwise.Square: torch.square,
    pointwise.Sigmoid: torch.sigmoid,
    pointwise.Silu: F.silu,
    pointwise.Tanh: torch.tanh,
    pointwise.Relu: F.relu,
    pointwise.Gelu: F.gelu,
    pointwise.Erf: torch.erf,
    pointwise.Softplus: lambda x: F.softplus(x, threshold=1000),
    pointwise.Sin: torch.sin,
    pointwise.Cos: torch.cos,
    pointwise.Sign: torch.sign,
    pointwise.Floor: torch.floor,
    pointwise.Round: torch.round,
    logic.Not: torch.logical_not,
}
FINITE_ONLY = (pointwise.Silu, pointwise.Gelu, pointwise.Softplus, pointwise.Sign)
EXACT = {"detach", "neg", "abs", "square", "relu", "sign", "floor", "round", "not", "sqrt"}
for unary, other in TORCH_UNARY.items():
    usual = VALUES[:18] if unary in FINITE_ONLY else VALUES
    small = usual[np.abs(usual) < 1e6] if unary in (pointwise.Sin, pointwise.Cos) else usual
    case(unary, unary, (small,), other, unary.mnemonic in EXACT)
    rounded = normal(3, 5).astype(ml_dtypes.bfloat16)
    if unary is not pointwise.Softplus:
        case(unary, unary, (np.abs(rounded),), other)
for unary in (pointwise.Neg, pointwise.Abs, pointwise.Sign, pointwise.Square, pointwise.Relu):
    case(unary, unary, (integers(-9, 9, 12),), TORCH_UNARY[unary], exact=True)
case(logic.Not, logic.Not, (np.array([True, False]),), torch.logical_not, exact=True)
case(
    pointwise.Gelu,
    lambda x: pointwise.Gelu(x, "tanh"),
    (VALUES[:18],),
    lambda x: F.gelu(x, approximate="tanh"),
)
case(pointwise.Round, pointwise.Round, (HALVES,), torch.round, exact=True)
case(
    pointwise.Round,
    lambda x: pointwise.Round(x, "half_away"),
    (HALVES,),
    lambda x: torch.sign(x) * torch.floor(torch.abs(x) + 0.5),
    exact=True,
)
case(
    pointwise.Round,
    lambda x: pointwise.Round(x, "half_up"),
    (HALVES,),
    lambda x: torch.floor(x + 0.5),
    exact=True,
)
for low, high in ((-1.0, 2.0), (None, 0.5), (-0.5, None)):
    case(
        pointwise.Clamp,
        lambda x, low=low, high=high: pointwise.Clamp(x, low, high),
        (VALUES,),
        lambda x, low=low, high=high: torch.clamp(x, low, high),
        exact=True,
    )
case(pointwise.Clamp, lambda x: pointwise.Clamp(x, None, None), (VALUES,), lambda x: x, exact=True)
case(
    pointwise.Clamp,
    lambda x: pointwise.Clamp(x, -3, 5),
    (integers(-9, 9, 20),),
    lambda x: torch.clamp(x, -3, 5),
    exact=True,
)
for new, kind in (
    (F16, torch.float16),
    (BF16, torch.bfloat16),
    (I32, torch.int32),
    (BOOL, torch.bool),
):
    case(
        pointwise.Cast,
        lambda x, new=new: pointwise.Cast(x, new),
        (np.array([-2.7, -1, -0.3, 0, 0.3, 1, 1.999, 100.5], np.float32),),
        lambda x, kind=kind: x.to(kind),
        exact=True,
    )

BINARY: dict[type[Op], Reference] = {
    pointwise.Add: torch.add, pointwise.Sub: torch.sub, pointwise.Mul: torch.mul,
    pointwise.Div: torch.div, pointwise.Maximum: torch.maximum, pointwise.Minimum: torch.minimum,
    logic.Equal: torch.eq, logic.NotEqual: torch.ne, logic.Less: torch.lt,
    logic.LessEqual: torch.le, logic.Greater: torch.gt, logic.GreaterEqual: torch.ge,
}  # fmt: skip
GRID = np.array(list(itertools.product(VALUES[4:14], repeat=2)), np.float32)
for binary, other in BINARY.items():
    case(binary, binary, (GRID[:, 0], GRID[:, 1]), other, exact=True)
    case(binary, binary, (normal(2, 1, 3), normal(4, 1)), other, exact=True)
    if binary is not pointwise.Div:
        whole = integers(-3, 3, 40), integers(-3, 3, 40)
        case(binary, binary, whole, other, exact=True)
DIVIDED = np.array([7, -7, 7, -7, 0, 6, -6], np.int32), np.array([2, 2, -2, -2, 3, 3, 3], np.int32)
case(
    pointwise.Div, pointwise.Div, DIVIDED, lambda x, y: torch.div(x, y, rounding_mode="floor"), True
)
case(pointwise.Pow, pointwise.Pow, (np.abs(normal(4, 5)), normal(5)), torch.pow)
case(pointwise.Pow, pointwise.Pow, (normal(20), as_floats([2] * 20)), torch.pow)
BITS = integers(0, 99, 30), integers(0, 99, 30)
TRUTH = np.array([True, True, False, False]), np.array([True, False, True, False])
for binary, other in (
    (logic.BitAnd, torch.bitwise_and),
    (logic.BitOr, torch.bitwise_or),
):
    case(binary, binary, BITS, other, exact=True)
    case(binary, binary, TRUTH, other, exact=True)
SHIFTS = integers(-99, 99, 30), integers(0, 5, 30)
case(logic.ShiftRight, logic.ShiftRight, SHIFTS, torch.bitwise_right_shift, exact=True)
case(
    logic.Where,
    logic.Where,
    (integers(0, 2, 4, 1, dtype=np.bool_), normal(3), normal(2, 1, 1)),
    torch.where,
    exact=True,
)

# Reductions and moves.

CUBE = normal(2, 3, 4)
REDUCTIONS: dict[type[Op], Callable[[torch.Tensor, int, bool], torch.Tensor]] = {
    reduce.Sum: lambda x, a, k: x.sum(a, k), reduce.Mean: lambda x, a, k: x.mean(a, k),
    reduce.Max: lambda x, a, k: x.amax(a, k), reduce.Median: lambda x, a, k: x.median(a, k).values,
    reduce.ArgMax: lambda x, a, k: x.argmax(a, k),
}  # fmt: skip
for reduction, over in REDUCTIONS.items():
    for axis, keep in itertools.product((-3, -1, 0, 1, 2), (True, False)):
        case(
            reduction,
            lambda x, kind=reduction, axis=axis, keep=keep: kind(x, axis, keep),  # pyright: ignore
            (CUBE,),
            lambda x, over=over, axis=axis, keep=keep: over(x, axis, keep),
        )
case(reduce.Sum, reduce.Sum, (integers(-9, 9, 4, 6),), lambda x: x.sum(-1, True).int(), exact=True)
for along, over in ((reduce.Softmax, torch.softmax), (reduce.CumSum, torch.cumsum)):
    for axis in (-2, -1, 0):
        case(
            along,
            lambda x, kind=along, axis=axis: kind(x, axis),  # pyright: ignore
            (CUBE,),
            lambda x, over=over, axis=axis: over(x, axis),
        )
case(reduce.Softmax, reduce.Softmax, (as_floats([[1e4, 1e4, -1e4]]),), lambda x: F.softmax(x, -1))

case(shape.Reshape, lambda x: shape.Reshape(x, (4, 6)), (CUBE,), lambda x: x.reshape(4, 6), True)
case(shape.Reshape, lambda x: shape.Reshape(x, ()), (normal(1, 1),), lambda x: x.reshape(()), True)
case(
    shape.Permute,
    lambda x: shape.Permute(x, (2, 0, 1)),
    (CUBE,),
    lambda x: x.permute(2, 0, 1),
    True,
)
case(
    shape.Expand,
    lambda x: shape.Expand(x, (5, 2, 4)),
    (normal(2, 1),),
    lambda x: x.expand(5, 2, 4),
    True,
)
for axis, start, length, step in (
    (0, 1, 1, 1),
    (-1, 0, 2, 3),
    (1, 1, 2, 1),
    (2, 1, 2, 2),
    (-2, 0, 0, 1),
):
    window = slice(start, start + length * step, step)
    case(
        shape.Slice,
        lambda x, a=(axis, start, length, step): shape.Slice(x, *a),
        (CUBE,),
        lambda x, axis=axis, w=window: x[(slice(None),) * (axis % 3) + (w,)],
        exact=True,
    )
for axis in (-1, 0):
    case(
        shape.Concat,
        lambda *parts, axis=axis: shape.Concat(parts, axis),
        (normal(2, 2), normal(2, 2), normal(2, 2)),
        lambda *parts, axis=axis: torch.cat(parts, axis),
        exact=True,
    )
case(
    shape.Pad,
    lambda x: shape.Pad(x, -1, 2, 1, 9.0),
    (CUBE,),
    lambda x: F.pad(x, (2, 1), value=9),
    True,
)
case(
    shape.Pad,
    lambda x: shape.Pad(x, 0, 0, 2),
    (CUBE,),
    lambda x: F.pad(x, (0, 0, 0, 0, 0, 2)),
    True,
)
INDICES = integers(0, 7, 3, 2, dtype=np.int64)
case(
    shape.Gather, shape.Gather, (normal(7, 4), INDICES), lambda t, i: F.embedding(i, t), exact=True
)
case(shape.Gather, shape.Gather, (normal(7), INDICES), lambda t, i: t[i], exact=True)
LAST = np.array([0, 2], np.int64)
case(
    shape.TakePosition,
    shape.TakePosition,
    (CUBE, LAST),
    lambda x, i: x.gather(1, i[:, None, None].expand(-1, 1, 4)),
    exact=True,
)

# Norms and dense products.

WIDE, GAIN, BIAS = normal(2, 3, 16) * 3, normal(16), normal(16)
case(norm.MeanSquare, norm.MeanSquare, (WIDE,), lambda x: x.square().mean(-1, True))
for eps in (1e-6, 1.0):
    case(
        norm.RmsStatistic,
        lambda x, eps=eps: norm.RmsStatistic(x, eps),
        (WIDE,),
        lambda x, eps=eps: torch.rsqrt(x.square().mean(-1, True) + eps),
    )
    case(
        norm.RmsNorm,
        lambda x, g, eps=eps: norm.RmsNorm(x, g, eps),
        (WIDE, GAIN),
        lambda x, g, eps=eps: F.rms_norm(x, (16,), g, eps),
    )
    case(
        norm.LayerNorm,
        lambda x, g, b, eps=eps: norm.LayerNorm(x, g, b, eps),
        (WIDE, GAIN, BIAS),
        lambda x, g, b, eps=eps: F.layer_norm(x, (16,), g, b, eps),
    )
case(
    norm.RmsNorm,
    lambda x: norm.RmsNorm(x, None, 1e-5),
    (WIDE,),
    lambda x: F.rms_norm(x, (16,), None, 1e-5),
)
case(
    norm.LayerNorm,
    lambda x, b: norm.LayerNorm(x, None, b, 1e-5),
    (WIDE, BIAS),
    lambda x, b: F.layer_norm(x, (16,), None, b, 1e-5),
)
case(
    norm.LayerNorm,
    lambda x, g: norm.LayerNorm(x, g, None, 1e-5),
    (WIDE, GAIN),
    lambda x, g: F.layer_norm(x, (16,), g, None, 1e-5),
)
case(linear.Linear, linear.Linear, (WIDE, normal(5, 16)), F.linear)
case(linear.Linear, linear.Linear, (WIDE, normal(5, 16), normal(5)), F.linear)
HALF = tuple(normal(*s).astype(ml_dtypes.bfloat16) for s in ((3, 16), (5, 16), (5,)))
case(linear.Linear, linear.Linear, HALF, F.linear)
case(linear.Matmul, linear.Matmul, (normal(2, 1, 3, 4), normal(5, 4, 6)), torch.matmul)
case(linear.Matmul, linear.Matmul, (normal(3, 4), normal(4, 2)), torch.matmul)

# The ternary core.


def quantized(
    x: torch.Tensor, top: float, low: int, eps: float, mode: str, per_tensor: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """The quantiser as the released models write it (`activation_quant`)."""
    largest = x.abs().amax(keepdim=True) if per_tensor else x.abs().amax(-1, keepdim=True)
    largest = largest.reshape((1,) * x.ndim) if per_tensor else largest
    # A number over a tensor is, in torch, a reciprocal and a product: two roundings.
    scale = torch.full_like(largest, top) / largest.clamp(min=eps)
    y = x * scale
    rounded = {
        "half_even": torch.round(y),
        "half_away": torch.sign(y) * torch.floor(torch.abs(y) + 0.5),
        "half_up": torch.floor(y + 0.5),
    }[mode]
    return rounded.clamp(low, 127).to(torch.int8), torch.ones_like(scale) / scale


TIES = as_floats(
    [[127, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 126.5], [-128, 3.5, -3.5, 0, 64, -64, 1, -1]]
)
QUANTISED = (TIES, normal(2, 3, 8), np.zeros((2, 4), np.float32), normal(3, 5) * 1e-4)
for top, low, eps, mode, granularity in itertools.product(
    (127.0, 128.0), (-128, -127), (1e-5, 2.0), pointwise.ROUNDINGS, ("token", "tensor")
):
    by = AbsMax(top, low, 127, eps, mode, granularity)
    told = (top, low, eps, mode, granularity == "tensor")
    for numbers in QUANTISED:
        case(
            ternary.Quantize,
            lambda x, by=by: ternary.Quantize(x, by),
            (numbers,),
            lambda x, told=told: quantized(x, *told),
            exact=True,
        )
TOKEN = (127.0, -128, 1e-5, "half_even", False)
case(
    ternary.RmsNormQuantize,
    lambda x, g: ternary.RmsNormQuantize(x, g, 1e-6, AbsMax()),
    (WIDE, GAIN),
    lambda x, g: quantized(F.rms_norm(x, (16,), g, 1e-6), *TOKEN),
)
case(
    ternary.RmsNormQuantize,
    lambda x: ternary.RmsNormQuantize(x, None, 0.5, AbsMax(rounding="half_away")),
    (WIDE,),
    lambda x: quantized(F.rms_norm(x, (16,), None, 0.5), 127, -128, 1e-5, "half_away", False),
)
case(
    ternary.ScaleQuantize,
    lambda x, r, g: ternary.ScaleQuantize(x, r, g, AbsMax()),
    (WIDE, np.abs(normal(2, 3, 1)), GAIN),
    lambda x, r, g: quantized(x * r * g, *TOKEN),
)
case(
    ternary.ScaleQuantize,
    lambda x, r: ternary.ScaleQuantize(x, r, None, AbsMax()),
    (WIDE, np.abs(normal(2, 3, 1))),
    lambda x, r: quantized(x * r, *TOKEN),
)


def factored(
    u: torch.Tensor, r: torch.Tensor, mode: str = "half_even"
) -> tuple[torch.Tensor, torch.Tensor]:
    """What quantises u * r when the maximum is looked for without r."""
    scale = 127 / (u.abs().amax(-1, keepdim=True) * r.abs()).clamp(1e-5)
    rounding = {"half_even": torch.round, "half_away": lambda y: y.sign() * (y.abs() + 0.5).floor()}
    rounded = rounding[mode](u * (r * scale))
    return rounded.clamp(-128, 127).to(torch.int8), torch.ones_like(scale) / scale


case(
    ternary.FactoredQuantize,
    lambda x, r, g: ternary.FactoredQuantize(x, r, g, AbsMax()),
    (WIDE, normal(2, 3, 1), GAIN),
    lambda x, r, g: factored(x * g, r),
    exact=True,
)
case(
    ternary.FactoredQuantize,
    lambda x, r: ternary.FactoredQuantize(x, r, None, AbsMax(rounding="half_away")),
    (WIDE, np.abs(normal(2, 3, 1))),
    lambda x, r: factored(x, r, "half_away"),
    exact=True,
)
STEP = np.abs(normal(2, 3, 1))
for q in (integers(-127, 128, 2, 3, 8, dtype=np.int8), integers(-9999, 9999, 2, 3, 8)):
    case(ternary.Dequantize, ternary.Dequantize, (q, STEP), torch.mul)
    for w in (np.full((), 0.37, np.float32), np.abs(normal(8))):
        case(ternary.Dequantize, ternary.Dequantize, (q, STEP, w), lambda q, s, w: q * s * w)

MATRIX = integers(-1, 2, 37, 41, dtype=np.int8)


def trits(make: Callable[..., Op]) -> Callable[..., Op]:
    """The same with its second operand (int8, as far as numpy knows) declared ternary."""
    return lambda *values: make(values[0], ternary_input(values[1]), *values[2:])


def ternary_input(value: Value) -> Value:
    """The input as a ternary one."""
    assert isinstance(value, Input)
    return pointwise.Cast(value, TRITS)


case(
    ternary.TernaryMatmul,
    trits(ternary.TernaryMatmul),
    (integers(-128, 128, 2, 3, 41, dtype=np.int8), MATRIX),
    lambda x, w: (x.double() @ w.double().T).to(torch.int32),
    exact=True,
)
case(
    ternary.TernaryMatmul,
    trits(ternary.TernaryMatmul),
    (np.full((1, 5000), -128, np.int8), np.full((2, 5000), -1, np.int8)),
    lambda x, w: (x.double() @ w.double().T).to(torch.int32),
    exact=True,
)
for scale in (np.full((), 0.3, np.float32), normal(6), normal(6, 4)):
    case(
        ternary.ExpandTernary,
        lambda t, s: ternary.ExpandTernary(ternary_input(t), s),
        (integers(-1, 2, 6, 12, dtype=np.int8), scale),
        lambda t, s: (
            t.reshape(6, -1, 12 if s.ndim < 2 else 3)
            * (s.reshape(-1, 1, 1) if s.ndim < 2 else s[..., None])
        ).reshape(6, 12),
    )


def _int4_codes(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """One group after the other, one byte after the other."""
    codes, steps = torch.zeros(x.shape[0], x.shape[1] // 2, dtype=torch.uint8), []
    for n, g in itertools.product(range(x.shape[0]), range(x.shape[1] // 32)):
        group = x[n, 32 * g : 32 * g + 32]
        steps.append(max(group.tolist(), key=abs) / -8)
        step = torch.tensor(steps[-1]).half().float()
        inverse = 1 / step if step else torch.zeros(())
        of_group = (group * inverse + 8.5).floor().clamp(0, 15).to(torch.uint8)
        for j in range(16):
            codes[n, 16 * g + j] = of_group[j] + 16 * of_group[16 + j]
    return codes, torch.tensor(steps).half().reshape(x.shape[0], -1)


case(
    int4.QuantizeInt4,
    int4.QuantizeInt4,
    (np.concatenate([normal(5, 96), np.zeros((1, 96), np.float32)]),),
    _int4_codes,
    exact=True,
)
case(
    int4.DequantizeInt4,
    int4.DequantizeInt4,
    (integers(0, 256, 2, 3, 32, dtype=np.uint8), normal(2, 3, 2).astype(np.float16)),
    lambda codes, steps: (
        (torch.stack([codes & 15, codes >> 4]).float() - 8)
        .reshape(2, 2, 3, 2, 16).permute(1, 2, 3, 0, 4) * steps.float()[..., None, None]
    ).reshape(2, 3, 64),
    exact=True,
)  # fmt: skip

# Memory.


def stepped(a: torch.Tensor, b: torch.Tensor, h: torch.Tensor, axis: int) -> torch.Tensor:
    states: list[torch.Tensor] = []
    for now, plus in zip(a.unbind(axis), b.unbind(axis), strict=True):
        h = now * h + plus
        states.append(h)
    return torch.stack(states, axis)


for axis, h0 in ((0, (3, 4)), (1, (2, 4)), (2, (2, 3))):
    case(
        recurrence.LinearRecurrence,
        lambda a, b, h, axis=axis: recurrence.LinearRecurrence(a, b, h, axis),
        (normal(2, 3, 4), normal(2, 3, 4), normal(*h0)),
        lambda a, b, h, axis=axis: stepped(a, b, h, axis),
    )


def convolved(
    x: torch.Tensor, state: torch.Tensor, w: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    past = torch.cat([state, x], 1).transpose(1, 2)
    return F.conv1d(past, w[:, None], bias, groups=w.shape[0]).transpose(1, 2)


for width in (1, 4):
    operands = normal(2, 5, 6), normal(2, width - 1, 6), normal(6, width)
    case(recurrence.CausalConv, recurrence.CausalConv, operands, convolved)
    case(recurrence.CausalConv, recurrence.CausalConv, (*operands, normal(6)), convolved)
LENGTHS = np.array([1, 5], np.int64)
case(
    recurrence.ConvWindow,
    recurrence.ConvWindow,
    (normal(2, 5, 6), normal(2, 3, 6), LENGTHS),
    lambda x, s, n: torch.stack([torch.cat([s[b], x[b, : n[b]]])[-3:] for b in range(2)]),
    exact=True,
)


# Attention.


def turned(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """As transformers spells it."""
    cos, sin = (torch.cat([y, y], -1).unsqueeze(2) for y in (cos, sin))
    half = x.shape[-1] // 2
    return x * cos + torch.cat([-x[..., half:], x[..., :half]], -1) * sin


def attended(
    q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, position: torch.Tensor
) -> torch.Tensor:
    """Each sequence by itself, cut to what it may see, with the causal mask at its lower right."""
    made: list[torch.Tensor] = []
    for row, k, v, start in zip(q, keys, values, position.tolist(), strict=True):
        k, v = (c[:, : start + len(row)].repeat_interleave(3, 0) for c in (k, v))
        mask = torch.ones(len(row), start + len(row)).tril(start).bool()
        y = F.scaled_dot_product_attention(row.transpose(0, 1), k, v, mask, scale=0.3)
        made.append(y.transpose(0, 1))
    return torch.stack(made)


def appended(
    cache: torch.Tensor, x: torch.Tensor, position: torch.Tensor, lengths: torch.Tensor
) -> torch.Tensor:
    rows: list[torch.Tensor] = []
    for row, new, n, count in zip(cache, x, position.tolist(), lengths.tolist(), strict=True):
        new = new[:count].transpose(0, 1)
        rows.append(torch.cat([row[:, :n], new, row[:, n + new.shape[1] :]], 1)[:, : row.shape[1]])
    return torch.stack(rows)


ANGLES = normal(2, 3, 4)
case(
    attention.Rotary,
    attention.Rotary,
    (normal(2, 3, 5, 8), np.cos(ANGLES), np.sin(ANGLES)),
    turned,
)
for start, lengths in (((0, 4), (3, 1)), ((5, 7), (2, 3)), ((3, 9), (9, 0))):  # the last overflows
    case(
        attention.CacheAppend,
        attention.CacheAppend,
        (
            normal(2, 2, 9, 4),
            normal(2, 3, 2, 4),
            np.array(start, np.int64),
            np.array(lengths, np.int64),
        ),
        appended,
        exact=True,
    )
for steps, start in ((1, (0, 8)), (4, (5, 0))):
    case(
        attention.Attention,
        lambda *given: attention.Attention(*given, scale=0.3),
        (normal(2, steps, 6, 4), normal(2, 2, 9, 4), normal(2, 2, 9, 4), np.array(start, np.int64)),
        attended,
    )


def attended_codes(q: torch.Tensor, *given: torch.Tensor) -> torch.Tensor:
    key_codes, key_steps, value_codes, value_steps, position = given
    keys, values = (key_codes - 128.0) * key_steps, (value_codes - 128.0) * value_steps
    return attended(q, keys, values, position)


case(
    attention.AttentionCodes,
    lambda *given: attention.AttentionCodes(*given, scale=0.3),
    (
        normal(2, 3, 6, 4), *(RNG.integers(0, 256, (2, 2, 9, 4)).astype(np.uint8) if codes
        else np.abs(normal(2, 2, 9, 1)) / 60 for codes in (True, False, True, False)),
        np.array((5, 0), np.int64),
    ),
    attended_codes,
)  # fmt: skip


@pytest.mark.parametrize("each", all_cases())
def test_numbers(each: Case) -> None:
    found = run(each.make, each.arrays)
    wanted = each.other(*map(torch_of, each.arrays))
    wanted = wanted if isinstance(wanted, tuple) else (wanted,)
    for mine, theirs in zip(found, map(numpy_of, wanted), strict=True):
        assert mine.shape == theirs.shape
        if each.exact or mine.dtype.kind in "iub":
            np.testing.assert_array_equal(mine, theirs)
        else:
            half = mine.dtype.itemsize == 2
            mine = mine.astype(np.float32) if half else mine
            np.testing.assert_allclose(mine, theirs, 1e-2 if half else 3e-6, 1e-2 if half else 1e-6)


# onnxruntime, for what torch has no operator of the same meaning, or as a second opinion.


def by_onnxruntime(
    kind: str, *arrays: np.ndarray, opset: int = 21, **attributes: Any
) -> np.ndarray:
    names = [f"x{n}" for n in range(len(arrays))]
    infos = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
        for n, a in zip(names, arrays, strict=True)
    ]
    node = helper.make_node(kind, names, ["y"], **attributes)
    out = helper.make_empty_tensor_value_info("y")
    model = helper.make_model(
        helper.make_graph([node], "g", infos, [out]), opset_imports=[helper.make_opsetid("", opset)]
    )
    model.ir_version = 9
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    (y,) = session.run(None, dict(zip(names, arrays, strict=True)))
    return np.asarray(y)


@pytest.mark.parametrize(
    ("op", "kind", "arrays", "attributes"),
    [
        (pointwise.Round, "Round", (HALVES,), {}),
        (pointwise.Erf, "Erf", (VALUES[:18],), {}),
        (pointwise.Softplus, "Softplus", (VALUES[:16],), {}),
        (pointwise.Sigmoid, "Sigmoid", (VALUES[:18],), {}),
        (lambda x: pointwise.Gelu(x, "tanh"), "Gelu", (VALUES[:16],), {"approximate": "tanh"}),
        (reduce.Softmax, "Softmax", (CUBE,), {}),
        (lambda x: shape.Permute(x, (1, 2, 0)), "Transpose", (CUBE,), {"perm": [1, 2, 0]}),
        (shape.Gather, "Gather", (normal(7, 4), INDICES), {}),
        (linear.Matmul, "MatMul", (normal(2, 3, 4), normal(4, 5)), {}),
        (
            lambda x, g, b: norm.LayerNorm(x, g, b, 1e-5),
            "LayerNormalization",
            (WIDE, GAIN, BIAS),
            {"epsilon": 1e-5},
        ),
    ],
)
def test_numbers_by_onnxruntime(
    op: Callable[..., Op], kind: str, arrays: tuple[np.ndarray, ...], attributes: dict[str, Any]
) -> None:
    (found,) = run(op, arrays)
    np.testing.assert_allclose(found, by_onnxruntime(kind, *arrays, **attributes), 2e-5, 2e-6)


@pytest.mark.parametrize("layout", ["2bit", "1.6bit"])
def test_packed_matrices(layout: Any) -> None:
    packed = TensorType(DType.packed(layout), (37, 41))
    x = given("x", T, 41, dtype=I8)
    trits = Input("t", TensorType(TRITS, (37, 41)))
    graph = graph_of(
        "g",
        {
            "packed": ternary.PackTernary(trits, layout),
            "y": ternary.TernaryMatmul(x, source.Weight("w", packed)),
            "z": ternary.TernaryMatmul(x, ternary.PackTernary(trits, layout)),
        },
    )
    rows = integers(-128, 128, 3, 41, dtype=np.int8)
    found = evaluate(graph, {"x": rows, "t": MATRIX}, {"w": pack(MATRIX, layout)})
    assert str(graph.values[0].type) == f"{packed.dtype}[37, 41]"
    np.testing.assert_array_equal(found["packed"], pack(MATRIX, layout))
    wanted = rows.astype(np.int64) @ MATRIX.T.astype(np.int64)
    np.testing.assert_array_equal(found["y"], wanted)
    np.testing.assert_array_equal(found["z"], wanted)


def test_sources() -> None:
    graph = graph_of(
        "g",
        {
            "n": source.Iota(T + 1, 3),
            "c": source.Constant(2.5, TensorType(F16, (2, T))),
            "k": scalar(-1, I64),
            "b": scalar(True, BOOL),
            "x": pointwise.Neg(given("x", T)),
            "w": source.Weight("w", TensorType(F32, (2,))),
        },
    )
    found = evaluate(graph, {"x": normal(5)}, {"w": as_floats([1, 2])}, check_types)
    assert found["n"].tolist() == [3, 4, 5, 6, 7, 8]
    assert found["c"].tolist() == [[2.5] * 5] * 2
    assert (found["k"], found["b"]) == (-1, True)
    assert found["w"].tolist() == [1, 2]


def test_scan_against_torch() -> None:
    """Two carries, two sequences, a captured value, two stacked results, along axis 1."""
    step = TensorType(F32, (B, 4))
    h, c, x, z, w = (Input(name, step) for name in "hcxzw")
    new = pointwise.Tanh(pointwise.Add(pointwise.Mul(h, w), x))
    body = graph_of(
        "step",
        {"h": new, "c": pointwise.Add(c, z), "y": pointwise.Mul(new, c), "old": h},
        [h, c, x, z, w],
    )
    sequence = TensorType(F32, (B, T, 4))
    values = [Input(f"{n}0", step) for n in "hc"], [Input(f"{n}s", sequence) for n in "xz"]
    scan = recurrence.Scan(tuple(values[0]), tuple(values[1]), (Input("w", step),), body, 1)
    assert scan.result_names == ("last0", "last1", "y0", "y1")
    graph = graph_of("g", dict(zip(scan.result_names, scan.results, strict=True)))
    arrays = {
        op.name: normal(2, 5, 4) if op.type.rank == 3 else normal(2, 4) for op in graph.inputs
    }
    found = evaluate(graph, arrays, observe=check_types)
    numbers = {name: torch.from_numpy(array) for name, array in arrays.items()}
    th, tc = numbers["h0"], numbers["c0"]
    ys: list[torch.Tensor] = []
    olds: list[torch.Tensor] = []
    for t in range(5):
        olds.append(th)
        th = torch.tanh(th * numbers["w"] + numbers["xs"][:, t])
        ys.append(th * tc)
        tc = tc + numbers["zs"][:, t]
    wanted = (th, tc, torch.stack(ys, 1), torch.stack(olds, 1))
    for name, theirs in zip(scan.result_names, wanted, strict=True):
        np.testing.assert_allclose(found[name], theirs.numpy(), 1e-5, 1e-6)


def test_kernel_is_its_body() -> None:
    x, y = given("x0", B, 4), given("x1", 4)
    body = graph_of("k", {"a": pointwise.Add(x, y), "b": source.Iota(B)}, [x, y])
    kernel = recurrence.Kernel((given("p", B, 4), given("q", 4)), body)
    a, b = kernel
    graph = graph_of("g", {"b": b, "a": a})
    found = evaluate(graph, {"p": np.ones((2, 4), np.float32), "q": np.ones(4, np.float32)})
    assert found["a"].tolist() == [[2] * 4] * 2
    assert found["b"].tolist() == [0, 1]
    single = recurrence.Kernel((given("p", B, 4),), graph_of("s", {"y": pointwise.Neg(x)}))
    assert str(single.type) == "f32[B, 4]"


@pytest.mark.parametrize("bad", [-1, 7])
def test_an_index_outside_the_table_is_an_error(bad: int) -> None:
    indices = np.array([[0, bad]], np.int64)
    with pytest.raises(MmcError, match=f"index {bad} is outside a table of 7 rows"):
        run(shape.Gather, (normal(7, 4), indices))


def test_a_byte_that_is_no_code_is_an_error() -> None:
    w = source.Weight("w", TensorType(DType.TERNARY_2BIT, (16, 16)))
    graph = graph_of("g", {"y": ternary.TernaryMatmul(given("x", 16, dtype=I8), w)})
    with pytest.raises(MmcError, match="not a packed 2bit matrix"):
        evaluate(graph, {"x": np.zeros(16, np.int8)}, {"w": np.full(64, 255, np.uint8)})


# What is refused.

X, Y, N = given("x", B, T, 8), given("y", B, T, 9), given("n", B, T, 8, dtype=I32)
MASK, VECTOR, ROW = given("m", B, T, 8, dtype=BOOL), given("v", 8), given("r", B, T, 1)
Q, TRIT = given("q", B, T, 8, dtype=I8), given("t", 6, 8, dtype=TRITS)
NIBBLES = given("c", 6, 32, dtype=DType.U8)
NIBBLE_STEPS = given("s", 6, 2, dtype=DType.F16)
IDX = given("i", B, dtype=I64)
HEADS, ANGLE = given("q", B, T, 6, 8), given("c", B, T, 4)
CACHE, NEW = given("k", B, 2, 16, 8), given("y", B, T, 2, 8)
CODES, CODE_STEPS = given("c", B, 2, 16, 8, dtype=DType.U8), given("s", B, 2, 16, 1)


def coded(codes: Value, steps: Value) -> attention.AttentionCodes:
    return attention.AttentionCodes(HEADS, codes, steps, codes, steps, IDX, 0.5)


STEPS = graph_of("step", {"h": given("h", B, 8)}, [given("h", B, 8), given("x", B, 8)])

REFUSED: dict[str, list[tuple[Callable[[], Op], str]]] = {
    "add": [
        (lambda: pointwise.Add(X, N), "one dtype, not f32 and i32"),
        (lambda: pointwise.Add(X, Y), "do not broadcast"),
    ],
    "less": [(lambda: logic.Less(X, Y), "do not broadcast")],
    "where": [
        (lambda: logic.Where(X, X, X), "condition must be bool"),
        (lambda: logic.Where(MASK, X, N), "one dtype"),
        (lambda: logic.Where(MASK, X, Y), "do not broadcast"),
    ],
    "round": [(lambda: pointwise.Round(X, "up"), "unknown rounding 'up'")],
    "gelu": [(lambda: pointwise.Gelu(X, "fast"), "unknown form 'fast'")],
    "cast": [(lambda: pointwise.Cast(TRIT, DType.TERNARY_2BIT), "made by pack_ternary")],
    "sum": [
        (lambda: reduce.Sum(X, 3), "no axis 3 in f32"),
        (lambda: reduce.Sum(scalar(1.0)), "no axis -1"),
    ],
    "max": [(lambda: reduce.Max(X, -4), "no axis -4")],
    "softmax": [(lambda: reduce.Softmax(X, 3), "no axis 3")],
    "cum_sum": [(lambda: reduce.CumSum(X, -4), "no axis -4")],
    "reshape": [(lambda: shape.Reshape(X, (B, 8)), "does not have the elements")],
    "permute": [
        (lambda: shape.Permute(X, (0, 1)), "does not permute"),
        (lambda: shape.Permute(X, (0, 0, 1)), "not permute"),
    ],
    "expand": [
        (lambda: shape.Expand(X, (B, T, 9)), "broadcast"),
        (lambda: shape.Expand(X, (8,)), "does not expand"),
    ],
    "slice": [
        (lambda: shape.Slice(X, 3, 0, 1), "no axis 3"),
        (lambda: shape.Slice(X, -1, 4, 5), "element 8 of axis 2 is outside"),
        (lambda: shape.Slice(X, -1, 0, 3, 4), "element 8 of axis 2"),
        (lambda: shape.Slice(X, -1, -1, 2), "is negative"),
        (lambda: shape.Slice(X, -1, 0, -1), "is negative"),
    ],
    "concat": [
        (lambda: shape.Concat((), 0), "needs an operand"),
        (lambda: shape.Concat((X, Y), 0), "does not follow"),
        (lambda: shape.Concat((X, N), 0), "does not follow"),
        (lambda: shape.Concat((X, VECTOR), -1), "does not follow"),
        (lambda: shape.Concat((X,), 3), "no axis 3"),
    ],
    "pad": [
        (lambda: shape.Pad(X, 3, 0, 0), "no axis 3"),
        (lambda: shape.Pad(X, 0, -1, 0), "negative"),
    ],
    "gather": [
        (lambda: shape.Gather(X, ROW), "indices are f32"),
        (lambda: shape.Gather(scalar(1.0), IDX), "has no rows"),
    ],
    "take_position": [
        (lambda: shape.TakePosition(VECTOR, IDX), r"needs \[B, T"),
        (lambda: shape.TakePosition(X, given("j", T, dtype=I64)), "index is"),
        (lambda: shape.TakePosition(X, given("j", B, dtype=I32)), "index is"),
    ],
    "linear": [
        (lambda: linear.Linear(X, given("w", 5, 9)), "x has 8 columns, w has 9"),
        (lambda: linear.Linear(X, VECTOR), "needs x"),
        (lambda: linear.Linear(N, given("w", 5, 8)), "x is i32, w is f32"),
        (lambda: linear.Linear(X, given("w", 5, 8), VECTOR), "bias is"),
    ],
    "matmul": [
        (lambda: linear.Matmul(X, VECTOR), "two matrices"),
        (lambda: linear.Matmul(X, X), "columns"),
        (lambda: linear.Matmul(X, given("w", 8, 2, dtype=F16)), "x is f32, y is f16"),
        (lambda: linear.Matmul(given("a", 2, 3, 4), given("b", 3, 4, 5)), "do not broadcast"),
    ],
    "rms_norm": [(lambda: norm.RmsNorm(X, given("g", 9), 1e-6), "gain is")],
    "layer_norm": [
        (lambda: norm.LayerNorm(X, given("g", 9), None, 1e-6), "gain is"),
        (lambda: norm.LayerNorm(X, None, given("g", 9), 1e-6), "bias is"),
    ],
    "quantize": [
        (lambda: ternary.Quantize(N, AbsMax()), "x is i32, not f32"),
        (lambda: ternary.Quantize(X, AbsMax(rounding="odd")), "unknown rounding 'odd'"),
        (lambda: ternary.Quantize(X, AbsMax(granularity="row")), "unknown granularity 'row'"),
        (lambda: ternary.Quantize(X, AbsMax(high=128)), r"\[-128, 128\] does not fit int8"),
        (lambda: ternary.Quantize(X, AbsMax(low=5, high=4)), "does not fit int8"),
    ],
    "rms_norm_quantize": [
        (lambda: ternary.RmsNormQuantize(X, None, 1e-6, AbsMax(high=128)), "int8")
    ],
    "scale_quantize": [(lambda: ternary.ScaleQuantize(X, X, None, AbsMax()), "r is")],
    "factored_quantize": [
        (lambda: ternary.FactoredQuantize(X, X, None, AbsMax()), "r is"),
        (lambda: ternary.FactoredQuantize(X, ROW, None, AbsMax(granularity="tensor")), "one step"),
    ],
    "dequantize": [
        (lambda: ternary.Dequantize(X, ROW), "q is f32"),
        (lambda: ternary.Dequantize(N, VECTOR), "s is"),
        (lambda: ternary.Dequantize(N, ROW, given("w", 9)), "w is"),
    ],
    "expand_ternary": [
        (lambda: ternary.ExpandTernary(given("w", 6, 8), scalar(1.0)), "not ternary"),
        (lambda: ternary.ExpandTernary(TRIT, given("s", 8)), "scale is"),
        (lambda: ternary.ExpandTernary(TRIT, given("s", 6, 3)), "scale is"),
        (lambda: ternary.ExpandTernary(TRIT, given("s", 6, 0)), "scale is"),
        (lambda: ternary.ExpandTernary(TRIT, given("s", 6, 1, 1)), "scale is"),
    ],
    "quantize_int4": [
        (lambda: int4.QuantizeInt4(X), "not f32"),
        (lambda: int4.QuantizeInt4(given("w", 6, 48)), "48 columns are no whole groups of 32"),
    ],
    "dequantize_int4": [
        (lambda: int4.DequantizeInt4(X, NIBBLE_STEPS), "codes are f32, not u8"),
        (lambda: int4.DequantizeInt4(NIBBLES, X), "steps are f32, not f16"),
        (lambda: int4.DequantizeInt4(NIBBLES, given("s", 6, 3, dtype=DType.F16)), "codes are u8"),
        (lambda: int4.DequantizeInt4(NIBBLES, given("s", 5, 2, dtype=DType.F16)), "codes are u8"),
    ],
    "pack_ternary": [
        (lambda: ternary.PackTernary(X, "2bit"), "t is f32"),
        (lambda: ternary.PackTernary(TRIT, "3bit"), "unknown layout '3bit'"),  # pyright: ignore
    ],
    "ternary_matmul": [
        (lambda: ternary.TernaryMatmul(X, TRIT), "activations must be i8, not f32"),
        (lambda: ternary.TernaryMatmul(Q, X), "weights must be ternary"),
        (
            lambda: ternary.TernaryMatmul(Q, given("t", 6, 9, dtype=TRITS)),
            "x has 8 columns, w has 9",
        ),
    ],
    "scan": [
        (lambda: recurrence.Scan((VECTOR,), (), (), STEPS), "needs a sequence"),
        (lambda: recurrence.Scan((VECTOR,), (X,), (), STEPS, 1), "body takes"),
        (lambda: recurrence.Scan((given("h", B, 8),), (X,), (), STEPS, 3), "no axis 3"),
        (lambda: recurrence.Scan((given("h", B, 8),), (X,), (), STEPS, -1), "no axis -1"),
        (lambda: recurrence.Scan((given("h", B, 8),), (X, Y), (), STEPS, 1), "body takes"),
        (
            lambda: recurrence.Scan(
                (given("h", B, 8),), (X,), (), graph_of("b", {"h": scalar(1.0)}, STEPS.inputs), 1
            ),
            "carries",
        ),
    ],
    "linear_recurrence": [
        (lambda: recurrence.LinearRecurrence(X, Y, given("h", B, 8)), "a is"),
        (lambda: recurrence.LinearRecurrence(N, N, given("h", B, 8)), "a is i32"),
        (lambda: recurrence.LinearRecurrence(X, X, given("h", T, 8)), "h0 is"),
        (lambda: recurrence.LinearRecurrence(X, X, given("h", B, 8), -2), "no axis -2"),
    ],
    "causal_conv": [
        (lambda: recurrence.CausalConv(X, given("s", B, 3, 8), given("w", 9, 4)), "w is"),
        (lambda: recurrence.CausalConv(X, given("s", B, 4, 8), given("w", 8, 4)), "state is"),
    ],
    "conv_window": [
        (
            lambda: recurrence.ConvWindow(X, given("s", B, 3, 8), given("n", T, dtype=I64)),
            "lengths is",
        )
    ],
    "rotary": [
        (lambda: attention.Rotary(X, ROW, ROW), "x must be f32"),
        (lambda: attention.Rotary(HEADS, ANGLE, given("s", B, T, 8)), "sin is"),
        (lambda: attention.Rotary(HEADS, X, X), "cos is"),
    ],
    "cache_append": [
        (lambda: attention.CacheAppend(CACHE, given("x", B, T, 3, 8), IDX, IDX), "not \\[B, G, S"),
        (lambda: attention.CacheAppend(CACHE, NEW, IDX, given("n", T, dtype=I64)), "lengths is"),
        (lambda: attention.CacheAppend(CACHE, NEW, given("n", B, dtype=I32), IDX), "position is"),
    ],
    "attention": [
        (lambda: attention.Attention(X, CACHE, CACHE, IDX, 1.0), "q must be f32"),
        (lambda: attention.Attention(HEADS, CACHE, given("v", B, 2, 9, 8), IDX, 1.0), "values are"),
        (lambda: attention.Attention(given("q", B, T, 5, 8), CACHE, CACHE, IDX, 1.0), "5 heads"),
        (lambda: attention.Attention(HEADS, CACHE, CACHE, VECTOR, 1.0), "position is"),
    ],
    "attention_codes": [
        (lambda: coded(CACHE, CODE_STEPS), "not u8"),
        (lambda: coded(CODES, CACHE), "steps are"),
        (lambda: coded(CODES, given("s", B, 2, 16, 1, dtype=F16)), "steps are"),
        (
            lambda: coded(given("k", B, 5, 16, 8, dtype=DType.U8), given("s", B, 5, 16, 1)),
            "6 heads",
        ),
    ],
    "kernel": [(lambda: recurrence.Kernel((X,), STEPS), "body takes")],
}


@pytest.mark.parametrize(
    ("make", "message"),
    [pytest.param(m, t, id=f"{k}-{n}") for k, v in REFUSED.items() for n, (m, t) in enumerate(v)],
)
def test_refused(make: Callable[[], Op], message: str) -> None:
    with pytest.raises(VerifyError, match=message):
        _ = make().types


ACCEPTED: list[tuple[Callable[[], Value], str]] = [
    (lambda: pointwise.Add(given("a", T, 1), given("b", B, 1, 8)), "f32[B, T, 8]"),
    (lambda: logic.Less(X, ROW), "bool[B, T, 8]"),
    (lambda: pointwise.Cast(TRIT, I8), "i8[6, 8]"),
    (lambda: reduce.Sum(X, 1), "f32[B, 1, 8]"),
    (lambda: reduce.ArgMax(X, -1, False), "i64[B, T]"),
    (lambda: shape.Reshape(X, (T * B, 2, 4)), "f32[B*T, 2, 4]"),
    (lambda: shape.Slice(X, 1, T - 1, 1), "f32[B, 1, 8]"),
    (lambda: shape.Concat((X, Y, ROW), -1), "f32[B, T, 18]"),
    (lambda: shape.Concat((X, X), 1), "f32[B, 2*T, 8]"),
    (lambda: shape.Pad(X, 1, 2, 1), "f32[B, T+3, 8]"),
    (lambda: shape.Gather(given("w", 50, 6), given("k", B, T, dtype=I64)), "f32[B, T, 6]"),
    (lambda: shape.Gather(given("w", 50), given("k", B, dtype=I32)), "f32[B]"),
    (lambda: shape.TakePosition(X, IDX), "f32[B, 1, 8]"),
    (lambda: linear.Matmul(given("a", B, 1, T, 8), given("b", 3, 8, T)), "f32[B, 3, T, T]"),
    (lambda: ternary.Quantize(X, AbsMax(granularity="tensor")).results[1], "f32[1, 1, 1]"),
    (lambda: ternary.TernaryMatmul(Q, TRIT), "i32[B, T, 6]"),
    (lambda: recurrence.ConvWindow(X, given("s", B, 3, 8), IDX), "f32[B, 3, 8]"),
    (lambda: attention.Rotary(HEADS, ANGLE, ANGLE), "f32[B, T, 6, 8]"),
    (lambda: attention.CacheAppend(CACHE, NEW, IDX, IDX), "f32[B, 2, 16, 8]"),
    (lambda: attention.Attention(HEADS, CACHE, CACHE, IDX, 0.5), "f32[B, T, 6, 8]"),
    (lambda: coded(CODES, CODE_STEPS), "f32[B, T, 6, 8]"),
]


@pytest.mark.parametrize(("make", "declared"), ACCEPTED, ids=[text for _, text in ACCEPTED])
def test_accepted(make: Callable[[], Value], declared: str) -> None:
    assert str(make().type) == declared
