"""Write a few bytes of I2_S by the code of microsoft/BitNet itself, as tests read them.

python -m tests.data.make_i2s BITNET      # a checkout of the repository; needs g++

https://github.com/microsoft/BitNet:
`quantize_i2_s` of src/ggml-bitnet-mad.cpp is cut out and compiled in its three builds; nothing in
it needs a processor of that kind.  `quantize_to_i2_s` of utils/convert-hf-to-gguf-bitnet.py is run
as it is.  What is kept are the bytes, and the commit that made them.
"""

from __future__ import annotations

import ast
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from tests.frontends.gguf_files import trits_of

GOLDEN = Path(__file__).parent / "i2s.safetensors"
SHAPE = (16, 128)
SCALE = np.float32(0.0371)

BUILDS = {
    "x86_parallel": ("-mavx2", "-DACT_PARALLEL", "-DQK_I2_S=128"),
    "x86": ("-mavx2", "-DQK_I2_S=128"),
    "arm": ("-D__ARM_NEON", "-DQK_I2_S=64"),
}
DRIVER = Path(__file__).parent / "i2s_driver.cpp"


def by_compiled(source: str, weights: np.ndarray, flags: tuple[str, ...]) -> np.ndarray:
    start = source.index("size_t quantize_i2_s(")
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder, "driver")
        Path(folder, "quantize.inc").write_text(source[start : source.index("\n}\n", start) + 3])
        subprocess.run(["g++", *flags, f"-I{folder}", DRIVER, "-o", program], check=True)
        command = [program, *map(str, weights.shape)]
        made = subprocess.run(command, input=weights.tobytes(), capture_output=True, check=True)
    return np.frombuffer(made.stdout, np.uint8)


def by_converter(source: str) -> Callable[..., np.ndarray]:
    """Its `quantize_to_i2_s`, without the packages that the whole file imports."""
    functions = [each for each in ast.parse(source).body if isinstance(each, ast.FunctionDef)]
    kept: list[ast.stmt] = [each for each in functions if each.name == "quantize_to_i2_s"]
    names: dict[str, Any] = {"np": np}
    exec(compile(ast.Module(kept, []), "convert-hf-to-gguf-bitnet.py", "exec"), names)
    return names["quantize_to_i2_s"]


def main(bitnet: Path) -> None:
    trits = trits_of(SHAPE, 3)
    weights = trits.astype(np.float32) * SCALE
    compiled = (bitnet / "src" / "ggml-bitnet-mad.cpp").read_text()
    held = {name: by_compiled(compiled, weights, flags) for name, flags in BUILDS.items()}
    convert = by_converter((bitnet / "utils" / "convert-hf-to-gguf-bitnet.py").read_text())
    held["converter"] = convert(weights)
    held["converter_packed"] = convert(trits.astype(np.float32), override_scale=SCALE)
    commit = ["git", "-C", str(bitnet), "rev-parse", "HEAD"]
    done = subprocess.run(commit, capture_output=True, text=True, check=True)
    source = f"https://github.com/microsoft/BitNet, commit {done.stdout.strip()}"
    save_file({"trits": trits, "scale": np.array([SCALE]), **held}, GOLDEN, {"source": source})


if __name__ == "__main__":
    main(Path(sys.argv[1]))
