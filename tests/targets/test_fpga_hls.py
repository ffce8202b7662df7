"""The HLS library alone: each header, every code with every input, sums at the ends of their width.

Each check runs on native types, and on the ap types of Vitis where hls4ml brings them: those wrap
at their width, so a number that left it would be seen.
"""

from __future__ import annotations

import ctypes
import itertools
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmc.errors import MmcError
from mmc.ir.evaluate import evaluate
from mmc.ir.fixed_point import round_shift, saturate, sigmoid
from mmc.ir.graph import graph_of
from mmc.ir.ops.fixed import FixedNormalize, FixedQuantize
from mmc.ir.ops.source import Input
from mmc.ir.types import DType, TensorType
from mmc.targets.fpga.codec import CODECS
from mmc.targets.fpga.engine import Engine
from mmc.targets.fpga.executable import compile_cpp
from mmc.targets.fpga.project import copy_library
from mmc.targets.fpga.steps import NATIVE, ap_types

CHECKS = Path(__file__).with_name("fpga_checks.cpp")
COLUMNS = {"5b3t": 24, "8b5t": 20, "2b1t": 16}
MOST_COLUMNS = (1 << 23) // 127
pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")


@pytest.fixture(scope="module")
def library_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hls")
    copy_library(folder)
    return folder


@pytest.fixture(scope="module", params=["native", "ap"])
def checks(request: pytest.FixtureRequest, library_folder: Path) -> Any:
    flags = (*NATIVE, "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror")
    if request.param == "ap":
        try:
            flags = (
                *NATIVE[:1],
                "-O1",
                "-w",
                "-shared",
                "-fPIC",
                "-DMMC_AP_TYPES",
                f"-I{ap_types()}",
            )
        except MmcError as missing:
            pytest.skip(str(missing))
    out = library_folder / f"checks-{request.param}.so"
    compile_cpp(library_folder, [CHECKS], out, flags)
    library: Any = ctypes.CDLL(str(out))
    library.wrong_sums_of_three.restype = ctypes.c_long
    library.native = request.param == "native"
    return library


def pointer(array: np.ndarray) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


def headers() -> list[str]:
    import mmc.targets.fpga as package

    folder = Path(package.__path__[0]) / "hls" / "include" / "mmc"
    return sorted(path.name for path in folder.glob("*.hpp"))


@pytest.mark.parametrize("header", headers())
def test_every_header_compiles_alone(header: str, library_folder: Path) -> None:
    command = [
        "g++", "-std=c++17", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas", "-fsyntax-only",
        "-x", "c++", f"-I{library_folder / 'include'}", "-",
    ]  # fmt: skip
    source = f'#include "mmc/{header}"\n'
    done = subprocess.run(command, input=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# Codes: all of them.


@pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)
def test_every_code_is_packed_and_taken_apart(codec: Any) -> None:
    weights = np.array(list(itertools.product((-1, 0, 1), repeat=codec.trits)), np.int8)
    codes = codec.encode(weights)
    assert len(set(codes.tolist())) == 3**codec.trits
    assert codes.max() < 1 << codec.bits
    assert np.array_equal(codec.decode(codes), weights)


def test_every_code_of_three_with_every_input(checks: Any) -> None:
    """27 codes, 255^3 inputs each: 448 million sums (native types; ap ones take minutes)."""
    if not checks.native:
        pytest.skip("the same tables, on the extremes below")
    assert checks.wrong_sums_of_three() == 0


def test_every_code_of_five_with_every_input(checks: Any) -> None:
    """A code's sum is one of three inputs plus one of two: each input alone, and all extremes."""
    codec = CODECS["8b5t"]
    weights = np.array(list(itertools.product((-1, 0, 1), repeat=5)), np.int8)
    values = range(-127, 128) if checks.native else (-127, -1, 1, 127)
    alone = [x * np.eye(5, dtype=np.int8)[k] for k in range(5) for x in values]
    ends = [np.array(x, np.int8) for x in itertools.product((-127, 127), repeat=5)]
    for code, trits in zip(codec.encode(weights).tolist(), weights, strict=True):
        for x in (*alone, *ends):
            assert checks.sum_of_five(code, pointer(x)) == int(trits.astype(int) @ x)


# The engine.


def product(checks: Any, codec: str, weights: np.ndarray, q: np.ndarray) -> np.ndarray:
    groups = COLUMNS[codec] // CODECS[codec].trits
    ports = -(-4 * groups * CODECS[codec].bits // 128)
    beats = Engine(4, COLUMNS[codec], codec, 1, 128, ports).pack(weights)
    sums = np.empty(len(weights), np.int32)
    rows, columns = weights.shape
    run = getattr(checks, f"matvec_{codec}")
    run(pointer(beats), len(beats), pointer(q), rows, columns, pointer(sums))
    return sums


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("shape", [(1, 1), (4, 24), (5, 25), (37, 101), (64, 240)])
def test_products_are_exact(checks: Any, codec: str, shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(sum(shape))
    weights = rng.integers(-1, 2, shape).astype(np.int8)
    q = rng.integers(-127, 128, shape[1]).astype(np.int8)
    assert np.array_equal(product(checks, codec, weights, q), weights.astype(int) @ q.astype(int))


@pytest.mark.parametrize("codec", CODECS)
def test_largest_sums_fit_their_24_bits(checks: Any, codec: str) -> None:
    """As many columns as there may be, all codes 127: the bound 127 * K < 2^23 is reached."""
    weights = np.stack([np.ones(MOST_COLUMNS), -np.ones(MOST_COLUMNS)]).astype(np.int8)
    q = np.full(MOST_COLUMNS, 127, np.int8)
    largest = 127 * MOST_COLUMNS
    assert largest < 1 << 23 <= largest + 127
    assert product(checks, codec, weights, q).tolist() == [largest, -largest]


@pytest.mark.parametrize("codec", CODECS)
def test_beats_hold_the_weights(codec: str) -> None:
    weights = np.random.default_rng(0).integers(-1, 2, (37, 101)).astype(np.int8)
    engine = Engine(4, COLUMNS[codec], codec, 1, 64, 4)
    beats = engine.pack(weights)
    assert beats.shape == (engine.beats(37, 101), 32)
    assert np.array_equal(engine.unpack(beats, 37, 101), weights)


# Norms, gates, scales.


def interpreted(x: np.ndarray, inner: np.ndarray | None, outer: np.ndarray) -> list[np.ndarray]:
    names = {"x": (x, DType.I32), "inner": (inner, DType.I16), "outer": (outer, DType.I16)}
    arrays = {name: array for name, (array, _) in names.items() if array is not None}
    given = {n: Input(n, TensorType(names[n][1], a.shape)) for n, a in arrays.items()}
    n, r, e = FixedNormalize(given["x"], given.get("inner"), 40000, 9).results
    q, m, s = FixedQuantize(n, given["outer"], r, e).results
    graph = graph_of("g", {"q": q, "r": r, "e": e, "m": m, "s": s}, list(given.values()))
    return list(evaluate(graph, arrays).values())


def test_norms_and_codes_are_the_interpreters(checks: Any) -> None:
    rng = np.random.default_rng(4)
    largest = (1 << 26) - 1
    for size in (0, 1, 5, 1000, 1 << 20, largest):
        x = rng.integers(-size, size + 1, 64).astype(np.int32)
        x[:2] = size, -size
        inner = rng.integers(-32767, 32768, 64).astype(np.int16)
        outer = rng.integers(-32767, 32768, 64).astype(np.int16)
        inner[0] = outer[0] = 32767
        for gain in (None, inner):
            q, out = np.empty(64, np.int8), np.empty(4, np.int32)
            first = None if gain is None else pointer(gain)
            checks.norm_and_codes(
                pointer(x), first, pointer(outer), 64, 40000, 9, pointer(q), pointer(out)
            )
            expected = interpreted(x, gain, outer)
            assert np.array_equal(q, expected[0])
            assert out.tolist() == [int(a[0]) for a in expected[1:]]


def test_sigmoid_is_the_interpreters(checks: Any) -> None:
    numbers = np.unique(np.r_[np.arange(-(1 << 17) + 1, 1 << 17, 997), -1, 0, 1, (1 << 17) - 1])
    for fraction in (4, 8, 13):
        found = [checks.sigmoid(int(x), fraction) for x in numbers]
        assert found == sigmoid(numbers.astype(np.int64), fraction).tolist()


@pytest.mark.parametrize("bits", [18, 27])
def test_rescaling_is_the_interpreters_at_the_ends(checks: Any, bits: int) -> None:
    ends = [-(1 << 23) + 1, -12345, -1, 0, 1, 12345, (1 << 23) - 1]
    for value, m, e in itertools.product(ends, (1 << 15, 65535), (1, 2, 15, 39, 47, 60)):
        wanted = saturate(round_shift(np.array(value * m, np.int64), min(e, 47)), bits)
        assert checks.rescale(value, m, e, bits == 27) == int(wanted)


def test_state_at_the_ends_of_its_range(checks: Any) -> None:
    """The largest state, the largest input, every kind of gate: the state stays within 27 bits."""
    top = (1 << 17) - 1
    for forget, sign in itertools.product((0, 1, 32768, 65535), (1, -1)):
        c = int(round_shift(sigmoid(np.array([sign * top], np.int64), 4) * sign * top, 16)[0])
        state = sign * (top << 9)
        wanted = round_shift(np.array(forget * state + (65536 - forget) * (c << 9)), 16)
        assert checks.state_step(sign * top, forget, state, 4) == int(wanted)


def test_residual_saturates(checks: Any) -> None:
    stream = np.array([(1 << 26) - 2, -(1 << 26) + 2, 5], np.int32)
    checks.add_residual(pointer(np.array([9, -9, 3], np.int32)), pointer(stream), 3)
    assert stream.tolist() == [(1 << 26) - 1, -(1 << 26) + 1, 29]


def test_head_takes_the_first_of_equal_sums(checks: Any) -> None:
    sums = np.array([3, 9, -8388607, 9, 12, 3, 9], np.int32)
    tokens = np.empty(3, np.int32)
    checks.top_three(pointer(sums), len(sums), pointer(tokens))
    assert tokens.tolist() == [4, 1, 3]
