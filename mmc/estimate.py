"""What `mmc estimate` tells: a model directory, what was compiled, or a shape on an FPGA board."""

from __future__ import annotations

from pathlib import Path

from mmc.artifact import MANIFEST
from mmc.errors import MmcError
from mmc.frontends.models.config_fields import read_json
from mmc.frontends.models.hgrn_bit_config import HgrnBitConfig
from mmc.targets.fpga.boards import load_board
from mmc.targets.fpga.choice import estimate
from mmc.targets.fpga.estimate import Estimate
from mmc.targets.fpga.plan import Plan
from mmc.targets.fpga.shape import Shape, plan_of_shape, shape_of
from mmc.targets.fpga.written import Written


def estimate_source(
    source: str, board: str, codec: str | None, target_tps: float | None
) -> Estimate:
    """The model on the board; MmcError where it does not fit or is no MatMul-free model."""
    return estimate(_plan(source), load_board(board), codec, target_tps)


def _plan(source: str) -> Plan:
    """The phases of an artefact, or of a model of these sizes."""
    path = Path(source)
    if not (path / MANIFEST).is_file():
        return plan_of_shape(_shape(source))
    target = read_json(path / MANIFEST).get("target")
    if target != "fpga":
        raise MmcError(f"is compiled for {target}", source, "compile it with --target fpga")
    return Written.open(path).plan


def _shape(source: str) -> Shape:
    """The sizes of a checkpoint, by its configuration alone, or a shape by its name."""
    path = Path(source)
    if not path.is_dir():
        return shape_of(source)
    where = path / "config.json"
    values = read_json(where)
    if values.get("model_type") != "hgrn_bit":
        raise MmcError(
            f"the shape of model type {values.get('model_type')!r} is not known from this alone",
            str(where), "compile it with --target fpga, and name that folder",
        )  # fmt: skip
    config = HgrnBitConfig.parse(values, str(where))
    if config.use_short_conv or config.gate_order != "released":
        raise MmcError("the FPGA has no phase for its mixer", str(where), "as released it has")
    return Shape(
        config.hidden_size, config.num_hidden_layers, config.intermediate_size, config.vocab_size,
        config.inner_size,
    )  # fmt: skip


def render(found: Estimate) -> str:
    """A page of text; each figure says what it is."""
    board, engine = found.board, found.engine
    more = ", and what attention adds" if found.attention.layers else ""
    lines = [
        f"{board.title} ({board.device})",
        f"engine     {engine.rows} rows x {engine.columns} columns a cycle, {engine.lanes} lanes, "
        f"weights in {engine.codec_name}, {found.lut_per_weight:.1f} LUT a weight "
        f"({found.counts})",
        f"cycles     {found.cycles:,.0f} a token, {found.compute_cycles:,} of them if the memory "
        f"were never late ({found.derived}: the formula of the RTL{more})",
        f"speed      {found.tokens_per_second:,.1f} tokens/s, bound by the {found.bound} "
        f"(projected: {board.clock_mhz:g} MHz, {board.memory_efficiency:.0%} of "
        f"{board.memory_gbps:g} GB/s)",
        f"traffic    {found.bytes_per_token / 1e6:,.2f} MB a token (derived); "
        f"{found.ahead} beats of {engine.beat_bytes} bytes read ahead",
    ]
    if found.attention.layers:
        lines.insert(3, _attention(found))
    for name in ("lut", "ff", "bram36", "uram", "dsp"):
        needed, there = getattr(found.needs, name), getattr(board, name)
        part = f"{needed / there:6.1%}" if there else "   n/a"
        lines.append(f"{name:<11}{needed:>9,.0f} of {there:>9,} {part} ({found.counts})")
    lines.append("watts      not given: no source")
    lines += [f"source     {name}: {text}" for name, text in board.source.items()]
    return "\n".join(lines)


def _attention(found: Estimate) -> str:
    unit = found.attention
    return (
        f"attention  {found.attention_cycles:,} of these cycles, with a full cache of "
        f"{unit.context:,} positions, {unit.bytes / 1e6:,.2f} MB (projected: the RTL has none); "
        f"{found.empty_tokens_per_second:,.1f} tokens/s with an empty one"
    )
