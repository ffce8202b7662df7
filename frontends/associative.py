"""torch's `associative_scan`, traced step by step.

Torch has no operation for it on a CPU: its generic form halves the sequence again and again, and a
trace holds all of that, with sizes that must be known.  An associative scan is y[0] = x[0] and
y[t] = f(y[t - 1], x[t]); so it is traced as torch's `scan`, whose carry begins with x[0], and
`find-recurrence` sees what it is.  Floats are added in the order of time, not of a tree.
"""

# Torch's stubs leave these types unknown.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false
from __future__ import annotations

import inspect
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree


def in_order(
    combine: partial[Any],
    leaves: Sequence[Tensor],
    dim: int = 0,
    additional_inputs: Sequence[Tensor] = (),
) -> list[Tensor]:
    """What torch's `generic_associative_scan` computes; torch has put time first.

    combine: torch's own wrapper, with the user's function under `vmap`, which we take off.
    """
    from torch._higher_order_ops.scan import scan

    batched = combine.keywords["combine_fn"]
    one = partial(combine, combine_fn=inspect.getclosurevars(batched).nonlocals["func"])

    def step(before: list[Tensor], now: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        made = [each.contiguous() for each in pytree.tree_leaves(one(*before, *now))]
        return made, [each.clone() for each in made]

    first = [leaf[0].contiguous() for leaf in leaves]
    if leaves[0].shape[0] == 1:
        return list(leaves)
    _, rest = scan(step, first, [leaf[1:].contiguous() for leaf in leaves])
    return [torch.cat((a.unsqueeze(0), b)) for a, b in zip(first, rest, strict=True)]


@contextmanager
def step_by_step() -> Generator[None]:
    """Within it, torch traces `associative_scan` as `scan`."""
    # By its name: the package has a function of that name, too.
    module: Any = import_module("torch._higher_order_ops.associative_scan")
    before = module.generic_associative_scan
    module.generic_associative_scan = in_order
    try:
        yield
    finally:
        module.generic_associative_scan = before
