"""`--kv-cache int8`: caches in codes of 8 bits, the same on every target that has them."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import mmc
from mmc.errors import MmcError
from mmc.export import export
from mmc.inspection import inspect_source, render_inspection
from mmc.ir.graph import graph_of
from mmc.ir.ops.recurrence import Kernel
from mmc.targets.cpu.target import TARGET as CPU
from mmc.targets.cuda.target import TARGET as CUDA
from tests.end_to_end import compiled
from tests.end_to_end.states import decode_is_prefill, pieces_are_the_prompt
from tests.end_to_end.transformers import CONTEXT, golden, model, source
from tests.folders import once
from tests.frontends.onnx_models import error, session
from tests.targets.test_attention import attends_to_codes

NAME = "bitnet"


@cache
def rounded(target: str) -> mmc.Model:
    def make(out: Path) -> object:
        return mmc.compile(
            source(NAME), target=target, out=out, context=CONTEXT, kv_cache="int8",
            mcpu="native" if target == "cpu" else None,
        )  # fmt: skip

    loaded = mmc.load(once(f"kv-cache-{target}", make))
    assert isinstance(loaded, mmc.Model)
    return loaded


def test_the_cpu_is_the_interpreter() -> None:
    """An activation may round the other way (then 0.02); most positions have none (then 1e-5)."""
    ids = golden(NAME)["input_ids"]
    found, wanted = rounded("cpu").forward(ids), rounded("reference").forward(ids)
    apart = np.abs(found - wanted).max(-1) / np.abs(wanted).max()
    assert apart.max() <= 0.02
    assert (apart <= 1e-5).mean() >= 0.8


def test_it_is_near_the_model_as_it_is_and_not_the_same() -> None:
    ids = golden(NAME)["input_ids"]
    apart = error(rounded("reference").forward(ids), model(NAME, "reference").forward(ids))
    assert 1e-4 < apart < 0.1


def test_codes_and_steps_of_what_was_appended() -> None:
    """Of a prompt's first keys: a step is the largest magnitude over 127, codes go from 1."""
    ids = golden(NAME)["input_ids"][:1, :7]
    _, plain = model(NAME, "reference").prefill(ids)
    _, state = rounded("reference").prefill(ids)
    name = "model.layers.0.self_attn.keys"
    keys, codes = plain.arrays[name][:, :, :7], state.arrays[name][:, :, :7]
    steps = state.arrays[f"{name}.steps"][:, :, :7]
    np.testing.assert_allclose(steps, np.abs(keys).max(-1, keepdims=True) / 127, 1e-6)
    assert codes.min() >= 1
    assert np.abs((codes - 128.0) * steps - keys).max() <= 0.501 * steps.max()


def test_a_token_alone_is_a_token_in_a_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    decode_is_prefill(rounded("cpu"), golden(NAME)["input_ids"], [24, 7])
    pieces_are_the_prompt(rounded("cpu"), golden(NAME)["input_ids"], [24, 7], monkeypatch)


def test_bytes_and_what_reports_say() -> None:
    width = json.loads((source(NAME) / "config.json").read_text())
    head = width.get("head_dim") or width["hidden_size"] // width["num_attention_heads"]
    own, plain = rounded("cpu"), model(NAME, "reference")
    caches = plain.empty_state(1).bytes - 8
    assert own.empty_state(1).bytes - 8 == caches * (head + 4) // (4 * head)
    sizes = own.artifact.manifest["sizes"]
    assert (sizes["kv_cache"], plain.artifact.manifest["sizes"]["kv_cache"]) == ("int8", "float32")
    assert "caches in int8" in (own.artifact.path / "report.html").read_text()
    assert "caches in int8" in render_inspection(inspect_source(own.artifact.path))


def test_it_is_exported(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    export(rounded("reference").artifact.path, path)
    onnx.checker.check_model(str(path), full_check=True)
    own, ids = rounded("reference"), golden(NAME)["input_ids"][:1]
    inputs = {"ids": ids, "lengths": np.array([24]), **own.empty_state(1).arrays}
    made: Any = session(path).run(None, inputs)
    logits = made[0]
    assert error(logits, own.forward(ids)) <= 0.02
    assert error(logits[:, :2], own.forward(ids)[:, :2]) <= 1e-5
    again = mmc.compile(path, target="reference", out=tmp_path / "again")
    found = mmc.load(again.path)
    assert isinstance(found, mmc.Model)
    assert np.array_equal(found.forward(ids), own.forward(ids))


def test_refusals(tmp_path: Path) -> None:
    def refused(match: str, model: Path, **options: str | None) -> None:
        with pytest.raises(MmcError, match=match):
            mmc.compile(model, out=tmp_path / "out", **options)  # pyright: ignore[reportArgumentType]
        assert not (tmp_path / "out").exists()

    refused("no kind 'int4'", source(NAME), kv_cache="int4")
    refused("--kv-cache: target cuda has no int8", source(NAME), kv_cache="int8", target="cuda")
    refused("no caches", compiled.checkpoint("tiny"), kv_cache="int8", target="reference")


def test_what_no_gpu_has_a_kernel_for_is_named() -> None:
    body = attends_to_codes(6, 2, 8)
    graph = graph_of("main", {"y": Kernel(body.inputs, body)}, body.inputs)
    assert CUDA.capabilities.kv_caches == ()
    assert [why for _, why in CUDA.unsupported(graph)] == [
        "a GPU has no kernel for attention_codes"
    ]
    assert CPU.unsupported(graph) == []
