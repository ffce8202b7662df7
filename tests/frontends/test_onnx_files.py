"""Files that are damaged, or not to be trusted: one clear error each, and nothing is read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

import mmc
from mmc.errors import MmcError
from mmc.frontends.onnx_import import load_onnx
from tests.frontends.onnx_models import F32, node, write

MULTIPLY = [node("MatMul", ["x", "w"], ["y"], name="layer")]
SQUARE = {"x": ("B", 4)}
SOME = np.arange(16, dtype=F32).reshape(4, 4)


def small(path: Path, nodes: Sequence[Any] | None = None, **weights: Any) -> Path:
    made = nodes or [node("Relu", ["x"], ["y"])]
    return write(path / "m.onnx", made, weights, inputs=SQUARE, opset=20)


def refused(path: Path, *words: str) -> MmcError:
    with pytest.raises(MmcError) as caught:
        load_onnx(path)
    told = str(caught.value)
    assert str(path) in told
    for word in words:
        assert word in told
    return caught.value


def external(location: str, **fields: str) -> onnx.TensorProto:
    tensor = TensorProto(data_type=TensorProto.FLOAT, dims=(4, 4), name="w")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, **fields}.items():
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value
    return tensor


def test_missing_file(tmp_path: Path) -> None:
    refused(tmp_path / "m.onnx", "No such file")


@pytest.mark.parametrize("part", [0, 1, 10, 0.5, 0.95])
def test_truncated_file(part: float, tmp_path: Path) -> None:
    path = small(tmp_path, MULTIPLY, w=SOME)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(part * len(whole)) if isinstance(part, float) else part])
    refused(path)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04" + bytes(50), bytes(range(256))])
def test_other_files(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    refused(path, "not an ONNX file")


@settings(max_examples=60, deadline=None, derandomize=True,
          suppress_health_check=[HealthCheck.function_scoped_fixture])  # fmt: skip
@given(st.data())
def test_damaged_bytes(tmp_path: Path, data: st.DataObject) -> None:
    """Some bytes changed: the model as it was, another one, or one clear error."""
    path = small(tmp_path, MULTIPLY, w=SOME)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        imported = load_onnx(path)
        for weight in imported.graph.weights:
            imported.tensors[weight.name]
    except MmcError:
        pass


def test_external_data_is_read(tmp_path: Path) -> None:
    (tmp_path / "part").mkdir()
    (tmp_path / "part" / "w.bin").write_bytes(bytes(8) + SOME.tobytes())
    path = small(tmp_path, MULTIPLY, w=external("part/w.bin", offset="8", length="64"))
    imported = load_onnx(path)
    [name] = [w.name for w in imported.graph.weights]
    assert np.array_equal(imported.tensors[name], SOME)


@pytest.mark.parametrize("location", ["../secret", "part/../../secret", "", "link", "part", "x\0y"])
def test_external_data_outside_the_folder(location: str, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(SOME.tobytes())
    folder = tmp_path / "model"
    (folder / "part").mkdir(parents=True)
    (folder / "link").symlink_to(tmp_path / "secret")
    path = small(folder, MULTIPLY, w=external(location))
    refused(path, "tensor 'w'")


def test_external_data_at_an_absolute_path(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(SOME.tobytes())
    path = small(tmp_path, MULTIPLY, w=external(str(tmp_path / "w.bin")))
    refused(path, "tensor 'w'", "not inside the model's folder")


def test_external_data_beside_the_model_when_run_from_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A path without a folder has a folder all the same."""
    (tmp_path / "secret").write_bytes(SOME.tobytes())
    (tmp_path / "model").mkdir()
    small(tmp_path / "model", MULTIPLY, w=external("../secret"))
    monkeypatch.chdir(tmp_path / "model")
    with pytest.raises(MmcError, match="not inside the model's folder"):
        load_onnx("m.onnx")


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"offset": "4"}, "64 bytes"),
        ({"offset": "-4"}, "64 bytes"),
        ({"length": "12"}, "64 bytes"),
        ({"offset": "many"}, "not a number"),
        ({"length": "9" * 30}, "64 bytes"),
    ],
)
def test_external_data_of_the_wrong_size(fields: dict[str, str], told: str, tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(SOME.tobytes())
    refused(small(tmp_path, MULTIPLY, w=external("w.bin", **fields)), "tensor 'w'", told)


def test_missing_external_data(tmp_path: Path) -> None:
    refused(small(tmp_path, MULTIPLY, w=external("w.bin")), "missing", "'w.bin'")


@pytest.mark.parametrize("dims", [(2**40, 4), (4, 5), (-4, 4), (2**62, 2**62)])
def test_tensor_with_other_bytes_than_its_shape(dims: tuple[int, ...], tmp_path: Path) -> None:
    w = numpy_helper.from_array(SOME, "w")
    del w.dims[:]
    w.dims.extend(dims)
    refused(small(tmp_path, MULTIPLY, w=w), "tensor 'w'")


@pytest.mark.parametrize("dims", [(2**62, 2**62), (-5, 4)])
def test_input_of_an_absurd_shape(dims: tuple[int, ...], tmp_path: Path) -> None:
    path = write(tmp_path / "m.onnx", [node("Relu", ["x"], ["y"])], {}, inputs={"x": dims})
    refused(path, "input 'x'", "axis of size")


HUGE: dict[str, tuple[list[Any], dict[str, Any]]] = {
    "Expand": (
        [node("Expand", ["x", "s"], ["y"], name="wide")], {"s": np.array([2**40, 2**10, 1])}
    ),
    "Tile": (
        [node("Tile", ["c", "s"], ["d"], name="wide"), node("Add", ["x", "d"], ["y"])],
        {"c": np.ones(1, F32), "s": np.array([2**50])},
    ),
    "ConstantOfShape": (
        [node("ConstantOfShape", ["s"], ["c"], name="wide"), node("Add", ["x", "c"], ["y"])],
        {"s": np.array([2**50])},
    ),
    "Range": (
        [node("Range", ["from", "to", "by"], ["r"], name="wide"),
         node("Cast", ["r"], ["f"], to=TensorProto.FLOAT), node("Add", ["x", "f"], ["y"])],
        {"from": np.array(0), "to": np.array(2**61), "by": np.array(1)},
    ),
    "Pad": ([node("Pad", ["x", "s"], ["y"], name="wide")], {"s": np.array([0, 0, 0, 2**60])}),
}  # fmt: skip


@pytest.mark.parametrize("name", HUGE)
def test_values_that_no_machine_holds(name: str, tmp_path: Path) -> None:
    nodes, weights = HUGE[name]
    refused(small(tmp_path, nodes, **weights), f"operator {name}", "node 'wide'")


WRONG: dict[str, tuple[list[Any], dict[str, Any], str]] = {
    "a cycle": (
        [node("Add", ["x", "b"], ["a"]), node("Relu", ["a"], ["b"]), node("Relu", ["b"], ["y"])],
        {}, "'b'",
    ),
    "an initialiser that is missing": (MULTIPLY, {}, "'w'"),
    "two element types": (
        [node("Add", ["x", "w"], ["y"], name="sum")], {"w": np.arange(4)}, "'sum'",
    ),
    "matrices that do not fit": (MULTIPLY, {"w": np.zeros((5, 4), F32)}, "'layer'"),
    "an operator that is none": ([node("Nonsense", ["x"], ["y"])], {}, "Nonsense"),
    "a missing operand": ([node("Add", ["x"], ["y"])], {}, "Add"),
    "an axis that is none": ([node("Softmax", ["x"], ["y"], axis=7)], {}, "no axis 7"),
    "parts that do not add up": (
        [node("Split", ["x", "s"], ["y", "z"], axis=1)], {"s": np.array([1, 1])}, "axis of size 4",
    ),
    "a step of zero": (
        [node("Range", ["f", "t", "b"], ["r"]), node("Cast", ["r"], ["y"], to=1)],
        {"f": np.array(0), "t": np.array(5), "b": np.array(0)}, "division by zero",
    ),
    "a shape that depends on numbers": (
        [node("Cast", ["x"], ["s"], to=TensorProto.INT64), node("Reshape", ["x", "s"], ["y"])],
        {}, "must be known",
    ),
    "another type than promised": (
        [node("Cast", ["x"], ["y"], to=TensorProto.INT64)], {}, "said to be FLOAT",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_graphs_that_are_wrong(name: str, tmp_path: Path) -> None:
    nodes, weights, told = WRONG[name]
    refused(small(tmp_path, nodes, **weights), told)


def test_every_unknown_operator_is_named(tmp_path: Path) -> None:
    nodes = [
        node("Det", ["x"], ["d"], name="/model/head/Det"),
        node("Det", ["d"], ["e"]),
        node("NonZero", ["e"], ["y"]),
    ]
    told = refused(small(tmp_path, nodes), "Det (2)", "NonZero (1)", "'/model/head/Det'")
    assert told.hint


@pytest.mark.parametrize(("opset", "told"), [(999, "newer"), (3, "older")])
def test_unknown_opset(opset: int, told: str, tmp_path: Path) -> None:
    path = small(tmp_path)
    model = onnx.load(path)
    model.opset_import[0].version = opset
    path.write_bytes(model.SerializeToString())
    assert refused(path, told).hint


@pytest.mark.parametrize("dtype", [TensorProto.DOUBLE, TensorProto.STRING, TensorProto.FLOAT8E5M2])
def test_element_types_that_the_ir_lacks(dtype: int, tmp_path: Path) -> None:
    path = small(tmp_path)
    model = onnx.load(path)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = dtype
    path.write_bytes(model.SerializeToString())
    refused(path, "element type") if dtype == TensorProto.DOUBLE else refused(path)


@pytest.mark.parametrize("itself", [False, True])
def test_functions_that_grow_beyond_measure(itself: bool, tmp_path: Path) -> None:
    """Each calls the one before it twice; or the first calls the last."""
    path = small(tmp_path, [node("f29", ["x"], ["y"], domain="deep")])
    model = onnx.load(path)
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("deep", 1)]
    first = node("f29", ["a"], ["b"], domain="deep") if itself else node("Relu", ["a"], ["b"])
    bodies = [[first, node("Relu", ["b"], ["c"])]]
    for i in range(29):
        twice = [("a", "b"), ("b", "c")]
        bodies.append([node(f"f{i}", [a], [b], domain="deep") for a, b in twice])
    for i, body in enumerate(bodies):
        model.functions.append(helper.make_function("deep", f"f{i}", ["a"], ["c"], body, opsets))
    path.write_bytes(model.SerializeToString())
    refused(path)


def test_functions_are_inlined(tmp_path: Path) -> None:
    path = small(tmp_path, [node("double", ["x"], ["y"], domain="deep")])
    model = onnx.load(path)
    body = [node("Add", ["a", "a"], ["b"])]
    opsets = [helper.make_opsetid("", 20)]
    model.functions.append(helper.make_function("deep", "double", ["a"], ["b"], body, opsets))
    path.write_bytes(model.SerializeToString())
    assert [op.mnemonic for op in load_onnx(path).graph] == ["input", "add"]


def test_nothing_is_left_behind(tmp_path: Path) -> None:
    path = small(tmp_path, [node("NonZero", ["x"], ["y"])])
    with pytest.raises(MmcError):
        mmc.compile(path, target="reference", out=tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.onnx"]


def test_names_of_sizes(tmp_path: Path) -> None:
    """Sums and odd names, as exporters write them."""
    dims = ("past length", "past_length + 1", "3d", None)
    path = write(tmp_path / "m.onnx", [node("Relu", ["x"], ["y"])], {}, inputs={"x": dims},
                 outputs={"y": 4})  # fmt: skip
    shape = load_onnx(path).graph.inputs[0].type.shape
    assert [str(d) for d in shape] == ["pastlength", "past_length+1", "_3d", "x_3"]


def test_initialiser_among_the_inputs_is_a_weight(tmp_path: Path) -> None:
    """As files before IR version 4 have it."""
    path = small(tmp_path, MULTIPLY, w=SOME)
    model = onnx.load(path)
    model.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [4, 4]))
    path.write_bytes(model.SerializeToString())
    assert [op.name for op in load_onnx(path).graph.inputs] == ["x"]
