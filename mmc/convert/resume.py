"""What is needed to go on with a training after it was killed."""

# Torch's stubs leave these types unknown.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false, reportPrivateImportUsage=false
from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch.distributed import checkpoint
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.state_dict import (
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)

from mmc.convert.training import Progress, Trainer
from mmc.errors import MmcError

_PROGRESS = "progress.json"


class Checkpoint:
    """The folder OUT.training beside OUT; in it step-N for the last step that was saved.

    Each process writes the tensors it holds (torch.distributed.checkpoint), and any number of
    processes can read them.  progress.json is written when they are all there.

    identity: what must be the same for a training to go on; learning rates may change.
    """

    def __init__(self, out: Path, identity: dict[str, Any]) -> None:
        self.folder, self._identity = training_folder(out), identity

    def refuse_other(self, resume: bool) -> None:
        """Raises MmcError where there is something to go on with and nobody asked for it."""
        saved = last_saved(self.folder)
        if not resume and saved is not None:
            raise MmcError(
                "holds an unfinished training", str(self.folder), "--resume it, or delete it"
            )
        if resume and saved is None:
            raise MmcError("there is no training to go on with", str(self.folder))

    def save(self, trainer: Trainer) -> None:
        step = trainer.progress.step
        folder = self.folder / f"step-{step}"
        with _told(folder, "written"):
            checkpoint.save(_tensors(trainer), checkpoint_id=folder)
            if trainer.processes.rank > 0:
                return
            record = {"identity": self._identity, "progress": asdict(trainer.progress)}
            with (folder / "progress.tmp").open("w") as file:
                json.dump(record, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(folder / "progress.tmp", folder / _PROGRESS)
        for older in self.folder.glob("step-*"):
            if _step(older) < step:
                shutil.rmtree(older, ignore_errors=True)

    def load(self, trainer: Trainer) -> None:
        folder = last_saved(self.folder)
        assert folder is not None, "refuse_other comes first"
        with _told(folder, "read"):
            record = json.loads((folder / _PROGRESS).read_text())
            for name, value in self._identity.items():
                if record["identity"].get(name) != json.loads(json.dumps(value)):
                    raise MmcError(f"belongs to a training with another {name}", str(self.folder))
            trainer.progress = Progress(**record["progress"])
            _load_student(trainer, folder)
            if trainer.progress.step:
                _load_optimizer(trainer, folder)

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


def training_folder(out: Path) -> Path:
    """Where a training keeps what it needs to go on."""
    return out.with_name(f"{out.name}.training")


def last_saved(folder: Path) -> Path | None:
    """The newest whole checkpoint in such a folder."""
    whole = (path.parent for path in folder.glob(f"step-*/{_PROGRESS}"))
    return max(whole, key=_step, default=None)


def _step(folder: Path) -> int:
    return int(folder.name.removeprefix("step-"))


def _tensors(trainer: Trainer) -> dict[str, Any]:
    """By name; an optimizer that has not made a step holds nothing.

    Its settings are those of the options, and are not kept.
    """
    made: dict[str, Any] = {"student": get_model_state_dict(trainer.student)}
    if trainer.progress.step:
        found = get_optimizer_state_dict(trainer.student, trainer.optimizer)
        made["optimizer"] = found["state"]
    return made


def _load_student(trainer: Trainer, folder: Path) -> None:
    found = get_model_state_dict(trainer.student)
    checkpoint.load({"student": found}, checkpoint_id=folder)
    set_model_state_dict(trainer.student, found)


def _load_optimizer(trainer: Trainer, folder: Path) -> None:
    """A parameter that has no part in the loss has none in what was saved."""
    found = get_optimizer_state_dict(trainer.student, trainer.optimizer)
    planner = DefaultLoadPlanner(allow_partial_load=True)
    checkpoint.load({"optimizer": found["state"]}, checkpoint_id=folder, planner=planner)
    set_optimizer_state_dict(trainer.student, trainer.optimizer, found)


@contextmanager
def _told(folder: Path, what: str) -> Generator[None]:
    """Torch warns of a process that is alone, and of what a killed one left half-written."""
    try:
        with warnings.catch_warnings(action="ignore", category=UserWarning):
            yield
    except OSError as error:
        raise MmcError(f"cannot be {what}: {error.strerror}", str(folder)) from error
    except CheckpointException as error:
        cause, _ = next(iter(error.failures.values()))
        raise MmcError(f"cannot be {what}: {cause}", str(folder)) from None
    except (ValueError, KeyError, TypeError) as error:
        raise MmcError(f"cannot be {what}: {error}", str(folder)) from None
