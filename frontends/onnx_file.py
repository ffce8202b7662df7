"""Read an ONNX file: parsed, checked, functions inlined, small constants folded.

Nothing of the file is believed: the graph passes onnx's own checker, every tensor must have the
bytes that its shape asks for, and external data must lie in the model's folder
(https://onnx.ai/onnx/repo-docs/ExternalData.html).
"""

# onnx has no types for its protocol buffers.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false
from __future__ import annotations

import logging
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any

import onnx
import onnx_ir
from google.protobuf.message import DecodeError
from onnx_ir.passes.common import InlinePass, RemoveUnusedNodesPass
from onnxscript.optimizer import fold_constants_ir

from mmc.errors import MmcError

OLDEST_OPSET = 7
"""From here on operands broadcast as they do in numpy."""
OWN_DOMAIN = "mmc"
"""Functions of this domain are written by `mmc export`, and known by name when they come back."""
_LARGEST_FILE = 2**31 - 1
"""Protocol buffers end here; larger models keep their weights in external data."""
_FOLDER = logging.getLogger("onnxscript.optimizer")
_LARGEST_GRAPH = 1_000_000
"""Nodes, those of functions counted wherever they are called."""
_LARGEST_FOLDED = 1024
"""Elements.  Weights stay as they are for the compiler's own passes, which fold them exactly."""
_GROWING = frozenset({"Expand", "Range", "Tile", "Pad", "OneHot", "EyeLike", "Resize", "Upsample"})
"""Operators whose result may be of any size, however small their inputs are: never folded here."""


Promised = dict[str, tuple[onnx_ir.DataType | None, int | None]]
"""The element type and the number of axes that the file says each output has."""


def read_model(path: Path) -> tuple[onnx_ir.Model, Promised]:
    """The model in a file; raises MmcError where the file is damaged or not to be trusted."""
    path = path.resolve()
    proto = _parse(path)
    _check_opset(proto, path)
    for tensor in _tensors(proto):
        _check_tensor(tensor, path)
    try:
        onnx.checker.check_model(str(path))  # by its path: it looks for external data beside it
    except (onnx.checker.ValidationError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise MmcError(f"is not a valid ONNX model: {reason}", str(path)) from error
    model = onnx_ir.from_proto(proto)
    onnx_ir.external_data.set_base_dir(model.graph, path.parent)
    promised = {
        str(o.name): (o.dtype, None if o.shape is None else len(o.shape))
        for o in model.graph.outputs
    }
    _lower(model, path)
    return model, promised


def _parse(path: Path) -> Any:
    try:
        if path.stat().st_size > _LARGEST_FILE:
            raise MmcError("is larger than 2 GiB", str(path), "save its weights as external data")
        proto = onnx.load(str(path), format="protobuf", load_external_data=False)
    except OSError as error:
        raise MmcError(f"cannot read: {error.strerror}", str(path)) from error
    except (DecodeError, ValueError) as error:
        raise MmcError("is cut short or not an ONNX file", str(path)) from error
    if not proto.graph.node and not proto.graph.output:
        raise MmcError("is not an ONNX file: it holds no graph", str(path))
    return proto


def _check_opset(proto: Any, path: Path) -> None:
    newest = onnx.defs.onnx_opset_version()
    versions = [i.version for i in proto.opset_import if i.domain in ("", "ai.onnx")]
    for version in versions:
        if version > newest:
            raise MmcError(
                f"opset {version} is newer than the installed onnx package knows ({newest})",
                str(path),
                "update onnx, or export the model with an older opset",
            )
        if version < OLDEST_OPSET:
            raise MmcError(
                f"opset {version} is older than {OLDEST_OPSET}",
                str(path),
                "onnx.version_converter.convert_version(model, 18) makes it newer",
            )


def _graphs(proto: Any) -> Iterator[Any]:
    """The graph, those nested in its nodes, and the functions."""
    stack = [proto.graph, *proto.functions]
    while stack:
        graph = stack.pop()
        yield graph
        for node in graph.node:
            for attribute in node.attribute:
                stack += [*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])]


def _tensors(proto: Any) -> Iterator[Any]:
    for graph in _graphs(proto):
        yield from getattr(graph, "initializer", ())
        if getattr(graph, "sparse_initializer", ()):
            raise MmcError("sparse initialisers are not supported", hint="save them dense")
        for node in graph.node:
            for attribute in node.attribute:
                yield from attribute.tensors
                if attribute.HasField("t"):
                    yield attribute.t


def _check_tensor(tensor: Any, path: Path) -> None:
    """Its bytes are there: as many as the shape asks for, and inside the model's folder."""
    where = f"{path}, tensor {tensor.name!r}"
    try:
        dtype = onnx_ir.DataType(tensor.data_type)
    except ValueError:
        raise MmcError(f"has the unknown element type {tensor.data_type}", where) from None
    if dtype is onnx_ir.DataType.STRING:
        return
    if any(d < 0 for d in tensor.dims):
        raise MmcError(f"has the shape {list(tensor.dims)}", where)
    count = prod(tensor.dims)
    wanted = -(-count * dtype.bitwidth // 8)
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        _check_external(tensor, wanted, path, where)
        return
    if tensor.HasField("raw_data"):
        found = len(tensor.raw_data)
    else:  # in a list of its own kind, 32 bits or more an entry; complex and 4-bit ones in pairs
        fields = ("float_data", "int32_data", "int64_data", "double_data", "uint64_data")
        entries = sum(len(getattr(tensor, f)) for f in fields)
        per_entry = {4: 2, 2: 4}.get(dtype.bitwidth, 1)
        found = wanted if entries == -(-count // per_entry) else entries
    if found != wanted:
        raise MmcError(f"{list(tensor.dims)} needs {wanted} bytes, the file has {found}", where)


def _check_external(tensor: Any, wanted: int, path: Path, where: str) -> None:
    fields = {entry.key: entry.value for entry in tensor.external_data}
    location = fields.get("location", "")
    file = (path.parent / location.replace("\0", "")).resolve()
    plain = location and "\0" not in location and not Path(location).is_absolute()
    if not plain or not file.is_relative_to(path.parent):
        raise MmcError(
            f"its data is said to lie in {location!r}: not inside the model's folder", where
        )
    if not file.is_file():
        raise MmcError(f"its data is missing: there is no file {location!r}", where)
    try:
        offset, length = (int(fields.get(key, 0)) for key in ("offset", "length"))
    except ValueError:
        raise MmcError("offset or length of its data is not a number", where) from None
    size = file.stat().st_size
    if offset < 0 or (length and length != wanted) or offset + wanted > size:
        raise MmcError(
            f"{list(tensor.dims)} needs {wanted} bytes, said are {length or 'none'} from {offset} "
            f"on in {location!r} ({size} bytes)",
            where,
        )


def _lower(model: onnx_ir.Model, path: Path) -> None:
    """Functions go where they are called; small constants are computed."""
    try:
        if (count := _nodes_when_inlined(model)) > _LARGEST_GRAPH:
            raise MmcError(f"its functions call each other {count} times or more", str(path))
        _FOLDER.setLevel(logging.ERROR)  # else it tells of every node that it leaves alone
        InlinePass(criteria=lambda function: function.domain != OWN_DOMAIN)(model)
        fold_constants_ir(
            model,
            input_size_limit=_LARGEST_FOLDED,
            output_size_limit=_LARGEST_FOLDED,
            should_fold=lambda node: False if node.op_type in _GROWING else None,
        )
        RemoveUnusedNodesPass()(model)
    except MmcError:
        raise
    except Exception as error:  # these libraries raise whatever their own assertions raise
        cause = error.__cause__ or error
        raise MmcError(f"its constants cannot be folded: {cause}", str(path)) from error


def _nodes_when_inlined(model: onnx_ir.Model) -> int:
    """Nodes of the graph once functions stand where they are called."""
    counts: dict[Any, int] = {}

    def count(graph: onnx_ir.Graph | onnx_ir.Function) -> int:
        return sum(map(calls, onnx_ir.traversal.RecursiveGraphIterator(graph)))

    def calls(node: onnx_ir.Node) -> int:
        name = node.op_identifier()
        if name not in model.functions:
            return 1
        if name not in counts:
            counts[name] = _LARGEST_GRAPH + 1  # while it is open: it may call itself
            counts[name] = count(model.functions[name])
        return counts[name]

    return count(model.graph)
