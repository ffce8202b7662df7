"""Run an artefact: logits, prefill and decode with an explicit state, generation."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np

from mmc.artifact import Artifact, open_artifact
from mmc.errors import MmcError
from mmc.ir.graph import Graph
from mmc.ir.intern import own_world
from mmc.ir.ops.source import Input
from mmc.ir.types import DType, static_shape
from mmc.sampling import Sampler
from mmc.targets.base import Executable
from mmc.targets.registry import load_target


@dataclass(frozen=True)
class State:
    """What a model remembers of its sequences: an array [B, ...] for each recurrent state."""

    arrays: Mapping[str, np.ndarray]

    @property
    def bytes(self) -> int:
        return sum(array.nbytes for array in self.arrays.values())


class Tokenizer(Protocol):
    """What the model needs of a tokenizer."""

    def encode(self, sequence: str) -> Any: ...
    def decode(self, ids: Sequence[int]) -> str: ...


def load(path: str | Path) -> Model | Module:
    """Load an artefact; raise MmcError where it is damaged or does not run on this machine."""
    artifact = open_artifact(Path(path))
    target = load_target(artifact.manifest["target"])
    if problems := target.problems():
        raise MmcError(problems[0], f"target {target.name}", "see `mmc doctor`")
    kind = Model if artifact.manifest["kind"] == "causal_lm" else Module
    with own_world():
        executable = target.load(
            artifact.path, artifact.manifest["entries"], artifact.manifest["built"]
        )
        return kind(artifact, executable)


class Module:
    """A compiled module: call it with arrays in the order in which it was traced."""

    def __init__(self, artifact: Artifact, executable: Executable) -> None:
        self.artifact, self._executable = artifact, executable
        self._graph: Graph = artifact.graph()

    def __call__(self, *inputs: Any) -> Any:
        """The output, or a tuple of the outputs; numpy or torch in, the same kind out."""
        names = [op.name for op in self._graph.inputs]
        if len(inputs) != len(names):
            raise MmcError(f"takes {len(names)} inputs ({', '.join(names)}), given {len(inputs)}")
        arrays = {
            op.name: as_input(op, x) for op, x in zip(self._graph.inputs, inputs, strict=True)
        }
        made = self._executable.run("forward", arrays)
        outputs = tuple(like(inputs[0], array) if inputs else array for array in made.values())
        return outputs[0] if len(outputs) == 1 else outputs


PIECE_ROWS = 192
"""Tokens of a prompt, of all sequences together, that are worked on at a time.

Enough for the speed of a prompt, few enough for what lies between two layers to stay small.  The
state is carried from piece to piece, so no result depends on it.
"""


class Model:
    """A compiled causal language model.

    Token ids are int64 [B, T], numpy or torch; what comes back is of the same kind.
    """

    def __init__(self, artifact: Artifact, executable: Executable) -> None:
        self.artifact, self._executable = artifact, executable
        graph = artifact.graph()
        self._states = {op.name: op.type for op in graph.inputs if op.name in graph.states}
        self.vocab_size = int(artifact.manifest["vocab_size"])
        self.eos_token_ids = frozenset[int](artifact.manifest["eos_token_ids"])
        self._tokenizer: Tokenizer | None = None

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

    def read_limit(self) -> float | None:
        """Bytes a second that this machine reads with these threads, measured now."""
        return self._executable.read_limit()

    def empty_state(self, batch: int) -> State:
        """The state before the first token."""
        return State({
            name: np.zeros(static_shape(t.bind({"B": batch}).shape), t.dtype.numpy)
            for name, t in self._states.items()
        })  # fmt: skip

    def forward(self, ids: Any) -> Any:
        """Logits [B, T, V] float32 of every position of ids [B, T]."""
        tokens = self._tokens(ids)
        lengths = np.full(len(tokens), tokens.shape[1], np.int64)
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
        counts = self._lengths(lengths, tokens)
        piece = max(1, PIECE_ROWS // len(tokens))
        while counts.min() > piece:
            _, state = self._step(tokens[:, :piece], np.full(len(tokens), piece), state)
            tokens, counts = tokens[:, piece:], counts - piece
        logits, state = self._step(tokens, counts, state)
        return like(ids, logits), state

    def _step(
        self, tokens: np.ndarray, lengths: np.ndarray, state: State
    ) -> tuple[np.ndarray, State]:
        alone = tokens.shape[1] == 1 and "token" in self.artifact.manifest["entries"]
        entry = "token" if alone else "step"
        made = self._run(entry, np.ascontiguousarray(tokens), lengths, state)
        return made["logits"][:, 0], State({name: made[name] for name in self._states})

    def decode(self, token: Any, state: State) -> tuple[Any, State]:
        """Logits [B, V] after one more token [B] of each sequence, and the new state."""
        tokens = as_array(token)
        if tokens.ndim != 1:
            raise MmcError(
                f"decode takes one token for each sequence [B], not {list(tokens.shape)}"
            )
        logits, state = self.extend(tokens[:, None], None, state)
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
            pieces = self._text(self._generate(ids, max_new_tokens, sampler))
            return pieces if stream else "".join(pieces)
        tokens = self._generate(self._tokens(prompt), max_new_tokens, sampler)
        if stream:
            return (like(prompt, token) for token in tokens)
        return like(prompt, np.stack(list(tokens), axis=1))

    def encode(self, text: str) -> list[int]:
        """Token ids of a text; raise MmcError where there are none."""
        ids = list(self.tokenizer.encode(text).ids)
        if not ids:
            raise MmcError("the prompt has no tokens", hint="write at least one character")
        return ids

    def _generate(self, ids: np.ndarray, count: int, sampler: Sampler) -> Iterator[np.ndarray]:
        logits, state = self.prefill(ids)
        ended = np.zeros(len(ids), bool)
        last = np.zeros(len(ids), np.int64)
        for made in range(1, count + 1):
            token = np.where(ended, last, sampler(logits))
            yield token
            ended |= np.isin(token, list(self.eos_token_ids))
            if ended.all() or made == count:
                return
            last = token
            logits, state = self.decode(token, state)

    def _text(self, tokens: Iterator[np.ndarray]) -> Iterator[str]:
        """Pieces of text as soon as they are whole: a character may take several tokens."""
        ids: list[int] = []
        said = ""
        for token in tokens:
            if int(token[0]) in self.eos_token_ids:
                break
            ids.append(int(token[0]))
            text = self.tokenizer.decode(ids)
            if not text.endswith("\ufffd"):
                yield text[len(said) :]
                said = text
        rest = self.tokenizer.decode(ids)[len(said) :]
        if rest:
            yield rest

    def _run(
        self, entry: str, ids: np.ndarray, lengths: np.ndarray, state: State
    ) -> dict[str, np.ndarray]:
        if any(len(array) != len(ids) for array in state.arrays.values()):
            raise MmcError(f"the state is not one of {len(ids)} sequences")
        return self._executable.run(entry, {"ids": ids, "lengths": lengths, **state.arrays})

    def _tokens(self, ids: Any) -> np.ndarray:
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

    def _lengths(self, lengths: Any, tokens: np.ndarray) -> np.ndarray:
        if lengths is None:
            return np.full(len(tokens), tokens.shape[1], np.int64)
        given = as_array(lengths)
        if given.dtype.kind not in "iu":
            raise MmcError(f"lengths must be integers, not {given.dtype}")
        counts = np.ascontiguousarray(given, np.int64)
        if counts.shape != (len(tokens),) or not (
            1 <= counts.min() <= counts.max() <= tokens.shape[1]
        ):
            raise MmcError(
                f"lengths must be {len(tokens)} numbers from 1 to {tokens.shape[1]}, "
                f"not {counts.tolist()}"
            )
        return counts


def as_array(x: Any) -> np.ndarray:
    """A numpy array or list as it is, a torch tensor as an array over the same memory."""
    if not hasattr(x, "detach"):
        try:
            return np.asarray(x)
        except ValueError as error:
            raise MmcError(f"is no array: {error}") from None
    torch, tensor = sys.modules["torch"], x.detach().cpu()
    if tensor.dtype is torch.bfloat16:
        return tensor.contiguous().view(torch.int16).numpy().view(DType.BF16.numpy)
    return tensor.numpy()


def like(x: Any, array: np.ndarray) -> Any:
    """The array as a torch tensor where x is one."""
    if not hasattr(x, "detach"):
        return array
    torch = sys.modules["torch"]
    if not array.flags.writeable:
        array = array.copy()
    if array.dtype == DType.BF16.numpy:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def as_input(op: Input, x: Any) -> np.ndarray:
    """The array that an input takes; MmcError where its numbers would be cut."""
    array, wanted = as_array(x), op.type.dtype
    if wanted.numpy.kind in "iub" and array.dtype.kind not in "iub":
        raise MmcError(f"input {op.name!r} is {array.dtype}, needs {wanted}")
    return array.astype(wanted.numpy, copy=False)
