"""The measured blocks of docs/benchmarks-cpu.md."""

from __future__ import annotations

import pytest

from benchmarks.cpu import document
from benchmarks.cpu.__main__ import BY_SHAPE, ONCE, names
from benchmarks.make_random_model import SHAPES

TEXT = (
    "before\n<!-- a 1 -->\nold\n<!-- end a 1 -->\nbetween\n<!-- a 2 -->\nkept\n<!-- end a 2 -->\n"
)


def test_a_block_is_replaced_and_the_rest_stays():
    found = document.put(TEXT, "a 1", ["| new \\1 |", ""])
    assert found == TEXT.replace("old", "| new \\1 |\n")
    assert document.put(found, "a 1", ["old"]) == TEXT


def test_a_block_without_a_place_is_named():
    assert document.missing(TEXT, ["a 1", "b"]) == ["b"]


def test_the_document_has_a_place_for_every_block():
    wanted = names((*BY_SHAPE, *ONCE), tuple(SHAPES))
    assert document.missing(document.DOCUMENT.read_text(), wanted) == []


@pytest.mark.parametrize(
    ("typed", "shown"),
    [
        (["-r", "3", "--llama-bench", "/a/b"], "-r 3 --llama-bench LLAMA_BENCH"),
        (["--build=/a/b", "--quick"], "--build=BUILD --quick"),
        (["--llama-bench", "/a", "--build", "/b"], "--llama-bench LLAMA_BENCH --build BUILD"),
    ],
)
def test_the_shown_command_has_no_path(typed: list[str], shown: str):
    found = document.shown_command(typed, ("--llama-bench", "--build"))
    assert found == f"python -m benchmarks.cpu {shown}"
