"""Small ONNX models, written node by node, and onnxruntime to say what they compute."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from mmc.api import import_source
from mmc.driver import Compilation, analyse
from mmc.ir.evaluate import evaluate

node = helper.make_node
RNG = np.random.default_rng(0)
F32 = np.float32
ROWS, COLUMNS = 48, 64
TRITS = RNG.integers(-1, 2, (ROWS, COLUMNS)).astype(np.int8)
SCALE = F32(0.05)
X = RNG.standard_normal((3, COLUMNS)).astype(F32)

QUANTISER = [
    node("Abs", ["x"], ["size"]),
    node("ReduceMax", ["size", "last"], ["most"], keepdims=1),
    node("Clip", ["most", "eps"], ["largest"]),
    node("Div", ["top", "largest"], ["scale"]),
    node("Mul", ["x", "scale"], ["scaled"]),
    node("Round", ["scaled"], ["whole"]),
    node("Clip", ["whole", "low", "high"], ["q"]),
]
NUMBERS: Mapping[str, Any] = {
    "last": np.array([-1]),
    "eps": F32(1e-5),
    "top": F32(127),
    "low": F32(-128),
    "high": F32(127),
}
FAKE = [*QUANTISER, node("Div", ["q", "scale"], ["xq"])]
"""int8 with one scale a row, and back in floats: the input of a BitLinear."""


def narrow(dtype: int, content: np.ndarray) -> onnx.TensorProto:
    """A tensor of 2 or 4 bit integers."""
    return helper.make_tensor("", dtype, content.shape, content.flatten().tolist())


def named(name: str, content: Any) -> onnx.TensorProto:
    if isinstance(content, onnx.TensorProto):
        content.name = name
        return content
    return numpy_helper.from_array(np.asarray(content), name)


def write(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    weights: Mapping[str, Any],
    *,
    inputs: Mapping[str, Sequence[Any]] | None = None,
    outputs: Mapping[str, int] | None = None,
    opset: int = 23,
    output_type: int = TensorProto.FLOAT,
) -> Path:
    """Save a model; inputs are float tensors of the given dimensions, outputs of so many axes."""
    given = {"x": ("B", COLUMNS)} if inputs is None else inputs
    made = ({"y": 2} if outputs is None else outputs).items()
    graph = helper.make_graph(
        list(nodes),
        "graph",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, d) for n, d in given.items()],
        [helper.make_tensor_value_info(n, output_type, [None] * rank) for n, rank in made],
        [named(name, content) for name, content in weights.items()],
    )
    domains = sorted({n.domain for n in nodes if n.domain})
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, 1) for d in domains)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10 if opset < 25 else 12)
    path.write_bytes(model.SerializeToString())
    return path


def imported(path: Path) -> Compilation:
    """Imported, and through the passes that recognise layers and recurrences."""
    return analyse(import_source(path))


def interpreted(done: Compilation, *given: np.ndarray) -> list[np.ndarray]:
    """What the graph gives behind those passes."""
    names = [op.name for op in done.imported.graph.inputs]
    arrays = dict(zip(names, given, strict=True))
    return list(evaluate(done.core, arrays, done.imported.tensors).values())


def session(path: Path) -> ort.InferenceSession:
    """onnxruntime as exact as it gets: it would round activations to int8 where it may fuse."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
    return ort.InferenceSession(str(path), options)


def runtime(path: Path, *given: np.ndarray) -> list[np.ndarray]:
    """What onnxruntime gives."""
    loaded = session(path)
    names = [i.name for i in loaded.get_inputs()]
    made: Any = loaded.run(None, dict(zip(names, given, strict=True)))
    return made


def error(found: np.ndarray, wanted: np.ndarray) -> float:
    """The largest difference over the largest number."""
    assert found.shape == wanted.shape
    assert found.dtype == wanted.dtype
    return float(np.abs(found.astype(float) - wanted).max() / np.abs(wanted).max())
