"""CUDA code where there is no GPU: what is built, from what, and what is said where it is not."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import pytest
import torch

import mmc
from mmc.artifact import MANIFEST
from mmc.driver import CompileOptions
from mmc.errors import MmcError
from mmc.ir.types import symbol
from mmc.targets.base import BuildOptions
from mmc.targets.cuda import architecture, compiler, driver
from mmc.targets.cuda.build import generate
from mmc.targets.cuda.call import Piece
from mmc.targets.cuda.compiler import compile_source, known_architectures
from mmc.targets.cuda.launches import Choice, Entry, Launch, Persistent, choose, from_json, to_json
from mmc.targets.cuda.tuning import Tuning
from mmc.targets.registry import load_target
from mmc.targets.tvm.plan import Plan
from tests.end_to_end.compiled import EXAMPLE
from tests.end_to_end.test_command_line import mmc as command
from tests.end_to_end.test_command_line import refused
from tests.end_to_end.test_modules import BitStack
from tests.folders import workspace
from tests.gpu.prepared import WITHOUT_KERNEL, product_graph, row_graph
from tests.targets.row_cases import CASES

CODE = {"sm_80.cubin", "sm_90a.cubin"}
ALWAYS = {"kernels.cu", "launches.json"}
NO_GPU = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
PHASE_POINTERS = {"int64_t*": "table", "float*": "exchange", "uint64_t*": "finished"}
SMALL = 'extern "C" __global__ void f(int* x) { x[0] = 1; }'


@pytest.fixture(scope="module", autouse=True)
def no_cache() -> Iterator[None]:
    """Everything is compiled anew."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(compiler.CACHE, "")
        yield


@pytest.fixture(scope="module")
def example() -> Path:
    return mmc.compile(EXAMPLE, target="cuda", out=workspace() / "example-cuda").path / "lib"


def stack(out: Path, target: str = "cuda") -> Path:
    """A module of two ternary layers, compiled."""
    return mmc.compile(BitStack().eval(), (torch.ones(3, 24),), target=target, out=out).path


@pytest.fixture(scope="module")
def small() -> Path:
    return stack(workspace() / "stack-cuda")


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def one_line(error: pytest.ExceptionInfo[MmcError]) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


# What is built -----------------------------------------------------------------------------------


def test_there_is_code_for_two_architectures(example: Path) -> None:
    files = contents(example)
    assert set(files) == CODE | ALWAYS
    for name, code in files.items():
        if name.endswith(".cubin"):
            assert code[:4] == b"\x7fELF"
            assert int.from_bytes(code[18:20], "little") == 190  # EM_CUDA
    assert len({files[name] for name in CODE}) == len(CODE)
    built = json.loads((example.parent / MANIFEST).read_text())["built"]
    assert built["architectures"] == {Path(name).stem: len(files[name]) for name in CODE}
    assert built["distinct_kernels"] == len(parameters((example / "kernels.cu").read_text()))


def parameters(source: str) -> dict[str, tuple[int, list[str]]]:
    """Threads and parameters of each kernel of a CUDA source."""
    bounds = r"__launch_bounds__\((\d+)(?:, \d+)?\)"
    found = re.findall(rf'extern "C" __global__ void {bounds} (\w+)_kernel\(([^)]*)\) \{{', source)
    return {name: (int(threads), given.split(", ")) for threads, name, given in found}


def test_launches_are_of_kernels_that_the_code_holds(example: Path) -> None:
    known = parameters((example / "kernels.cu").read_text())
    entries = from_json((example / "launches.json").read_text())
    made = entries.values()
    launches = [x for entry in made for group in entry.groups for c in group for x in c.launches]
    phases = {entry.persistent.kernel for entry in made if entry.persistent}
    assert {x.kernel for x in launches} | phases == set(known)
    for launch in launches:
        threads, given = known[launch.kernel]
        assert launch.threads == threads
        assert len(launch.arguments) == len(given)
        for argument, parameter in zip(launch.arguments, given, strict=True):
            pointer = isinstance(argument, str) and argument != "blocks"
            assert pointer == ("*" in parameter)
            assert (argument == "blocks") == (parameter == "int blocks")
    for cubin in example.glob("*.cubin"):
        held = cubin.read_bytes()
        assert all(f"{name}_kernel\0".encode() in held for name in known), cubin


@pytest.mark.parametrize("name", ["mmc_choose", "mmc_read"])
def test_what_the_runtime_launches_is_built_too(example: Path, name: str) -> None:
    assert f"{name}(" in (example / "kernels.cu").read_text()
    assert all(f"{name}\0".encode() in cubin.read_bytes() for cubin in example.glob("*.cubin"))


@pytest.mark.parametrize(
    ("first", "second", "joined"),
    [
        (Piece(None, 0, 8), Piece(None, 64, 8), [Piece(None, 0, 72)]),
        (Piece(None, 0, 64), Piece(None, 64, 8), [Piece(None, 0, 72)]),
        (Piece(None, 0, 8), Piece(None, 128, 8), None),  # something else lies between
        (Piece(1024, 64, 8), Piece(1088, 128, 8), [Piece(1024, 64, 72)]),
        (Piece(1024, 64, 8), Piece(2048, 128, 8), None),
        (Piece(1024, 64, 8), Piece(960, 0, 8), None),
        (Piece(None, 0, 8), Piece(1024, 64, 8), None),
        (Piece(1024, 0, 8), Piece(None, 64, 8), None),
    ],
)
def test_inputs_side_by_side_are_copied_as_one(
    first: Piece, second: Piece, joined: list[Piece] | None
) -> None:
    assert first.joined(second) == (joined or [first, second])


def test_launches_are_chosen_for_every_size(example: Path) -> None:
    text = (example / "launches.json").read_text()
    entries = from_json(text)
    assert set(entries) == set(json.loads((example.parent / MANIFEST).read_text())["entries"])
    assert to_json(entries) == text
    for entry, batch, tokens in product(entries.values(), (1, 2, 8, 65), (1, 5, 300)):
        sizes = {"B": batch, "T": tokens}
        for group in entry.groups:
            assert all(launch.blocks(sizes) > 0 for launch in choose(group, sizes))


def test_a_token_is_one_launch(example: Path) -> None:
    known = parameters((example / "kernels.cu").read_text())
    entries = from_json((example / "launches.json").read_text())
    assert {name for name, entry in entries.items() if entry.persistent} == {"token"}
    one = entries["token"].persistent
    assert one is not None
    threads, given = known[one.kernel]
    assert one.threads == threads
    words = [parameter.split() for parameter in given]
    assert list(one.parameters) == [PHASE_POINTERS.get(word[0], word[-1]) for word in words]
    matmuls = [x for group in entries["token"].groups for x in group[0].launches]
    assert len(one.phases) == len(matmuls) - 1  # the last only dequantises


def test_the_same_module_gives_the_same_bytes(small: Path, tmp_path: Path) -> None:
    assert contents(stack(tmp_path / "again")) == contents(small)


def test_one_architecture_alone(tmp_path: Path) -> None:
    lib = stack(tmp_path / "out", "cuda:sm_90a") / "lib"
    assert set(contents(lib)) == {"sm_90a.cubin"} | ALWAYS


@pytest.mark.parametrize("name", sorted(WITHOUT_KERNEL))
def test_what_has_no_kernel_is_told_before_anything_is_built(name: str) -> None:
    ((_, why),) = load_target("cuda").unsupported(row_graph(name))
    assert "maximum of a whole tensor" in why


@pytest.mark.parametrize("wrong", [0, 1])
def test_sums_that_may_not_fit_are_told_before_anything_is_built(wrong: int) -> None:
    graph = product_graph("long", 3, architecture.MOST_COLUMNS + wrong)
    found = [why for _, why in load_target("cuda").unsupported(graph)]
    assert found == ["a GPU adds up at most 262143 columns"] * wrong


@pytest.mark.parametrize("name", [name for name in CASES if name not in WITHOUT_KERNEL])
def test_row_kernels_have_a_source(name: str) -> None:
    """What the CPU has a kernel for, a GPU has."""
    graph = row_graph(name)
    assert load_target("cuda").unsupported(graph) == []
    made = generate({name: Plan(graph)}, "sm_80", Tuning())
    assert made.kernels == len(parameters(made.text)) > 0


@pytest.mark.parametrize(
    ("target", "mcpu", "wanted"),
    [("cuda", None, None), ("cuda:sm_90a", None, "sm_90a"), ("cuda", "sm_80", "sm_80")],
)
def test_an_architecture_is_named_in_two_ways(
    target: str, mcpu: str | None, wanted: str | None
) -> None:
    assert CompileOptions(target, mcpu=mcpu).build == BuildOptions(wanted)


def test_row_kernels_compile() -> None:
    plans = {name: Plan(row_graph(name)) for name in CASES if name not in WITHOUT_KERNEL}
    assert b"_kernel\0" in compile_source(generate(plans, "sm_80", Tuning()).text, "sm_80")


# Which code, which launch ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "capability", "wanted"),
    [
        (("sm_80", "sm_90a"), (9, 0), "sm_90a"),
        (("sm_80", "sm_90a"), (8, 0), "sm_80"),
        (("sm_80", "sm_90a"), (8, 6), "sm_80"),
        (("sm_80", "sm_90a"), (12, 0), None),
        (("sm_80", "sm_90a"), (7, 5), None),
        (("sm_80",), (9, 0), None),
        (("sm_80", "sm_86", "sm_89"), (8, 6), "sm_86"),
        (("sm_86",), (8, 0), None),
        (("sm_90", "sm_90a"), (9, 0), "sm_90a"),
        (("sm_100a",), (10, 3), None),
        (("sm_100f", "sm_80"), (10, 3), "sm_100f"),
        ((), (9, 0), None),
    ],
)
def test_code_for_a_device(
    names: tuple[str, ...], capability: tuple[int, int], wanted: str | None
) -> None:
    assert architecture.best(names, capability) == wanted
    assert architecture.best(reversed(names), capability) == wanted


@pytest.mark.parametrize(
    "name", ["sm_80", "sm_86", "sm_89", "sm_90", "sm_90a", "sm_120", "sm_100f"]
)
def test_architectures_that_are_taken(name: str) -> None:
    architecture.require(name, known_architectures())


NO_ARCHITECTURE = ["x", "sm_9x", "gfx90a", "sm_90z", "90", "SM_90", "sm_90a ", "compute_90"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("sm_75", "sm_75 is older than sm_80"),
        *((name, f"{name!r} is no GPU architecture") for name in NO_ARCHITECTURE),
    ],
)
def test_architectures_that_are_refused(name: str, message: str) -> None:
    with pytest.raises(MmcError, match=re.escape(message)) as error:
        architecture.require(name, known_architectures())
    assert one_line(error).startswith("--target cuda: ")


@pytest.mark.parametrize("name", ["sm_81", "sm_80a", "sm_999"])
def test_architectures_that_the_compiler_does_not_know_are_refused_early(name: str) -> None:
    with pytest.raises(MmcError, match=f"{name}.*no GPU architecture") as error:
        load_target("cuda").refuse(BuildOptions(name))
    one_line(error)


ROWS = symbol("B") * symbol("T")


def launch(name: str, per: int = 1, times: int = 1) -> Launch:
    return Launch(name, 32, ROWS, per, times, ("0.in_0", "0.out_1", "blocks", ROWS + 3, 7))


def test_the_first_choice_for_as_many_rows_is_taken() -> None:
    few, some = Choice(2, ROWS, (launch("few"),)), Choice(64, ROWS, (launch("some"),))
    group = [few, some, Choice(None, ROWS, (launch("many"), launch("more")))]
    for b, t, names in ((1, 2, ["few"]), (1, 3, ["some"]), (8, 8, ["some"]),
                        (5, 13, ["many", "more"])):  # fmt: skip
        assert [x.kernel for x in choose(group, {"B": b, "T": t})] == names
    with pytest.raises(ValueError, match="no choice is for"):
        choose([few, some], {"B": 65, "T": 1})


def test_blocks_are_counted() -> None:
    assert launch("x", per=32, times=16).blocks({"B": 3, "T": 11}) == 2 * 16
    assert launch("x", per=32).blocks({"B": 0, "T": 11}) == 0


def test_launches_can_be_written_and_read() -> None:
    words = (1, 2, ("3.in_1", 64)), (4, 5, ("6.out_0", 0))
    one = Persistent("token_phases", ("table", "blocks"), 132, 288, 1 << 16, 640, 2, ROWS, words)
    groups = [[Choice(2, ROWS, (launch("a"),)), Choice(None, ROWS, (launch("b", 4),))]]
    entries = {"forward": Entry(groups), "token": Entry(groups, one)}
    assert from_json(to_json(entries)) == entries


# The compiler and its cache ----------------------------------------------------------------------


def test_what_the_compiler_refuses_is_said_with_its_lines() -> None:
    with pytest.raises(MmcError) as error:
        compile_source("__global__ void g() { int unused; }\n__global__ void f() { x; }\n", "sm_80")
    assert 'mmc.cu(2): error: identifier "x" is undefined' in str(error.value)
    assert "warning" not in str(error.value)
    assert "sm_80" in error.value.where


def test_kept_code_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(compiler.CACHE, str(tmp_path))
    code = compile_source(SMALL, "sm_80")
    (kept,) = contents(tmp_path)
    assert (tmp_path / kept).read_bytes() == code
    (tmp_path / kept).write_bytes(b"kept")
    assert compile_source(SMALL, "sm_80") == b"kept"
    assert compile_source(SMALL, "sm_90a") not in (b"kept", code)
    assert compile_source(SMALL.replace("1", "2"), "sm_80") not in (b"kept", code)
    assert len(contents(tmp_path)) == 3


def test_other_compilers_and_options_keep_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(compiler.CACHE, str(tmp_path))
    compile_source(SMALL, "sm_80")
    monkeypatch.setattr(compiler, "OPTIONS", (*compiler.OPTIONS, "--fmad=false"))
    compile_source(SMALL, "sm_80")
    assert len(contents(tmp_path)) == 2


def test_an_empty_name_is_no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv(compiler.CACHE, "")
    monkeypatch.chdir(tmp_path)
    assert compile_source(SMALL, "sm_80")
    assert contents(tmp_path) == {}
    monkeypatch.delenv(compiler.CACHE)
    assert compile_source(SMALL, "sm_80")
    assert [Path(name).parts[:3] for name in contents(tmp_path)] == [(".cache", "mmc", "cuda")]


def test_a_folder_that_cannot_be_written_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(b"")  # root may write to any folder, but not below a file
    monkeypatch.setenv(compiler.CACHE, str(tmp_path / "file"))
    assert compile_source(SMALL, "sm_80") == compile_source(SMALL, "sm_80")
    assert contents(tmp_path) == {"file": b""}


def test_half_a_file_is_never_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was begun when the disk was full does not stay either."""
    monkeypatch.setenv(compiler.CACHE, str(tmp_path))

    def full(self: Path, target: Path) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    assert compile_source(SMALL, "sm_80")
    assert contents(tmp_path) == {}


# Where there is no GPU ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--target", "cuda", "--check"], "--check: needs a GPU: "),
        (["--target", "cuda:sm_75"], "sm_75 is older than sm_80"),
        (["--target", "cuda:x"], "'x' is no GPU architecture"),
        (["--target", "cuda", "--mcpu", "sm_9x"], "'sm_9x' is no GPU architecture"),
        (["--target", "cuda:sm_90a", "--mcpu", "sm_80"], "--mcpu: cuda:sm_90a names one already"),
        (
            ["--target", "cuda", "--weights", "1.67bit"],
            "no weight layout '1.67bit' (one of auto, 2bit, 1.6bit)",
        ),
    ],
)
def test_compile_refuses_at_once(arguments: list[str], message: str, tmp_path: Path) -> None:
    """Before the model is looked for."""
    refused(command("compile", "nowhere", *arguments, cwd=tmp_path, env=NO_GPU), message)
    assert list(tmp_path.iterdir()) == []


def test_a_colon_asks_for_a_name() -> None:
    refused(command("compile", "nowhere", "--target", "cuda:"), "--target cuda: ")


def test_run_says_why_it_cannot(small: Path) -> None:
    done = command("run", small, "-p", "x", env=NO_GPU)
    refused(done, str(small))
    assert re.search(r"GPU|NVIDIA|device", done.stderr)
    assert "cpu" in done.stderr


def test_load_says_why_it_cannot(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "problem", lambda: "there is no GPU")
    with pytest.raises(MmcError, match="cannot run here: there is no GPU") as error:
        mmc.load(small)
    assert "cpu" in one_line(error)


def test_machine_is_told() -> None:
    told = json.loads(command("targets", "--json", env=NO_GPU).stdout)["cuda"]
    assert told["problems"] == []
    assert told["here"].startswith("compiles, does not run: ")
    assert "target cuda, compiles, does not run" in command("doctor", env=NO_GPU).stdout


# Where something is not installed ----------------------------------------------------------------


def lacking(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    found = importlib.util.find_spec

    def find(name: str, package: str | None = None) -> object:
        return None if name in names else found(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", find)


@pytest.mark.parametrize(
    "names",
    [
        pytest.param(("cuda", "cuda.bindings"), id="both"),
        # cuda-pathfinder alone gives a package `cuda` too.
        pytest.param(("cuda.bindings",), id="bindings"),
    ],
)
def test_missing_bindings_are_named(
    names: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    lacking(monkeypatch, *names)
    (problem,) = load_target("cuda").problems()
    assert problem == ("the package cuda-bindings is not installed: pip install mmc-compiler[cuda]")
    assert driver.problem() == "the package cuda-bindings is not installed"


def test_missing_tvm_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    lacking(monkeypatch, "tvm")
    with pytest.raises(MmcError, match="the package apache-tvm is not installed") as error:
        load_target("cuda").refuse(BuildOptions())
    one_line(error)


WITHOUT_NVRTC = """
import sys
import mmc.errors, mmc.targets.base
from mmc.targets.registry import load_target
try:
    load_target("cuda").refuse(mmc.targets.base.BuildOptions())
    from mmc.targets.cuda.compiler import compile_source, known_architectures
    compile_source("", "sm_80")
    print("found in the system")
except mmc.errors.MmcError as error:
    print(error)
"""


def test_missing_compiler_is_named(tmp_path: Path) -> None:
    """An environment with everything but NVRTC, and another package of NVIDIA's."""
    site = Path(torch.__file__).parents[1]
    for path in site.iterdir():
        if path.name != "nvidia" and path.suffix != ".pth" and not path.name.startswith("__"):
            (tmp_path / path.name).symlink_to(path)
    (tmp_path / "nvidia" / "other").mkdir(parents=True)
    done = subprocess.run(
        [Path(sys.executable).resolve(), "-S", "-c", WITHOUT_NVRTC],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        env={"PYTHONPATH": f"{tmp_path}:{Path(__file__).parents[2]}"},
    )
    if done.stdout == "found in the system\n":
        pytest.skip("NVRTC is installed in the system")
    assert "nvidia-cuda-nvrtc" in done.stdout, done.stderr


def test_running_needs_no_tvm() -> None:
    blocked = (
        "import sys; sys.modules['tvm'] = None; import mmc.targets.cuda.executable, mmc.runtime"
    )
    subprocess.run([sys.executable, "-c", blocked], check=True)


def test_everything_loads_without_the_bindings() -> None:
    """A machine without them may list its targets."""
    blocked = "import sys; sys.modules['cuda'] = None; from mmc.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", blocked, "targets"], capture_output=True, text=True, check=True
    )
    assert "cuda        does not work: the package cuda-bindings" in done.stdout


if shutil.which("nvidia-smi") is None:

    def test_reason_is_that_there_is_no_driver() -> None:
        assert "there is no NVIDIA driver" in str(driver.problem())
