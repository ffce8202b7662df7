"""`mmc bench`: rows, bandwidth and the read limit; never an assertion on how fast a machine is."""

from __future__ import annotations

import json

import pytest

from mmc.bench import BenchOptions, bench
from mmc.errors import MmcError
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
    assert json.loads(json.dumps(found.record()))["options"]["batch"] == 1
    assert "| tg2 | 1 | 1 |" in str(found)


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
