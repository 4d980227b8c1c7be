import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from rheos.core import AffinePath, Field, GeodesicPath, Product, UnitQuaternion
from rheos.core.spaces import Euclidean, normalise
from rheos.sample import HEUN, MIDPOINT, RALSTON, RK3, RK4, Euler, RungeKutta, solve
from strategies import grids, randn

TABLEAUS = [MIDPOINT, HEUN, RALSTON, RK3, RK4]
each = pytest.mark.parametrize("tableau", TABLEAUS, ids=lambda t: t.name)
GRIDLESS = [Euler(), *(RungeKutta(tableau=t) for t in TABLEAUS)]


class Of(nn.Module):
    """A velocity that is a function of state and time."""

    def __init__(self, f):
        super().__init__()
        self.f = f
        self.seen = []

    def forward(self, x, t):
        self.seen.append(float(t[0]))
        return self.f(x, t.double()[:, None])


def dot(a, b):
    return sum(p * q for p, q in zip(a, b, strict=True))


@each
def test_a_tableau_meets_the_conditions_of_its_order(tableau):
    a, b, c = tableau.a, tableau.b, tableau.c
    assert [sum(row) for row in a] == pytest.approx(list(c))
    conditions = [(sum(b), 1), (dot(b, c), 1 / 2)]
    ac = [dot(row, c[: len(row)]) for row in a]
    if tableau.order >= 3:
        conditions += [(dot(b, [v**2 for v in c]), 1 / 3), (dot(b, ac), 1 / 6)]
    if tableau.order >= 4:
        aac = [dot(row, ac[: len(row)]) for row in a]
        acc = [dot(row, [v**2 for v in c[: len(row)]]) for row in a]
        conditions += [(dot(b, [v**3 for v in c]), 1 / 4), (dot(b, [p * q for p, q in zip(c, ac, strict=True)]), 1 / 8)]
        conditions += [(dot(b, acc), 1 / 12), (dot(b, aac), 1 / 24)]
    for found, wanted in conditions:
        assert found == pytest.approx(wanted)


@each
def test_weights_for_an_open_end_leave_out_the_last_stage_and_are_consistent(tableau):
    ends_there = tableau.c[-1] == 1
    assert bool(tableau.open) == ends_there
    if ends_there:
        assert tableau.open[-1] == 0
        assert sum(tableau.open) == pytest.approx(1)
        if tableau is not HEUN:
            assert dot(tableau.open, tableau.c) == pytest.approx(1 / 2)


@pytest.mark.parametrize("method", GRIDLESS, ids=lambda m: getattr(getattr(m, "tableau", None), "name", "euler"))
@given(grid=grids(), backwards=st.booleans())
def test_a_polynomial_in_time_below_the_order_is_integrated_exactly(method, grid, backwards):
    p = method.order
    field = Field(Of(lambda x, t: p * t ** (p - 1) + 0 * x))
    times = grid[::-1] if backwards else grid
    x = randn(2, 3)
    expected = x + (times[-1] ** p - times[0] ** p)
    # the network is told float32 times
    torch.testing.assert_close(solve(field, x, times, method).x, expected, rtol=0, atol=2e-6)


def test_an_open_end_is_never_asked_for():
    net = Of(lambda x, t: 1 - x)
    for tableau, stages in ((HEUN, 2), (RK3, 3), (RK4, 4)):
        net.seen.clear()
        solution = solve(Field(net, predicts="data"), randn(2, 1), (0.0, 0.5, 1.0), RungeKutta(tableau=tableau))
        assert solution.calls == 2 * stages - 1
        assert max(net.seen) < 1


def test_rows_whose_interval_is_open_and_others_step_together():
    field = Field(Of(lambda x, t: torch.tanh(x)), predicts="data")
    times = torch.tensor([[0.2, 0.6, 1.0], [0.1, 0.4, 0.8]], dtype=torch.float64)
    x = randn(2, 3)
    for tableau in TABLEAUS:
        method = RungeKutta(tableau=tableau).bind(field.path, field.finite)
        for k in range(2):
            s = method.start(method.init(x), times[:, k], times[:, k + 1])
            while s["stage"] >= 0:
                ask = method.ask(s)
                value = field.path.convert(torch.tanh(ask.x), ask.x, ask.t, "data", "velocity")
                s = method.tell(s, value)
            for row in range(2):
                alone = method.start(method.init(x[row : row + 1]), float(times[row, k]), float(times[row, k + 1]))
                while alone["stage"] >= 0:
                    ask = method.ask(alone)
                    value = field.path.convert(torch.tanh(ask.x), ask.x, ask.t, "data", "velocity")
                    alone = method.tell(alone, value)
                torch.testing.assert_close(s["x"][row : row + 1], alone["x"], rtol=1e-14, atol=1e-14)


SPIN = torch.tensor([0.4, -1.1, 0.7], dtype=torch.float64)


def spin(q, t):
    """A rotation vector in the body frame that depends on the orientation and the time."""
    return SPIN * (1 + t) + q[..., 1:] * torch.sin(2 * t) + torch.roll(q[..., :3], 1, -1)


@pytest.mark.parametrize(("name", "order"), [("euler", 1), ("midpoint", 2), ("heun", 2), ("ralston", 2)])
def test_on_rotations_methods_keep_their_order_and_stay_on_the_sphere(name, order):
    path = GeodesicPath(UnitQuaternion())
    field = Field(nn.Sequential(), path)
    field.net.forward = lambda x, t: spin(x, t.double()[:, None])
    field._clock = torch.float64
    x = normalise(randn(6, 4))

    def end(n, method):
        return solve(field, x, [k / n for k in range(n + 1)], method).x

    reference = end(2000, "midpoint")
    errors = [float(path.space.distance(end(n, name), reference).mean()) for n in (20, 40, 80)]
    ratios = [a / b for a, b in itertools.pairwise(errors)]
    assert all(abs(r / 2**order - 1) < 0.15 for r in ratios)
    torch.testing.assert_close(end(20, name).norm(dim=1), torch.ones(6, dtype=torch.float64))


def test_a_product_of_spaces_is_walked_factor_by_factor():
    space = Product({"q": UnitQuaternion(), "x": Euclidean()})
    path = GeodesicPath(space)
    net = nn.Sequential()
    net.forward = lambda s, t: {"q": spin(s["q"], torch.zeros(())), "x": -s["x"]}
    start = {"q": normalise(randn(3, 4)), "x": randn(3, 2)}
    both = solve(Field(net, path), start, (0.0, 0.5, 1.0), "heun").x
    alone = nn.Sequential()
    alone.forward = lambda x, t: -x
    torch.testing.assert_close(both["x"], solve(Field(alone), start["x"], (0.0, 0.5, 1.0), "heun").x)
    turned = nn.Sequential()
    turned.forward = lambda q, t: spin(q, torch.zeros(()))
    torch.testing.assert_close(
        both["q"], solve(Field(turned, GeodesicPath(UnitQuaternion())), start["q"], (0.0, 0.5, 1.0), "heun").x
    )


def test_euler_on_a_straight_path_is_exact_in_one_step():
    x0, x1 = randn(4, 2, seed=1), randn(4, 2, seed=2)
    field = Field(Of(lambda x, t: x1 - x0), AffinePath())
    torch.testing.assert_close(solve(field, x0, (0.0, 1.0), "euler").x, x1)
