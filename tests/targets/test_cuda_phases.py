"""A token as one launch: where a row's program is cut, and what the blocks are told."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from mmc.ir.evaluate import evaluate
from mmc.ir.graph import Graph, graph_of
from mmc.ir.op import Value, producer
from mmc.ir.ops.norm import RmsNorm
from mmc.ir.ops.pointwise import Add, Mul, Sigmoid, Silu
from mmc.ir.ops.recurrence import Kernel
from mmc.ir.ops.shape import Slice
from mmc.ir.ops.source import Input, Weight
from mmc.ir.ops.ternary import AbsMax, Dequantize, Quantize, TernaryMatmul
from mmc.ir.types import Dim, DType, TensorType, symbol
from mmc.targets.cuda import phases, planner
from mmc.targets.cuda.build import generate
from mmc.targets.cuda.code import HELPERS
from mmc.targets.cuda.compiler import compile_source
from mmc.targets.cuda.epilogue import Epilogue, split
from mmc.targets.cuda.phases import WORDS, Kind, Phases
from mmc.targets.cuda.tuning import Tuning
from mmc.targets.cuda.work import BLOCKS
from mmc.targets.tvm.plan import Plan
from mmc.targets.tvm.primitives import primitive_outputs
from tests.gpu.prepared import chain_graph

ROWS = symbol("rows")
F32, I32 = DType.F32, DType.I32
ABSMAX = AbsMax(127.0, -128, 127, 1e-5)


def row(name: str, columns: int, dtype: DType = F32) -> Input:
    return Input(name, TensorType(dtype, (ROWS, columns)))


# Where a row's program is cut --------------------------------------------------------------------


def glu(columns: int = 32) -> tuple[tuple[Input, ...], Value]:
    """A gate and what it lets through, from sums that lie behind one another."""
    sums, scale = row("sums", 2 * columns, I32), row("scale", 1)
    x = Dequantize(sums, scale, None)
    gate, up = (Slice(x, -1, i * columns, columns, 1) for i in range(2))
    return (sums, scale), Mul(Silu(gate), up)


def cut(inputs: Sequence[Input], *outputs: Value) -> Epilogue | None:
    """The program of a row, in primitive operations, split behind its first input."""
    graph = graph_of("row", {f"y{i}": value for i, value in enumerate(outputs)}, inputs)
    return split(graph.inputs, primitive_outputs(graph), [inputs[0]])


def test_columns_that_belong_together_are_parts() -> None:
    inputs, product = glu()
    for outputs in ((product,), (RmsNorm(product, None, 1e-6),), Quantize(product, ABSMAX).results):
        found = cut(inputs, *outputs)
        assert found is not None
        assert [part.start for part in found.parts] == [0, 32]
        assert [producer(value).mnemonic for value in found.cut] == ["mul"]


def test_an_epilogue_is_the_program_on_its_columns() -> None:
    inputs, product = glu()
    found = cut(inputs, product)
    assert found is not None
    random = np.random.default_rng(1)
    sums = random.integers(-99, 99, (1, 64), np.int32)
    scale = np.full((1, 1), 0.01, np.float32)
    parts = {part.value.name: sums[:, part.start : part.start + 32] for part in found.parts}
    made = evaluate(graph_of("epilogue", {"y": found.made[0]}), {**parts, "scale": scale})
    wanted = evaluate(graph_of("row", {"y": product}), {"sums": sums, "scale": scale})
    np.testing.assert_array_equal(made["y"], wanted["y"])


@pytest.mark.parametrize("columns", [24, 8])
def test_parts_are_whole_tiles(columns: int) -> None:
    inputs, product = glu(columns)
    assert cut(inputs, product) is None


def test_sums_that_no_part_covers_are_left_to_launches() -> None:
    sums, scale = row("sums", 64, I32), row("scale", 1)
    half = Slice(Dequantize(sums, scale, None), -1, 0, 32, 1)
    assert cut((sums, scale), half) is None


def test_what_is_soonest_made_comes_first() -> None:
    sums, scale, state = row("sums", 32, I32), row("scale", 1), row("state", 32)
    x = Dequantize(sums, scale, None)
    found = cut((sums, scale, state), Add(Sigmoid(x), state), x)
    assert found is not None
    assert [producer(value).mnemonic for value in found.cut] == ["mul", "add"]


# Phases of a graph -------------------------------------------------------------------------------


def layers(count: int, width: int = 64, rows: Dim = ROWS) -> Graph:
    """Residual layers of quantiser and matrix, as kernels; the last one only dequantises."""
    x: Value = Input("x", TensorType(F32, (rows, width)))
    sums: Value | None = None
    scale: Value | None = None
    for i in range(count + 1):
        given, body = _row_kernel(x, sums, scale, last=i == count)
        made = Kernel(given, body).results
        x = made[0]
        if i == count:
            return graph_of("layers", {"y": x})
        q, scale = made[1], made[2]
        w = Weight(f"w{i}", TensorType(DType.packed("2bit"), (width, width)))
        q_in, w_in = Input("q", q.type), Input("w", w.type)
        body = graph_of("ternary_matmul", {"acc": TernaryMatmul(q_in, w_in)})
        sums = Kernel((q, w), body).results[0]
    raise AssertionError


def _row_kernel(
    x: Value, sums: Value | None, scale: Value | None, *, last: bool
) -> tuple[tuple[Value, ...], Graph]:
    given: tuple[Value, ...] = (x,)
    inputs = [Input("x", x.type)]
    y: Value = inputs[0]
    if sums is not None and scale is not None:
        given = (x, sums, scale)
        inputs += [Input("sums", sums.type), Input("scale", scale.type)]
        y = Add(y, Dequantize(inputs[1], inputs[2], None))
    outputs = {"y": y}
    if not last:
        q, s = Quantize(y, ABSMAX).results
        outputs |= {"q": q, "s": s}
    return given, graph_of("row", outputs, inputs)


@cache
def found(count: int) -> Phases:
    made = planner.phases_of(Plan(layers(count)))
    assert made is not None
    return made


def test_layers_share_their_kinds() -> None:
    assert len(found(6).phases) == 6
    assert [number for number, _ in found(6).phases] == [0, 1, 1, 1, 1, 2]


def test_every_phase_has_its_words() -> None:
    words = found(6).words()
    assert {len(each) for each in words} == {WORDS}
    assert [each[0] for each in words] == [number for number, _ in found(6).phases]


def test_what_one_block_makes_has_a_place_of_its_own() -> None:
    made = [
        word for _, given in found(6).phases for name, word in given.items()
        if name.startswith(("cut_of_next_", "made_"))
    ]  # fmt: skip
    assert len(set(made)) == len(made)
    read = {
        word for _, given in found(6).phases for name, word in given.items()
        if name.startswith(("cut_", "next_")) and isinstance(word, int)
    }  # fmt: skip
    assert read == set(made)
    assert found(6).floats == 64 * len(made)


@pytest.mark.parametrize(("rows", "phases"), [(1, True), (3, False), (ROWS, True)])
def test_phases_are_for_one_row(rows: Dim, phases: bool) -> None:
    assert (planner.phases_of(Plan(layers(2, rows=rows))) is not None) == phases


def test_phases_of_any_graph_compile() -> None:
    made = generate({"layers": Plan(layers(3))}, "sm_90a", Tuning())
    one = made.launches["layers"].persistent
    assert one is not None
    assert f"{one.kernel}_kernel\0".encode() in compile_source(made.text, "sm_90a")


def test_one_kernel_alone_takes_launches() -> None:
    q, w = row("q", 64, DType.I8), Weight("w", TensorType(DType.packed("2bit"), (64, 64)))
    q_in, w_in = Input("q", q.type), Input("w", w.type)
    body = graph_of("ternary_matmul", {"acc": TernaryMatmul(q_in, w_in)})
    graph = graph_of("product", {"acc": Kernel((q, w), body).results[0]})
    assert planner.phases_of(Plan(graph)) is None


# Weights in the ring -----------------------------------------------------------------------------


def kinds_of(*widths: int) -> Sequence[Kind]:
    made = planner.phases_of(Plan(chain_graph("chain", widths)[0]))
    assert made is not None
    return made.kinds


SHAPES = [(64, 6352), (4096, 6352), (13_040, 32), (2048, 48), (5120, 27_648), (16, 16 * 2345)]


@pytest.mark.parametrize("shape", SHAPES)
def test_every_tile_of_a_block_is_in_one_chunk(shape: tuple[int, int]) -> None:
    (kind,) = kinds_of(*shape)
    begins = range(0, kind.block_tiles, kind.chunk_tiles)  # as persistent.cuh asks for them
    assert len(begins) == kind.chunks
    assert kind.per_block * BLOCKS >= kind.tiles > (kind.per_block - 1) * BLOCKS


@pytest.mark.parametrize("shape", SHAPES)
def test_a_chunk_is_small_unless_a_tile_is_large(shape: tuple[int, int]) -> None:
    (kind,) = kinds_of(*shape)
    assert kind.chunk_bytes <= max(phases.MOST_AT_ONCE, kind.tile_bytes)
    assert kind.chunk_bytes == min(kind.chunk_tiles, kind.block_tiles) * kind.tile_bytes
    assert kind.chunk_tiles % (phases.WARPS // kind.split) == 0


def test_a_tile_that_does_not_fit_takes_launches() -> None:
    made = generate({"chain": Plan(chain_graph("chain", (60_000, 32))[0])}, "sm_90a", Tuning())
    assert made.launches["chain"].persistent is None


def test_the_device_counts_alike() -> None:
    folder = Path(phases.__file__).parent
    source = "".join((folder / f"{name}.cuh").read_text() for name in ("tile", "supply"))
    constants = {name: int(n) for name, n in re.findall(r"(k\w+) = (\d+)", source)}
    counted = [constants[name] for name in ("kTold", "kChunks", "kWords")]
    assert counted == [phases.TOLD, phases.CHUNKS, WORDS]
    (names,) = re.findall(r"enum Word \{(.*?)\};", source, re.DOTALL)
    listed = [name.split("=")[0].strip() for name in names.split(",")]
    assert listed.index("kWeights") + phases.PARTS + phases.GAINS == phases.HEAD
    assert constants["kWarps"] == phases.WARPS
    size = f"static_assert(sizeof(mmc::Supply) == {phases.SUPPLY_BYTES});"
    compile_source(HELPERS + size, "sm_90a")
