"""Load a folder in Hugging Face layout (config.json, safetensors, tokenizer) or a GGUF file.

The model is traced on the meta device; weights stay in their files until something reads them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

from mmc.errors import MmcError
from mmc.frontends.base import Imported, Stored
from mmc.frontends.models.config_fields import ConfigFields, read_json
from mmc.frontends.safetensors_file import read_file
from mmc.frontends.tokenizer_files import tokenizer_of

if TYPE_CHECKING:
    from mmc.frontends.models.bit_linear import Storage

Store = Mapping[str, Stored]


@dataclass(frozen=True)
class Checkpoint:
    """A folder or file that has been looked through: its configuration, what tensors it holds.

    context: how many positions a cache shall hold; None for what the model's family chooses.
    storage: how matrices are held whose tensors do not tell.  source: where the configuration is.
    """

    path: Path
    config: Mapping[str, object]
    store: Store
    context: int | None = None
    storage: Mapping[str, Storage] = field(default_factory=dict[str, "Storage"])
    tokenizer: Callable[[], bytes] | None = None

    @property
    def source(self) -> str:
        return str(self.path / "config.json" if self.path.is_dir() else self.path)


LoadModel = Callable[[Checkpoint], Imported]


def _hgrn_bit() -> LoadModel:
    from mmc.frontends.models.hgrn_bit_checkpoint import load_hgrn_bit

    return load_hgrn_bit


def _hybrid() -> LoadModel:
    from mmc.frontends.models.hybrid_checkpoint import load_hybrid

    return load_hybrid


def _transformer() -> LoadModel:
    from mmc.frontends.models.transformer_checkpoint import load_transformer

    return load_transformer


def _mamba() -> LoadModel:
    from mmc.frontends.models.recurrent_checkpoint import load_mamba

    return load_mamba


def _rwkv() -> LoadModel:
    from mmc.frontends.models.recurrent_checkpoint import load_rwkv

    return load_rwkv


MODELS: dict[str, Callable[[], LoadModel]] = {
    "hgrn_bit": _hgrn_bit,
    "mmc_hybrid": _hybrid,
    "bitnet": _transformer,
    "llama": _transformer,
    "qwen2": _transformer,
    "mamba": _mamba,
    "rwkv": _rwkv,
}
"""model_type to the loader; it is imported only when it is asked for."""


def load(path: str | Path, context: int | None = None, i2s: str | None = None) -> Imported:
    """The model in the folder or file; context: how many positions its caches shall hold, if any.

    i2s: how the I2_S matrices of a GGUF file are laid out.  Raises MmcError, which names the file,
    key or tensor, for a folder that is not whole, a model type that is not known, and tensors that
    are missing, unexpected or of the wrong shape.
    """
    checkpoint = open_checkpoint(Path(path), context, i2s)
    found = checkpoint.config.get("model_type")
    if not isinstance(found, str) or found not in MODELS:
        raise MmcError(
            f"model_type {found!r} is not known", checkpoint.source, f"known: {', '.join(MODELS)}"
        )
    imported = MODELS[found]()(checkpoint)
    return replace(
        imported,
        source=str(path),
        config=checkpoint.config,
        tokenizer=checkpoint.tokenizer,
        eos_token_ids=_ends(checkpoint),
    )


def _ends(checkpoint: Checkpoint) -> tuple[int, ...]:
    """The tokens that end a text; generation_config.json knows more of them, as in transformers."""
    said = checkpoint.path / "generation_config.json"
    own = ConfigFields(read_json(said) if said.is_file() else {}, str(said))
    if own.absent("eos_token_id"):
        own = ConfigFields(checkpoint.config, checkpoint.source)
    return own.token_ids("eos_token_id")


def open_checkpoint(path: Path, context: int | None = None, i2s: str | None = None) -> Checkpoint:
    """What is in the folder or the GGUF file; nothing of a tensor is read yet."""
    if path.suffix == ".gguf" and not path.is_dir():
        from mmc.frontends.models.gguf_checkpoint import open_gguf

        return open_gguf(path, context, i2s)
    if not path.is_dir():
        raise MmcError("there is no such folder", str(path))
    config = read_json(path / "config.json")
    return Checkpoint(path, config, read_store(path), context, tokenizer=tokenizer_of(path))


def read_store(path: Path) -> dict[str, Stored]:
    """Every tensor of model.safetensors, or of the shards that its index lists."""
    single, index = path / "model.safetensors", path / "model.safetensors.index.json"
    if index.is_file():
        return _read_shards(path, index)
    if single.is_file():
        return read_file(single)
    raise MmcError(
        "there is neither model.safetensors nor model.safetensors.index.json",
        str(path),
        "weights in pytorch_model.bin must be converted to safetensors first",
    )


def _read_shards(folder: Path, index: Path) -> dict[str, Stored]:
    listed = read_json(index).get("weight_map")
    if not isinstance(listed, dict):
        raise MmcError("'weight_map' is missing or not an object", str(index))
    weight_map = cast(dict[str, object], listed)
    shards: dict[str, dict[str, Stored]] = {}
    store: dict[str, Stored] = {}
    for name, file in weight_map.items():
        if (
            not isinstance(file, str)
            or file != Path(file).name
            or not file.endswith(".safetensors")
        ):
            raise MmcError(
                f"tensor {name!r} is said to lie in {file!r}: not a plain file name", str(index)
            )
        if file not in shards:
            if not (folder / file).is_file():
                raise MmcError("the shard is missing", str(folder / file))
            shards[file] = read_file(folder / file)
        if name not in shards[file]:
            raise MmcError(f"tensor {name!r} is not in this shard", str(folder / file))
        store[name] = shards[file][name]
    unlisted = {name for shard in shards.values() for name in shard} - set(store)
    if unlisted:
        raise MmcError(f"tensor {min(unlisted)!r} is in a shard but not in the index", str(index))
    return store
