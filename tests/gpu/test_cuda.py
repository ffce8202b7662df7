"""On a GPU: the interpreter's numbers, the CPU's tokens, and what must not change a bit."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mmc
from mmc.artifact import open_artifact
from mmc.errors import MmcError
from mmc.ir.graph import Graph
from mmc.ir.text import parse
from mmc.ir.types import static_shape
from mmc.perplexity import negative_log_likelihood
from mmc.runtime import State
from mmc.targets.base import BuildOptions, Executable, graph_file
from mmc.targets.registry import load_target
from tests.end_to_end.compiled import token_ids
from tests.end_to_end.test_golden import difference, golden
from tests.folders import workspace
from tests.gpu.prepared import (
    CHAINS,
    DENSE,
    MATRICES,
    NEW_TOKENS,
    ONE,
    WITHOUT_KERNEL,
    layouts,
    loaded,
    prepared,
    prompt,
    trits_of,
)
from tests.targets import row_cases
from tests.targets.row_cases import CASES, INDEPENDENT, STEPWISE, Arrays

pytestmark = pytest.mark.gpu


@cache
def model() -> mmc.Model:
    found = mmc.load(prepared("example"))
    assert isinstance(found, mmc.Model)
    return found


@cache
def golden_logits() -> np.ndarray:
    return model().forward(golden()["input_ids"][None])[0]


# The whole model ---------------------------------------------------------------------------------


def test_first_positions_are_the_original_codes() -> None:
    """Later positions may differ where an activation rounds the other way: these have none."""
    assert difference(golden_logits()[:4], golden()["logits"][:4]) <= 1e-5


def test_stored_positions() -> None:
    for position, wanted in zip(golden()["positions"], golden()["logits"], strict=True):
        assert difference(golden_logits()[position], wanted) <= 0.02, position


def test_likeliest_tokens_agree() -> None:
    assert (golden_logits().argmax(-1) == golden()["argmax"]).mean() >= 0.99


def test_mean_negative_log_likelihood() -> None:
    found = negative_log_likelihood(golden_logits()[:-1], golden()["input_ids"][1:])
    assert abs(found.mean() - golden()["nll"].mean()) <= 0.005


def test_greedy_tokens_are_the_cpus() -> None:
    wanted = np.load(prepared("tokens") / "tokens.npy")
    assert wanted.shape == (1, NEW_TOKENS)
    np.testing.assert_array_equal(model().generate(prompt(), NEW_TOKENS), wanted)


def test_threads_are_refused() -> None:
    with pytest.raises(MmcError, match="--threads"):
        model().use_threads(2)


# Every kernel ------------------------------------------------------------------------------------


def probe(graph: Graph, batch: int, tokens: int) -> dict[str, np.ndarray]:
    """Random inputs of an entry of the example."""
    random = np.random.default_rng([batch, tokens])
    found: dict[str, np.ndarray] = {}
    for op in graph.inputs:
        bound = op.type.bind({"B": batch, "T": tokens})
        shape, dtype = static_shape(bound.shape), bound.dtype.numpy
        if op.name == "ids":
            found[op.name] = random.integers(0, model().vocab_size, shape).astype(dtype)
        elif op.name == "lengths":
            found[op.name] = random.integers(1, found["ids"].shape[1] + 1, shape).astype(dtype)
        else:
            found[op.name] = random.normal(size=shape).astype(dtype)
    return found


@pytest.mark.parametrize(("batch", "tokens"), [(1, 1), (2, 5), (1, 33), (8, 9), (3, 40)])
def test_every_kernel_is_the_interpreters(batch: int, tokens: int) -> None:
    folder = prepared("example")
    entries = json.loads((folder / "manifest.json").read_text())["entries"]
    graphs = {entry: parse((folder / graph_file(entry)).read_text()) for entry in entries}
    probes = {entry: probe(graph, batch, tokens) for entry, graph in graphs.items()}
    record = load_target("cuda").check(folder, graphs, probes, BuildOptions())
    kernels = sum(op.mnemonic == "kernel" for graph in graphs.values() for op in graph)
    assert record["kernels"] == kernels > 0
    assert record["sums"] > 0
    assert record["failures"] == []


# What must not change a bit ----------------------------------------------------------------------


def same(a: mmc.State, b: mmc.State) -> bool:
    return a.arrays.keys() == b.arrays.keys() and all(
        np.array_equal(np.asarray(a.arrays[name]), np.asarray(b.arrays[name])) for name in a.arrays
    )


def test_token_by_token_is_prefill_is_forward() -> None:
    ids = token_ids(model().vocab_size, 2, 70)
    state = model().empty_state(len(ids))
    stepped: list[np.ndarray] = []
    for t in range(ids.shape[1]):
        logits, state = model().decode(ids[:, t], state)
        stepped.append(logits)
    last, prefilled = model().prefill(ids)
    assert np.array_equal(np.stack(stepped, 1), model().forward(ids))
    assert np.array_equal(stepped[-1], last)
    assert same(state, prefilled)


def test_a_thousand_steps_are_the_same_each_time() -> None:
    """Twenty times: launches that overlap, or read what is still written, would show."""

    def last() -> tuple[np.ndarray, State]:
        logits, state = model().prefill(prompt())
        for _ in range(1000):
            logits, state = model().decode(logits.argmax(-1), state)
        return logits, state

    wanted, wanted_state = last()
    for _ in range(19):
        logits, state = last()
        assert np.array_equal(logits, wanted)
        assert same(state, wanted_state)


def test_prompt_in_two_parts_is_the_prompt() -> None:
    ids = token_ids(model().vocab_size, 2, 11)
    _, state = model().prefill(ids[:, :4])
    logits, state = model().extend(ids[:, 4:], None, state)
    wanted, wanted_state = model().prefill(ids)
    assert np.array_equal(logits, wanted)
    assert same(state, wanted_state)


def test_batch_of_different_lengths_is_each_alone() -> None:
    ids, lengths = token_ids(model().vocab_size, 8, 19), [19, 1, 5, 2, 18, 7, 3, 11]
    logits, state = model().prefill(ids, lengths)
    token = logits.argmax(-1)
    after, _ = model().decode(token, state)
    for row, length in enumerate(lengths):
        alone, own = model().prefill(ids[row : row + 1, :length])
        assert np.array_equal(logits[row : row + 1], alone)
        for key, array in own.arrays.items():
            together = np.asarray(state.arrays[key])[row : row + 1]
            assert np.array_equal(together, np.asarray(array)), key
        decoded, _ = model().decode(token[row : row + 1], own)
        assert np.array_equal(after[row : row + 1], decoded)


def test_a_call_can_be_repeated_and_leaves_alone_what_it_gave() -> None:
    """The launches of a second call are recorded, those of a third one are replayed."""
    ids = token_ids(model().vocab_size, 3, 6)
    _, state = model().prefill(ids)
    before = {name: np.asarray(array).copy() for name, array in state.arrays.items()}
    made = [model().decode(ids[:, 0], state) for _ in range(4)]
    kept = made[0][0].copy()
    for logits, after in made:
        assert np.array_equal(logits, kept)
        assert same(after, made[0][1])
    model().decode(ids[:, 1], made[0][1])
    assert np.array_equal(made[0][0], kept)
    assert all(np.array_equal(np.asarray(state.arrays[n]), old) for n, old in before.items())


def test_weights_in_fewer_bits_give_the_same_bits() -> None:
    """The sums are the same integers."""
    dense = mmc.load(prepared("dense"))
    assert isinstance(dense, mmc.Model)
    for batch in (1, 2, 5, 40):
        ids = token_ids(model().vocab_size, batch, 40)
        made = [each.prefill(ids) for each in (model(), dense)]
        for _ in range(3):
            (wanted, wanted_state), (logits, state) = made
            assert np.array_equal(logits, wanted)
            assert same(state, wanted_state)
            token = wanted.argmax(-1)
            made = [model().decode(token, wanted_state), dense.decode(token, state)]


def test_an_embedding_on_the_host_gives_the_same_bits() -> None:
    """The same kernels read it, at an address of the host's memory."""
    other = mmc.load(prepared("dense"), embedding_memory="host")
    usual = mmc.load(prepared("dense"))
    assert isinstance(other, mmc.Model)
    assert isinstance(usual, mmc.Model)
    np.testing.assert_array_equal(other.generate(prompt(), 40), usual.generate(prompt(), 40))
    for batch in (1, 3, 40):
        ids = token_ids(model().vocab_size, batch, 20)
        (wanted, wanted_state), (logits, state) = usual.prefill(ids), other.prefill(ids)
        assert np.array_equal(logits, wanted)
        assert same(state, wanted_state)
        wanted, _ = usual.decode(ids[:, 0], wanted_state)
        assert np.array_equal(other.decode(ids[:, 0], state)[0], wanted)
    there, here = usual.meter().memory(), other.meter().memory()
    assert "embedding on the host" not in there
    moved = here["embedding on the host"]
    assert moved > model().vocab_size
    assert there["weights"] - here["weights"] == moved


# One launch for a token --------------------------------------------------------------------------


def without_phases(folder: Path) -> mmc.Model:
    """The example, whose tokens take launches."""
    copied = shutil.copytree(prepared("example"), folder)
    made = copied / "lib" / "launches.json"
    record = json.loads(made.read_text())
    assert record["token"]["persistent"] is not None
    for entry in record.values():
        entry["persistent"] = None
    made.write_text(json.dumps(record))
    artifact = open_artifact(prepared("example"))
    entries, built = artifact.manifest["entries"], artifact.manifest["built"]
    return mmc.Model(artifact, load_target("cuda").load(copied, entries, built))


def test_one_launch_gives_what_many_give(tmp_path: Path) -> None:
    """Token by token, for as long as its two areas of exchanged floats are used in turn."""
    others = without_phases(tmp_path / "launches")
    _, state = model().prefill(prompt())
    _, wanted_state = others.prefill(prompt())
    for token in token_ids(model().vocab_size, 1, 40)[0]:
        ids = np.array([token])
        logits, state = model().decode(ids, state)
        wanted, wanted_state = others.decode(ids, wanted_state)
        assert np.array_equal(logits, wanted)
        assert same(state, wanted_state)


@pytest.mark.parametrize("name", layouts(CHAINS))
def test_one_launch_of_any_shape_gives_what_many_give(name: str, tmp_path: Path) -> None:
    plain = name.removesuffix(DENSE)
    x = np.random.default_rng(1).normal(size=(1, CHAINS[plain][0])).astype(np.float32)
    folder = shutil.copytree(prepared("chains"), tmp_path / "launches")
    record = json.loads((folder / "lib" / "launches.json").read_text())
    assert record[name]["persistent"] is not None
    record[name]["persistent"] = None
    (folder / "lib" / "launches.json").write_text(json.dumps(record))
    wanted = loaded(folder).run(name, {"x": x})["y"]
    one = loaded(prepared("chains"))
    for _ in range(50):
        np.testing.assert_array_equal(one.run(name, {"x": x})["y"], wanted)
    np.testing.assert_array_equal(one.run(plain, {"x": x})["y"], wanted)
    assert np.isfinite(wanted).all()
    assert wanted.any()


@pytest.mark.parametrize("name", layouts(CHAINS))
def test_rows_of_any_length_are_those_of_one_launch(name: str) -> None:
    """Long rows take more threads in launches for a few: sums have the same order."""
    widths = CHAINS[name.removesuffix(DENSE)]
    x = np.random.default_rng(2).normal(size=(80, widths[0])).astype(np.float32)
    run = loaded(prepared("chains")).run
    alone = [run(name, {"x": row[None]})["y"] for row in x]
    for count in (2, 50, 80):
        found = run(name, {"x": x[:count]})["y"]
        np.testing.assert_array_equal(found, np.concatenate(alone[:count]))


def test_what_is_not_a_number_is_no_missing_float() -> None:
    """Such bits mark a float that is missing: nobody may wait for one that a caller gave."""
    state = model().empty_state(1)
    marks = {n: np.full(x.shape, -1, np.int32).view(np.float32) for n, x in state.arrays.items()}
    _, after = model().decode(np.array([1]), State(marks))
    assert all(np.isnan(np.asarray(x)).all() for x in after.arrays.values())
    wanted, _ = model().decode(np.array([1]), state)
    assert np.isfinite(wanted).all()


# Ternary products --------------------------------------------------------------------------------

KINDS = ("few", "two", "some", "several", "many", "hundreds", "most")
ROWS = (1, 2, 3, 7, 8, 9, 31, 32, 33, 64, 65, 127, 128, 129, 200, 2100)
MOST_ACTIVATIONS = 1 << 22
Groups = dict[str, list[list[dict[str, Any]]]]


def groups(folder: Path) -> Groups:
    record = json.loads((folder / "lib" / "launches.json").read_text())
    return {name: entry["groups"] for name, entry in record.items()}


def kind_of(choice: dict[str, Any]) -> str:
    (kernel,) = {launch[0] for launch in choice["launches"]}
    found = re.match("ternary_([a-z]+)_", kernel)
    assert found is not None, kernel
    return found[1]


@cache
def products_by(kind: str) -> tuple[Executable, int]:
    """The products with the kernels of one kind alone, and for how many rows these are."""
    folder = shutil.copytree(prepared("products"), workspace() / f"products-{kind}")
    chosen: Groups = {
        name: [[choice for choice in group if kind_of(choice) == kind] for group in made]
        for name, made in groups(folder).items()
    }
    most = {c["most_rows"] for made in chosen.values() for group in made for c in group}
    record = {name: {"groups": made, "persistent": None} for name, made in chosen.items()}
    (folder / "lib" / "launches.json").write_text(json.dumps(record))
    return loaded(folder), min(m or max(ROWS) for m in most)


def test_source_is_compiled_for_a_gpu_that_no_code_is_for(tmp_path: Path) -> None:
    folder = shutil.copytree(prepared("product"), tmp_path / "product")
    for cubin in folder.glob("lib/*.cubin"):
        cubin.unlink()
    trits = MATRICES[ONE]
    q = np.full((3, trits.shape[1]), 7, np.int8)
    found = loaded(folder).run(ONE, {"q": q})["acc"]
    np.testing.assert_array_equal(found, q.astype(np.int64) @ trits.T)


def test_every_kind_of_product_is_tested() -> None:
    made = groups(prepared("products")).values()
    assert {kind_of(c) for entry in made for group in entry for c in group} == set(KINDS)


@pytest.mark.parametrize("name", layouts(MATRICES))
@pytest.mark.parametrize("kind", KINDS)
def test_sums_are_exact(kind: str, name: str) -> None:
    executable, most_rows = products_by(kind)
    trits = trits_of(name)
    for rows in (r for r in ROWS if r <= most_rows and r * trits.shape[1] <= MOST_ACTIVATIONS):
        random = np.random.default_rng([rows, *trits.shape])
        drawn = random.integers(-128, 128, (rows, trits.shape[1]), np.int8)
        for q in (drawn, np.full_like(drawn, -128), np.full_like(drawn, 127)):
            wanted = q.astype(np.float64) @ trits.T  # integers below 2^53: exact
            found = executable.run(name, {"q": q})["acc"]
            np.testing.assert_array_equal(found, wanted, err_msg=f"{rows} rows")


# Too little memory -------------------------------------------------------------------------------


def test_says_how_much_memory_there_is_too_little_and_goes_on() -> None:
    """Something else holds all of it; when that is gone, everything works as before."""
    from mmc.targets.cuda.driver import Memory, device

    held: list[Memory] = []
    size = device().free_bytes()
    while size >= 1 << 20:
        try:
            held.append(Memory(size))
        except MmcError:
            size //= 2
    wanted = r"needs \d+ MiB of the GPU's memory, of which \d+ MiB are free.*fewer sequences"
    with pytest.raises(MmcError, match=wanted):
        mmc.load(prepared("example"))
    held.clear()
    device().synchronize()
    again = mmc.load(prepared("example"))
    assert isinstance(again, mmc.Model)
    np.testing.assert_array_equal(again.generate(prompt(), 8), model().generate(prompt(), 8))


# Row kernels -------------------------------------------------------------------------------------


@cache
def rows_executable() -> Executable:
    return loaded(prepared("rows"))


def run(name: str, arrays: Arrays) -> dict[str, np.ndarray]:
    return rows_executable().run(name, arrays)


MARKED = [
    pytest.param(name, marks=[pytest.mark.xfail(reason="cannot be compiled yet")])
    if name in WITHOUT_KERNEL
    else name
    for name in CASES
]


@pytest.mark.parametrize("name", MARKED)
def test_agrees_with_the_interpreter(name: str) -> None:
    row_cases.agrees_with_the_interpreter(run, name)


@pytest.mark.parametrize("name", INDEPENDENT)
def test_a_row_does_not_depend_on_how_many_there_are(name: str) -> None:
    row_cases.a_row_does_not_depend_on_how_many_there_are(run, name)


@pytest.mark.parametrize("name", STEPWISE)
def test_a_recurrence_can_be_taken_up_step_by_step(name: str) -> None:
    row_cases.a_recurrence_can_be_taken_up_step_by_step(run, name)


FUNCTIONS: list[Callable[[row_cases.Run], None]] = [
    row_cases.exp_is_within_2_ulp_and_has_the_right_limits,
    row_cases.gates_are_finite_wherever_their_input_is,
    row_cases.scales_are_rounded_once,
    row_cases.statistics_are_rounded_as_their_parts_are,
]


@pytest.mark.parametrize("holds", FUNCTIONS)
def test_functions_are_right_at_their_limits(holds: Callable[[row_cases.Run], None]) -> None:
    holds(run)
