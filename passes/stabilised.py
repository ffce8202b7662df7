"""Linear recurrences that are kept divided by exp of a running maximum, so that no exp overflows.

RWKV-4 (arXiv:2305.13048, appendix on its numerical stability) carries a maximum m and sums s:

    m' = max(m + w, k)        s' = exp(m + w - m') * s + exp(k - m') * v

The step is not affine in (m, s), but h = exp(m) * s is: h' = exp(w) * h + exp(k) * v.  What proves
it are exponents: of s by m - m', of what is added by -m', each plus what depends on no state.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mmc.ir.graph import Graph
from mmc.ir.op import Value, producer
from mmc.ir.ops.logic import Where
from mmc.ir.ops.pointwise import Add, Div, Exp, Maximum, Mul, Neg, Sub
from mmc.ir.ops.source import Input
from mmc.passes.affine import Affine, analyse

Powers = tuple[int, int]
"""How often m and m' are in an exponent."""


def stabilised(body: Graph, states: Sequence[Input]) -> Input | None:
    """The state that is the maximum; None where the body is not of this form."""
    made = _without_skipping(body, states)
    for state, new in zip(states, made, strict=True):
        if not isinstance(new, Maximum) or len(states) < 2:
            continue
        form = _Form(body, states, state, new)
        others = [pair for pair in zip(states, made, strict=True) if pair[0] is not state]
        if form.is_running_maximum() and all(form.is_linear(s, n) for s, n in others):
            return state
    return None


def _without_skipping(body: Graph, states: Sequence[Value]) -> list[Value]:
    """The new states; where a condition may keep all of them as they are, without it."""
    made = list(body.values[: len(states)])
    chosen = [op for op in map(producer, made) if isinstance(op, Where)]
    kept = zip(chosen, states, strict=False)
    if len(chosen) < len(made) or any(op.y is not state for op, state in kept):
        return made
    (condition, *others) = (op.condition for op in chosen)
    depends = any(analyse(body, state).get(condition) is not None for state in states)
    return made if depends or any(c is not condition for c in others) else [op.x for op in chosen]


@dataclass
class _Form:
    body: Graph
    states: Sequence[Value]
    top: Value
    new_top: Maximum

    def is_running_maximum(self) -> bool:
        """m' = max(m + w, k), in either order."""
        x, y = (self._powers(value) for value in (self.new_top.x, self.new_top.y))
        return sorted([x or (0, 0), y or (0, 0)]) == [(0, 0), (1, 0)] and None not in (x, y)

    def is_linear(self, state: Value, new: Value) -> bool:
        found = analyse(self.body, state).get(new)
        if not isinstance(found, Affine) or found.a is None:
            return False
        return self._weight(found.a) == (1, -1) and (
            found.b is None or self._weight(found.b) == (0, -1)
        )

    def _is_free(self, value: Value) -> bool:
        """Whether the value depends on no state."""
        makers = set(Graph("behind", (), (("value", value),)).ops)
        return not makers & {producer(state) for state in self.states}

    def _powers(self, value: Value) -> Powers | None:
        """Of an exponent: p * m + q * m' plus what depends on no state."""
        if value is self.top:
            return 1, 0
        if value is self.new_top:
            return 0, 1
        if self._is_free(value):
            return 0, 0
        match producer(value):
            case Add(x, y):
                return _plus(self._powers(x), self._powers(y))
            case Sub(x, y):
                return _plus(self._powers(x), _negative(self._powers(y)))
            case Neg(x):
                return _negative(self._powers(x))
            case _:
                return None

    def _weight(self, value: Value) -> Powers | None:
        """Of a product of exponentials and of what depends on no state."""
        if self._is_free(value):
            return 0, 0
        match producer(value):
            case Exp(x):
                return self._powers(x)
            case Mul(x, y):
                return _plus(self._weight(x), self._weight(y))
            case Div(x, y):
                return _plus(self._weight(x), _negative(self._weight(y)))
            case _:
                return None


def _plus(x: Powers | None, y: Powers | None) -> Powers | None:
    return None if x is None or y is None else (x[0] + y[0], x[1] + y[1])


def _negative(x: Powers | None) -> Powers | None:
    return None if x is None else (-x[0], -x[1])
