"""Tokens that the CPU target chooses by itself are those of one decode after the other."""

from __future__ import annotations

import numpy as np
import pytest

from mmc.ir.graph import graph_of
from mmc.ir.op import Value
from mmc.ir.ops.pointwise import Add, Neg
from mmc.ir.ops.source import Input
from mmc.ir.tensors import Tensors
from mmc.ir.types import DType, TensorType
from mmc.passes.manager import PassManager
from mmc.passes.registry import load_pass
from mmc.targets.cpu.continuation import Move, moves
from mmc.targets.tvm.geometry import Geometry
from mmc.targets.tvm.plan import Plan
from tests.end_to_end.compiled import model, token_ids


@pytest.mark.parametrize("variant", ["tiny", "shared_conv"])
@pytest.mark.parametrize("batch", [1, 3])
def test_tokens_are_those_of_decode(variant: str, batch: int) -> None:
    compiled = model(variant)
    token = token_ids(compiled.vocab_size, batch, 1)[:, 0]
    _, first = compiled.prefill(token_ids(compiled.vocab_size, batch, 5))
    found = list(compiled.greedy(token, first, 6))
    state = first
    for chosen in found:
        logits, state = compiled.decode(token, state)
        token = logits.argmax(axis=-1)
        assert np.array_equal(chosen, token)


def test_other_calls_in_between_change_nothing() -> None:
    compiled = model("tiny")
    _, state = compiled.prefill(token_ids(17, 1, 5))
    token = np.array([3])
    alone = [int(t[0]) for t in compiled.greedy(token, state, 8)]
    disturbed: list[int] = []
    for chosen in compiled.greedy(token, state, 8):
        disturbed.append(int(chosen[0]))
        compiled.prefill(token_ids(17, 4, 9))
        compiled.decode(np.array([1]), state)
    assert disturbed == alone


def moved(**outputs: Value) -> list[Move] | None:
    """What a step with these states leaves for the next one."""
    fused = PassManager(Tensors()).run(graph_of("g", outputs), [load_pass("fuse-kernels")])
    return moves(Geometry(Plan(fused), {}))


def test_states_move_in_as_few_pieces_as_they_lie_in() -> None:
    state = TensorType(DType.F32, (1, 16))
    a, b = Input("a", state), Input("b", state)
    both = Add(a, b)
    assert moved(a=both, b=Neg(both)) == [Move(0, 0, 128)]
    assert moved(b=Neg(both), a=both) == [Move(64, 0, 64), Move(0, 64, 64)]
    assert moved(a=both, b=b) is None
