"""Vectors of float32 in Numba's compiled functions, and the two kinds of these that we have.

Numba leaves it to LLVM to find what of a loop fits the processor's vectors, which fails where two arrays might overlap;
so vectors stand in the code itself, as values of a type of their own with +, -, *, / and the functions below. They are
read from and written to addresses (int64, a tensor's `data_ptr()`), with an index in numbers, not bytes: nothing checks
either, so whoever calls a kernel answers for dtype, layout and size.

A sum of a product is taken in one rounding where the processor can (`contract`); nothing is reordered, so that a
kernel gives the same bits whenever it is called with the same numbers on the same machine.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.core.imputils import lower_builtin
from numba.core.typing.templates import ConcreteTemplate, infer_global, signature
from numba.extending import intrinsic, models, register_model

LANES = 8
"""Numbers in a vector, as many as a register of AVX2 holds."""
FLAGS = ("contract", "nsz")
FLOAT = ir.FloatType()
FLOATS = ir.VectorType(FLOAT, LANES)
INTEGERS = ir.VectorType(ir.IntType(32), LANES)


class VectorType(types.Type):
    """Of `LANES` float32."""

    def __init__(self) -> None:
        super().__init__(name=f"vector of {LANES} float32")


vector = VectorType()


@register_model(VectorType)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, FLOATS)


def _define(symbol: Any, method: str) -> None:
    """An operator of two vectors, by the method of LLVM's builder."""

    @infer_global(symbol)
    class _Operator(ConcreteTemplate):
        cases = [signature(vector, vector, vector)]  # noqa: RUF012  # Numba's own way

    @lower_builtin(symbol, vector, vector)
    def _lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return getattr(builder, method)(*args, flags=FLAGS)


for _symbol, _method in (
    (operator.add, "fadd"),
    (operator.sub, "fsub"),
    (operator.mul, "fmul"),
    (operator.truediv, "fdiv"),
):
    _define(_symbol, _method)


def _place(builder: Any, address: Any, index: Any) -> Any:
    return builder.gep(builder.inttoptr(address, FLOAT.as_pointer()), [index])


@intrinsic
def load(typing: Any, address: Any, index: Any) -> Any:
    """The vector that begins at `index`."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.load(builder.bitcast(_place(builder, *args), FLOATS.as_pointer()), align=4)

    return vector(types.int64, types.int64), emit


@intrinsic
def store(typing: Any, address: Any, index: Any, value: Any) -> Any:
    """Writes a vector from `index` on."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        builder.store(args[2], builder.bitcast(_place(builder, *args[:2]), FLOATS.as_pointer()), align=4)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, vector), emit


def _mask(builder: Any, lanes: Any) -> Any:
    """True for the first so many lanes."""
    nothing = ir.Constant(INTEGERS, ir.Undefined)
    count = builder.trunc(lanes, ir.IntType(32))
    first = builder.insert_element(nothing, count, ir.Constant(ir.IntType(32), 0))
    counts = builder.shuffle_vector(first, nothing, ir.Constant(INTEGERS, [0] * LANES))
    return builder.icmp_signed("<", ir.Constant(INTEGERS, list(range(LANES))), counts)


@intrinsic
def load_part(typing: Any, address: Any, index: Any, lanes: Any) -> Any:
    """The first numbers of the vector that begins at `index`, as many as there are lanes; zeros behind them."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        place = builder.bitcast(_place(builder, *args[:2]), FLOATS.as_pointer())
        mask = _mask(builder, args[2])
        kind = ir.FunctionType(FLOATS, [place.type, ir.IntType(32), mask.type, FLOATS])
        function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.masked.load.v{LANES}f32.p0")
        return builder.call(function, [place, ir.Constant(ir.IntType(32), 4), mask, ir.Constant(FLOATS, [0.0] * LANES)])

    return vector(types.int64, types.int64, types.int64), emit


@intrinsic
def store_part(typing: Any, address: Any, index: Any, value: Any, lanes: Any) -> Any:
    """Writes the first numbers of a vector, as many as there are lanes, from `index` on."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        place = builder.bitcast(_place(builder, *args[:2]), FLOATS.as_pointer())
        mask = _mask(builder, args[3])
        kind = ir.FunctionType(ir.VoidType(), [FLOATS, place.type, ir.IntType(32), mask.type])
        function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.masked.store.v{LANES}f32.p0")
        builder.call(function, [args[2], place, ir.Constant(ir.IntType(32), 4), mask])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, vector, types.int64), emit


@intrinsic
def only(typing: Any, a: Any, lanes: Any) -> Any:
    """The first numbers of a vector, and zeros behind them."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.select(_mask(builder, args[1]), args[0], ir.Constant(FLOATS, [0.0] * LANES))

    return vector(vector, types.int64), emit


@intrinsic
def load_one(typing: Any, address: Any, index: Any) -> Any:
    """The number at `index`."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.load(_place(builder, *args), align=4)

    return types.float32(types.int64, types.int64), emit


@intrinsic
def store_one(typing: Any, address: Any, index: Any, value: Any) -> Any:
    """Writes a number at `index`."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        builder.store(args[2], _place(builder, *args[:2]), align=4)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.float32), emit


@intrinsic
def splat(typing: Any, value: Any) -> Any:
    """A vector of one number."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        nothing = ir.Constant(FLOATS, ir.Undefined)
        first = builder.insert_element(nothing, args[0], ir.Constant(ir.IntType(32), 0))
        return builder.shuffle_vector(first, nothing, ir.Constant(INTEGERS, [0] * LANES))

    return vector(types.float32), emit


def _function(name: str, operands: int) -> Callable[..., Any]:
    """LLVM's own function of so many vectors."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        kind = ir.FunctionType(FLOATS, [FLOATS] * operands)
        return builder.call(builder.module.declare_intrinsic(f"llvm.{name}.v{LANES}f32", fnty=kind), args)

    return emit


@intrinsic
def fma(typing: Any, a: Any, b: Any, c: Any) -> Any:
    """a * b + c, rounded once."""
    return vector(vector, vector, vector), _function("fma", 3)


@intrinsic
def magnitude(typing: Any, a: Any) -> Any:
    """Without the sign."""
    return vector(vector), _function("fabs", 1)


@intrinsic
def with_sign(typing: Any, a: Any, b: Any) -> Any:
    """The magnitude of a and the sign of b."""
    return vector(vector, vector), _function("copysign", 2)


@intrinsic
def to_whole(typing: Any, a: Any) -> Any:
    """The nearest whole numbers."""
    return vector(vector), _function("rint", 1)


@intrinsic
def at_least(typing: Any, a: Any, b: Any) -> Any:
    """The larger of both; a NaN in a stays."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.select(builder.fcmp_ordered("<", *args), args[1], args[0])

    return vector(vector, vector), emit


@intrinsic
def power_of_two(typing: Any, n: Any) -> Any:
    """2 ** n, for whole numbers from -126 to 127."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        exponent = builder.add(builder.fptosi(args[0], INTEGERS), ir.Constant(INTEGERS, [127] * LANES))
        return builder.bitcast(builder.shl(exponent, ir.Constant(INTEGERS, [23] * LANES)), FLOATS)

    return vector(vector), emit


@intrinsic
def total(typing: Any, a: Any) -> Any:
    """The sum of a vector's numbers, by halves."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        part, width = args[0], LANES
        while width > 1:
            width //= 2
            kind = ir.VectorType(ir.IntType(32), width)
            low, high = ([*range(width)], [*range(width, 2 * width)])
            halves = [builder.shuffle_vector(part, part, ir.Constant(kind, half)) for half in (low, high)]
            part = builder.fadd(*halves)
        return builder.extract_element(part, ir.Constant(ir.IntType(32), 0))

    return types.float32(vector), emit


inlined = njit(forceinline=True, error_model="numpy", fastmath=set(FLAGS))
"""A function that becomes part of the kernels that call it."""


def kernel(integers: int, floats: int = 0) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A compiled function of so many addresses and whole numbers, then floats; it lets other threads of Python run.

    It is compiled when its module is imported, and read from Numba's cache after that (`NUMBA_CACHE_DIR`).
    """
    kinds = ", ".join(["int64"] * integers + ["float32"] * floats)
    return njit(f"void({kinds})", nogil=True, cache=True, error_model="numpy", fastmath=set(FLAGS))
