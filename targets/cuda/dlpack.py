"""Arrays of the device for other libraries (DLPack, version 0: a capsule named "dltensor")."""

from __future__ import annotations

import contextlib
import ctypes
from typing import Any

import numpy as np

from mmc.errors import MmcError
from mmc.ir.types import DType
from mmc.targets.cuda.driver import device
from mmc.targets.tvm.geometry import Place

DEVICE = (2, 0)
"""kDLCUDA, and the number of the GPU."""

_KINDS = {"i": 0, "u": 1, "f": 2, "b": 6}
_BFLOAT = 4


class _Tensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p), ("device_type", ctypes.c_int32), ("device", ctypes.c_int32),
        ("ndim", ctypes.c_int32), ("code", ctypes.c_uint8), ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16), ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)), ("offset", ctypes.c_uint64),
    )  # fmt: skip


class _Managed(ctypes.Structure):
    _fields_ = (("tensor", _Tensor), ("context", ctypes.c_void_p), ("deleter", ctypes.c_void_p))


_lent: dict[int, tuple[object, ...]] = {}
"""What readers have not given back yet: the array and the records, by the record's address."""


@ctypes.CFUNCTYPE(None, ctypes.c_void_p)
def _give_back(record: int) -> None:
    """A reader is done: what is put on our stream from now on waits for what it has begun."""
    _, reader, *_ = _lent.pop(record)
    if isinstance(reader, int):
        with contextlib.suppress(MmcError):  # its stream may be gone, and with it its work
            device().after(reader)


@ctypes.CFUNCTYPE(None, ctypes.c_void_p)
def _unused(capsule: int) -> None:
    """A capsule that nobody took the record out of is dropped."""
    if _api.PyCapsule_IsValid(capsule, b"dltensor"):
        _give_back(_api.PyCapsule_GetPointer(capsule, b"dltensor"))


_api = ctypes.PyDLL(None)
_api.PyCapsule_New.restype = ctypes.py_object
_api.PyCapsule_New.argtypes = (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
_api.PyCapsule_IsValid.argtypes = (ctypes.c_void_p, ctypes.c_char_p)
_api.PyCapsule_GetPointer.restype = ctypes.c_void_p
_api.PyCapsule_GetPointer.argtypes = (ctypes.c_void_p, ctypes.c_char_p)


def exported(owner: object, address: int, place: Place, reader: int | None) -> Any:
    """A capsule of memory that `owner` keeps; reader: the stream that it is read on."""
    dims = len(place.shape)
    shape = (ctypes.c_int64 * dims)(*place.shape)
    strides = (ctypes.c_int64 * dims)(*(s // place.dtype.itemsize for s in place.strides))
    code, bits = _kind(place.dtype), 8 * place.dtype.itemsize
    tensor = _Tensor(address, *DEVICE, dims, code, bits, 1, shape, strides, 0)
    record = _Managed(tensor, None, ctypes.cast(_give_back, ctypes.c_void_p))
    where = ctypes.addressof(record)
    _lent[where] = owner, reader, record, shape, strides
    return _api.PyCapsule_New(where, b"dltensor", ctypes.cast(_unused, ctypes.c_void_p))


def _kind(dtype: np.dtype[Any]) -> int:
    return _BFLOAT if dtype == DType.BF16.numpy else _KINDS[dtype.kind]
