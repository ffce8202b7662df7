"""Arrays as they are given, numpy or torch, and back in the same kind.

A torch tensor on a GPU stays there where the target runs there too.
"""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np

from mmc.errors import MmcError
from mmc.ir.ops.source import Input
from mmc.ir.types import DType
from mmc.targets.base import Executable, OnDevice


def on_gpu(x: Any) -> bool:
    """Whether x is a torch tensor on a GPU."""
    return hasattr(x, "detach") and bool(x.is_cuda)


def stays(x: Any, executable: Executable) -> bool:
    """Whether x need not come to the host."""
    return on_gpu(x) and isinstance(executable, OnDevice)


def streaming(executable: Executable, *inputs: Any) -> AbstractContextManager[None]:
    """A context that runs on torch's current stream where an input lies on its GPU."""
    there = next((x for x in inputs if on_gpu(x)), None)
    if there is None or not isinstance(executable, OnDevice):
        return nullcontext()
    if there.device.index:
        raise MmcError(f"a tensor is on GPU {there.device.index}, the model is on GPU 0")
    stream = sys.modules["torch"].cuda.current_stream(there.device)
    return executable.on_stream(int(stream.cuda_stream))


def as_array(x: Any) -> np.ndarray:
    """A numpy array or list as it is, a torch tensor as an array: on the CPU its own memory."""
    if not hasattr(x, "detach"):
        try:
            return np.asarray(x)
        except ValueError as error:
            raise MmcError(f"is no array: {error}") from None
    torch, tensor = sys.modules["torch"], x.detach().cpu()
    if tensor.dtype is torch.bfloat16:
        return tensor.contiguous().view(torch.int16).numpy().view(DType.BF16.numpy)
    return tensor.numpy()


def like(x: Any, array: Any) -> Any:
    """The array as a torch tensor where x is one, on the same device; else a numpy array."""
    if hasattr(array, "detach"):
        return array
    if not hasattr(x, "detach"):
        return np.asarray(array)
    torch = sys.modules["torch"]
    if not hasattr(array, "__array_interface__"):  # numpy's: it is on the host
        return torch.from_dlpack(array)
    if not array.flags.writeable:
        array = array.copy()
    if array.dtype == DType.BF16.numpy:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16).to(x.device)
    return torch.from_numpy(array).to(x.device)


def as_input(op: Input, x: Any, executable: Executable) -> Any:
    """The array that an input takes; MmcError where its numbers would be cut."""
    wanted = op.type.dtype
    padded = wanted is DType.I8  # rows lie apart there
    if stays(x, executable) and not padded:
        return _converted(op, x)
    array = as_array(x)
    kind: str = array.dtype.kind
    if wanted.numpy.kind in "iub" and kind not in "iub":
        raise MmcError(f"input {op.name!r} is {array.dtype}, needs {wanted}")
    return array.astype(wanted.numpy, copy=False)


def _converted(op: Input, x: Any) -> Any:
    """A tensor of the type of an input, rows side by side, on the device that it is on."""
    torch, wanted = sys.modules["torch"], op.type.dtype
    if wanted.numpy.kind in "iub" and (x.is_floating_point() or x.is_complex()):
        raise MmcError(f"input {op.name!r} is {x.dtype}, needs {wanted}")
    name = "bfloat16" if wanted is DType.BF16 else wanted.numpy.name
    tensor = x.detach().to(getattr(torch, name)).contiguous()
    return tensor.view(torch.int16) if wanted is DType.BF16 else tensor


def as_lengths(lengths: Any, tokens: Any) -> np.ndarray:
    """How many tokens [B] of each row of tokens [B, T] count: all, or those that were given."""
    if lengths is None:
        return np.full(len(tokens), tokens.shape[1], np.int64)
    given = as_array(lengths)
    if given.dtype.kind not in "iu":
        raise MmcError(f"lengths must be integers, not {given.dtype}")
    counts = np.ascontiguousarray(given, np.int64)
    if counts.shape != (len(tokens),) or not (1 <= counts.min() <= counts.max() <= tokens.shape[1]):
        raise MmcError(
            f"lengths must be {len(tokens)} numbers from 1 to {tokens.shape[1]}, "
            f"not {counts.tolist()}"
        )
    return counts


def as_column(token: Any, executable: Executable) -> Any:
    """One token of each sequence as token ids [B, 1]."""
    tokens = token if stays(token, executable) else as_array(token)
    if tokens.ndim != 1:
        raise MmcError(f"takes one token for each sequence [B], not {list(tokens.shape)}")
    return tokens[:, None]
