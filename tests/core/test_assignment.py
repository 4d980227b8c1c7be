import math
from itertools import permutations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from rheos.core import assignment as module
from rheos.core.assignment import assignment
from rheos.core.errors import NonFiniteError, ShapeError
from rheos.core.transport import squared_distances

few = settings(max_examples=20, deadline=None, derandomize=True)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gaussians(n, d):
    return squared_distances(normal(n, d), 0.5 * normal(n, d, seed=1) + 1)


def far_row(n):
    x = normal(n, 2)
    x[0] += 1e5
    return squared_distances(x, normal(n, 2, seed=1))


def classes(n):
    label = torch.arange(n) % 7
    return gaussians(n, 2) + 1e4 * (label[:, None] != label.flip(0)).double()


COSTS = {
    "plane": lambda n: gaussians(n, 2),
    "many dimensions": lambda n: gaussians(n, 200),
    "distances on a line": lambda n: gaussians(n, 1).sqrt(),
    "random": lambda n: normal(n, n).exp(),
    "negative": lambda n: normal(n, n) - 50,
    "repeated columns": lambda n: gaussians(n, 2)[:, torch.arange(n) // 4],
    "a far row": far_row,
    "of every size": lambda n: 10 ** (30 * normal(n, n)),
    "classes": classes,
    "products": lambda n: torch.arange(n).double().outer(torch.arange(n).double()),
    "all equal": lambda n: torch.full((n, n), 3.0, dtype=torch.float64),
    "one row that cares": lambda n: torch.cat((normal(1, n), torch.zeros(n - 1, n, dtype=torch.float64))),
}


@pytest.mark.parametrize("name", COSTS)
@pytest.mark.parametrize("n", [95, 96, 255, 256, 520])
def test_whatever_the_costs_the_permutation_is_as_cheap_as_scipys(name, n):
    cost = COSTS[name](n)
    index = assignment(cost)
    assert sorted(index.tolist()) == list(range(n))
    best = float(cost.numpy()[linear_sum_assignment(cost.numpy())].sum())
    room = 1e-14 * n * float(cost.abs().max())  # the prices are subtracted in double precision
    assert float(cost[index, torch.arange(n)].sum()) == pytest.approx(best, abs=room)


@few
@given(b=st.integers(0, 6), seed=st.integers(0, 999))
def test_an_assignment_is_the_cheapest_of_all_permutations(b, seed):
    cost = normal(b, b, seed=seed)
    best = min(sum(float(cost[i, j]) for j, i in enumerate(p)) for p in permutations(range(b)))
    index = assignment(cost)
    assert sorted(index.tolist()) == list(range(b))
    assert float(cost[index, torch.arange(b)].sum()) == pytest.approx(best, abs=1e-12)


@pytest.mark.parametrize("n", [255, 256, 400])
def test_small_and_large_assignments_sort_the_line(n):
    x, y = normal(n, 1), normal(n, 1, seed=1) * 3 + 1e3
    index = assignment(squared_distances(x, y))
    assert torch.equal(x[index][y.flatten().argsort()], x.sort(dim=0).values)


@pytest.mark.parametrize("scale", [1e-200, 1e-12, 1.0, 1e12, 1e200])
def test_the_scale_of_the_costs_does_not_matter_to_an_assignment(scale):
    cost = normal(300, 300).abs()
    assert assignment(cost * scale).tolist() == linear_sum_assignment(cost.T.numpy())[1].tolist()


def test_prices_leave_nearly_every_row_with_a_cheapest_column_of_its_own():
    cost = gaussians(256, 200)
    gap = cost - cost.amin(0)
    gap -= gap.amin(1, keepdim=True)
    prices, _ = module._prices(gap)
    before, after = (len(c.argmin(1).unique()) / 256 for c in (gap, gap - prices))
    assert before < 0.8  # the search starts with a path for each row that is left
    assert after > 0.9


def test_rows_that_find_many_columns_alike_are_told_from_those_that_do_not():
    def crowd(cost):
        gap = cost - cost.amin(0)
        return module._prices(gap - gap.amin(1, keepdim=True))[1] / len(cost)

    assert crowd(COSTS["distances on a line"](256)) > 1 / 3  # whoever moves right is as good as the next
    assert crowd(COSTS["plane"](256)) < 1 / 6
    assert crowd(COSTS["many dimensions"](256)) < 0.05


def test_an_assignment_refuses_rectangles_and_nan():
    with pytest.raises(ShapeError, match=r"as many rows as columns, got \(2, 3\)"):
        assignment(torch.zeros(2, 3))
    with pytest.raises(NonFiniteError, match="1 of 4 transport costs are NaN"):
        assignment(torch.tensor([[0.0, math.nan], [0.0, 0.0]]))


def test_finite_costs_whose_sum_is_not_are_no_error():
    for n in (2, 128):
        cost = torch.full((n, n), 1e308, dtype=torch.float64)
        cost[torch.arange(n), torch.arange(n).flip(0)] = 1e307
        assert assignment(cost).tolist() == list(range(n))[::-1]
