"""torch.compile with MMC behind it on models of transformers: every graph compiled, none in torch.

Each is tiny and random; outputs are compared with eager's by the largest of these.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from mmc import dynamo
from tests.end_to_end.compiled import one_thread

transformers = pytest.importorskip("transformers", reason="the extra `dev` installs transformers")
one_thread()

TEXT = {"hidden_size": 32, "num_hidden_layers": 2, "vocab_size": 50}
HEADS = {"num_attention_heads": 4, "intermediate_size": 48}
SPECIAL = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}


def _llama() -> Any:
    config = transformers.LlamaConfig(**TEXT, **HEADS, **SPECIAL, num_key_value_heads=2)
    return transformers.LlamaForCausalLM(config)


def _gpt2() -> Any:
    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 50, "n_positions": 40}
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes, **SPECIAL))


def _bert() -> Any:
    return transformers.BertModel(transformers.BertConfig(**TEXT, **HEADS, **SPECIAL))


def _mamba() -> Any:
    config = transformers.MambaConfig(**TEXT, **SPECIAL, state_size=4)
    return transformers.MambaForCausalLM(config)


def _rwkv() -> Any:
    config = transformers.RwkvConfig(**TEXT, **SPECIAL, attention_hidden_size=32)
    return transformers.RwkvForCausalLM(config)


def _resnet() -> Any:
    sizes = {"embedding_size": 4, "hidden_sizes": [8, 12], "depths": [1, 1]}
    return transformers.ResNetModel(transformers.ResNetConfig(**sizes))


MODELS: dict[str, Callable[[], Any]] = {
    "llama": _llama,
    "gpt2": _gpt2,
    "bert": _bert,
    "mamba": _mamba,
    "rwkv": _rwkv,
    "resnet": _resnet,
}


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    torch.manual_seed(0)
    torch.compiler.reset()
    dynamo.reset()
    with torch.no_grad():
        yield


def tensors(output: Any) -> list[torch.Tensor]:
    """The logits or hidden states; caches and states are lists within the output."""
    return [x for x in output.to_tuple() if isinstance(x, torch.Tensor)]


@pytest.mark.filterwarnings("ignore")  # transformers' and TorchDynamo's own
@pytest.mark.parametrize("name", MODELS)
def test_whole_model_is_compiled(name: str) -> None:
    model = MODELS[name]().eval()
    time = 6 if name == "rwkv" else 4
    given: dict[str, Any] = {"input_ids": torch.randint(3, 50, (2, time))}
    if name == "resnet":
        model.apply(_used)
        given = {"pixel_values": torch.randn(2, 3, 32, 32)}
    if name == "bert":
        given["attention_mask"] = torch.tensor([[1] * 4, [1] * 3 + [0]])
    wanted = tensors(model(**given))
    found = tensors(torch.compile(model, backend="mmc", options={"mcpu": "native"})(**given))
    assert len(found) == len(wanted) > 0
    for a, b in zip(found, wanted, strict=True):
        assert float((a - b).abs().max()) <= 2e-6 * float(b.abs().max())
    (part,) = dynamo.parts()
    assert (part.compiled, part.calls, part.in_torch, part.reasons) == (1, 1, 0, {})


def _used(module: torch.nn.Module) -> None:
    """Statistics that are not those of a fresh batch norm."""
    if isinstance(module, torch.nn.BatchNorm2d):
        for buffer in (module.running_mean, module.running_var):
            assert buffer is not None
            buffer.copy_(0.5 + torch.rand_like(buffer))
