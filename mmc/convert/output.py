"""What a conversion writes: a checkpoint in Hugging Face layout, with its model card."""

# Torch's stubs leave these types unknown.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false
from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from mmc.artifact import replaced_folder
from mmc.convert.curves import Curve, write_csv, write_png
from mmc.convert.source import Source
from mmc.nn import BitLinear
from mmc.nn.language_model import LanguageModel

MARK = "conversion.json"
"""What was done and measured; also how a directory of ours is told from others."""
KIND = "a converted model"

_COPIED = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "tokenizer.model",
    "generation_config.json",
)  # fmt: skip


def round_to_stored(student: LanguageModel) -> None:
    """Make the parameters what the file will hold, so that figures are of the file."""
    for module in student.modules():
        if isinstance(module, BitLinear):
            module.settle()
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.copy_(parameter.to(torch.bfloat16))


def write_output(
    out: Path,
    source: Source,
    values: Mapping[str, object],
    student: LanguageModel,
    record: Mapping[str, Any],
    curve: Curve,
    picture: bool,
) -> None:
    """Write everything into a temporary folder beside `out`, then put it in place."""
    tensors = {n: t.to("cpu", torch.bfloat16).contiguous() for n, t in student.tensors().items()}
    with replaced_folder(out, KIND, MARK) as folder:
        _write_json(folder / "config.json", values)
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        _copy_tokenizer(source, folder)
        if curve:
            write_csv(folder / "curve.csv", curve)
        if curve and picture:
            figures = record["nats_per_token"]
            marks = {name: figures[name] for name in ("teacher",) if figures.get(name)}
            write_png(folder / "curve.png", curve, marks)
        (folder / "README.md").write_text(_model_card(record, picture))
        _write_json(folder / MARK, record)


def _copy_tokenizer(source: Source, folder: Path) -> None:
    for name in _COPIED:
        if (source.path / name).is_file():
            shutil.copyfile(source.path / name, folder / name)
    content = source.checkpoint.tokenizer
    if content is not None and not (folder / "tokenizer.json").is_file():
        (folder / "tokenizer.json").write_bytes(content())


def _write_json(path: Path, record: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(record, indent=1) + "\n")


def _model_card(record: Mapping[str, Any], picture: bool) -> str:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        autoescape=False, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    text = files("mmc").joinpath("templates/model_card.md.jinja").read_text()
    return environment.from_string(text).render(record=record, picture=picture)
