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
from llvmlite.binding import get_host_cpu_features
from numba import njit, types
from numba.core import cgutils
from numba.core.imputils import lower_builtin
from numba.core.typing.templates import ConcreteTemplate, infer_global, signature
from numba.extending import intrinsic, models, register_model

LANES = 8
"""Numbers in a vector, as many as a register of AVX2 holds."""
FLOAT_BYTES = 4
FLAGS = ("contract", "nsz")
FLOAT = ir.FloatType()
FLOATS = ir.VectorType(FLOAT, LANES)
INTEGERS = ir.VectorType(ir.IntType(32), LANES)
HAS_AVX512 = get_host_cpu_features().get("avx512f", False)
"""Whether registers hold 16 numbers, and there are 32 of these rather than 16."""
MOST_LANES = 16 if HAS_AVX512 else LANES
TILE_ROWS = 8 if HAS_AVX512 else 4
"""Of the tile in which a product is computed: with 3 vectors in each it leaves registers for what is multiplied."""


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


def _load_masked(builder: Any, place: Any, there: Any) -> Any:
    """The numbers at `place` where the mask is true, zeros elsewhere."""
    kind = ir.FunctionType(FLOATS, [place.type, ir.IntType(32), there.type, FLOATS])
    function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.masked.load.v{LANES}f32.p0")
    return builder.call(function, [place, ir.Constant(ir.IntType(32), 4), there, ir.Constant(FLOATS, [0.0] * LANES)])


def _store_masked(builder: Any, value: Any, place: Any, there: Any) -> None:
    """Writes the numbers where the mask is true."""
    kind = ir.FunctionType(ir.VoidType(), [FLOATS, place.type, ir.IntType(32), there.type])
    function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.masked.store.v{LANES}f32.p0")
    builder.call(function, [value, place, ir.Constant(ir.IntType(32), 4), there])


@intrinsic
def load_part(typing: Any, address: Any, index: Any, lanes: Any) -> Any:
    """The first numbers of the vector that begins at `index`, as many as there are lanes; zeros behind them."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        place = builder.bitcast(_place(builder, *args[:2]), FLOATS.as_pointer())
        return _load_masked(builder, place, _mask(builder, args[2]))

    return vector(types.int64, types.int64, types.int64), emit


@intrinsic
def store_part(typing: Any, address: Any, index: Any, value: Any, lanes: Any) -> Any:
    """Writes the first numbers of a vector, as many as there are lanes, from `index` on."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        place = builder.bitcast(_place(builder, *args[:2]), FLOATS.as_pointer())
        _store_masked(builder, args[2], place, _mask(builder, args[3]))
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


def _everywhere(builder: Any, number: Any, lanes: int = LANES) -> Any:
    """A vector of one number."""
    nothing = ir.Constant(ir.VectorType(FLOAT, lanes), ir.Undefined)
    first = builder.insert_element(nothing, number, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(first, nothing, ir.Constant(ir.VectorType(ir.IntType(32), lanes), [0] * lanes))


@intrinsic
def splat(typing: Any, value: Any) -> Any:
    """A vector of one number."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return _everywhere(builder, args[0])

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


def product_tile(vectors: int, lanes: int, is_part: bool = False) -> Callable[..., None]:
    """Computes `TILE_ROWS` x vectors * lanes numbers of a product; of these a part, where there are no more."""
    kind = ir.VectorType(FLOAT, lanes)
    whole, zeros = ir.IntType(64), ir.Constant(kind, [0.0] * lanes)
    tile = [(row, vector) for row in range(TILE_ROWS) for vector in range(vectors)]

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        a, a_row, a_step, b, b_step, out, out_row, rows, columns, depth, is_added = args
        first_a, first_b, first_out = (builder.inttoptr(place, FLOAT.as_pointer()) for place in (a, b, out))
        there = _mask(builder, columns) if is_part else None

        def number(n: int) -> Any:
            return ir.Constant(whole, n)

        def read(place: Any) -> Any:
            at = builder.bitcast(place, kind.as_pointer())
            return _load_masked(builder, at, there) if is_part else builder.load(at, align=FLOAT_BYTES)

        def write(value: Any, place: Any) -> None:
            at = builder.bitcast(place, kind.as_pointer())
            if is_part:
                _store_masked(builder, value, at, there)
            else:
                builder.store(value, at, align=FLOAT_BYTES)

        fma = builder.module.declare_intrinsic(f"llvm.fma.v{lanes}f32", fnty=ir.FunctionType(kind, [kind] * 3))
        sums = {place: cgutils.alloca_once_value(builder, zeros) for place in tile}
        last, starts = builder.sub(rows, number(1)), []
        for row in range(TILE_ROWS):  # of a row that is not there, the last one again
            nearest = builder.select(builder.icmp_signed("<", number(row), rows), number(row), last)
            starts.append(builder.gep(first_a, [builder.mul(nearest, a_row)]))
        with cgutils.for_range(builder, depth) as loop:
            row_of_b = builder.gep(first_b, [builder.mul(loop.index, b_step)])
            step = builder.mul(loop.index, a_step)
            values = [read(builder.gep(row_of_b, [number(vector * lanes)])) for vector in range(vectors)]
            for row in range(TILE_ROWS):
                one = builder.load(builder.gep(starts[row], [step]), align=FLOAT_BYTES)
                everywhere = _everywhere(builder, one, lanes)
                for vector in range(vectors):
                    total = sums[row, vector]
                    builder.store(builder.call(fma, [everywhere, values[vector], builder.load(total)]), total)
        adds = builder.icmp_signed("!=", is_added, number(0))
        for row in range(TILE_ROWS):
            with builder.if_then(builder.icmp_signed("<", number(row), rows)):
                start = builder.gep(first_out, [builder.mul(out_row, number(row))])
                for vector in range(vectors):
                    total, place = sums[row, vector], builder.gep(start, [number(vector * lanes)])
                    with builder.if_then(adds):
                        builder.store(builder.fadd(builder.load(total), read(place)), total)
                    write(builder.load(total), place)
        return context.get_dummy_value()

    def typed(typing: Any, a: Any, a_row: Any, a_step: Any, b: Any, b_step: Any, out: Any, out_row: Any, rows: Any,
              columns: Any, depth: Any, is_added: Any) -> Any:  # fmt: skip
        return types.void(*[types.int64] * 11), emit

    found: Callable[..., None] = intrinsic(typed)
    return found


@intrinsic
def turn_square(typing: Any, x: Any, x_row: Any, out: Any, out_row: Any) -> Any:
    """The columns of `LANES` x `LANES` numbers become rows."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        def places(first: Any, row: Any) -> list[Any]:
            start = builder.inttoptr(first, FLOAT.as_pointer())
            steps = [builder.mul(row, ir.Constant(ir.IntType(64), i)) for i in range(LANES)]
            return [builder.bitcast(builder.gep(start, [step]), FLOATS.as_pointer()) for step in steps]

        rows = [builder.load(place, align=FLOAT_BYTES) for place in places(*args[:2])]
        numbers = ir.VectorType(ir.IntType(32), LANES)
        for _ in range(LANES.bit_length() - 1):  # as often as 2 goes into LANES: each row is mixed with one half on
            halves = [(rows[i], rows[i + LANES // 2]) for i in range(LANES // 2)]
            low = [k // 2 + k % 2 * LANES for k in range(LANES)]
            picks = [ir.Constant(numbers, low), ir.Constant(numbers, [k + LANES // 2 for k in low])]
            rows = [builder.shuffle_vector(*half, pick) for half in halves for pick in picks]
        for row, place in zip(rows, places(*args[2:]), strict=True):
            builder.store(row, place, align=FLOAT_BYTES)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 4), emit


inlined = njit(forceinline=True, error_model="numpy", fastmath=set(FLAGS))
"""A function that becomes part of the kernels that call it."""


def kernel(integers: int, floats: int = 0) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A compiled function of so many addresses and whole numbers, then floats; it lets other threads of Python run.

    It is compiled when its module is imported, and read from Numba's cache after that (`NUMBA_CACHE_DIR`).
    """
    kinds = ", ".join(["int64"] * integers + ["float32"] * floats)
    return njit(f"void({kinds})", nogil=True, cache=True, error_model="numpy", fastmath=set(FLAGS))
