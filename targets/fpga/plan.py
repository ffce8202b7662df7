"""The phases of a token: what an FPGA does, in order.

There is one engine.  A phase normalises a vector, quantises it, multiplies it by one matrix and
does something with each sum as it comes.  The phases of a layer with a recurrence, as the
MatMul-free model was released, and of one with attention:

    forget    F = sigmoid(f), between its lower bound and one
    state     H = F * H + (1 - F) * silu(i);  S = silu(H)
    store     G = g
    gate      P = norm(G) * S                                    no matrix

    query     Q = q, turned by its position
    key       the cache's next key = k, turned as well
    value     the cache's next value = v
    attend    P = the mean of the values by softmax(Q . keys)    no matrix

    residual  X = X + o, from the norm of P

and of its MLP, with one matrix for both halves of a GLU or one for each:

    glu       P = silu(gate) * up

    silu      P = silu(gate), or square: P = relu(gate)^2
    times     P = P * up

    residual  X = X + down, from the norm of P

Behind the last layer `head`, or for each ternary digit of a dense head but the last `digit`, then
`digits`:

    digit     L = 3 L + sums
"""

from __future__ import annotations

from dataclasses import dataclass

from mmc.ir.ops.source import Weight
from mmc.ir.types import static_shape

KINDS = (
    "forget", "state", "store", "gate", "query", "key", "value", "attend", "residual", "glu",
    "silu", "square", "times", "head", "digit", "digits",
)  # fmt: skip
SOURCES = ("stream", "product", "gate")
WITHOUT_MATRIX = ("gate", "attend")
HEADS = ("head", "digit", "digits")


@dataclass(frozen=True)
class Phase:
    """One row of the sequencer's table."""

    kind: str
    name: str
    """The module path of what it computes."""
    layer: int
    """Counted from 0; behind the last for the head."""
    slot: int
    """Which state (kind state) or cache (query to attend) is its layer's; 0 for the first digit."""
    source: str
    """The vector that is normalised: "stream" (X), "product" (P) or "gate" (G)."""
    normalize: bool
    """False where the phase before has normalised the same vector in the same way."""
    inner_gain: Weight | None
    eps_mantissa: int
    eps_exponent: int
    gain: Weight | None
    matrix: Weight | None
    """[rows, columns]; None for the kinds "gate" and "attend"."""
    rows: int
    columns: int
    mantissa: int
    exponent: int
    """The constant of requantisation (or of the norm for "gate", of scores for "attend")."""
    fraction: int = 0
    """Fraction bits of what reaches the sigmoid (kinds forget, state, glu and silu), of a score
    (attend); the shift behind a product (times)."""
    bound: Weight | None = None
    """The lower bound of a forget gate."""

    @property
    def vectors(self) -> tuple[Weight, ...]:
        """The vectors that it reads, in this order: of 16 bits a number."""
        inner = self.inner_gain if self.normalize else None
        return tuple(v for v in (inner, self.gain, self.bound) if v is not None)


@dataclass(frozen=True)
class Attention:
    """What all layers with attention share."""

    heads: int
    groups: int
    width: int
    """Numbers of a head."""
    context: int
    """Positions that a cache holds."""
    turns: Weight
    """i16 [context, width]: cosines and sines of each position."""

    @property
    def attended(self) -> int:
        """Numbers of all heads."""
        return self.heads * self.width


@dataclass(frozen=True)
class Plan:
    """A model as the FPGA runs it."""

    embedding: Weight
    embedding_shift: int
    """X = embedding shifted right by that, to the left where it is negative."""
    phases: tuple[Phase, ...]
    states: tuple[str, ...]
    """The name of the state of each layer that has a recurrence."""
    caches: tuple[tuple[str, str], ...] = ()
    """The names of the keys and values of each layer that has attention."""
    attention: Attention | None = None

    @property
    def vocabulary(self) -> int:
        return static_shape(self.embedding.type.shape)[0]

    @property
    def hidden(self) -> int:
        return static_shape(self.embedding.type.shape)[1]

    @property
    def inner(self) -> int:
        """Numbers of a layer's state; 0 where no layer has one."""
        return next((p.rows for p in self.phases if p.kind == "state"), 0)

    @property
    def attended(self) -> int:
        """Numbers of all heads; 0 where no layer has attention."""
        return 0 if self.attention is None else self.attention.attended

    @property
    def wide(self) -> int:
        """Numbers of a GLU's product."""
        halves = {"glu": 2, "times": 1}
        return max(p.rows // halves[p.kind] for p in self.phases if p.kind in halves)

    @property
    def has_digits(self) -> bool:
        """Whether the head is dense, in ternary digits."""
        return any(p.kind == "digits" for p in self.phases)

    @property
    def layers(self) -> int:
        return len(self.states) + len(self.caches)

    @property
    def phases_of_layer(self) -> int:
        """Phases of the first layer."""
        ends = [n for n, phase in enumerate(self.phases) if phase.kind == "residual"]
        return ends[1] + 1
