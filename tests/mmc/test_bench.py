"""`mmc bench`: rows, bandwidth and the read limit; never an assertion on how fast a machine is."""

from __future__ import annotations

import json
import time
from typing import ClassVar

import pytest

from mmc.bench import BenchOptions, bench
from mmc.errors import MmcError
from mmc.targets.base import Meter
from tests.end_to_end.compiled import model

SMALL = BenchOptions(prompt=3, generate=2, repeats=2)


def test_rows_and_limits() -> None:
    compiled = model("tiny")
    found = bench(compiled, SMALL)
    assert [row.test for row in found.rows] == ["pp3", "tg2"]
    assert all(row.rate > 0 and row.wall_rate > 0 for row in found.rows)
    sizes = compiled.artifact.manifest["sizes"]["weight_bytes"]
    assert found.bytes_per_token == sizes["ternary_2bit"]
    assert found.bandwidth == pytest.approx(found.bytes_per_token * found.rows[1].rate)
    assert found.read_limit is not None
    assert found.read_limit > found.bandwidth
    record = json.loads(json.dumps(found.record()))
    assert record["options"]["batch"] == 1
    assert record["clock"] == "CPU time"
    assert record["memory"]["peak resident"] > record["memory"]["states"] > 0
    assert record["joules_per_token"] == "nothing here counts it"
    assert "| tg2 | 1 | 1 |" in str(found)


class Board(Meter):
    """A device that takes 3 W, whatever runs on it."""

    clock: ClassVar[str] = "wall"

    def joules(self) -> float:
        return 3 * time.perf_counter()

    def memory(self) -> dict[str, int]:
        return {"weights": 5 << 20}


def test_what_a_device_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmc.bench.ENERGY_SECONDS", 0.2)
    compiled = model("tiny", target="reference")
    monkeypatch.setattr(compiled, "meter", Board)
    found = bench(compiled, BenchOptions(prompt=3, generate=4, repeats=1, batch=2))
    assert all(row.rate == row.wall_rate for row in found.rows)
    assert isinstance(found.joules_per_token, float)
    assert 0.5 < found.joules_per_token * found.rows[1].wall_rate / 3 < 2
    shown = str(found)
    assert "CPU time" not in shown
    assert "| test | batch | tokens/s (wall) | ms per step (wall) |" in shown
    assert f"| tg4 | 2 | {found.rows[1].rate:.2f} ± 0.00 |" in shown
    assert "weights 5 MiB" in shown
    assert "J per token" in shown


def test_a_batch_reads_the_weights_once() -> None:
    found = bench(model("tiny"), BenchOptions(prompt=2, generate=2, repeats=1, batch=3))
    assert found.bandwidth == pytest.approx(found.bytes_per_token * found.rows[1].rate / 3)


def test_the_interpreter_has_no_limit_and_one_thread() -> None:
    found = bench(model("tiny", target="reference"), SMALL)
    assert found.read_limit is None
    with pytest.raises(MmcError, match="one thread, not 2"):
        bench(model("tiny", target="reference"), BenchOptions(threads=2))


@pytest.mark.parametrize("name", ["prompt", "generate", "threads", "repeats", "batch"])
def test_numbers_below_one_are_refused(name: str) -> None:
    with pytest.raises(MmcError, match=f"{name} must be at least 1"):
        bench(model("tiny"), BenchOptions(**{name: 0}))
