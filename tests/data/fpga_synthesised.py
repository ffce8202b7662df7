"""Write what yosys makes of the RTL for UltraScale+: the data that the resource model is held to.

python tests/data/fpga_synthesised.py      # minutes; needs the extra fpga

What was found is written after each run, with a digest of the RTL: where the script was stopped it
goes on, and where a file of the RTL is another it begins anew.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from dataclasses import asdict
from pathlib import Path

from mmc.targets.fpga.engine import Engine
from mmc.targets.fpga.program import program, program_text, sigmoid_text
from mmc.targets.fpga.shape import Shape, plan_of_shape
from mmc.targets.fpga.simulation import sources
from mmc.targets.fpga.synthesis import ultrascale

PLAN = plan_of_shape(Shape(256, 6, 768, 8192))
ENGINE = Engine(16, 48, "5b3t", 8, 128, 10)
ROWS = len(program(PLAN, ENGINE))
"""The program of examples/mmfree-9m; what it says hardly matters."""


Run = tuple[str, dict[str, int]]


def engine(rows: int, groups: int, codec: int, lanes: int, x: int = 96, y: int = 512) -> Run:
    """The ternary engine alone, with its table writer, buffers and partial sums."""
    names = ("P", "GROUPS", "CODEC", "LANES", "X_WORDS", "Y_WORDS")
    return "ternary_engine", dict(zip(names, (rows, groups, codec, lanes, x, y), strict=True))


def token_engine(rows: int, groups: int, codec: int, lanes: int) -> Run:
    """Everything, with the memories of examples/mmfree-9m."""
    words = {"X_WORDS": 256, "P_WORDS": 768, "F_WORDS": 256, "H_WORDS": 1536, "Q_WORDS": 800}
    return "token_engine", {
        "P": rows, "GROUPS": groups, "CODEC": codec, "LANES": lanes,
        **{name: n // lanes for name, n in words.items()},
        "Y_WORDS": 8192 // rows, "ROWS": ROWS, "AHEAD": 64,
    }  # fmt: skip


RUNS = (
    engine(8, 8, 1, 8), engine(8, 8, 2, 8), engine(4, 16, 1, 4), engine(16, 8, 1, 8),
    engine(16, 16, 0, 16), engine(16, 16, 2, 16, 256, 1024), engine(16, 16, 1, 16),
    engine(32, 16, 2, 16, 256, 1024), engine(4, 8, 2, 2, 260, 256), engine(8, 4, 2, 2, 1410, 704),
    token_engine(4, 8, 1, 4), token_engine(4, 4, 2, 2), token_engine(8, 8, 0, 8),
)  # fmt: skip


DATA = Path(__file__).with_suffix(".json")


def main() -> None:
    """Synthesise each that is not in the file yet, and write the file."""
    rtl = hashlib.sha256(b"".join(path.read_bytes() for path in sources())).hexdigest()[:16]
    known = [run for run in json.loads(DATA.read_text()) if run.get("rtl") == rtl]
    found: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = program_text(program(PLAN, ENGINE)).splitlines()[:ROWS]
        (folder / "program.hex").write_text("\n".join(rows))
        (folder / "sigmoid.hex").write_text(sigmoid_text())
        for top, parameters in RUNS:
            what = {"top": top, "parameters": parameters, "rtl": rtl}
            before = [run for run in known if what.items() <= run.items()]
            needs = before[0]["found"] if before else asdict(ultrascale(top, parameters, folder))
            found.append({**what, "found": needs})
            DATA.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
