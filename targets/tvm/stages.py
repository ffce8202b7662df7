"""Cut the program of a row into stages.

A reduction over the last axis needs the whole row before anything that reads it can start.  So the
row is run over once per level of reductions:

    level(value) = the most reductions, one behind the other, on a path from memory to the value

Stage k computes the outputs of level k and feeds the reductions whose operand has level k.  What a
later stage needs again is computed again if that is cheap, read back if it is an output, and kept
in a row of scratch memory otherwise.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from mmc.ir.op import Op, Value, producer
from mmc.ir.ops import logic
from mmc.ir.ops import pointwise as ir
from mmc.ir.ops.attention import Rotary
from mmc.ir.ops.int4 import DequantizeInt4
from mmc.ir.ops.linear import Linear, Matmul
from mmc.ir.ops.norm import MeanSquare, RmsStatistic
from mmc.ir.ops.recurrence import CausalConv
from mmc.ir.ops.reduce import ArgMax, CumSum, Max, Mean, Reduction, Sum
from mmc.ir.ops.shape import Concat, Expand, Gather, Pad, Permute, Reshape, Slice
from mmc.ir.ops.source import Constant
from mmc.ir.types import DType
from mmc.targets.tvm.memory import is_one

CHEAP = 6
"""What costs no more is computed again rather than kept; in instructions, roughly."""

_COSTS: Mapping[type[Op], int] = {
    Constant: 0,
    ir.Div: 6,
    ir.Sqrt: 6,
    ir.Rsqrt: 8,
    ir.Reciprocal: 6,
    ir.Exp: 20,
    ir.Sigmoid: 25,
    ir.Silu: 25,
    ir.Tanh: 35,
    ir.Gelu: 60,
    ir.Softplus: 60,
    ir.Log: 60,
    ir.Erf: 60,
    ir.Sin: 60,
    ir.Cos: 60,
    ir.Pow: 60,
    CausalConv: 20,
    Rotary: 8,
    Linear: 10_000,
    Matmul: 10_000,
}


def is_costly(op: Op) -> bool:
    """Whether the operation takes more than a few instructions."""
    return _COSTS.get(type(op), 1) >= CHEAP


def is_row_reduction(op: Op) -> bool:
    """Whether the operation reduces the last axis and keeps it."""
    if isinstance(op, MeanSquare | RmsStatistic):
        return True
    known = isinstance(op, Sum | Mean | Max | ArgMax)
    return known and op.keepdims and op.axis in (-1, op.x.type.rank - 1)


def is_row_scalar(value: Value) -> bool:
    """Whether the value has one number per row."""
    shape = value.type.shape
    return not shape or is_one(shape[-1])


def in_row_operands(op: Op) -> tuple[Value, ...]:
    """The operands that a row of the result reads in the same row, at whatever columns."""
    last = op.types[0].rank - 1
    match op:
        case ir.Unary() | ir.Binary() | logic.Where() | Expand():
            return op.operands
        case Slice() | Concat() | Pad() if op.axis in (-1, last):
            return op.operands
        case Linear() | Rotary():
            return (op.x,)
        case _:
            return op.operands if is_row_reduction(op) else ()


def breaks_lanes(op: Op) -> bool:
    """Whether 16 neighbours of the result come from elements that are not neighbours."""
    last = op.types[0].rank - 1
    match op:
        case ArgMax() | Linear() | DequantizeInt4():
            return True
        case Slice():
            return op.axis in (-1, last) and op.step != 1
        case Concat() | Pad() | CumSum():
            return op.axis in (-1, last)
        case Permute():
            return op.order[-1] != last
        case Rotary():
            half = op.cos.type.shape[2]
            return not isinstance(half, int) or half % 16 != 0
        case Gather():
            return op.table.type.rank == 1
        case Reduction():
            return not is_row_reduction(op) and not op.keepdims and last < 0
        case Reshape():
            return not _reshape_keeps_lanes(op)
        case _:
            return False


def _reshape_keeps_lanes(op: Reshape) -> bool:
    """Rows are cut into equal parts, or are joined from parts that 16 lanes do not straddle."""
    if not op.shape or not op.x.type.shape:
        return True
    new, old = op.shape[-1], op.x.type.shape[-1]
    if new == old or is_one(new):
        return True
    if not (isinstance(new, int) and isinstance(old, int)):
        return False
    return old % new == 0 or old % 16 == 0


def cone(values: Collection[Value], stored: Collection[Value]) -> Iterator[Value]:
    """The values behind `values`, themselves included, down to what is stored."""
    seen: set[Value] = set()
    stack = list(values)
    while stack:
        value = stack.pop()
        if value in seen:
            continue
        seen.add(value)
        yield value
        if value not in stored:
            stack += producer(value).operands


@dataclass
class Root:
    """A value that stage `stage` computes for every column."""

    stage: int
    value: Value


@dataclass
class Plan:
    """What each stage of a row does.

    outputs: (stage, value).  reductions: (stage, operation).  kept: value -> stage, in scratch.
    read_back: outputs that later stages read again -> stage.
    """

    stored: Collection[Value]
    outputs: Sequence[Value]
    cheap: int = CHEAP
    rereads: bool = True
    """Whether a stage may read what an earlier one wrote to an output."""
    levels: dict[Value, int] = field(default_factory=dict[Value, int])
    reductions: list[Op] = field(default_factory=list[Op])
    kept: dict[Value, int] = field(default_factory=dict[Value, int])
    read_back: dict[Value, int] = field(default_factory=dict[Value, int])

    def __post_init__(self) -> None:
        for value in self.outputs:
            self.level(value)
        self.reductions = [op for op in map(producer, self.levels) if self._is_reduced(op)]
        for op in map(producer, list(self.levels)):
            if isinstance(op, Linear) and op.x not in self.stored and op not in self.stored:
                self._keep(op.x)
        roots = [Root(self.levels[v], v) for v in self.outputs]
        roots += [Root(self.levels[op.operands[0]], op.operands[0]) for op in self.reductions]
        for root in sorted(roots, key=lambda root: root.stage):
            self._choose(root.value, root.stage)

    def _is_reduced(self, op: Op) -> bool:
        return is_row_reduction(op) and op.results[0] not in self.stored

    @property
    def stages(self) -> int:
        return 1 + max(self.levels.values(), default=0)

    def level(self, value: Value) -> int:
        """The stage in which the value can be computed."""
        if value not in self.levels:
            op = producer(value)
            operands = () if value in self.stored else in_row_operands(op)
            before = max((self.level(x) for x in operands), default=0)
            waits = isinstance(op, Linear) and op.x not in self.stored
            self.levels[value] = before + (
                value not in self.stored and (waits or is_row_reduction(op))
            )
        return self.levels[value]

    def _keep(self, value: Value) -> None:
        if value not in self.kept and value not in self.read_back:
            where = self.read_back if self.rereads and value in self.outputs else self.kept
            where[value] = self.levels[value]
            self._choose(value, self.levels[value])

    def _choose(self, value: Value, stage: int) -> None:
        """Decide how `stage` gets what it needs of `value` from the stages before."""
        if value in self.stored or is_row_scalar(value):
            return
        if self.levels[value] < stage:
            if (self.rereads and value in self.outputs) or self._is_costly(value):
                self._keep(value)
                return
            if value in self.kept:
                return
        for operand in in_row_operands(producer(value)):
            self._choose(operand, stage)

    def _is_costly(self, value: Value) -> bool:
        if not isinstance(value.type.shape[-1], int):
            return False  # scratch memory has a fixed size
        at_hand = {*self.stored, *self.kept, *self.read_back}
        return self.cost(value, at_hand) > self.cheap

    @staticmethod
    def cost(value: Value, at_hand: Collection[Value]) -> int:
        """Instructions to compute 16 elements again, roughly."""
        total = 0
        for v in cone([value], {*at_hand}):
            if is_row_scalar(v):
                continue
            if v in at_hand:
                total += 3 if v.type.dtype in (DType.F16, DType.BF16) else 1
                continue
            op = producer(v)
            inline = isinstance(op, Reduction) and not is_row_reduction(op)
            total += 1000 if inline else _COSTS.get(type(op), 1)
        return total

    def scalars_before(self, stage: int) -> list[Value]:
        """The row scalars that a stage reads, to be computed before its columns."""
        found: dict[Value, None] = {}

        def visit(value: Value) -> None:
            if is_row_scalar(value):
                found[value] = None
            elif not self.is_at_hand(value, stage):
                for operand in in_row_operands(producer(value)):
                    visit(operand)

        for value in self.values_of(stage):
            visit(value)
        return list(found)

    def is_at_hand(self, value: Value, stage: int) -> bool:
        """Whether the value lies in memory when the stage starts."""
        made = {**self.kept, **self.read_back}.get(value, stage)
        return value in self.stored or made < stage

    def values_of(self, stage: int) -> list[Value]:
        """What the stage computes: outputs, rows to keep, operands of reductions."""
        values = [v for v in self.outputs if self.levels[v] == stage]
        values += [v for v, made in self.kept.items() if made == stage]
        values += [op.operands[0] for op in self.reductions_in(stage)]
        return list(dict.fromkeys(values))

    def reductions_in(self, stage: int) -> list[Op]:
        return [op for op in self.reductions if self.levels[op.operands[0]] == stage]

    def astray(self) -> list[Op]:
        """Reductions that are read from another row than their own: there is no stage for them."""
        found: list[Op] = []
        for value in self.levels:
            op = producer(value)
            if value in self.stored:
                continue
            inside = in_row_operands(op)
            elsewhere = [x for x in op.operands if x not in inside]
            found += [
                p for v in cone(elsewhere, self.stored)
                if v not in self.stored and needs_stage(p := producer(v))
            ]  # fmt: skip
        return list(dict.fromkeys(found))


def needs_stage(op: Op) -> bool:
    return is_row_reduction(op) or isinstance(op, Linear | CumSum)
