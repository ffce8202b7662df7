"""The table of ONNX operators: name to translation; other domains than ONNX's own come before it.

Control flow (If, Loop, Scan) is in `onnx_control`.
"""

from __future__ import annotations

from mmc.frontends import (
    onnx_linear,
    onnx_own,
    onnx_pointwise,
    onnx_quantised,
    onnx_reduce,
    onnx_shape,
    onnx_sizes,
)
from mmc.frontends.onnx_call import Translate

TABLE: dict[str, Translate] = {
    **onnx_pointwise.TABLE,
    **onnx_reduce.TABLE,
    **onnx_shape.TABLE,
    **onnx_sizes.TABLE,
    **onnx_linear.TABLE,
    **onnx_quantised.TABLE,
    **onnx_own.TABLE,
}
