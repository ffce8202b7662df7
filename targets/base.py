"""What a target is: its capabilities as data, and how it builds and runs."""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np

from mmc.errors import MmcError
from mmc.ir.graph import Graph
from mmc.ir.op import Op
from mmc.ir.tensors import Tensors
from mmc.ir.text import parse

Arrays = Mapping[str, np.ndarray]
Progress = Callable[[str], None]


@dataclass(frozen=True)
class Capabilities:
    """What a target can do, so that the driver can refuse early."""

    description: str
    weight_layouts: tuple[str, ...]
    """What `--weights` takes; empty where nothing is packed."""
    machine: str = field(default="cpu", kw_only=True)
    """For which machine `--weights auto` weighs layouts (`mmc.passes.layout_cost`)."""
    kernels: bool
    """True where operations are fused into kernels, False where they run one by one."""
    token: bool = False
    """True where one token has an entry of its own: there launches count, more than code."""
    tunes: bool = False
    """Whether it has a `tune`, and takes `BuildOptions.tuning`."""
    factors: bool = False
    """True where norms are taken apart: there each look at a row waits for threads."""
    sums_states: int = 0
    """The most rows of a state whose sums are one kernel with its recurrence (`fuse-kernels`)."""
    widens: bool = False
    """True where a dense product can read a matrix of narrower numbers than it computes with."""
    prompt_rows: int = 192
    """Tokens of a prompt, of all sequences together, that are worked on at a time.

    Enough for the speed of a prompt, few enough for what lies between two layers to stay small.
    The state is carried from piece to piece, so no result depends on it.
    """
    fixed_point: bool = False
    """True where all numbers are integers; projections then stay apart, each with a range."""
    boards: bool = False
    """True where code is made for a board, which `--board` names."""
    embedding_memories: tuple[str, ...] = ("device",)
    """Where tables may lie of which a step reads rows: on the "device", or the "host" beside it."""
    embeddings: tuple[str, ...] = ("int8", "int4")
    """What `--embedding` takes; empty where the table's form is the target's own."""
    kv_caches: tuple[str, ...] = ()
    """What `--kv-cache` takes; empty where caches of attention, if any, are in float32 alone."""
    stored_layout: str | None = None
    """The layout of matrices in weights.safetensors, where `--weights` names codes of another kind.
    """


@dataclass(frozen=True)
class BuildOptions:
    """What the user asked of a build."""

    mcpu: str | None = None
    """The one processor or GPU architecture to make code for; None for what the target chooses."""
    check: bool = False
    """Whether `Target.check` follows."""
    tuning: Path | None = None
    """What `Target.tune` wrote for a model of these shapes; None to go by rules."""
    weights: str | None = None
    """The packing or code of ternary weights; None for what the target chooses."""
    board: str | None = None
    """The FPGA board: a name, or the path of a .toml file."""
    target_tps: float | None = None
    """Tokens a second that the hardware shall be large enough for; None for all that is there."""


@dataclass(frozen=True)
class Built:
    """Facts about a build for the manifest and the report; no times, no paths."""

    facts: Mapping[str, Any] = field(default_factory=dict[str, Any])


class Executable(Protocol):
    """A loaded artefact: runs its entries."""

    def run(self, entry: str, inputs: Arrays) -> dict[str, np.ndarray]:
        """The outputs of an entry by name."""
        ...

    def use_threads(self, count: int) -> None:
        """Run with that many threads from now on; raise MmcError where it cannot."""
        ...

    def meter(self) -> Meter:
        """What the machine tells while this runs."""
        ...


@runtime_checkable
class Continuing(Executable, Protocol):
    """An executable that continues sequences by itself, without the host in between."""

    def greedy(self, entry: str, inputs: Arrays, count: int) -> Iterator[np.ndarray] | None:
        """The `count` likeliest tokens int64 [B], one behind the other; None where it cannot.

        The entry takes "ids" [B, 1] and makes "logits" [B, 1, V].  Of equal logits the first
        counts.
        """
        ...


@runtime_checkable
class OnDevice(Executable, Protocol):
    """An executable that takes arrays which lie on its GPU already; the outputs stay there then.

    Such an input has `__cuda_array_interface__`, the type of the input and no gaps.
    """

    def on_stream(self, stream: int) -> AbstractContextManager[None]:
        """Run on another stream, by its CUDA handle, and in order with what ran before."""
        ...


class Meter:
    """What a machine tells while a model runs on it: this one is a CPU that knows no more."""

    clock: ClassVar[str] = "CPU time"
    """What rates are by: "CPU time" of the process over its threads, or the clock on the "wall"."""

    def read_limit(self) -> float | None:
        """Bytes a second that the machine reads, measured now; None where nobody measures it."""
        return None

    def memory(self) -> dict[str, int]:
        """Bytes by what takes them."""
        return {"peak resident": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}

    def joules(self) -> float | str:
        """Energy since some time in the past; why not, where nothing counts it."""
        return "nothing here counts it"


class Target:
    """Base of every target."""

    name: ClassVar[str]
    capabilities: ClassVar[Capabilities]

    def problems(self) -> list[str]:
        """Why the target does not work on this machine; empty where it does."""
        return []

    def here(self) -> str:
        """What of this machine the target would use; empty where there is no choice."""
        return ""

    def unsupported(self, graph: Graph) -> list[tuple[Op, str]]:
        """Operations that the target has no kernel for, with the reason."""
        return []

    def default_layout(self, options: BuildOptions) -> str:
        """The layout of ternary matrices where the user names none."""
        return self.capabilities.weight_layouts[0]

    def refuse(self, options: BuildOptions) -> None:
        """Raise MmcError for options that cannot work here."""
        if options.mcpu is not None:
            raise MmcError(
                f"target {self.name} makes no code for a processor", "--mcpu", "leave it out"
            )

    def build(
        self,
        entries: Mapping[str, Graph],
        tensors: Tensors,
        folder: Path,
        progress: Progress,
        options: BuildOptions,
    ) -> Built:
        """Write what the target needs to run the entries into the folder."""
        raise NotImplementedError

    def load(
        self, folder: Path, entries: Sequence[str], built: Mapping[str, Any], *,
        embedding_memory: str = "device",
    ) -> Executable:  # fmt: skip
        """Make a built folder ready to run; `built` are the facts that `build` returned.

        embedding_memory: one of `Capabilities.embedding_memories`.
        """
        raise NotImplementedError

    def check(
        self,
        folder: Path,
        entries: Mapping[str, Graph],
        probes: Mapping[str, Arrays],
        options: BuildOptions,
    ) -> dict[str, Any]:
        """Compare every kernel with the interpreter, on a probe by entry; MmcError if wrong."""
        return {}

    def tune(
        self, folder: Path, entries: Mapping[str, Graph], built: Mapping[str, Any],
        progress: Callable[[str, float], None],
    ) -> tuple[Built, Sequence[str]]:  # fmt: skip
        """Build again with what measures fastest here; the facts, and a line for each choice."""
        raise NotImplementedError


def graph_file(entry: str) -> str:
    """The file of an entry's final graph."""
    return "graph.mmc" if entry == "forward" else f"graph-{entry}.mmc"


def read_graphs(folder: Path, entries: Iterable[str]) -> dict[str, Graph]:
    """The final graphs of an artefact."""
    files = {entry: graph_file(entry) for entry in entries}
    return {entry: parse((folder / file).read_text(), file) for entry, file in files.items()}
