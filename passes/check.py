"""Check a pass by running the graphs from before and after it on the same numbers.

Both graphs are run by the interpreter.  Wherever a value of the old graph has a counterpart in
the new one the two are compared, and the new graph goes on with the old value: so every
comparison is local, and a rounding that flips in one layer does not spread through the next.
Integers must be identical, floats within `FLOAT_BOUND` of the largest number of their tensor.

One operation says of itself that it is not quite what it replaces: activations of
`factored_quantize` may differ by one where `undecided` holds, and these are counted as flips.

A probe of kind "ties" also feeds every quantiser that both graphs have with numbers half way
between two integers, where the roundings differ.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from mmc.ir.compare import relative_error
from mmc.ir.evaluate import Arrays, evaluate, value_of
from mmc.ir.graph import Graph, Mapped, nested_graphs
from mmc.ir.op import Op, Value, producer
from mmc.ir.ops.pointwise import Abs, Detach
from mmc.ir.ops.source import Weight
from mmc.ir.ops.ternary import FactoredQuantize, Quantizes
from mmc.ir.tensors import Tensors
from mmc.ir.types import DType
from mmc.passes.base import place
from mmc.passes.fold_constants import constant_ops

FLOAT_BOUND = 1e-5

Inputs = Mapping[str, np.ndarray]


@dataclass
class PassCheck:
    """What was compared and found; `float_error` is relative to a tensor's largest number."""

    name: str
    graph: str
    values: int = 0
    integers: int = 0
    integers_identical: bool = True
    flips: int = 0
    float_error: float = 0.0
    float_bound: float = FLOAT_BOUND
    failures: list[str] = field(default_factory=list[str])
    note: str = ""
    """Why nothing was compared."""

    @property
    def holds(self) -> bool:
        return not self.failures

    def record(self) -> dict[str, Any]:
        return {**asdict(self), "holds": self.holds}

    def compare(
        self, op: Op, old: np.ndarray, new: np.ndarray, undecided: np.ndarray | None = None
    ) -> None:
        """Compare a value of both graphs; `undecided`: where activations may differ by one."""
        self.values += 1
        if old.shape != new.shape or old.dtype != new.dtype:
            self._fail(op, f"{old.dtype}{list(old.shape)} became {new.dtype}{list(new.shape)}")
        elif old.dtype.kind in "iub":
            self.integers += old.size
            wrong = old != new
            if wrong.any():
                self.integers_identical = False
            if undecided is not None:
                flipped = undecided & (np.abs(old.astype(np.int32) - new) == 1)
                self.flips += int(np.count_nonzero(flipped))
                wrong &= ~flipped
            if count := int(np.count_nonzero(wrong)):
                self._fail(op, f"{count} of {old.size} integers differ")
        else:
            error = relative_error(old, new)
            self.float_error = max(self.float_error, error)
            if not error <= self.float_bound:
                self._fail(op, f"floats differ by {error:.2e}, bound {self.float_bound:.0e}")

    def _fail(self, op: Op, what: str) -> None:
        self.failures.append(f"{self.name}: {place(op)}: {op.mnemonic}: {what}")


def check_pass(
    name: str,
    before: Graph,
    after: Graph,
    mapped: Mapped,
    tensors: Tensors,
    probes: Sequence[Inputs],
) -> PassCheck:
    """Compare two graphs on every probe, as it is and with ties."""
    check = PassCheck(name, after.name)
    if before is after:
        return check
    for inputs in probes:
        _Run(check, before, after, mapped, tensors).run(inputs)
        _Run(check, before, after, mapped, tensors, ties=True).run(inputs)
    return check


class _Run:
    """One probe through both graphs."""

    def __init__(
        self,
        check: PassCheck,
        before: Graph,
        after: Graph,
        mapped: Mapped,
        tensors: Tensors,
        ties: bool = False,
    ) -> None:
        self.check, self.before, self.after, self.tensors = check, before, after, tensors
        self.kept: dict[Value, np.ndarray] = {}
        self.factored: dict[Value, np.ndarray] = {}
        """What the new graph's factored quantisers read."""
        present = set(after.ops)
        self.olds: dict[Value, list[Value]] = {}
        for old, new in mapped.items():
            if producer(new) in present:
                self.olds.setdefault(new, []).append(old)
        self.tied = self._tied_values(mapped, present) if ties else set[Value]()
        self.constant = constant_ops(before)
        self.folded = constant_ops(after)
        self.ties = ties

    def _tied_values(self, mapped: Mapped, present: set[Op]) -> set[Value]:
        """What quantisers read, where both graphs have it."""
        read = {_marked(op.operands[0]) for op in self.before if isinstance(op, Abs | Quantizes)}
        known = {v for v in read if v in mapped and _is_seen(producer(mapped[v]), present)}
        return {
            v
            for v in known
            if producer(v).operands and v.type.dtype is DType.F32 and v.type.rank >= 2
        }

    def run(self, inputs: Inputs) -> None:
        evaluate(self.before, inputs, self.tensors, self._keep)
        outputs = evaluate(self.after, inputs, self.tensors, self._compare)
        for new in (v for v in self.olds if isinstance(v, Weight)):
            self._compare(new, (self.tensors[new.name],))
        for name, value in self.before.outputs:
            if value in self.kept:
                old = _at_last_position(self.kept[value], outputs[name], inputs)
                self.check.compare(producer(value), old, outputs[name])

    def _keep(self, op: Op, made: Arrays) -> Arrays:
        if op in self.constant:
            return made  # as large as the weights: worked out again where it is compared
        made = tuple(tie(a) if v in self.tied else a for v, a in zip(op.results, made, strict=True))
        self.kept |= zip(op.results, made, strict=True)
        return made

    def _compare(self, op: Op, made: Arrays) -> Arrays:
        if op in self.folded and (self.ties or not self._is_boundary(op)):
            settled = made
        else:
            settled = tuple(self._settle(op, v, a) for v, a in zip(op.results, made, strict=True))
        if any(isinstance(reader, FactoredQuantize) for reader in self.after.users[op]):
            self.factored |= zip(op.results, settled, strict=True)
        return settled

    def _settle(self, op: Op, value: Value, new: np.ndarray) -> np.ndarray:
        for old in self.olds.get(value, ()):
            known = self._known(old)
            if known is None:
                continue
            if old not in self.tied:
                self.check.compare(op, known, new, self._undecided(op, old))
            new = known
        return new

    def _undecided(self, op: Op, old: Value) -> np.ndarray | None:
        """Where a factored quantiser may round otherwise than the quantiser that it replaces."""
        if not isinstance(op, FactoredQuantize) or isinstance(producer(old), FactoredQuantize):
            return None
        read = [
            self.tensors[v.name] if isinstance(v, Weight) else self.factored[v] for v in op.operands
        ]
        return op.undecided(*read)

    def _known(self, old: Value) -> np.ndarray | None:
        if producer(old) in self.constant:
            return value_of(old, self.tensors)
        return self.kept.get(old)

    def _is_boundary(self, op: Op) -> bool:
        """True for a value of weights alone that meets the activations."""
        readers = self.after.users[op]
        return any(reader not in self.folded for reader in readers) or not readers


def _at_last_position(old: np.ndarray, new: np.ndarray, inputs: Inputs) -> np.ndarray:
    """What of the old output the new one keeps: all, or [B, 1, ...], the last of each prompt."""
    lengths = inputs.get("lengths")
    one = old.ndim >= 2 and new.shape == (old.shape[0], 1, *old.shape[2:])
    if lengths is None or not one or new.shape == old.shape:
        return old
    return np.stack([row[n - 1 : n] for row, n in zip(old, lengths, strict=True)])


def _marked(value: Value) -> Value:
    """What a mark for gradients stands before: a scale may be made of `detach(x)`."""
    while isinstance(value, Detach):
        value = value.x
    return value


def _is_seen(maker: Op, present: set[Op]) -> bool:
    """True where readers get the value from outside: a kernel may compute it and read it inside."""
    return maker in present and not nested_graphs(maker)


def tie(x: np.ndarray) -> np.ndarray:
    """Numbers half way between integers, up to 127: their scale is exactly one."""
    halves = (np.arange(x.size) * 37 % 253 - 126).astype(np.float32) + np.float32(0.5)
    tied = np.clip(halves, -126.5, 126.5).reshape(x.shape)
    tied[..., 0] = 127
    return tied
