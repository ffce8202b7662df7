"""Golden vectors: what the interpreter makes of a short text, for the testbench to compare with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from mmc.ir.evaluate import evaluate
from mmc.ir.graph import Graph
from mmc.ir.op import Op
from mmc.ir.ops.fixed_gates import FixedAdd
from mmc.ir.ops.source import Weight
from mmc.ir.types import DType, static_shape
from mmc.targets.fpga.image import trits_of
from mmc.targets.fpga.plan import Plan

PROMPT_TOKENS, GENERATED_TOKENS = 4, 64

MOST_ADDITIONS = 1 << 30
"""Ternary additions that the interpreter may spend on golden vectors: large models get fewer."""


@dataclass(frozen=True)
class Golden:
    """Tokens, and the residual stream behind the first layer of the first token."""

    prompt: tuple[int, ...]
    generated: tuple[int, ...]
    stream: np.ndarray

    @property
    def bytes(self) -> bytes:
        numbers = [len(self.prompt), len(self.generated), *self.prompt, *self.generated]
        return np.array([*numbers, *self.stream.tolist()], "<i4").tobytes()


def golden_vectors(graph: Graph, plan: Plan, tensors: Mapping[str, np.ndarray]) -> Golden:
    """Run the step's graph greedily behind a prompt of tokens spread over the vocabulary."""
    additions = sum(phase.rows * phase.columns for phase in plan.phases if phase.matrix is not None)
    count = max(1, min(GENERATED_TOKENS, MOST_ADDITIONS // additions - PROMPT_TOKENS))
    graph, plain = unpacked(graph, tensors)
    state = {
        op.name: np.zeros(static_shape(op.type.bind({"B": 1}).shape), op.type.dtype.numpy)
        for op in graph.inputs
        if op.name in graph.states
    }
    prompt = tuple((7 * n + 1) * 97 % plan.vocabulary for n in range(PROMPT_TOKENS))
    tokens, stream = list(prompt), _First()
    for n in range(PROMPT_TOKENS + count - 1):
        inputs = {"ids": np.array([[tokens[n]]]), "lengths": np.array([1]), **state}
        made = evaluate(graph, inputs, plain, stream if n == 0 else None)
        state = {name: made[name] for name in state}
        if n >= PROMPT_TOKENS - 1:
            tokens.append(int(made["logits"][0, 0].argmax()))
    return Golden(prompt, tuple(tokens[PROMPT_TOKENS:]), stream.seen[1])


class _First:
    """Remembers the residual stream after each addition to it."""

    def __init__(self) -> None:
        self.seen: list[np.ndarray] = []

    def __call__(self, op: Op, made: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
        if isinstance(op, FixedAdd):
            self.seen.append(made[0].reshape(-1))
        return made


def unpacked(
    graph: Graph, tensors: Mapping[str, np.ndarray]
) -> tuple[Graph, dict[str, np.ndarray]]:
    """The graph over matrices that are not packed: the interpreter unpacks them at every use."""
    arrays: dict[str, np.ndarray] = {}

    def step(_: Op, moved: Op) -> Op:
        if not isinstance(moved, Weight):
            return moved
        packed = moved.type.dtype.is_ternary
        arrays[moved.name] = trits_of(moved, tensors) if packed else tensors[moved.name]
        return Weight(moved.name, moved.type.with_dtype(DType.TERNARY)) if packed else moved

    return graph.map(step)[0], arrays
