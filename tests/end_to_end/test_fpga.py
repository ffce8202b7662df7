"""The target fpga as a user meets it: compile, `make csim`, run, and what it says of mistakes."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import mmc
from mmc.ir.evaluate import evaluate
from mmc.perplexity import perplexity
from mmc.targets.fpga.codec import CODECS
from mmc.targets.weights_file import WeightsFile
from tests.end_to_end.compiled import EXAMPLE, token_ids, write_model
from tests.folders import workspace

SMALL: Mapping[str, Any] = {"hidden_size": 64, "intermediate_size": 96, "vocab_size": 211}
TEXT = Path(__file__).resolve().parents[3] / "shared" / "data" / "docs-val.txt"
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")


@cache
def checkpoint(**changes: Any) -> Path:
    name = "-".join(map(str, changes.values()))
    return write_model(workspace() / f"fpga-checkpoint-{name}", {**SMALL, **changes})


@cache
def compiled(codec: str = "5b3t", check: bool = False) -> mmc.FpgaModel:
    out = workspace() / f"fpga-{codec}-{check}"
    model = mmc.compile(
        checkpoint(), target="fpga", board="kv260", weights=codec, out=out, check=check
    )
    assert isinstance(model, mmc.FpgaModel)
    return model


def make(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["make", "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


def interpreted(model: mmc.FpgaModel, ids: np.ndarray) -> np.ndarray:
    """Logits of the final graph by the interpreter."""
    graph = model.graph()
    weights = WeightsFile.open(model.path / "weights.safetensors")
    states = model.model.empty_state(len(ids)).arrays
    inputs = {"ids": ids, "lengths": np.full(len(ids), ids.shape[1]), **states}
    return evaluate(graph, inputs, {w.name: weights.array(w) for w in graph.weights})["logits"]


# What it computes.


@needs_compiler
@pytest.mark.parametrize("codec", CODECS)
def test_simulation_is_the_interpreter(codec: str) -> None:
    """Every logit of every position, through the library that `mmc run` uses."""
    model, ids = compiled(codec), token_ids(211, 2, 20)
    assert np.array_equal(model.predict(ids), interpreted(model, ids))


@needs_compiler
def test_testbench_decodes_64_tokens_as_the_interpreter() -> None:
    """Through the kernel's own interface: ports, streams, the sequencer."""
    done = make(compiled().path, "csim")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "64 tokens decoded after a prompt of 4: 0 differ" in done.stdout
    assert "warning" not in done.stderr


@needs_compiler
def test_testbench_sees_a_wrong_weight(tmp_path: Path) -> None:
    folder = shutil.copytree(compiled().path, tmp_path / "copy")
    bank = folder / "weights" / "bank_000.bin"
    content = bytearray(bank.read_bytes())
    content[40:80] = bytes(40)
    bank.write_bytes(content)
    done = make(folder, "csim")
    assert done.returncode != 0
    assert not re.search(r"\b0 differ", done.stdout)


@needs_compiler
def test_one_layer_on_ap_types() -> None:
    model = compiled()
    try:
        found = model.build(csim="ap")["csim"]
    except mmc.MmcError as missing:
        if "hls4ml" in missing.hint:
            pytest.skip(str(missing))
        raise
    assert found["said"].endswith("0 differ from the interpreter")


@needs_compiler
def test_certificate_says_what_was_compared() -> None:
    record = json.loads((compiled(check=True).path / "certificate.json").read_text())
    assert record["target"]["identical"]
    assert record["target"]["numbers"] > 1000
    lowered = next(p for p in record["passes"] if p["name"] == "to-fixed-point")
    assert lowered["note"]
    assert all(p["values"] or p["note"] for p in record["passes"] if p["name"] == "pack-ternary")


@needs_compiler
def test_prefill_decode_and_batches_agree() -> None:
    model = compiled().model
    ids, lengths = token_ids(211, 3, 9), [9, 1, 5]
    logits, state = model.prefill(ids, lengths)
    every = model.forward(ids)
    assert np.array_equal(logits, np.stack([every[b, n - 1] for b, n in enumerate(lengths)]))
    after, _ = model.decode(np.array([7, 8, 9]), state)
    for b, n in enumerate(lengths):
        alone = model.forward(np.array([[*ids[b, :n], 7 + b]]))
        assert np.array_equal(after[b], alone[0, -1])


def test_same_bytes_every_time() -> None:
    again = mmc.compile(
        checkpoint(), target="fpga", board="kv260", weights="5b3t", out=workspace() / "fpga-again"
    )
    assert again.manifest["digest"] == compiled().manifest["digest"]


@needs_compiler
@pytest.mark.slow
def test_example_decodes_64_tokens_as_the_interpreter() -> None:
    out = workspace() / "fpga-example"
    model = mmc.compile(EXAMPLE, target="fpga", board="kv260", out=out)
    assert isinstance(model, mmc.FpgaModel)
    assert "64 tokens decoded" in model.build(csim=True)["csim"]["said"]
    text = model.model.generate("Search backward", max_new_tokens=8)
    assert text.strip()


@needs_compiler
@pytest.mark.long
@pytest.mark.skipif(not TEXT.exists(), reason=f"needs {TEXT}")
def test_perplexity_of_the_example_is_that_of_floats() -> None:
    """20,000 tokens through the C simulation, and through the floats of the CPU target."""
    found: list[float] = []
    for target, board in (("fpga", "kv260"), ("cpu", None)):
        out = workspace() / f"perplexity-{target}"
        model = mmc.load(mmc.compile(EXAMPLE, target=target, board=board, out=out).path)
        assert isinstance(model, mmc.Model)
        ids = np.array(model.encode(TEXT.read_text()), np.int64)[:20_000]
        found.append(perplexity(model, ids).perplexity)
    assert abs(found[0] / found[1] - 1) < 0.002, found


# What the project looks like to Vitis, which is not here.


def test_generated_files_hold_numbers_and_calls() -> None:
    folder = compiled().path
    top = (folder / "src" / "mmc_top.cpp").read_text()
    ports = compiled().manifest["built"]["engine"]["ports"]
    for port in range(ports):
        assert f"#pragma HLS INTERFACE m_axi port = weights_{port} offset = slave" in top
    for line in (
        "#pragma HLS INTERFACE axis port = tokens_in",
        "#pragma HLS INTERFACE axis port = tokens_out",
        "#pragma HLS INTERFACE s_axilite port = return",
        "#pragma HLS DATAFLOW",
    ):
        assert line in top
    assert not re.search(r"\b(for|while|if)\b *\(", top)
    tcl = (folder / "run_hls.tcl").read_text()
    for command in ("set_top mmc_top", "csim_design", "csynth_design", "cosim_design", "export_de"):
        assert command in tcl
    link = (folder / "link.cfg").read_text()
    assert link.count("sp=mmc_top_1.weights_") == ports
    assert "sp=mmc_top_1.weights_0:HP0\n" in link  # a Zynq
    config = (folder / "src" / "mmc_config.hpp").read_text()
    assert config.count("mmc::FORGET") == config.count("mmc::GLU") == 2
    assert config.count("mmc::HEAD") == 1


def test_library_uses_every_pragma_of_the_plan() -> None:
    headers = (compiled().path / "include" / "mmc").glob("*.hpp")
    text = "".join(path.read_text() for path in headers)
    for pragma in ("PIPELINE II = 1", "UNROLL", "ARRAY_PARTITION", "DEPENDENCE", "INLINE"):
        assert f"#pragma HLS {pragma}" in text


# Mistakes.


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "--board: the target fpga needs a board"),
        ({"board": "u999"}, "unknown board 'u999'"),
        ({"board": "kv260", "mcpu": "znver4"}, "an FPGA has no processor"),
        ({"board": "kv260", "weights": "2bit"}, "no weight layout '2bit'"),
        ({"board": "kv260", "target_tps": -1.0}, "above zero"),
        ({"board": "kv260", "embedding": "int8"}, "--embedding: target fpga has no int8"),
        ({"board": "kv260", "kv_cache": "int8"}, "--kv-cache: target fpga has no int8"),
    ],
)
def test_option_that_does_not_fit(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(mmc.MmcError, match=message):
        mmc.compile(checkpoint(), target="fpga", out=tmp_path / "out", **options)
    assert list(tmp_path.iterdir()) == []


def test_board_is_for_fpgas(tmp_path: Path) -> None:
    with pytest.raises(mmc.MmcError, match="target cpu has no boards"):
        mmc.compile(checkpoint(), target="cpu", board="kv260", out=tmp_path / "out")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gate_order": "paper"}, r"model\.layers\.1\.attn.*no phase for this fixed_"),
        ({"gate_order": "hgrn"}, r"model\.layers\.1\.attn.*no phase for this fixed_"),
        ({"use_short_conv": True}, r"model\.layers\.0\.attn.*causal_conv has no form"),
    ],
)
def test_model_of_another_form_is_refused_by_name(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(mmc.MmcError, match=message):
        mmc.compile(checkpoint(**changes), target="fpga", board="kv260", out=tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_module_that_is_no_language_model(tmp_path: Path) -> None:
    module = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Tanh())
    with pytest.raises(mmc.MmcError, match="the FPGA has the head alone"):
        mmc.compile(
            module, (torch.zeros(2, 8),), target="fpga", board="kv260", out=tmp_path / "out"
        )


def test_missing_compiler_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = shutil.copytree(
        compiled().path, tmp_path / "copy", ignore=shutil.ignore_patterns("build")
    )
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(mmc.MmcError, match="no-such-compiler is not installed"):
        mmc.load(folder)


def test_vitis_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", os.defpath)
    with pytest.raises(mmc.MmcError, match=r"vitis-run --mode hls --tcl run_hls\.tcl"):
        compiled().build(hls="vitis")
    with pytest.raises(mmc.MmcError, match="no HLS tool 'magic'"):
        compiled().build(hls="magic")
    with pytest.raises(mmc.MmcError, match="no step 'magic'"):
        compiled().build(magic=True)
    assert compiled().build(csim=False)["compiled"]["board"] == "kv260"
