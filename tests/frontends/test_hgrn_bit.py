"""The MatMul-free LM: the graph against the module, and the module against the model's own code."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from mmc.errors import MmcError
from mmc.frontends.base import Imported
from mmc.frontends.checkpoint import load
from mmc.frontends.models.bit_linear import BitLinear, Quantiser, RmsNorm, unpack
from mmc.frontends.models.causal_lm import import_causal_lm
from mmc.frontends.models.hgrn_bit import HgrnBitForCausalLM
from mmc.frontends.models.hgrn_bit_config import HgrnBitConfig
from mmc.frontends.torch_types import array_of
from mmc.ir.evaluate import evaluate
from mmc.ir.ops.recurrence import Scan
from mmc.ir.ops.source import Weight
from mmc.ir.text import parse, render
from mmc.ir.types import DType

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "mmfree-9m"
GOLDEN = ROOT / "tests" / "data" / "mmfree-9m-golden.safetensors"

TINY: dict[str, Any] = {
    "vocab_size": 29,
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "intermediate_size": 40,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "released": {"num_hidden_layers": 3},
    "shared_conv": {"use_short_conv": True},
    "two_convs": {"use_short_conv": True, "share_conv_kernel": False, "conv_size": 3},
    "hgrn": {"gate_order": "hgrn", "rounding": "half_even"},
    "paper": {"gate_order": "paper", "use_lower_bound": False, "rounding": "half_up"},
    "wide": {"use_lower_bound": False, "expand_ratio": 2, "num_heads": 2},
    "tied": {"tie_word_embeddings": True, "bitlinear_eps": 1e-8},
    "wide_convs": {
        "use_short_conv": True,
        "share_conv_kernel": False,
        "use_lower_bound": False,
        "expand_ratio": 2,
    },
}


@dataclass(frozen=True)
class Model:
    module: HgrnBitForCausalLM
    imported: Imported

    def torch(self, ids: np.ndarray, lengths: list[int], states: dict[str, np.ndarray]) -> Any:
        with torch.no_grad():
            made = self.module(
                torch.from_numpy(ids),
                torch.tensor(lengths),
                *(torch.from_numpy(state) for state in states.values()),
            )
        return dict(zip(("logits", *states), map(array_of, made), strict=True))

    def graph(self, ids: np.ndarray, lengths: list[int], states: dict[str, np.ndarray]) -> Any:
        inputs = {"ids": ids, "lengths": np.array(lengths), **states}
        return evaluate(self.imported.graph, inputs, self.imported.tensors)

    def states(self, batch: int, seed: int | None = None) -> dict[str, np.ndarray]:
        """Zeros, or a random past."""
        rng = np.random.default_rng(seed)
        scale = 0 if seed is None else 1
        return {
            name: (scale * rng.standard_normal((batch, *shape))).astype(np.float32)
            for name, shape in self.module.state_shapes.items()
        }


@cache
def model(variant: str) -> Model:
    torch.manual_seed(7)
    module = HgrnBitForCausalLM(HgrnBitConfig.parse(TINY | VARIANTS[variant])).eval()
    with torch.no_grad():
        for parameter in module.parameters():
            noise = torch.randn(parameter.shape)
            parameter.copy_(1 + 0.2 * noise if parameter.dim() == 1 else noise)
    return Model(module, import_causal_lm(module))


def token_ids(batch: int, time: int) -> np.ndarray:
    return np.random.default_rng(3).integers(0, TINY["vocab_size"], (batch, time))


def difference(found: np.ndarray, wanted: np.ndarray) -> float:
    """Relative: the largest error over the largest element."""
    assert found.shape == wanted.shape
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())


@pytest.mark.parametrize("variant", VARIANTS)
def test_graph_is_the_module(variant: str) -> None:
    tiny, ids = model(variant), token_ids(2, 6)
    past = tiny.states(2, seed=1)
    found, wanted = tiny.graph(ids, [6, 4], past), tiny.torch(ids, [6, 4], past)
    assert found.keys() == wanted.keys()
    for name in wanted:
        assert difference(found[name], wanted[name]) <= 1e-5, name


@pytest.mark.parametrize("variant", VARIANTS)
def test_prefill_is_token_by_token(variant: str) -> None:
    tiny, ids = model(variant), token_ids(1, 6)
    whole = tiny.graph(ids, [6], tiny.states(1))
    states = tiny.states(1)
    for t in range(6):
        step = tiny.graph(ids[:, t : t + 1], [1], states)
        states = {name: step[name] for name in states}
        assert difference(step["logits"][:, 0], whole["logits"][:, t]) <= 1e-5
    for name, state in states.items():
        assert difference(state, whole[name]) <= 1e-5, name


@pytest.mark.parametrize("variant", ["released", "shared_conv", "two_convs"])
def test_batch_of_different_lengths_is_each_alone(variant: str) -> None:
    tiny, ids, lengths = model(variant), token_ids(3, 6), [6, 1, 3]
    past = tiny.states(3, seed=2)
    together = tiny.graph(ids, lengths, past)
    for b, length in enumerate(lengths):
        one = slice(b, b + 1)
        own = {name: state[one] for name, state in past.items()}
        alone = tiny.graph(ids[one, :length], [length], own)
        assert difference(together["logits"][one, :length], alone["logits"]) <= 1e-5
        for name in own:
            assert difference(together[name][one], alone[name]) <= 1e-5, name


@pytest.mark.parametrize("variant", VARIANTS)
def test_text_form_and_states(variant: str) -> None:
    tiny = model(variant)
    graph = tiny.imported.graph
    assert parse(render(graph)) is graph
    assert graph.states == tuple(tiny.module.state_shapes)
    scans = [op for op in graph if isinstance(op, Scan)]
    assert [scan.axis for scan in scans] == [1] * tiny.module.config.num_hidden_layers
    for scan in scans:
        assert [op.mnemonic for op in scan.body.ops] == ["input", "input", "input", "mul", "add"]


def test_origins_name_module_and_line() -> None:
    linears = [op for op in model("released").imported.graph if op.mnemonic == "linear"]
    assert len(linears) == 3 * 6 + 1
    assert "model.layers.2.mlp.down_proj" in {op.origin.path for op in linears if op.origin}
    assert all(op.origin and op.origin.line.startswith("bit_linear.py:") for op in linears)


def test_tied_matrix_is_one_tensor() -> None:
    weights = [op.name for op in model("tied").imported.graph if isinstance(op, Weight)]
    assert len({"lm_head.weight", "model.embeddings.weight"} & set(weights)) == 1


# Independent statements of the model's equations, written for one token at a time.


def test_bit_linear_by_hand() -> None:
    rng = np.random.default_rng(0)
    layer = BitLinear(32, 5, Quantiser())
    x, w = rng.standard_normal((4, 32)).astype(np.float32), layer.weight
    with torch.no_grad():
        w.copy_(torch.from_numpy(rng.standard_normal((5, 32)).astype(np.float32)))
        found = array_of(layer(torch.from_numpy(x)))
    normed = x / np.sqrt((x.astype(np.float64) ** 2).mean(-1, keepdims=True) + 1e-6)
    step = np.abs(normed).max(-1, keepdims=True) / 127
    q = np.sign(normed) * np.floor(np.abs(normed / step) + 0.5)
    size = np.abs(array_of(w)).mean()
    t = np.clip(np.rint(array_of(w) / size), -1, 1)
    assert set(np.unique(t)) == {-1, 0, 1}
    assert difference(found, (q @ t.T) * step * size) <= 1e-5


def test_gate_orders_by_hand() -> None:
    g, h = torch.randn(1, 2, 48), torch.randn(1, 2, 48)

    def normed(x: torch.Tensor) -> torch.Tensor:
        return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt()

    wanted = {
        "released": normed(g) * h * h.sigmoid(),
        "hgrn": normed(h) * g * g.sigmoid(),
        "paper": g.sigmoid() * h,
    }
    for order, expected in wanted.items():
        config = HgrnBitConfig.parse(TINY | {"gate_order": order})
        mixer: Any = HgrnBitForCausalLM(config).model.layers[0].attn
        torch.testing.assert_close(mixer._gated(g, h), expected)
        assert hasattr(mixer, "g_norm") == (order != "paper")


def test_unpack_by_hand() -> None:
    q = torch.randint(-1, 2, (8, 3))
    packed = torch.zeros(2, 3, dtype=torch.uint8)
    for row in range(8):
        packed[row % 2] |= ((q[row] + 1) << 2 * (row // 2)).to(torch.uint8)
    assert torch.equal(unpack(packed), q.to(torch.float32))


def test_half_away_of_the_number_below_a_half() -> None:
    below = np.nextafter(np.float32(0.5), np.float32(0))
    x = torch.tensor([below, 0.5, -0.5, 1.5, 2.5, -2.5])
    assert torch.ops.mmc.round_half_away(x).tolist() == [0, 1, -1, 2, 3, -3]


@cache
def example() -> Imported:
    return load(EXAMPLE)


def test_example_facts() -> None:
    found = example()
    assert (found.kind, found.vocab_size, found.max_positions) == ("causal_lm", 8192, 2048)
    assert found.eos_token_ids == (0,)
    assert found.tokenizer is not None
    assert found.tokenizer() == (EXAMPLE / "tokenizer.json").read_bytes()
    assert found.config["model_type"] == "hgrn_bit"
    assert all(op.declared.dtype is DType.BF16 for op in found.graph.weights)
    assert len(found.graph.weights) == len(found.tensors) == 95


def _run_example(ids: np.ndarray) -> np.ndarray:
    graph = example().graph
    zeros = {op.name: np.zeros((1, 256), np.float32) for op in graph.inputs[2:]}
    inputs = {"ids": ids[None], "lengths": np.array([len(ids)]), **zeros}
    return evaluate(graph, inputs, example().tensors)["logits"][0]


def test_example_is_the_original_model() -> None:
    """Over the first positions: later, a rounding that goes the other way changes digits."""
    golden = load_file(GOLDEN)
    found = _run_example(golden["input_ids"])
    assert golden["positions"][:4].tolist() == [0, 1, 2, 3]
    assert difference(found[:4], golden["logits"][:4]) <= 1e-5
    assert difference(found[golden["positions"]], golden["logits"]) <= 0.03
    assert np.mean(found.argmax(-1) == golden["argmax"]) >= 0.98


def test_example_module_is_the_original_model() -> None:
    golden = load_file(GOLDEN)
    config = HgrnBitConfig.parse(dict(example().config))
    module = HgrnBitForCausalLM(config).eval()
    tensors = example().tensors
    state = {name: torch.from_numpy(tensors[name].astype(np.float32)) for name in tensors}
    module.load_state_dict(state)
    with torch.no_grad():
        ids = torch.from_numpy(golden["input_ids"][None, :4])
        logits, *_ = module(ids, torch.tensor([4]), *[torch.zeros(1, 256)] * 6)
    assert difference(array_of(logits)[0], golden["logits"][:4]) <= 1e-5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_act": "gelu"}, r"'hidden_act' is 'gelu' \(allowed: swish, silu\)"),
        ({"num_heads": 5}, "'hidden_size' is 48, not a multiple of 'num_heads'"),
        ({"hidden_size": -48}, "'hidden_size' is -48, less than 1"),
        ({"hidden_size": "48"}, "'hidden_size' is '48', not a whole number"),
        ({"num_hidden_layers": True}, "'num_hidden_layers' is True, not a whole number"),
        ({"vocab_size": None}, "'vocab_size' is missing"),
        ({"rms_norm_eps": 0}, "'rms_norm_eps' is 0.0, not positive"),
        ({"rms_norm_eps": "tiny"}, "'rms_norm_eps' is 'tiny', not a number"),
        ({"use_short_conv": 1}, "'use_short_conv' is 1, not true or false"),
        ({"conv_size": 1}, "'conv_size' is 1, less than 2"),
        ({"gate_order": "mine"}, "allowed: released, hgrn, paper"),
        ({"rounding": "up"}, "allowed: half_away, half_even, half_up"),
        ({"expand_ratio": 2}, "'use_lower_bound' needs 'expand_ratio' 1"),
        ({"attn_mode": "chunk"}, "'attn_mode' is 'chunk'"),
    ],
)
def test_bad_config(change: dict[str, Any], message: str) -> None:
    with pytest.raises(MmcError, match=message):
        HgrnBitConfig.parse(TINY | change)


def test_intermediate_size_of_the_released_models() -> None:
    for hidden, wide in ((1024, 2816), (2048, 5632), (2560, 6912)):
        values = TINY | {"hidden_size": hidden, "intermediate_size": None, "hidden_ratio": 4}
        assert HgrnBitConfig.parse(values).intermediate_size == wide


def test_norm_is_f32_rms_norm() -> None:
    torch.testing.assert_close(RmsNorm(4, 1e-6)(torch.ones(2, 4)), torch.ones(2, 4))
