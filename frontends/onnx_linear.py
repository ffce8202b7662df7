"""ONNX's products of matrices, of floats and of integers, and its convolution over time."""

# Table entries are lambdas.
# pyright: reportUnknownLambdaType=false, reportUnknownArgumentType=false
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
from __future__ import annotations

from mmc.frontends.onnx_call import Call, Translate, scalar_like
from mmc.frontends.operands import Unsupported, cast, permuted, product, reshape
from mmc.ir.op import Value
from mmc.ir.ops import pointwise as p
from mmc.ir.ops.linear import Linear
from mmc.ir.ops.recurrence import CausalConv
from mmc.ir.ops.shape import Pad, Slice
from mmc.ir.types import Dim, DType, TensorType


def _matmul(x: Value, y: Value) -> Value:
    """Vectors are rows on the left and columns on the right."""
    rows, columns = x.type.rank == 1, y.type.rank == 1
    x = reshape(x, (1, *x.type.shape)) if rows else x
    y = reshape(y, (*y.type.shape, 1)) if columns else y
    made = product(x, y)
    shape = list(made.type.shape)
    if columns:
        del shape[-1]
    if rows:
        del shape[-1 if columns else -2]
    return reshape(made, tuple(shape))


def _gemm(call: Call) -> Value:
    """alpha * A' B' + beta * C, where ' may transpose."""
    x, y = call.value(0), call.value(1)
    x = permuted(x, (1, 0)) if call.attribute("transA", 0) else x
    y = permuted(y, (1, 0)) if call.attribute("transB", 0) else y
    made = product(x, y)
    alpha, beta = call.attribute("alpha", 1.0), call.attribute("beta", 1.0)
    made = made if alpha == 1 else p.Mul(made, scalar_like(alpha, made))
    bias = call.optional(2)
    if bias is None or beta == 0:
        return made
    bias = bias if beta == 1 else p.Mul(bias, scalar_like(beta, bias))
    if isinstance(made, Linear) and bias.type == TensorType(
        made.x.type.dtype, made.type.shape[-1:]
    ):
        return Linear(made.x, made.w, bias)
    return p.Add(made, bias)


def _without_zero_point(call: Call, index: int, axis: int, zero: int) -> Value:
    """An integer operand less its zero point, which is one number or one for each row of `axis`."""
    x = p.Cast(call.value(index), DType.I32)
    if not call.has(zero) or call.number(zero) == 0:
        return x
    point = cast(call.value(zero), DType.I32)
    if point.type.rank == 1 and point.type.shape != (1,):
        shape: list[Dim] = [1] * x.type.rank
        shape[axis] = point.type.shape[0]
        point = reshape(point, tuple(shape))
    return p.Sub(x, reshape(point, ()) if point.type.shape == (1,) else point)


def _matmul_integer(call: Call) -> Value:
    """The exact sum of int8 or uint8 numbers, in int32."""
    return _matmul(_without_zero_point(call, 0, -2, 2), _without_zero_point(call, 1, -1, 3))


def _conv(call: Call) -> Value:
    """Depthwise over time only: x [B, D, T], w [D, 1, width], no stride and no dilation."""
    x, w, bias = call.value(0), call.value(1), call.optional(2)
    plain = all(n == 1 for name in ("strides", "dilations") for n in call.attribute(name) or [1])
    before, after = call.attribute("pads") or (0, 0) if x.type.rank == 3 else (0, 0)
    same = call.attribute("auto_pad", "NOTSET") == "NOTSET"
    depthwise = x.type.rank == 3 and w.type.shape[1] == 1 and w.type.shape[0] == x.type.shape[1]
    width = w.type.shape[-1]
    if not (plain and same and depthwise and isinstance(width, int)):
        raise Unsupported("a convolution that is not depthwise over time, without strides")
    past = permuted(cast(x, DType.F32), (0, 2, 1))
    past = Pad(past, 1, before, after) if before or after else past
    state = Slice(past, 1, 0, width - 1)
    now = Slice(past, 1, width - 1, past.type.shape[1] - (width - 1))
    taps = reshape(cast(w, DType.F32), (w.type.shape[0], width))
    made = CausalConv(now, state, taps, None if bias is None else cast(bias, DType.F32))
    return cast(permuted(made, (0, 2, 1)), x.type.dtype)


TABLE: dict[str, Translate] = {
    "Conv": _conv,
    "Gemm": _gemm,
    "MatMul": lambda call: _matmul(call.value(0), call.value(1)),
    "MatMulInteger": _matmul_integer,
}
