"""Kernels that go step by step, against the interpreter; a step alone against all of them."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from mmc.ir.evaluate import evaluate
from mmc.ir.graph import Graph, graph_of
from mmc.ir.op import Value
from mmc.ir.ops.logic import Where
from mmc.ir.ops.pointwise import Add, Detach, Exp, Maximum, Mul, Sub, Tanh
from mmc.ir.ops.recurrence import LinearRecurrence, Scan
from mmc.ir.ops.reduce import Sum
from mmc.ir.ops.shape import Slice
from mmc.ir.ops.source import scalar
from mmc.ir.types import DType, static_shape
from mmc.targets.tvm import loader, steps
from mmc.targets.tvm.rows import PARALLEL_WORK
from tests.inputs import B, T, given
from tests.targets.kernel_programs import aligned, program_of


def selective(rows: int, columns: int) -> Graph:
    """A selective scan, the sum of its squares too, and the last state."""
    step, x = given("step", B, T, 1, columns), given("x", B, T, 1, columns)
    wide = given("a", rows, columns + 3)
    a, b = Exp(Mul(step, Slice(wide, -1, 3, columns))), Mul(x, given("b", B, T, rows, 1))
    h = LinearRecurrence(a, b, given("h", B, rows, columns), 1)
    last = Slice(h, 1, T - 1, 1)
    y = Sum(Mul(h, given("c", B, T, rows, 1)), 2, False)
    return graph_of("selective", {"y": y, "h": last, "power": Sum(Mul(h, h), -2)})


def heads(count: int, rows: int, columns: int) -> Graph:
    """A decay for each of several heads; the state is summed over the axis in their middle."""
    a = given("a", B, T, count, 1, 1)
    h0, b = given("h", B, count, rows, columns), given("b", B, T, count, rows, columns)
    wide = Mul(a, Add(Mul(b, scalar(0.0)), scalar(1.0)))
    return graph_of("heads", {"y": Sum(LinearRecurrence(wide, b, h0, 1), 3)})


def scan(axis: int, columns: int) -> Graph:
    """Two carries that read each other, a condition, what is broadcast, and what passes through."""
    one, two = given("one", B, columns), given("two", B, columns)
    x, inside = given("x", B, columns), given("inside", B, 1, dtype=DType.BOOL)
    gain = given("gain", columns)
    most = Maximum(Add(one, gain), x)
    new = Tanh(Mul(Detach(Sub(two, most)), x))
    body = graph_of(
        "step",
        {"one": Where(inside, most, one), "two": Where(inside, new, two), "y": Mul(one, new)},
        (one, two, x, inside, gain),
    )
    lead = (B, T) if axis else (T, B)
    xs = (given("xs", *lead, columns), given("valid", *lead, 1, dtype=DType.BOOL))
    init = (given("one0", B, columns), given("two0", B, columns))
    last_one, last_two, y = Scan(init, xs, (given("gain0", columns),), body, axis).results
    return graph_of("scan", {"y": y, "one0": last_one, "two0": last_two})


def swapped(columns: int) -> Graph:
    """Carries change places, and one is handed out as it was."""
    one, two, x = (given(name, B, columns) for name in ("one", "two", "x"))
    body = graph_of("step", {"one": Add(two, x), "two": one, "y": one}, (one, two, x))
    init = (given("one0", B, columns), given("two0", B, columns))
    last_one, last_two, y = Scan(init, (given("xs", B, T, columns),), (), body, 1).results
    return graph_of("swapped", {"y": y, "one0": last_one, "two0": last_two})


BODIES = {
    "swapped": swapped(21),
    **{f"selective {n} x {d}": selective(n, d) for n, d in [(16, 40), (1, 7), (5, 16), (3, 1)]},
    "heads": heads(3, 4, 20),
    **{f"scan over {axis}, {d}": scan(axis, d) for axis, d in [(0, 40), (1, 16), (0, 3), (1, 70)]},
}


@cache
def program() -> loader.Program:
    """Every kernel in one object file."""
    bodies = enumerate(BODIES.values())
    return program_of({f"entry_{n}": steps.emit(b, f"kernel_{n}") for n, b in bodies})


def random(body: Graph, batch: int, time: int) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(1)
    made: dict[str, np.ndarray] = {}
    for op in body.inputs:
        shape = static_shape(op.type.bind({"B": batch, "T": time}).shape)
        noise = generator.standard_normal(shape)
        made[op.name] = noise > 0 if op.type.dtype is DType.BOOL else noise.astype(np.float32)
    return made


def run(name: str, arrays: dict[str, np.ndarray], batch: int, time: int) -> dict[str, np.ndarray]:
    body, entry = BODIES[name], f"entry_{list(BODIES).index(name)}"
    inputs = [aligned(arrays[op.name]) for op in body.inputs]
    bound = (value.type.bind({"B": batch, "T": time}).shape for value in body.values)
    shapes = map(static_shape, bound)
    outs = [aligned(np.full(shape, np.nan, np.float32)) for shape in shapes]
    program()[entry](*(loader.as_tensor(array) for array in (*inputs, *outs)), batch, time)
    return dict(zip((name for name, _ in body.outputs), outs, strict=True))


MANY = PARALLEL_WORK // 32
"""Steps of two sequences of 16 columns that are enough for threads."""
SIZES = [
    *((name, *sizes) for name in BODIES for sizes in [(1, 1), (3, 9)]),
    *((name, 2, MANY) for name in ("selective 5 x 16", "scan over 1, 16")),
]


@pytest.mark.parametrize(("name", "batch", "time"), SIZES)
def test_is_the_interpreters(name: str, batch: int, time: int) -> None:
    assert steps.has_kernel(BODIES[name])
    arrays = random(BODIES[name], batch, time)
    if "a" in arrays:  # decays
        arrays["a"] = -np.abs(arrays["a"]) if "step" in arrays else np.tanh(arrays["a"])
        arrays |= {"step": np.abs(arrays["step"])} if "step" in arrays else {}
    found, wanted = run(name, arrays, batch, time), evaluate(BODIES[name], arrays)
    for key, value in wanted.items():
        np.testing.assert_allclose(found[key], value, 3e-5, 3e-5, err_msg=key)


@pytest.mark.parametrize("name", ["selective 16 x 40", "scan over 1, 70", "swapped"])
def test_a_step_alone_has_the_bits_of_all(name: str) -> None:
    arrays = random(BODIES[name], 2, 6)
    whole = run(name, arrays, 2, 6)
    per_step = {op.name for op in BODIES[name].inputs if T in op.type.shape}
    states, made = [key for key in whole if key in arrays], whole
    for t in range(6):
        now = {k: v[:, t : t + 1] if k in per_step else v for k, v in arrays.items()}
        made = run(name, now, 2, 1)
        assert np.array_equal(made["y"][:, 0], whole["y"][:, t])
        arrays |= {key: made[key].reshape(arrays[key].shape) for key in states}
    assert all(np.array_equal(made[key], whole[key]) for key in states)


H = LinearRecurrence(given("a", B, T, 4, 8), given("b", B, T, 4, 8), given("h", B, 4, 8), 1)


@pytest.mark.parametrize(
    "outputs",
    [
        {"y": Sum(H, 3)},
        {"y": Sum(H, 2), "h": H},
        {"y": Sum(H, 2), "first": Slice(H, 1, 0, 1)},
        {"y": Sum(H, 1)},
        {"y": H},
    ],
)
def test_what_is_left_to_other_kernels(outputs: dict[str, Value]) -> None:
    assert not steps.has_kernel(graph_of("other", outputs))
