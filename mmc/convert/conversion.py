"""`mmc convert`: read, rewrite, train, measure, write."""

# Torch's stubs leave these types unknown.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false
from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from mmc.artifact import refuse_other_folder
from mmc.convert.curves import Curve, refuse_without_matplotlib
from mmc.convert.options import ConvertOptions
from mmc.convert.output import KIND, MARK, round_to_stored, write_output
from mmc.convert.processes import ALONE, Processes, whole
from mmc.convert.resume import Checkpoint
from mmc.convert.rewrite import (
    Choices,
    build,
    initialise,
    input_sizes,
    rounded,
    student_values,
)  # fmt: skip
from mmc.convert.source import Source, read_source
from mmc.convert.text import Text, read_text
from mmc.convert.training import Tell, Trainer, silent, told_memory
from mmc.errors import MmcError
from mmc.nn import Transformer
from mmc.nn.language_model import LanguageModel
from mmc.passes.convert_layers import kept_layers


@dataclass(frozen=True)
class Conversion:
    """Everything that is known before the first number is computed.

    values: the config.json of what is written.
    """

    out: Path
    options: ConvertOptions
    source: Source
    choices: Choices
    values: Mapping[str, object]
    teacher: Transformer
    student: LanguageModel
    processes: Processes


def convert(
    path: str | Path,
    out: str | Path,
    options: ConvertOptions,
    tell: Tell = silent,
    processes: Processes = ALONE,
) -> dict[str, Any]:
    """Write the converted model into the folder `out`; returns what conversion.json holds.

    processes: each calls this; the first one tells and writes.
    Raises MmcError for a model, a text or options that do not fit; then `out` is as it was.
    """
    out = Path(out)
    options.refuse_impossible()
    processes.refuse_uneven(options.training.batch, options.training.accumulate)
    tell = tell if processes.rank == 0 else silent
    refuse_other_folder(out, KIND, MARK)
    if options.picture:
        refuse_without_matplotlib()
    tell("reading the model", 0.0)
    source = read_source(Path(path))
    if options.text and options.training.window > source.config.max_positions:
        most = source.config.max_positions
        raise MmcError(f"the model has {most} positions, no more", "--window")
    kept = kept_layers(options.keep_attention, source.config.num_hidden_layers)
    choices = Choices(options.to, kept, options.gate_order)
    values = student_values(source.values, choices)
    student = build(values, options.training.seed)
    conversion = Conversion(
        out, options, source, choices, values, source.teacher(), student, processes
    )
    if not options.text:
        initialise(student, conversion.teacher, {})
        return _written(conversion, student, _record(conversion), [])
    device = _device(options.device, processes)
    with told_memory(device):
        return _train(conversion, device, tell)


def _train(conversion: Conversion, device: torch.device, tell: Tell) -> dict[str, Any]:
    options, student, teacher = conversion.options, conversion.student, conversion.teacher
    tell("reading the text", 0.0)
    text = _text(conversion)
    checkpoint = Checkpoint(conversion.out, _identity(conversion, text))
    checkpoint.refuse_other(options.resume)
    teacher.to(device)
    student.to(device)
    if not options.from_scratch:
        probe = torch.from_numpy(text.probe(options.training.window)).to(device).long()
        initialise(student, teacher, input_sizes(teacher, probe))
    rounding = rounded(teacher)
    taught_by = None if options.from_scratch else teacher
    trainer = Trainer(student, taught_by, text, options.training, device, conversion.processes)
    tell("measuring", 0.0)
    figures = {
        "teacher": trainer.evaluate(teacher),
        "rounded without training": trainer.evaluate(rounding.to(device)),
        "before training": trainer.evaluate(student),
    }
    if options.resume:
        checkpoint.load(trainer)
    trainer.run(lambda: checkpoint.save(trainer), tell)
    tell("measuring", 1.0)
    trained = _gathered(conversion, device)
    round_to_stored(trained)
    figures["converted"] = trainer.evaluate(trained)
    record = _record(conversion) | _results(options, trainer, text, figures)
    _written(conversion, trained, record, trainer.progress.curve)
    if conversion.processes.rank == 0:
        checkpoint.remove()
    return record


def _gathered(conversion: Conversion, device: torch.device) -> LanguageModel:
    """The student, no longer in parts."""
    if not conversion.processes.joined:
        return conversion.student
    made = build(conversion.values, conversion.options.training.seed).to(device)
    state = conversion.student.state_dict()
    made.load_state_dict({name: whole(tensor) for name, tensor in state.items()})
    return made


def _written(
    conversion: Conversion, student: LanguageModel, record: dict[str, Any], curve: Curve
) -> dict[str, Any]:
    """The record, when the first process has written everything."""
    if conversion.processes.rank == 0:
        source, picture = conversion.source, conversion.options.picture
        write_output(conversion.out, source, conversion.values, student, record, curve, picture)
    return record


def _text(conversion: Conversion) -> Text:
    options, source = conversion.options, conversion.source
    return read_text(options.text, options.held_out, source.tokenizer(), options.training.window)


def _identity(conversion: Conversion, text: Text) -> dict[str, Any]:
    """What must be the same for a training to go on."""
    training = conversion.options.training
    return {
        "text": text.digest,
        "model": dict(conversion.values),
        "from_scratch": conversion.options.from_scratch,
        **{key: getattr(training, key) for key in ("batch", "window", "seed", "steps")},
    }


def _device(name: str, processes: Processes) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise MmcError("torch sees no GPU here", "--device")
    return processes.device(name)


def _record(conversion: Conversion) -> dict[str, Any]:
    """What conversion.json says of every conversion; `training` is None where there was none."""
    choices, source = conversion.choices, conversion.source
    return {
        "name": conversion.out.resolve().name,
        "source": source.path.resolve().name,
        "version": version("mmc-compiler"),
        "to": choices.to,
        "model_type": conversion.values["model_type"],
        "layers": source.config.num_hidden_layers,
        "kept_attention": list(choices.kept),
        "gate_order": choices.gate_order if choices.to == "matmul-free" else None,
        "biases_left_out": source.has_biases,
        "parameters": sum(t.numel() for t in conversion.student.tensors().values()),
        "training": None,
    }


def _results(
    options: ConvertOptions, trainer: Trainer, text: Text, figures: dict[str, float]
) -> dict[str, Any]:
    progress, training = trainer.progress, options.training
    tokens = progress.step * training.batch * training.window
    gpu = trainer.device.type == "cuda"
    return {
        "training": {k: v for k, v in asdict(training).items() if v is not None},
        "from_scratch": options.from_scratch,
        "device": torch.cuda.get_device_name() if gpu else "cpu",
        "processes": trainer.processes.count,
        "text": {
            "files": [path.name for path in options.text],
            "digest": text.digest,
            "training_tokens": len(text.training),
            "held_out_tokens": len(text.held_out),
        },
        "progress": {
            "steps": progress.step,
            "tokens": tokens,
            "seconds": progress.seconds,
            "tokens_per_second": tokens / progress.seconds,
        },
        "nats_per_token": figures,
        "perplexity": {name: math.exp(nats) for name, nats in figures.items()},
    }
