# pyright: basic
# NVIDIA's bindings are not typed.
"""CUDA source to device code with NVRTC, which needs neither a GPU nor a CUDA toolkit.

Device code is kept by the digest of source, options and compiler, so that a build that changes
nothing compiles nothing.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import tempfile
from pathlib import Path
from typing import Any

from mmc.errors import MmcError

OPTIONS = ("--std=c++17", "--fmad=true", "--extra-device-vectorization")
"""Division, square roots and small numbers stay exact: fast math is off."""

_STANDARD = Path(__file__).with_name("standard.cuh").read_bytes()
_HEADERS = dict.fromkeys(
    (b"cuda/std/cstdint", b"cuda/std/type_traits", b"math_constants.h"), _STANDARD
)

CACHE = "MMC_CACHE"
"""Environment variable: the folder of the cache; ~/.cache/mmc by default, none where empty."""


def compile_source(text: str, architecture: str) -> bytes:
    """The cubin of a source for an architecture such as sm_90a.

    The same source gives the same bytes, which PTX from NVRTC 13.0 does not.  Raises MmcError where
    the compiler refuses.
    """
    options = (*OPTIONS, f"--gpu-architecture={architecture}")
    nvrtc = _nvrtc()
    version = _version(nvrtc)
    digest = hashlib.sha256(
        "\0".join((version, *options, _STANDARD.decode(), text)).encode()
    ).hexdigest()
    kept = _kept(digest)
    if kept is not None and kept.is_file():
        return kept.read_bytes()
    code = _compile(nvrtc, text, options)
    if kept is not None:
        _keep(kept, code)
    return code


def known_architectures() -> list[int]:
    """What the compiler makes code for, such as 90; MmcError where there is no compiler."""
    nvrtc = _nvrtc()
    _version(nvrtc)
    (numbers,) = _checked(nvrtc, nvrtc.nvrtcGetSupportedArchs())
    return list(numbers)


def _nvrtc() -> Any:
    return importlib.import_module("cuda.bindings.nvrtc")


def _version(nvrtc: Any) -> str:
    try:
        return "{}.{}".format(*_checked(nvrtc, nvrtc.nvrtcVersion()))
    except RuntimeError as error:  # the bindings find no library
        raise MmcError(
            "the package nvidia-cuda-nvrtc is not installed: pip install mmc-compiler[cuda]",
            "target cuda",
        ) from error


def _compile(nvrtc: Any, text: str, options: tuple[str, ...]) -> bytes:
    headers = list(_HEADERS.values()), list(_HEADERS)
    created = nvrtc.nvrtcCreateProgram(text.encode(), b"mmc.cu", len(_HEADERS), *headers)
    (program,) = _checked(nvrtc, created)
    try:
        (status,) = nvrtc.nvrtcCompileProgram(
            program, len(options), [option.encode() for option in options]
        )
        if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
            raise MmcError(f"the CUDA compiler refused:\n{_log(nvrtc, program)}", options[-1])
        (size,) = _checked(nvrtc, nvrtc.nvrtcGetCUBINSize(program))
        code = bytearray(size)
        _checked(nvrtc, nvrtc.nvrtcGetCUBIN(program, code))
        return bytes(code)
    finally:
        nvrtc.nvrtcDestroyProgram(program)


def _log(nvrtc: Any, program: Any) -> str:
    (size,) = _checked(nvrtc, nvrtc.nvrtcGetProgramLogSize(program))
    log = bytearray(size)
    nvrtc.nvrtcGetProgramLog(program, log)
    lines = log.decode(errors="replace").splitlines()
    return "\n".join([line for line in lines if "error" in line] or lines[:20])


def _checked(nvrtc: Any, answer: tuple[Any, ...]) -> tuple[Any, ...]:
    status, *values = answer
    if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
        raise MmcError(f"NVRTC: {nvrtc.nvrtcGetErrorString(status)[1].decode()}")
    return tuple(values)


def _kept(digest: str) -> Path | None:
    folder = os.environ.get(CACHE)
    if folder == "":
        return None
    return Path(folder or Path.home() / ".cache" / "mmc", "cuda", digest)


def _keep(kept: Path, code: bytes) -> None:
    """Write the file whole or not at all; a folder that cannot be written is no error."""
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=kept.parent) as folder:
            file = Path(folder, kept.name)
            file.write_bytes(code)
            file.replace(kept)
    except OSError:
        return
