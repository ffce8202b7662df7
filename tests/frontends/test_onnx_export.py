"""`mmc export`: onnxruntime computes what the interpreter does, and what comes back is the same."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

import mmc
from mmc.errors import MmcError
from mmc.export import export
from mmc.frontends.onnx_export import export_onnx
from mmc.frontends.onnx_functions import FUNCTIONS
from mmc.ir.evaluate import evaluate
from mmc.ir.graph import graph_of
from mmc.ir.ops import logic, norm, pointwise, reduce, shape, ternary
from mmc.ir.ops.source import Constant, Iota
from mmc.ir.ops.ternary import AbsMax
from mmc.ir.types import DType, TensorType
from tests.end_to_end.compiled import artifact, token_ids
from tests.end_to_end.test_modules import BitStack
from tests.frontends.onnx_models import F32, RNG, error, imported, interpreted, runtime, session
from tests.inputs import B, T, given


def language_model_inputs(model: mmc.Model, ids: np.ndarray) -> dict[str, Any]:
    state = {
        name: RNG.standard_normal(array.shape).astype(F32)
        for name, array in model.empty_state(len(ids)).arrays.items()
    }
    return {"ids": ids, "lengths": np.array([ids.shape[1], 2]), **state}


@pytest.mark.parametrize("variant", ["tiny", "two_convs", "paper"])
def test_language_model(variant: str, tmp_path: Path) -> None:
    """Logits and states of two sequences of different lengths, from a state that is not empty."""
    out = artifact(variant, "reference")
    path = tmp_path / "model.onnx"
    export(out, path)
    onnx.checker.check_model(str(path), full_check=True)
    model = mmc.load(out)
    assert isinstance(model, mmc.Model)
    given = language_model_inputs(model, token_ids(model.vocab_size, 2, 6))
    wanted = evaluate_reference(out, given)
    loaded = session(path)
    names = [o.name for o in loaded.get_outputs()]
    assert names == [n if n == "logits" else f"{n}.next" for n in wanted]
    made: Any = loaded.run(None, given)
    for found, expected in zip(made, wanted.values(), strict=True):
        assert error(found, expected) <= 2e-6


def evaluate_reference(out: Path, given: Mapping[str, Any]) -> dict[str, np.ndarray]:
    from mmc.targets.reference import TARGET

    return TARGET.load(out, ["forward"], {}).run("forward", given)


def test_it_comes_back_as_it_was(tmp_path: Path) -> None:
    """A language model again: every layer ternary, every recurrence found, the same logits."""
    out = artifact("tiny", "reference")
    path = tmp_path / "model.onnx"
    export(out, path)
    again = mmc.compile(
        path, target="reference", out=tmp_path / "again", require_matmul_free=True, no_fallback=True
    )
    first, second = mmc.load(out), mmc.load(again.path)
    assert isinstance(first, mmc.Model)
    assert isinstance(second, mmc.Model)
    assert second.eos_token_ids == first.eos_token_ids
    ids = token_ids(first.vocab_size, 2, 5)
    assert np.array_equal(first.forward(ids), second.forward(ids))
    layers = [mmc.load(p).artifact.manifest["layers"] for p in (out, again.path)]
    same = ("name", "rows", "columns", "ternary", "zeros")
    assert sorted([x[k] for k in same] for x in layers[0]) == sorted(
        [x[k] for k in same] for x in layers[1]
    )


def test_ternary_layers_are_integer_products(tmp_path: Path) -> None:
    out = artifact("tiny", "reference")
    export(out, tmp_path / "model.onnx")
    model = onnx.load(tmp_path / "model.onnx")
    kinds = [n.op_type for n in model.graph.node]
    layers = sum(layer["ternary"] for layer in mmc.load(out).artifact.manifest["layers"])
    assert 0 < kinds.count("MatMulInteger") <= layers
    assert "MatMul" not in kinds
    weights = {i.name: i.data_type for i in model.graph.initializer}
    products = [n.input[1] for n in model.graph.node if n.op_type == "MatMulInteger"]
    assert {weights[name] for name in products} == {onnx.TensorProto.INT8}
    names = [n.name for n in model.graph.node]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("rows", [1, 4])
def test_module_to_the_bit(rows: int, tmp_path: Path) -> None:
    """Norm, quantiser, integer sum and scales: no operation of them rounds otherwise."""
    x = torch.randn(rows, 24)
    mmc.compile(BitStack().eval(), (x,), target="reference", out=tmp_path / "out")
    export(tmp_path / "out", tmp_path / "m.onnx")
    loaded = mmc.load(tmp_path / "out")
    assert isinstance(loaded, mmc.Module)
    assert np.array_equal(runtime(tmp_path / "m.onnx", x.numpy())[0], loaded(x.numpy()))


X = given("x", B, T, 8)
I = given("i", B, T, dtype=DType.I64)  # noqa: E741
GAIN = Constant(1.5, TensorType(DType.F32, (8,)))
CASES: dict[str, Any] = {
    **{mode: pointwise.Round(pointwise.Mul(X, Constant(2.5, TensorType(DType.F32, ()))), mode)
       for mode in pointwise.ROUNDINGS},
    "relu": pointwise.Relu(X), "silu": pointwise.Silu(X), "gelu": pointwise.Gelu(X),
    "gelu tanh": pointwise.Gelu(X, "tanh"), "sigmoid": pointwise.Sigmoid(X),
    "softplus": pointwise.Softplus(X), "tanh": pointwise.Tanh(X), "erf": pointwise.Erf(X),
    "square": pointwise.Square(X), "clamp": pointwise.Clamp(X, -0.5, 0.5),
    "clamp above": pointwise.Clamp(X, None, 0.5), "sign": pointwise.Sign(X),
    "not": logic.Not(logic.Greater(X, GAIN)), "not equal": logic.NotEqual(X, GAIN),
    "where": logic.Where(logic.LessEqual(X, GAIN), X, GAIN),
    "maximum": pointwise.Maximum(X, GAIN), "cast": pointwise.Cast(X, DType.I32),
    "shift": logic.ShiftRight(
        pointwise.Cast(pointwise.Abs(X), DType.U8), Constant(1, TensorType(DType.U8, ()))),
    "sum": reduce.Sum(X, 1, False), "mean": reduce.Mean(X), "max": reduce.Max(X, -1, False),
    "arg max": reduce.ArgMax(X, -1, False), "softmax": reduce.Softmax(X),
    "cum": reduce.CumSum(X, 1),
    "reshape": shape.Reshape(X, (B * T, 8)), "split": shape.Reshape(X, (B, T, 2, 4)),
    "two symbols": shape.Reshape(X, (T, B, 8)), "permute": shape.Permute(X, (1, 0, 2)),
    "slice": shape.Slice(X, -1, 1, 3, 2), "last": shape.Slice(X, 1, T - 1, 1),
    "concat": shape.Concat((X, X), 1), "pad": shape.Pad(X, -1, 1, 2, 3.0),
    "expand": shape.Expand(GAIN, (B, T, 8)), "iota": Iota(T, 2),
    "gather": shape.Gather(Constant(2.0, TensorType(DType.F32, (9, 3))), I),
    "take": shape.TakePosition(X, reduce.Max(I, 1, False)),
    "rms": norm.RmsNorm(X, GAIN, 1e-6), "rms plain": norm.RmsNorm(X, None, 1e-3),
    "statistic": norm.RmsStatistic(X, 1e-6), "layer norm": norm.LayerNorm(X, GAIN, GAIN, 1e-5),
    **{f"quantize {mode} {each}": ternary.Quantize(X, AbsMax(rounding=mode, granularity=each))
       for mode in pointwise.ROUNDINGS for each in ("token", "tensor")},
    "mean square": norm.MeanSquare(X),
    **{f"quantize factored {mode}": ternary.FactoredQuantize(
           X, norm.RmsStatistic(X, 1e-6), gain, AbsMax(rounding=mode))
       for mode, gain in zip(pointwise.ROUNDINGS, (None, GAIN, GAIN), strict=True)},
    "quantize to 7 bits": ternary.Quantize(X, AbsMax(63.0, -64, 63, 1e-3)),
}  # fmt: skip
EXACT = (
    "half",
    "round",
    "quantize",
    "relu",
    "clamp",
    "sign",
    "cast",
    "shift",
    "slice",
    "reshape",
    "rms",
    "statistic",
)


@pytest.fixture(scope="module", name="made")
def all_made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any, Any]:
    """One graph of all cases: what the interpreter, onnxruntime and our own import make of it."""
    outputs: dict[str, Any] = {}
    for name, op in CASES.items():
        for i, value in enumerate(op.results):
            outputs[f"{name.replace(' ', '_')}.{i}"] = value
    graph = graph_of("main", outputs, [X, I])
    path = tmp_path_factory.mktemp("export") / "m.onnx"
    export_onnx(graph, {}, path, {})
    x = (RNG.standard_normal((4, 50, 8)) * 2).astype(F32)
    x[0, 0] = [0.5, 1.5, -0.5, -1.5, 2.5, 0.0, 1.0, -2.5]  # halves
    x[1, 4] = 0  # a row of zeros
    i = RNG.integers(0, 5, (4, 50))
    names = list(outputs)
    wanted = evaluate(graph, {"x": x, "i": i})
    theirs = dict(zip(names, runtime(path, x, i), strict=True))
    return wanted, theirs, dict(zip(names, interpreted(imported(path), x, i), strict=True))


@pytest.mark.parametrize("name", CASES)
def test_operation(name: str, made: tuple[Any, Any, Any]) -> None:
    wanted, theirs, again = made
    for key in wanted:
        if key.rpartition(".")[0] == name.replace(" ", "_"):
            for found in (theirs[key], again[key]):
                if wanted[key].dtype.kind in "iub" or name.startswith(EXACT):
                    assert np.array_equal(found, wanted[key])
                else:
                    assert error(found, wanted[key]) <= 1e-6


def test_every_function_is_valid() -> None:
    head = '<domain: "mmc", opset_import: ["" : 20, "mmc" : 1]>'
    for text in FUNCTIONS.values():
        onnx.checker.check_function(onnx.parser.parse_function(head + text))


class Median(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.median(-1).values


def test_operation_without_a_form_is_named(tmp_path: Path) -> None:
    mmc.compile(Median(), (torch.randn(3, 5),), target="reference", out=tmp_path / "out")
    with pytest.raises(MmcError, match="median has no form in ONNX") as caught:
        export(tmp_path / "out", tmp_path / "m.onnx")
    assert "Median" in caught.value.where
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out"]


def test_unknown_format_and_folder(tmp_path: Path) -> None:
    with pytest.raises(MmcError, match="no format"):
        export(tmp_path, tmp_path / "m", "tflite")
    with pytest.raises(MmcError):
        export(tmp_path / "nothing", tmp_path / "m.onnx")


def test_large_weights_lie_beside_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mmc.frontends.onnx_export._LARGEST_ALONE", 100)
    out = artifact("tiny", "reference")
    export(out, tmp_path / "new" / "m.onnx")
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == ["m.onnx", "m.onnx.data"]
    done = imported(tmp_path / "new" / "m.onnx")
    assert all(layer.ternary for layer in done.layers)
    assert session(tmp_path / "new" / "m.onnx") is not None
