"""The tables of docs/fpga-hardware.md: every size on every board, and 370M on chip.

python benchmarks/fpga.py
"""

from __future__ import annotations

from mmc.errors import MmcError
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


def main() -> None:
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


if __name__ == "__main__":
    main()
