"""The processes that train one model together: torchrun starts them, FSDP2 shards the model.

Each holds a part of every matrix and of the optimizer's numbers, and takes its part of each batch.
While a layer runs, forward or backward, its parameters are there as a whole: the one scale that a
quantiser has for a matrix is the same as in a single process.  Or each holds everything, and the
processes tell one another their gradients.
"""

# Torch's stubs leave these types unknown.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false, reportPrivateImportUsage=false
from __future__ import annotations

import os
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor

from mmc.errors import MmcError
from mmc.nn.language_model import LanguageModel


@dataclass(frozen=True)
class Processes:
    """rank: of this one, of `count`.  joined: torchrun started them, even if it was but one."""

    rank: int = 0
    count: int = 1
    joined: bool = False

    def device(self, kind: str) -> torch.device:
        """The CPU, or this process's own GPU."""
        if not (self.joined and kind == "cuda"):
            return torch.device(kind)
        local, gpus = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if local >= gpus:
            raise MmcError(f"torch sees {gpus} GPUs here, and each process needs one", "torchrun")
        torch.cuda.set_device(local)
        return torch.device(kind, local)

    def share(self, batch: int) -> slice:
        """This process's windows of a batch; `refuse_uneven` says whether there are as many."""
        size = batch // self.count
        return slice(self.rank * size, (self.rank + 1) * size)

    def refuse_uneven(self, batch: int, parts: int) -> None:
        """Parts: of each process's share, one after another."""
        if parts < 1 or batch % (self.count * parts):
            each = f" in {parts} parts each" if parts != 1 else ""
            raise MmcError(
                f"{batch} windows cannot be shared evenly by {self.count} processes{each}",
                "--batch",
            )

    def shard(self, model: LanguageModel, device: torch.device) -> None:
        """Leave this process its part of each layer, and of what is not in a layer."""
        if self.joined:
            mesh = init_device_mesh(device.type, (self.count,))
            for layer in model.get_submodule("model.layers").children():
                fully_shard(layer, mesh=mesh)
            fully_shard(model, mesh=mesh)

    def reshard(self, model: LanguageModel) -> None:
        """Forget what is not in a layer as a whole; without a backward pass it stays.

        Where a recorded step changes the parts, it would be out of date.
        """
        if isinstance(model, FSDPModule):
            model.reshard()

    def average(self, gradients: Iterable[Tensor]) -> None:
        """Each gradient becomes its mean over the processes."""
        for gradient in gradients:
            dist.all_reduce(gradient.div_(self.count))

    def sum(self, x: Tensor) -> Tensor:
        """The sum over the processes, the same in all; x is overwritten."""
        if self.joined:
            dist.all_reduce(x)
        return x

    def as_the_first(self, number: float) -> float:
        """The number that the first process has: clocks differ, decisions must not."""
        if self.joined:
            told = torch.tensor(number, dtype=torch.float64)
            dist.broadcast(told, 0)
            return told.item()
        return number


ALONE = Processes()
"""What trains without torchrun."""


def whole(x: Tensor) -> Tensor:
    """All of a tensor, of which the processes hold parts; all of them must ask for it."""
    return x.full_tensor() if isinstance(x, DTensor) else x


@contextmanager
def together(device: str) -> Generator[Processes]:
    """Meet the processes that torchrun started; without it this one is alone.

    Where some fail, the first that does raises its error, and the others, whose own are mostly that
    they no longer hear from it, end without a word.
    """
    if not dist.is_torchelastic_launched():
        yield ALONE
        return
    store, rank, count = next(dist.rendezvous("env://"))
    gpu = device != "cpu" and torch.cuda.is_available()
    backend = "cpu:gloo,cuda:nccl" if gpu else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=count)
    try:
        yield Processes(rank, count, True)
    except Exception:
        if store.add("mmc.failed", 1) > 1:
            raise SystemExit(1) from None
        raise
    dist.destroy_process_group()
