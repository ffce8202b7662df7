# pyright: basic
# Every value here is a TIR expression, which TVM does not type.
"""The kernel of a dense product: in whole numbers where the processor has VNNI and w is narrow."""

from __future__ import annotations

from typing import Any

from mmc.ir.graph import Graph
from mmc.targets.cpu import dense_bytes, dense_int4
from mmc.targets.cpu.dense_fixed import FORMS, FixedPoint, Form, for_parts
from mmc.targets.cpu.features import Isa
from mmc.targets.tvm import dense
from mmc.targets.tvm.host import Kernel


def emit(body: Graph, name: str, isa: Isa) -> Kernel:
    """The kernel of a flattened body, as `dense.emit` has it."""
    op = dense.lone_linear(body)
    assert op is not None
    forms = FORMS.get(isa, ())
    if forms and dense_bytes.matrix_of_bytes(op):
        return dense.make(body, name, lambda product: _bytes(product, forms[0]))
    (k,) = op.x.type.shape[-1:]
    fitting = [form for form in forms if isinstance(k, int) and k % (2 * form.lanes) == 0]
    if fitting and dense_int4.matrix_of_int4(op):
        return dense.make(body, name, lambda product: _int4(product, fitting[0]))
    return dense.emit(body, name)


def _bytes(product: dense.Product, form: Form) -> None:
    w, zero = dense_bytes.matrix_of_bytes(product.op) or (product.op.w, 0)

    def work(first: Any, count: Any) -> None:
        fixed = FixedPoint(product.places[product.op.x], product.k)
        part = dense_bytes.Bytes(form, product, fixed, first, count, product.places[w], zero)
        part.write(dense_bytes.tile_of(form), alone=1)

    for_parts(product.rows, work)


def _int4(product: dense.Product, form: Form) -> None:
    parts = dense_int4.matrix_of_int4(product.op) or ()
    codes, steps = (product.places[part] for part in parts)

    def work(first: Any, count: Any) -> None:
        fixed = FixedPoint(product.places[product.op.x], product.k, dense_int4.order_of(form))
        part = dense_int4.Int4(form, product, fixed, first, count, codes, steps)
        part.write(dense_int4.tile_of(form), dense_int4.ALONE)

    for_parts(product.rows, work)
