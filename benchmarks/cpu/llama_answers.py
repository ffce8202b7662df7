"""Whether llama.cpp computes with one type what it computes with F16, on the same weights.

    PYTHON llama_answers.py llama-370m-f16-f16.gguf llama-370m-tq2_0-f16.gguf …

The section `peers` runs it.  PYTHON is one of an environment that has llama-cpp-python.  The files
hold the same digits, embedding and output included (`make_llama_gguf.py … --outer f16`), so that
only the kernels and the rounding of activations differ.  Prints, for every file but the first, the
correlation of its logits with those of the first.
"""

# pyright: basic, reportMissingImports=false

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from llama_cpp import Llama

TOKENS = 32


def logits(path: str, tokens: list[int]) -> np.ndarray:
    """Logits [T, V]."""
    model = Llama(path, n_ctx=512, n_threads=1, n_threads_batch=1, logits_all=True, verbose=False)
    model.eval(tokens)
    return np.array(model.scores[: len(tokens)])


def main() -> None:
    """Read the command line and print a line for each file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="+")
    given = parser.parse_args()
    tokens = np.random.default_rng(0).integers(0, 32000, TOKENS).tolist()
    wanted = logits(given.files[0], tokens)
    for path in given.files[1:]:
        found = logits(path, tokens)
        each = [np.corrcoef(a, b)[0, 1] for a, b in zip(found, wanted, strict=True)]
        same = np.count_nonzero(found.argmax(-1) == wanted.argmax(-1))
        print(
            f"{Path(path).stem}: at {TOKENS} positions correlation {np.min(each):.4f} to "
            f"{np.max(each):.4f}, the same most likely token at {same}"
        )


if __name__ == "__main__":
    main()
