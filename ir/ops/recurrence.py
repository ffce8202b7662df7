"""Memory over time: scans with a body, and the linear recurrence that they turn out to be."""

from __future__ import annotations

import numpy as np

from mmc.ir.evaluate import evaluate
from mmc.ir.graph import Graph, value_types
from mmc.ir.op import Op, Value
from mmc.ir.types import DType, TensorType


class Scan(Op, mnemonic="scan"):
    """Run `body` once for each step along `axis`, carrying values from one step to the next.

    body inputs, in order: the carries, a slice of each of xs (without the axis), the captured
    values.
    body outputs, in order: the new carries, then what is stacked along the axis into the y results.
    Results: the last carries, then the ys.
    """

    init: tuple[Value, ...]
    xs: tuple[Value, ...]
    captured: tuple[Value, ...]
    body: Graph
    axis: int = 0

    @property
    def result_names(self) -> tuple[str, ...]:
        carries = len(self.init)
        ys = len(self.body.outputs) - carries
        return (*(f"last{i}" for i in range(carries)), *(f"y{i}" for i in range(ys)))

    def infer(self) -> tuple[TensorType, ...]:
        self.require(bool(self.xs), "needs a sequence to run over")
        axis = self.axis
        for x in self.xs:
            self.require(0 <= axis < x.type.rank, f"no axis {axis} in {x.type}")
        steps = self.xs[0].type.shape[axis]
        given = [value.type for value in self.init]
        for x in self.xs:
            self.require(x.type.shape[axis] == steps, f"{x.type} does not have {steps} steps")
            given.append(x.type.with_shape((*x.type.shape[:axis], *x.type.shape[axis + 1 :])))
        given += [value.type for value in self.captured]
        wanted = [op.type for op in self.body.inputs]
        self.require(given == wanted, f"body takes {_spell(wanted)}, given {_spell(given)}")
        made = list(value_types(self.body).values())
        carried = made[: len(self.init)]
        self.require(carried == given[: len(self.init)], f"body returns carries {_spell(carried)}")
        stacked = (
            t.with_shape((*t.shape[:axis], steps, *t.shape[axis:])) for t in made[len(carried) :]
        )
        return (*carried, *stacked)

    def reference(self, *operands: np.ndarray) -> tuple[np.ndarray, ...]:
        n = len(self.init)
        carries, xs = list(operands[:n]), operands[n : n + len(self.xs)]
        captured = operands[n + len(self.xs) :]
        names = [op.name for op in self.body.inputs]
        stacks: list[list[np.ndarray]] = [[] for _ in self.body.outputs[n:]]
        for t in range(xs[0].shape[self.axis]):
            now = [*carries, *(x.take(t, self.axis) for x in xs), *captured]
            made = list(evaluate(self.body, dict(zip(names, now, strict=True))).values())
            carries = made[:n]
            for stack, y in zip(stacks, made[n:], strict=True):
                stack.append(y)
        return (*carries, *(np.stack(stack, self.axis) for stack in stacks))


class LinearRecurrence(Op, mnemonic="linear_recurrence"):
    """h[t] = a[t] * h[t-1] + b[t], element by element along `axis`, from h0; returns every h[t].

    The memory of the MLGRU (arXiv:2406.02528, section 3.3.1) without its gates.
    """

    a: Value
    b: Value
    h0: Value
    axis: int = 1

    def infer(self) -> TensorType:
        a, b, h0 = self.a.type, self.b.type, self.h0.type
        self.require(a == b and a.dtype is DType.F32, f"a is {a}, b is {b}")
        self.require(0 <= self.axis < a.rank, f"no axis {self.axis} in {a}")
        step = a.with_shape((*a.shape[: self.axis], *a.shape[self.axis + 1 :]))
        self.require(h0 == step, f"h0 is {h0}, a step is {step}")
        return a

    def reference(self, a: np.ndarray, b: np.ndarray, h0: np.ndarray) -> np.ndarray:
        h = h0
        hs: list[np.ndarray] = []
        for t in range(a.shape[self.axis]):
            h = a.take(t, self.axis) * h + b.take(t, self.axis)
            hs.append(h)
        return np.stack(hs, self.axis)


class CausalConv(Op, mnemonic="causal_conv"):
    """y[b, t, d] = sum over j of w[d, j] * past[b, t + j, d], plus bias[d]; past is state, then x.

    The short depthwise convolution: x [B, T, D], state [B, width - 1, D], w [D, width].
    """

    x: Value
    state: Value
    w: Value
    bias: Value | None = None

    def infer(self) -> TensorType:
        x, state, w = self.x.type, self.state.type, self.w.type
        self.require(
            x.rank == 3 and w.rank == 2 and w.shape[0] == x.shape[2], f"x is {x}, w is {w}"
        )
        wanted = x.with_shape((x.shape[0], w.shape[1] - 1, x.shape[2]))
        self.require(state == wanted, f"state is {state}, not {wanted}")
        return x

    def reference(
        self, x: np.ndarray, state: np.ndarray, w: np.ndarray, bias: np.ndarray | None = None
    ) -> np.ndarray:
        past = np.concatenate([state, x], axis=1)
        y = np.zeros_like(x) if bias is None else np.broadcast_to(bias, x.shape)
        for j in range(w.shape[1]):
            y = y + w[:, j] * past[:, j : j + x.shape[1]]
        return y.astype(x.dtype)


class ConvWindow(Op, mnemonic="conv_window"):
    """The state after `lengths[b]` inputs: y[b, j] = past[b, lengths[b] + j].

    past is state, then x.
    """

    x: Value
    state: Value
    lengths: Value

    def infer(self) -> TensorType:
        x, lengths = self.x.type, self.lengths.type
        self.require(lengths == TensorType(DType.I64, x.shape[:1]), f"lengths is {lengths}")
        return self.state.type

    def reference(self, x: np.ndarray, state: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        past, width = np.concatenate([state, x], axis=1), state.shape[1]
        return np.stack([row[n : n + width] for row, n in zip(past, lengths, strict=True)])


class Kernel(Op, mnemonic="kernel"):
    """What a target emits as one kernel: a nested graph over the operands, in order."""

    arguments: tuple[Value, ...]
    body: Graph

    @property
    def result_names(self) -> tuple[str, ...]:
        names = tuple(name for name, _ in self.body.outputs)
        return names if len(names) > 1 else ("",)

    def infer(self) -> tuple[TensorType, ...]:
        given = [value.type for value in self.arguments]
        wanted = [op.type for op in self.body.inputs]
        self.require(given == wanted, f"body takes {_spell(wanted)}, given {_spell(given)}")
        return tuple(value_types(self.body).values())

    def reference(self, *operands: np.ndarray) -> tuple[np.ndarray, ...]:
        names = [op.name for op in self.body.inputs]
        return tuple(evaluate(self.body, dict(zip(names, operands, strict=True))).values())


def _spell(types: list[TensorType]) -> str:
    return f"({', '.join(map(str, types))})"
