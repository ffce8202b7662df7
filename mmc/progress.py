"""How far long work is, on a terminal."""

from __future__ import annotations

import sys


class Bar:
    """A progress bar on a terminal; silent in a pipe."""

    def __init__(self, shown: bool = True) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        columns = (TextColumn("{task.description:<28}"), BarColumn(), TimeElapsedColumn())
        console = Console(stderr=True)
        self._progress = Progress(
            *columns, console=console, transient=True, disable=not (shown and sys.stderr.isatty())
        )
        self._task = self._progress.add_task("loading", total=1.0)

    def __enter__(self) -> Bar:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def __call__(self, stage: str, done: float) -> None:
        self._progress.update(self._task, description=stage, completed=done)
