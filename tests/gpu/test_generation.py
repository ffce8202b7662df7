"""Generation that stays on the GPU gives the tokens that the host would choose, and states last."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from itertools import islice
from typing import Any

import numpy as np
import pytest

import mmc
from mmc.targets.cuda import greedy
from mmc.targets.cuda.driver import HostMemory, Memory, device
from mmc.targets.cuda.executable import image
from mmc.targets.cuda.launch import INT32, POINTER, Code, launch
from tests.end_to_end.compiled import token_ids
from tests.gpu.prepared import prepared, prompt
from tests.gpu.test_cuda import model, same

pytestmark = pytest.mark.gpu

BLOCK = greedy.BLOCK


def chosen_by_host(token: np.ndarray, state: mmc.State) -> Iterator[np.ndarray]:
    """Tokens [B], each from logits that came back."""
    while True:
        logits, state = model().decode(token, state)
        token = logits.argmax(-1)
        yield token


@cache
def start(batch: int) -> tuple[np.ndarray, mmc.State]:
    ids = token_ids(model().vocab_size, batch, 9)
    logits, state = model().prefill(ids)
    return logits.argmax(-1), state


@pytest.mark.parametrize("batch", [1, 2, 3, 9])
@pytest.mark.parametrize("count", [1, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK, 5 * BLOCK + 3])
def test_tokens_are_those_that_the_host_chooses(batch: int, count: int) -> None:
    found = list(model().greedy(*start(batch), count))
    wanted = list(islice(chosen_by_host(*start(batch)), count))
    np.testing.assert_array_equal(found, wanted)


def test_nothing_is_generated_where_nothing_is_asked_for() -> None:
    assert list(model().greedy(*start(1), 0)) == []


def test_steps_in_between_and_broken_off_streams_change_nothing() -> None:
    wanted = list(islice(chosen_by_host(*start(1)), 60))
    outer = model().greedy(*start(1), 60)
    found = list(islice(outer, 5))
    inner: Any = model().greedy(*start(1), 60)
    np.testing.assert_array_equal(list(islice(inner, 20)), wanted[:20])
    model().decode(*start(1))
    model().prefill(token_ids(model().vocab_size, 2, 300))  # takes a larger workspace
    np.testing.assert_array_equal([*found, *outer], wanted)
    inner.close()
    np.testing.assert_array_equal(list(model().greedy(*start(1), 60)), wanted)


class OnHost:
    """The executable without what continues by itself."""

    def __init__(self, executable: Any) -> None:
        self.run, self.use_threads = executable.run, executable.use_threads
        self.meter = executable.meter


def with_ends(ends: set[int], on_host: bool) -> mmc.Model:
    """The model with other end-of-text tokens."""
    executable: Any = model()._executable  # pyright: ignore[reportPrivateUsage]
    made = mmc.Model(model().artifact, OnHost(executable) if on_host else executable)
    made.eos_token_ids = frozenset(ends)
    return made


@pytest.mark.parametrize("last", [0, 1, BLOCK, BLOCK + 7, 40])
def test_an_end_is_cut_off_exactly(last: int) -> None:
    """One row ends at some step, others where they like; nothing behind an end is handed out."""
    ids = token_ids(model().vocab_size, 3, 9)
    free = with_ends(set(), on_host=True).generate(ids, 48)
    ends = {int(free[0, last])}
    wanted = with_ends(ends, on_host=True).generate(ids, 48)
    np.testing.assert_array_equal(with_ends(ends, on_host=False).generate(ids, 48), wanted)
    alone = with_ends(ends, on_host=False).generate(ids[:1], 48)
    first = int(np.argmax(free[0] == free[0, last]))
    np.testing.assert_array_equal(alone, free[:1, : first + 1])


def test_a_stream_is_the_whole() -> None:
    ids = prompt()
    pieces = list(model().generate(ids, 70, stream=True))
    np.testing.assert_array_equal(np.stack(pieces, 1), model().generate(ids, 70))


# The choice --------------------------------------------------------------------------------------

LOGITS = {
    "one": [3.0],
    "ties": [1.0, 7.0, 7.0, 0.0, 7.0],
    "negative": [-3.0, -2.0, -2.0],
    "zeros": [-1.0, -0.0, 0.0],
    "infinite": [1.0, np.inf, np.inf, -np.inf],
    "lowest": [-np.inf, -np.inf],
    "nan": [1.0, np.inf, np.nan, np.nan],
    "tiny": [1e-45, 2e-45, 0.0],
    "long": np.random.default_rng(0).integers(0, 40, 8193).astype(float).tolist(),
}


@pytest.mark.parametrize("name", LOGITS)
def test_choice_is_that_of_numpy(name: str) -> None:
    rows = np.array([LOGITS[name], LOGITS[name][::-1]], np.float32)
    batch, vocabulary = rows.shape
    logits, ids, chosen = Memory(rows.nbytes), Memory(8 * batch), Memory(8 * batch)
    tokens = HostMemory(8 * 3 * batch)
    logits.write(0, rows)
    chosen.fill(0)
    code = Code(image(prepared("example") / "lib"))
    for _ in range(4):  # the fourth takes the place of the first
        given = [(logits.address, POINTER), (ids.address, POINTER), (tokens.address, POINTER),
                 (chosen.address, POINTER), (vocabulary, INT32), (3, INT32)]  # fmt: skip
        launch(code.kernel("mmc_choose"), batch, greedy.THREADS, given)
    found, counted = np.zeros(batch, np.int64), np.zeros(batch, np.int64)
    ids.read(0, found)
    chosen.read(0, counted)
    np.testing.assert_array_equal(found, rows.argmax(-1))
    np.testing.assert_array_equal(tokens.copy(0, 3 * batch).reshape(3, batch), [found] * 3)
    assert counted.tolist() == [4, 4]


# States ------------------------------------------------------------------------------------------


def test_kept_states_can_all_be_gone_on_from() -> None:
    """More than there is memory to take turns with."""
    token, state = start(2)
    kept: list[tuple[np.ndarray, mmc.State, np.ndarray]] = []
    for _ in range(9):
        logits, after = model().decode(token, state)
        kept.append((token, state, logits))
        token, state = logits.argmax(-1), after
    for token, before, wanted in reversed(kept):
        logits, after = model().decode(token, before)
        np.testing.assert_array_equal(logits, wanted)
        again = model().decode(token, before)
        np.testing.assert_array_equal(again[0], wanted)
        assert same(again[1], after)


def test_states_may_come_from_the_host_or_change_places() -> None:
    token, state = start(1)
    _, state = model().decode(token, state)
    host = mmc.State({name: np.asarray(array) for name, array in state.arrays.items()})
    wanted, after = model().decode(token, host)
    found, again = model().decode(token, state)
    np.testing.assert_array_equal(found, wanted)
    assert same(after, again)
    first, second, *_ = state.arrays
    moved = {first: state.arrays[second], second: state.arrays[first]}
    swapped = mmc.State({**state.arrays, **moved})
    by_host = mmc.State({name: np.asarray(array) for name, array in swapped.arrays.items()})
    assert not np.array_equal(model().decode(token, swapped)[0], found)
    np.testing.assert_array_equal(
        model().decode(token, swapped)[0], model().decode(token, by_host)[0]
    )


def test_a_step_behind_a_step_takes_no_memory() -> None:
    token, state = start(1)
    for _ in range(4):
        _, state = model().decode(token, state)
    before = device().allocated
    for _ in range(20):
        _, state = model().decode(token, state)
    assert device().allocated == before


# What is measured --------------------------------------------------------------------------------


def test_the_meter_tells_memory_energy_and_the_read_limit() -> None:
    meter = model().meter()
    assert meter.clock == "wall"
    found = meter.memory()
    assert found["weights"] >= model().artifact.manifest["sizes"]["weight_bytes_total"]
    assert found["peak device"] >= found["weights"] + found["workspace"]
    limit = meter.read_limit()
    assert limit is not None
    assert 1e11 < limit < 1e13
    energy = meter.joules()
    assert isinstance(energy, str) or energy > 0


def test_bench_says_what_it_timed_by() -> None:
    from mmc.bench import BenchOptions, bench

    found = bench(model(), BenchOptions(prompt=40, generate=20, repeats=2, batch=2))
    record = json.loads(json.dumps(found.record()))
    assert record["clock"] == "wall"
    assert [row["rate"] > 0 for row in record["rows"]] == [True, True]
    assert "(wall)" in str(found)
    assert "CPU time" not in str(found)
    assert "| tg20 | 2 |" in str(found)
