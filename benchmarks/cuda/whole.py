"""Whole models: generation, prompts and memory, beside a bf16 Llama of equal size."""

from __future__ import annotations

from collections import deque
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import mmc
from benchmarks.cpu.measure import table
from benchmarks.cuda.llama import Llama
from benchmarks.cuda.models import executable, model, workspace
from benchmarks.cuda.settings import Settings
from benchmarks.cuda.shapes import RELEASED, Shape
from benchmarks.cuda.timing import Run, graphed, in_turn
from benchmarks.cuda.upstream import Upstream
from mmc.bench import BenchOptions, bench, bytes_per_step
from mmc.runtime import State
from mmc.targets.cuda.executable import CudaExecutable

OURS = "mmc, generate"
ON_HOST = "embedding on the host"
BATCHES = (1, 8, 32)


@cache
def loaded(prepared: Path, name: str, embedding_memory: str = "device") -> CudaExecutable:
    return executable(prepared / name, embedding_memory)


def ours(prepared: Path, name: str, embedding_memory: str = "device") -> mmc.Model:
    return model(prepared / name, loaded(prepared, name, embedding_memory))


def memories(shape: Shape) -> dict[str, str]:
    """Where the embedding lies, by what is said of it: one of 8 bits on the host as well."""
    return {"": "device", f", {ON_HOST}": "host"} if shape.embedding else {"": "device"}


@cache
def llama(shape: Shape, context: int, mode: str) -> Llama:
    """The peer; it stays on the device for the sections that follow."""
    return Llama(shape, context, mode)


def peer_of(settings: Settings, shape: Shape) -> Llama:
    return llama(shape.sizes, settings.context, settings.compile_mode)


@cache
def upstream(folder: Path, shape: Shape) -> Upstream:
    return Upstream(folder, shape)


def released(settings: Settings, name: str) -> Upstream | None:
    """The released code, at the sizes that were released."""
    if settings.upstream is None or name not in RELEASED:
        return None
    return upstream(settings.upstream, settings.shapes[name])


def decode(settings: Settings) -> list[str]:
    """One sequence, greedy, with embedding, head and the choice of the token."""
    rows: list[list[object]] = []
    for name, shape in settings.shapes.items():
        own = ours(settings.prepared, name)
        limit = own.meter().read_limit()
        assert limit is not None
        programs = generations(settings, name) | steps(settings, peer_of(settings, shape))
        if peer := released(settings, name):
            programs |= peer.steps()
        found = in_turn(programs, settings.rounds)
        found |= {key: found[key] / settings.tokens for key in found if "mmc" in key}
        for key, time in found.items():
            part = f"{bytes_per_step(own) / time / limit:.2f}" if "mmc" in key else ""
            ratio = "" if "mmc" in key else f"{time / found[OURS]:.2f}"
            rows.append([name, key, f"{1e3 * time:.3f}", f"{1 / time:.0f}", part, ratio])
    columns = ("shape", "program", "ms per token", "tokens/s", "part of the read limit", "ratio")
    return table(columns, rows)


def generations(settings: Settings, name: str) -> dict[str, Run]:
    """Ours: tokens that stay on the device, and logits that come back for each."""
    made: dict[str, Run] = {
        OURS + said: sequences(ours(settings.prepared, name, where), 1, settings.tokens)
        for said, where in memories(settings.shapes[name]).items()
    }
    own, token = ours(settings.prepared, name), np.zeros(1, np.int64)
    state: State = own.prefill(token[:, None])[1]

    def by_steps() -> None:
        at = state
        for _ in range(settings.tokens):
            _, at = own.decode(token, at)

    return {**made, "mmc, logits to the host": by_steps}


def steps(settings: Settings, peer: Llama) -> dict[str, Run]:
    """The Llama's step: as it is, recorded, compiled and recorded."""
    ids = torch.zeros(1, 1, dtype=torch.int64, device="cuda")
    at = torch.tensor([settings.context - 1], device="cuda")
    made: dict[str, Run] = {
        "bf16 Llama, eager": lambda: peer.step(ids, at),
        "bf16 Llama, CUDA graph": graphed(lambda: peer.step(ids, at)),
    }
    if settings.compiled:
        made["bf16 Llama, torch.compile, CUDA graph"] = graphed(lambda: peer.compiled(ids, at))
    return made


def batched(settings: Settings) -> list[str]:
    """Several sequences of ours."""
    rows: list[list[object]] = []
    for name in settings.shapes:
        own = ours(settings.prepared, name)
        programs = {str(batch): sequences(own, batch, settings.tokens) for batch in BATCHES}
        found = in_turn(programs, settings.rounds)
        for key, time in found.items():
            step = time / settings.tokens
            rows.append([name, key, f"{1e3 * step:.3f}", f"{int(key) / step:.0f}"])
    return table(("shape", "sequences", "ms per step", "tokens/s of all"), rows)


def sequences(own: mmc.Model, batch: int, tokens: int) -> Run:
    token = np.zeros(batch, np.int64)
    state: State = own.prefill(token[:, None])[1]
    return lambda: deque(own.greedy(token, state, tokens), maxlen=0)


def energy(settings: Settings) -> list[str]:
    """What `mmc bench` says of generation."""
    rows: list[list[object]] = []
    options = BenchOptions(8, settings.tokens, repeats=settings.rounds)
    for name in settings.shapes:
        found = bench(ours(settings.prepared, name), options)
        limit, rate, joules = found.read_limit, found.rows[1].rate, found.joules_per_token
        assert limit is not None
        spent = joules if isinstance(joules, str) else f"{joules:.3f}"
        reached = [f"{found.bandwidth / 1e9:.0f}", f"{found.bandwidth / limit:.2f}"]
        rows.append([name, f"{rate:.0f}", spent, *reached])
    return table(("shape", "tokens/s", "J per token", "GB/s", "part of the read limit"), rows)


def prefill(settings: Settings) -> list[str]:
    """A prompt, up to the logits of its last position."""
    rows: list[list[object]] = []
    for name, shape in settings.shapes.items():
        own, peer = ours(settings.prepared, name), peer_of(settings, shape)
        ids = np.random.default_rng(0).integers(0, shape.vocabulary, (1, settings.prompt))
        given: Tensor = torch.from_numpy(ids).to("cuda")
        programs: dict[str, Run] = {
            "mmc": lambda own=own, ids=ids: own.prefill(ids),
            "bf16 Llama, eager": lambda peer=peer, given=given: peer.prompt(given),
        }
        if other := released(settings, name):
            programs["released code, fp16, eager"] = lambda other=other, given=given: other(given)
        found = in_turn(programs, settings.rounds)
        for key, time in found.items():
            ratio = "" if key == "mmc" else f"{time / found['mmc']:.2f}"
            rows.append([name, settings.prompt, key, f"{1e3 * time:.2f}", ratio])
    return table(("shape", "tokens", "program", "ms", "ratio"), rows)


def memory(settings: Settings) -> list[str]:
    """What one sequence takes on the device while it is generated, and a prompt on top."""
    rows: list[list[object]] = []
    for name, shape in settings.shapes.items():
        peer = peer_of(settings, shape)
        caches = sum(tensor.nbytes for pair in peer.caches for tensor in pair)
        theirs = [sum(p.nbytes for p in peer.parameters()), caches]
        for said, where in memories(shape).items():
            own = ours(settings.prepared, name, where)
            held = loaded(settings.prepared, name, where)
            _, state = own.prefill(np.zeros((1, 8), np.int64))
            mine = [held.weights.memory.size, state.bytes, workspace(held, "token", 1)]
            figures = [f"{n / 1e6:.1f}" for n in (*mine, sum(mine), *theirs, sum(theirs))]
            prompts = [workspace(held, "step", settings.prompt), of_prompt(peer, settings.prompt)]
            more = [f"{n / 1e6:.0f}" for n in (*prompts, held.weights.host_bytes)]
            rows.append([name + said, *figures, f"{sum(theirs) / sum(mine):.2f}", *more])
    columns = (
        "shape", "mmc weights, MB", "state", "workspace", "together", "bf16 Llama weights",
        "keys and values", "together", "ratio", f"mmc, for {settings.prompt} tokens at once",
        "Llama, for as many", "mmc on the host",
    )  # fmt: skip
    return table(columns, rows)


def of_prompt(peer: Llama, tokens: int) -> int:
    """Bytes that torch takes on top while a prompt goes through the Llama."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    peer.prompt(torch.zeros(1, tokens, dtype=torch.int64, device="cuda"))
    return torch.cuda.max_memory_allocated() - before
