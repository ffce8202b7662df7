"""The functions of `onnx_functions` as they come back: the operations that they were."""

# Table entries are lambdas; onnx_ir leaves attribute values unknown.
# pyright: reportUnknownLambdaType=false, reportUnknownArgumentType=false
from __future__ import annotations

from mmc.frontends.onnx_call import Call, Operand, Translate
from mmc.frontends.onnx_functions import GRANULARITIES
from mmc.frontends.operands import Unsupported
from mmc.ir.ops.attention import Attention, AttentionCodes, CacheAppend, Rotary
from mmc.ir.ops.norm import MeanSquare, RmsNorm, RmsStatistic
from mmc.ir.ops.pointwise import ROUNDINGS, Round
from mmc.ir.ops.recurrence import ConvWindow
from mmc.ir.ops.shape import TakePosition
from mmc.ir.ops.ternary import AbsMax, FactoredQuantize, Quantize


def _eps(call: Call, index: int) -> float:
    eps = call.number(index)
    if not isinstance(eps, float):
        raise Unsupported("its eps is not a number")
    return eps


def _by(call: Call, rounding: str, granularity: str) -> AbsMax:
    top, low, high, eps = (call.attribute(n) for n in ("range", "low", "high", "eps"))
    return AbsMax(float(top), int(low), int(high), float(eps), rounding, granularity)


def _quantize(rounding: str, granularity: str) -> Translate:
    def translate(call: Call) -> list[Operand | None]:
        return [*Quantize(call.value(), _by(call, rounding, granularity))]

    return translate


def _factored_quantize(rounding: str) -> Translate:
    def translate(call: Call) -> list[Operand | None]:
        by = _by(call, rounding, "token")
        return [*FactoredQuantize(call.value(0), call.value(1), None, by)]

    return translate


def _attention(call: Call) -> Attention:
    return Attention(*(call.value(i) for i in range(4)), float(call.attribute("scale")))


def _attention_codes(call: Call) -> AttentionCodes:
    return AttentionCodes(*(call.value(i) for i in range(6)), float(call.attribute("scale")))


TABLE: dict[str, Translate] = {
    "mmc.Attention": _attention,
    "mmc.AttentionCodes": _attention_codes,
    "mmc.CacheAppend": lambda call: CacheAppend(*(call.value(i) for i in range(4))),
    "mmc.ConvWindow": lambda call: ConvWindow(call.value(0), call.value(1), call.value(2)),
    "mmc.MeanSquare": lambda call: MeanSquare(call.value(0)),
    "mmc.RmsNorm": lambda call: RmsNorm(call.value(0), None, _eps(call, 1)),
    "mmc.RmsNormGain": lambda call: RmsNorm(call.value(0), call.value(1), _eps(call, 2)),
    "mmc.RmsStatistic": lambda call: RmsStatistic(call.value(0), _eps(call, 1)),
    "mmc.Rotary": lambda call: Rotary(call.value(0), call.value(1), call.value(2)),
    "mmc.TakePosition": lambda call: TakePosition(call.value(0), call.value(1)),
    **{
        f"mmc.Round_{mode}": (lambda call, mode=mode: Round(call.value(), mode))
        for mode in ROUNDINGS
    },
    **{
        f"mmc.Quantize_{rounding}_{granularity}": _quantize(rounding, granularity)
        for rounding in ROUNDINGS
        for granularity in GRANULARITIES
    },
    **{f"mmc.FactoredQuantize_{mode}": _factored_quantize(mode) for mode in ROUNDINGS},
}
