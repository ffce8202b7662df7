"""Distillation: a student learns a text, and what its teacher would have said of each token.

Quantisation is on from the first step, and the learning rate is high: what helped in the small
experiments behind this recipe, unlike a slow change from floats to ternary.
"""

# Torch's stubs leave these types unknown.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false, reportPrivateImportUsage=false
from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from mmc.convert.captured import Captured, Step
from mmc.convert.evaluation import nats_per_token
from mmc.convert.options import TrainingOptions
from mmc.convert.processes import ALONE, Processes, whole
from mmc.convert.text import Text
from mmc.errors import MmcError
from mmc.nn import Transformer
from mmc.nn.language_model import LanguageModel

QUICK_WINDOWS = 64
"""Of the held-out text, for the measurements on the way."""

Tell = Callable[[str, float], None]
"""Is told what is being done, and how much of it is behind us, from 0 to 1."""


def silent(stage: str, done: float) -> None:
    """Tell nobody."""


@dataclass
class Progress:
    """How far a training is; `curve` has a row for each logged step.

    preparation: what of the seconds went by before and in a run's first step, which compiles.
    """

    step: int = 0
    seconds: float = 0.0
    preparation: float = 0.0
    curve: list[dict[str, float]] = field(default_factory=list[dict[str, float]])


class Trainer:
    """One training; `run` may begin in the middle of it."""

    def __init__(
        self,
        student: LanguageModel,
        teacher: Transformer | None,
        text: Text,
        options: TrainingOptions,
        device: torch.device,
        processes: Processes = ALONE,
    ) -> None:
        self.student, self.teacher, self.processes = student, teacher, processes
        self.text, self.options, self.device = text, options, device
        for model in (student, teacher):
            if model is not None and options.shard:
                processes.shard(model, device)
        self.progress = Progress()
        self._tokens = torch.from_numpy(text.training).to(device)
        self._quick = self._held_out(QUICK_WINDOWS * options.window)
        self._offsets = torch.arange(options.window + 1, device=device)
        student.checkpointing = options.checkpointing
        self.optimizer = _optimizer(student, options, on_gpu=device.type == "cuda")
        size = options.batch // processes.count, options.window + 1
        self._ids = torch.zeros(size, dtype=torch.int64, device=device)
        self._rate = torch.zeros((), device=device)
        self._update: Step = self._updated
        self._distil = distillation_losses
        if device.type == "cuda":
            self._compile()

    def _compile(self) -> None:
        """Compile each kind of layer once, and record the step as a whole.

        For these sizes alone: sizes that were compiled before in this process would make torch
        leave them open, in kernels that add up in another order.
        """
        from torch._inductor import config

        # Sums of rows and of columns in one kernel: with the four norms of an MLGRU it spills, and
        # takes more than a quarter of the step.
        known = hasattr(config.triton, "mix_order_reduction")
        options: Any = {"triton.mix_order_reduction": False} if known else None
        for model in (self.student, self.teacher):
            if model is not None:
                for part in model.parts():
                    part.forward = torch.compile(part.forward, dynamic=False, options=options)
        self._distil = torch.compile(distillation_losses, dynamic=False)
        self._update = Captured(self._updated)

    def _held_out(self, most: int | None = None) -> Tensor:
        return torch.from_numpy(self.text.held_out[:most]).to(self.device).long()

    def evaluate(self, model: LanguageModel) -> float:
        """Nats per token of the whole held-out text."""
        return self._nats_per_token(model, self._held_out())

    def _nats_per_token(self, model: LanguageModel, ids: Tensor) -> float:
        options = self.options
        found = nats_per_token(model, ids, options.window, options.batch, self.processes)
        self.processes.reshard(model)
        return found

    def run(self, save: Callable[[], None], tell: Tell = silent) -> None:
        """Train to the end; `save` is called when everything so far is sound.

        Raises MmcError where a loss is not a number: then nothing is saved any more.
        """
        try:
            self._run(save, tell)
        finally:
            # NCCL waits at its end for whoever recorded it.
            if isinstance(self._update, Captured):
                self._update.forget()

    def _run(self, save: Callable[[], None], tell: Tell) -> None:
        options, progress = self.options, self.progress
        begun, first = time.monotonic() - progress.seconds, progress.step
        if first == 0:
            save()
        while (done := self._done()) < 1:
            losses, norm = self._step(done)
            progress.step += 1
            if progress.step == first + 1:
                losses.tolist()  # waits until it is through
                progress.preparation += time.monotonic() - begun - progress.seconds
            progress.seconds = time.monotonic() - begun
            done = self._done()
            evaluate = progress.step % options.evaluate_every == 0 or done >= 1
            if progress.step % options.log_every == 0 or evaluate:
                self._log(losses, norm, evaluate, begun)
                tell(self._told(), min(done, 1.0))
            if progress.step % options.save_every == 0 and done < 1:
                self._refuse_nan(losses, norm)
                save()

    def _done(self) -> float:
        """The share of the training that is behind us."""
        progress, minutes = self.progress, self.options.minutes
        if minutes is None:
            return progress.step / (self.options.steps or 1)
        trained = progress.seconds - progress.preparation
        done = trained / max(60 * minutes - progress.preparation, 1.0)
        return self.processes.as_the_first(done)

    def _step(self, done: float) -> tuple[Tensor, Tensor]:
        """One step; returns the loss and the cross-entropy, and the norm of the gradient."""
        self.student.train()
        rate, on_gpu = learning_rate(self.options, done), self.device.type == "cuda"
        for group in self.optimizer.param_groups:
            group["lr"] = self._rate.fill_(rate) if on_gpu else rate
        self._ids.copy_(self._batch(self.progress.step))
        losses, norm = self._update()
        return self.processes.sum(losses / self.processes.count), norm

    def _updated(self) -> tuple[Tensor, Tensor]:
        """A step with the windows and the rate that are in place."""
        options, parameters = self.options, list(self.student.parameters())
        self.optimizer.zero_grad(set_to_none=True)
        total = torch.zeros(2, device=self.device)
        for ids in self._ids.chunk(options.accumulate):
            losses = self._losses(ids) / options.accumulate
            losses[0].backward()
            total += losses.detach()
        if self.processes.joined and not options.shard:
            self.processes.average(p.grad for p in parameters if p.grad is not None)
        norm = nn.utils.clip_grad_norm_(parameters, options.clip, foreach=True)
        self.optimizer.step()
        return total, whole(norm)

    def _batch(self, step: int) -> Tensor:
        """Ids i64[batch, window + 1], of the batch this process's share."""
        options = self.options
        starts = self.text.starts(options.seed, step, options.batch, options.window)
        starts = starts[self.processes.share(options.batch)]
        where = torch.from_numpy(starts).to(self.device)[:, None] + self._offsets
        return self._tokens[where].long()

    def _losses(self, ids: Tensor) -> Tensor:
        inputs, targets = ids[:, :-1], ids[:, 1:]
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            wanted = None
            if self.teacher is not None:
                with torch.no_grad():
                    wanted = self.teacher(inputs)
            logits = self.student(inputs)
        return self._distil(logits, wanted, targets, self.options.distil)

    def _log(self, losses: Tensor, norm: Tensor, evaluate: bool, begun: float) -> None:
        self._refuse_nan(losses, norm)
        progress, options = self.progress, self.options
        loss, entropy = losses.tolist()
        row = {
            "step": progress.step,
            "tokens": progress.step * options.batch * options.window,
            "seconds": time.monotonic() - begun,
            "loss": loss,
            "cross_entropy": entropy,
            "gradient_norm": norm.item(),
        }
        if evaluate:
            row["held_out"] = self._nats_per_token(self.student, self._quick)
        progress.curve.append(row)

    def _refuse_nan(self, losses: Tensor, norm: Tensor) -> None:
        if not (math.isfinite(losses[0].item()) and math.isfinite(norm.item())):
            raise MmcError(
                f"the loss is not a number at step {self.progress.step}",
                hint="the last good checkpoint is kept: lower --learning-rate and --resume",
            )

    def _told(self) -> str:
        rows = self.progress.curve
        last, before = rows[-1], rows[-2] if len(rows) > 1 else {"tokens": 0, "seconds": 0}
        speed = (last["tokens"] - before["tokens"]) / max(last["seconds"] - before["seconds"], 1e-9)
        return f"step {self.progress.step}  loss {last['loss']:.3f}  {speed:,.0f} tokens/s"


def distillation_losses(
    logits: Tensor, wanted: Tensor | None, targets: Tensor, distil: float
) -> Tensor:
    """The loss, and the cross-entropy alone: f32[2], means over the tokens in nats.

    distil * KL(teacher || student) + (1 - distil) * cross-entropy; without a teacher the latter.
    logits, wanted [B, T, V]; targets i64[B, T].
    """
    said = logits.float().log_softmax(-1)
    entropy = -said.gather(-1, targets.unsqueeze(-1)).mean()
    if wanted is None:
        return torch.stack([entropy, entropy])
    truth = wanted.float().log_softmax(-1)
    divergence = (truth.exp() * (truth - said)).sum(-1).mean()
    return torch.stack([distil * divergence + (1 - distil) * entropy, entropy])


def learning_rate(options: TrainingOptions, done: float) -> float:
    """Done: the share of the training that is behind us."""
    if done < options.warmup:
        # The first step does something, too.
        return options.learning_rate * max(done / options.warmup, 0.01)
    rest = (done - options.warmup) / (1 - options.warmup)
    return options.learning_rate * 0.5 * (1 + math.cos(math.pi * min(rest, 1.0)))


def _optimizer(student: nn.Module, options: TrainingOptions, on_gpu: bool) -> torch.optim.AdamW:
    """AdamW that lets matrices decay, and nothing else."""
    matrices, rest = list[nn.Parameter](), list[nn.Parameter]()
    for name, p in student.named_parameters():
        (matrices if name.endswith(".weight") and p.ndim > 1 else rest).append(p)
    groups: list[dict[str, Any]] = [
        {"params": matrices, "weight_decay": options.weight_decay},
        {"params": rest, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        groups, lr=options.learning_rate, betas=(0.9, 0.95), fused=on_gpu, capturable=on_gpu
    )


@contextmanager
def told_memory(device: torch.device) -> Generator[None]:
    """Say what to lower where memory runs out."""
    try:
        yield
    except RuntimeError as error:
        cpu = "can't allocate memory" in str(error)
        if not (cpu or isinstance(error, torch.OutOfMemoryError)):
            raise
        raise MmcError(
            f"memory of the device {device} ran out",
            hint="give --accumulate 2 or --gradient-checkpointing, or lower --batch or --window",
        ) from None
