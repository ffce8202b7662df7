"""Every form in which a ternary weight arrives in ONNX: recognised, and equal to onnxruntime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto

import mmc
from tests.frontends.onnx_models import (
    COLUMNS,
    F32,
    FAKE,
    NUMBERS,
    QUANTISER,
    RNG,
    ROWS,
    SCALE,
    TRITS,
    X,
    error,
    imported,
    interpreted,
    narrow,
    node,
    runtime,
    write,
)

MASTER = RNG.standard_normal((ROWS, COLUMNS)).astype(F32)
ROW_SCALES = (1 + RNG.random(ROWS)).astype(F32)
GROUP = 32
GROUPS = COLUMNS // GROUP
Form = tuple[Sequence[onnx.NodeProto], Mapping[str, Any], int]


def _dequantised(dtype: int, opset: int, zero: int = 0) -> Form:
    stored = narrow(dtype, TRITS.T.astype(int) + zero)
    weights: dict[str, Any] = {"w": stored, "s": SCALE}
    if zero:
        weights["zero"] = narrow(dtype, np.array(zero))
    given = ["w", "s", "zero"] if zero else ["w", "s"]
    nodes = [node("DequantizeLinear", given, ["wf"]), node("MatMul", ["xq", "wf"], ["y"])]
    return nodes, weights, opset


def _nbits(bits: int, zero: int | None = None, accuracy: int = 0, scale: Any = SCALE) -> Form:
    """onnxruntime's own packing: blocks of columns, the lowest bits first."""
    per_byte = 8 // bits
    codes = TRITS.astype(int) + (2 ** (bits - 1) if zero is None else zero)
    codes = codes.reshape(ROWS, GROUPS, GROUP)
    packed = sum(codes[..., i::per_byte] << (bits * i) for i in range(per_byte))
    scales = np.broadcast_to(np.asarray(scale, F32).reshape(-1, 1), (ROWS, GROUPS))
    weights: dict[str, Any] = {
        "w": np.asarray(packed, np.uint8),
        "s": np.ascontiguousarray(scales),
    }
    if zero is not None:
        weights["zero"] = np.full((ROWS, 1), zero | zero << bits, np.uint8)
    given = ["xq", "w", "s", *(["zero"] if zero is not None else [])]
    attributes: dict[str, Any] = {"K": COLUMNS, "N": ROWS, "bits": bits, "block_size": GROUP}
    made = node("MatMulNBits", given, ["y"], domain="com.microsoft", **attributes,
                accuracy_level=accuracy)  # fmt: skip
    return [made], weights, 21


UNFOLDED = [
    node("Abs", ["w"], ["wa"]),
    node("ReduceMean", ["wa"], ["mean"], keepdims=0),
    node("Clip", ["mean", "eps"], ["step"]),
    node("Div", ["w", "step"], ["ws"]),
    node("Round", ["ws"], ["wr"]),
    node("Clip", ["wr", "minus", "plus"], ["trits"]),
    node("Mul", ["trits", "step"], ["wq"]),
    node("Sub", ["wq", "w"], ["apart"]),
    node("Add", ["w", "apart"], ["estimated"]),
    node("Transpose", ["estimated"], ["wt"], perm=[1, 0]),
    node("MatMul", ["xq", "wt"], ["y"]),
]
QCDQ = [
    node("QuantizeLinear", ["w", "s", "zero"], ["w8"]),
    node("Clip", ["w8", "minus", "plus"], ["trits"]),
    node("DequantizeLinear", ["trits", "s", "zero"], ["wf"]),
    node("Gemm", ["xq", "wf"], ["y"], transB=1),
]
FORMS: dict[str, Form] = {
    "MatMul by a float matrix [K, N]": (
        [node("MatMul", ["xq", "w"], ["y"])],
        {"w": (TRITS * SCALE).T.astype(F32)},
        18,
    ),
    "Gemm by a float matrix [N, K], with a bias": (
        [node("Gemm", ["xq", "w", "b"], ["y"], transB=1)],
        {"w": (TRITS * SCALE).astype(F32), "b": np.arange(ROWS, dtype=F32)},
        18,
    ),
    "quantised in the graph": (UNFOLDED, {"w": MASTER, "minus": F32(-1), "plus": F32(1)}, 18),
    "QuantizeLinear, Clip, DequantizeLinear": (
        QCDQ,
        {
            "w": MASTER,
            "s": F32(0.7),
            "zero": np.int8(0),
            "minus": np.int8(-1),
            "plus": np.int8(1),
        },
        18,
    ),
    "DequantizeLinear of int8": _dequantised(TensorProto.INT8, 19),
    "DequantizeLinear of int4": _dequantised(TensorProto.INT4, 21),
    "DequantizeLinear of uint4": _dequantised(TensorProto.UINT4, 21, 8),
    "DequantizeLinear of int2": _dequantised(TensorProto.INT2, 25),
    "DequantizeLinear of uint2": _dequantised(TensorProto.UINT2, 25, 1),
    "DequantizeLinear, one scale a row": (
        [
            node("DequantizeLinear", ["w", "s"], ["wf"], axis=1),
            node("MatMul", ["xq", "wf"], ["y"]),
        ],
        {"w": np.ascontiguousarray(TRITS.T), "s": ROW_SCALES},
        19,
    ),
    "MatMulNBits of 2 bits": _nbits(2),
    "MatMulNBits of 4 bits": _nbits(4),
    "MatMulNBits of 2 bits with zero points": _nbits(2, 1),
    "MatMulNBits of 4 bits with zero points": _nbits(4, 1),
    "MatMulNBits, one scale a row": _nbits(4, scale=ROW_SCALES),
}


def saved(path: Path, form: Form) -> Path:
    nodes, weights, opset = form
    return write(path / "m.onnx", [*FAKE, *nodes], {**NUMBERS, **weights}, opset=opset)


@pytest.mark.parametrize("name", FORMS)
def test_form(name: str, tmp_path: Path) -> None:
    path = saved(tmp_path, FORMS[name])
    done = imported(path)
    [layer] = done.layers
    assert layer.ternary, layer.why
    assert layer.granularity == ("row" if "a row" in name else "tensor")
    assert (layer.rows, layer.columns) == (ROWS, COLUMNS)
    assert layer.quantiser is not None
    assert layer.quantiser["rounding"] == "half_even"
    assert error(interpreted(done, X)[0], runtime(path, X)[0]) <= 1e-6


def test_scale_is_that_of_the_file(tmp_path: Path) -> None:
    done = imported(saved(tmp_path, FORMS["DequantizeLinear of int2"]))
    scale = done.layers[0].scale
    assert scale is not None
    assert abs(scale - SCALE) <= 1e-9


def test_integer_form_is_exact(tmp_path: Path) -> None:
    """int8 times int8 in int32, then both scales: not a bit differs from onnxruntime."""
    nodes = [
        *QUANTISER,
        node("Cast", ["q"], ["q8"], to=TensorProto.INT8),
        node("MatMulInteger", ["q8", "w"], ["sum"]),
        node("Cast", ["sum"], ["sumf"], to=TensorProto.FLOAT),
        node("Div", ["one", "scale"], ["step"]),
        node("Mul", ["step", "s"], ["both"]),
        node("Mul", ["sumf", "both"], ["y"]),
    ]
    weights = {**NUMBERS, "w": np.ascontiguousarray(TRITS.T), "s": SCALE, "one": F32(1)}
    path = write(tmp_path / "m.onnx", nodes, weights)
    done = imported(path)
    assert [layer.ternary for layer in done.layers] == [True]
    assert done.layers[0].scale == pytest.approx(SCALE)
    assert np.array_equal(interpreted(done, X)[0], runtime(path, X)[0])


def test_integers_beyond_float32_stay_exact(tmp_path: Path) -> None:
    """A dense int8 layer whose sums a float32 cannot hold."""
    columns = 4096
    nodes = [
        node("Cast", ["x"], ["x8"], to=TensorProto.INT8),
        node("MatMulInteger", ["x8", "w"], ["y"]),
    ]
    w = RNG.integers(100, 128, (columns, 5)).astype(np.int8)
    path = write(tmp_path / "m.onnx", nodes, {"w": w}, inputs={"x": ("B", columns)},
                 output_type=TensorProto.INT32)  # fmt: skip
    x = RNG.integers(100, 128, (3, columns)).astype(F32)
    done = imported(path)
    assert [layer.ternary for layer in done.layers] == [False]
    found = interpreted(done, x)[0]
    assert found.max() > 2**24
    assert np.array_equal(found, runtime(path, x)[0])


def test_zero_points_of_integer_products(tmp_path: Path) -> None:
    """uint8 activations less their zero point, weights less one for each column."""
    nodes = [
        node("Cast", ["x"], ["x8"], to=TensorProto.UINT8),
        node("MatMulInteger", ["x8", "w", "xz", "wz"], ["y"]),
    ]
    w = RNG.integers(-9, 9, (COLUMNS, 5)).astype(np.int8)
    weights = {"w": w, "xz": np.uint8(7), "wz": np.arange(5, dtype=np.int8)}
    path = write(tmp_path / "m.onnx", nodes, weights, output_type=TensorProto.INT32)
    x = RNG.integers(0, 20, (3, COLUMNS)).astype(F32)
    wanted = (x.astype(int) - 7) @ (w.astype(int) - np.arange(5))
    assert np.array_equal(interpreted(imported(path), x)[0], wanted)


def test_a_scale_for_each_group_of_columns(tmp_path: Path) -> None:
    scales = (1 + RNG.random((GROUPS, ROWS))).astype(F32)
    form: Form = (
        [
            node("DequantizeLinear", ["w", "s"], ["wf"], axis=0, block_size=GROUP),
            node("MatMul", ["xq", "wf"], ["y"]),
        ],
        {"w": narrow(TensorProto.INT4, TRITS.T.astype(int)), "s": scales},
        21,
    )
    path = saved(tmp_path, form)
    done = imported(path)
    (layer,) = done.layers
    assert (layer.ternary, layer.granularity) == (True, f"group of {GROUP}")
    assert (layer.rows, layer.columns) == (ROWS, COLUMNS)
    assert layer.scale == pytest.approx(scales.mean())
    assert layer.zeros == pytest.approx((TRITS == 0).mean())
    assert layer.quantiser is not None
    assert error(interpreted(done, X)[0], runtime(path, X)[0]) <= 1e-6


def test_accuracy_level_is_onnxruntimes_own(tmp_path: Path) -> None:
    """Level 4 lets onnxruntime round the activations again; we compute what the graph says."""
    exact, rounded = _nbits(4), _nbits(4, accuracy=4)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    paths = saved(tmp_path / "a", exact), saved(tmp_path / "b", rounded)
    made = [interpreted(imported(path), X)[0] for path in paths]
    assert np.array_equal(made[0], made[1])
    assert error(made[0], runtime(paths[0], X)[0]) <= 1e-6
    assert error(made[1], runtime(paths[1], X)[0]) > 1e-4


def test_qonnx_quant(tmp_path: Path) -> None:
    """No runtime here knows the operator: held against its formula."""
    made = node("Quant", ["w", "s", "zero", "bits"], ["wf"], domain="qonnx.custom_op.general",
                signed=1, narrow=1, rounding_mode="ROUND")  # fmt: skip
    weights = {"w": MASTER, "s": F32(0.7), "zero": F32(0), "bits": F32(2)}
    form: Form = ([made, node("Gemm", ["xq", "wf"], ["y"], transB=1)], weights, 18)
    done = imported(saved(tmp_path, form))
    [layer] = done.layers
    assert layer.ternary
    assert layer.scale == pytest.approx(0.7)
    trits = np.clip(np.rint(MASTER / F32(0.7)), -1, 1)
    scale = 127 / np.abs(X).max(-1, keepdims=True)
    wanted = (np.rint(X * scale) / scale) @ (trits.T * F32(0.7))
    assert error(interpreted(done, X)[0], wanted.astype(F32)) <= 1e-6


def test_bipolar_quant_is_binary(tmp_path: Path) -> None:
    made = node("BipolarQuant", ["w", "s"], ["wf"], domain="qonnx.custom_op.general")
    form: Form = (
        [made, node("Gemm", ["xq", "wf"], ["y"], transB=1)], {"w": MASTER, "s": F32(0.7)}, 18
    )  # fmt: skip
    done = imported(saved(tmp_path, form))
    assert done.layers[0].ternary
    assert done.layers[0].zeros == 0


def test_dense_layers_are_not_ternary(tmp_path: Path) -> None:
    form: Form = ([node("MatMul", ["xq", "w"], ["y"])], {"w": MASTER.T.copy()}, 18)
    path = saved(tmp_path, form)
    done = imported(path)
    assert not done.layers[0].ternary
    assert "dense" in done.layers[0].why
    assert error(interpreted(done, X)[0], runtime(path, X)[0]) <= 1e-6


def test_dynamic_quantisation_is_not_bitlinears(tmp_path: Path) -> None:
    """DynamicQuantizeLinear is uint8 with a zero point: computed as it is, not taken for int8."""
    nodes = [
        node("DynamicQuantizeLinear", ["x"], ["q", "s", "zero"]),
        node("MatMulInteger", ["q", "w", "zero"], ["sum"]),
        node("Cast", ["sum"], ["y"], to=TensorProto.FLOAT),
    ]
    path = write(tmp_path / "m.onnx", nodes, {"w": np.ascontiguousarray(TRITS.T)})
    done = imported(path)
    assert not done.layers[0].ternary
    assert np.array_equal(interpreted(done, X)[0], runtime(path, X)[0])


def test_compiled_for_the_cpu(tmp_path: Path) -> None:
    path = saved(tmp_path, FORMS["MatMulNBits of 2 bits"])
    artifact = mmc.compile(path, out=tmp_path / "out", mcpu="native", require_matmul_free=True)
    assert artifact.manifest["sizes"]["per_token"]["dense_multiplications"] == 0
    loaded = mmc.load(artifact.path)
    assert isinstance(loaded, mmc.Module)
    assert error(loaded(X), runtime(path, X)[0]) <= 1e-6
