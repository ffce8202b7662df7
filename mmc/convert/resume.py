"""What is needed to go on with a training after it was killed."""

# Torch's stubs leave these types unknown.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false
from __future__ import annotations

import os
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from mmc.convert.training import Progress, Trainer
from mmc.errors import MmcError


class Checkpoint:
    """The folder OUT.training beside OUT; the file in it is replaced as a whole.

    identity: what must be the same for a training to go on; learning rates may change.
    """

    def __init__(self, out: Path, identity: dict[str, Any]) -> None:
        self.folder = out.with_name(f"{out.name}.training")
        self._file, self._identity = self.folder / "checkpoint.pt", identity

    def refuse_other(self, resume: bool) -> None:
        """Raises MmcError where there is something to go on with and nobody asked for it."""
        if not resume and self._file.exists():
            raise MmcError(
                "holds an unfinished training", str(self.folder), "--resume it, or delete it"
            )
        if resume and not self._file.exists():
            raise MmcError("there is no training to go on with", str(self.folder))

    def save(self, trainer: Trainer) -> None:
        record = {
            "identity": self._identity,
            "progress": asdict(trainer.progress),
            "student": trainer.student.state_dict(),
            "optimizer": trainer.optimizer.state_dict(),
        }
        temporary = self._file.with_suffix(".tmp")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as file:
                torch.save(record, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, self._file)
        except OSError as error:
            raise MmcError(f"cannot be written: {error.strerror}", str(self._file)) from error

    def load(self, trainer: Trainer) -> None:
        try:
            record = torch.load(self._file, map_location=trainer.device, weights_only=True)
        except Exception as error:  # a damaged file shows in many ways
            raise MmcError(f"cannot be read: {error}", str(self._file)) from None
        for name, value in self._identity.items():
            if record["identity"].get(name) != value:
                raise MmcError(f"belongs to a training with another {name}", str(self._file))
        trainer.progress = Progress(**record["progress"])
        trainer.student.load_state_dict(record["student"])
        trainer.optimizer.load_state_dict(record["optimizer"])

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
