"""The released MatMul-free code (ridgerchu/matmulfreellm) at the shapes of a run, in fp16.

Its files stay as they are.  What newer versions of its packages have elsewhere is put where it
looks: Triton's rounding.  It needs the packages transformers and einops.
"""

# Its packages are not installed where types are checked.
# pyright: basic
from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.cuda.shapes import Shape
from benchmarks.cuda.timing import Run, graphed


class Upstream:
    """A model of random weights that quantises them in every step, as it was released."""

    def __init__(self, folder: Path, shape: Shape) -> None:
        module = _imported(folder)
        config = module.HGRNBitConfig(
            vocab_size=shape.vocabulary, hidden_size=shape.width, intermediate_size=shape.inner,
            num_hidden_layers=shape.layers,
        )  # fmt: skip
        with torch.device("cuda"):
            self.model = module.HGRNBitForCausalLM(config).half().eval()

    @torch.no_grad()
    def __call__(self, ids: Tensor, states: Any = None) -> Tensor:
        """The likeliest token of the last position [1]; states are written to."""
        made = self.model(
            input_ids=ids, past_key_values=states, use_cache=True, return_dict=True,
            output_attentions=False, output_hidden_states=False,
        )  # fmt: skip
        return made.logits[:, -1].argmax(-1)

    def states(self) -> Any:
        """Those of one sequence, empty."""
        from mmfreelm.models.utils import RecurrentCache

        layers = self.model.model.layers
        return RecurrentCache.from_legacy_cache([layer.attn.init_state(1) for layer in layers])

    def steps(self) -> dict[str, Run]:
        """A step of one sequence, as it is and recorded."""
        ids, states = torch.zeros(1, 1, dtype=torch.int64, device="cuda"), self.states()
        return {
            "released code, fp16, eager": lambda: self(ids, states),
            "released code, fp16, CUDA graph": graphed(lambda: self(ids, states)),
        }


def _imported(folder: Path) -> Any:
    import triton.language as tl
    from triton.language.extra.cuda import libdevice

    if not hasattr(tl.math, "round"):
        tl.math.round = libdevice.round
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    import mmfreelm.models

    return mmfreelm.models
