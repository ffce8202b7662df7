"""Import an ONNX model: what its inputs and outputs are called and mean, and its graph.

A language model is recognised by its interface, that of `Imported`: inputs ids and lengths, an
output logits, and for each state an input NAME and an output NAME.next.
"""

# onnx_ir leaves shapes unknown.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false
from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import onnx_ir

from mmc.errors import MmcError
from mmc.frontends.base import Imported
from mmc.frontends.onnx_call import DTYPES, Known, dtype_of
from mmc.frontends.onnx_control import CONTROL, Listed
from mmc.frontends.onnx_file import OWN_DOMAIN, read_model
from mmc.frontends.onnx_table import TABLE
from mmc.frontends.onnx_walk import Model, Walk, spelt
from mmc.frontends.operands import Unsupported
from mmc.frontends.tokenizer_files import tokenizer_of
from mmc.ir.graph import Graph, graph_of
from mmc.ir.op import Value
from mmc.ir.ops.attention import CacheAppend
from mmc.ir.ops.source import Input
from mmc.ir.types import Dim, DType, TensorType, parse_dim, symbol

NEXT = ".next"
"""What the output of a state is called, behind the name of its input."""
_LARGEST_SIZE = 2**31


def load_onnx(path: str | Path) -> Imported:
    """The model in an ONNX file.

    Raises MmcError, which names the file and the node or tensor, for a file that is damaged, data
    outside its folder, and operators without a translation.
    """
    path = Path(path)
    source, promised = read_model(path)
    _refuse_unknown(source, path)
    model = Model(str(path), dict(source.opset_imports))
    inputs = _inputs(source.graph, str(path))
    walk = Walk(model)
    walk.bind(list(inputs), list(inputs.values()))
    made = dict(zip(source.graph.outputs, walk.run(source.graph), strict=True))
    outputs = {str(o.name): _output(o, found, walk, str(path)) for o, found in made.items()}
    for name, value in outputs.items():
        _check_promise(value, promised[name], f"{path}, output {name!r}")
    return _imported(source, path, list(inputs.values()), outputs, model)


def _nodes(graph: onnx_ir.Graph) -> Iterator[onnx_ir.Node]:
    for node in graph:
        yield node
        for attribute in node.attributes.values():
            if attribute.type is onnx_ir.AttributeType.GRAPH:
                yield from _nodes(attribute.value)


def _refuse_unknown(source: onnx_ir.Model, path: Path) -> None:
    """All operators without a translation at once: how often each comes, and where first."""
    unknown = [n for n in _nodes(source.graph) if spelt(n) not in TABLE and spelt(n) not in CONTROL]
    if not unknown:
        return
    counts = Counter(map(spelt, unknown))
    first = unknown[0]
    name = first.name or next((o.name for o in first.outputs if o.name), "")
    raise MmcError(
        f"no translation of {', '.join(f'{op} ({n})' for op, n in counts.items())}",
        f"{path}, node {name!r}",
        "write the model with operators of the tables in mmc/frontends/onnx_*.py, or add an entry",
    )


def _inputs(graph: onnx_ir.Graph, file: str) -> dict[onnx_ir.Value, Input]:
    """What the caller passes; an input with an initialiser is a weight."""
    given = [v for v in graph.inputs if v.name not in graph.initializers]
    names: dict[str, str] = {}
    ids = next((v for v in given if v.name == "ids"), None)
    if ids is not None and ids.shape is not None and len(ids.shape) == 2:
        spelt_dims = [str(d.value) for d in ids.shape if isinstance(d, onnx_ir.SymbolicDim)]
        names = dict(zip(spelt_dims, "BT", strict=False)) if len(set(spelt_dims)) == 2 else {}
    return {v: _input(v, names, file) for v in given}


def _input(value: onnx_ir.Value, names: dict[str, str], file: str) -> Input:
    where = f"{file}, input {value.name!r}"
    try:
        dtype = dtype_of(value.dtype)
    except Unsupported as error:
        raise MmcError(str(error), where) from error
    if value.shape is None:
        raise MmcError("has no shape: not even how many axes it has", where)
    dims = [_dim(d, f"{value.name}_{axis}", names) for axis, d in enumerate(value.shape)]
    if odd := [d for d in dims if isinstance(d, int) and not 0 <= d < _LARGEST_SIZE]:
        raise MmcError(f"has an axis of size {odd[0]}", where)
    return Input(_plain(str(value.name)), TensorType(dtype, tuple(dims)))


def _dim(dim: int | onnx_ir.SymbolicDim, unnamed: str, names: dict[str, str]) -> Dim:
    """A number, a symbol, or a sum of products of symbols such as `past + 1`."""
    if isinstance(dim, int):
        return dim
    text = str(dim.value) if dim.value else unnamed
    if text in names:
        return symbol(names[text])
    try:
        return parse_dim(text.replace(" ", ""))
    except ValueError:
        return symbol(re.sub(r"^(?=\d)|\W", "_", text))


def _plain(name: str) -> str:
    """A name as the text form has it."""
    return re.sub(r"[^\w.]", "_", name)


def _output(value: onnx_ir.Value, found: object, walk: Walk, file: str) -> Value:
    """What the graph returns."""
    where = f"{file}, output {value.name!r}"
    if isinstance(found, Listed):
        raise MmcError("is a sequence of tensors", where, "return tensors only")
    assert isinstance(found, Known | Value)
    return walk.value(found, value)


def _check_promise(
    made: Value, promised: tuple[onnx_ir.DataType | None, int | None], where: str
) -> None:
    dtype, rank = promised
    same = dtype is None or DTYPES.get(dtype) is made.type.dtype
    if not same or rank not in (None, made.type.rank):
        told = "any type" if dtype is None else dtype.name
        raise MmcError(f"is said to be {told} of {rank} axes and is {made.type}", where)


def _imported(
    source: onnx_ir.Model, path: Path, inputs: list[Input], outputs: dict[str, Value], model: Model
) -> Imported:
    names = {op.name for op in inputs}
    states = {name for name in names if f"{name}{NEXT}" in outputs}
    renamed = {
        name.removesuffix(NEXT) if name.removesuffix(NEXT) in states else _plain(name): value
        for name, value in outputs.items()
    }
    if len(renamed) != len(outputs) or len(names) != len(inputs):
        raise MmcError("two inputs or two outputs have one name", str(path))
    graph = graph_of("main", renamed, inputs)
    own = source.metadata_props.get(f"{OWN_DOMAIN}.eos_token_ids", "")
    eos = tuple(int(i) for i in own.split() if i.isdigit())
    if not _is_language_model(graph, states):
        return Imported(graph, model.tensors, "module", str(path))
    vocabulary = graph.outputs[0][1].type.shape[-1]
    return Imported(
        graph,
        model.tensors,
        "causal_lm",
        str(path),
        tokenizer=tokenizer_of(path.parent),
        vocab_size=vocabulary if isinstance(vocabulary, int) else None,
        eos_token_ids=eos,
        context=_context(graph),
    )


def _context(graph: Graph) -> int | None:
    """The positions that every cache of the graph holds; None where there is none."""
    sizes = [op.type.shape[2] for op in graph.ops if isinstance(op, CacheAppend)]
    return min((size for size in sizes if isinstance(size, int)), default=None)


def _is_language_model(graph: Graph, states: set[str]) -> bool:
    """(ids i64[B, T], lengths i64[B], states) -> (logits f32[B, T, V], states)."""
    b, t = symbol("B"), symbol("T")
    inputs = {op.name: op.type for op in graph.inputs}
    (first, logits), *rest = graph.outputs
    same = all(value.type == inputs.get(name) for name, value in rest)
    return (
        inputs.get("ids") == TensorType(DType.I64, (b, t))
        and inputs.get("lengths") == TensorType(DType.I64, (b,))
        and set(inputs) == {"ids", "lengths", *states}
        and first == "logits"
        and logits.type.dtype is DType.F32
        and logits.type.shape[:2] == (b, t)
        and isinstance(logits.type.shape[-1], int)
        and {name for name, _ in rest} == states
        and same
    )
