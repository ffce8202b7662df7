"""Tensors of torch on the GPU: they stay there, and run on torch's stream."""

from __future__ import annotations

from typing import Any, NoReturn

import numpy as np
import pytest
import torch

import mmc
from mmc.errors import MmcError
from mmc.targets.cuda.driver import Memory
from tests.end_to_end.compiled import token_ids
from tests.gpu.test_cuda import model, rows_executable, same
from tests.targets.row_cases import arrays_for

pytestmark = pytest.mark.gpu

WHILE = 50_000_000
"""Cycles that a stream is kept busy: some 30 ms."""


def sleep() -> None:
    """Keep torch's current stream busy."""
    torch.cuda._sleep(WHILE)  # pyright: ignore[reportPrivateUsage]


def on_gpu(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(array).to("cuda")


def start(batch: int) -> tuple[np.ndarray, mmc.State]:
    ids = token_ids(model().vocab_size, batch, 9)
    return ids, model().prefill(ids)[1]


def test_states_are_seen_where_they_lie() -> None:
    _, state = start(2)
    for array in state.arrays.values():
        given: Any = array
        tensor = torch.from_dlpack(given)
        assert tensor.is_cuda
        assert tensor.data_ptr() == given.address
        np.testing.assert_array_equal(tensor.cpu().numpy(), np.asarray(array))


def test_a_capsule_that_nobody_reads_gives_the_memory_back() -> None:
    from mmc.targets.cuda import dlpack

    _, state = start(1)
    given: Any = next(iter(state.arrays.values()))
    lent = dlpack._lent  # pyright: ignore[reportPrivateUsage]
    before = len(lent)
    capsule, tensor = given.__dlpack__(), torch.from_dlpack(given)
    assert len(lent) == before + 2
    del capsule, tensor
    assert len(lent) == before


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
def test_tensors_stay_on_the_gpu(
    batch: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids, state = start(batch)
    wanted = model().prefill(ids)[0], model().decode(ids[:, 0], state)[0], model().forward(ids)
    after = model().decode(ids[:, 0], state)[1]
    given = on_gpu(ids).to(dtype)

    def refuse(*_: object) -> NoReturn:
        raise AssertionError("read back")

    with monkeypatch.context() as patch:
        patch.setattr(Memory, "read", refuse)
        decoded, own = model().decode(given[:, 0], state)
        found = model().prefill(given)[0], decoded, model().forward(given)
    for tensor, array in zip(found, wanted, strict=True):
        assert tensor.is_cuda
        np.testing.assert_array_equal(tensor.cpu().numpy(), array)
    assert same(own, after)
    tokens = list(model().greedy(given[:, 0], state, 5))
    assert all(token.is_cuda for token in tokens)
    assert model().generate(given, 3).is_cuda


def test_states_may_be_tensors() -> None:
    ids, state = start(2)
    wanted, after = model().decode(ids[:, 0], state)
    arrays: dict[str, Any] = {k: torch.from_dlpack(v) for k, v in state.arrays.items()}
    for tensors in (arrays, {k: v.double() for k, v in arrays.items()}):
        logits, own = model().decode(ids[:, 0], mmc.State(tensors))
        np.testing.assert_array_equal(logits, wanted)
        assert same(own, after)


def test_a_call_waits_for_its_inputs_and_readers_for_its_outputs() -> None:
    ids, state = start(1)
    wanted, _ = model().decode(ids[:, 0], state)
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        given = torch.zeros(1, dtype=torch.int64, device="cuda")
        sleep()
        given.copy_(on_gpu(ids[:, 0]))
        logits, _ = model().decode(given, state)
        given.zero_()
        twice = 2 * logits
    side.synchronize()
    np.testing.assert_array_equal(twice.cpu().numpy(), 2 * wanted)


def test_memory_is_not_written_before_its_reader_is_done() -> None:
    ids, state = start(1)
    for _ in range(3):
        _, state = model().decode(ids[:, 0], state)
    given: Any = next(iter(state.arrays.values()))
    wanted = np.asarray(given)
    tensor = torch.from_dlpack(given)
    side = torch.cuda.Stream()
    reading: Any = given.__dlpack__(stream=side.cuda_stream)
    with torch.cuda.stream(side):
        sleep()
        copied = tensor.clone()
    del tensor, reading, given, state
    ids, state = start(1)
    for _ in range(8):
        _, state = model().decode(ids[:, 1], state)
    side.synchronize()
    np.testing.assert_array_equal(copied.cpu().numpy(), wanted)


def test_another_stream_can_be_named() -> None:
    ids, state = start(1)
    wanted, _ = model().decode(ids[:, 0], state)
    with model().on_stream(torch.cuda.Stream().cuda_stream):
        found, _ = model().decode(ids[:, 0], state)
        list(model().greedy(ids[:, 0], state, 20))
    np.testing.assert_array_equal(found, wanted)
    np.testing.assert_array_equal(model().decode(ids[:, 0], state)[0], wanted)


def test_a_capture_by_torch_is_refused() -> None:
    ids, state = start(1)
    given, counted = on_gpu(ids[:, 0]), torch.zeros(1, device="cuda")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        counted += 1
        with pytest.raises(MmcError, match=r"captured.*outside of torch.cuda.graph"):
            model().decode(given, state)
    assert model().decode(given, state)[0].is_cuda


@pytest.mark.parametrize("name", ["glu_64", "residual_250", "embedding_17"])
def test_kernels_take_tensors(name: str) -> None:
    arrays = arrays_for(name, 2, 3)
    plain = {k: x for k, x in arrays.items() if x.dtype.kind in "fi" and x.ndim}
    tensors: Any = {**arrays, **{key: on_gpu(array) for key, array in plain.items()}}
    wanted = rows_executable().run(name, arrays)
    found = rows_executable().run(name, tensors)
    for key, array in wanted.items():
        np.testing.assert_array_equal(np.asarray(found[key]), array)
