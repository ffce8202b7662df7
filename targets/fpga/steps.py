"""What can be done with a project that was written: each step is a function from its folder."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mmc.errors import MmcError
from mmc.targets.fpga.chip import bitstream
from mmc.targets.fpga.executable import compile_cpp
from mmc.targets.fpga.written import pnr, rtlsim, synth

Report = Mapping[str, Any]


NATIVE = ("-std=c++17", "-O2", "-Wno-unknown-pragmas")


def csim(folder: Path, choice: object) -> Report:
    """The testbench: golden tokens on native types, or with "ap" the first layer on ap types."""
    if choice not in (True, "ap"):
        raise MmcError(f"no C simulation {choice!r}", "csim", 'True or "ap"')
    on_ap = choice == "ap"
    flags = ("-O1", "-w", "-DMMC_AP_TYPES", f"-I{ap_types()}") if on_ap else ()
    testbench = folder / "build" / ("testbench_ap" if on_ap else "testbench")
    testbench.parent.mkdir(exist_ok=True)
    sources = [folder / "src" / "mmc_top.cpp", folder / "tb" / "testbench.cpp"]
    compile_cpp(folder, sources, testbench, (*NATIVE, *flags))
    command = [str(testbench), str(folder), *(["layer"] if on_ap else [])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise MmcError(f"C simulation: {(done.stdout + done.stderr).strip()}", str(folder))
    return {"identical": True, "said": done.stdout.strip()}


def ap_types() -> Path:
    """The folder of ap_int.h and hls_stream.h that the package hls4ml brings."""
    found = importlib.util.find_spec("hls4ml")
    if found is None or not found.submodule_search_locations:
        raise MmcError("the ap types are missing", 'csim="ap"', "pip install --no-deps hls4ml")
    return Path(found.submodule_search_locations[0]) / "templates" / "vivado" / "ap_types"


def hls(folder: Path, choice: object) -> Report:
    """C simulation, synthesis, cosimulation and export by Vitis HLS, where it is installed."""
    if choice != "vitis":
        raise MmcError(f"no HLS tool {choice!r}", "hls", 'there is "vitis"')
    command = ["vitis-run", "--mode", "hls", "--tcl", "run_hls.tcl"]
    if shutil.which(command[0]) is None:
        raise MmcError(
            "vitis-run is not on the PATH", 'hls="vitis"',
            f"where Vitis is: cd {folder.name} && {' '.join(command)}",
        )  # fmt: skip
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise MmcError(f"vitis-run failed: {done.stdout[-2000:]}", str(folder))
    return {"log": done.stdout}


STEPS: Mapping[str, Callable[[Path, object], Report]] = {
    "csim": csim, "rtlsim": rtlsim, "synth": synth, "pnr": pnr, "bitstream": bitstream,
    "hls": hls,
}  # fmt: skip
"""Name to function; what is chosen (True, or the name of a tool) comes as second argument."""
