"""Attention's CUDA kernels where there is no GPU: their source, run by contexts on the CPU."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from functools import cache

import numpy as np
import pytest

import mmc
from mmc.ir.evaluate import evaluate
from mmc.ir.graph import Graph, graph_of
from mmc.ir.ops.attention import CacheAppend
from mmc.ir.ops.recurrence import Kernel
from mmc.ir.types import DType
from mmc.targets.cuda.build import Generated, generate
from mmc.targets.cuda.launches import Launch, choose, from_json, number
from mmc.targets.cuda.tuning import Tuning
from mmc.targets.registry import load_target
from mmc.targets.tvm.plan import Plan
from tests.end_to_end.transformers import CONTEXT, source
from tests.folders import workspace
from tests.inputs import given
from tests.targets.cuda_emulation import emulated, emulated_launches
from tests.targets.test_attention import appends, arrays_for, arrays_to_append, attends
from tests.targets.test_cuda_build import parameters

SHAPES = [(6, 2, 64), (20, 1, 16), (5, 1, 42), (2, 2, 128)]
"""Heads, groups, columns of a head."""
BODIES = {
    **{f"attention {shape}": attends(*shape) for shape in SHAPES},
    **{f"append {shape}": appends(*shape[1:]) for shape in SHAPES},
}


def graph(name: str) -> Graph:
    """The body as a kernel over inputs of the same names."""
    kernel = Kernel(tuple(BODIES[name].inputs), BODIES[name])
    return graph_of(name, {"y": kernel.results[0]})


@cache
def made() -> Generated:
    return generate({name: Plan(graph(name)) for name in BODIES}, "sm_80", Tuning())


@cache
def emulation() -> ctypes.CDLL:
    """Every kernel as a function on the CPU."""
    text = made().text
    return emulated_launches("attention", text, list(parameters(text)), together=False)


def launched(name: str, sizes: Mapping[str, int]) -> Launch:
    (group,) = made().launches[name].groups
    (launch,) = choose(group, sizes)
    return launch


def run(name: str, arrays: Mapping[str, np.ndarray], in_place: bool = False) -> np.ndarray:
    """The kernel's result; nothing else may change, unless it works in place."""
    body = BODIES[name]
    inputs = [np.ascontiguousarray(arrays[op.name]).copy() for op in body.inputs]
    out = inputs[0] if in_place else np.full(inputs[0].shape, np.nan, np.float32)
    steps = arrays["q" if "q" in arrays else "x"].shape[:2]
    sizes = dict(zip("BT", steps, strict=True))
    launch = launched(name, sizes)
    blocks = launch.blocks(sizes)
    passed: list[ctypes.c_void_p | ctypes.c_int64 | ctypes.c_int] = []
    for argument in launch.arguments:
        if not isinstance(argument, str):
            passed.append(ctypes.c_int64(number(argument, sizes)))
        elif argument == "blocks":
            passed.append(ctypes.c_int(blocks))
        elif argument == "0.moves":
            passed.append(ctypes.c_int64(not in_place))
        else:
            kind, _, position = argument.removeprefix("0.").partition("_")
            array = out if kind == "out" else inputs[int(position)]
            passed.append(ctypes.c_void_p(array.ctypes.data))
    emulation()[f"run_{launch.kernel}"](ctypes.c_int(blocks), *passed)
    assert emulation().hazards() == 0
    for op, array in zip(body.inputs, inputs, strict=True):
        assert array is out or np.array_equal(array, arrays[op.name], equal_nan=True)
    return out


@emulated
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("steps", "position"), [(1, [0]), (1, [63, 149]), (17, [64, 0, 133]), (40, [110])]
)
def test_attention_is_the_interpreters(
    shape: tuple[int, int, int], steps: int, position: list[int]
) -> None:
    arrays = arrays_for(shape, steps, position)
    for row, known in enumerate(position):
        arrays["keys"][row, :, known + steps :] = np.nan  # what nobody may look at
        arrays["values"][row, :, known + steps :] = np.nan
    wanted = evaluate(BODIES[f"attention {shape}"], arrays)["y"]
    found = run(f"attention {shape}", arrays)
    np.testing.assert_allclose(found, wanted, 1e-5, 2e-6)


@emulated
@pytest.mark.parametrize("shape", SHAPES)
def test_a_token_alone_is_a_token_in_a_prompt(shape: tuple[int, int, int]) -> None:
    """One kernel does the prompt, another one the token."""
    arrays = arrays_for(shape, 40, [70, 3])
    whole = run(f"attention {shape}", arrays)
    for t in (0, 1, 15, 39):
        alone = {**arrays, "q": arrays["q"][:, t : t + 1], "position": arrays["position"] + t}
        assert np.array_equal(run(f"attention {shape}", alone)[:, 0], whole[:, t])


@emulated
def test_a_position_sees_nothing_of_those_behind_it() -> None:
    """Not even what is no number there."""
    arrays = arrays_for((6, 2, 64), 20, [70])
    whole = run("attention (6, 2, 64)", arrays)
    arrays["keys"][:, :, 85:] = np.inf
    arrays["values"][:, :, 85:] = np.nan
    found = run("attention (6, 2, 64)", arrays)
    assert np.array_equal(found[:, :15], whole[:, :15])
    assert np.isnan(found[:, 15:]).all()


@emulated
def test_large_scores_do_not_overflow() -> None:
    arrays = arrays_for((20, 1, 16), 40, [100])
    arrays["q"] *= 1000
    wanted = evaluate(BODIES["attention (20, 1, 16)"], arrays)["y"]
    np.testing.assert_allclose(run("attention (20, 1, 16)", arrays), wanted, 1e-4, 1e-5)


@emulated
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


def test_a_token_has_a_kernel_of_its_own() -> None:
    """Where a group has fewer heads than a block of threads has rows."""
    for shape, apart in (((6, 2, 64), True), ((20, 1, 16), False)):
        name = f"attention {shape}"
        alone, prompt = (launched(name, {"B": 1, "T": steps}).kernel for steps in (1, 2))
        assert (alone != prompt) is apart


def test_there_are_blocks_for_every_row() -> None:
    launch = launched("attention (6, 2, 64)", {"B": 3, "T": 17})
    assert launch.blocks({"B": 3, "T": 17}) == 3 * 2 * -(-17 * 3 // launch.per)


@pytest.mark.parametrize("name", BODIES)
def test_nothing_is_refused(name: str) -> None:
    assert load_target("cuda").unsupported(graph(name)) == []


def test_a_cache_of_int8_is_refused() -> None:
    """Its rows are padded."""
    cache_, x = (given(n, 1, *d, 16, dtype=DType.I8) for n, d in (("y", (2, 9)), ("x", (3, 2))))
    position, lengths = (given(n, 1, dtype=DType.I64) for n in ("position", "lengths"))
    body = graph_of("append", {"y": CacheAppend(cache_, x, position, lengths)})
    whole = graph_of("whole", {"y": Kernel(tuple(body.inputs), body).results[0]})
    ((_, why),) = load_target("cuda").unsupported(whole)
    assert why == "a GPU has no kernel for cache_append"


def test_a_model_with_attention_compiles_without_a_gpu() -> None:
    """Its tokens take launches; each cache is appended to and read."""
    out = workspace() / "hybrid-cuda"
    lib = mmc.compile(source("hybrid"), target="cuda", context=CONTEXT, out=out).path / "lib"
    assert {path.name for path in lib.glob("*.cubin")} == {"sm_80.cubin", "sm_90a.cubin"}
    entries = from_json((lib / "launches.json").read_text())
    assert set(entries) == {"forward", "step", "token"}
    for entry in entries.values():
        assert entry.persistent is None
        kernels = [x.kernel for group in entry.groups for x in choose(group, {"B": 2, "T": 3})]
        assert sum(name.startswith("cache_append") for name in kernels) == 2
        assert sum(name.startswith("attention") for name in kernels) == 1
