"""What the trainable models share."""

# Torch's stubs leave these types unknown.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false
from __future__ import annotations

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


class LanguageModel(nn.Module):
    """Ids i64[B, T] -> logits [B, T, V].

    checkpointing: keep each layer's input alone, and compute the layer again in the backward pass.
    """

    checkpointing: bool = False

    def run_layer(self, layer: nn.Module, x: Tensor, *given: Tensor | None) -> Tensor:
        if self.checkpointing and self.training:
            # Nothing is drawn at random, and the state of that cannot be read in a CUDA graph.
            return checkpoint(layer, x, *given, use_reentrant=False, preserve_rng_state=False)
        return layer(x, *given)

    def parts(self) -> list[nn.Module]:
        """The layers and the head, where almost all the work is."""
        return [*self.get_submodule("model.layers").children(), self.get_submodule("lm_head")]

    def tensors(self) -> dict[str, Tensor]:
        """The checkpoint's tensors: a matrix that two layers share is there once."""
        return {name: p.detach() for name, p in self.named_parameters()}
