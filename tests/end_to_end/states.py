"""What every model's state is held to: a text decoded token by token is the text read at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

import mmc
from mmc.runtime import State


def states_are_equal(found: State, wanted: State) -> None:
    assert found.arrays.keys() == wanted.arrays.keys()
    for name, array in wanted.arrays.items():
        assert np.array_equal(found.arrays[name], array), name


def decoded(loaded: mmc.Model, ids: np.ndarray) -> tuple[np.ndarray, State]:
    """Logits [B, T, V] and the state, one token at a time."""
    state = loaded.empty_state(len(ids))
    logits: list[np.ndarray] = []
    for t in range(ids.shape[1]):
        made, state = loaded.decode(ids[:, t], state)
        logits.append(made)
    return np.stack(logits, 1), state


def decode_is_prefill(loaded: mmc.Model, ids: np.ndarray, lengths: Sequence[int]) -> State:
    """Of padded prompts too: each has the logits and the state that it has alone."""
    logits, state = loaded.prefill(ids, lengths)
    for row, count in enumerate(lengths):
        made, alone = decoded(loaded, ids[row : row + 1, :count])
        assert np.array_equal(made[0, -1], logits[row])
        cut = State({k: np.asarray(x)[row : row + 1] for k, x in state.arrays.items()})
        states_are_equal(alone, cut)
    return state


def pieces_are_the_prompt(
    loaded: mmc.Model, ids: np.ndarray, lengths: Sequence[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten tokens of all prompts at a time."""
    whole, state = loaded.prefill(ids, lengths)
    monkeypatch.setattr(loaded, "_prompt_rows", 10)
    pieces, made = loaded.prefill(ids, lengths)
    assert np.array_equal(whole, pieces)
    states_are_equal(made, state)
