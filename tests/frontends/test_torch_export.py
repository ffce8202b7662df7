"""Modules of one's own: names, symbols, states, scans, and what cannot be imported."""

# pyright: reportUnknownLambdaType=false

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._higher_order_ops.scan import scan
from torch.export import Dim

from mmc.errors import MmcError
from mmc.frontends.base import Stored
from mmc.frontends.torch_export import import_module
from mmc.frontends.torch_types import array_of
from mmc.ir.evaluate import evaluate
from mmc.ir.ops.recurrence import Scan
from mmc.ir.ops.source import Constant, Weight
from mmc.ir.types import DType, TensorType, symbol

B, T = Dim("B", min=1, max=64), Dim("T", min=1, max=64)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 6)
        self.register_buffer("offset", torch.arange(6, dtype=torch.int32))

    def forward(self, x: Tensor) -> dict[str, Any]:
        y = self.inner(x) + self.offset
        return {"y": y, "both": (y.sum(-1), {"a-b": x})}


def test_names_symbols_and_origins() -> None:
    found = import_module(Block(), (torch.randn(2, 3, 4),), ({0: B, 1: T},), name="block")
    graph = found.graph
    assert (graph.name, found.kind, found.source) == ("block", "module", "Block")
    assert [str(op.type) for op in graph.inputs] == ["f32[B, T, 4]"]
    assert [name for name, _ in graph.outputs] == ["y", "both.0", "both.1.a_b"]
    assert {op.name: str(op.type) for op in graph.weights} == {
        "inner.weight": "f32[6, 4]",
        "inner.bias": "f32[6]",
        "offset": "i32[6]",
    }
    linear = next(op for op in graph if op.mnemonic == "linear")
    assert str(linear.origin).startswith("inner, test_torch_export.py:")
    add = next(op for op in graph if op.mnemonic == "add")
    assert str(add.origin).startswith("Block, test_torch_export.py:")


def test_symbols_without_names() -> None:
    auto = {0: Dim.AUTO, 1: Dim.AUTO}
    found = import_module(nn.ReLU(), (torch.randn(2, 3),), (auto,))
    assert found.graph.inputs[0].type.shape == (symbol("s0"), symbol("s1"))


def test_dynamic_shapes_by_name_and_products() -> None:
    class Flat(nn.Module):
        def forward(self, x: Tensor, *rest: Tensor) -> Tensor:
            return x.reshape(-1, 2) + rest[1].sum()

    inputs = (torch.randn(2, 3, 4), torch.randn(5), torch.randn(6))
    shapes = {"x": {0: B, 1: T}, "rest": ({0: Dim("N", min=1, max=9)}, None)}
    graph = import_module(Flat(), inputs, shapes).graph
    assert [str(op.type) for op in graph.inputs] == ["f32[B, T, 4]", "f32[N]", "f32[6]"]
    assert str(graph.outputs[0][1].type) == "f32[2*B*T, 2]"


def test_exported_program() -> None:
    program = torch.export.export(nn.Linear(4, 4), (torch.randn(2, 4),))
    found = import_module(program)
    x = np.ones((2, 4), np.float32)
    wanted = array_of(program.module()(torch.from_numpy(x)))
    np.testing.assert_allclose(
        evaluate(found.graph, {"input": x}, found.tensors)["output"], wanted, 1e-6
    )


def test_names_in_common_make_a_state() -> None:
    class Step(nn.Module):
        def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
            h = 0.5 * h + x
            return h.tanh(), h

    graph = import_module(
        Step(),
        (torch.randn(2), torch.randn(2)),
        input_names=("x", "memory"),
        output_names=("y", "memory"),
    ).graph
    assert graph.states == ("memory",)


def test_written_buffer_is_a_state() -> None:
    class Counter(nn.Module):
        def __init__(self, start: float) -> None:
            super().__init__()
            self.register_buffer("seen", torch.full((3,), float(start)))

        def forward(self, x: Tensor) -> Tensor:
            self.seen += x
            return self.seen * 2

    found = import_module(Counter(0), (torch.randn(3),))
    assert found.graph.states == ("seen",)
    given = {"x": np.ones(3, np.float32), "seen": np.ones(3, np.float32)}
    made = evaluate(found.graph, given, found.tensors)
    assert made["seen"].tolist() == [2, 2, 2]
    assert made["output"].tolist() == [4, 4, 4]
    with pytest.raises(MmcError, match="'seen' is written by forward and does not start from zero"):
        import_module(Counter(1), (torch.randn(3),))


def test_written_input_is_a_state() -> None:
    class Writer(nn.Module):
        def forward(self, cache: Tensor, x: Tensor) -> Tensor:
            cache.mul_(2).add_(x)
            return cache.sum()

    assert import_module(Writer(), (torch.zeros(3), torch.ones(3))).graph.states == ("cache",)


class Scanned(nn.Module):
    """Two carries, two sequences, a captured matrix, and one output that is not a carry."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.w = nn.Parameter(torch.randn(4, 4))

    def forward(self, a: Tensor, b: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        def step(carry: tuple[Tensor, Tensor], now: tuple[Tensor, Tensor]) -> Any:
            p = torch.tanh(carry[0] @ self.w + now[0])
            q = carry[1] * now[1] + p
            return (p, q), (p + q, q.clone())

        (p, q), (s, t) = scan(step, (a, b), (x, y), dim=self.dim)
        return p, q, s, t


@pytest.mark.parametrize("dim", [0, 1])
def test_scan(dim: int) -> None:
    def inputs(batch: int, time: int) -> tuple[Tensor, ...]:
        shape = (time, batch, 4) if dim == 0 else (batch, time, 4)
        states = torch.randn(batch, 4), torch.randn(batch, 4)
        return *states, torch.randn(shape), torch.randn(shape)

    sequence = {dim: T, 1 - dim: B}
    module = Scanned(dim)
    found = import_module(module, inputs(2, 5), ({0: B}, {0: B}, sequence, sequence))
    (op,) = [op for op in found.graph if isinstance(op, Scan)]
    assert (op.axis, len(op.init), len(op.xs), len(op.captured)) == (dim, 2, 2, 1)
    assert not any(op.mnemonic == "permute" for op in found.graph)
    given = inputs(3, 7)
    names = [op.name for op in found.graph.inputs]
    arrays = dict(zip(names, map(array_of, given), strict=True))
    made = evaluate(found.graph, arrays, found.tensors)
    with torch.no_grad():
        for array, wanted in zip(made.values(), module(*given), strict=True):
            np.testing.assert_allclose(array, array_of(wanted), 1e-5, 1e-5)


def test_scan_over_mixed_axes_keeps_its_permutes() -> None:
    class Mixed(nn.Module):
        def forward(self, h: Tensor, x: Tensor, y: Tensor) -> Tensor:
            def step(c: Tensor, now: tuple[Tensor, Tensor]) -> Any:
                n = c * now[0] + now[1]
                return n, n.clone()

            return scan(step, h, (x.movedim(1, 0), y))[1]

    module = Mixed()
    given = torch.randn(2, 4), torch.randn(2, 5, 4), torch.randn(5, 2, 4)
    found = import_module(module, given)
    (op,) = [op for op in found.graph if isinstance(op, Scan)]
    assert op.axis == 0
    names = [op.name for op in found.graph.inputs]
    assert names == ["h", "x", "y"]
    arrays = dict(zip(names, map(array_of, given), strict=True))
    with torch.no_grad():
        wanted = array_of(module(*given))
    np.testing.assert_allclose(evaluate(found.graph, arrays)["output"], wanted, 1e-5)


def test_stored_weights_are_cast() -> None:
    with torch.device("meta"):
        module = nn.Linear(4, 2, bias=False)
        x = torch.randn(3, 4)
    w = np.arange(8, dtype=np.float16).reshape(2, 4)
    stored = Stored("there", TensorType(DType.F16, (2, 4)), lambda: w)
    found = import_module(module, (x,), weights={"weight": stored})
    (weight,) = found.graph.weights
    assert (weight.name, str(weight.type)) == ("there", "f16[2, 4]")
    x = np.ones((3, 4), np.float32)
    made = evaluate(found.graph, {"input": x}, found.tensors)["output"]
    np.testing.assert_array_equal(made, x @ w.T.astype(np.float32))


def test_meta_weight_without_values() -> None:
    with torch.device("meta"):
        found = import_module(nn.Linear(4, 2), (torch.randn(3, 4),))
    with pytest.raises(MmcError, match="'weight' is on the meta device"):
        found.tensors["weight"]


def test_lifted_constants() -> None:
    class Lifted(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * torch.tensor([1.0, 2.0]) + torch.tensor(3.0)

    graph = import_module(Lifted(), (torch.randn(2),)).graph
    assert [op.value for op in graph if isinstance(op, Constant)] == [3.0]
    assert len([op for op in graph if isinstance(op, Weight)]) == 1


class Failing(nn.Module):
    def __init__(self, forward: Any) -> None:
        super().__init__()
        self.body = forward

    def forward(self, x: Tensor) -> Any:
        return self.body(x)


@pytest.mark.parametrize(
    ("forward", "message"),
    [
        (lambda x: x if x.sum() > 0 else -x, "torch.export cannot trace "),
        (lambda x: x @ x, "torch.export cannot trace "),
        (lambda x: x.double(), "element type float64 is not supported"),
        (lambda x: (x, x.shape[0]), "output 'out1' is not a tensor"),
        (lambda x: torch.fft.fft(x).real, "complex64 is not supported|has no translation"),
        (lambda x: x[x > 0], "a mask|torch.export cannot trace|not a sum of products|no trans"),
        (lambda x: nn.functional.dropout(x, 0.5, True), "dropout in training mode"),
        (lambda x: x.median(-1).indices, "result number 1 is not translated"),
        (lambda x: x.reshape(x.shape[0] // 2, -1), "torch.export cannot trace|sum of products"),
    ],
)
def test_refused(forward: Any, message: str) -> None:
    with pytest.raises(MmcError, match=message) as caught:
        import_module(Failing(forward), (torch.randn(4, 6),), ({0: B},))
    assert "\n" not in str(caught.value)


def test_where_of_an_error_is_the_users_line() -> None:
    with pytest.raises(MmcError, match="dropout") as caught:
        import_module(
            nn.Sequential(nn.ReLU(), Failing(lambda x: nn.functional.dropout(x, 0.5, True))),
            (torch.randn(4, 6),),
        )
    assert caught.value.where.startswith("1, test_torch_export.py:")


def test_what_depends_on_no_input_is_computed_by_torch() -> None:
    class Positions(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            mask = torch.arange(3)[:, None] >= torch.arange(4)
            return torch.where(mask, x, 0.0), torch.zeros(2)

    found = import_module(Positions(), (torch.randn(3, 4),))
    assert {op.mnemonic for op in found.graph} == {"input", "weight", "constant", "where"}
    given = np.ones((3, 4), np.float32)
    made = evaluate(found.graph, {"x": given}, found.tensors)
    np.testing.assert_array_equal(made["out0"], np.tri(3, 4))
    np.testing.assert_array_equal(made["out1"], np.zeros(2))
