import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rheos.core.assignment import assignment
from rheos.core.errors import NonFiniteError, OptionError
from rheos.core.transport import _relaxation, half_steps, sinkhorn, squared_distances

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


def test_an_unfinished_plan_has_exact_columns_and_its_own_error_too():
    for iterations in (1, 7, 12):
        plan = sinkhorn(normal(30, 20).square(), 1e-3, iterations, tolerance=1e-12)
        assert torch.allclose(plan.log.exp().sum(0), torch.full((20,), 1 / 20, dtype=torch.float64), rtol=1e-10)
        assert float((plan.log.exp().sum(1) - 1 / 30).abs().sum()) == pytest.approx(plan.error, rel=1e-8)


@pytest.mark.parametrize("plain", [0.05, 0.6, 0.99])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_the_relaxation_found_is_the_best_one_whichever_was_in_use(plain, share):
    best = 2 / (1 + math.sqrt(1 - plain))
    factor = 1 + share * (best - 1)
    root = factor * math.sqrt(plain) / 2  # Young: (rate + factor - 1)^2 = rate factor^2 plain
    rate = (root + math.sqrt(root**2 - factor + 1)) ** 2
    assert _relaxation(factor, rate) == pytest.approx(best, rel=1e-9)


def test_relaxation_ends_where_the_error_grows_and_stays_where_it_falls_as_fast_as_it_can():
    assert _relaxation(1.7, 1.01) == 1.0
    assert _relaxation(1.7, 0.6) == 1.7
    assert 1.0 < _relaxation(1.0, 1 - 1e-12) < 2.0


def test_relaxed_scalings_need_less_than_half_of_the_iterations():
    cost = squared_distances(normal(256, 2), normal(256, 2, seed=1) * 0.5 + 1)
    epsilon = 0.03 * float(cost.mean())
    k = cost / -epsilon
    v, plain, error = k.new_zeros(256), 0, math.inf
    while error > 1e-3:
        u = -(k + v).logsumexp(1) + math.log(256)
        v = -(k + u[:, None]).logsumexp(0) + math.log(256)
        error = float(((k + u[:, None] + v).logsumexp(1).exp() / 256 - 1).abs().mean())
        plain += 1
    assert sinkhorn(cost, epsilon, plain // 2).converged


@pytest.mark.parametrize("epsilon", [0.1, 1 / 800, 1e-6])
def test_mass_that_must_cross_to_a_far_cluster_crosses_at_any_epsilon(epsilon):
    # two of three rows sit at one of three columns: each sends half of its mass over, evenly, and none comes back
    cost = torch.tensor([[0.0, 1.0, 1.0], [0.0, 1.0, 1.0], [1.0, 0.0, 0.0]], dtype=torch.float64)
    plan = sinkhorn(cost, epsilon, tolerance=1e-9)
    want = torch.tensor([[2.0, 1.0, 1.0], [2.0, 1.0, 1.0], [0.0, 2.0, 2.0]], dtype=torch.float64) / 12
    assert plan.converged
    assert (plan.log.exp() - want).abs().max() < 1e-6  # what comes back at epsilon 0.1: e^-20 / 6


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
