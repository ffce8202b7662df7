"""What is known of numbers before they are computed: the least that they can be."""

from __future__ import annotations

import math

from mmc.ir.op import Value, producer
from mmc.ir.ops.norm import MeanSquare
from mmc.ir.ops.pointwise import Add, Div, Maximum, Mul, Square
from mmc.ir.ops.source import Constant


def least(value: Value) -> float:
    """No element is less, but for what is not a number; minus infinity where nothing is known."""
    match producer(value):
        case Constant(value=number):
            return float(number)
        case Square() | MeanSquare():
            return 0.0
        case Maximum() as op:
            return max(least(op.x), least(op.y))
        case Add() as op:
            return least(op.x) + least(op.y)
        case Mul() as op if min(least(op.x), least(op.y)) >= 0:
            return least(op.x) * least(op.y)
        case _:
            return -math.inf


def is_scale(op: Div) -> bool:
    """Whether this is a quantiser's range over a maximum: neither it nor 1 / it leaves float32."""
    top = producer(op.x)
    return isinstance(top, Constant) and 16 <= top.value <= 2**20 and least(op.y) >= 2.0**-90
