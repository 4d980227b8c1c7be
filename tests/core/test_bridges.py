"""Noisy paths against the moments of Gaussians: a bridge adds sigma^2 t (1 - t) to the variance, a tube sigma^2."""

import math

import pytest
import torch

from rheos.core import Draws, Field, FlowMatching, NoisyPath, row_seeds
from rheos.core.errors import OptionError, UnknownOptionError
from rheos.nets import MLP
from strategies import randn

M0, S0, M1, S1, SIGMA = -1.0, 0.8, 2.0, 0.4, 0.7


def samples(path, t, n=400_000):
    x0, x1, z = (randn(n, 1, seed=k) for k in range(3))
    return path.sample(M0 + S0 * x0, M1 + S1 * x1, t, z)


def added(path, t):
    return float(path.width(t)) ** 2


@pytest.mark.parametrize("shape", ["bridge", "tube"])
@pytest.mark.parametrize("t", [0.1, 0.5, 0.8])
def test_points_have_the_variance_of_the_line_and_of_the_noise(shape, t):
    path = NoisyPath(SIGMA, shape)
    x = samples(path, t).xt
    variance = ((1 - t) * S0) ** 2 + (t * S1) ** 2 + added(path, t)
    assert added(path, t) == pytest.approx(SIGMA**2 * (t * (1 - t) if shape == "bridge" else 1.0))
    assert float(x.mean()) == pytest.approx((1 - t) * M0 + t * M1, abs=4 * math.sqrt(variance / len(x)))
    assert float(x.var()) == pytest.approx(variance, rel=4 * math.sqrt(2 / len(x)))


@pytest.mark.parametrize("shape", ["bridge", "tube"])
@pytest.mark.parametrize("t", [0.1, 0.5, 0.8])
def test_the_regression_of_the_velocity_carries_the_marginal(shape, t):
    """E[u | x] of a Gaussian is m' + (Var' / 2 Var) (x - m): the flow that changes mean and variance as they change."""
    path = NoisyPath(SIGMA, shape)
    s = samples(path, t)
    x, u = s.xt.flatten(), s.u.flatten()
    slope = float(((x - x.mean()) * (u - u.mean())).mean() / x.var())
    variance = ((1 - t) * S0) ** 2 + (t * S1) ** 2 + added(path, t)
    rate = -2 * (1 - t) * S0**2 + 2 * t * S1**2 + (SIGMA**2 * (1 - 2 * t) if shape == "bridge" else 0.0)
    assert float(u.mean()) == pytest.approx(M1 - M0, abs=2e-2)
    assert slope == pytest.approx(rate / (2 * variance), abs=2e-2)


@pytest.mark.parametrize("shape", ["bridge", "tube"])
def test_noise_and_score_are_images_of_each_other_and_the_score_is_the_gaussians(shape):
    path, t = NoisyPath(SIGMA, shape), 0.3
    s = samples(path, t)
    noise, score = path.target(s, "noise"), path.target(s, "score")
    torch.testing.assert_close(path.convert(noise, s.xt, t, "noise", "score"), score)
    torch.testing.assert_close(path.convert(score, s.xt, t, "score", "noise"), noise)
    x = s.xt.flatten()
    slope = float(((x - x.mean()) * score.flatten()).mean() / x.var())
    variance = ((1 - t) * S0) ** 2 + (t * S1) ** 2 + added(path, t)
    assert slope == pytest.approx(-1 / variance, rel=2e-2)


def test_the_velocity_is_the_derivative_of_the_point():
    path, (x0, x1, z) = NoisyPath(SIGMA), (randn(3, 2, seed=k) for k in range(3))
    h = 1e-6
    ends = [path.sample(x0, x1, 0.3 + d, z).xt for d in (-h, h)]
    torch.testing.assert_close(path.sample(x0, x1, 0.3, z).u, (ends[1] - ends[0]) / (2 * h), rtol=1e-7, atol=1e-7)


def test_an_objective_draws_the_noise_by_row_and_cuts_it_with_the_plan():
    field, x1 = Field(MLP(2, hidden=8, depth=1), NoisyPath(0.5), gaussian=False), randn(6, 2).float()
    objective = FlowMatching()
    plan = objective.prepare(field, x1, {}, Draws(row_seeds(0, 6)))
    assert plan.noise.shape == x1.shape
    assert torch.equal(plan.slice(2, 5).noise, plan.noise[2:5])
    whole = objective.loss(field, plan).rows
    torch.testing.assert_close(objective.loss(field, plan.slice(2, 5)).rows, whole[2:5])


@pytest.mark.parametrize("predicts", ["velocity", "noise", "score"])
def test_heads_of_all_kinds_have_a_finite_loss(predicts):
    field = Field(MLP(2, hidden=8, depth=1), NoisyPath(0.5), predicts)
    loss = FlowMatching().loss(field, FlowMatching().prepare(field, randn(64, 2).float(), {}, Draws(row_seeds(1, 64))))
    assert loss.rows.isfinite().all()


def test_what_a_noisy_path_has_not_is_refused():
    with pytest.raises(OptionError, match="sigma must be positive and finite, got 0"):
        NoisyPath(0.0)
    with pytest.raises(UnknownOptionError, match="shape 'pipe'"):
        NoisyPath(1.0, "pipe")
    with pytest.raises(OptionError, match="has noise of its own: sample"):
        NoisyPath(1.0).sample(randn(2, 1), randn(2, 1), 0.5)
    with pytest.raises(OptionError, match=r"data does not follow from velocity\. Train a second head"):
        NoisyPath(1.0).convert(randn(2, 1), randn(2, 1), 0.5, "velocity", "data")
    with pytest.raises(UnknownOptionError, match="predicts on a noisy path 'data'"):
        Field(MLP(2, hidden=4, depth=1), NoisyPath(1.0), "data")
