"""What can be chosen in a conversion, and which choices go together."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from mmc.errors import MmcError
from mmc.frontends.models.hgrn_bit_config import GATE_ORDERS

TO = ("ternary", "matmul-free")


@dataclass(frozen=True)
class TrainingOptions:
    """steps or minutes: exactly one of them is given.

    batch: windows a step; window: tokens each.  distil: the share of the teacher in the loss.
    warmup: the share of the time in which the learning rate rises; it then falls as a cosine to 0.
    accumulate: parts of a batch, one after another, whose gradients add up.  shard: processes that
    train together hold parts of the model; else each holds all of it.
    log_every, evaluate_every, save_every: in steps.
    """

    steps: int | None = None
    minutes: float | None = None
    batch: int = 32
    window: int = 512
    learning_rate: float = 2e-3
    warmup: float = 0.03
    weight_decay: float = 0.1
    clip: float = 1.0
    distil: float = 0.5
    seed: int = 0
    checkpointing: bool = False
    accumulate: int = 1
    shard: bool = True
    log_every: int = 10
    evaluate_every: int = 500
    save_every: int = 500

    def refuse_impossible(self) -> None:
        given = [amount for amount in (self.steps, self.minutes) if amount is not None]
        if len(given) != 1:
            raise MmcError("one of them is needed, and only one", "--steps, --minutes")
        if given[0] <= 0:
            raise MmcError("must be more than nothing", "--steps, --minutes")
        if self.batch < 1 or self.window < 2:
            raise MmcError("a step needs a window of two tokens at least", "--batch, --window")
        if not 0 <= self.distil <= 1:
            raise MmcError(f"{self.distil} is not a share, from 0 to 1", "--distil")
        if self.learning_rate <= 0 or min(self.log_every, self.evaluate_every, self.save_every) < 1:
            raise MmcError("must be more than nothing", "--learning-rate, --save-every")


@dataclass(frozen=True)
class ConvertOptions:
    """text: what to train on; without it the model is only rewritten.

    held_out: what to measure with; without it the end of the text.  from_scratch: random weights
    and no teacher, the control.  picture: draw the curve.
    """

    to: str
    keep_attention: str | None = None
    gate_order: str = "released"
    text: tuple[Path, ...] = ()
    held_out: Path | None = None
    training: TrainingOptions = field(default_factory=TrainingOptions)
    device: str = "auto"
    from_scratch: bool = False
    resume: bool = False
    picture: bool = False

    def refuse_impossible(self) -> None:
        """Raise MmcError naming the options that are wrong or do not go together."""
        for option, value, known in (
            ("--to", self.to, TO),
            ("--gate-order", self.gate_order, GATE_ORDERS),
            ("--device", self.device, ("auto", "cpu", "cuda")),
        ):
            if value not in known:
                raise MmcError(f"{value!r} is not known", option, f"known: {', '.join(known)}")
        if self.to == "ternary" and (self.keep_attention or self.gate_order != "released"):
            raise MmcError("ternary keeps all attention", "--keep-attention, --gate-order")
        if self.text:
            return self.training.refuse_impossible()
        steps, minutes = self.training.steps, self.training.minutes
        if steps or minutes or self.held_out or self.from_scratch or self.resume:
            named = "--steps, --minutes, --held-out, --from-scratch, --resume"
            raise MmcError("training needs a text", named, "give --text FILE")
