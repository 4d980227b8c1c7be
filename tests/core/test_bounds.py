"""The variational bound and sliced score matching against exact fields."""

import math

import pytest
import torch

from rheos.core import Discrete, Draws, Field, FlowMatching, GaussianMixtureField
from rheos.core.bounds import SlicedScoreMatching, VariationalBound
from rheos.core.errors import OptionError, SourceNotGaussianError
from rheos.core.paths import AffinePath


def rows_of(mean, std, n, seed=0):
    return mean + std * Draws.training(seed, 0, n).normal(torch.empty(n, 1, dtype=torch.float64), "data")


def test_the_bound_of_the_exact_posterior_is_tight_for_gaussian_data():
    """For a Gaussian every reverse step is Gaussian, so with a fine table E[L_vb] tends to the entropy."""
    path = AffinePath(Discrete.ddpm(1000))
    field = GaussianMixtureField(means=[[0.5]], stds=[0.7], path=path)
    n = 400_000
    x1 = rows_of(0.5, 0.7, n)
    bound = VariationalBound()
    plan = bound.prepare(field, x1, {}, Draws.training(0, 1, n))
    with torch.no_grad():
        loss = bound.loss(field, plan)
    total = (loss.rows + bound.prior(field, x1)).double()
    entropy = 0.5 * math.log(2 * math.pi * math.e * 0.49)
    error = total.std() / n**0.5
    # equal-variance posteriors of a finite table leave a gap that falls with the steps
    assert abs(total.mean() - entropy) < 4 * error + 0.02


def test_the_bound_is_not_smaller_for_a_wrong_field():
    path = AffinePath(Discrete.ddpm(200))
    right, wrong = (GaussianMixtureField(means=[[m]], stds=[0.7], path=path) for m in (0.5, 0.9))
    x1 = rows_of(0.5, 0.7, 20_000)
    bound = VariationalBound()
    draws = Draws.training(0, 1, 20_000)
    a, b = (bound.loss(f, bound.prepare(f, x1, {}, draws)).rows.mean() for f in (right, wrong))
    assert b > a


def test_the_bound_needs_a_table():
    field = Field(torch.nn.Identity(), "linear")
    with pytest.raises(OptionError, match="sums over the steps of a table"):
        VariationalBound().prepare(field, torch.zeros(4, 1), {}, Draws.training(0, 0, 4))


def test_sliced_score_matching_of_the_exact_score_is_minus_half_its_energy():
    """Integration by parts: E[div s + |s|^2 / 2] = -E|s|^2 / 2 at the true score."""
    field = GaussianMixtureField(means=[[0.0, 1.0]], stds=[0.5])
    n = 200_000
    x1 = torch.tensor([[0.0, 1.0]]) + 0.5 * Draws.training(0, 0, n).normal(torch.empty(n, 2, dtype=torch.float64), "d")
    objective = SlicedScoreMatching(slices=2)
    plan = objective.prepare(field, x1, {}, Draws.training(0, 1, n))
    plan = plan._replace(t=torch.full((n,), 0.6, dtype=torch.float64))
    rows = objective.loss(field, plan).rows.detach()
    variance = 0.6**2 * 0.25 + 0.4**2
    expected = -0.5 * 2 / variance * 0.4**2
    assert abs(rows.mean() - expected) < 4 * rows.std() / n**0.5


def test_sliced_and_denoising_score_matching_have_the_same_gradient_on_average():
    class Score(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.slope = torch.nn.Parameter(torch.tensor(-0.3, dtype=torch.float64))

        def forward(self, x, t):
            return self.slope * x

    n = 400_000
    x1 = rows_of(0.0, 1.0, n)
    t = torch.full((n,), 0.5, dtype=torch.float64)
    slopes = []
    for objective, factor in ((SlicedScoreMatching(), 1.0), (FlowMatching(dropout=0.0), 0.5 * 0.5**2)):
        field = Field(Score(), predicts="score")
        plan = objective.prepare(field, x1, {}, Draws.training(0, 1, n))._replace(t=t)
        (g,) = torch.autograd.grad(objective.loss(field, plan).value * factor, field.net.slope)
        slopes.append(float(g))
    # both estimate sigma^2 d/da (a + a^2 V / 2), V = 1/2, at a = -0.3
    expected = 0.25 * (1 - 0.3 * 0.5)
    assert slopes[0] == pytest.approx(expected, abs=0.01)
    assert slopes[1] == pytest.approx(expected, abs=0.01)


def test_bad_options_and_sources_are_refused():
    with pytest.raises(OptionError, match="slices must be at least 1"):
        SlicedScoreMatching(slices=0)
    field = Field(torch.nn.Identity(), gaussian=False)
    with pytest.raises(SourceNotGaussianError, match="independent of the data"):
        SlicedScoreMatching().prepare(field, torch.zeros(4, 1), {}, Draws.training(0, 0, 4))
