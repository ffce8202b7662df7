"""The tensors of a checkpoint against the parameters of a module of ours."""

# Torch's stubs leave these types unknown.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false
from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch

from mmc.errors import MmcError
from mmc.frontends.base import Stored
from mmc.frontends.checkpoint import Checkpoint, Store
from mmc.frontends.models.bit_linear import Storage
from mmc.frontends.models.config_fields import ConfigFields
from mmc.frontends.torch_types import dtype_of
from mmc.ir.types import DType, TensorType


def storage_of(checkpoint: Checkpoint, source: str) -> dict[str, Storage]:
    """How each matrix is held: integers are ternary already."""
    packed = _packed_form(checkpoint.config, source)
    found = dict(checkpoint.storage)
    for name, stored in checkpoint.store.items():
        if f"{name}_scale" in checkpoint.store:
            if stored.type.dtype is DType.I8:
                found[name] = "ternary"
            elif stored.type.dtype is DType.U8:
                found[name] = packed
    return found


def _packed_form(config: Mapping[str, object], source: str) -> Storage:
    """`weight_scale` is mean|w| for AutoBitLinear and its inverse for BitLinear (transformers)."""
    quantization = config.get("quantization_config")
    if not isinstance(quantization, dict):
        return "packed_divide"
    name = ConfigFields(quantization, f"{source}, quantization_config").choice(
        "linear_class", ("bitlinear", "autobitlinear"), "bitlinear"
    )
    return "packed_multiply" if name == "autobitlinear" else "packed_divide"


def matched(
    module: torch.nn.Module,
    store: Store,
    where: str,
    *,
    tied: Mapping[str, str] | None = None,
    unused: re.Pattern[str] | None = None,
) -> dict[str, Stored]:
    """A stored tensor for each parameter; MmcError for a missing, unexpected or misshapen one.

    tied: parameters that share the tensor of another.  unused: tensors that nothing reads.
    """
    wanted = module.state_dict(keep_vars=True)
    found: dict[str, Stored] = {}
    for name, tensor in wanted.items():
        key = (tied or {}).get(name, name)
        if key not in store:
            raise MmcError(f"tensor {key!r} is missing", where, f"{_spell(tensor)} expected")
        _refuse_misfit(store[key], tensor, where)
        is_matrix = f"{key}_scale" in wanted
        found[name] = _checked_trits(store[key], where) if is_matrix else store[key]
    extra = [n for n in store if n not in wanted and not (unused and unused.fullmatch(n))]
    if extra:
        raise MmcError(f"tensor {min(extra)!r} is not part of this model", where)
    return found


def _checked_trits(stored: Stored, where: str) -> Stored:
    """The same tensor; reading it raises MmcError where it holds anything but -1, 0 and 1."""

    def load() -> np.ndarray:
        held = stored.load()
        # Packed: two bits a trit, each plus one, so that 3 stands for nothing.
        packed = held.dtype == np.uint8
        bad = (held & held >> 1 & 0x55) != 0 if packed else (held < -1) | (held > 1)
        if bad.any():
            raise MmcError(f"tensor {stored.name!r} is not ternary", where)
        return held

    return replace(stored, load=load)


def _refuse_misfit(stored: Stored, tensor: torch.Tensor, where: str) -> None:
    wanted = TensorType(dtype_of(tensor.dtype), tuple(tensor.shape))
    floats = stored.type.dtype.is_float and wanted.dtype.is_float
    one = stored.type.shape in ((), (1,)) and wanted.shape == (1,)
    if stored.type.shape != wanted.shape and not one:
        raise MmcError(f"tensor {stored.name!r} is {stored.type}, expected {wanted}", where)
    if not floats and stored.type.dtype is not wanted.dtype:
        raise MmcError(f"tensor {stored.name!r} is {stored.type}, expected {wanted}", where)


def _spell(tensor: torch.Tensor) -> str:
    return str(TensorType(dtype_of(tensor.dtype), tuple(tensor.shape)))
