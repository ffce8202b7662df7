"""Run an artefact: logits, prefill and decode with an explicit state, generation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, cast

import numpy as np

from mmc.arrays import (
    as_array,
    as_column,
    as_input,
    as_lengths,
    like,
    on_gpu,
    stays,
    streaming,
)
from mmc.artifact import Artifact, open_artifact
from mmc.errors import MmcError
from mmc.ir.intern import own_world
from mmc.ir.ops.attention import POSITION
from mmc.ir.types import static_shape
from mmc.module import Module
from mmc.sampling import Sampler
from mmc.targets.base import Arrays, Continuing, Executable, Meter, OnDevice
from mmc.targets.registry import load_target
from mmc.text import Tokenizer, text_pieces


@dataclass(frozen=True)
class State:
    """What a model remembers of its sequences: an array [B, ...] for each state."""

    arrays: Mapping[str, np.ndarray]

    @property
    def bytes(self) -> int:
        return sum(array.nbytes for array in self.arrays.values())


def load(path: str | Path, *, embedding_memory: str = "device") -> Model | Module:
    """Load an artefact; raise MmcError where it is damaged or does not run on this machine.

    embedding_memory: "host" leaves tables of which a step reads rows in memory of the host, from
    where a GPU reads them by itself.
    """
    artifact = open_artifact(Path(path))
    target = load_target(artifact.manifest["target"])
    if problems := target.problems():
        raise MmcError(problems[0], f"target {target.name}", "see `mmc doctor`")
    known = target.capabilities.embedding_memories
    if embedding_memory not in known:
        raise MmcError(
            f"target {target.name} keeps an embedding on the {' or '.join(known)}, "
            f"not on the {embedding_memory!r}",
            "--embedding-memory", "leave it out",
        )  # fmt: skip
    kind = Model if artifact.manifest["kind"] == "causal_lm" else Module
    with own_world():
        executable = target.load(
            artifact.path, artifact.manifest["entries"], artifact.manifest["built"],
            embedding_memory=embedding_memory,
        )  # fmt: skip
        return kind(artifact, executable)


class Model:
    """A compiled causal language model.

    Token ids are int64 [B, T], numpy or torch; what comes back is of the same kind.
    """

    def __init__(self, artifact: Artifact, executable: Executable) -> None:
        self.artifact, self._executable = artifact, executable
        graph = artifact.graph()
        self._ids = next(op for op in graph.inputs if op.name == "ids")
        self._states = {op.name: op for op in graph.inputs if op.name in graph.states}
        self.vocab_size = int(artifact.manifest["vocab_size"])
        self.eos_token_ids = frozenset[int](artifact.manifest["eos_token_ids"])
        self.context: int | None = artifact.manifest.get("context")
        """How many positions of a sequence the caches hold; None where the state does not grow."""
        self._tokenizer: Tokenizer | None = None
        self._prompt_rows = load_target(artifact.manifest["target"]).capabilities.prompt_rows

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer of the artefact; raise MmcError where it has none."""
        if self._tokenizer is None:
            from tokenizers import Tokenizer as Loaded

            file = self.artifact.path / "tokenizer.json"
            if not file.is_file():
                raise MmcError("has no tokenizer.json", str(self.artifact.path), "pass token ids")
            self._tokenizer = cast(Tokenizer, Loaded.from_file(str(file)))
        return self._tokenizer

    def use_threads(self, count: int) -> None:
        """Run with that many threads from now on."""
        self._executable.use_threads(count)

    def on_stream(self, stream: int) -> AbstractContextManager[None]:
        """Run on a CUDA stream, by its handle, within the context; MmcError where there is none."""
        if not isinstance(self._executable, OnDevice):
            raise MmcError("runs on no stream", f"target {self.artifact.manifest['target']}")
        return self._executable.on_stream(stream)

    def meter(self) -> Meter:
        """What the machine tells while the model runs."""
        return self._executable.meter()

    def empty_state(self, batch: int) -> State:
        """The state before the first token."""
        return State({
            name: np.zeros(static_shape(op.type.bind({"B": batch}).shape), op.type.dtype.numpy)
            for name, op in self._states.items()
        })  # fmt: skip

    def forward(self, ids: Any) -> Any:
        """Logits [B, T, V] float32 of every position of ids [B, T]."""
        tokens = self._tokens(ids)
        lengths = np.full(len(tokens), tokens.shape[1], np.int64)
        self._require_room(lengths)
        made = self._run("forward", tokens, lengths, self.empty_state(len(tokens)))
        return like(ids, made["logits"])

    def prefill(self, ids: Any, lengths: Any = None) -> tuple[Any, State]:
        """Logits [B, V] of the last position of each prompt, and the state behind it.

        ids [B, T] is padded on the right; lengths [B] says how many tokens of each row count.
        """
        tokens = self._tokens(ids)
        logits, state = self.extend(tokens, lengths, self.empty_state(len(tokens)))
        return like(ids, logits), state

    def extend(self, ids: Any, lengths: Any, state: State) -> tuple[Any, State]:
        """`prefill` from a state that is not empty."""
        tokens = self._tokens(ids)
        counts = as_lengths(lengths, tokens)
        self._require_room(counts, state)
        piece = max(1, self._prompt_rows // len(tokens))
        while counts.min() > piece:
            _, state = self._step(tokens[:, :piece], np.full(len(tokens), piece), state)
            tokens, counts = tokens[:, piece:], counts - piece
        logits, state = self._step(tokens, counts, state)
        return like(ids, logits), state

    def _step(self, tokens: Any, lengths: np.ndarray, state: State) -> tuple[Any, State]:
        entry = self._one_token if tokens.shape[1] == 1 else "step"
        made = self._run(entry, tokens, lengths, state)
        logits = like(tokens, made["logits"])[:, 0]
        return logits, State({name: made[name] for name in self._states})

    def _require_room(self, counts: np.ndarray, state: State | None = None) -> None:
        """Raise MmcError where so many more positions of a sequence do not fit in its caches."""
        if self.context is None:
            return
        known = np.zeros(1, np.int64) if state is None else as_array(state.arrays[POSITION])
        if int(known.min()) < 0 or int((known + counts).max()) > self.context:
            raise MmcError(
                f"{int(known.max())} positions and {int(counts.max())} more do not fit in the "
                f"context of {self.context}",
                str(self.artifact.path),
                "`mmc compile --context` sets it",
            )

    @property
    def _one_token(self) -> str:
        """The entry that takes one token of each sequence."""
        return "token" if "token" in self.artifact.manifest["entries"] else "step"

    def decode(self, token: Any, state: State) -> tuple[Any, State]:
        """Logits [B, V] after one more token [B] of each sequence, and the new state."""
        logits, state = self.extend(as_column(token, self._executable), None, state)
        return like(token, logits), state

    def generate(
        self,
        prompt: Any,
        max_new_tokens: int = 64,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
        stream: bool = False,
    ) -> Any:
        """Continue a text (str) or token ids [B, T]; returns what is new, of the same kind.

        temperature 0 takes the most likely token; otherwise it samples from the most likely tokens
        whose probability adds up to top_p.  stream=True returns an iterator over the pieces.
        A sequence ends at an end-of-text token; its row is filled with that token.
        """
        sampler = Sampler(temperature, top_p, seed)
        if max_new_tokens < 1:
            raise MmcError(f"max_new_tokens must be at least 1, not {max_new_tokens}")
        if isinstance(prompt, str):
            ids = np.array([self.encode(prompt)], np.int64)
            tokens = self._generate(ids, max_new_tokens, sampler)
            pieces = text_pieces(tokens, self.tokenizer, self.eos_token_ids)
            return pieces if stream else "".join(pieces)
        tokens = self._generate(self._tokens(as_array(prompt)), max_new_tokens, sampler)
        if stream:
            return (like(prompt, token) for token in tokens)
        return like(prompt, np.stack(list(tokens), axis=1))

    def encode(self, text: str) -> list[int]:
        """Token ids of a text; raise MmcError where there are none."""
        ids = list(self.tokenizer.encode(text).ids)
        if not ids:
            raise MmcError("the prompt has no tokens", hint="write at least one character")
        return ids

    def greedy(self, token: Any, state: State, count: int) -> Iterator[Any]:
        """The `count` likeliest tokens [B] behind `token` [B], one after the other.

        Where the target can, they are chosen on the device, which then runs ahead of what is
        handed out.  An end-of-text token is a token like others here.
        """
        tokens = self._tokens(as_array(as_column(token, self._executable)))
        self._require_room(np.array([count]), state)
        for following in self._greedy(tokens[:, 0], state, count):
            yield like(token, following)

    def _greedy(self, token: np.ndarray, state: State, count: int) -> Iterator[np.ndarray]:
        if isinstance(self._executable, Continuing):
            inputs = self._inputs(token[:, None], np.ones_like(token), state)
            found = self._executable.greedy(self._one_token, inputs, count)
            if found is not None:
                yield from found
                return
        yield from self._sampled(token, state, count, Sampler())

    def _sampled(
        self, token: np.ndarray, state: State, count: int, sampler: Sampler
    ) -> Iterator[np.ndarray]:
        for _ in range(count):
            logits, state = self.decode(token, state)
            token = sampler(logits)
            yield token

    def _generate(self, ids: np.ndarray, count: int, sampler: Sampler) -> Iterator[np.ndarray]:
        self._require_room(np.array([ids.shape[1] + count - 1]))
        logits, state = self.prefill(ids)
        token = sampler(logits)
        if sampler.temperature == 0:
            rest = self._greedy(token, state, count - 1)
        else:
            rest = self._sampled(token, state, count - 1, sampler)
        ended = np.zeros(len(ids), bool)
        last = token
        for found in chain((token,), rest):
            last = np.where(ended, last, found)
            yield last
            ended |= np.isin(last, list(self.eos_token_ids))
            if ended.all():
                return

    def _run(self, entry: str, ids: Any, lengths: np.ndarray, state: State) -> dict[str, Any]:
        with streaming(self._executable, ids, *state.arrays.values()):
            return self._executable.run(entry, self._inputs(ids, lengths, state))

    def _inputs(self, ids: Any, lengths: np.ndarray, state: State) -> Arrays:
        if any(len(array) != len(ids) for array in state.arrays.values()):
            raise MmcError(f"the state is not one of {len(ids)} sequences")
        states = {
            name: as_input(self._states[name], array, self._executable)
            if hasattr(array, "detach") and name in self._states
            else array
            for name, array in state.arrays.items()
        }
        ids = ids.contiguous() if on_gpu(ids) else np.ascontiguousarray(ids)
        return {"ids": ids, "lengths": lengths, **states}

    def _tokens(self, ids: Any) -> Any:
        """Token ids int64 [B, T], on the host or, unchecked, where they are on a GPU."""
        if stays(ids, self._executable) and ids.ndim == 2 and ids.numel():
            return as_input(self._ids, ids, self._executable)
        tokens = as_array(ids)
        if tokens.ndim != 2 or tokens.dtype.kind not in "iu":
            raise MmcError(
                f"token ids must be integers [B, T], not {tokens.dtype} {list(tokens.shape)}"
            )
        if tokens.size == 0:
            raise MmcError(
                f"there are no tokens in ids {list(tokens.shape)}",
                hint="a prompt needs at least one",
            )
        low, high = int(tokens.min()), int(tokens.max())
        if low < 0 or high >= self.vocab_size:
            bad = low if low < 0 else high
            raise MmcError(f"token id {bad} is not in the vocabulary of {self.vocab_size}")
        return np.ascontiguousarray(tokens, np.int64)
