import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rheos.core.errors import OptionError, UnknownOptionError
from rheos.sample import DPMSolver, UniPC, solve
from rheos.sample.multistep import vandermonde
from rheos.sample.unipc import weights
from strategies import mixture, randn

nodes = st.lists(st.floats(-5, -0.1), min_size=1, max_size=2, unique=True).filter(
    lambda r: len(r) < 2 or abs(r[0] - r[1]) > 0.1
)


@given(r=nodes, h=st.floats(0.05, 3))
def test_weights_solve_their_system(r, h):
    r, g = [*r, 1.0], -h
    if len(r) == 1:
        return
    found = weights(r, g, "bh2")
    phi = math.expm1(g) / g
    for k in range(1, len(r) + 1):
        rest = phi - 1 / math.factorial(k)
        assert sum(rho * v ** (k - 1) for rho, v in zip(found, r, strict=True)) == pytest.approx(
            math.factorial(k) * rest, rel=1e-6, abs=1e-9
        )
        phi = rest / g


@given(r=nodes, sides=st.lists(st.floats(-2, 2), min_size=3, max_size=3))
def test_numbers_and_rows_solve_one_system(r, sides):
    r = [*r, 1.0]
    b = sides[: len(r)]
    matrix = torch.tensor([[v**k for v in r] for k in range(len(r))], dtype=torch.float64)
    expected = torch.linalg.solve(matrix, torch.tensor(b, dtype=torch.float64))
    torch.testing.assert_close(torch.tensor(vandermonde(r, b), dtype=torch.float64), expected, rtol=1e-8, atol=1e-8)
    rows = vandermonde([torch.full((2,), v).double() for v in r], [torch.full((2,), v).double() for v in b])
    torch.testing.assert_close(torch.stack(rows)[:, 0].float(), expected.float(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("path", ["linear", "gvp", "vp"])
def test_the_predictor_of_order_two_is_dpm_solver_2m(path):
    field, x = mixture(path), randn(5, 2)
    for grid in ((0.1, 0.2, 0.5, 0.6, 0.9), (0.0, 0.2, 0.5, 0.6, 1.0)):
        a = solve(field, x, grid, UniPC(corrector=False)).x
        torch.testing.assert_close(a, solve(field, x, grid, DPMSolver()).x, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_the_corrector_costs_nothing(order):
    field, x = mixture(), randn(3, 2)
    grid = [k / 7 for k in range(8)]
    plain, corrected = (
        solve(field, x, grid, UniPC(order=order, corrector=False)),
        solve(field, x, grid, UniPC(order=order)),
    )
    assert plain.calls == corrected.calls == 7
    assert not torch.allclose(plain.x, corrected.x)


def test_unknown_orders_and_variants_are_refused():
    with pytest.raises(OptionError, match=r"orders 1, 2, 3, got order=4"):
        UniPC(order=4)
    with pytest.raises(UnknownOptionError, match="variant 'bh3' is unknown"):
        UniPC(variant="bh3")
