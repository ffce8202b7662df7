"""Row kernels against the interpreter, and against themselves row by row and thread by thread."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from mmc.errors import MmcError
from mmc.ir.evaluate import bind_inputs
from mmc.ir.graph import graph_of
from mmc.ir.op import Op, Origin, origin
from mmc.ir.ops import norm, pointwise, reduce, shape
from mmc.ir.types import TensorType, static_shape
from mmc.targets.tvm import loader, rows
from mmc.targets.tvm.memory import row_stride
from tests.inputs import B, T, given
from tests.random_graphs import leaves
from tests.targets import row_cases
from tests.targets.kernel_programs import program_of
from tests.targets.row_cases import CASES, INDEPENDENT, ROWWISE, STEPWISE, Arrays


def stride(type_: TensorType) -> int:
    return row_stride(type_.dtype, type_.shape[-1]) if type_.shape else 1


def laid_out(array: np.ndarray, type_: TensorType) -> np.ndarray:
    """The bytes of an array as kernels want them; past the end they are not 0."""
    rows_, columns = _matrix(type_)
    held = np.zeros((rows_, stride(type_)), type_.dtype.numpy)
    held[:, :columns] = array.reshape(rows_, columns)
    buffer = loader.aligned_zeros(held.nbytes + 128)
    buffer[:] = 0xA5
    buffer[: held.nbytes] = held.reshape(-1).view(np.uint8)
    return buffer


def read(buffer: np.ndarray, type_: TensorType) -> np.ndarray:
    """The array behind the bytes; what is beside it must be as it was, and the padding 0."""
    rows_, columns = _matrix(type_)
    size = rows_ * stride(type_) * type_.dtype.numpy.itemsize
    assert (buffer[size:] == 0xA5).all(), "written past the end"
    held = buffer[:size].view(type_.dtype.numpy).reshape(rows_, stride(type_))
    assert not held[:, columns:].any(), "the padding is not 0"
    return held[:, :columns].reshape(static_shape(type_.shape)).copy()


def _matrix(type_: TensorType) -> tuple[int, int]:
    dims = static_shape(type_.shape)
    return int(np.prod(dims[:-1])), dims[-1] if dims else 1


@cache
def program() -> loader.Program:
    """Every case in one object file."""
    return program_of({name: rows.emit(body, f"kernel_{name}") for name, body in CASES.items()})


def run(name: str, arrays: Arrays) -> dict[str, np.ndarray]:
    body = CASES[name]
    sizes = bind_inputs(body, arrays)
    inputs = [laid_out(arrays[op.name], op.type.bind(sizes)) for op in body.inputs]
    types = [value.type.bind(sizes) for value in body.values]
    outputs = [laid_out(np.ones(static_shape(t.shape), t.dtype.numpy), t) for t in types]
    for output in outputs:
        output[:] = 0xA5
    tensors = map(loader.as_tensor, (*inputs, *outputs))
    program()[name](*tensors, *(sizes[s] for s in rows.symbols_of(body)))
    made = zip(body.outputs, outputs, types, strict=True)
    return {key: read(output, type_) for (key, _), output, type_ in made}


@pytest.mark.parametrize("name", CASES)
def test_agrees_with_the_interpreter(name: str) -> None:
    row_cases.agrees_with_the_interpreter(run, name)


@pytest.mark.parametrize("name", INDEPENDENT)
def test_a_row_does_not_depend_on_how_many_there_are(name: str) -> None:
    row_cases.a_row_does_not_depend_on_how_many_there_are(run, name)


@pytest.mark.parametrize("name", STEPWISE)
def test_a_recurrence_can_be_taken_up_step_by_step(name: str) -> None:
    row_cases.a_recurrence_can_be_taken_up_step_by_step(run, name)


@pytest.mark.parametrize(
    "name", [*ROWWISE, "recurrence_250", "convolution_250", "matmul", "cum_sum"]
)
def test_threads_do_not_change_a_bit(name: str) -> None:
    arrays = row_cases.arrays_for(name, 3, 150)
    made: list[dict[str, np.ndarray]] = []
    for threads in (1, min(2, loader.os.cpu_count() or 1)):
        loader.set_threads(threads)
        made.append(run(name, arrays))
    for key, one in made[0].items():
        assert one.tobytes() == made[1][key].tobytes(), key


def test_exp_is_within_2_ulp_and_has_the_right_limits() -> None:
    row_cases.exp_is_within_2_ulp_and_has_the_right_limits(run)


def test_scales_are_rounded_once() -> None:
    row_cases.scales_are_rounded_once(run)


def test_statistics_are_rounded_as_their_parts_are() -> None:
    row_cases.statistics_are_rounded_as_their_parts_are(run)


def test_gates_are_finite_wherever_their_input_is() -> None:
    row_cases.gates_are_finite_wherever_their_input_is(run)


def test_an_operation_without_a_kernel_is_refused_with_its_place() -> None:
    with origin(Origin("layers.3.cell", "model.py:12")):
        middle = reduce.Median(given("x", B, T, 8))
    body = graph_of("body", {"y": pointwise.Neg(middle)})
    assert rows.unsupported(body) == [middle]
    with pytest.raises(
        MmcError, match=r"no CPU kernel for `median` at layers\.3\.cell, model\.py:12"
    ):
        rows.emit(body, "kernel")


def test_a_norm_read_from_another_row_is_refused() -> None:
    normed = norm.RmsNorm(given("x", B, T, 8), None, 1e-6)
    body = graph_of("body", {"y": shape.Permute(normed, (1, 0, 2))})
    assert rows.unsupported(body)


def test_everything_in_the_cases_is_supported() -> None:
    assert not [name for name, body in CASES.items() if rows.unsupported(body)]
    kinds: set[type[Op]] = {type(op) for body in CASES.values() for op in body.ops}
    assert {*leaves(pointwise.Unary), *leaves(pointwise.Binary)} <= kinds
