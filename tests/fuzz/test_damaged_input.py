"""Damaged files: one clear error, never another exception, never a hang."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import mmc
from mmc.artifact import MANIFEST, open_artifact
from mmc.errors import MmcError
from mmc.frontends.checkpoint import read_store
from mmc.frontends.safetensors_file import read_file
from mmc.ir.text import parse, render
from mmc.passes.registry import parse_pipeline
from tests.end_to_end.compiled import artifact, checkpoint

BOUNDED = settings(
    max_examples=150, deadline=2000, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)
FEW = settings(BOUNDED, max_examples=40)


@pytest.fixture(scope="module", autouse=True)
def made_before() -> None:
    """What the examples share: their deadline is for the damaged input alone."""
    copied()
    graph_text()


def only_mmc_errors(action: Callable[[], object]) -> None:
    """Any other exception fails the test."""
    with suppress(MmcError):
        action()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)  # fmt: skip


@st.composite
def cut_and_pasted(draw: st.DrawFn, text: str) -> str:
    """The text with a few pieces left out, doubled, moved or replaced."""
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(text)))
        end = min(len(text), start + draw(st.integers(0, 30)))
        other = draw(st.integers(0, len(text)))
        piece = draw(
            st.sampled_from([
                "", text[other : other + 25], "0", "-1", "9" * 30, '"', "[", "}", "%x", "\x00", "é",
                "nan", "none", "B*T+1", "f32[]", "ternary", "1e999", "float(\"nan\")", "(" * 50,
            ])
        )  # fmt: skip
        text = text[:start] + piece + text[end:]
    return text


@cache
def graph_text() -> str:
    """A small graph that has a bit of everything: constants, a scan, records, kernels."""
    lines = (artifact("tiny") / "graph.mmc").read_text().splitlines(keepends=True)
    return "".join(lines)


SMALL = """graph @main {
  %x = input() name="x" : f32[B, T, 4]
  %w = weight() name="w" : ternary[8, 4]
  %q, %s = quantize(%x) by=absmax(low=-128, rounding="half_even") : i8[B, T, 4], f32[B, T, 1]
  %y = ternary_matmul(%q, %w) : i32[B, T, 8]  # layer, model.py:3
  %slice = slice(%y) axis=-1 start=0 length=4 step=1 : i32[B, T, 4]
  %reshape = reshape(%slice) shape=[B*T, 4] : i32[B*T, 4]
  return y=%reshape, s=%s
}
"""


def test_small_graph_is_one() -> None:
    assert parse(render(parse(SMALL))) is parse(SMALL)


@BOUNDED
@given(cut_and_pasted(SMALL))
@example("")
@example("graph @main {\n  return x=%x\n}")
@example("graph @a {\n  %x = input() : f32[]\n  return\n}")
@example("graph @a { return } graph @b { return }")
def test_damaged_graph(text: str) -> None:
    only_mmc_errors(lambda: parse(text))


@FEW
@given(st.data())
def test_damaged_graph_of_a_model(data: st.DataObject) -> None:
    text = data.draw(cut_and_pasted(graph_text()))
    only_mmc_errors(lambda: parse(text))


@BOUNDED
@given(st.text(alphabet="abc-_{}=,. 0123456789", max_size=40))
@example("pack-ternary{layout=1.6bit}")
@example("fuse-kernels{fuse=maybe}")
def test_damaged_pipeline(text: str) -> None:
    only_mmc_errors(lambda: parse_pipeline(text))


@cache
def copied() -> Path:
    return shutil.copytree(
        artifact("tiny"), Path(tempfile.mkdtemp(dir=artifact("tiny").parent)) / "copy"
    )


@BOUNDED
@given(JSON)
def test_manifest_of_anything(record: object) -> None:
    (copied() / MANIFEST).write_text(json.dumps(record))
    with pytest.raises(MmcError):
        open_artifact(copied())


@BOUNDED
@given(st.data())
def test_damaged_manifest(data: st.DataObject) -> None:
    whole = (artifact("tiny") / MANIFEST).read_text()
    text = data.draw(cut_and_pasted(whole))
    (copied() / MANIFEST).write_text(text)
    only_mmc_errors(lambda: mmc.load(copied()))


ENTRY = st.fixed_dictionaries(
    {},
    optional={
        "dtype": st.sampled_from(["F32", "BF16", "I8", "F8", "", 3, None]),
        "shape": st.lists(st.integers(-2, 9), max_size=3) | st.just([2**62, 2**62]) | JSON,
        "data_offsets": st.lists(st.integers(-4, 80), max_size=3) | JSON,
    },
)


def test_safetensors_dtype_that_is_a_list() -> None:
    text = b'{"x":{"dtype":[],"shape":[],"data_offsets":[0,0]}}'
    file = copied().parent / "list.safetensors"
    file.write_bytes(len(text).to_bytes(8, "little") + text)
    with pytest.raises(MmcError):
        read_file(file)


@BOUNDED
@given(st.dictionaries(st.text(max_size=4), ENTRY | st.integers(), max_size=3), st.integers(0, 64))
def test_damaged_safetensors_header(header: object, size: int) -> None:
    text = json.dumps(header).encode()
    file = copied().parent / "header.safetensors"
    file.write_bytes(len(text).to_bytes(8, "little") + text + bytes(size))
    only_mmc_errors(lambda: [stored.load() for stored in read_file(file).values()])


@BOUNDED
@given(st.binary(max_size=40))
def test_safetensors_of_any_bytes(content: bytes) -> None:
    file = copied().parent / "bytes.safetensors"
    file.write_bytes(content)
    only_mmc_errors(lambda: read_file(file))


@FEW
@given(st.data())
def test_damaged_config(data: st.DataObject) -> None:
    """Only the configuration: torch need not trace anything for most of them."""
    folder = copied().parent / "checkpoint"
    folder.mkdir(exist_ok=True)
    config = json.loads((checkpoint("tiny") / "config.json").read_text())
    key = data.draw(st.sampled_from(sorted(config)))
    (folder / "config.json").write_text(json.dumps({**config, key: data.draw(JSON)}))
    only_mmc_errors(lambda: mmc.compile(folder, target="reference", out=folder / "out"))


@BOUNDED
@given(JSON)
def test_damaged_index(index: object) -> None:
    folder = copied().parent / "sharded"
    folder.mkdir(exist_ok=True)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    only_mmc_errors(lambda: read_store(folder))
