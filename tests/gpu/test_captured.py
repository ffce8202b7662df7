"""A training step as a CUDA graph against the same step, kernel by kernel."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mmc.convert import TrainingOptions
from mmc.convert.captured import WARM_STEPS, Captured
from mmc.convert.rewrite import Choices, build, student_values
from mmc.convert.text import Text
from mmc.convert.training import Trainer
from mmc.frontends.models.transformer_config import TransformerConfig
from mmc.nn import Transformer

pytestmark = [
    pytest.mark.gpu,
    # torch.compile has advice.
    pytest.mark.filterwarnings("default"),
]

CONFIG = {
    "model_type": "llama", "vocab_size": 512, "hidden_size": 128, "intermediate_size": 256,
    "num_hidden_layers": 2, "num_attention_heads": 2, "tie_word_embeddings": True,
}  # fmt: skip


@pytest.mark.parametrize("checkpointing", [False, True])
def test_captured_step_is_the_step(checkpointing: bool) -> None:
    """Also what is read anew in each: the windows and the learning rate."""
    text = Text(np.random.default_rng(0).integers(0, 512, 9999), np.arange(600))
    teacher = Transformer(TransformerConfig.parse(CONFIG)).requires_grad_(False).cuda()

    def losses(captured: bool) -> list[list[float]]:
        student = build(student_values(CONFIG, Choices("matmul-free", (1,))), seed=0).cuda()
        options = TrainingOptions(steps=99, batch=4, window=64, checkpointing=checkpointing)
        trainer = Trainer(student, teacher, text, options, torch.device("cuda"))
        assert isinstance(trainer._update, Captured)  # pyright: ignore[reportPrivateUsage]
        if not captured:
            trainer._update = trainer._updated  # pyright: ignore[reportPrivateUsage]
        found = list[list[float]]()
        for step in range(WARM_STEPS + 5):
            trainer.progress.step = step
            found.append(trainer._step(step / 50)[0].tolist())  # pyright: ignore[reportPrivateUsage]
        return found

    found, wanted = losses(True), losses(False)
    np.testing.assert_allclose(found, wanted, rtol=1e-3)
    assert len({loss for loss, _ in found}) == len(found)
