"""Passes by name, their options, and the text of a pipeline."""

from __future__ import annotations

import pytest

from mmc.errors import MmcError
from mmc.passes.base import RulePass
from mmc.passes.convert_layers import ConvertLayers
from mmc.passes.fuse_kernels import FuseKernels
from mmc.passes.last_position import LastPosition
from mmc.passes.pack_ternary import PackTernary
from mmc.passes.registry import PASSES, describe, load_pass, parse_pipeline


def test_every_pass_loads_and_describes_itself() -> None:
    for name in PASSES:
        assert load_pass(name).name == name
        what, _ = describe(name)
        assert what.endswith((".", "{-1, 0, 1}.")), what
        assert "\n" not in what
    assert describe("pack-ternary")[1] == {"layout": "'2bit'", "machine": "'cpu'"}
    assert describe("canonicalize")[1] == {}


def test_a_pipeline() -> None:
    text = " strip-ste, pack-ternary{layout=1.6bit},fuse-kernels{fuse=false} ,last-position"
    first, pack, fuse, last = parse_pipeline(text)
    assert isinstance(first, RulePass)
    assert pack == PackTernary("1.6bit")
    assert fuse == FuseKernels(False)
    assert last == LastPosition("logits", "lengths")
    [last] = parse_pipeline("last-position{output=y, lengths=n}")
    assert last == LastPosition("y", "n")
    [converts] = parse_pipeline("convert-layers{keep_attention=layers=0,3, gate_order=hgrn}")
    assert converts == ConvertLayers(keep_attention="layers=0,3", gate_order="hgrn")
    assert parse_pipeline("") == []
    assert parse_pipeline("pack-ternary{}") == [PackTernary()]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nothing", "unknown pass 'nothing'.*one of find-recurrence"),
        ("strip-ste,,canonicalize", "cannot read"),
        ("strip-ste canonicalize", "cannot read 'strip-ste canonicalize'"),
        ("pack-ternary{layout=2bit", "cannot read"),
        ("pack-ternary{width=3}", "pack-ternary has no option 'width'"),
        ("pack-ternary{layout}", "option"),
        ("strip-ste{layout=2bit}", "strip-ste has no options"),
        ("fuse-kernels{fuse=yes}", "fuse is true or false, not 'yes'"),
    ],
)
def test_errors(text: str, message: str) -> None:
    with pytest.raises(MmcError, match=message):
        parse_pipeline(text)
