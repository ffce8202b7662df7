"""Transformers on the CPU and in the interpreter, against the logits of transformers' modules."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch

import mmc
from mmc.errors import MmcError
from mmc.ir.ops.attention import POSITION
from mmc.runtime import State
from tests.end_to_end.states import (
    decode_is_prefill,
    pieces_are_the_prompt,
    states_are_equal,
)
from tests.end_to_end.transformers import COMPILED, CONTEXT, MODELS, NAMES, artifact, golden, model

TERNARY = {"llama": 0, "qwen2": 0, "bitnet": 14, "bitnet-packed": 14, "llama-bitnet": 13}
"""Of 15 layers and 2 of attention: the head is dense, and one that `llama-bitnet` names."""


@pytest.mark.parametrize(
    ("name", "target"), [*((n, "reference") for n in NAMES), *((n, "cpu") for n in COMPILED)]
)
def test_logits_are_those_of_transformers(name: str, target: str) -> None:
    """An activation may round the other way (then 0.02); most positions have none (then 1e-5)."""
    wanted = golden(name)["logits"]
    found = model(name, target).forward(golden(name)["input_ids"])
    error = np.abs(found - wanted).max(-1) / np.abs(wanted).max()
    if TERNARY[name]:
        assert error.max() <= 0.02
        assert (error <= 1e-5).mean() >= 0.8
    else:
        assert error.max() <= 2e-6


def test_every_kernel_is_the_interpreters() -> None:
    record = json.loads((artifact("bitnet", "cpu") / "certificate.json").read_text())["target"]
    assert record["kernels"] > 40
    assert record["failures"] == []
    assert record["float_error"] <= 1e-5


@pytest.mark.parametrize("name", NAMES)
def test_which_layers_are_ternary(name: str) -> None:
    layers = json.loads((artifact(name, "reference") / "manifest.json").read_text())["layers"]
    assert len(layers) == 17
    assert sum(layer["ternary"] for layer in layers) == TERNARY[name]


@pytest.mark.parametrize("name", COMPILED)
def test_decode_is_prefill_bit_for_bit(name: str) -> None:
    state = decode_is_prefill(model(name), golden(name)["input_ids"], [24, 7])
    assert state.arrays[POSITION].tolist() == [24, 7]


def test_a_prompt_in_pieces_is_the_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    pieces_are_the_prompt(model("llama"), golden("llama")["input_ids"], [24, 11], monkeypatch)


def test_a_state_can_be_continued_twice() -> None:
    """The caches grow in place, yet an older state stays what it was."""
    ids, llama = golden("llama")["input_ids"], model("llama")
    logits, state = llama.prefill(ids[:, :20])
    first, one = llama.extend(ids[:, 20:], None, state)
    second, two = llama.extend(ids[:, 20:][::-1], None, state)
    assert np.array_equal(first, llama.prefill(ids)[0])
    turned = np.concatenate([ids[:, :20], ids[::-1, 20:]], axis=1)
    again, wanted = llama.prefill(turned)
    assert np.array_equal(second, again)
    states_are_equal(two, wanted)
    token = logits.argmax(-1)
    after_one, after_two = llama.decode(token, one)[0], llama.decode(token, two)[0]
    assert not np.array_equal(after_one, after_two)
    assert np.array_equal(after_one, llama.decode(token, llama.prefill(ids)[1])[0])


def test_caches_are_not_copied() -> None:
    ids, llama = golden("llama")["input_ids"], model("llama")
    _, state = llama.prefill(ids)
    _, after = llama.decode(ids[:, 0], state)
    for name, array in state.arrays.items():
        same = array.ctypes.data == after.arrays[name].ctypes.data
        assert same is (name != POSITION), name


def test_a_state_from_elsewhere_is_taken_up() -> None:
    ids, llama = golden("llama")["input_ids"], model("llama")
    wanted, state = llama.prefill(ids)
    _, begun = llama.prefill(ids[:, :9])
    copied = State({name: array.copy() for name, array in begun.arrays.items()})
    found, made = llama.extend(ids[:, 9:], None, copied)
    assert np.array_equal(found, wanted)
    states_are_equal(made, state)


@pytest.mark.parametrize("name", COMPILED)
def test_greedy_tokens_are_those_of_decode(name: str) -> None:
    ids, own = golden(name)["input_ids"], model(name)
    _, state = own.prefill(ids)
    found = list(own.greedy(ids[:, 0], state, 20))
    token, wanted = ids[:, 0], list[Any]()
    for _ in range(20):
        logits, state = own.decode(token, state)
        token = logits.argmax(-1)
        wanted.append(token)
    assert np.array_equal(found, wanted)


def test_the_context_has_an_end() -> None:
    ids, llama = np.ones((1, CONTEXT + 1), np.int64), model("llama")
    _, full = llama.prefill(ids[:, 1:])
    for more in (
        lambda: llama.prefill(ids),
        lambda: llama.forward(ids),
        lambda: llama.decode(ids[:, 0], full),
        lambda: llama.generate(ids[:, :80], 12),
        lambda: llama.decode(ids[:, 0], State({**full.arrays, POSITION: np.array([-1])})),
    ):
        with pytest.raises(MmcError, match=f"do not fit in the context of {CONTEXT}"):
            more()
    assert llama.generate(ids[:, :80], 11).shape[1] <= 11


def test_a_dense_model_is_not_matmul_free() -> None:
    with pytest.raises(MmcError, match=r"17 MatMuls are left:\n  model\.layers\.0\.self_attn\.q"):
        mmc.compile(MODELS / "llama", require_matmul_free=True, out="/nonexistent/x")


def test_a_context_without_caches() -> None:
    with pytest.raises(MmcError, match="--context: the model has no caches"):
        mmc.compile(torch.nn.ReLU(), (torch.ones(2),), context=9, out="/nonexistent/x")


def test_a_context_that_the_model_does_not_have() -> None:
    with pytest.raises(MmcError, match="a context of 97 is more than the model's 96"):
        mmc.compile(MODELS / "llama", context=97, out="/nonexistent/x")
