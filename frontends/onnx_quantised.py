"""Every form in which ONNX holds a quantised weight or activation.

Weights become float expressions of what is stored, (w - zero_point) * scale: the compiler's passes
fold them and look at their values, whatever form they came in.
"""

# onnx_ir leaves tensors unknown.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false
from __future__ import annotations

from collections.abc import Callable

import onnx_ir

from mmc.frontends.onnx_call import Call, Operand, Translate, axis_of, dtype_of, floats, scalar_like
from mmc.frontends.onnx_pointwise import ceil, trunc
from mmc.frontends.operands import Unsupported, cast, lowest, over, reshape
from mmc.ir.op import Value
from mmc.ir.ops import logic
from mmc.ir.ops import pointwise as p
from mmc.ir.ops import reduce as r
from mmc.ir.ops.linear import Linear
from mmc.ir.ops.shape import Concat, Expand, Slice
from mmc.ir.ops.source import scalar
from mmc.ir.types import Dim, DType, Shape

RANGES: dict[str, tuple[int, int]] = {
    "INT8": (-128, 127), "UINT8": (0, 255), "INT4": (-8, 7), "UINT4": (0, 15),
    "INT2": (-2, 1), "UINT2": (0, 3),
}  # fmt: skip


def _spread(call: Call, found: Value, x: Value) -> Value:
    """A scale or zero point against x: one number, one for each index of `axis`, or blocks."""
    if found.type.rank == 0 or found.type.shape == (1,):
        return reshape(found, ())
    axis = axis_of(x, call.attribute("axis", 1))
    block = call.attribute("block_size", 0)
    if not block:
        shape: Shape = tuple(d if i == axis else 1 for i, d in enumerate(x.type.shape))
        return reshape(found, shape)
    return blocked(found, axis, block, x.type.shape[axis])


def blocked(found: Value, axis: int, block: int, size: Dim) -> Value:
    """Each element of one axis `block` times; the last block may be cut short."""
    shape = found.type.shape
    apart = (*shape[: axis + 1], 1, *shape[axis + 1 :])
    wide = Expand(reshape(found, apart), (*shape[: axis + 1], block, *shape[axis + 1 :]))
    whole = reshape(wide, (*shape[:axis], shape[axis] * block, *shape[axis + 1 :]))
    return whole if whole.type.shape[axis] == size else Slice(whole, axis, 0, size)


def _narrow_type(call: Call, index: int, attribute: str) -> str:
    """The name of a quantised element type: that of the zero point, or an attribute."""
    source = call.node.inputs[index] if index < len(call.node.inputs) else None
    if source is not None and source.dtype is not None:
        return source.dtype.name
    if call.has(index):
        return "INT8" if call.value(index).type.dtype is DType.I8 else "UINT8"
    given = call.attribute(attribute, 0)
    return onnx_ir.DataType(given).name if given else "UINT8"


def _quantize(call: Call) -> Value:
    """clamp(round(x / scale) + zero_point)."""
    x, name = floats(call.value(0)), _narrow_type(call, 2, "output_dtype")
    if name not in RANGES:
        raise Unsupported(f"quantising to {name}")
    whole = p.Round(p.Div(x, _spread(call, floats(call.value(1)), x)))
    if call.has(2) and call.number(2) != 0:
        whole = p.Add(whole, _spread(call, floats(call.value(2)), x))
    low, high = RANGES[name]
    return p.Cast(p.Clamp(whole, float(low), float(high)), DType.I8 if low < 0 else DType.U8)


def _dequantize(call: Call) -> Value:
    """(x - zero_point) * scale."""
    q, scale = call.value(0), call.value(1)
    x = floats(q)
    if call.has(2) and call.number(2) != 0:
        x = p.Sub(x, _spread(call, floats(call.value(2)), x))
    made = p.Mul(x, _spread(call, floats(scale), x))
    wanted = call.attribute("output_dtype", 0)
    return cast(made, dtype_of(wanted) if wanted else scale.type.dtype)


def _dynamic_quantize(call: Call) -> list[Operand | None]:
    """Asymmetric uint8 over the whole tensor: not the quantiser of BitLinear."""
    x = call.value()
    high = p.Clamp(over(r.Max, x, None, False), 0.0, None)
    low = p.Clamp(over(lowest, x, None, False), None, 0.0)
    scale = p.Div(p.Sub(high, low), scalar(255.0))
    zero = p.Clamp(p.Round(p.Div(p.Neg(low), scale)), 0.0, 255.0)
    y = p.Clamp(p.Add(p.Round(p.Div(x, scale)), zero), 0.0, 255.0)
    return [p.Cast(y, DType.U8), scale, p.Cast(zero, DType.U8)]


_QUANT_ROUNDINGS: dict[str, Callable[[Value], Value]] = {
    "ROUND": p.Round,
    "HALF_EVEN": p.Round,
    "CEIL": ceil,
    "FLOOR": p.Floor,
    "ROUND_TO_ZERO": trunc,
    "DOWN": trunc,
}


def _quant(call: Call) -> Value:
    """QONNX's: quantised and back in floats, of any number of bits; narrow leaves out the lowest.

    https://github.com/fastmachinelearning/qonnx/blob/main/docs/qonnx-custom-ops/quant_op.md
    """
    x, scale, zero, bits = call.value(0), call.value(1), call.value(2), call.number(3)
    mode = str(call.attribute("rounding_mode", "ROUND")).upper()
    if not isinstance(bits, int | float) or bits != int(bits) or not 1 <= bits <= 32:
        raise Unsupported(f"{bits} bits")
    if mode not in _QUANT_ROUNDINGS:
        raise Unsupported(f"rounding mode {mode}")
    signed, narrow = call.attribute("signed", 1), call.attribute("narrow", 0)
    half = 2 ** (int(bits) - 1)
    low, high = (-half + narrow, half - 1) if signed else (0, 2 * half - 1 - narrow)
    shift = None if call.number(2) == 0 else zero
    q = p.Div(x, scale)
    q = q if shift is None else p.Add(q, shift)
    q = p.Clamp(_QUANT_ROUNDINGS[mode](q), float(low), float(high))
    return p.Mul(q if shift is None else p.Sub(q, shift), scale)


def _bipolar_quant(call: Call) -> Value:
    """QONNX's: scale where x is not negative, else -scale."""
    x = call.value(0)
    one = scalar_like(1.0, x)
    sign = logic.Where(logic.GreaterEqual(x, scalar_like(0.0, x)), one, p.Neg(one))
    return p.Mul(sign, call.value(1))


def _matmul_nbits(call: Call) -> Value:
    """onnxruntime's: weights [N, K] of 2, 4 or 8 bits in blocks of columns, each with a scale.

    The product is computed with the activations as they are (accuracy_level 1).
    https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md
    """
    n, k, bits, block = (int(call.attribute(name, 4)) for name in ("N", "K", "bits", "block_size"))
    blocks = -(-k // max(block, 1))
    if bits not in (2, 4, 8) or call.has(4):
        raise Unsupported(f"{bits} bits, or columns in another order (g_idx)")
    packed = call.as_value(call.operand(1), 1)
    if packed.type.shape != (n, blocks, block * bits // 8) or packed.type.dtype is not DType.U8:
        raise Unsupported(f"weights {packed.type} for N={n}, K={k}, blocks of {block}")
    codes = reshape(_codes(packed, bits), (n, blocks * block))
    codes = Slice(codes, 1, 0, k) if blocks * block != k else codes
    if call.has(3):
        zero = blocked(_zero_points(call.value(3), bits, n, blocks), 1, block, k)
    else:
        zero = scalar(float(2 ** (bits - 1)))
    scale = blocked(reshape(floats(call.value(2)), (n, blocks)), 1, block, k)
    w = p.Mul(p.Sub(codes, zero), scale)
    x = call.value(0)
    bias = None if call.optional(5) is None else floats(call.value(5))
    return cast(Linear(floats(x), w, bias), x.type.dtype)


def _codes(packed: Value, bits: int) -> Value:
    """[..., bytes] -> [..., codes] as floats, the lowest bits of each byte first."""
    each = [
        logic.BitAnd(
            logic.ShiftRight(packed, scalar(shift, DType.U8)), scalar(2**bits - 1, DType.U8)
        )
        for shift in range(0, 8, bits)
    ]
    shape = packed.type.shape
    apart = [reshape(code, (*shape, 1)) for code in each]
    joined = Concat(tuple(apart), len(shape)) if len(apart) > 1 else apart[0]
    return floats(reshape(joined, (*shape[:-1], shape[-1] * len(each))))


def _zero_points(given: Value, bits: int, n: int, blocks: int) -> Value:
    """Packed like the weights, or floats; [N, blocks]."""
    if given.type.dtype is not DType.U8:
        return reshape(floats(given), (n, blocks))
    codes = _codes(reshape(given, (n, -(-blocks * bits // 8))), bits)
    return codes if codes.type.shape[1] == blocks else Slice(codes, 1, 0, blocks)


TABLE: dict[str, Translate] = {
    "DequantizeLinear": _dequantize,
    "DynamicQuantizeLinear": _dynamic_quantize,
    "QuantizeLinear": _quantize,
    "com.microsoft.DequantizeLinear": _dequantize,
    "com.microsoft.MatMulNBits": _matmul_nbits,
    "com.microsoft.QuantizeLinear": _quantize,
    "onnx.brevitas.Quant": _quant,
    "qonnx.custom_op.general.BipolarQuant": _bipolar_quant,
    "qonnx.custom_op.general.Quant": _quant,
}
