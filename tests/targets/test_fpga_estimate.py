"""Boards, the choice of an engine, and the model of resources."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mmc.errors import MmcError
from mmc.estimate import estimate_source, render
from mmc.targets.fpga.boards import FOLDER, board_names, load_board
from mmc.targets.fpga.choice import choose, estimate, on_chip
from mmc.targets.fpga.estimate import Estimate, assess
from mmc.targets.fpga.resources import Resources, engine, lut_per_weight, token_engine
from mmc.targets.fpga.shape import SHAPES, Shape, plan_of_shape, shape_of

EXAMPLE = Path(__file__).parents[2] / "examples/mmfree-9m"
RUNS = json.loads((Path(__file__).parents[1] / "data/fpga_synthesised.json").read_text())
"""What yosys made of modules: tests/data/fpga_synthesised.py writes it."""


def test_boards() -> None:
    assert {"u280", "u55c", "v80", "d5005", "kv260", "ecp5-85k"} <= set(board_names())
    for name in board_names():
        board = load_board(name)
        assert board.name == name
        assert {"logic", "memory", "ports", "clock", "efficiency"} <= board.source.keys()


def test_own_board(tmp_path: Path) -> None:
    own = tmp_path / "own.toml"
    own.write_text((FOLDER / "template.toml").read_text())
    assert load_board(str(own)).name == "my-board"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("lut = 100000", "", "lacks or does not know lut"),
        ("lut = 100000", "lut = 0", "lut is 0"),
        ("lut = 100000", 'lut = "many"', "lut is 'many'"),
        ("lut = 100000", "lut = 100000\ntubes = 3", "lacks or does not know tubes"),
        ("lut = 100000", "lut = ", "is not TOML"),
    ],
)
def test_damaged_board(tmp_path: Path, old: str, new: str, message: str) -> None:
    own = tmp_path / "own.toml"
    own.write_text((FOLDER / "template.toml").read_text().replace(old, new))
    with pytest.raises(MmcError, match=message):
        load_board(str(own))


def test_unknown_board() -> None:
    with pytest.raises(MmcError, match=r"unknown board 'u9'.*one of d5005"):
        load_board("u9")


def of(size: str, board: str) -> Estimate:
    return estimate(plan_of_shape(SHAPES[size]), load_board(board))


@pytest.mark.parametrize(
    ("size", "board", "least"),
    [("2.7B", "u280", 740), ("1.3B", "d5005", 200), ("370M", "kv260", 200)],
)
def test_goals(size: str, board: str, least: float) -> None:
    found = of(size, board)
    assert found.tokens_per_second >= least
    assert not found.needs.too_much(found.board, 0.9)
    assert found.lut_per_weight <= 8
    # No faster than its bytes can come, through ports that the board has.
    assert found.engine.ports <= found.board.memory_ports
    rate = found.board.bytes_per_second(found.engine.ports)
    assert found.tokens_per_second <= rate / found.bytes_per_token * 1.0001


def test_a_port_has_its_part_of_the_bandwidth() -> None:
    board = load_board("kv260")
    assert board.bytes_per_second(1) == pytest.approx(4.8e9 * 0.85)
    assert board.bytes_per_second(6) == board.bytes_per_second(4) == pytest.approx(19.2e9 * 0.85)


def test_target_takes_the_smallest_engine() -> None:
    plan, board = plan_of_shape(SHAPES["370M"]), load_board("u280")
    small, fast = choose(plan, board, target_tps=300), choose(plan, board)
    assert assess(plan, board, small).tokens_per_second >= 300
    assert small.rows * small.columns < fast.rows * fast.columns
    with pytest.raises(MmcError, match="this board reaches"):
        choose(plan, board, target_tps=1e6)


def test_codec_is_obeyed() -> None:
    plan, board = plan_of_shape(SHAPES["370M"]), load_board("kv260")
    assert {c: choose(plan, board, c).codec_name for c in ("2b1t", "5b3t", "8b5t")} == {
        c: c for c in ("2b1t", "5b3t", "8b5t")
    }


@pytest.mark.parametrize("size", ["370M", "1.3B"])
def test_a_small_board_gets_a_lean_engine(size: str) -> None:
    """At most 8 LUT for a weight a cycle, though smaller ones, as fast, take more."""
    assert of(size, "ecp5-85k").lut_per_weight <= 8
    assert lut_per_weight(SMALLEST) > 8


SMALLEST = {"P": 8, "GROUPS": 2, "CODEC": 2, "LANES": 2, "Q_WORDS": 1410, "Y_WORDS": 704}
"""8 x 10 in 8b5t, for vectors of 2,816: as fast as the memory of the ECP5."""


@pytest.mark.parametrize("codec", ["2b1t", "5b3t", "8b5t"])
def test_short_vectors_have_an_engine_in_every_code(codec: str) -> None:
    engine = choose(plan_of_shape(Shape(32, 2, 64, 64)), load_board("ecp5-85k"), codec)
    assert engine.codec_name == codec


def test_too_small_a_board() -> None:
    with pytest.raises(MmcError, match=r"nearest setting.*does not fit ecp5-85k: bram36: "):
        of("13B", "ecp5-85k")
    with pytest.raises(MmcError, match="smallest board that it fits is kv260"):
        of("2.7B", "ecp5-85k")


def test_wrong_options() -> None:
    plan, board = plan_of_shape(Shape(64, 1, 128, 100)), load_board("kv260")
    with pytest.raises(MmcError, match="no code of weights 'x'"):
        choose(plan, board, "x")
    with pytest.raises(MmcError, match="above zero"):
        choose(plan, board, target_tps=0)


def test_odd_vectors() -> None:
    with pytest.raises(MmcError, match="not whole words"):
        estimate(plan_of_shape(Shape(15, 1, 45, 100)), load_board("kv260"))


@pytest.mark.parametrize("text", ["4B", "hidden=8", "hidden=8,layers=1,wide=x", "wide=8,a=1", ""])
def test_unknown_shape(text: str) -> None:
    with pytest.raises(MmcError, match="neither a model directory nor a shape"):
        shape_of(text)


def test_shape_by_sizes() -> None:
    assert shape_of("hidden=64,layers=2,wide=128") == Shape(64, 2, 128)


@pytest.mark.parametrize("run", RUNS, ids=lambda run: f"{run['top']}-{run['parameters']['P']}")
def test_resources_as_synthesised(run: dict[str, Any]) -> None:
    """The model is within a tenth of yosys, and the engine within 8 LUT a trit without a DSP."""
    parameters, found = dict(run["parameters"]), Resources(**run["found"])
    alone = run["top"] == "ternary_engine"
    model = engine(parameters) if alone else token_engine(parameters, load_board("ecp5-85k"))
    assert model.dsp == found.dsp
    for name in ("lut", "ff"):
        assert getattr(model, name) == pytest.approx(getattr(found, name), rel=0.1), name
    assert model.bram36 == pytest.approx(found.bram36, rel=0.1, abs=1)
    if alone:
        trits = parameters["P"] * parameters["GROUPS"] * (5 if parameters["CODEC"] == 2 else 3)
        assert found.dsp == 0
        assert found.lut / trits <= 8


def test_a_model_directory(tmp_path: Path) -> None:
    """The sizes come from config.json alone; every figure says what it is."""
    found = estimate_source(str(EXAMPLE), "kv260", "auto", 1000)
    assert found.tokens_per_second >= 1000
    text = render(found)
    for part in ("LUT a weight (derived)", "(projected: 300 MHz", "watts      not given", "DS987"):
        assert part in text
    record = json.loads(json.dumps(found.record()))
    assert record["label"] == {
        "cycles": "derived", "tokens_per_second": "projected", "resources": "derived",
    }  # fmt: skip
    assert record["cycles_per_token"] >= record["cycles_without_memory"] > 0

    config = json.loads((EXAMPLE / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "model_type": "llama"}))
    with pytest.raises(MmcError, match="'llama' is not known from this alone"):
        estimate_source(str(tmp_path), "kv260", None, None)
    (tmp_path / "config.json").write_text(json.dumps({**config, "use_short_conv": True}))
    with pytest.raises(MmcError, match="no phase for its mixer"):
        estimate_source(str(tmp_path), "kv260", None, None)


def test_on_chip() -> None:
    plan, board = plan_of_shape(SHAPES["370M"]), load_board("u280")
    found = on_chip(plan, board)
    bits = sum(p.rows * p.columns for p in plan.phases if p.matrix is not None) * 8 / 5
    assert (found.boards - 1) * board.memory_bits < bits < found.boards * board.memory_bits
