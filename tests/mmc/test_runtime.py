"""Running a language model from Python: what is refused, sampling, streaming, stopping."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import mmc
from mmc.errors import MmcError
from mmc.sampling import Sampler
from mmc.targets.base import Meter
from tests.end_to_end.compiled import artifact, model, token_ids

PROMPT = "Search backward in the history"


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (np.array([[0, 17]]), "17 is not in the vocabulary of 17"),
        (np.array([[-1, 3]]), "-1 is not in the vocabulary"),
        (np.array([[0.0, 1.0]]), "integers"),
        (np.array([[True, False]]), "integers"),
        (np.array([1, 2]), r"\[B, T\]"),
        (np.zeros((1, 2, 3), np.int64), r"\[B, T\]"),
        (np.zeros((1, 0), np.int64), "no tokens"),
        (np.zeros((0, 3), np.int64), "no tokens"),
        ([], r"\[B, T\]"),
        ([[1], [2, 3]], ""),
    ],
)
@pytest.mark.parametrize("entry", ["forward", "prefill", "generate"])
def test_wrong_ids_are_refused(ids: Any, message: str, entry: str) -> None:
    with pytest.raises(MmcError, match=message or None):
        getattr(model("tiny"), entry)(ids)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32, np.uint64, np.int64])
def test_any_integers_will_do(dtype: type[np.generic]) -> None:
    ids = token_ids(17, 2, 5)
    found = model("tiny").forward(ids.astype(dtype))
    assert np.array_equal(found, model("tiny").forward(ids))


def test_ids_need_not_be_contiguous() -> None:
    ids = token_ids(17, 5, 2).T
    found = model("tiny").forward(ids)
    assert np.array_equal(found, model("tiny").forward(np.ascontiguousarray(ids)))


@pytest.mark.parametrize("lengths", [[0, 3], [1, 6], [-1, 2], [1], [1, 2, 3], [[1, 2]], [1.5, 2.0]])
def test_wrong_lengths_are_refused(lengths: Any) -> None:
    with pytest.raises(MmcError, match="lengths"):
        model("tiny").prefill(token_ids(17, 2, 5), lengths)


def test_state_of_another_batch_is_refused() -> None:
    tiny = model("tiny")
    with pytest.raises(MmcError, match="2 sequences"):
        tiny.decode(np.array([1, 2]), tiny.empty_state(3))
    with pytest.raises(MmcError):
        tiny.decode(np.array([1, 2]), model("shared_conv").empty_state(2))
    with pytest.raises(MmcError):
        tiny.decode(np.array([1, 2]), mmc.State({}))


def test_decode_takes_one_token_a_sequence() -> None:
    with pytest.raises(MmcError, match="one token"):
        model("tiny").decode(np.array([[1, 2]]), model("tiny").empty_state(1))


def test_states_are_not_written_to() -> None:
    """A state can be kept and gone on from twice."""
    tiny = model("tiny")
    _, state = tiny.prefill(token_ids(17, 2, 5))
    kept = {name: array.copy() for name, array in state.arrays.items()}
    first, _ = tiny.decode(np.array([1, 2]), state)
    again, _ = tiny.decode(np.array([1, 2]), state)
    assert np.array_equal(first, again)
    assert all(np.array_equal(state.arrays[name], kept[name]) for name in kept)
    assert state.bytes == sum(array.nbytes for array in kept.values())


def test_torch_in_torch_out() -> None:
    tiny, ids = model("tiny"), token_ids(17, 2, 5)
    logits, state = tiny.prefill(torch.from_numpy(ids))
    assert isinstance(logits, torch.Tensor)
    assert isinstance(tiny.decode(torch.tensor([1, 2]), state)[0], torch.Tensor)
    assert isinstance(tiny.generate(torch.from_numpy(ids), 2), torch.Tensor)
    assert np.array_equal(logits.numpy(), tiny.prefill(ids)[0])


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": -0.1},
        {"temperature": float("nan")},
        {"temperature": float("inf")},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"top_p": float("nan")},
        {"max_new_tokens": 0},
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(MmcError, match=next(iter(options))):
        model("tiny").generate(token_ids(17, 1, 3), **options)


def test_same_seed_same_tokens() -> None:
    def drawn(seed: int) -> list[int]:
        made = model("tied").generate(token_ids(257, 1, 3), 12, temperature=2.0, seed=seed)
        return made[0].tolist()

    assert drawn(1) == drawn(1)
    assert len({tuple(drawn(seed)) for seed in range(5)}) == 5


LOGITS = np.log(np.array([[0.5, 0.3, 0.15, 0.05]]))


@pytest.mark.parametrize(
    ("top_p", "kept"),
    [(1e-9, {0}), (0.49, {0}), (0.5, {0}), (0.51, {0, 1}), (0.79, {0, 1}), (1.0, {0, 1, 2, 3})],
)
def test_top_p_keeps_the_smallest_set_that_reaches_it(top_p: float, kept: set[int]) -> None:
    sampler = Sampler(1.0, top_p, seed=3)
    assert {int(sampler(LOGITS)[0]) for _ in range(400)} == kept


def test_sampling_follows_the_probabilities() -> None:
    sampler = Sampler(1.0, 1.0, seed=5)
    drawn = np.bincount([int(sampler(LOGITS)[0]) for _ in range(4000)], minlength=4) / 4000
    assert np.abs(drawn - [0.5, 0.3, 0.15, 0.05]).max() < 0.03


def test_tiny_temperature_is_greedy() -> None:
    logits = np.array([[1e4, -1e4, 9e3]], np.float32)
    assert Sampler(1e-6, 1.0)(logits)[0] == Sampler()(logits)[0] == 0


def test_stream_is_the_whole() -> None:
    example = model("example")
    pieces = list(example.generate(PROMPT, 24, stream=True))
    assert len(pieces) > 1
    assert "".join(pieces) == example.generate(PROMPT, 24)


def test_stream_of_ids_is_the_whole() -> None:
    ids = token_ids(17, 2, 3)
    steps = list(model("tiny").generate(ids, 6, stream=True))
    whole = model("tiny").generate(ids, 6)
    assert np.array_equal(np.stack(steps, 1), whole[:, : len(steps)])


def test_batch_is_each_row_alone() -> None:
    ids = token_ids(257, 3, 4)
    together = model("tied").generate(ids, 8)
    for row in range(3):
        alone = model("tied").generate(ids[row : row + 1], 8)[0]
        assert np.array_equal(together[row, : len(alone)], alone)


def test_generation_is_the_likeliest_token_each_time() -> None:
    tiny, ids = model("tied"), token_ids(257, 1, 4)
    for token in tiny.generate(ids, 5)[0]:
        assert int(tiny.forward(ids)[0, -1].argmax()) == int(token)
        ids = np.append(ids, [[token]], 1)


class Scripted:
    """Stands for the executable: row b of the batch says its tokens one after the other."""

    def __init__(self, scripts: Sequence[Sequence[int]], vocabulary: int) -> None:
        self._steps: Iterator[Sequence[int]] = iter(list(zip(*scripts, strict=True)))
        self._vocabulary = vocabulary

    def run(self, entry: str, inputs: Any) -> dict[str, np.ndarray]:
        tokens = next(self._steps)
        logits = np.zeros((len(tokens), 1, self._vocabulary), np.float32)
        logits[np.arange(len(tokens)), 0, list(tokens)] = 1
        return {**inputs, "logits": logits}

    def use_threads(self, count: int) -> None:
        """It has none."""

    def meter(self) -> Meter:
        return Meter()


def scripted(name: str, *scripts: Sequence[int]) -> mmc.Model:
    base = model(name)
    return mmc.Model(base.artifact, Scripted(scripts, base.vocab_size))


def test_end_of_text_ends_a_row_and_fills_it() -> None:
    made = scripted("tiny", [3, 16, 5, 6], [1, 2, 16, 4]).generate(token_ids(17, 2, 2), 9)
    assert made.tolist() == [[3, 16, 16], [1, 2, 16]]


class Ahead(Scripted):
    """One that continues by itself, ahead of what is asked for."""

    asked = 0

    def greedy(self, entry: str, inputs: Any, count: int) -> Iterator[np.ndarray]:
        self.asked += 1
        assert inputs["ids"].shape == (len(inputs["lengths"]), 1)
        return iter([np.array(tokens) for tokens in list(self._steps)[:count]])


@pytest.mark.parametrize(
    ("scripts", "wanted"),
    [
        (([3, 16, 5, 6], [1, 2, 16, 4]), [[3, 16, 16], [1, 2, 16]]),
        (([3, 4, 5, 6], [1, 2, 3, 4]), [[3, 4, 5], [1, 2, 3]]),
    ],
)
def test_a_target_that_continues_by_itself_is_let_do_so(
    scripts: Sequence[Sequence[int]], wanted: Sequence[Sequence[int]]
) -> None:
    base, ids = model("tiny"), token_ids(17, 2, 2)
    ahead = Ahead(scripts, base.vocab_size)
    assert mmc.Model(base.artifact, ahead).generate(ids, 3).tolist() == wanted
    assert ahead.asked == 1
    sampled = Ahead(scripts, base.vocab_size)
    mmc.Model(base.artifact, sampled).generate(ids, 3, temperature=1.0)
    assert sampled.asked == 0


def test_greedy_goes_on_from_a_token_and_a_state() -> None:
    tiny, ids = model("tied"), token_ids(257, 2, 4)
    logits, state = tiny.prefill(ids)
    wanted = tiny.generate(ids, 6)
    found = list(tiny.greedy(torch.from_numpy(logits.argmax(-1)), state, 5))
    assert all(isinstance(token, torch.Tensor) for token in found)
    assert np.array_equal(np.stack(found, 1), wanted[:, 1:])
    assert list(tiny.greedy(logits.argmax(-1), state, 0)) == []
    ahead = mmc.Model(tiny.artifact, Ahead([[1], [1]], 257))
    for wrong, why in ((np.array([1, 257]), "vocabulary"), (np.array([1]), "1 sequences")):
        with pytest.raises(MmcError, match=why):
            list(ahead.greedy(wrong, state, 1))


def test_a_cpu_has_no_stream() -> None:
    with pytest.raises(MmcError, match="stream"):
        model("tiny").on_stream(0)


def test_end_of_text_is_not_shown() -> None:
    example = model("example")
    (eos,) = example.eos_token_ids
    said = example.encode("page")
    assert scripted("example", [*said, eos, 7]).generate("x", 9) == "page"


@pytest.mark.parametrize("text", ["naïve", "漢字", "a🙂b", "🙂🙂"])
def test_characters_are_streamed_whole(text: str) -> None:
    """A character may take several byte-level tokens; none comes out in halves."""
    example = model("example")
    ids = example.encode(text)
    assert len(ids) > len(text) - text.isascii() or len(ids) > 1
    pieces = list(scripted("example", ids).generate("x", len(ids), stream=True))
    assert "".join(pieces) == text
    assert not any("\ufffd" in piece for piece in pieces)


def test_half_a_character_at_the_end_is_shown_as_such() -> None:
    example = model("example")
    ids = example.encode("a🙂")[:-1]
    text = scripted("example", ids).generate("x", len(ids))
    assert text.startswith("a")
    assert text.endswith("\ufffd")


def test_prompt_without_tokens_is_refused() -> None:
    with pytest.raises(MmcError, match="no tokens"):
        model("example").generate("")


def test_model_without_tokenizer_says_so() -> None:
    with pytest.raises(MmcError, match=r"no tokenizer.json.*pass token ids"):
        model("tiny").generate("text")


def test_artefact_can_be_moved(tmp_path: Path) -> None:
    moved = mmc.load(shutil.copytree(artifact("tiny"), tmp_path / "moved"))
    ids = token_ids(17, 1, 4)
    assert isinstance(moved, mmc.Model)
    assert np.array_equal(moved.forward(ids), model("tiny").forward(ids))


@pytest.mark.parametrize(
    ("name", "value"),
    [("MMC_CPU_ISA", "z80"), ("MMC_NUM_THREADS", "many"), ("MMC_NUM_THREADS", "0"),
     ("MMC_NUM_THREADS", "100000")],
)  # fmt: skip
def test_wrong_environment_is_named(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = artifact("tiny")
    monkeypatch.setenv(name, value)
    with pytest.raises(MmcError, match=value):
        mmc.load(folder)
