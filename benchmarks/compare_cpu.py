"""Run artefacts beside llama.cpp, in turn and pinned: the table of docs/benchmarks-cpu.md.

    python benchmarks/compare_cpu.py --llama-bench PATH ARTEFACT=PEER.gguf ... [-t 1] [-r 3]

Each pair is an artefact of `mmc compile` and the GGUF that it is compared with.  Both run on the
same processors, one after the other, `-r` times; a row gives the median of both and their ratio.
llama-bench reports wall-clock time, so ours is wall-clock time too: run it on a quiet machine.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

PROMPT, GENERATE = 512, 32


def ours(artefact: str, threads: int, pin: list[str]) -> dict[str, float]:
    """Tokens a second of an artefact by test."""
    mmc = str(Path(sys.executable).with_name("mmc"))
    command = [mmc, "bench", artefact, "-p", str(PROMPT), "-n", str(GENERATE), "-r", "1", "--json"]
    text = subprocess.check_output([*pin, *command, "-t", str(threads)], text=True)
    return {row["test"]: row["wall_rate"] for row in json.loads(text)["rows"]}


def peer(binary: str, model: str, threads: int, pin: list[str]) -> dict[str, float]:
    """Tokens a second of llama-bench by test."""
    command = [binary, "-m", model, "-p", str(PROMPT), "-n", str(GENERATE), "-r", "1", "-o", "json"]
    text = subprocess.check_output([*pin, *command, "-t", str(threads)], text=True)
    found = json.loads(text)
    return {
        (f"pp{row['n_prompt']}" if row["n_prompt"] else f"tg{row['n_gen']}"): row["avg_ts"]
        for row in found
    }


def table(pairs: list[str], binary: str, threads: int, repeats: int) -> list[str]:
    """The rows, each test of each pair."""
    pin = ["taskset", "-c", ",".join(map(str, range(threads)))]
    columns = ("artefact", "peer", "threads", "test", "mmc t/s", "llama.cpp t/s", "ratio")
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for pair in pairs:
        artefact, _, model = pair.partition("=")
        runs = [
            (ours(artefact, threads, pin), peer(binary, model, threads, pin))
            for _ in range(repeats)
        ]
        for test in (f"pp{PROMPT}", f"tg{GENERATE}"):
            mine = statistics.median(run[0][test] for run in runs)
            theirs = statistics.median(run[1][test] for run in runs)
            names = f"{Path(artefact).name} | {Path(model).name}"
            rates = f"{mine:.1f} | {theirs:.1f} | {mine / theirs:.2f}"
            lines.append(f"| {names} | {threads} | {test} | {rates} |")
    return lines


def main() -> None:
    """Read the command line and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("pairs", nargs="+", metavar="ARTEFACT=PEER.gguf")
    parser.add_argument("--llama-bench", required=True)
    parser.add_argument("-t", "--threads", type=int, default=1)
    parser.add_argument("-r", "--repeats", type=int, default=3)
    given = parser.parse_args()
    print("\n".join(table(given.pairs, given.llama_bench, given.threads, given.repeats)))


if __name__ == "__main__":
    main()
