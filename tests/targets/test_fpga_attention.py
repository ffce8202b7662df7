"""Attention of the HLS library against the interpreter, on native and on ap types."""

from __future__ import annotations

import ctypes
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmc.errors import MmcError
from mmc.ir.evaluate import evaluate
from mmc.ir.fixed_point import power_of_half, round_shift, sigmoid
from mmc.ir.graph import Graph, graph_of
from mmc.ir.ops.attention import CacheAppend
from mmc.ir.ops.fixed_attention import FixedAttention, FixedNarrow, FixedRotary
from mmc.ir.ops.source import Input
from mmc.ir.types import DType, TensorType
from mmc.targets.fpga.attention import AttentionUnit
from mmc.targets.fpga.boards import load_board
from mmc.targets.fpga.executable import compile_cpp
from mmc.targets.fpga.project import copy_library
from mmc.targets.fpga.steps import NATIVE, ap_types

CHECKS = Path(__file__).with_name("fpga_attention_checks.cpp")
SHAPES = [(6, 2, 8), (2, 2, 16), (1, 1, 2)]
"""Heads, groups, numbers of a head: those of fpga_attention_checks.cpp."""
CONTEXT = 40
LARGEST = (1 << 17) - 1
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")


@pytest.fixture(scope="module", params=["native", "ap"])
def checks(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("hls")
    copy_library(folder)
    flags = (*NATIVE, "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror")
    if request.param == "ap":
        try:
            given = ("-O0", "-w", "-shared", "-fPIC", "-DMMC_AP_TYPES", f"-I{ap_types()}")
        except MmcError as missing:
            pytest.skip(str(missing))
        flags = (*NATIVE[:1], *given)
    compile_cpp(folder, [CHECKS], folder / "checks.so", flags)
    return ctypes.CDLL(str(folder / "checks.so"))


def pointer(array: np.ndarray) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


def step(shape: tuple[int, int, int], constant: tuple[int, int], fraction: int) -> Graph:
    """A token that attends to its position and all before."""
    heads, groups, width = shape

    def given(name: str, dtype: DType, *dims: int) -> Input:
        return Input(name, TensorType(dtype, (1, *dims)))

    position, lengths = (given(n, DType.I64) for n in ("position", "lengths"))
    turn = given("turn", DType.I16, 1, width)
    q = FixedRotary(given("q", DType.I32, 1, heads, width), turn)
    k = FixedRotary(given("k", DType.I32, 1, groups, width), turn)
    caches = [given(n, DType.I16, groups, CONTEXT, width) for n in ("keys", "values")]
    keys = CacheAppend(caches[0], FixedNarrow(k, 2), position, lengths)
    v = FixedNarrow(given("v", DType.I32, 1, groups, width), 2)
    values = CacheAppend(caches[1], v, position, lengths)
    y = FixedAttention(q, keys, values, position, *constant, fraction)
    return graph_of("step", {"keys": keys, "values": values, "y": y})


def arrays(shape: tuple[int, int, int], size: int, seed: int) -> dict[str, np.ndarray]:
    heads, groups, width = shape
    rng = np.random.default_rng(seed)
    angle = rng.uniform(0, 7, width // 2)
    turn = np.rint(np.r_[np.cos(angle), np.sin(angle)] * (1 << 14)).astype(np.int16)
    made = {"turn": turn[None, None]}
    for name, count in (("q", heads), ("k", groups), ("v", groups)):
        made[name] = rng.integers(-size, size + 1, (1, 1, count, width)).astype(np.int32)
    for name in ("keys", "values"):
        cached = rng.integers(-(size >> 2), (size >> 2) + 1, (1, groups, CONTEXT, width))
        made[name] = cached.astype(np.int16)
    return made


@needs_compiler
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", [0, 300, LARGEST])
def test_a_token_is_the_interpreters(checks: Any, shape: tuple[int, int, int], size: int) -> None:
    """Positions from the first to the last, numbers small and large, scores flat and steep."""
    run = getattr(checks, "step_{}_{}_{}".format(*shape))
    cases = [
        (0, (40000, 30), 16),
        (1, (65535, 22), 8),
        (17, (33000, 35), 13),
        (39, (50000, 27), 11),
    ]
    for position, constant, fraction in cases:
        given = arrays(shape, size, position)
        counts = {"position": np.array([position]), "lengths": np.array([1])}
        wanted = evaluate(step(shape, constant, fraction), {**given, **counts})
        y = np.empty(shape[0] * shape[2], np.int32)
        names = ("q", "k", "v", "turn", "keys", "values")
        run(*(pointer(given[n]) for n in names), position, *constant, fraction, pointer(y))
        assert np.array_equal(y, wanted["y"].reshape(-1))
        assert np.array_equal(given["keys"], wanted["keys"])
        assert np.array_equal(given["values"], wanted["values"])


@needs_compiler
@pytest.mark.parametrize("fraction", [8, 12, 16])
def test_powers_are_the_interpreters(checks: Any, fraction: int) -> None:
    x = np.unique(np.r_[np.arange(0, 1 << 20, 4099), 0, 1, 255, 256, 65535, 65536, (1 << 27) - 2])
    found = [checks.power_of_half(int(n), fraction) for n in x]
    assert found == power_of_half(x, fraction).tolist()


@needs_compiler
def test_gates_at_their_ends(checks: Any) -> None:
    """relu(gate)^2 * up keeps 27 bits at the largest numbers; silu(gate) * up as well."""
    for gate in (-LARGEST, -1, 0, 1, 999, LARGEST):
        for up in (-LARGEST, -3, 0, LARGEST):
            square = round_shift(np.array(max(gate, 0) ** 2), 8)
            wanted = int(round_shift(square * up, 17))
            assert abs(wanted) < 1 << 26
            assert checks.gated(gate, up, 1, 0) == wanted
            x = np.array(gate)
            silu = round_shift(x * sigmoid(x, 10), 16)
            assert checks.gated(gate, up, 0, 10) == int(round_shift(silu * up, 9))


@needs_compiler
def test_digits_of_a_dense_head_at_their_ends(checks: Any) -> None:
    """The largest sums that a ternary product has, in six digits."""
    largest = (1 << 31) // (3**6) - 1
    sums = np.array([[largest, -largest, 5, 0, largest]] * 6, np.int32)
    logits = np.empty(5, np.int32)
    assert checks.head_of_digits(pointer(sums), 6, 5, pointer(logits)) == 0
    assert logits.tolist() == [(n * (3**6 - 1)) // 2 for n in sums[0].tolist()]


def test_cycles_and_bytes_follow_the_cache() -> None:
    """Twice the positions: twice the words; a port half as wide: twice the cycles of a word."""
    board = load_board("u280")
    unit = AttentionUnit(8, 4, 64, 1024, 3, 512)
    assert unit.bytes == 3 * 2 * 4 * 1024 * 64 * 2
    assert unit.bytes_of(512) == unit.bytes // 2
    narrow = AttentionUnit(8, 4, 64, 1024, 3, 256)
    assert narrow.bytes == unit.bytes
    word = max(1.0, 64 / (board.bytes_per_second(1) / (board.clock_mhz * 1e6)))
    for known in (1, 100, 1024):
        grown = unit.cycles(known + 10, board) - unit.cycles(known, board)
        assert grown == 3 * 4 * 2 * 10 * int(np.ceil(2 * word))
    assert AttentionUnit(0, 0, 0, 0, 0, 16).cycles(5, board) == 0
