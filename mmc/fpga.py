"""A model compiled for an FPGA: predict, build, report, as HLS tools have them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from mmc.artifact import Artifact
from mmc.errors import MmcError
from mmc.runtime import Model, load
from mmc.targets.fpga.estimate import Estimate


@dataclass(frozen=True)
class FpgaModel(Artifact):
    """An artefact of the target fpga, and what its steps have found."""

    found: dict[str, Mapping[str, Any]] = field(default_factory=dict[str, Mapping[str, Any]])

    @cached_property
    def model(self) -> Model:
        """The C simulation: prefill, decode, generate."""
        model = load(self.path)
        assert isinstance(model, Model)  # the target takes nothing else
        return model

    def predict(self, ids: Any) -> Any:
        """Logits [B, T, V] float32 of ids [B, T], by the C simulation."""
        return self.model.forward(ids)

    def estimate(self) -> Estimate:
        """What its board makes of it: cycles, tokens a second, resources."""
        from mmc.targets.fpga.written import Written

        return Written.open(self.path).estimate()

    def build(self, **steps: bool | str) -> Mapping[str, Mapping[str, Any]]:
        """Run steps such as csim=True or hls="vitis" in order; returns what each found.

        False leaves a step out.  Raises MmcError where a tool is missing or finds a difference.
        """
        from mmc.targets.fpga.steps import STEPS

        for name, choice in steps.items():
            if name not in STEPS:
                raise MmcError(f"no step {name!r}", "build", f"one of {', '.join(STEPS)}")
            if choice:
                self.found[name] = STEPS[name](self.path, choice)
        return self.report()

    def report(self) -> Mapping[str, Mapping[str, Any]]:
        """What was compiled, and what each step found so far."""
        return {"compiled": self.manifest["built"], **self.found}
