"""From the operations of the IR to ONNX: one function for each kind of operation.

Ternary products become MatMulInteger: int8 activations times int8 trits, summed in int32, which is
exact.  What ONNX has no operator for is a function of `onnx_functions`.
"""

# Table entries are lambdas.
# pyright: reportUnknownLambdaType=false, reportUnknownArgumentType=false
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx_ir

from mmc.frontends.onnx_call import DTYPES
from mmc.frontends.onnx_writer import Writer
from mmc.frontends.operands import Unsupported
from mmc.ir.op import Op
from mmc.ir.ops import (
    attention,
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
from mmc.ir.ops.catalog import OPERATIONS
from mmc.ir.ops.ternary import AbsMax
from mmc.ir.types import DType

Names = list[onnx_ir.Value]
Emit = Callable[[Writer, Any, Names], onnx_ir.Value | Sequence[onnx_ir.Value]]

CODES = {ours: theirs.value for theirs, ours in DTYPES.items()}


def _simple(name: str, **attributes: Any) -> Emit:
    return lambda w, op, x: w.node(name, *x, **attributes)


def _chain(*names: str) -> Emit:
    """One operator behind the other; the first takes the operands."""

    def emit(w: Writer, op: Op, x: Names) -> onnx_ir.Value:
        made = w.node(names[0], *x)
        for name in names[1:]:
            made = w.node(name, made)
        return made

    return emit


def _division(w: Writer, op: pointwise.Div, x: Names) -> onnx_ir.Value:
    if not op.type.dtype.is_float:
        raise Unsupported("integer division towards minus infinity")
    return w.node("Div", *x)


def _clamp(w: Writer, op: pointwise.Clamp, x: Names) -> onnx_ir.Value:
    bounds = [None if b is None else w.number(b, op.type.dtype) for b in (op.low, op.high)]
    return w.node("Clip", x[0], *bounds)


def _bits(ints: str, bools: str) -> Emit:
    return lambda w, op, x: w.node(bools if op.type.dtype is DType.BOOL else ints, *x)


def _not(w: Writer, op: logic.Not, x: Names) -> onnx_ir.Value:
    truth = x[0] if op.x.type.dtype is DType.BOOL else w.node("Cast", x[0], to=CODES[DType.BOOL])
    return w.node("Not", truth)


def _shift(w: Writer, op: logic.ShiftRight, x: Names) -> onnx_ir.Value:
    return w.node("BitShift", *x, direction="RIGHT")


def _reduction(name: str) -> Emit:
    def emit(w: Writer, op: reduce.Reduction, x: Names) -> onnx_ir.Value:
        return w.node(name, x[0], w.ints([op.axis]), keepdims=int(op.keepdims))

    return emit


def _linear(w: Writer, op: linear.Linear, x: Names) -> onnx_ir.Value:
    made = w.node("MatMul", x[0], w.transposed(x[1]))
    return made if op.bias is None else w.node("Add", made, x[2])


def _ternary_matmul(w: Writer, op: ternary.TernaryMatmul, x: Names) -> onnx_ir.Value:
    return w.node("MatMulInteger", x[0], w.transposed(x[1]))


def _statistic(w: Writer, eps: float, x: onnx_ir.Value) -> onnx_ir.Value:
    return w.own("RmsStatistic", x, w.double(eps))[0]


def _rms_norm(w: Writer, op: norm.RmsNorm | ternary.RmsNormQuantize, x: Names) -> onnx_ir.Value:
    if op.gain is None:
        return w.own("RmsNorm", x[0], w.double(op.eps))[0]
    return w.own("RmsNormGain", x[0], x[1], w.double(op.eps))[0]


def _layer_norm(w: Writer, op: norm.LayerNorm, x: Names) -> onnx_ir.Value:
    given = iter(x[1:])
    width = op.x.type.shape[-1]
    if not isinstance(width, int):
        raise Unsupported(f"a layer norm over {width} elements")
    ones = np.ones(width, op.x.type.dtype.numpy)
    gain = w.array("ones", ones) if op.gain is None else next(given)
    bias = [] if op.bias is None else [next(given)]
    return w.node("LayerNormalization", x[0], gain, *bias, axis=-1, epsilon=op.eps)


def _quantize(w: Writer, by: AbsMax, x: onnx_ir.Value) -> Names:
    return w.own(f"Quantize_{by.rounding}_{by.granularity}", x, **_bounds(by))


def _bounds(by: AbsMax) -> dict[str, float]:
    return {"range": by.range, "low": float(by.low), "high": float(by.high), "eps": by.eps}


def _scale_quantize(w: Writer, op: ternary.ScaleQuantize, x: Names) -> Names:
    y = w.node("Mul", x[0], x[1])
    return _quantize(w, op.by, y if op.gain is None else w.node("Mul", y, x[2]))


def _factored_quantize(w: Writer, op: ternary.FactoredQuantize, x: Names) -> Names:
    u = x[0] if op.gain is None else w.node("Mul", x[0], x[2])
    return w.own(f"FactoredQuantize_{op.by.rounding}", u, x[1], **_bounds(op.by))


def _dequantize(w: Writer, op: ternary.Dequantize, x: Names) -> onnx_ir.Value:
    scale = x[1] if op.w is None else w.node("Mul", x[1], x[2])
    return w.node("Mul", w.node("Cast", x[0], to=CODES[DType.F32]), scale)


def _expand_ternary(w: Writer, op: ternary.ExpandTernary, x: Names) -> onnx_ir.Value:
    shape = op.scale.type.shape
    trits = w.node("Cast", x[0], to=CODES[DType.F32])
    if not shape:
        return w.node("Mul", trits, x[1])
    if len(shape) > 1:
        raise Unsupported("a scale for each group of columns")
    return w.node("Mul", trits, w.node("Unsqueeze", x[1], w.ints([1])))


def _recurrence(w: Writer, op: recurrence.LinearRecurrence, x: Names) -> onnx_ir.Value:
    """h' = a*h + b in the body of a Scan."""
    body = w.nested()
    h, a, b = (body.input(n, op.h0.type) for n in ("h", "a", "b"))
    new = body.node("Add", body.node("Mul", a, h), b)
    graph = body.graph("recurrence", [h, a, b], [new, body.node("Identity", new)])
    made = w.nodes(
        "Scan", [x[2], x[0], x[1]], 2, body=graph, num_scan_inputs=2,
        scan_input_axes=[op.axis, op.axis], scan_output_axes=[op.axis],
    )  # fmt: skip
    return made[1]


def _scan(w: Writer, op: recurrence.Scan, x: Names) -> Names:
    """Captured values are read by name, as ONNX lets nested graphs do."""
    body, n = w.nested(), len(op.init)
    count = len(op.xs)
    names = [body.input(i.name, i.type) for i in op.body.inputs[: n + count]]
    made = body.inline(op.body, [*names, *x[n + count :]])
    returned = [body.node("Identity", value) for value in made]
    graph = body.graph("step", names, returned)
    ys = len(returned) - n
    return w.nodes(
        "Scan", x[: n + count], len(returned), body=graph, num_scan_inputs=count,
        scan_input_axes=[op.axis] * count, scan_output_axes=[op.axis] * ys,
    )  # fmt: skip


def _conv(w: Writer, op: recurrence.CausalConv, x: Names) -> onnx_ir.Value:
    past = w.node("Transpose", w.node("Concat", x[1], x[0], axis=1), perm=[0, 2, 1])
    taps = w.node("Unsqueeze", x[2], w.ints([1]))
    channels = int(str(op.w.type.shape[0]))
    return w.node(
        "Transpose", w.node("Conv", past, taps, *x[3:], group=channels), perm=[0, 2, 1]
    )  # fmt: skip


def _slice(w: Writer, op: shape.Slice, x: Names) -> onnx_ir.Value:
    start, end = w.dims((op.start,)), w.dims((op.start + op.length * op.step,))
    return w.node("Slice", x[0], start, end, w.ints([op.axis]), w.ints([op.step]))


def _pad(w: Writer, op: shape.Pad, x: Names) -> onnx_ir.Value:
    value = w.number(op.value, op.type.dtype)
    return w.node("Pad", x[0], w.ints([op.before, op.after]), value, w.ints([op.axis]))


def _iota(w: Writer, op: source.Iota, x: Names) -> onnx_ir.Value:
    one = w.number(1, DType.I64)
    end = w.node("Squeeze", w.dims((op.length + op.start,)))
    return w.node("Range", w.number(op.start, DType.I64), end, one)


def _constant(w: Writer, op: source.Constant, x: Names) -> onnx_ir.Value:
    value = w.number(op.value, op.type.dtype)
    return value if not op.type.shape else w.node("Expand", value, w.dims(op.type.shape))


TABLE: dict[type[Op], Emit] = {
    pointwise.Detach: _simple("Identity"),
    pointwise.Rsqrt: _chain("Sqrt", "Reciprocal"),
    pointwise.Square: lambda w, op, x: w.node("Mul", x[0], x[0]),
    pointwise.Silu: lambda w, op, x: w.node("Mul", x[0], w.node("Sigmoid", x[0])),
    pointwise.Gelu: lambda w, op, x: w.node("Gelu", x[0], approximate=op.approximate),
    pointwise.Round: lambda w, op, x: w.own(f"Round_{op.mode}", x[0])[0],
    pointwise.Clamp: _clamp,
    logic.Not: _not,
    pointwise.Cast: lambda w, op, x: w.node("Cast", x[0], to=CODES[op.dtype]),
    pointwise.Div: _division,
    logic.BitAnd: _bits("BitwiseAnd", "And"),
    logic.BitOr: _bits("BitwiseOr", "Or"),
    logic.ShiftRight: _shift,
    logic.NotEqual: _chain("Equal", "Not"),
    reduce.Sum: _reduction("ReduceSum"),
    reduce.Mean: _reduction("ReduceMean"),
    reduce.Max: _reduction("ReduceMax"),
    reduce.ArgMax: lambda w, op, x: w.node("ArgMax", x[0], axis=op.axis, keepdims=int(op.keepdims)),
    reduce.Softmax: lambda w, op, x: w.node("Softmax", x[0], axis=op.axis),
    reduce.CumSum: lambda w, op, x: w.node("CumSum", x[0], w.ints([op.axis])),
    shape.Reshape: lambda w, op, x: w.node("Reshape", x[0], w.new_shape(op.shape)),
    shape.Permute: lambda w, op, x: w.node("Transpose", x[0], perm=list(op.order)),
    shape.Expand: lambda w, op, x: w.node("Expand", x[0], w.dims(op.shape)),
    shape.Slice: _slice,
    shape.Concat: lambda w, op, x: w.node("Concat", *x, axis=op.axis),
    shape.Pad: _pad,
    shape.Gather: lambda w, op, x: w.node("Gather", x[0], x[1], axis=0),
    shape.TakePosition: lambda w, op, x: w.own("TakePosition", *x)[0],
    source.Constant: _constant,
    source.Iota: _iota,
    linear.Linear: _linear,
    linear.Matmul: _simple("MatMul"),
    norm.MeanSquare: lambda w, op, x: w.own("MeanSquare", x[0])[0],
    norm.RmsStatistic: lambda w, op, x: _statistic(w, op.eps, x[0]),
    norm.RmsNorm: _rms_norm,
    norm.LayerNorm: _layer_norm,
    ternary.Quantize: lambda w, op, x: _quantize(w, op.by, x[0]),
    ternary.RmsNormQuantize: lambda w, op, x: _quantize(w, op.by, _rms_norm(w, op, x)),
    ternary.ScaleQuantize: _scale_quantize,
    ternary.FactoredQuantize: _factored_quantize,
    ternary.Dequantize: _dequantize,
    ternary.ExpandTernary: _expand_ternary,
    ternary.TernaryMatmul: _ternary_matmul,
    recurrence.LinearRecurrence: _recurrence,
    recurrence.Scan: _scan,
    recurrence.CausalConv: _conv,
    recurrence.ConvWindow: lambda w, op, x: w.own("ConvWindow", *x)[0],
    attention.Rotary: lambda w, op, x: w.own("Rotary", *x)[0],
    attention.CacheAppend: lambda w, op, x: w.own("CacheAppend", *x)[0],
    attention.AttentionCodes: lambda w, op, x: w.own("AttentionCodes", *x, scale=op.scale)[0],
    attention.Attention: lambda w, op, x: w.own("Attention", *x, scale=op.scale)[0],
    recurrence.Kernel: lambda w, op, x: w.inline(op.body, x),
}
_SAME_NAME = (
    "Abs Neg Exp Log Sqrt Reciprocal Sigmoid Tanh Relu Softplus Erf Sin Cos Sign Floor Add Sub Mul "
    "Pow Equal Less Greater Where"
)
_OTHER_NAME = {
    pointwise.Maximum: "Max",
    pointwise.Minimum: "Min",
    logic.LessEqual: "LessOrEqual",
    logic.GreaterEqual: "GreaterOrEqual",
}
_CLASSES = {cls.__name__: cls for cls in OPERATIONS.values()}
TABLE.update({_CLASSES[name]: _simple(name) for name in _SAME_NAME.split()})
TABLE.update({ours: _simple(theirs) for ours, theirs in _OTHER_NAME.items()})
