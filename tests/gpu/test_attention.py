"""Attention on a GPU: the CPU's logits and tokens, and states whose caches grow in place."""

from __future__ import annotations

import json
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import mmc
from mmc.driver import probe_inputs
from mmc.errors import MmcError
from mmc.ir.ops.attention import POSITION
from mmc.runtime import State
from mmc.targets.base import BuildOptions, read_graphs
from mmc.targets.registry import load_target
from tests.end_to_end.states import decode_is_prefill, pieces_are_the_prompt, states_are_equal
from tests.end_to_end.transformers import CONTEXT
from tests.gpu.prepared import ATTENTION, SAMPLED, attention_prompt, prepared

pytestmark = pytest.mark.gpu

TERNARY = ("bitnet", "hybrid")


@cache
def model(name: str) -> mmc.Model:
    loaded = mmc.load(prepared("attention") / name)
    assert isinstance(loaded, mmc.Model)
    return loaded


def prompt(name: str) -> np.ndarray:
    return attention_prompt(model(name).vocab_size)


@cache
def of_cpu(name: str) -> dict[str, np.ndarray]:
    """`logits` [4, 24, V], `greedy` and `sampled` [4, 40]."""
    return dict(np.load(prepared("attention-cpu") / f"{name}.npz"))


def host(state: State) -> State:
    return State({name: np.asarray(array) for name, array in state.arrays.items()})


@pytest.mark.parametrize("name", ATTENTION)
def test_logits_are_the_cpus(name: str) -> None:
    """An activation may round the other way (then 0.02); most positions have none (then 1e-5)."""
    wanted, found = of_cpu(name)["logits"], model(name).forward(prompt(name))
    error = np.abs(found - wanted).max(-1) / np.abs(wanted).max()
    if name in TERNARY:
        assert error.max() <= 0.02
        assert (error <= 1e-5).mean() >= 0.8
    else:
        assert error.max() <= 2e-6


@pytest.mark.parametrize("name", ATTENTION)
def test_tokens_are_the_cpus(name: str) -> None:
    wanted = of_cpu(name)
    np.testing.assert_array_equal(model(name).generate(prompt(name), 40), wanted["greedy"])
    sampled = model(name).generate(prompt(name), 40, **SAMPLED)
    np.testing.assert_array_equal(sampled, wanted["sampled"])


@pytest.mark.parametrize("name", ATTENTION)
def test_every_kernel_is_the_interpreters(name: str) -> None:
    folder = prepared("attention") / name
    entries = json.loads((folder / "manifest.json").read_text())["entries"]
    graphs = read_graphs(folder, entries)
    imported: Any = SimpleNamespace(
        vocab_size=model(name).vocab_size, context=CONTEXT, positive=frozenset[str]()
    )
    probes = {entry: probe_inputs(imported, graph) for entry, graph in graphs.items()}
    record = load_target("cuda").check(folder, graphs, probes, BuildOptions())
    assert record["kernels"] > 20
    assert record["failures"] == []


@pytest.mark.parametrize("name", ATTENTION)
def test_decode_is_prefill_bit_for_bit(name: str) -> None:
    state = decode_is_prefill(model(name), prompt(name), [24, 7, 1, 18])
    assert np.asarray(state.arrays[POSITION]).tolist() == [24, 7, 1, 18]


@pytest.mark.parametrize("name", ATTENTION)
def test_a_prompt_in_pieces_is_the_prompt(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pieces_are_the_prompt(model(name), prompt(name), [24, 11, 24, 17], monkeypatch)


@pytest.mark.parametrize("name", ATTENTION)
def test_sequences_together_are_each_alone(name: str) -> None:
    """Prompts of different lengths, and tokens behind them."""
    ids, lengths, own = prompt(name), [24, 1, 17, 9], model(name)
    logits, state = own.prefill(ids, lengths)
    states = [own.prefill(ids[row : row + 1, :length]) for row, length in enumerate(lengths)]
    for _ in range(30):
        assert np.array_equal(logits, np.concatenate([made for made, _ in states]))
        token = logits.argmax(-1)
        logits, state = own.decode(token, state)
        states = [own.decode(token[row : row + 1], old) for row, (_, old) in enumerate(states)]


@pytest.mark.parametrize("name", ATTENTION)
def test_greedy_tokens_are_those_of_decode(name: str) -> None:
    ids, own = prompt(name), model(name)
    logits, state = own.prefill(ids)
    token, wanted = logits.argmax(-1), list[Any]()
    found = list(own.greedy(token, state, 40))
    for _ in range(40):
        logits, state = own.decode(token, state)
        token = logits.argmax(-1)
        wanted.append(token)
    assert np.array_equal(found, wanted)


@pytest.mark.parametrize("name", ATTENTION)
def test_a_state_can_be_continued_twice(name: str) -> None:
    """The caches grow in place, yet an older state stays what it was."""
    ids, own = prompt(name), model(name)
    logits, state = own.prefill(ids[:, :20])
    first, one = own.extend(ids[:, 20:], None, state)
    second, two = own.extend(ids[:, 20:][::-1], None, state)
    assert np.array_equal(first, own.prefill(ids)[0])
    turned = np.concatenate([ids[:, :20], ids[::-1, 20:]], axis=1)
    again, wanted = own.prefill(turned)
    assert np.array_equal(second, again)
    states_are_equal(two, wanted)
    token = logits.argmax(-1)
    after_one, after_two = own.decode(token, one)[0], own.decode(token, two)[0]
    assert not np.array_equal(after_one, after_two)
    assert np.array_equal(after_one, own.decode(token, own.prefill(ids)[1])[0])


@pytest.mark.parametrize("name", ATTENTION)
def test_caches_are_not_copied(name: str) -> None:
    own = model(name)
    _, state = own.prefill(prompt(name))
    arrays: dict[str, Any] = dict(state.arrays)
    for _ in range(4):
        _, after = own.decode(prompt(name)[:, 0], State(arrays))
        newer: dict[str, Any] = dict(after.arrays)
        for key, array in arrays.items():
            assert (array.address == newer[key].address) is (len(array.shape) == 4), key
        arrays = newer


@pytest.mark.parametrize("name", ATTENTION)
def test_a_state_from_elsewhere_is_taken_up(name: str) -> None:
    ids, own = prompt(name), model(name)
    wanted, state = own.prefill(ids)
    _, begun = own.prefill(ids[:, :9])
    for other in (host(begun), begun):
        found, made = own.extend(ids[:, 9:], None, other)
        assert np.array_equal(found, wanted)
        states_are_equal(made, state)


def test_many_states_are_held_and_given_back() -> None:
    """Memory is that of the states that somebody holds."""
    from mmc.targets.cuda.driver import device

    own, ids = model("llama"), prompt("llama")
    wanted, _ = own.prefill(ids)
    before = device().allocated
    states = [own.prefill(ids)[1] for _ in range(6)]
    held = device().allocated
    assert held - before >= 5 * states[0].bytes // 2
    for state in states:
        token = wanted.argmax(-1)
        assert np.array_equal(own.decode(token, state)[0], own.decode(token, states[0])[0])
    states.clear()
    own.prefill(ids)
    assert device().allocated < held


def test_the_context_has_an_end() -> None:
    own = model("llama")
    ids = np.ones((1, CONTEXT), np.int64)
    _, full = own.prefill(ids)
    with pytest.raises(MmcError, match=f"do not fit in the context of {CONTEXT}"):
        own.decode(ids[:, 0], full)
    assert own.generate(ids[:, :80], 11).shape[1] <= 11
