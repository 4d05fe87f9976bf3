import pytest
import torch

pytest.importorskip("numba", reason="numba is not installed")

from modscale.kernels.products import product, turned


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# Every tile there is: of 3, 2 and 1 vectors of 16 or 8, and parts of one; rows that fill no tile.
@pytest.mark.parametrize(("rows", "columns"), [(16, 48), (8, 64), (9, 80), (3, 16), (1, 8), (29, 45), (13, 7), (2, 1)])
@pytest.mark.parametrize("depth", [1, 37])
def test_a_product_and_what_it_is_added_to_are_those_of_float64(rows, columns, depth):
    a, b = drawn(rows, depth), drawn(depth, columns, seed=1)
    exact = a.double() @ b.double()
    memory = torch.full((rows * columns + 64,), 7.0)
    out = memory[: rows * columns].view(rows, columns)
    for one in (a, a.t().contiguous().t()):  # by rows, and by columns
        for times, is_added in ((1, 0), (2, 1)):
            places = one.data_ptr(), *one.stride(), b.data_ptr(), columns, out.data_ptr(), columns
            product(*places, rows, columns, depth, is_added)
            assert torch.allclose(out.double(), times * exact, rtol=1e-5, atol=1e-5)
    assert memory[rows * columns :].eq(7).all()  # nothing is written beyond it


def test_part_of_a_larger_matrix_is_multiplied_where_it_is():
    a, b, out = drawn(20, 50), drawn(50, 60, seed=1), torch.zeros(20, 60)
    one, other, place = a[2:13, 5:35], b[10:40, 7:38], out[4:15, 9:40]
    product(one.data_ptr(), 50, 1, other.data_ptr(), 60, place.data_ptr(), 60, 11, 31, 30, 0)
    expected = torch.zeros(20, 60)
    expected[4:15, 9:40] = one @ other
    assert torch.allclose(out, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(8, 16), (24, 8), (11, 19), (3, 5), (16, 3)])
def test_a_matrix_is_turned(shape):
    x, out = drawn(*shape), torch.empty(shape[::-1])
    turned(x.data_ptr(), shape[1], out.data_ptr(), *shape)
    assert torch.equal(out, x.t())
