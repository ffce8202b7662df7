"""From a checkpoint of the MatMul-free LM to the IR."""

# Torch's stubs leave these types unknown.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false
from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np
import torch
from torch.export import Dim

from mmc.errors import MmcError
from mmc.frontends.base import Imported, Stored
from mmc.frontends.checkpoint import Checkpoint, Store
from mmc.frontends.fx_import import Traced, stored_tensor
from mmc.frontends.models.bit_linear import Storage
from mmc.frontends.models.config_fields import ConfigFields
from mmc.frontends.models.hgrn_bit import HgrnBitForCausalLM, LayerCall
from mmc.frontends.models.hgrn_bit_config import HgrnBitConfig
from mmc.frontends.torch_export import import_module, trace
from mmc.frontends.torch_types import dtype_of
from mmc.ir.types import DType, TensorType

_UNUSED = re.compile(r"model\.layers\.\d+\.attn\.q_conv1d\.weight")
"""The released code creates it beside i_conv1d and f_conv1d and never reads it."""

B, T = Dim("B", min=1, max=1 << 16), Dim("T", min=1, max=1 << 20)
BATCH, TIME = 3, 5


def load_hgrn_bit(checkpoint: Checkpoint) -> Imported:
    """The model of (ids, lengths, states); raises MmcError where tensors and config disagree."""
    source = str(checkpoint.path / "config.json")
    config = HgrnBitConfig.parse(checkpoint.config, source)
    with torch.device("meta"):
        module = HgrnBitForCausalLM(config, storage_of(checkpoint, source)).eval()
    weights = matched(module, checkpoint.store, config, str(checkpoint.path))
    imported = import_hgrn_bit(module, weights)
    fields = ConfigFields(checkpoint.config, source)
    positions = None
    if not fields.absent("max_position_embeddings"):
        positions = fields.whole("max_position_embeddings")
    return replace(
        imported, kind="causal_lm", vocab_size=config.vocab_size, max_positions=positions
    )


def import_hgrn_bit(
    module: HgrnBitForCausalLM, weights: Mapping[str, Stored] | None = None
) -> Imported:
    """Symbols B and T; states keep their names on both sides.  weights: by default the module's.

    Torch needs milliseconds for an operation, so layers that are alike are traced once.
    """
    if weights is None:
        state = module.state_dict(keep_vars=True)
        weights = {name: stored_tensor(name, tensor) for name, tensor in state.items()}
    example = Example(module)
    layers = module.model.layers
    paths = [f"model.layers.{n}" for n in range(len(layers))]
    traces = dict(zip(paths, example.trace_layers(layers), strict=True))
    module.model.layers = torch.nn.ModuleList(map(LayerCall, paths))
    try:
        return import_module(
            module,
            (example.ids, example.lengths, *example.states(module.state_shapes)),
            ({0: B, 1: T}, {0: B}, ({0: B},) * len(module.state_shapes)),
            input_names=("ids", "lengths", *module.state_shapes),
            output_names=("logits", *module.state_shapes),
            weights=weights,
            layers=traces,
        )
    finally:
        module.model.layers = layers


class Example:
    """Tensors to trace with, of sizes that occur nowhere else: torch must not take two for one."""

    def __init__(self, module: HgrnBitForCausalLM) -> None:
        self._config = module.config
        self._shapes = module.state_shapes
        self._device = next(module.parameters()).device
        self.ids = torch.zeros((BATCH, TIME), dtype=torch.int64, device=self._device)
        self.lengths = torch.ones((BATCH,), dtype=torch.int64, device=self._device)

    def states(self, names: Iterable[str]) -> tuple[torch.Tensor, ...]:
        shapes = [(BATCH, *self._shapes[name]) for name in names]
        return tuple(torch.zeros(shape, device=self._device) for shape in shapes)

    def trace_layers(self, layers: torch.nn.ModuleList) -> list[Traced]:
        """The trace of each layer; the first has no lower bound."""
        made: dict[object, Traced] = {}
        found: list[Traced] = []
        for n, layer in enumerate(layers):
            bounded = self._config.use_lower_bound and n > 0
            parts = [(k, t.dtype, t.shape) for k, t in layer.state_dict(keep_vars=True).items()]
            key = (bounded, *parts)
            if key not in made:
                made[key] = self._trace_layer(layer, n, bounded)
            found.append(made[key])
        return found

    def _trace_layer(self, layer: torch.nn.Module, n: int, bounded: bool) -> Traced:
        hidden = self._config.hidden_size
        x = torch.zeros((BATCH, TIME, hidden), device=self._device)
        bound = torch.zeros((hidden,), device=self._device) if bounded else None
        names = [name for name in self._shapes if name.startswith(f"model.layers.{n}.")]
        shapes = ({0: B, 1: T}, {0: B}, None, ({0: B},) * len(names))
        return trace(layer, (x, self.lengths, bound, *self.states(names)), shapes)


def storage_of(checkpoint: Checkpoint, source: str) -> dict[str, Storage]:
    """How each matrix is held: integers are ternary already."""
    packed = _packed_form(checkpoint.config, source)
    found: dict[str, Storage] = {}
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
    module: torch.nn.Module, store: Store, config: HgrnBitConfig, where: str
) -> dict[str, Stored]:
    """A stored tensor for each parameter; MmcError for a missing, unexpected or misshapen one."""
    wanted = module.state_dict(keep_vars=True)
    found: dict[str, Stored] = {}
    for name, tensor in wanted.items():
        key = "model.embeddings.weight" if tied(name, config) else name
        if key not in store:
            raise MmcError(f"tensor {key!r} is missing", where, f"{_spell(tensor)} expected")
        _refuse_misfit(store[key], tensor, where)
        is_matrix = f"{key}_scale" in wanted
        found[name] = _checked_trits(store[key], where) if is_matrix else store[key]
    extra = [n for n in store if n not in wanted and not _UNUSED.fullmatch(n)]
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


def tied(name: str, config: HgrnBitConfig) -> bool:
    return name == "lm_head.weight" and config.tie_word_embeddings


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
