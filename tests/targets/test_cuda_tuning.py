"""What a measurement chose goes into the code, whole or not at all; no GPU is needed for that."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mmc.errors import MmcError
from mmc.ir.packing import Layout
from mmc.targets.cuda import products
from mmc.targets.cuda.build import generate
from mmc.targets.cuda.launches import Launch
from mmc.targets.cuda.ternary import Matrix
from mmc.targets.cuda.tune import compiled, fastest, jobs_of
from mmc.targets.cuda.tuning import FORMS, ByBlock, ByWarps, Few, Tuning, fitting, read, to_json
from mmc.targets.tvm.plan import Plan
from tests.gpu.prepared import product_graph

CHOSEN = Tuning("some GPU", {"some 100 x 300 2bit": ByWarps(2, 8, 4, 2)}, "launches")


def launches(tuning: Tuning) -> dict[str, Launch]:
    made = generate({"p": Plan(product_graph("p", 100, 300))}, "sm_80", tuning)
    (group,) = made.launches["p"].groups
    return {launch.kernel.split("_")[1]: launch for choice in group for launch in choice.launches}


def test_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "tuning.json"
    path.write_text(to_json(CHOSEN))
    assert read(path) == CHOSEN


def test_a_form_that_was_chosen_is_built() -> None:
    rule, tuned = launches(Tuning()), launches(CHOSEN)
    assert tuned["some"].threads == 4 * 32 != rule["some"].threads
    assert tuned["some"].times == -(-7 // 2)  # of seven tiles of 16 rows
    assert {k: v for k, v in tuned.items() if k != "some"} == {
        k: v for k, v in rule.items() if k != "some"
    }


@pytest.mark.long
@pytest.mark.parametrize("kind", products.KINDS, ids=lambda kind: kind.name)
@pytest.mark.parametrize("architecture", ["sm_80", "sm_90a"])
@pytest.mark.parametrize("layout", ["2bit", "1.6bit"])
def test_every_form_compiles(kind: products.Kind, layout: Layout, architecture: str) -> None:
    graph = product_graph("p", 100, 300, layout)
    (job,) = (job for job in jobs_of({"p": graph}) if job.kind == kind.name)
    made = compiled(architecture, job)
    assert len(made.parameters) == len(job.forms) > 2
    assert made.code.startswith(b"\x7fELF")


def test_the_rules_form_comes_first() -> None:
    jobs = jobs_of({"p": product_graph("p", 5000, 300)})
    assert [job.name for job in jobs] == [f"{kind.name} 5000 x 300 2bit" for kind in products.KINDS]
    for job, kind in zip(jobs, products.KINDS, strict=True):
        assert job.forms[0] == kind.rule(Matrix(5000, 300, "2bit"))
        assert len(set(job.forms)) == len(job.forms)


def test_chance_chooses_nothing() -> None:
    a, b = Few(1, 4), Few(1, 8)
    assert fastest({a: 1.01, b: 1.0}) == a
    assert fastest({a: 1.03, b: 1.0}) == b
    assert fastest({a: 1.0, b: 2.0}) == a


WRONG: dict[str, Any] = {
    "no json": "{",
    "a list": "[]",
    "another format": {"format": 2},
    "no such plan": {"token": "tea"},
    "no such form": {"products": {"some 1 x 1": {"Magic": {}}}},
    "no such size": {"products": {"some 1 x 1": {"ByWarps": {"tiles": 1}}}},
    "a form of another kind": {"products": {"some 1 x 1": {"Few": {"rows": 1, "warps": 4}}}},
    "more shared memory than there is": {
        "products": {"many 1 x 1": {"ByBlock": {
            "groups": 4, "rows": 128, "stages": 40, "resident": 1, "registers": 0}}},
    },
    "no such kind": {"products": {"lots 1 x 1": {"Few": {"rows": 1, "warps": 4}}}},
    "two forms": {"products": {"few 1 x 1": {"Few": {"rows": 1, "warps": 4}, "ByWarps": {}}}},
}  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_what_is_no_tuning_is_told(wrong: Any, tmp_path: Path) -> None:
    path = tmp_path / "tuning.json"
    whole = json.loads(to_json(CHOSEN))
    path.write_text(wrong if isinstance(wrong, str) else json.dumps(whole | wrong))
    with pytest.raises(MmcError, match=r"tuning\.json: is no tuning.*mmc tune"):
        read(path)


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(MmcError, match="is no tuning"):
        read(tmp_path / "tuning.json")


def test_shared_memory_is_there_on_every_gpu() -> None:
    for form in (form for forms in FORMS.values() for form in forms):
        assert form.shared(4) <= 99 << 10
        made = fitting(form, 5)
        assert made.shared(5) <= 99 << 10
        assert isinstance(made, Few) or made.stages > 1
    assert ByBlock(4, 128, 40, 1) not in FORMS["many"]
