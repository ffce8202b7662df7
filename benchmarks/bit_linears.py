"""What MMC finds in the BitLinear of each implementation, and how far its output is from theirs.

python -m benchmarks.bit_linears: a Markdown table; [3, 5, 64] random inputs, [48, 64] weights.
"""

from __future__ import annotations

import warnings

import numpy as np
import torch

from mmc.driver import analyse
from mmc.frontends.torch_export import import_module
from mmc.inspection import weights_of
from mmc.ir.evaluate import evaluate
from tests.frontends.bit_linears import CASES, COLUMNS


def main() -> None:
    warnings.simplefilter("ignore")
    print("| implementation | weights, scale per | int8 range, eps, rounding, per | error |")
    print("|---|---|---|---|")
    for name, case in CASES.items():
        torch.manual_seed(1)
        layer, x = case.make().eval(), torch.randn(3, 5, COLUMNS)
        with torch.no_grad():
            done, wanted = analyse(import_module(layer, (x,))), layer(x).numpy()
        (found,) = done.layers
        by = found.quantiser or {}
        made = evaluate(done.core, {done.core.inputs[0].name: x.numpy()}, done.imported.tensors)
        error = np.abs(made["output"] - wanted).max() / np.abs(wanted).max()
        how = f"{by['range']:g}, {by['eps']:g}, {by['rounding']}, {by['granularity']}"
        weights = f"{weights_of(vars(found))}, {found.granularity}"
        print(f"| {name} | {weights} | {how} | {error:.1e} |")


if __name__ == "__main__":
    main()
