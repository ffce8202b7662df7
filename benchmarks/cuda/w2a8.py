"""microsoft/BitNet's kernel of 8 bit activations and 2 bit weights, for the shapes of a run.

Its header is compiled with nvcc as it is; its own table of shapes lacks ours, so the same template
is called with the arguments that its table has for others: 16 rows of weights a block.
"""

from __future__ import annotations

import ctypes
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

ROWS = 16


class W2a8:
    """y bf16 [1, n] of int8 x [1, k] and packed weights."""

    def __init__(self, header: Path, matrices: Iterable[tuple[int, int]]) -> None:
        functions = "\n".join(
            f'extern "C" void w2a8_{n}_{k}(int8_t* x, int8_t* w, __nv_bfloat16* y, '
            f"__nv_bfloat16* s, __nv_bfloat16* ws, cudaStream_t stream) {{ "
            f"ladder_int8xint2_kernel<1, {n}, {k}, 1, 8, {ROWS}>"
            f"<<<{n // ROWS}, dim3(8, {ROWS}), 0, stream>>>(x, w, y, s, ws); }}"
            for n, k in sorted(set(matrices))
        )
        major, minor = torch.cuda.get_device_capability()
        folder = tempfile.mkdtemp()
        source, library = Path(folder, "w2a8.cu"), Path(folder, "w2a8.so")
        source.write_text(f'#include "bitnet_kernels.h"\n{functions}\n')
        options = ["-O3", "-std=c++17", f"-arch=sm_{major}{minor}", "--shared", "-Xcompiler=-fPIC"]
        command = ["nvcc", *options, f"-I{header.resolve()}", "-o", str(library), str(source)]
        subprocess.run(command, check=True, capture_output=True)
        self._library = ctypes.CDLL(str(library))
        self._scale = torch.ones(1, dtype=torch.bfloat16, device="cuda")

    def __call__(self, x: Tensor, w: Tensor, y: Tensor) -> None:
        """Put one product on torch's current stream; w int8 [n, k / 4]."""
        n, columns = w.shape
        given = (x, w, y, self._scale, self._scale)
        stream = torch.cuda.current_stream().cuda_stream
        call = self._library[f"w2a8_{n}_{4 * columns}"]
        call(*(ctypes.c_void_p(t.data_ptr()) for t in given), ctypes.c_void_p(stream))
