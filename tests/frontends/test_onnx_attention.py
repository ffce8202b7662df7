"""`mmc export` of models with attention: one graph for any number of tokens, caches in and out."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

import mmc
from mmc.export import export
from mmc.frontends.onnx_export import export_onnx
from mmc.ir.evaluate import evaluate
from mmc.ir.graph import graph_of
from mmc.ir.ops.attention import POSITION, Attention, CacheAppend, Rotary
from mmc.ir.types import DType, static_shape
from mmc.targets.reference import TARGET
from tests.end_to_end.compiled import token_ids
from tests.end_to_end.transformers import CONTEXT, artifact, model
from tests.folders import once
from tests.frontends.onnx_models import F32, RNG, error, imported, interpreted, session
from tests.inputs import B, T, given

NAMES = ("qwen2", "bitnet", "hybrid")


@cache
def exported(name: str) -> Path:
    return once(f"{name}-attention.onnx", lambda path: export(artifact(name, "reference"), path))


@cache
def loaded(name: str) -> onnxruntime.InferenceSession:
    return session(exported(name))


def run(name: str, ids: np.ndarray, lengths: Any, state: Any) -> tuple[np.ndarray, dict[str, Any]]:
    """Logits and the new state, by onnxruntime."""
    given = {"ids": ids, "lengths": np.asarray(lengths), **state}
    made: Any = loaded(name).run(None, given)
    names = [output.name.removesuffix(".next") for output in loaded(name).get_outputs()]
    outputs = dict(zip(names, made, strict=True))
    return outputs.pop("logits"), outputs


@pytest.mark.parametrize("name", NAMES)
def test_logits_and_caches_are_the_interpreters(name: str) -> None:
    """Two sequences, the second padded, each behind a text of another length."""
    onnx.checker.check_model(str(exported(name)), full_check=True)
    own = model(name, "reference")
    state = {
        key: RNG.standard_normal(array.shape).astype(array.dtype)
        for key, array in own.empty_state(2).arrays.items()
    } | {POSITION: np.array([7, CONTEXT - 6])}
    ids, lengths = token_ids(own.vocab_size, 2, 6), np.array([6, 4])
    inputs = {"ids": ids, "lengths": lengths, **state}
    wanted = TARGET.load(artifact(name, "reference"), ["forward"], {}).run("forward", inputs)
    logits, made = run(name, ids, lengths, state)
    for b, count in enumerate(lengths):  # what stands behind a text means nothing
        assert error(logits[b, :count], wanted["logits"][b, :count]) <= 4e-6
    assert np.array_equal(made[POSITION], [13, CONTEXT - 2])
    assert all(error(made[key], wanted[key]) <= 2e-6 for key in state)


@pytest.mark.parametrize("name", NAMES)
def test_tokens_alone_are_the_whole_prompt(name: str) -> None:
    own = model(name, "reference")
    ids = token_ids(own.vocab_size, 1, 8)
    empty = own.empty_state(1).arrays
    whole, behind = run(name, ids, [8], empty)
    assert error(whole, own.forward(ids)) <= 4e-6
    state, steps = dict(empty), list[np.ndarray]()
    for t in range(8):
        logits, state = run(name, ids[:, t : t + 1], [1], state)
        steps.append(logits)
    assert error(np.concatenate(steps, 1), whole) <= 1e-6
    assert all(error(state[key], behind[key]) <= 1e-6 for key in state)


@pytest.mark.parametrize("name", ["qwen2", "bitnet"])
def test_it_comes_back_as_it_was(name: str, tmp_path: Path) -> None:
    again = mmc.compile(exported(name), target="reference", out=tmp_path / "again")
    found, own = mmc.load(again.path), model(name, "reference")
    assert isinstance(found, mmc.Model)
    assert found.context == own.context == CONTEXT
    ids = token_ids(own.vocab_size, 2, 5)
    assert np.array_equal(found.forward(ids), own.forward(ids))


def test_what_does_not_fit_in_a_cache_is_dropped(tmp_path: Path) -> None:
    """Positions before and behind the cache, padding, and a head that nobody shares."""
    x, q = given("x", B, T, 2, 6), given("q", B, T, 4, 6)
    cache = given("cache", B, 2, 5, 6)
    position, lengths = (given(n, B, dtype=DType.I64) for n in ("position", "lengths"))
    angles = given("angles", B, T, 3)
    appended = CacheAppend(cache, x, position, lengths)
    outputs = {
        "appended": appended,
        "turned": Rotary(q, angles, angles),
        "y": Attention(q, appended, appended, position, 0.3),
    }
    inputs = [x, q, cache, position, lengths, angles]
    graph = graph_of("main", outputs, inputs)
    path = tmp_path / "m.onnx"
    export_onnx(graph, {}, path, {})
    shapes = {op.name: static_shape(op.type.bind({"B": 4, "T": 3}).shape) for op in inputs}
    arrays = {name: RNG.standard_normal(shape).astype(F32) for name, shape in shapes.items()}
    arrays |= {"position": np.array([0, 2, 4, 3]), "lengths": np.array([3, 1, 3, 0])}
    made: Any = session(path).run(None, arrays)
    wanted = evaluate(graph, arrays)
    again = interpreted(imported(path), *arrays.values())
    for found, same, (name, expected) in zip(made, again, wanted.items(), strict=True):
        assert np.array_equal(same, expected)
        assert error(found, expected) <= (0 if name == "appended" else 1e-6)
