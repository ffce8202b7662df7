"""Cut the small golden file of the example model out of the full one.

    python tests/data/make_golden.py PATH/TO/golden.safetensors

The full file holds `input_ids` i64 [2, 128] and `logits_fp32` f32 [128, 8192]: the logits of row 0
computed in float32 by the model's original PyTorch code.  The cut keeps, for row 0:

- `input_ids`  i64 [128]      the tokens
- `positions`  i64 [8]        where whole rows of logits are kept: 0-3, 15, 31, 63, 127
- `logits`     f32 [8, 8192]  those rows, bit for bit
- `argmax`     i64 [128]      the likeliest next token at every position
- `nll`        f32 [127]      -log p(input_ids[t + 1] | input_ids[: t + 1]) in nats, t = 0..126,
                              computed in float64 and rounded once
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

OUT = Path(__file__).with_name("mmfree-9m-golden.safetensors")
POSITIONS = np.array([0, 1, 2, 3, 15, 31, 63, 127], np.int64)


def cut(ids: np.ndarray, logits: np.ndarray) -> dict[str, np.ndarray]:
    """Return the fields of the small file; ids is i64 [T], logits is f32 [T, V]."""
    wide = logits.astype(np.float64)
    peak = wide.max(-1)
    log_sum = peak + np.log(np.exp(wide - peak[:, None]).sum(-1))
    nll = log_sum[:-1] - wide[np.arange(len(ids) - 1), ids[1:]]
    return {
        "input_ids": np.ascontiguousarray(ids),
        "positions": POSITIONS,
        "logits": logits[POSITIONS],
        "argmax": logits.argmax(-1),
        "nll": nll.astype(np.float32),
    }


def main(golden: Path) -> None:
    """Write the cut of `golden` beside this script."""
    full = load_file(golden)
    save_file(cut(full["input_ids"][0], full["logits_fp32"]), OUT)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
