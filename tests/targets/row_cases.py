"""Row kernels by case, and what must hold of them on every target that has such kernels.

Nothing here needs a compiler: `Run` stands for the kernels of a target.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

import numpy as np

import mmc.ir.ops.catalog  # pyright: ignore[reportUnusedImport]  # noqa: F401
from mmc.ir.evaluate import evaluate
from mmc.ir.graph import Graph, graph_of
from mmc.ir.op import Value
from mmc.ir.ops import (
    attention,
    linear,
    logic,
    norm,
    pointwise,
    recurrence,
    reduce,
    shape,
    source,
    ternary,
)
from mmc.ir.types import DType, TensorType, static_shape
from tests.inputs import B, T, given
from tests.random_graphs import leaves

Arrays: TypeAlias = Mapping[str, np.ndarray]
Run: TypeAlias = Callable[[str, Arrays], Mapping[str, np.ndarray]]
"""Runs the kernel of a case on the inputs by name; returns the outputs by name."""

F32, BF16, F16, I8, U8 = DType.F32, DType.BF16, DType.F16, DType.I8, DType.U8
I32, I64, BOOL = DType.I32, DType.I64, DType.BOOL
SIZES = ((1, 1), (2, 3), (3, 7))
ABSMAX = ternary.AbsMax


CASES: dict[str, Graph] = {}


def case(name: str, *outputs: Value) -> None:
    assert name not in CASES
    CASES[name] = graph_of(name, {f"y{i}": value for i, value in enumerate(outputs)})


def dequantized(name: str, n: int, *w: int) -> ternary.Dequantize:
    """An int32 product with its steps: rows and a weight scale."""
    acc, step = given(f"acc_{name}", B, T, n, dtype=I32), given(f"step_{name}", B, T, 1)
    return ternary.Dequantize(acc, step, given(f"step_w_{name}", *w))


# The kernels of a MatMul-free block.

for D in (1, 17, 64, 250, 320):
    x, gain = given("x", B, T, D), given("gain", D)
    r = norm.RmsStatistic(x, 1e-6)
    gains = [given(f"gain{i}", D) for i in range(3)]
    case(
        f"norm_and_3_quantisers_{D}",
        *(y for g in gains for y in ternary.ScaleQuantize(x, r, g, ABSMAX())),
    )
    y = dequantized("gate_up", 2 * D, 2 * D)
    glu = pointwise.Mul(pointwise.Silu(shape.Slice(y, -1, 0, D)), shape.Slice(y, -1, D, D))
    case(f"glu_{D}", *ternary.RmsNormQuantize(glu, gain, 1e-6, ABSMAX()))
    h = pointwise.Add(x, dequantized("down", D))
    r = norm.RmsStatistic(h, 1e-6)
    case(
        f"residual_{D}",
        h,
        *(y for g in gains for y in ternary.ScaleQuantize(h, r, g, ABSMAX(eps=1e-6))),
    )
    normed = norm.RmsNorm(x, gain, 1e-6)
    case(f"norm_of_norm_{D}", *ternary.RmsNormQuantize(normed, gains[0], 1e-5, ABSMAX()))
    case(
        f"factored_{D}",
        *(
            y
            for g in (None, *gains)
            for y in ternary.FactoredQuantize(x, norm.RmsStatistic(x, 1e-6), g, ABSMAX())
        ),
    )
    f = pointwise.Sigmoid(dequantized("f", D))
    c = pointwise.Silu(dequantized("c", D))
    keep = pointwise.Sub(source.scalar(1.0), f)
    h = recurrence.LinearRecurrence(f, pointwise.Mul(keep, c), given("h0", B, D))
    case(f"recurrence_{D}", h, pointwise.Mul(h, pointwise.Silu(dequantized("g", D))))
    case(f"recurrence_and_norm_{D}", h, *ternary.RmsNormQuantize(h, gain, 1e-6, ABSMAX()))
    table, tokens = given("table", 50, D, dtype=BF16), given("tokens", B, T, dtype=I64)
    embedded = pointwise.Cast(shape.Gather(table, tokens), F32)
    case(f"embedding_{D}", embedded, *ternary.RmsNormQuantize(embedded, gain, 1e-6, ABSMAX()))
    case(
        f"last_position_{D}",
        norm.RmsNorm(shape.TakePosition(x, given("index", B, dtype=I64)), gain, 1e-6),
    )
    case(f"softmax_{D}", reduce.Softmax(x))
    case(f"layer_norm_{D}", norm.LayerNorm(x, gain, gains[0], 1e-5))
    case(
        f"convolution_{D}",
        pointwise.Silu(recurrence.CausalConv(x, given("state", B, 3, D), given("w", D, 4), gain)),
    )
    case(
        f"reductions_{D}",
        *(
            kind(pointwise.Mul(x, gain))
            for kind in (reduce.Sum, reduce.Mean, reduce.Max, reduce.ArgMax)
        ),
    )
    case(
        f"log_of_arg_max_{D}", reduce.ArgMax(x, -1, False), pointwise.Exp(reduce.Max(x, -1, False))
    )
    case(f"linear_{D}", linear.Linear(pointwise.Relu(x), given("w", 9, D), given("bias", 9)))

# Long rows, which take more threads on a GPU.

for width in (2048, 2900):
    x, gain = given("x", B, T, width), given("gain", width)
    y = dequantized("gate_up", 2 * width, 2 * width)
    glu = pointwise.Mul(
        pointwise.Silu(shape.Slice(y, -1, 0, width)), shape.Slice(y, -1, width, width)
    )
    case(
        f"glu_{width}", *ternary.FactoredQuantize(glu, norm.RmsStatistic(glu, 1e-6), gain, ABSMAX())
    )
    case(f"softmax_{width}", reduce.Softmax(x))
    case(f"long_{width}", *(kind(x) for kind in (norm.MeanSquare, reduce.Max, reduce.ArgMax)))

# How activations are quantised.

x = given("x", B, T, 33)
for mode in pointwise.ROUNDINGS:
    case(
        f"quantize_{mode}",
        *ternary.Quantize(x, ABSMAX(rounding=mode, eps=0.5, range=128.0, low=-127)),
    )
    case(f"round_{mode}", pointwise.Round(given("halves", B, T, 33), mode))
case("quantize_tensor", *ternary.Quantize(x, ABSMAX(granularity="tensor")))
case("norm_quantize_tensor", *ternary.RmsNormQuantize(x, None, 1e-6, ABSMAX(granularity="tensor")))

# Element by element.

x, y = given("x", B, T, 33), given("y", B, T, 33)
n, m = given("n", B, T, 33, dtype=I32), given("positive", B, T, 33, dtype=I32)
p, q = given("p", B, T, 33, dtype=BOOL), given("q", T, 33, dtype=BOOL)
POSITIVE = (pointwise.Log, pointwise.Sqrt, pointwise.Rsqrt, pointwise.Reciprocal)
for kind in leaves(pointwise.Unary):
    on = given("positive", B, T, 33) if kind in POSITIVE else x
    if kind not in (pointwise.Cast, pointwise.Clamp):
        case(kind.mnemonic, kind(on))
    if kind in (
        pointwise.Neg,
        pointwise.Abs,
        pointwise.Sign,
        pointwise.Relu,
        pointwise.Square,
        logic.Not,
    ):
        case(f"{kind.mnemonic}_i32", kind(n))
case("gelu_tanh", pointwise.Gelu(x, "tanh"))
case(
    "clamp",
    pointwise.Clamp(x, -0.5, None),
    pointwise.Clamp(n, None, 100),
    pointwise.Clamp(x, -0.1, 0.2),
)
case("detach_of_not", pointwise.Detach(logic.Not(p)))
for kind in (*pointwise.Binary.__subclasses__(), *logic.Comparison.__subclasses__()):
    if kind in (logic.BitAnd, logic.BitOr):
        case(f"{kind.mnemonic}_bool", kind(p, q))
    elif kind is not logic.ShiftRight and kind is not logic.Comparison:
        base = given("positive", B, T, 33) if kind is pointwise.Pow else x
        others = y, given("v", 33), given("row", B, T, 1), given("one"), given("steps", 1, T, 33)
        case(kind.mnemonic, *(kind(base, other) for other in others))
    if kind not in (pointwise.Pow, logic.Comparison):
        case(
            f"{kind.mnemonic}_i32",
            kind(n, m if kind is not logic.ShiftRight else given("shift", 33, dtype=I32)),
        )
small = given("shift", 33, dtype=I32)
case("pow_i32", pointwise.Pow(given("small", B, T, 33, dtype=I32), pointwise.Clamp(small, 0, 4)))
case(
    "where",
    logic.Where(q, x, source.scalar(2.5)),
    logic.Where(p, n, m),
    logic.Equal(p, q),
)
for old in (F32, BF16, F16, I8, U8, I32, I64, BOOL):
    held = given("held", B, T, 33, dtype=old)
    case(
        f"cast_{old}", *(pointwise.Cast(held, new) for new in (F32, BF16, F16, I8, I32, I64, BOOL))
    )
for dtype in (BF16, F16):
    a, b = given("a", B, T, 33, dtype=dtype), given("b", 33, dtype=dtype)
    case(f"arithmetic_{dtype}", pointwise.Add(pointwise.Mul(a, b), a), norm.RmsNorm(a, b, 1e-5))

# Moving elements, other axes, dense products, sources.

x, cube = given("x", B, T, 40), given("cube", 3, B, T, 20)
case(
    "slice",
    *(
        shape.Slice(x, -1, 3, 9, 4),
        shape.Slice(cube, 0, 1, 2),
        shape.Slice(cube, 3, 16, 4),
        shape.Slice(x, 1, 0, 1),
    ),
)
case("concat_columns", shape.Concat((x, given("row", B, T, 1), given("z", B, T, 17)), -1))
case("concat_rows", shape.Concat((given("past", B, 5, 40), x, x), 1))
case("pad", shape.Pad(x, -1, 2, 3, 1.5), shape.Pad(x, 1, 2, 0), shape.Pad(x, 0, 0, 1, -1.0))
case("permute", shape.Permute(cube, (2, 0, 1, 3)), shape.Permute(cube, (3, 1, 0, 2)))
case(
    "expand",
    pointwise.Neg(x),
    shape.Expand(given("v", 40), (B, T, 40)),
    shape.Expand(given("row", B, 1, 1), (B, T, 19)),
)
case(
    "reshape",
    shape.Reshape(x, (B, T, 2, 20)),
    shape.Reshape(x, (B * T, 40)),
    shape.Reshape(cube, (B, T, 60)),
)
case("rows_of_rows", shape.Reshape(given("heads", B, T, 4, 16), (B, T, 64)))
case(
    "sources",
    pointwise.Neg(x),
    source.Constant(2.5, TensorType(F32, (B, T, 18))),
    source.Iota(B * T, 3),
)
tokens = given("tokens", B, T, dtype=I64)
case("gather_numbers", shape.Gather(given("list", 50), tokens))
case("take_number", shape.TakePosition(given("z", B, T), given("index", B, dtype=I64)))
kinds = (reduce.Sum, reduce.Mean, reduce.Max, reduce.ArgMax, reduce.Softmax)
case("axis_1", *(kind(x, 1) for kind in kinds), reduce.Sum(x, 1, False), reduce.ArgMax(x, 0, False))
case("sum_of_integers", reduce.Sum(n), reduce.Sum(tokens, -1, False), reduce.Max(n))
case("cum_sum", reduce.CumSum(x, 1), reduce.CumSum(x, -1), reduce.CumSum(tokens, 0))
case(
    "matmul",
    linear.Matmul(x, given("matrix", 40, 21)),
    linear.Matmul(x, shape.Permute(x, (0, 2, 1))),
)
case("linear_of_norm", linear.Linear(norm.RmsNorm(x, given("gain", 40), 1e-6), given("w", 50, 40)))
case(
    "recurrence_4d",
    recurrence.LinearRecurrence(cube, pointwise.Neg(cube), given("h0", 3, B, 20), 2),
)
case("first_axis_recurrence", recurrence.LinearRecurrence(cube, cube, given("h0", B, T, 20), 0))
case("window", recurrence.ConvWindow(x, given("state", B, 3, 40), given("lengths", B, dtype=I64)))
for width in (6, 32, 34):
    angles = given("cos", B, T, width // 2), given("sin", B, T, width // 2)
    case(f"rotary_{width}", attention.Rotary(given("x", B, T, 3, width), *angles))
scale = pointwise.Div(
    source.scalar(127.0), pointwise.Maximum(given("x", B, T, 1), source.scalar(1e-5))
)
case("scale", scale, pointwise.Reciprocal(scale))
for width in (3, 40, 256, 2816):
    case(f"statistic_{width}", norm.RmsStatistic(given("x", B, T, width), 1e-6))
case("short_window", recurrence.CausalConv(x, given("state", B, 0, 40), given("w", 40, 1)))
mask = logic.LessEqual(shape.Reshape(source.Iota(T), (1, T)), shape.Reshape(source.Iota(T), (T, 1)))
case(
    "causal_softmax",
    reduce.Softmax(logic.Where(mask, given("scores", B, T, T), source.scalar(-1e9))),
)


def arrays_for(name: str, b: int, t: int) -> dict[str, np.ndarray]:
    """Numbers fit for each input, told by its name and dtype."""
    random = np.random.default_rng([b, t, *name.encode()])

    def fill(op: source.Input) -> np.ndarray:
        type_ = op.type.bind({"B": b, "T": t})
        dims, held = static_shape(type_.shape), type_.dtype.numpy
        whole = {
            "tokens": (0, 50),
            "index": (0, t),
            "lengths": (0, t + 1),
            "shift": (0, 9),
            "small": (-9, 9),
        }
        low, high = whole.get(op.name, (1, 99) if op.name == "positive" else (-99, 99))
        if type_.dtype.is_float:
            if op.name == "halves":
                drawn = (random.integers(-9, 9, dims) / 2).astype(held)
                drawn.flat[:2] = np.nextafter(np.float32(0.5), np.float32(0)) * np.array([1, -1])
                return drawn
            spread = 0.01 if op.name.startswith("step") else 1.0
            drawn = random.standard_normal(dims) * spread
            return (np.abs(drawn) + 0.1 if op.name == "positive" else drawn).astype(held)
        if type_.dtype in (BOOL, U8):
            low, high = 0, 2
        wide = 40 if op.name.startswith("acc") else 1
        return (random.integers(low, high, dims) * wide).astype(held)

    return {op.name: fill(op) for op in CASES[name].inputs}


def check(name: str, made: Arrays, wanted: Arrays) -> None:
    for key, want in wanted.items():
        got = made[key].astype(np.float64)
        if want.dtype == np.int8 and "cast" not in name:
            off = np.abs(got - want)
            assert off.max() <= 1, key
            assert (off > 0).mean() <= 0.002, key
        elif want.dtype.itemsize == 2:
            np.testing.assert_allclose(
                got, want.astype(np.float64), rtol=0.008, atol=1e-6, err_msg=key
            )
        elif want.dtype == np.float32:
            largest = np.abs(want[np.isfinite(want)]).max(initial=0)
            if name.startswith("reductions"):  # the sum of random signs is small, its terms are not
                largest = 64.0
            np.testing.assert_allclose(
                got, want, rtol=1e-6, atol=1e-6 * float(largest), err_msg=key
            )
        else:
            np.testing.assert_array_equal(got, want.astype(np.float64), err_msg=key)


ROWS = "norm_and", "glu", "residual", "norm_of", "factored", "embedding", "softmax", "linear"
ROWWISE = [n for n in CASES if n.startswith(ROWS)]
INDEPENDENT = [n for n in ROWWISE if not n.endswith("_1")]
STEPWISE = [n for n in CASES if n.startswith("recurrence_") and "d" not in n[11:]]


def agrees_with_the_interpreter(run: Run, name: str) -> None:
    for b, t in SIZES:
        arrays = arrays_for(name, b, t)
        check(name, run(name, arrays), evaluate(CASES[name], arrays))


def a_row_does_not_depend_on_how_many_there_are(run: Run, name: str) -> None:
    body, arrays = CASES[name], arrays_for(name, 3, 100)
    together = run(name, arrays)
    per_row = {op.name for op in body.inputs if op.type.rank == 3 or op.name == "tokens"}
    for b, t in ((0, 0), (1, 57), (2, 99)):
        alone = run(
            name, {k: a[b : b + 1, t : t + 1] if k in per_row else a for k, a in arrays.items()}
        )
        for key, row in alone.items():
            assert row.tobytes() == together[key][b : b + 1, t : t + 1].tobytes(), key


def a_recurrence_can_be_taken_up_step_by_step(run: Run, name: str) -> None:
    arrays = arrays_for(name, 2, 90)
    together, state = run(name, arrays), arrays["h0"]
    for t in range(90):
        now = {k: a[:, t : t + 1] if a.ndim == 3 else a for k, a in arrays.items()} | {"h0": state}
        step = run(name, now)
        state = step["y0"][:, 0]
        for key, row in step.items():
            assert row.tobytes() == together[key][:, t : t + 1].tobytes(), (t, key)


def unary(run: Run, kind: str, x: np.ndarray) -> np.ndarray:
    flat = np.resize(x.astype(np.float32), (1, -(-x.size // 33), 33))
    return run(kind, {"x": flat})["y0"].reshape(-1)[: x.size]


def exp_is_within_2_ulp_and_has_the_right_limits(run: Run) -> None:
    x = np.linspace(-87.3, 88.7, 200_000, dtype=np.float32)
    exact = np.exp(x.astype(np.float64))
    ulp = np.spacing(exact.astype(np.float32)).astype(np.float64)
    assert (np.abs(unary(run, "exp", x) - exact) / ulp).max() <= 2
    made = unary(run, "exp", np.array([-np.inf, -200, 0, 89, 1e30, np.inf, np.nan]))
    np.testing.assert_array_equal(
        made, np.array([0, 0, 1, np.inf, np.inf, np.inf, np.nan], np.float32)
    )


def scales_are_rounded_once(run: Run) -> None:
    exponents = np.linspace(-20, 127.9, 200_001)
    x = np.append(np.exp2(exponents), (0, 1e-5, 3.4e38)).astype(np.float32)
    made = run("scale", {"x": x[None, :, None]})
    scale = np.float32(127) / np.maximum(x, np.float32(1e-5))
    np.testing.assert_array_equal(made["y0"].ravel(), scale)
    np.testing.assert_array_equal(made["y1"].ravel(), np.float32(1) / scale)


def statistics_are_rounded_as_their_parts_are(run: Run) -> None:
    """Of a row with one number in it there is one sum."""
    for width in (3, 40, 256, 2816):
        first = np.exp2(np.linspace(-12, 63.9, 999)).astype(np.float32)
        x = np.zeros((1, len(first), width), np.float32)
        x[0, :, 0] = first
        mean = first * first / np.float32(width)
        fused = (first.astype(np.float64) ** 2 / width + np.float32(1e-6)).astype(np.float32)
        found = run(f"statistic_{width}", {"x": x})["y0"].ravel()
        wanted = [np.float32(1) / np.sqrt(y) for y in (mean + np.float32(1e-6), fused)]
        for expected in wanted:
            np.testing.assert_allclose(found, expected, rtol=3e-7)
        assert ((found == wanted[0]) | (found == wanted[1])).mean() > 0.99


def gates_are_finite_wherever_their_input_is(run: Run) -> None:
    x = np.array([-3e38, -1e4, -89, -1e-30, 0, 1e-30, 89, 1e4, 3e38], np.float32)
    with np.errstate(over="ignore"):
        for kind, large in (("sigmoid", 1.0), ("tanh", 1.0), ("silu", np.inf)):
            made = unary(run, kind, x)
            assert np.isfinite(made[:-1]).all()
            assert made[-1] in (large, np.float32(3e38))
