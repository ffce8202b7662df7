"""torch.compile with MMC behind it gives what torch gives, and says what was left to torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from mmc import dynamo
from mmc.errors import MmcError


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    torch.manual_seed(0)
    torch.compiler.reset()
    dynamo.reset()
    with torch.no_grad():
        yield


class Gated(torch.nn.Module):
    """A ternary layer behind a norm, with a buffer and a number in its signature."""

    def __init__(self) -> None:
        super().__init__()
        self.w = torch.nn.Parameter(0.3 * torch.randint(-1, 2, (24, 16)).float())
        self.register_buffer("shift", torch.ones(24))

    def forward(self, x: torch.Tensor, power: int = 1) -> torch.Tensor:
        y = F.linear(F.rms_norm(x, (16,)), self.w) + self.get_buffer("shift")
        return torch.sigmoid(y) * y * power


def compiled(module: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    return torch.compile(module, backend=dynamo.backend, dynamic=True, options=options or None)


def close(a: torch.Tensor, b: torch.Tensor) -> bool:
    return torch.allclose(a, b, rtol=1e-5, atol=1e-5)


def told() -> tuple[int, int, int]:
    """Sets of sizes that were compiled, calls, and calls that were left to torch."""
    parts = dynamo.parts()
    return (
        sum(p.compiled for p in parts),
        sum(p.calls for p in parts),
        sum(p.in_torch for p in parts),
    )


def test_every_size_is_compiled_once() -> None:
    module = Gated()
    run = compiled(module)
    for rows in (3, 5, 3, 5):
        x = torch.randn(rows, 16)
        assert close(run(x), module(x))
    made, calls, in_torch = told()
    assert (made, calls, in_torch) == (2, 4, 0)


def test_weights_may_change() -> None:
    module, x = Gated(), torch.randn(3, 16)
    run = compiled(module)
    before = run(x)
    module.w.mul_(2)
    module.get_buffer("shift").add_(1)
    assert close(run(x), module(x))
    assert not close(run(x), before)
    assert told() == (2, 3, 0)


def test_numbers_are_part_of_the_size() -> None:
    module, x = Gated(), torch.randn(3, 16)
    run = compiled(module)
    for power in (1, 2, 3):
        assert close(run(x, power), module(x, power))
    assert told()[2] == 0


def test_a_model_in_two_graphs() -> None:
    class Broken(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gated = Gated()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.gated(x)
            torch._dynamo.graph_break()  # pyright: ignore[reportPrivateUsage]
            return y.softmax(-1)

    module, x = Broken(), torch.randn(3, 16)
    assert close(compiled(module)(x), module(x))
    assert len(dynamo.parts()) == 2
    assert told() == (2, 2, 0)


def test_what_has_no_translation_runs_in_torch_and_is_counted() -> None:
    def sorted_rows(x: torch.Tensor) -> torch.Tensor:
        return torch.linalg.svdvals(x) * 2

    x = torch.randn(3, 16)
    run = compiled(sorted_rows)
    assert close(run(x), sorted_rows(x))
    assert close(run(x), sorted_rows(x))
    (part,) = dynamo.parts()
    assert (part.compiled, part.calls, part.in_torch) == (0, 2, 2)
    ((reason, count),) = part.reasons.items()
    assert "svd" in reason
    assert count == 2


def test_gradients_are_torchs() -> None:
    module, x = Gated(), torch.randn(3, 16)
    with torch.enable_grad():
        compiled(module)(x).sum().backward()
        found = module.w.grad
        module.w.grad = None
        module(x).sum().backward()
    assert found is not None
    assert module.w.grad is not None
    assert close(found, module.w.grad)
    assert told() == (0, 1, 1)


def test_more_sizes_than_are_kept_run_in_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dynamo, "MOST_SIZES", 2)
    module = Gated()
    run = compiled(module)
    for rows in range(2, 5):
        x = torch.randn(rows, 16)
        assert close(run(x), module(x))
    assert len(dynamo.parts()) == 1
    assert told() == (2, 3, 1)
    assert dynamo.parts()[0].reasons == {"more than 2 sets of sizes": 1}


def test_options_are_those_of_compile() -> None:
    module, x = Gated(), torch.randn(3, 16)
    assert close(compiled(module, target="reference")(x), module(x))
    with pytest.raises(Exception, match="knows no option 'colour'"):
        compiled(Gated(), colour="red")(x)
    with pytest.raises(MmcError, match="knows no option"):
        dynamo.backend(None, (), {"colour": "red"})
