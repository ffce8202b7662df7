"""Walk a graph that torch has traced and make IR operations of its nodes."""

# Torch's stubs leave these types unknown.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false
from __future__ import annotations

import operator
import os
import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import fx
from torch._ops import HigherOrderOperator, OpOverload

from mmc.errors import MmcError
from mmc.frontends.aten import DROPPED, translation
from mmc.frontends.aten_call import Call
from mmc.frontends.operands import Unsupported, moved
from mmc.frontends.torch_types import Sizes
from mmc.ir.graph import Graph
from mmc.ir.op import Origin, Value, VerifyError, origin
from mmc.ir.ops.recurrence import Scan
from mmc.ir.ops.shape import Permute
from mmc.ir.ops.source import Input
from mmc.ir.types import TensorType

_FRAME = re.compile(r'File "([^"<]+)", line (\d+)')
_TORCH = os.path.dirname(torch.__file__) + os.sep
_SCAN = "scan"
_INLINED = {"wrap_with_set_grad_enabled": 1, "wrap_with_autocast": 4}
"""Regions that change a mode of torch, and how many arguments come before the region itself."""


MakeLayer = Callable[[str, list[Value], list[Value]], list[Value]]
Keep = Callable[[torch.Tensor, Origin], Value]


class Walk:
    """One traced graph on its way into the IR.

    sizes: shared by nested graphs, so that a symbol has one name.
    within: the origin of nodes that know of none, such as those of a scan's body.
    path: from the model to this graph.  layer: makes the layer at a path, see `mmc.layer`.
    keep: makes a value of a tensor that is known.  Where it is given, torch itself computes what
    depends on no input: masks, positions, tables.
    """

    def __init__(
        self,
        module: fx.GraphModule,
        sizes: Sizes,
        within: Origin | None = None,
        path: str = "",
        layer: MakeLayer | None = None,
        keep: Keep | None = None,
    ) -> None:
        self._module, self._sizes, self._within = module, sizes, within
        self._path, self._layer, self._keep = path, layer, keep
        self._env: dict[fx.Node, Any] = {}
        self._kept: dict[fx.Node, Value] = {}

    def run(self, given: Sequence[Any]) -> list[Any]:
        """What the graph returns, given a value (or a number) for each placeholder in order."""
        remaining = iter(given)
        for node in self._module.graph.nodes:
            match node.op:
                case "placeholder":
                    self._env[node] = next(remaining)
                case "get_attr":
                    self._env[node] = getattr(self._module, node.target)
                case "call_function" if node.users:
                    self._call(node)
                case "output":
                    return list(self._read(node.args[0]))
                case _:
                    pass
        raise AssertionError("a traced graph ends in an output node")

    def _raw(self, argument: Any) -> Any:
        """What a node stands for, tensors as they are."""
        if isinstance(argument, list | tuple):
            return [self._raw(a) for a in argument]
        if not isinstance(argument, fx.Node):
            return argument
        if argument not in self._env:  # arithmetic on sizes: torch has worked it out
            return self._sizes.dim(argument.meta["val"])
        return self._env[argument]

    def _read(self, argument: Any) -> Any:
        """What an operation is given: tensors that are known become values here."""
        if isinstance(argument, list | tuple):
            return [self._read(a) for a in argument]
        found = self._raw(argument)
        if not (isinstance(found, torch.Tensor) and self._keep):
            return found
        if argument not in self._kept:
            where = origin_of(argument, self._within, self._path)
            self._kept[argument] = self._keep(found, where)
        return self._kept[argument]

    def _computed(self, node: fx.Node) -> Any:
        """What torch gives where all operands are known numbers and tensors, else None."""
        target = node.target
        if not self._keep or not isinstance(target, OpOverload) or not _is_repeatable(target):
            return None
        if not all(_is_known(self._env.get(n)) for n in node.all_input_nodes):
            return None
        promised = node.meta["val"]
        tensors = promised if isinstance(promised, list | tuple) else [promised]
        if not all(_has_values(t) for t in tensors):
            return None
        args, kwargs = fx.map_arg((node.args, node.kwargs), lambda n: self._env[n])
        with torch.no_grad():
            return target(*args, **kwargs)

    def _call(self, node: fx.Node) -> None:
        if isinstance(node.meta.get("val"), torch.SymInt | int | torch.SymBool | bool):
            return
        if str(node.target) in DROPPED:
            return
        where = origin_of(node, self._within, self._path)
        try:
            with origin(where):
                made = self._computed(node)
                self._env[node] = self._translate(node, where) if made is None else made
        except (VerifyError, Unsupported) as error:
            raise MmcError(f"operation {node.target}: {error}", str(where)) from error
        except MmcError as error:
            if error.where:
                raise
            raise MmcError(
                f"operation {node.target}: {error.what}", str(where), error.hint
            ) from error

    def _translate(self, node: fx.Node, where: Origin) -> Any:
        target = node.target
        if target is operator.getitem:
            return self._item(*node.args)
        if isinstance(target, HigherOrderOperator):
            return self._region(target.name(), node, where)
        if str(target) == "mmc.layer.default" and self._layer:
            through, given, path = self._read(node.args)
            return self._layer(path, through, given)
        translate = translation(str(target)) if isinstance(target, OpOverload) else None
        if translate is None:
            raise MmcError(
                f"operation {target} has no translation",
                str(where),
                "write it with operations of the table in mmc/frontends/aten.py, or add an entry",
            )
        promised = self._types(node.meta["val"])
        made = translate(Call(promised), *self._arguments(node))
        self._check(node, made if isinstance(made, tuple) else (made,), promised)
        return made

    def _arguments(self, node: fx.Node) -> list[Any]:
        """The arguments in the order of the schema, defaults filled in."""
        bound: list[Any] = [self._read(a) for a in node.args]
        for name, default in _parameters(node.target)[len(bound) :]:
            bound.append(self._read(node.kwargs[name]) if name in node.kwargs else default)
        return bound

    def _types(self, promised: Any) -> tuple[TensorType, ...]:
        tensors = promised if isinstance(promised, list | tuple) else [promised]
        return tuple(self._sizes.tensor(t) for t in tensors if isinstance(t, torch.Tensor))

    def _check(
        self, node: fx.Node, made: Sequence[Value | None], promised: Sequence[TensorType]
    ) -> None:
        for value, wanted in zip(made, promised, strict=True):
            if value is not None and value.type != wanted:
                raise MmcError(f"operation {node.target} became {value.type}, not {wanted}")

    def _item(self, whole: Any, index: Any) -> Any:
        item = self._read(whole)[index]
        if item is None:
            raise Unsupported(f"its result number {index} is not translated")
        return item

    def _region(self, name: str, node: fx.Node, where: Origin) -> Any:
        if name == _SCAN:
            module, init, xs, captured = self._read(node.args)
            return self._scan(module, init, xs, captured, where)
        if name in _INLINED:
            body, *given = [self._raw(a) for a in node.args[_INLINED[name] :]]
            return self._nested(body, where, self._keep).run(given)
        raise MmcError(f"operation {name} has no translation", str(where))

    def _nested(self, module: fx.GraphModule, where: Origin, keep: Keep | None = None) -> Walk:
        return Walk(module, self._sizes, where, self._path, self._layer, keep)

    def _scan(
        self,
        module: fx.GraphModule,
        init: list[Value],
        xs: list[Value],
        captured: list[Any],
        where: Origin,
    ) -> list[Value]:
        """Torch scans over axis 0 and permutes around it; the IR scans over any axis."""
        steps = [x.type.with_shape(x.type.shape[1:]) for x in xs]
        given = [
            *(Input(f"carry{i}", value.type) for i, value in enumerate(init)),
            *(Input(f"x{i}", step) for i, step in enumerate(steps)),
            *(_captured(i, value) for i, value in enumerate(captured)),
        ]
        made = self._nested(module, where).run(given)
        names = [*(f"carry{i}" for i in range(len(init))), *(f"y{i}" for i in range(len(made)))]
        inputs = tuple(value for value in given if isinstance(value, Input))
        body = Graph("step", inputs, tuple(zip(names, made, strict=False)))
        axis = min([_front_axis(x) for x in xs], default=0)
        if axis != max(map(_front_axis, xs)) or any(y.type.rank < axis for y in made):
            axis = 0
        sources = [x.x if axis and isinstance(x, Permute) else x for x in xs]
        outer = tuple(value for value in captured if isinstance(value, Value))
        scan = Scan(tuple(init), tuple(sources), outer, body, axis)
        last, ys = scan.results[: len(init)], scan.results[len(init) :]
        return [*last, *(moved(y, axis, 0) for y in ys)]


def _is_known(content: Any) -> bool:
    return isinstance(content, torch.Tensor | int | float | str)


def _has_values(promised: Any) -> bool:
    """Of a traced tensor: its sizes are numbers, and its device has memory."""
    fixed = not any(isinstance(d, torch.SymInt) for d in promised.shape)
    return fixed and promised.device.type != "meta"


def _is_repeatable(target: OpOverload) -> bool:
    return torch.Tag.nondeterministic_seeded not in target.tags


def _captured(index: int, value: Any) -> Any:
    return Input(f"captured{index}", value.type) if isinstance(value, Value) else value


def _front_axis(x: Value) -> int:
    """The axis that a permutation brings to the front, leaving the others in order; 0 for none."""
    if not isinstance(x, Permute):
        return 0
    front, *rest = x.order
    return front if rest == sorted(rest) else 0


@lru_cache(maxsize=4096)
def _parameters(target: OpOverload) -> tuple[tuple[str, Any], ...]:
    schema = target._schema  # pyright: ignore[reportPrivateUsage]
    return tuple(
        (a.name, a.default_value if a.has_default_value() else None) for a in schema.arguments
    )


def origin_of(node: fx.Node, within: Origin | None = None, prefix: str = "") -> Origin:
    """The module path, which goes on from the prefix, and the user's own source line of a node."""
    stack = list(node.meta.get("nn_module_stack", {}).values())
    known = bool(stack) and not stack[-1][0].startswith("_empty_nn_module_stack")
    path = within.path if within else prefix or "main"
    if known:  # the outermost module has no path: its class stands for it
        path = ".".join(filter(None, (prefix, stack[-1][0])))
        path = path or str(stack[-1][1]).rpartition(".")[2]
    frames = [f for f in _FRAME.findall(node.meta.get("stack_trace") or "") if _is_user(f[0])]
    if not frames:
        return Origin(path, within.line if within else "")
    file, line = frames[-1]
    return Origin(path, f"{os.path.basename(file)}:{line}")


def _is_user(file: str) -> bool:
    return os.sep in file and not file.startswith(_TORCH)


def unknown_operations(module: fx.GraphModule) -> dict[OpOverload, fx.Node]:
    """The operations without a translation, nested graphs included, each with its first node."""
    found: dict[OpOverload, fx.Node] = {}
    for node in operations(module):
        target = node.target
        if isinstance(target, OpOverload) and not _is_translated(node):
            found.setdefault(target, node)
    return found


def _is_translated(node: fx.Node) -> bool:
    sizes_only = isinstance(node.meta.get("val"), torch.SymInt | int)
    name = str(node.target)
    if name == "mmc.layer.default":
        return True
    return sizes_only or name in DROPPED or translation(name) is not None


def operations(module: fx.GraphModule) -> list[fx.Node]:
    """Every call in the graph and its nested graphs."""
    graphs = [m for m in module.modules() if isinstance(m, fx.GraphModule)]
    return [node for m in graphs for node in m.graph.nodes if node.op == "call_function"]
