"""The application, what its commands share, and how they end."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from mmc.errors import MmcError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

_state = {"debug": bool(os.environ.get("MMC_DEBUG"))}


def _set_debug(value: bool) -> None:
    _state["debug"] |= value


def _print_version(value: bool) -> None:
    if value:
        from importlib.metadata import version

        print(f"mmc {version('mmc-compiler')}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version)
    ] = False,
) -> None:
    """MMC compiles trained ternary, recurrent language models."""


Debug = Annotated[
    bool, typer.Option("--debug", help="Show the traceback of an error.", callback=_set_debug)
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Checkpoint = Annotated[
    Path,
    typer.Argument(help="A directory in Hugging Face layout, MODEL.gguf, MODEL.onnx or MODEL.pt2."),
]
Out = Annotated[Path, typer.Argument(help="An artefact that `mmc compile` wrote.")]
PrintAfter = Annotated[
    str | None, typer.Option(help="Print what a pass (or `all`) changed, on stderr.")
]


def main() -> None:
    """Run a command; an error is one message on stderr and exit code 1."""
    try:
        app(standalone_mode=False)
    except typer.Exit as done:
        sys.exit(done.exit_code)
    except (MmcError, OSError) as error:
        if _state["debug"]:
            raise
        _fail(str(error))
    except (KeyboardInterrupt, typer.Abort):
        _fail("interrupted", 130)
    except Exception as error:
        message = _usage_message(error)
        if message is not None:
            _fail(f"{message} (see --help)", 2) if message else sys.exit(2)
        if _state["debug"]:
            raise
        _fail(f"internal error: {type(error).__name__}: {error} (--debug shows the traceback)")


def _usage_message(error: Exception) -> str | None:
    """What is wrong with the command line; empty where help was printed; None for other errors."""
    told = getattr(error, "format_message", None)
    return None if told is None else str(told())


def _fail(message: str, code: int = 1) -> None:
    sys.stdout.flush()
    print(f"mmc: error: {message}", file=sys.stderr)
    sys.exit(code)
