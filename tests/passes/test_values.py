"""The passes that look at numbers: folding, ternary matrices, merging and packing."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from mmc.errors import MmcError
from mmc.ir.evaluate import evaluate
from mmc.ir.graph import Graph, graph_of
from mmc.ir.ops.linear import Linear
from mmc.ir.ops.norm import RmsNorm
from mmc.ir.ops.pointwise import Abs, Add, Cast, Clamp, Detach, Div, Mul, Neg, Round, Sub
from mmc.ir.ops.reduce import Mean
from mmc.ir.ops.shape import Expand, Reshape
from mmc.ir.ops.source import Weight, scalar
from mmc.ir.ops.ternary import AbsMax, Dequantize, ExpandTernary, Quantize, TernaryMatmul
from mmc.ir.packing import unpack
from mmc.ir.tensors import Tensors
from mmc.ir.types import DType, TensorType
from mmc.passes.check import check_pass
from mmc.passes.manager import PassManager, Step
from mmc.passes.registry import parse_pipeline
from mmc.passes.ternary_values import TernaryMatrix, find_ternary
from tests.inputs import B, given

RNG = np.random.default_rng(1)


def normal(*dims: int) -> np.ndarray:
    return RNG.normal(size=dims).astype(np.float32)


def random_trits(n: int, k: int) -> np.ndarray:
    trits = RNG.integers(-1, 2, (n, k)).astype(np.int8)
    trits[:, 0], trits[:, 1], trits[:, 2] = 1, -1, 0
    return trits


def run(pipeline: str, graph: Graph, tensors: Tensors) -> Step:
    """One pass, checked by the interpreter, and stable."""
    [each] = parse_pipeline(pipeline)
    step = PassManager(tensors).run_one(graph, each)
    inputs = {}
    for op in graph.inputs:
        shape = tuple(d for d in op.type.bind({"B": 3}).shape if isinstance(d, int))
        whole = op.type.dtype is DType.I8
        inputs[op.name] = RNG.integers(-9, 9, shape).astype(np.int8) if whole else normal(*shape)
    check = check_pass(pipeline, step.before, step.after, step.mapped, tensors, [inputs])
    assert check.holds, check.failures
    again = PassManager(tensors).run_one(step.after, each)
    assert again.after is step.after
    return step


def ops_of(graph: Graph) -> list[str]:
    return [op.mnemonic for op in graph]


# fold-constants


def test_what_depends_on_weights_alone_folds() -> None:
    tensors = Tensors()
    w = tensors.add("w", TensorType(DType.F32, (2, 8)), normal(2, 8))
    quantised = Mul(Round(Mul(w, scalar(3.0))), scalar(0.5))
    step = run("fold-constants", graph_of("g", {"y": Linear(given("x", B, 8), quantised)}), tensors)
    assert ops_of(step.after) == ["input", "weight", "linear"]
    [folded] = step.after.weights
    assert folded.name == "w.folded"
    np.testing.assert_array_equal(
        tensors["w.folded"], np.rint(tensors["w"] * np.float32(3)) * np.float32(0.5)
    )
    assert step.log.verdicts[0].why == "w: mul and what feeds it fold into a weight"


def test_folding_is_lazy_and_in_the_arithmetic_of_the_graph() -> None:
    tensors = Tensors()
    reads: list[str] = []

    def load() -> np.ndarray:
        reads.append("w")
        return normal(4).astype(ml_dtypes.bfloat16)

    w = tensors.add("w", TensorType(DType.BF16, (4,)), load)
    wide = Neg(Cast(w, DType.F32))
    graph = graph_of("g", {"y": Add(given("x", B, 4), wide)})
    [each] = parse_pipeline("fold-constants")
    PassManager(tensors).run(graph, [each])
    assert reads == []
    assert tensors["w.folded"].dtype == np.float32
    assert reads == ["w"]


def test_what_does_not_fold() -> None:
    """Weights themselves, numbers without a weight, and values of a symbolic shape."""
    tensors = Tensors()
    w = tensors.add("w", TensorType(DType.F32, (4,)), normal(4))
    x = given("x", B, 4)
    number = Mul(scalar(2.0), scalar(3.0))
    wide = Expand(w, (B, 4))
    graph = graph_of("g", {"y": Add(Mul(Add(x, w), number), wide)})
    assert run("fold-constants", graph, tensors).after is graph


def test_a_folded_output_and_two_tops_of_one_weight() -> None:
    tensors = Tensors()
    w = tensors.add("w", TensorType(DType.F32, (4,)), normal(4))
    double = Add(w, w)
    graph = graph_of("g", {"a": Neg(double), "y": Mul(given("x", B, 4), double)})
    step = run("fold-constants", graph, tensors)
    assert ops_of(step.after) == ["input", "weight", "weight", "mul"]
    assert sorted(op.name for op in step.after.weights) == ["w.folded", "w.folded.2"]


# find-ternary-linear


def found(w: np.ndarray) -> TernaryMatrix:
    matrix = find_ternary(w.astype(np.float32))
    assert isinstance(matrix, TernaryMatrix), matrix
    return matrix


@pytest.mark.parametrize(
    ("granularity", "scale"),
    [
        ("tensor", np.full((), 0.037, np.float32)),
        ("row", np.abs(normal(6)) + np.float32(0.1)),
        ("group of 32", np.abs(normal(6, 4)) + np.float32(0.1)),
        ("group of 64", np.abs(normal(6, 2)) + np.float32(0.1)),
    ],
)
@pytest.mark.parametrize("noise", [0, 0.008])
def test_granularities(granularity: str, scale: np.ndarray, noise: float) -> None:
    trits = random_trits(6, 128)
    trits[:, ::32] = 1  # every block shows its scale
    step = (
        np.repeat(scale.reshape(len(scale), -1), 128 // scale.shape[1], 1)
        if scale.ndim == 2
        else scale.reshape(-1, 1)
    )
    w = trits * step * (1 + RNG.uniform(-noise, noise, trits.shape))
    matrix = found(w)
    assert (matrix.granularity, matrix.kind) == (granularity, "ternary")
    np.testing.assert_array_equal(matrix.trits, trits)
    assert matrix.scale.shape == scale.shape
    np.testing.assert_allclose(matrix.scale, scale, noise or 1e-7)
    assert (matrix.deviation == 0) is (noise == 0)


def test_an_estimator_folded_in_bf16_is_within_tolerance() -> None:
    """X + (q - x) in bf16: the noise that training leaves in a released checkpoint."""
    x = (np.random.default_rng(1).normal(size=(64, 64)) * 0.05).astype(ml_dtypes.bfloat16)
    scale = np.abs(x).mean(dtype=np.float32).astype(ml_dtypes.bfloat16)
    q = (np.clip(np.rint((x / scale).astype(np.float32)), -1, 1) * scale.astype(np.float32)).astype(
        ml_dtypes.bfloat16
    )
    folded = (x + (q - x)).astype(np.float32)
    assert len(np.unique(np.abs(folded))) > 2  # it did leave noise
    matrix = found(folded)
    assert 5e-3 < matrix.deviation <= 1e-2
    np.testing.assert_array_equal(matrix.trits, np.sign(q.astype(np.float32)))
    assert "within" in str(matrix)


def test_noise_beyond_the_tolerance_is_dense() -> None:
    trits = random_trits(6, 100)
    w = (trits * 0.5).astype(np.float32)
    w[3, 0] *= 1.03
    assert "dense" in str(find_ternary(w))


def test_binary_is_told_from_ternary() -> None:
    signs = np.sign(normal(6, 40)) * np.float32(0.3)
    assert found(signs).kind == "binary"
    assert found(signs).zeros == 0
    assert "0% zeros" in str(found(signs))


def constant(value: float) -> np.ndarray:
    return np.full((6, 40), value, np.float32)


def spoilt(value: float, *at: int) -> np.ndarray:
    w = (random_trits(6, 40) * 0.5).astype(np.float32)
    w[at] = value
    return w


HALF = np.tile(np.array([0.5, -0.5], np.float32), (6, 20))


@pytest.mark.parametrize(
    ("w", "why"),
    [
        (constant(0), "all zeros"),
        (constant(0.5), "constant"),
        (constant(-0.5), "constant"),
        (np.eye(40, dtype=np.float32), "a selection or a diagonal"),
        (-np.eye(6, 40, dtype=np.float32), "a selection or a diagonal"),
        (np.eye(40, dtype=np.float32)[[3, 1, 1, 7]], "a selection or a diagonal"),
        (np.abs(random_trits(6, 40)).astype(np.float32), "one sign only"),
        (HALF, "every row is the same"),
        (normal(6, 40), "dense"),
        (spoilt(np.nan, 0, 0), "NaN or infinity"),
        (spoilt(np.nan, 5, 39), "NaN or infinity"),
        (spoilt(np.inf, 5, 3), "NaN or infinity"),
        (spoilt(-np.inf, 0, 3), "NaN or infinity"),
        (np.full((6, 40), np.nan, np.float32), "NaN or infinity"),
    ],
)
def test_matrices_that_are_not_ternary_layers(w: np.ndarray, why: str) -> None:
    assert why in str(find_ternary(w))
    assert isinstance(find_ternary(w), str)


def test_a_row_of_zeros_has_no_scale() -> None:
    trits = random_trits(6, 40)
    scale = np.arange(1, 7, dtype=np.float32)[:, None]
    trits[2] = 0
    matrix = found(trits * scale)
    np.testing.assert_array_equal(matrix.trits, trits)
    assert matrix.granularity == "row"
    np.testing.assert_array_equal(matrix.trits * matrix.scale[:, None], trits * scale)


def layer(w: np.ndarray, dtype: DType = DType.F32) -> tuple[Graph, Tensors]:
    tensors = Tensors()
    weight = tensors.add("up.weight", TensorType(dtype, w.shape), w)
    x = given("x", B, w.shape[1], dtype=dtype)
    return graph_of("g", {"y": Linear(x, weight)}), tensors


def test_the_weight_turns_into_trits_and_a_scale() -> None:
    graph, tensors = layer((random_trits(6, 40) * 0.5).astype(np.float32))
    step = run("find-ternary-linear", graph, tensors)
    [op] = [op for op in step.after if isinstance(op, ExpandTernary)]
    assert isinstance(op.t, Weight)
    assert op.t.name == "up.weight.trits"
    assert str(op.t.type) == "ternary[6, 40]"
    assert str(op.scale.type) == "f32[]"
    assert step.log.fired == {"ternary": 1}
    assert "one scale per tensor" in step.log.verdicts[0].why


def test_a_dense_layer_is_left_alone_with_its_reason() -> None:
    graph, tensors = layer(normal(6, 40))
    step = run("find-ternary-linear", graph, tensors)
    assert step.after is graph
    assert "up.weight: dense" in step.log.verdicts[0].why


def test_a_weight_that_is_made_is_left_alone() -> None:
    x, w = given("x", B, 4), given("w", 3, 4)
    graph = graph_of("g", {"y": Linear(x, Neg(w))})
    step = run("find-ternary-linear", graph, Tensors())
    assert step.after is graph
    assert "made by <neg>" in step.log.verdicts[0].why


def test_a_shared_weight_is_read_as_ternary_by_all() -> None:
    tensors = Tensors()
    w = tensors.add(
        "w", TensorType(DType.F32, (8, 8)), (random_trits(8, 8) * 0.5).astype(np.float32)
    )
    x = given("x", B, 8)
    graph = graph_of("g", {"y": Linear(Linear(x, w), w)})
    step = run("find-ternary-linear", graph, tensors)
    assert ops_of(step.after).count("expand_ternary") == 1


# merge-projections, pack-ternary


def projections(*rows: int) -> tuple[Graph, Tensors]:
    tensors, q = Tensors(), given("q", B, 24, dtype=DType.I8)
    weights = [
        tensors.add(f"p{n}.trits", TensorType(DType.TERNARY, (r, 24)), random_trits(r, 24))
        for n, r in enumerate(rows)
    ]
    return graph_of("g", {f"y{n}": TernaryMatmul(q, w) for n, w in enumerate(weights)}), tensors


def test_merged_projections_are_stacked_in_order() -> None:
    graph, tensors = projections(5, 3, 8)
    before = [tensors[op.name] for op in graph.weights]
    step = run("merge-projections", graph, tensors)
    [weight] = step.after.weights
    np.testing.assert_array_equal(tensors[weight.name], np.concatenate(before))
    assert ops_of(step.after).count("ternary_matmul") == 1
    assert ops_of(step.after).count("slice") == 3


def test_one_matrix_that_two_layers_share_is_not_merged_with_itself() -> None:
    graph, tensors = projections(5)
    assert run("merge-projections", graph, tensors).after is graph


@pytest.mark.parametrize("layout", ["2bit", "1.6bit"])
def test_packing(layout: str) -> None:
    graph, tensors = projections(5, 3)
    step = run(f"pack-ternary{{layout={layout}}}", graph, tensors)
    assert [op.name for op in step.after.weights] == [f"p{n}.{layout}" for n in range(2)]
    for n, rows in enumerate((5, 3)):
        bits = unpack(tensors[f"p{n}.{layout}"], rows, 24, layout)  # pyright: ignore
        np.testing.assert_array_equal(bits, tensors[f"p{n}.trits"])
    assert "bits a weight" in step.log.verdicts[0].why


def test_an_unknown_layout_is_an_error() -> None:
    graph, tensors = projections(5)
    with pytest.raises(MmcError, match="unknown layout '3bit'"):
        run("pack-ternary{layout=3bit}", graph, tensors)


# All of them together.


def test_a_trained_layer_from_its_estimator_to_packed_bytes() -> None:
    """What released models hold: a weight quantiser behind a straight-through estimator."""
    tensors, k = Tensors(), 64
    w = tensors.add("w", TensorType(DType.F32, (8, k)), normal(8, k))
    largest = Clamp(Mean(Abs(Reshape(w, (8 * k,))), -1, True), 1e-5, None)
    scale = Div(scalar(1.0), largest)
    quantised = Div(Clamp(Round(Mul(w, scale)), -1, 1), scale)
    estimator = Add(w, Detach(Sub(quantised, w)))
    x = given("x", B, k)
    by = AbsMax(rounding="half_away")
    q, s = Quantize(RmsNorm(x, None, 1e-6), by)
    graph = graph_of("g", {"y": Linear(Dequantize(q, s), estimator)})
    values = {"x": normal(3, k)}
    wanted = evaluate(graph, values, tensors)["y"]
    names = "strip-ste,canonicalize,fold-constants,find-ternary-linear,matmul-to-ternary,"
    after = PassManager(tensors).run(
        graph, parse_pipeline(names + "fuse-norm-quantize,pack-ternary,fuse-kernels")
    )
    assert sum(op.mnemonic == "kernel" for op in after) == 3
    assert [str(op.type) for op in after.weights] == ["ternary_2bit[8, 64]", "f32[]"]
    np.testing.assert_allclose(evaluate(after, values, tensors)["y"], wanted, 1e-5)


@pytest.mark.parametrize("factor", [1, 3])
def test_weights_that_are_integers_are_trits_as_they_are(factor: int) -> None:
    """Nothing takes a scale out of an integer sum: {-3, 0, 3} stays dense."""
    tensors = Tensors()
    wide = TensorType(DType.I32, (6, 8))
    w = tensors.add("w", wide, random_trits(6, 8).astype(np.int32) * factor)
    layer = Linear(Cast(given("q", B, 8, dtype=DType.I8), DType.I32), w)
    step = run("find-ternary-linear", graph_of("main", {"y": layer}), tensors)
    expected = ["input", "cast", "weight", *(["cast"] if factor == 1 else []), "linear"]
    assert ops_of(step.after) == expected
    [verdict] = step.log.verdicts
    assert verdict.fired == (factor == 1)
    assert factor == 1 or "integers other than" in verdict.why


def test_a_scale_that_is_a_number_becomes_a_weight() -> None:
    """Else layers that differ in nothing but their scales would not share a kernel."""
    tensors = Tensors()
    t = tensors.add("up.trits", TensorType(DType.TERNARY, (6, 8)), random_trits(6, 8))
    q, s = Quantize(given("x", B, 8), AbsMax())
    layer = Dequantize(TernaryMatmul(q, t), s, scalar(0.25))
    step = run("fold-constants", graph_of("main", {"y": layer}), tensors)
    [(_, made)] = step.after.outputs
    assert isinstance(made, Dequantize)
    assert isinstance(made.w, Weight)
    assert made.w.name == "up.scale"
    assert tensors["up.scale"] == np.float32(0.25)
