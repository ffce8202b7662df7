"""What a table was measured with."""

from __future__ import annotations

import datetime
import os
import re
from importlib.metadata import version
from pathlib import Path

from benchmarks.cpu.measure import run
from benchmarks.cpu.settings import Settings

FEATURES = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8")


def described(settings: Settings) -> str:
    """One line: date, processor, versions."""
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    versions = [f"{name} {version(name)}" for name in ("mmc-compiler", "apache-tvm", "numpy")]
    binary = settings.llama_bench or settings.llama_bench_avx2
    if binary:
        versions.append(f"llama.cpp {llama_version(binary)}")
    if settings.litespark:
        code = "from importlib.metadata import version; print(version('litespark-inference'))"
        found = run([settings.litespark, "-c", code]).text.strip()
        versions.append(f"litespark-inference {found}")
    return f"{today}; {processor()}; {', '.join(versions)}. Rounds: {settings.repeats}."


def processor() -> str:
    """Its name, what it can do, and its shared cache."""
    info = Path("/proc/cpuinfo").read_text()
    name = re.search(r"^model name\s*: (.*)$", info, re.MULTILINE)
    flags = set((re.search(r"^flags\s*: (.*)$", info, re.MULTILINE) or [""])[0].split())
    can = ", ".join(feature for feature in FEATURES if feature in flags)
    cache = Path("/sys/devices/system/cpu/cpu0/cache/index3/size")
    size = f", {cache.read_text().strip()} L3" if cache.is_file() else ""
    return f"{name[1] if name else 'unknown processor'} ({can}), {os.cpu_count()} processors{size}"


def llama_version(binary: Path) -> str:
    """What the program says of itself."""
    done = run([binary, "--version"])
    found = re.search(r"version:?\s*(.+)", done.text + done.said)
    return found[1].strip() if found else "of unknown version"
