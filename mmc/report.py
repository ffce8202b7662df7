"""report.html: one page without scripts that says what was compiled, and how."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmc.artifact import Contents


def render_report(manifest: Mapping[str, Any], contents: Contents) -> str:
    """The page's text; it holds no times, so that a rebuilt artefact has the same bytes."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["bytes"] = in_bytes
    template = environment.from_string(
        files("mmc").joinpath("templates/report.html.jinja").read_text()
    )
    return template.render(manifest=manifest, contents=contents)


def in_bytes(count: float) -> str:
    """A number of bytes as a person reads it."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.2f} {unit}"
        count /= 1024
    return f"{count:.2f} GiB"
