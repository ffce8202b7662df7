"""Load a model folder in Hugging Face layout: config.json, safetensors, tokenizer.json.

The model is traced on the meta device; weights stay in their files until something reads them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from mmc.errors import MmcError
from mmc.frontends.base import Imported, Stored
from mmc.frontends.models.config_fields import ConfigFields
from mmc.frontends.safetensors_file import read_file

Store = Mapping[str, Stored]


@dataclass(frozen=True)
class Checkpoint:
    """A folder that has been looked through: its configuration and what tensors it holds.

    context: how many positions a cache shall hold; None for what the model's family chooses.
    """

    path: Path
    config: Mapping[str, object]
    store: Store
    context: int | None = None


LoadModel = Callable[[Checkpoint], Imported]


def _hgrn_bit() -> LoadModel:
    from mmc.frontends.models.hgrn_bit_checkpoint import load_hgrn_bit

    return load_hgrn_bit


def _transformer() -> LoadModel:
    from mmc.frontends.models.transformer_checkpoint import load_transformer

    return load_transformer


MODELS: dict[str, Callable[[], LoadModel]] = {
    "hgrn_bit": _hgrn_bit,
    "bitnet": _transformer,
    "llama": _transformer,
}
"""model_type to the loader; it is imported only when it is asked for."""


def load(path: str | Path, context: int | None = None) -> Imported:
    """The model in the folder; context: how many positions its caches shall hold, if it has any.

    Raises MmcError, which names the file, key or tensor, for a folder that is not whole, a model
    type that is not known, and tensors that are missing, unexpected or of the wrong shape.
    """
    path = Path(path)
    if not path.is_dir():
        raise MmcError("there is no such folder", str(path))
    config = read_json(path / "config.json")
    found = config.get("model_type")
    if not isinstance(found, str) or found not in MODELS:
        raise MmcError(
            f"model_type {found!r} is not known",
            str(path / "config.json"),
            f"known: {', '.join(MODELS)}",
        )
    imported = MODELS[found]()(Checkpoint(path, config, read_store(path), context))
    fields = ConfigFields(config, str(path / "config.json"))
    tokenizer = path / "tokenizer.json"
    return replace(
        imported,
        source=str(path),
        config=config,
        tokenizer=tokenizer if tokenizer.is_file() else None,
        eos_token_ids=fields.token_ids("eos_token_id"),
    )


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; raises MmcError where the file is missing or something else."""
    try:
        content = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise MmcError("the file is missing", str(path)) from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise MmcError(f"cannot be read as JSON: {error}", str(path)) from error
    if not isinstance(content, dict):
        raise MmcError("is not a JSON object", str(path))
    return cast(dict[str, Any], content)


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
