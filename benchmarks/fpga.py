"""The figures of docs/fpga-hardware.md.

python -m benchmarks.fpga tables        # every size on every board, and 370M on chip
python -m benchmarks.fpga token         # tokens of a random 370M through the RTL, by Verilator
python -m benchmarks.fpga bitstream     # a small random model as a bitstream for an ECP5-85k
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks import make_random_model
from mmc.api import compile
from mmc.errors import MmcError
from mmc.fpga import FpgaModel
from mmc.targets.fpga.boards import board_names, load_board
from mmc.targets.fpga.choice import estimate, on_chip
from mmc.targets.fpga.shape import SHAPES, plan_of_shape


def cell(size: str, board: str) -> str:
    """Tokens a second and what bounds them."""
    try:
        found = estimate(plan_of_shape(SHAPES[size]), load_board(board))
    except MmcError:
        return "does not fit"
    return f"{found.tokens_per_second:,.4g} ({found.bound})"


def details(size: str, board: str) -> str:
    """A row: the engine and what it takes."""
    found = estimate(plan_of_shape(SHAPES[size]), load_board(board))
    engine, needs = found.engine, found.needs
    return (
        f"| {size} | {board} | {engine.rows} x {engine.columns}, {engine.lanes} lanes | "
        f"{engine.codec_name} | {found.cycles:,.0f} | {found.bytes_per_token / 1e6:,.1f} | "
        f"{needs.lut:,.0f} | {needs.ff:,.0f} | {needs.bram36:,.0f} | {needs.uram:,.0f} | "
        f"{needs.dsp:,.0f} |"
    )


def tables() -> None:
    """Print the tables in Markdown."""
    print(f"| board | {' | '.join(SHAPES)} |\n|---|{'---|' * len(SHAPES)}")
    for board in board_names():
        print(f"| {board} | {' | '.join(cell(size, board) for size in SHAPES)} |")
    print(
        "\n| size | board | engine | weights | cycles | MB a token | LUT | FF | BRAM36 | URAM "
        "| DSP |\n|---|---|---|---|---|---|---|---|---|---|---|"
    )
    for size, board in (("2.7B", "u280"), ("1.3B", "d5005"), ("370M", "kv260"), ("370M", "u280")):
        print(details(size, board))
    print("\n| 370M on chip | boards | engine | tokens/s of a sequence |\n|---|---|---|---|")
    for board in ("u280", "v80", "kv260"):
        found = on_chip(plan_of_shape(SHAPES["370M"]), load_board(board))
        engine = found.engine
        size = f"{engine.rows} x {engine.columns}"
        print(f"| {board} | {found.boards} | {size} | {found.tokens_per_second:,.0f} |")


def build(shape: str, board: str, out: Path, **steps: bool | str) -> Mapping[str, Any]:
    """A random model of a shape, compiled for a board, and what those steps found."""
    make_random_model.write(out / "checkpoint", *make_random_model.shape_of(shape))
    model = compile(out / "checkpoint", target="fpga", board=board, out=out / "compiled")
    assert isinstance(model, FpgaModel)
    return model.build(**steps)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=FORMATTER)
    parser.add_argument("what", choices=("tables", "token", "bitstream"))
    parser.add_argument("--shape", help="370m, 1.3b, ... or WIDTHxLAYERSxVOCAB")
    parser.add_argument("--board", default="kv260", help="of `token`")
    parser.add_argument("--out", type=Path, help="where the model, the project and files go")
    given = parser.parse_args()
    if given.what == "tables":
        return tables()
    with tempfile.TemporaryDirectory() as scratch:
        out = given.out or Path(scratch)
        if given.what == "token":
            found = build(given.shape or "370m", given.board, out, rtlsim=True)
        else:
            found = build(given.shape or SMALL, "ecp5-85k", out, bitstream="ecp5")
        print(json.dumps(found, indent=1))


SMALL = "192x2x256"
"""Fits the block RAM of an ECP5-85k: a vocabulary of bytes."""
FORMATTER = argparse.RawDescriptionHelpFormatter

if __name__ == "__main__":
    main()
