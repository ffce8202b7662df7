"""Write a compiled model's graph as an ONNX file, in the exact integer form.

The interface is that of `onnx_import`: a state goes in as NAME and comes out as NAME.next.
"""

# onnx_ir and onnx leave attribute values and protocol buffers unknown.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false
from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import onnx
import onnx_ir

from mmc.errors import MmcError
from mmc.frontends.onnx_emit import TABLE
from mmc.frontends.onnx_file import OWN_DOMAIN
from mmc.frontends.onnx_functions import FUNCTIONS, OPSET, with_callees
from mmc.frontends.onnx_import import NEXT
from mmc.frontends.onnx_writer import Shared, Writer, typed
from mmc.ir.graph import Graph
from mmc.ir.types import SymbolicDim

_IR_VERSION = 10
_LARGEST_ALONE = 1 << 30
"""Bytes of weights; above, they go into a file of their own beside the model."""


def export_onnx(
    graph: Graph, tensors: Mapping[str, np.ndarray], path: Path, facts: Mapping[str, str]
) -> None:
    """Write the graph to `path`; facts go into the metadata.

    tensors: what the graph's weights name, ternary ones as int8 [N, K].
    Raises MmcError naming an operation that has no form in ONNX; nothing half-written stays.
    """
    inputs = {op: typed(op.name, op.type) for op in graph.inputs}
    symbols = {
        str(dim): (value, axis)
        for op, value in inputs.items()
        for axis, dim in enumerate(op.type.shape)
        if isinstance(dim, SymbolicDim)
    }
    shared = Shared(TABLE, tensors, symbols)
    shared.taken.update(op.name for op in inputs)
    writer = Writer(shared)
    made = writer.inline(graph, list(inputs.values()))
    names = [name + NEXT if name in graph.states else name for name, _ in graph.outputs]
    outputs = [
        writer.output(value, typed(name, op.type))
        for value, name, op in zip(made, names, graph.values, strict=True)
    ]
    whole = writer.graph("main", list(inputs.values()), outputs)
    whole.opset_imports.update({"": OPSET, OWN_DOMAIN: 1})
    used = [value for value in shared.initializers.values() if value.uses()]
    for value in used:
        whole.register_initializer(value)
    model = onnx_ir.Model(
        whole,
        ir_version=_IR_VERSION,
        producer_name="mmc",
        functions=_functions(with_callees(shared.functions)),
        metadata_props={f"{OWN_DOMAIN}.{key}": value for key, value in facts.items()},
    )
    _save(model, path, sum(a.nbytes for a in _contents(used)))


def _contents(values: Iterable[onnx_ir.Value]) -> list[np.ndarray]:
    return [v.const_value.numpy() for v in values if v.const_value is not None]


def _functions(names: Iterable[str]) -> list[onnx_ir.Function]:
    head = f'<domain: "{OWN_DOMAIN}", opset_import: ["" : {OPSET}, "{OWN_DOMAIN}" : 1]>'
    protos = [onnx.parser.parse_function(head + FUNCTIONS[name]) for name in names]
    return [onnx_ir.from_proto(proto) for proto in protos]


def _save(model: onnx_ir.Model, path: Path, size: int) -> None:
    """Into a temporary folder first, then in place."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    except OSError as error:
        raise MmcError(f"cannot be written: {error.strerror}", str(path)) from error
    try:
        data = f"{path.name}.data" if size > _LARGEST_ALONE else None
        onnx_ir.save(model, folder / path.name, external_data=data)
        for file in sorted(folder.iterdir(), reverse=True):  # the data before what names it
            os.replace(file, path.parent / file.name)
    except OSError as error:
        raise MmcError(f"cannot be written: {error.strerror}", str(path)) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
