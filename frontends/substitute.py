"""Modules that torch cannot trace, replaced by equivalents that it can while a model is traced.

Triton kernels and the like are found by the qualified name of their class, so the package that has
them need not be importable.  An equivalent takes over the parameters of what it stands for, under
the same names, and says which numerics it has: eps and rounding differ between such packages.
"""

# Torch's stubs leave these types unknown.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false
from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

from mmc.errors import MmcError

if TYPE_CHECKING:
    from torch import nn

    Factory = Callable[[nn.Module], nn.Module]


@dataclass(frozen=True)
class Substitution:
    """make: from the module to its equivalent.  declares: the numerics, such as "eps 1e-6"."""

    make: Factory
    declares: str


@dataclass(frozen=True)
class Substituted:
    """What was replaced: its path in the model, its class, and what stands there declares."""

    path: str
    was: str
    declares: str


def _own(name: str) -> Factory:
    """A factory of `frontends/models/substitutes.py`, which is imported when it is used."""

    def make(module: nn.Module) -> nn.Module:
        return getattr(import_module("mmc.frontends.models.substitutes"), name)(module)

    return make


_FUSED = Substitution(
    _own("FusedBitLinear"), "RMSNorm eps 1e-6, least maximum 1e-5, activations round half away"
)
_RMS = Substitution(_own("RmsNorm"), "RMSNorm with the module's own eps")
_GATED = Substitution(_own("GatedRmsNorm"), "RMSNorm with the module's own eps, times SiLU")
_HALF_UP = Substitution(
    _own("HalfUpBitLinear"), "no norm, least maximum 1e-5, both quantisers round half up"
)
_PACKED = Substitution(
    _own("PackedBitLinear"), "least maximum 1e-5, round half even, divided by weight_scale"
)

_REGISTRY: dict[str, Substitution] = {
    "mmfreelm.ops.fusedbitnet.FusedBitLinear": _FUSED,
    "mmfreelm.modules.layernorm.RMSNorm": _RMS,
    "mmfreelm.modules.layernorm.FusedRMSNormSwishGate": _GATED,
    "fla.modules.fused_bitlinear.FusedBitLinear": _FUSED,
    "fla.modules.layernorm.RMSNorm": _RMS,
    "fla.modules.fused_norm_gate.FusedRMSNormGated": _GATED,
    "onebitllms.layers.bitnet.BitNetLinear": _HALF_UP,
    "transformers.integrations.bitnet.BitLinear": _PACKED,
}


def register(name: str, make: Factory, declares: str) -> None:
    """Replace modules of the class "package.module.Class" by what `make(module)` returns.

    make: keeps the parameters, under their names, and the signature of `forward`.
    declares: what the numerics are, for the report: eps, rounding.  A later entry takes the place
    of an earlier one.
    """
    if "." not in name:
        raise MmcError(
            f"{name!r} is not a qualified class name", "register", "package.module.Class"
        )
    _REGISTRY[name] = Substitution(make, declares)


def registered() -> dict[str, str]:
    """The classes that are replaced, and what their equivalents declare."""
    return {name: entry.declares for name, entry in _REGISTRY.items()}


def class_name(module: nn.Module) -> str:
    """The qualified name of a module's class."""
    return f"{type(module).__module__}.{type(module).__qualname__}"


@contextmanager
def substituted(model: nn.Module) -> Generator[tuple[nn.Module, tuple[Substituted, ...]]]:
    """The model with equivalents in place, and what was replaced; afterwards it is as before."""
    if class_name(model) in _REGISTRY:
        entry = _REGISTRY[class_name(model)]
        whole = Substituted("", class_name(model), entry.declares)
        yield entry.make(model).train(model.training), (whole,)
        return
    before = {
        path: module for path, module in model.named_modules() if class_name(module) in _REGISTRY
    }
    outermost = [p for p in before if not any(p.startswith(f"{other}.") for other in before)]
    told: list[Substituted] = []
    try:
        for path in outermost:
            module = before[path]
            entry = _REGISTRY[class_name(module)]
            model.set_submodule(path, entry.make(module).train(module.training))
            told.append(Substituted(path, class_name(module), entry.declares))
        yield model, tuple(told)
    finally:
        for path in outermost:
            model.set_submodule(path, before[path])


def untraceable(model: nn.Module, error: BaseException) -> tuple[str, nn.Module] | None:
    """The innermost module of the model, and its path, whose forward raised the error."""
    paths = {id(module): path for path, module in model.named_modules()}
    found: nn.Module | None = None
    trace = error.__traceback__
    while trace is not None:
        inner = trace.tb_frame.f_locals.get("self")
        if trace.tb_frame.f_code.co_name == "forward" and id(inner) in paths:
            found = inner
        trace = trace.tb_next
    return None if found is None else (paths[id(found)], found)
