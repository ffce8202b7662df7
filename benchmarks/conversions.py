"""What lies in and beside the folder of a conversion, and options that its benchmarks share."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from mmc.convert.resume import last_saved, training_folder


def options(description: str | None) -> argparse.ArgumentParser:
    """--text, --out and --batch; each benchmark adds its own."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--text", type=Path, action="append", required=True)
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--batch", type=int, default=64)
    return parser


def finished(out: Path) -> dict[str, Any] | None:
    """The record of a conversion, where it is finished."""
    path = out / "conversion.json"
    return json.loads(path.read_text()) if path.is_file() else None


def last_step(out: Path) -> int:
    """The step that an unfinished conversion can go on from; 0 where it cannot."""
    folder = last_saved(training_folder(out))
    return int(folder.name.removeprefix("step-")) if folder else 0
