"""The command line: every command is a few lines over the Python face."""

from mmc.cli import compiling, converting, running, telling
from mmc.cli.app import app, main

__all__ = ["app", "compiling", "converting", "main", "running", "telling"]
