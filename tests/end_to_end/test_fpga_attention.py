"""Attention on an FPGA, as a user meets it: BitNet, and a MatMul-free model that keeps some."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

import mmc
from mmc.estimate import estimate_source, render
from mmc.ir.evaluate import evaluate
from mmc.ir.ops.attention import POSITION
from mmc.targets.weights_file import WeightsFile
from tests.end_to_end.compiled import token_ids
from tests.end_to_end.states import decode_is_prefill, pieces_are_the_prompt
from tests.end_to_end.transformers import CONTEXT, artifact, golden, model, source

NAMES = ("bitnet", "hybrid")
pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")


def written(name: str) -> mmc.FpgaModel:
    made = model(name, "fpga").artifact
    return mmc.FpgaModel(made.path, made.manifest)


def ids_of(name: str) -> np.ndarray:
    return token_ids(model(name, "fpga").vocab_size, 2, 40)


@pytest.mark.parametrize("name", NAMES)
def test_simulation_is_the_interpreter(name: str) -> None:
    """Every logit of every position, through the library that `mmc run` uses."""
    own, ids = model(name, "fpga"), ids_of(name)
    weights = WeightsFile.open(own.artifact.path / "weights.safetensors")
    graph = own.artifact.graph()
    inputs = {"ids": ids, "lengths": np.array([40, 40]), **own.empty_state(2).arrays}
    wanted = evaluate(graph, inputs, {w.name: weights.array(w) for w in graph.weights})
    assert np.array_equal(own.forward(ids), wanted["logits"])
    _, state = own.prefill(ids)
    for kept in graph.states:
        assert np.array_equal(state.arrays[kept], wanted[kept]), kept


@pytest.mark.parametrize("name", NAMES)
def test_testbench_decodes_64_tokens_as_the_interpreter(name: str) -> None:
    """Through the kernel's own interface: the cache lies in memory, behind a port."""
    said = written(name).build(csim=True)["csim"]["said"]
    assert said == "64 tokens decoded after a prompt of 4: 0 differ from the interpreter"


def test_testbench_sees_a_wrong_turn(tmp_path: Path) -> None:
    """The cosines and sines of a position, behind the embedding."""
    folder = shutil.copytree(artifact("bitnet", "fpga"), tmp_path / "copy")
    table = folder / "weights" / "embedding.bin"
    content = bytearray(table.read_bytes())
    content[-1000:] = bytes(1000)
    table.write_bytes(content)
    config = (folder / "src" / "mmc_config.hpp").read_text()
    assert f"context = {CONTEXT}" in config
    with pytest.raises(mmc.MmcError, match=r"[1-9]\d* differ from the interpreter"):
        mmc.FpgaModel(folder, written("bitnet").manifest).build(csim=True)


def test_check_compares_caches() -> None:
    """Prompts with padding behind states that are not empty, at random positions."""
    record = json.loads((artifact("hybrid", "fpga") / "certificate.json").read_text())["target"]
    assert record["identical"]
    assert record["numbers"] > 2 * 2 * 2 * CONTEXT * 8 * 2  # caches of two sequences, two entries


def test_the_manifest_says_in_what_caches_are() -> None:
    sizes = json.loads((artifact("hybrid", "fpga") / "manifest.json").read_text())["sizes"]
    assert sizes["kv_cache"] == "int16"


@pytest.mark.parametrize("name", NAMES)
def test_logits_are_near_those_of_floats(name: str) -> None:
    ids = golden("bitnet")["input_ids"] if name == "bitnet" else ids_of(name)
    floats, integers = model(name, "reference").forward(ids), model(name, "fpga").forward(ids)
    error = np.sqrt(np.square(floats - integers).mean() / np.square(floats).mean())
    assert error < 0.03


@pytest.mark.parametrize("name", NAMES)
def test_decode_is_prefill_bit_for_bit(name: str) -> None:
    state = decode_is_prefill(model(name, "fpga"), ids_of(name)[:, :24], [24, 7])
    assert state.arrays[POSITION].tolist() == [24, 7]


def test_a_prompt_in_pieces_is_the_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    pieces_are_the_prompt(model("hybrid", "fpga"), ids_of("hybrid")[:, :24], [24, 11], monkeypatch)


def test_a_state_can_be_continued_twice() -> None:
    own, ids = model("hybrid", "fpga"), ids_of("hybrid")
    _, state = own.prefill(ids[:, :20])
    own.extend(ids[:, 30:], None, state)
    again, _ = own.extend(ids[:, 20:], None, state)
    assert np.array_equal(again, own.prefill(ids)[0])


def test_a_full_cache_is_told() -> None:
    own = model("bitnet", "fpga")
    ids = token_ids(own.vocab_size, 1, CONTEXT)
    logits, state = own.prefill(ids)
    assert np.isfinite(logits).all()
    with pytest.raises(mmc.MmcError, match=f"{CONTEXT} positions and 1 more do not fit.*--context"):
        own.decode(np.array([1]), state)


def test_what_a_board_makes_of_it() -> None:
    """A full cache costs cycles and bytes, and says that they are projected."""
    found, found_in = written("bitnet").estimate(), artifact("bitnet", "fpga")
    unit, record = found.attention, found.record()
    kept = record["attention"]
    assert kept["cache_bytes"] == 2 * 2 * unit.groups * CONTEXT * unit.width * 2
    assert kept["label"] == record["label"]["cycles"] == "projected"
    assert record["bytes_per_token"] > kept["cache_bytes"]
    assert kept["tokens_per_second_of_an_empty_cache"] > record["tokens_per_second"]
    page = render(estimate_source(str(found_in), "kv260", "8b5t", None))
    assert f"with a full cache of {CONTEXT} positions, 0.03 MB (projected" in page
    with pytest.raises(mmc.MmcError, match="is compiled for reference"):
        estimate_source(str(artifact("bitnet", "reference")), "kv260", None, None)


@pytest.mark.parametrize(
    "step", [{"rtlsim": True}, {"synth": "yosys"}, {"pnr": "ecp5"}, {"bitstream": "ecp5"}]
)
def test_the_rtl_has_no_attention(step: dict[str, bool | str]) -> None:
    with pytest.raises(mmc.MmcError, match="the RTL has no phase 'query': it runs MatMul-free"):
        written("bitnet").build(**step)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("llama", r"layers\.0\.self_attn\.q_proj.*dense: .* the FPGA has the head alone"),
        ("llama-bitnet", r"layers\.0\.self_attn\.o_proj.*quantised by quantize, without a norm"),
    ],
)
def test_model_of_another_form_is_refused_by_name(name: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(mmc.MmcError, match=message):
        mmc.compile(source(name), target="fpga", board="kv260", out=tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_the_kernel_has_a_port_for_the_cache() -> None:
    folder = artifact("hybrid", "fpga")
    top = (folder / "src" / "mmc_top.cpp").read_text()
    assert "#pragma HLS INTERFACE m_axi port = cache offset = slave bundle = gmem_cache" in top
    assert not re.search(r"\b(for|while|if)\b *\(", top)
    assert "sp=mmc_top_1.cache:" in (folder / "link.cfg").read_text()
