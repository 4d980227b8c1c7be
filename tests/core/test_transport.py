import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rheos.core.errors import NonFiniteError, OptionError, ShapeError
from rheos.core.transport import assignment, half_steps, sinkhorn, squared_distances

few = settings(max_examples=20, deadline=None, derandomize=True)


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@few
@given(n=st.integers(1, 9), m=st.integers(1, 9), seed=st.integers(0, 999))
def test_squared_distances_are_those_of_the_definition_also_far_from_the_origin(n, m, seed):
    x, y = normal(n, 2, 3, seed=seed) + 1e4, normal(m, 2, 3, seed=seed + 1) + 1e4
    want = (x[:, None] - y[None]).square().sum((2, 3))
    assert torch.allclose(squared_distances(x, y), want, rtol=1e-9, atol=1e-9)  # 1e4 shift costs 8 of 16 digits


def test_squared_distances_of_a_dict_sum_over_its_parts():
    x, y = normal(3, 4), normal(5, 4, seed=1)
    parts = {"a": x[:, :1], "b": x[:, 1:]}, {"a": y[:, :1], "b": y[:, 1:]}
    assert torch.allclose(squared_distances(*parts), squared_distances(x, y))


@few
@given(b=st.integers(1, 6), seed=st.integers(0, 999))
def test_an_assignment_is_the_cheapest_of_all_permutations(b, seed):
    from itertools import permutations

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


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_the_scale_of_the_costs_and_ties_do_not_matter_to_an_assignment(scale):
    from scipy.optimize import linear_sum_assignment

    cost = normal(300, 300).abs() * scale
    assert assignment(cost).tolist() == linear_sum_assignment(cost.T.numpy())[1].tolist()
    assert sorted(assignment(torch.zeros(300, 300)).tolist()) == list(range(300))


def test_an_assignment_refuses_rectangles_and_nan():
    with pytest.raises(ShapeError, match=r"as many rows as columns, got \(2, 3\)"):
        assignment(torch.zeros(2, 3))
    with pytest.raises(NonFiniteError, match="1 of 4 transport costs are NaN"):
        assignment(torch.tensor([[0.0, math.nan], [0.0, 0.0]]))


@few
@given(a=st.floats(-3, 3), epsilon=st.sampled_from([0.3, 1.0, 5.0]))
def test_the_two_by_two_plan_has_its_closed_form(a, epsilon):
    # p / (1/2 - p) = exp((c01 + c10 - c00 - c11) / 2 epsilon)
    cost = torch.tensor([[0.7, a], [0.2, -0.4]], dtype=torch.float64)
    odds = math.exp((a + 0.2 - 0.7 + 0.4) / (2 * epsilon))
    plan = sinkhorn(cost, epsilon, tolerance=1e-13, iterations=5000)
    assert float(plan.log[0, 0].exp()) == pytest.approx(0.5 * odds / (1 + odds), rel=1e-9)


def test_columns_are_exact_and_rows_are_within_the_reported_error():
    plan = sinkhorn(normal(7, 5).square(), 0.05, tolerance=1e-4)
    assert plan.converged
    assert torch.allclose(plan.log.exp().sum(0), torch.full((5,), 0.2, dtype=torch.float64), rtol=1e-12)
    assert float((plan.log.exp().sum(1) - 1 / 7).abs().sum()) == pytest.approx(plan.error, rel=1e-6)
    assert plan.error <= 1e-4


def test_a_plan_is_its_gibbs_kernel_times_a_function_of_the_row_and_one_of_the_column():
    cost = squared_distances(normal(32, 2), normal(32, 2, seed=1) + 1)
    plan = sinkhorn(cost, 0.5, tolerance=1e-6)
    log_ratio = plan.log + cost / 0.5
    residual = log_ratio - log_ratio.mean(0) - log_ratio.mean(1, keepdim=True) + log_ratio.mean()
    assert residual.abs().max() < 1e-8
    assert torch.allclose(log_ratio, (plan.f[:, None] + plan.g) / 0.5 - math.log(32 * 32), atol=1e-8)


def test_the_plan_agrees_with_the_peer():
    import ot

    cost = squared_distances(normal(20, 3), normal(20, 3, seed=1))
    plan = sinkhorn(cost, 0.7, iterations=5000, tolerance=1e-12).log.exp()
    want = ot.sinkhorn(np.full(20, 0.05), np.full(20, 0.05), cost.numpy(), 0.7, stopThr=1e-12, numItermax=5000)
    assert np.abs(plan.numpy() - want).max() < 1e-10


def test_a_tiny_epsilon_gives_the_exact_assignment_where_the_kernel_itself_underflows():
    cost = 100 * squared_distances(normal(16, 2), normal(16, 2, seed=1))
    plan = sinkhorn(cost, 1e-2, iterations=5000)
    assert (cost / -1e-2).exp().count_nonzero() < 16  # of 256
    assert torch.equal(plan.log.argmax(0), assignment(cost))


def test_a_plan_that_ran_out_of_iterations_says_so():
    plan = sinkhorn(squared_distances(normal(40, 2), normal(40, 2, seed=1) + 3), 1e-3, iterations=1)
    assert not plan.converged
    assert plan.error > 1e-3


def test_half_steps_make_rows_exact_after_an_odd_number_and_columns_after_an_even_one():
    log = normal(6, 6) * 2
    for steps in (1, 2, 3, 4):
        u, v = half_steps(log, steps)
        means = (log + u[:, None] + v).exp().mean(steps % 2)
        assert torch.allclose(means, torch.ones(6, dtype=torch.float64), rtol=1e-12)
    assert all(not z.any() for z in half_steps(log, 0))


def test_many_half_steps_reach_the_entropic_plan():
    cost = squared_distances(normal(12, 2), normal(12, 2, seed=1))
    u, v = half_steps(-cost, 400)
    plan = sinkhorn(cost, 1.0, iterations=2000, tolerance=1e-13)
    assert torch.allclose((u[:, None] + v - cost - math.log(144)).exp(), plan.log.exp(), atol=1e-10)


@pytest.mark.parametrize("epsilon", [0.0, -1.0, math.nan, math.inf])
def test_an_epsilon_without_meaning_is_refused(epsilon):
    with pytest.raises(OptionError, match="epsilon must be positive and finite"):
        sinkhorn(torch.zeros(2, 2), epsilon)


def test_other_entropic_options_are_refused_too():
    with pytest.raises(OptionError, match="iterations must be at least 1"):
        sinkhorn(torch.zeros(2, 2), 1.0, iterations=0)
    with pytest.raises(OptionError, match="tolerance must be positive"):
        sinkhorn(torch.zeros(2, 2), 1.0, tolerance=0.0)
    with pytest.raises(NonFiniteError, match="4 of 4"):
        sinkhorn(torch.full((2, 2), math.nan), 1.0)
