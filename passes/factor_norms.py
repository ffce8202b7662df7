"""Norms and the quantiser behind them from one look at a row.

A norm multiplies a row by one number, its statistic, and by a gain.  A quantiser behind it needs
the maximum of the row; `factored_quantize` multiplies by that number behind the maximum.  Where
another norm comes before, its number is left out of the row too and joins that of the next:

    u = x * gain,  r = 1 / sqrt(mean(x^2) + eps):  the norm is r u
    the next one's statistic is 1 / sqrt(r^2 mean(u^2) + eps'), and the two numbers multiply u

Then the sums of squares and the maximum need the row alone, not each other, and a kernel reads the
row once where it read it for each.  Steps agree up to the rounding of a float, activations but for
those that such a rounding decides (`FactoredQuantize.undecided`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from mmc.ir.graph import Graph, Mapped
from mmc.ir.op import Op, Value, origin, producer
from mmc.ir.ops.norm import MeanSquare, RmsNorm, RmsStatistic
from mmc.ir.ops.pointwise import Add, Mul, Rsqrt, Square
from mmc.ir.ops.source import scalar
from mmc.ir.ops.ternary import AbsMax, FactoredQuantize, RmsNormQuantize, ScaleQuantize
from mmc.ir.tensors import Tensors
from mmc.ir.types import DType
from mmc.passes.base import Log, Pass


@dataclass(frozen=True)
class FactorNorms(Pass):
    name: ClassVar[str] = "factor-norms"

    def run(self, graph: Graph, tensors: Tensors, log: Log) -> tuple[Graph, Mapped]:
        def step(old: Op, moved: Op) -> Value:
            quantiser = _quantiser(moved)
            if quantiser is None:
                return moved
            x, gain, eps, by = quantiser
            if by.granularity != "token":
                log.skip(old, f"one step for a {by.granularity}")
                return moved
            with origin(old.origin):
                factored = _factored(x)
                if factored is None:
                    log.fire(old, "factor", "its statistic and the maximum need the row alone")
                    return FactoredQuantize(x, RmsStatistic(x, eps), gain, by)
                log.fire(old, "factor both", "so do those of the norm before")
                r, u = factored
                mean = Mul(Square(r), MeanSquare(u))
                both = Mul(r, Rsqrt(Add(mean, scalar(eps, DType.F32))))
                return FactoredQuantize(u, both, gain, by)

        return graph.map(step)


def _quantiser(op: Op) -> tuple[Value, Value | None, float, AbsMax] | None:
    """A quantiser behind a norm of its own: the row, the gain, eps, and how it rounds."""
    match op:
        case RmsNormQuantize():
            return op.x, op.gain, op.eps, op.by
        case ScaleQuantize(r=RmsStatistic() as statistic) if statistic.x is op.x:
            return op.x, op.gain, statistic.eps, op.by
        case _:
            return None


def _factored(x: Value) -> tuple[Value, Value] | None:
    """A product with a norm in it as a number for each row and the rest; None where it is none."""
    match producer(x):
        case RmsNorm() as op if op.type.dtype is DType.F32:
            u = op.x if op.gain is None else Mul(op.x, op.gain)
            return RmsStatistic(op.x, op.eps), u
        case Mul() as op:
            for one, other in ((op.x, op.y), (op.y, op.x)):
                found = _factored(one) if one.type == op.type else None
                if found is not None:
                    return found[0], Mul(found[1], other)
        case _:
            pass
    return None


PASS = FactorNorms
