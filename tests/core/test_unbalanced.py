import math

import numpy as np
import ot
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rheos.core import Draws, ExactOT, Sinkhorn, Unbalanced, row_seeds
from rheos.core.couplings import coupling
from rheos.core.errors import ConditionError, OptionError
from rheos.core.pair_costs import condition_distances, pair_costs
from rheos.core.transport import sinkhorn
from rheos.core.unbalanced import unbalanced_sinkhorn
from strategies import randn


@given(n=st.integers(1, 7), m=st.integers(1, 7), epsilon=st.floats(0.05, 2), mass=st.floats(0.05, 5))
def test_the_plan_is_that_of_an_independent_implementation(n, m, epsilon, mass):
    cost = randn(n, m, seed=n * 10 + m).square()
    plan = unbalanced_sinkhorn(cost, epsilon, mass, 20_000, 1e-11).log.exp()
    oracle = ot.unbalanced.sinkhorn_unbalanced(
        ot.unif(n), ot.unif(m), cost.numpy(), epsilon, mass, reg_type="kl", stopThr=1e-13, numItermax=50_000
    )
    np.testing.assert_allclose(plan.numpy(), oracle, rtol=1e-6, atol=1e-9)


def test_with_an_infinite_price_it_is_the_balanced_plan():
    cost = randn(6, 6).square()
    a = unbalanced_sinkhorn(cost, 0.3, math.inf, 5000, 1e-12).log
    torch.testing.assert_close(a, sinkhorn(cost, 0.3, 5000, 1e-12).log, rtol=1e-8, atol=1e-8)


def test_an_outlier_loses_its_mass_and_every_row_is_used_once():
    x1 = torch.cat((randn(15, 2, seed=1), torch.full((1, 2), 30.0, dtype=torch.float64)))
    pairs = Unbalanced(0.5, mass=2.0)(randn(16, 2), x1, {"label": torch.arange(16)}, Draws(row_seeds(0, 16)))
    assert float(pairs.weight.sum()) == pytest.approx(16)
    assert float(pairs.weight[-1]) < 1e-6
    assert float(pairs.weight[:-1].min()) > 0.2
    assert torch.equal(pairs.cond["label"], torch.arange(16))
    assert torch.equal(pairs.x0, randn(16, 2)[pairs.index0])


def test_conditions_are_zero_or_one_apart_or_an_angle():
    assert condition_distances(torch.tensor([[1, 2], [1, 2], [1, 3]]))[0].tolist() == [0.0, 0.0, 1.0]
    vectors = torch.tensor([[1.0, 0.0], [0.0, 2.0], [-3.0, 0.0]])
    torch.testing.assert_close(condition_distances(vectors)[0], torch.tensor([0.0, 1.0, 2.0], dtype=torch.float64))


@pytest.mark.parametrize(
    "couple", [ExactOT, lambda **k: Sinkhorn(0.01, sampled="permutation", **k)], ids=["ot", "sinkhorn"]
)
def test_a_large_price_keeps_transport_inside_conditions_and_none_ignores_them(couple):
    label, x0, x1 = torch.arange(24) % 2, randn(24, 1), randn(24, 1, seed=1)
    draws = Draws(row_seeds(0, 24))
    dear = couple(condition="label", beta=1e4)(x0, x1, {"label": label}, draws)
    assert torch.equal(label[dear.index0], label)
    free = couple()(x0, x1, {"label": label}, draws)
    assert not torch.equal(label[free.index0], label)


def test_the_price_is_added_to_the_squared_distance():
    x0, x1, label = randn(3, 2), randn(3, 2, seed=1), torch.tensor([0, 0, 1])
    cost = pair_costs(x0, x1, {"label": label}, 2.0, "label", 0.5)
    assert float(cost[0, 2]) == pytest.approx(float((x0[0] - x1[2]).square().sum()) + 0.5)
    assert float(cost[0, 1]) == pytest.approx(float((x0[0] - x1[1]).square().sum()))


def test_numbers_that_are_no_price_are_refused():
    for bad, text in (
        (lambda: Unbalanced(0.1, mass=0.0), "mass must be positive"),
        (lambda: Unbalanced(-0.1, mass=1.0), "epsilon must be positive"),
        (lambda: ExactOT(condition="label", beta=-1.0), "beta must be at least 0"),
        (lambda: ExactOT(beta=1.0), "name one, such as condition='label'"),
        (lambda: coupling("unbalanced"), "needs two numbers"),
    ):
        with pytest.raises(OptionError, match=text):
            bad()
    with pytest.raises(ConditionError, match="looks at the condition 'label', which the batch lacks"):
        ExactOT(condition="label", beta=1.0)(randn(2, 1), randn(2, 1), {}, Draws(row_seeds(0, 2)))
    with pytest.warns(RuntimeWarning, match="still moves by"):
        Unbalanced(1e-3, mass=1.0, iterations=2)(randn(4, 1), randn(4, 1, seed=1), {}, Draws(row_seeds(0, 4)))
