"""`mmc` with the windows of each batch in another order: nothing changes but the order of sums.

python -m benchmarks.reordered SEED convert MODEL -o OUT ...
"""

from __future__ import annotations

import sys

import numpy as np

from mmc.cli import main as command_line
from mmc.convert.text import Text


def main() -> None:
    """Read the seed; the rest is for `mmc`."""
    order, starts = np.random.default_rng(int(sys.argv.pop(1))), Text.starts

    def reordered(text: Text, seed: int, step: int, batch: int, window: int) -> np.ndarray:
        return order.permutation(starts(text, seed, step, batch, window))

    Text.starts = reordered
    command_line()


if __name__ == "__main__":
    main()
