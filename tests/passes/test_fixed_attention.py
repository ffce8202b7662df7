"""`to-fixed-point` of attention: nothing leaves its width, a head in digits, what it refuses."""

# pyright: reportUnknownLambdaType=false
from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest

from mmc.api import import_source
from mmc.driver import REWRITE, analyse
from mmc.errors import MmcError
from mmc.ir.evaluate import evaluate
from mmc.ir.graph import Graph, graph_of
from mmc.ir.op import Op, Value
from mmc.ir.ops.attention import Attention, CacheAppend, Rotary
from mmc.ir.ops.fixed import FixedRequantize
from mmc.ir.ops.fixed_attention import FixedAttention, FixedNarrow, FixedRotary
from mmc.ir.ops.fixed_gates import FixedAdd, FixedProduct
from mmc.ir.ops.linear import Linear
from mmc.ir.ops.norm import RmsNorm
from mmc.ir.ops.pointwise import Cast, Cos, Mul, Sin
from mmc.ir.ops.shape import Gather, Reshape
from mmc.ir.ops.source import Input, Weight
from mmc.ir.ops.ternary import AbsMax, Dequantize, RmsNormQuantize, TernaryMatmul
from mmc.ir.tensors import Tensors
from mmc.ir.text import parse, render
from mmc.ir.types import DType, TensorType, static_shape, symbol
from mmc.passes.fixed_attention import HEAD_DIGITS
from mmc.passes.manager import PassManager
from mmc.passes.registry import load_pass
from tests.end_to_end.compiled import token_ids
from tests.end_to_end.transformers import source

B, T = symbol("B"), symbol("T")


@cache
def lowered(name: str) -> tuple[Graph, Tensors]:
    done = analyse(import_source(source(name), context=40))
    names = [name for name in REWRITE if name != "merge-projections"]
    passes = [load_pass(n) for n in (*names, "fold-constants", "to-fixed-point")]
    return done.manager.run(done.core, passes), done.imported.tensors


@pytest.mark.parametrize("name", ["bitnet", "hybrid"])
def test_nothing_comes_near_its_width(name: str) -> None:
    graph, tensors = lowered(name)
    assert parse(render(graph)) is graph
    states = {
        op.name: np.zeros(static_shape(op.type.bind({"B": 2}).shape), op.type.dtype.numpy)
        for op in graph.inputs
        if op.name in graph.states
    }
    bits: dict[type[Op], int] = {
        FixedAdd: 27, FixedProduct: 27, FixedRotary: 18, FixedNarrow: 16, FixedAttention: 27
    }  # fmt: skip
    seen: set[type[Op]] = set()

    def observe(op: Op, made: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
        width = op.bits if isinstance(op, FixedRequantize) else bits.get(type(op))
        if width is not None:
            seen.add(type(op))
            assert np.abs(made[0].astype(np.int64)).max() < (1 << (width - 1)) - 1, op.origin
        return made

    inputs = {"ids": token_ids(90, 2, 32), "lengths": np.array([32, 32]), **states}
    evaluate(graph, inputs, tensors, observe)
    assert seen == {*bits, FixedRequantize}


def test_digits_of_the_head_are_its_weights() -> None:
    """Each within half a step of the largest weight's 364th part."""
    _, tensors = lowered("bitnet")
    digits = sorted(name for name in tensors if ".digit" in name)
    assert len(digits) == HEAD_DIGITS
    whole = sum(3**n * tensors[name].astype(int) for n, name in enumerate(digits))
    weights = tensors[digits[0].removesuffix(".digit0")].astype(float)
    step = np.abs(weights).max() / ((3**HEAD_DIGITS - 1) // 2)
    assert np.abs(np.asarray(whole) * step - weights).max() <= 0.501 * step


# What it refuses.

Build = Callable[[Tensors, Value], Value]


def weight(tensors: Tensors, name: str, *dims: int, by: float = 1.0) -> Weight:
    array = np.full(dims, by, np.float32)
    return tensors.add(name, TensorType(DType.F32, array.shape), array)


def projected(tensors: Tensors, x: Value, scale: float) -> Value:
    q, s = RmsNormQuantize(x, None, 1e-6, AbsMax()).results
    trits = tensors.add("w", TensorType(DType.TERNARY, (8, 8)), np.ones((8, 8), np.int8))
    made = Dequantize(TernaryMatmul(q, trits), s, weight(tensors, "s", by=scale))
    return Reshape(made, (B, T, 2, 4))


def attends(tensors: Tensors, x: Value, scale: float = 1.0, turned: bool = True) -> Value:
    """Queries, keys and values are one projection."""
    position, lengths = (Input(n, TensorType(DType.I64, (B,))) for n in ("position", "lengths"))
    steps = Cast(Reshape(Input("steps", TensorType(DType.I64, (B, T))), (B, T, 1)), DType.F32)
    angles = Mul(steps, weight(tensors, "frequencies", 2))
    if not turned:
        angles = Mul(angles, angles)
    made = projected(tensors, x, scale)
    q = Rotary(made, Cos(angles), Sin(angles))
    caches = [Input(n, TensorType(DType.F32, (B, 2, 9, 4))) for n in ("keys", "values")]
    keys = CacheAppend(caches[0], q, position, lengths)
    values = CacheAppend(caches[1], made, position, lengths)
    return Attention(q, keys, values, position, 0.5)


def biased(tensors: Tensors, x: Value) -> Value:
    norm = RmsNorm(x, weight(tensors, "gain", 8), 1e-6)
    return Linear(norm, weight(tensors, "head", 5, 8), weight(tensors, "bias", 5))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda t, x: attends(t, x, scale=100.0), r"scores reach .*too much for a table of powers"),
        (lambda t, x: attends(t, x, turned=False), "turns by angles that are not position times"),
        (biased, "a dense head with a bias"),
        (lambda t, x: Linear(x, weight(t, "w", 5, 8), None), "a dense head of something"),
    ],
)
def test_refused(build: Build, message: str) -> None:
    tensors = Tensors()
    ids = Input("ids", TensorType(DType.I64, (B, T)))
    x = Gather(weight(tensors, "embedding", 5, 8), ids)
    graph = graph_of("g", {"logits": build(tensors, x)}, [ids])
    with pytest.raises(MmcError) as error:
        PassManager(tensors).run(graph, [load_pass("to-fixed-point")])
    assert re.search(message, str(error.value))
