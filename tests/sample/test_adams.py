import torch
from hypothesis import given
from torch import nn

from rheos.core import Field, GaussianMixtureField
from rheos.sample import AdamsBashforth, solve
from strategies import grids, randn


@given(grid=grids(6))
def test_after_its_first_step_it_integrates_a_line_exactly(grid):
    class Line(nn.Module):
        def forward(self, x, t):
            return (2 * t.double() + 1)[:, None].expand_as(x)

    x, field = randn(3, 2), Field(Line()).double()
    field._clock = torch.float64
    # the first step is Euler's: it misses the integral of 2t by the square of its length
    expected = x + 2 - (grid[1] - grid[0]) ** 2
    torch.testing.assert_close(solve(field, x, grid, "ab2").x, expected, rtol=1e-10, atol=1e-10)


def test_two_velocities_make_the_variable_step_formula():
    field, x = GaussianMixtureField([[1.0, 0.0]], [0.5], path="gvp"), randn(4, 2)
    t0, t1, t2 = 0.1, 0.25, 0.6
    v0 = field(x, t0)
    y = x + (t1 - t0) * v0
    v1, h = field(y, t1), t2 - t1
    ratio = h / (t1 - t0)
    expected = y + h * (1 + ratio / 2) * v1 - h * ratio / 2 * v0
    torch.testing.assert_close(solve(field, x, (t0, t1, t2), "ab2").x, expected, rtol=1e-13, atol=1e-13)


def test_names_with_clocks_of_their_own_keep_their_own_history():
    method = AdamsBashforth()
    x = {"a": randn(2, 1), "b": randn(2, 1, seed=1)}
    v = {"a": randn(2, 1, seed=2), "b": randn(2, 1, seed=3)}
    s = method.start(method.init(x), {"a": 0.0, "b": 0.0}, {"a": 0.1, "b": 0.3})
    s = method.tell(s, v)
    s = method.tell(method.start(s, {"a": 0.1, "b": 0.3}, {"a": 0.5, "b": 0.4}), v)
    for n, grid in (("a", (0.0, 0.1, 0.5)), ("b", (0.0, 0.3, 0.4))):
        one = method.tell(method.start(method.init(x[n]), *grid[:2]), v[n])
        one = method.tell(method.start(one, *grid[1:]), v[n])
        torch.testing.assert_close(s["x"][n], one["x"])
