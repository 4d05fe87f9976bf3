"""The product of two matrices, for the shapes that a network's layers have.

torch's (MKL's) is made for large ones: it packs both and comes to 80 to 100 GFLOP a second here, of the 116 that a core
can do (benchmarks/network_forms.md). Our matrices lie in the core's cache already. So nothing is packed: a tile of the
result, as large as the registers hold, gathers its sums over the whole depth and is written once.

Shapes: [M, K] by [K, N] gives [M, N].
"""

from __future__ import annotations

from modscale.kernels.vectors import (
    FLOAT_BYTES,
    LANES,
    MOST_LANES,
    TILE_ROWS,
    kernel,
    load_one,
    product_tile,
    store_one,
    turn_square,
)

_three, _two, _one = (product_tile(vectors, MOST_LANES) for vectors in (3, 2, 1))
_part = product_tile(1, LANES, is_part=True)


@kernel(11)
def product(
    a: int,
    a_row: int,
    a_step: int,
    b: int,
    b_step: int,
    out: int,
    out_row: int,
    rows: int,
    columns: int,
    depth: int,
    is_added: int,
) -> None:
    """out [M, N] = a [M, K] @ b [K, N], added to what is there with is_added.

    From one row of `a` to the next there are `a_row` numbers, along a row `a_step`; along those of `b` and `out` 1.
    """
    column = 0
    while column < columns:
        left = columns - column
        vectors = 2 if left // MOST_LANES == 4 else min(left // MOST_LANES, 3)
        at_b, at_out = b + FLOAT_BYTES * column, out + FLOAT_BYTES * column
        for row in range(0, rows, TILE_ROWS):
            at_a, at = a + FLOAT_BYTES * row * a_row, at_out + FLOAT_BYTES * row * out_row
            if vectors == 3:
                _three(at_a, a_row, a_step, at_b, b_step, at, out_row, rows - row, left, depth, is_added)
            elif vectors == 2:
                _two(at_a, a_row, a_step, at_b, b_step, at, out_row, rows - row, left, depth, is_added)
            elif vectors == 1:
                _one(at_a, a_row, a_step, at_b, b_step, at, out_row, rows - row, left, depth, is_added)
            else:
                _part(at_a, a_row, a_step, at_b, b_step, at, out_row, rows - row, left, depth, is_added)
        column += vectors * MOST_LANES if vectors else LANES


@kernel(5)
def turned(x: int, x_row: int, out: int, rows: int, columns: int) -> None:
    """out [N, M] = x [M, N] turned; from one row of x to the next there are `x_row` numbers."""
    whole_rows, whole_columns = rows // LANES * LANES, columns // LANES * LANES
    for i in range(0, whole_rows, LANES):
        for j in range(0, whole_columns, LANES):
            turn_square(x + FLOAT_BYTES * (i * x_row + j), x_row, out + FLOAT_BYTES * (j * rows + i), rows)
    for i in range(rows):
        for j in range(whole_columns if i < whole_rows else 0, columns):
            store_one(out, j * rows + i, load_one(x, i * x_row + j))
