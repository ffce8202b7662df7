"""The trainable layers against the traced ones, and their gradients against autograd's."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mmc.frontends.models import hgrn_bit, hybrid, transformer
from mmc.frontends.models.bit_linear import BitLinear as Reference
from mmc.frontends.models.bit_linear import Quantiser
from mmc.frontends.models.hgrn_bit_config import GATE_ORDERS, HgrnBitConfig
from mmc.frontends.models.hybrid_config import HybridConfig
from mmc.frontends.models.transformer_config import TransformerConfig
from mmc.nn import BitLinear, MatMulFreeLM, Transformer, linear_scan

ATTENTION = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 6, "rope_theta": 100.0}
SIZES = {
    "vocab_size": 31, "hidden_size": 24, "num_hidden_layers": 3, "intermediate_size": 20,
    **ATTENTION,
}  # fmt: skip
BITNET = {
    **SIZES, "model_type": "bitnet", "hidden_act": "silu", "rms_norm_eps": 1e-6,
    "quantization_config": {"quant_method": "bitnet"},
}  # fmt: skip
HYBRID = {**SIZES, "layer_types": ["linear_recurrence", "full_attention", "linear_recurrence"]}


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def filled(module: nn.Module, seed: int = 0) -> nn.Module:
    """Random values in every parameter; gains near one."""
    random = torch.Generator().manual_seed(seed)
    for p in module.parameters():
        noise = torch.randn(p.shape, generator=random)
        p.data = 1 + 0.2 * noise if p.ndim == 1 else noise
    return module


def straight_through(x: Tensor, w: Tensor, gain: Tensor | None, quantiser: Quantiser) -> Tensor:
    """BitLinear as the released code trains it, in operations that autograd differentiates."""
    if gain is not None:
        assert quantiser.norm_eps is not None
        x = x * (x.square().mean(-1, keepdim=True) + quantiser.norm_eps).rsqrt() * gain
    x = x + (quantiser.activations(x) - x).detach()
    w = w + (quantiser.weights(w) - w).detach()
    return nn.functional.linear(x, w)


@pytest.mark.parametrize("norm_eps", [1e-6, None])
@pytest.mark.parametrize("rounding", ["half_away", "half_even", "half_up"])
def test_bit_linear(norm_eps: float | None, rounding: str) -> None:
    quantiser = Quantiser(norm_eps, rounding=rounding)
    layer, traced = BitLinear(40, 24, quantiser), Reference(40, 24, quantiser)
    filled(layer)
    traced.load_state_dict(layer.state_dict())
    x = torch.randn(2, 5, 40).requires_grad_()
    torch.testing.assert_close(layer(x), traced(x), rtol=1e-5, atol=1e-5)
    grad = torch.randn(2, 5, 24)
    wanted = [x, *layer.parameters()]
    plain = straight_through(x, layer.weight, layer.gain, quantiser)
    for found, expected in zip(
        torch.autograd.grad(layer(x), wanted, grad),
        torch.autograd.grad(plain, wanted, grad),
        strict=True,
    ):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_bit_linear_keeps_its_input_alone() -> None:
    """Bytes that autograd keeps for the backward pass, parameters aside."""

    def kept(run: Any) -> int:
        stored: dict[int, int] = {}
        own = {p.data_ptr() for p in layer.parameters()}

        def pack(tensor: Tensor) -> Tensor:
            if tensor.data_ptr() not in own:
                stored[tensor.data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            result = run()
        assert result.requires_grad
        return sum(stored.values())

    layer, x = BitLinear(64, 64), torch.randn(4, 16, 64, requires_grad=True)
    assert kept(lambda: layer(x)) == x.nbytes
    plain = kept(lambda: straight_through(x, layer.weight, layer.gain, layer.quantiser))
    assert plain > 3 * x.nbytes


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_settled_weights_survive_another_format(dtype: torch.dtype) -> None:
    """Every other weight lies so close to a threshold that the format moves some over it."""
    layer, x = BitLinear(64, 48), torch.randn(3, 64)
    near, others = layer.weight.data.flatten().unflatten(0, (-1, 2)).unbind(1)
    # A third of the others' mean is half of the mean of all.
    near.copy_(near.sign() * others.abs().mean() / 3 * (1 + 1e-4 * torch.randn(near.shape)))
    wanted, trits = layer(x), layer.matrix().sign()
    masters = layer.weight.clone()
    layer.weight.data = masters.to(dtype).float()
    assert not torch.equal(layer.matrix().sign(), trits)
    layer.weight.data = masters
    layer.settle()
    torch.testing.assert_close(layer(x), wanted, rtol=1e-5, atol=1e-6)
    layer.weight.data = layer.weight.to(dtype).float()
    assert torch.equal(layer.matrix().sign(), trits)
    torch.testing.assert_close(layer(x), wanted, rtol=2**-8, atol=1e-6)


def test_whole_numbers_are_exact_under_autocast() -> None:
    """Only the result is rounded to bfloat16: 2**-8 of it."""
    layer, x = BitLinear(300, 16), torch.randn(3, 300)
    wanted = layer(x)
    with torch.autocast("cpu", torch.bfloat16):
        found = layer(x)
    assert found.dtype is torch.bfloat16
    torch.testing.assert_close(found.float(), wanted, rtol=2**-7, atol=0)


@pytest.mark.parametrize("time", [1, 2, 7, 64, 65])
def test_linear_scan(time: int) -> None:
    f = torch.rand(2, time, 3, dtype=torch.float64).requires_grad_()
    i = torch.randn(2, time, 3, dtype=torch.float64).requires_grad_()

    def one_by_one(f: Tensor, i: Tensor) -> Tensor:
        h, hs = torch.zeros_like(i[:, 0]), []
        for t in range(time):
            h = f[:, t] * h + i[:, t]
            hs.append(h)
        return torch.stack(hs, 1)

    grad = torch.randn(2, time, 3, dtype=torch.float64)
    torch.testing.assert_close(linear_scan(f, i), one_by_one(f, i))
    found = torch.autograd.grad(linear_scan(f, i), (f, i), grad)
    wanted = torch.autograd.grad(one_by_one(f, i), (f, i), grad)
    torch.testing.assert_close(found, wanted)


def test_linear_scan_forgets_and_keeps() -> None:
    """Decays of 0 and 1, over which a form that divides by their product breaks."""
    f = torch.zeros(1, 300, 2)
    f[..., 1] = 1
    h = linear_scan(f, torch.ones(1, 300, 2))
    assert h[0, -1].tolist() == [1, 300]


def traced_logits(module: nn.Module, ids: Tensor) -> Tensor:
    """The logits of a module of frontends/models from empty states."""
    known: Any = module
    lengths = torch.full((len(ids),), ids.shape[1])
    states = [
        torch.zeros((len(ids), *shape), dtype=known.state_types.get(name, torch.float32))
        for name, shape in known.state_shapes.items()
    ]
    with torch.no_grad():
        return module(ids, lengths, *states)[0]


def same_logits(trained: nn.Module, traced: nn.Module) -> None:
    """The state dicts have the same names; single activations may round the other way."""
    filled(trained)
    state = trained.state_dict()
    for name in set(traced.state_dict()) - set(state):
        assert name == "model.rotary.frequencies"
        state[name] = traced.state_dict()[name]
    traced.load_state_dict(state)
    ids = torch.randint(0, 31, (2, 17), generator=torch.Generator().manual_seed(1))
    found, wanted = trained(ids), traced_logits(traced, ids)
    error = (found - wanted).abs().amax(-1) / wanted.abs().max()
    assert error.max() <= 0.02
    assert (error <= 1e-5).float().mean() >= 0.8


@pytest.mark.parametrize("gate_order", GATE_ORDERS)
@pytest.mark.parametrize("bounded", [True, False])
def test_matmul_free_model(gate_order: str, bounded: bool) -> None:
    config = HgrnBitConfig.parse(
        {**SIZES, "gate_order": gate_order, "use_lower_bound": bounded, "rms_norm_eps": 1e-5}
    )
    same_logits(MatMulFreeLM.of(config), hgrn_bit.HgrnBitForCausalLM(config))


@pytest.mark.parametrize("changes", [{}, {"tie_word_embeddings": True, "hidden_act": "relu2"}])
def test_ternary_transformer(changes: dict[str, object]) -> None:
    config = TransformerConfig.parse({**BITNET, **changes})
    same_logits(Transformer(config), transformer.TransformerForCausalLM(config, 20))


def test_dense_transformer() -> None:
    config = TransformerConfig.parse({**SIZES, "model_type": "llama"})
    same_logits(Transformer(config), transformer.TransformerForCausalLM(config, 20))


def test_hybrid_model() -> None:
    config = HybridConfig.parse(HYBRID)
    same_logits(MatMulFreeLM(config), hybrid.HybridForCausalLM(config, 20))


@pytest.mark.parametrize("model", [HYBRID, BITNET])
def test_checkpointing_changes_no_gradient(model: dict[str, Any]) -> None:
    if "layer_types" in model:
        module = MatMulFreeLM(HybridConfig.parse(model))
    else:
        module = Transformer(TransformerConfig.parse(model))
    filled(module)
    ids = torch.randint(0, 31, (2, 9))

    def gradients(checkpointing: bool) -> list[Tensor]:
        module.checkpointing = checkpointing
        loss = module(ids).square().mean()
        return list(torch.autograd.grad(loss, list(module.parameters())))

    for one, other in zip(gradients(False), gradients(True), strict=True):
        assert torch.equal(one, other)
