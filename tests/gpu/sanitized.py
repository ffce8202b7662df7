"""Run parts of the GPU tests under NVIDIA's compute-sanitizer, all at once.

    python -m tests.gpu.sanitized [--tools memcheck,racecheck] [--parts REGEX] [--limit SECONDS]

Under a tool a kernel takes a hundred times as long: each part (`PARTS`) is a process of its own, as
many as there are processors, and one that is not through within the limit says so.  Exit code 1
unless every part was run to its end and nothing was found.  Behind the table stand the first
findings of each kind, with the kernel.  Where there is no TVM, set MMC_GPU_PREPARED as for the
tests themselves.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

TOOLS = ("racecheck", "memcheck", "synccheck")

_SMALL = "(17x5 or 100x300 or 70x1301)"
"""The last one is long enough for a ring of shared memory to come round."""

_KINDS = ("few", "two", "some", "several", "many", "hundreds", "most")

PARTS: Mapping[str, str] = {
    "one launch a token": "one_launch_gives_what_many_give or what_is_not_a_number",
    "chains in one launch": "rows_of_any_length_are_those_of_one_launch",
    **{f"products, {kind}": f"sums_are_exact and {kind}- and {_SMALL}" for kind in _KINDS},
    "rows": "agrees_with_the_interpreter",
    "rows, how many": "a_row_does_not_depend or functions_are_right",
    "recurrences": "step_by_step",
    "prompt, batch": "batch_of_different_lengths or token_by_token or prompt_in_two_parts",
    "attention": "sequences_together or continued_twice",
    "weights in fewer bits": "weights_in_fewer_bits",
    "choice of the token": "greedy_tokens_are_the_cpus",
}
"""Tests by what they run: pytest's -k."""

_FIRST = 6
"""Findings that are shown."""

_LAST = 30
"""Lines that are shown of a run that failed."""

_SUMMARY = re.compile(r"ERROR SUMMARY: (\d+) error|RACECHECK SUMMARY: (\d+) hazard")


@dataclass(frozen=True)
class Result:
    """found: what the tool counted, None where it was not through; tests: pytest's last line.

    told: what was found, or what a run said that failed.
    """

    found: int | None
    tests: str
    told: str = ""


def findings(output: str) -> list[str]:
    """What a tool found, the first of those that differ in numbers alone.

    A finding is a line behind "=========" and those behind it that are indented.
    """
    kinds: dict[str, str] = {}
    for found in re.findall(r"^========= (?=\S).*\n(?:========= {2,}.*\n)+", output, re.MULTILINE):
        kinds.setdefault(re.sub(r"0x[0-9a-f]+|\d+", "", found), found)
    return list(kinds.values())


def run(tool: str, part: str, limit: float) -> Result:
    """A part under a tool."""
    command = [
        "compute-sanitizer", "--tool", tool, sys.executable, "-m", "pytest", "-q", "-m", "gpu",
        "-p", "no:cacheprovider", str(Path(__file__).parent), "-k", PARTS[part],
    ]  # fmt: skip
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    try:
        output, _ = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # the tool, and the tests that it has started
        return Result(None, f"not through within {limit:.0f} s")
    counted = _SUMMARY.findall(output)
    told = [line for line in output.splitlines() if re.search(r"\d+ (passed|failed)", line)]
    if process.returncode or not counted or not told:
        return Result(None, "failed", "\n".join(output.splitlines()[-_LAST:]))
    found = sum(int(a or b) for a, b in counted)
    return Result(found, told[-1].strip("= "), "".join(findings(output)[:_FIRST]))


def main() -> None:
    """Read the command line, run, and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tools", default=",".join(TOOLS), help="some of these")
    parser.add_argument("--parts", default="", help="those whose names match")
    parser.add_argument("--limit", type=float, default=3600.0, help="seconds for each part")
    given = parser.parse_args()
    if shutil.which("compute-sanitizer") is None:
        sys.exit("there is no compute-sanitizer: it is part of the CUDA toolkit")
    parts = [part for part in PARTS if re.search(given.parts, part)]
    jobs = [(tool, part) for part in parts for tool in given.tools.split(",")]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        running = [pool.submit(run, tool, part, given.limit) for tool, part in jobs]
        results = [each.result() for each in running]
    print("| tool | part | found | tests |\n|---|---|---|---|")
    for (tool, part), result in zip(jobs, results, strict=True):
        found = "" if result.found is None else result.found
        print(f"| {tool} | {part} | {found} | {result.tests} |")
    for (tool, part), result in zip(jobs, results, strict=True):
        if result.told:
            print(f"\n{tool}, {part}:\n{result.told}")
    sys.exit(any(result.found != 0 for result in results))


if __name__ == "__main__":
    main()
