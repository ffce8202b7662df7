"""Attention's own kernels against the interpreter, and a token alone against a whole prompt."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from mmc.ir.evaluate import evaluate
from mmc.ir.graph import Graph, graph_of
from mmc.ir.ops.attention import Attention, AttentionCodes, CacheAppend
from mmc.ir.types import DType
from mmc.targets.tvm import attention, loader
from tests.inputs import B, T, given
from tests.targets.kernel_programs import aligned, program_of

HELD = 150
"""Positions of a cache: two whole blocks and a part."""


def attends(heads: int, groups: int, width: int) -> Graph:
    q = given("q", B, T, heads, width)
    keys, values = (given(n, B, groups, HELD, width) for n in ("keys", "values"))
    y = Attention(q, keys, values, given("position", B, dtype=DType.I64), width**-0.5)
    return graph_of("attention", {"y": y})


def attends_to_codes(heads: int, groups: int, width: int) -> Graph:
    q = given("q", B, T, heads, width)
    caches = [
        given(name, B, groups, HELD, columns, dtype=dtype)
        for name, columns, dtype in (
            ("keys", width, DType.U8), ("key_steps", 1, DType.F32),
            ("values", width, DType.U8), ("value_steps", 1, DType.F32),
        )
    ]  # fmt: skip
    y = AttentionCodes(q, *caches, given("position", B, dtype=DType.I64), width**-0.5)
    return graph_of("attention_codes", {"y": y})


def appends(groups: int, width: int) -> Graph:
    cache, x = given("cache", B, groups, HELD, width), given("x", B, T, groups, width)
    position, lengths = (given(n, B, dtype=DType.I64) for n in ("position", "lengths"))
    return graph_of("append", {"y": CacheAppend(cache, x, position, lengths)})


SHAPES = [(1, 1, 2), (6, 2, 64), (4, 4, 16), (5, 1, 42), (2, 2, 128)]
"""Heads, groups, columns of a head."""
BODIES = {
    **{f"attention {shape}": attends(*shape) for shape in SHAPES},
    **{f"codes {shape}": attends_to_codes(*shape) for shape in SHAPES},
    **{f"append {shape}": appends(*shape[1:]) for shape in SHAPES},
}


@cache
def program() -> loader.Program:
    """Every kernel in one object file."""
    bodies = enumerate(BODIES.values())
    return program_of({f"entry_{n}": attention.emit(b, f"kernel_{n}") for n, b in bodies})


def run(name: str, arrays: dict[str, np.ndarray], in_place: bool = False) -> np.ndarray:
    """The kernel's result; nothing else may change, unless it works in place."""
    body, entry = BODIES[name], f"entry_{list(BODIES).index(name)}"
    inputs = {op.name: aligned(arrays[op.name]) for op in body.inputs}
    first = inputs[body.inputs[0].name]
    out = first if in_place else aligned(np.full(first.shape, np.nan, np.float32))
    steps = arrays["q" if "q" in arrays else "x"].shape[:2]
    moves = (int(not in_place),) if "cache" in arrays else ()
    tensors = (loader.as_tensor(array) for array in (*inputs.values(), out))
    program()[entry](*tensors, *steps, *moves)
    for key, array in inputs.items():
        assert array is out or np.array_equal(array, arrays[key]), key
    return out


def normal(seed: int, *dims: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(dims).astype(np.float32)


def arrays_for(
    shape: tuple[int, int, int], steps: int, position: list[int]
) -> dict[str, np.ndarray]:
    heads, groups, width = shape
    batch = len(position)
    return {
        "q": 3 * normal(1, batch, steps, heads, width),
        "keys": normal(2, batch, groups, HELD, width),
        "values": normal(3, batch, groups, HELD, width),
        "position": np.array(position),
    }


def codes_for(
    shape: tuple[int, int, int], steps: int, position: list[int]
) -> dict[str, np.ndarray]:
    """The same heads, keys and values, in codes."""
    arrays = arrays_for(shape, steps, position)
    for name in ("keys", "values"):
        floats = arrays[name]
        step = np.abs(floats).max(-1, keepdims=True) / 127
        arrays[name] = np.round(floats / step + 128).astype(np.uint8)
        arrays[f"{name[:-1]}_steps"] = step.astype(np.float32)
    return arrays


GIVEN = {"attention": arrays_for, "codes": codes_for}


def arrays_to_append(shape: tuple[int, int, int], position: list[int]) -> dict[str, np.ndarray]:
    """Twelve positions of one sequence, and five of another."""
    _, groups, width = shape
    return {
        "cache": normal(1, 2, groups, HELD, width),
        "x": normal(2, 2, 12, groups, width),
        "position": np.array(position),
        "lengths": np.array([12, 5]),
    }


@pytest.mark.parametrize("kind", GIVEN)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("steps", "position"), [(1, [0]), (1, [63, 149]), (17, [64, 0, 133]), (40, [110])]
)
def test_attention_is_the_interpreters(
    shape: tuple[int, int, int], steps: int, position: list[int], kind: str
) -> None:
    arrays = GIVEN[kind](shape, steps, position)
    wanted = evaluate(BODIES[f"{kind} {shape}"], arrays)["y"]
    found = run(f"{kind} {shape}", arrays)
    np.testing.assert_allclose(found, wanted, 1e-5, 2e-6)


@pytest.mark.parametrize("kind", GIVEN)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_token_alone_is_a_token_in_a_prompt(shape: tuple[int, int, int], kind: str) -> None:
    arrays = GIVEN[kind](shape, 40, [70, 3])
    whole = run(f"{kind} {shape}", arrays)
    for t in range(40):
        alone = {**arrays, "q": arrays["q"][:, t : t + 1], "position": arrays["position"] + t}
        assert np.array_equal(run(f"{kind} {shape}", alone)[:, 0], whole[:, t])


def test_threads_do_not_change_a_bit() -> None:
    arrays = arrays_for((6, 2, 64), 40, [70, 3])
    made: list[np.ndarray] = []
    for threads in (1, min(2, loader.os.cpu_count() or 1)):
        loader.set_threads(threads)
        made.append(run("attention (6, 2, 64)", arrays))
    assert np.array_equal(made[0], made[1])


def test_large_scores_do_not_overflow() -> None:
    arrays = arrays_for((1, 1, 2), 40, [100])
    arrays["q"] *= 1000
    wanted = evaluate(BODIES["attention (1, 1, 2)"], arrays)["y"]
    np.testing.assert_allclose(run("attention (1, 1, 2)", arrays), wanted, 1e-4, 1e-5)


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("position", [[0, 40], [140, 149], [-3, 200]])
def test_appending_stays_within_the_cache(
    shape: tuple[int, int, int], position: list[int], in_place: bool
) -> None:
    arrays = arrays_to_append(shape, position)
    name = f"append {shape}"
    wanted = evaluate(BODIES[name], arrays)["y"]
    assert np.array_equal(run(name, arrays, in_place), wanted)
