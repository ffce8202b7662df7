"""The command line as a user meets it: exit codes, one line of error, output to read on."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from mmc.ir.text import parse
from tests.end_to_end.compiled import EXAMPLE, artifact, checkpoint

Done = subprocess.CompletedProcess[str]


def mmc(*arguments: str | Path, **options: Any) -> Done:
    command = [sys.executable, "-m", "mmc", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, **options)


def refused(done: Done, message: str, code: int = 1) -> None:
    assert done.returncode == code, done.stderr
    assert done.stderr.startswith("mmc: error: ")
    assert done.stderr.count("\n") == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


# What a user gets wrong --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["compile", "nowhere"], "nowhere: there is no such folder"),
        (["compile", "nowhere", "--target", "tpu"], "unknown target 'tpu'"),
        (["compile", "nowhere", "--weights", "3bit"], "no weight layout '3bit'"),
        (["compile", "nowhere", "--print-after", "magic"], "no pass 'magic'"),
        (["compile", "nowhere.onnx"], "nowhere.onnx: cannot read: No such file"),
        (["export", "nowhere"], "nowhere: is no artefact"),
        (["export", "nowhere", "--format", "png"], "no format 'png'"),
        (["run", "nowhere", "-p", "x"], "nowhere: is no artefact"),
        (["eval", "nowhere", "--text", "x"], "nowhere: is no artefact"),
        (["inspect", "nowhere"], "nowhere: there is no such folder"),
        (["opt", "nowhere.mmc", "--passes", "canonicalize"], "nowhere.mmc"),
        (["opt", "-", "--passes", "magic"], "unknown pass 'magic'"),
        (["opt", "-", "--passes", "pack-ternary{size=2}"], "no option 'size'"),
        (["opt", "-", "--passes", "canonicalize{x=1}"], "canonicalize has no options"),
        (["opt", "-", "--passes", "{"], "cannot read '{'"),
    ],
)
def test_mistake_is_one_line(arguments: list[str], message: str, tmp_path: Path) -> None:
    done = mmc(*arguments, input="graph @main {\n  return\n}\n", cwd=tmp_path)
    refused(done, message)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments", [["compile"], ["nonsense"], ["run", "x", "-p", "y", "-n", "many"], ["eval", "x"]]
)
def test_wrong_usage_exits_with_2(arguments: list[str]) -> None:
    refused(mmc(*arguments), "--help", code=2)


def drop_shard(folder: Path) -> str:
    (folder / "model-00002-of-00002.safetensors").unlink()
    return "model-00002-of-00002.safetensors: the shard is missing"


def truncate(folder: Path) -> str:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    return "model.safetensors"


def drop_config(folder: Path) -> str:
    (folder / "config.json").unlink()
    return "config.json: the file is missing"


def drop_weights(folder: Path) -> str:
    (folder / "model.safetensors").unlink()
    return "neither model.safetensors nor"


def configured(key: str, value: object, message: str) -> Callable[[Path], str]:
    def change(folder: Path) -> str:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, key: value}))
        return message

    return change


def stored(name: str, change: Callable[[np.ndarray], np.ndarray], message: str) -> Any:
    def rewrite(folder: Path) -> str:
        tensors = load_file(folder / "model.safetensors")
        tensors[name] = change(tensors[name])
        save_file(tensors, folder / "model.safetensors")
        return message

    return rewrite


def not_a_number(array: np.ndarray) -> np.ndarray:
    changed = array.astype(np.float32)
    changed.reshape(-1)[3] = np.nan
    return changed


O_PROJ = "model.layers.1.attn.o_proj.weight"
DAMAGE: dict[str, Callable[[Path], str]] = {
    "no config": drop_config,
    "no weights": drop_weights,
    "truncated": truncate,
    "model type": configured("model_type", "gpt5", "model_type 'gpt5' is not known"),
    "activation": configured("hidden_act", "relu6", "'hidden_act' is 'relu6'"),
    "type of a key": configured("hidden_size", "40", "'hidden_size' is '40'"),
    "shape": stored(O_PROJ, lambda a: a[:, :-1].copy(), f"tensor '{O_PROJ}' is"),
    "not a number": stored(O_PROJ, not_a_number, "1 of 1600 elements are NaN or infinite"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_checkpoint_is_named(damage: str, tmp_path: Path) -> None:
    folder = shutil.copytree(checkpoint("tiny"), tmp_path / "model")
    message = DAMAGE[damage](folder)
    refused(mmc("compile", folder, "-o", tmp_path / "out"), message)
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_missing_shard_is_named(tmp_path: Path) -> None:
    folder = shutil.copytree(EXAMPLE, tmp_path / "model")
    message = drop_shard(folder)
    refused(mmc("compile", folder, "-o", tmp_path / "out"), message)


def test_traceback_only_with_debug() -> None:
    shown = mmc("compile", "nowhere", "--debug")
    assert shown.returncode == 1
    assert "Traceback" in shown.stderr
    asked = mmc("compile", "nowhere", env={**os.environ, "MMC_DEBUG": "1"})
    assert "Traceback" in asked.stderr


# compile and run ---------------------------------------------------------------------------------


def test_compile_writes_and_says_what(tmp_path: Path) -> None:
    """A pipe sees no progress bar and no escape sequence, even where colours are forced."""
    out, dumps = tmp_path / "out", tmp_path / "ir"
    done = mmc(
        *("compile", checkpoint("tiny"), "--target", "reference", "-o", out),
        *("--dump-ir", dumps, "--print-after", "merge-projections"),
        env={**os.environ, "FORCE_COLOR": "1"},
    )
    assert done.returncode == 0
    assert "\x1b" not in done.stdout + done.stderr
    assert done.stderr.startswith("merge-projections")
    assert done.stdout.startswith(f"{out}: reference, 13 of 13 linear layers ternary")
    assert {p.name for p in dumps.iterdir()} == {p.name for p in (out / "passes").iterdir()}
    for file in dumps.glob("*.mmc"):
        parse(file.read_text())


def test_folder_with_other_things_is_refused_at_once(tmp_path: Path) -> None:
    done = mmc("compile", "nowhere", "-o", tmp_path)
    refused(done, "exists and is not an artefact")


def test_run_continues_the_prompt() -> None:
    done = mmc("run", artifact("example"), "-p", "The first line", "-n", "5")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("The first line")
    assert len(done.stdout) > len("The first line\n")
    sampled = [
        mmc("run", artifact("example"), "-p", "a", "-n", "5", "--temperature", "1", "--seed", s)
        for s in "11"
    ]
    assert sampled[0].stdout == sampled[1].stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-p", ""], "the prompt has no tokens"),
        (["-p", "x", "-n", "0"], "max_new_tokens must be at least 1"),
        (["-p", "x", "--temperature", "-1"], "temperature must be"),
        (["-p", "x", "--top-p", "0"], "top_p must be"),
        (["-p", "x", "--embedding-memory", "host"], "target cpu keeps an embedding on the device"),
    ],
)
def test_run_refuses(arguments: list[str], message: str) -> None:
    refused(mmc("run", artifact("example"), *arguments), message)


def test_run_wants_a_tokenizer() -> None:
    refused(mmc("run", artifact("tiny"), "-p", "x"), "tokenizer.json")


def test_eval(tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("The history is searched backward. " * 20)
    asked = ["eval", artifact("example"), "--text", text, "--tokens", "60", "--window", "32"]
    plain, record = mmc(*asked), mmc(*asked, "--json")
    assert plain.stdout.startswith("token perplexity ")
    found = json.loads(record.stdout)
    assert (found["tokens"], found["window"], found["kind"]) == (58, 32, "token")
    assert f"{found['perplexity']:.3f}" in plain.stdout
    assert record.stderr == plain.stderr == ""


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "no tokens"), (b"\xff\xfe", "not UTF-8"), (None, "No such file")],
)
def test_eval_refuses(content: bytes | None, message: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "text").write_bytes(content)
    refused(mmc("eval", artifact("example"), "--text", tmp_path / "text"), message)


def test_json_outputs_can_be_read(tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = mmc(
        *("compile", checkpoint("tiny"), "--target", "reference", "-o", out),
        *("--json", "--print-after", "all"),
    )
    assert "canonicalize" in done.stderr
    compiled = json.loads(done.stdout)
    assert compiled["path"] == str(out)
    assert compiled["manifest"] == json.loads((out / "manifest.json").read_text())
    inspected = json.loads(mmc("inspect", checkpoint("tiny"), "--json").stdout)
    assert len(inspected["layers"]) == 13
    assert json.loads(mmc("inspect", out, "--json").stdout)["target"] == "reference"
    assert json.loads(mmc("targets", "--json").stdout)["reference"]["problems"] == []


def test_closed_pipe_is_no_error() -> None:
    command = f"{sys.executable} -m mmc passes | head -1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert done.stderr == ""


# opt, passes, targets, doctor --------------------------------------------------------------------

SQUARE = """graph @main {
  %x = input() name="x" : f32[3]
  %mul = mul(%x, %x) : f32[3]
  return y=%mul
}
"""


def test_opt_reads_standard_input_or_a_file(tmp_path: Path) -> None:
    (tmp_path / "square.mmc").write_text(SQUARE)
    piped = mmc("opt", "-", "--passes", "canonicalize", "--print-after", "all", input=SQUARE)
    read = mmc("opt", tmp_path / "square.mmc", "--passes", "canonicalize")
    assert piped.stdout == read.stdout
    assert [op.mnemonic for op in parse(piped.stdout)] == ["input", "square"]
    assert "times_itself" in piped.stderr
    assert read.stderr == ""


def test_parse_error_shows_the_place() -> None:
    done = mmc("opt", "-", "--passes", "canonicalize", input=SQUARE.replace("mul(", "mull("))
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    assert lines[0].startswith("mmc: error: <stdin>:3:")
    assert "unknown operation 'mull'" in done.stderr
    caret = next(line for line in lines if line.strip() == "^" or line.strip().startswith("^"))
    assert "%mul = mull" in lines[lines.index(caret) - 1]
    assert lines[lines.index(caret) - 1][caret.index("^") :].startswith("mull")


def test_passes_and_targets_and_doctor() -> None:
    listed = mmc("passes")
    assert listed.returncode == 0
    assert "pack-ternary layout=" in listed.stdout
    assert "cpu" in mmc("targets").stdout
    doctor = mmc("doctor")
    assert "apache-tvm" in doctor.stdout
    assert doctor.returncode == int("missing" in doctor.stdout)


def test_help_names_every_command() -> None:
    shown = mmc("--help").stdout
    for command in ("compile", "run", "eval", "inspect", "opt", "passes", "targets", "doctor"):
        assert command in shown
