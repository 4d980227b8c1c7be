"""Posterior guidance against a Gaussian whose posterior is known."""

import pytest
import torch

from rheos.core import Field, GaussianMixtureField
from rheos.core.errors import SourceNotGaussianError
from rheos.sample import CFG, PosteriorGuidance, draw, solve

M, C, TAU, Y = 1.0, 0.8, 0.5, 2.0


def energy(x1, t):
    left = C**2 * (1 - t) ** 2 / (t**2 * C**2 + (1 - t) ** 2)
    return 0.5 * (x1[:, 0] - Y) ** 2 / (TAU**2 + left).to(x1)


def test_exact_energies_of_a_gaussian_give_its_exact_posterior():
    field = GaussianMixtureField(means=[[M]], stds=[C])
    times = [1e-3 + (1 - 1e-3) * k / 200 for k in range(201)]
    x = draw(field, 4000, steps=times, solver="euler", steers=[PosteriorGuidance(energy)], seed=1)
    variance = 1 / (1 / C**2 + 1 / TAU**2)
    mean = variance * (M / C**2 + Y / TAU**2)
    # standard errors of 4000 rows: 0.007 of the mean, 0.005 of the deviation; 200 Euler steps add about as much
    assert abs(x.mean() - mean) < 0.03
    assert abs(x.std() - variance**0.5) < 0.02


def test_a_reward_is_a_negative_energy_and_zero_scale_changes_nothing():
    field = GaussianMixtureField(means=[[0.0, 0.0]], stds=[1.0])
    plain = draw(field, 50, steps=10, solver="euler", seed=2)
    rewarded = PosteriorGuidance(lambda x1, t: -3 * x1[:, 0])
    pulled = draw(field, 50, steps=10, solver="euler", seed=2, steers=[rewarded])
    assert (pulled[:, 0] > plain[:, 0]).all()
    torch.testing.assert_close(pulled[:, 1], plain[:, 1], atol=1e-5, rtol=1e-5)
    off = PosteriorGuidance(lambda x1, t: x1[:, 0], scale=0.0)
    still = draw(field, 50, steps=10, solver="euler", seed=2, steers=[off])
    torch.testing.assert_close(still, plain, atol=1e-5, rtol=1e-5)


def test_it_differentiates_through_both_branches_of_classifier_free_guidance():
    field = GaussianMixtureField(means=[[-2.0], [2.0]], stds=[0.5, 0.5], labels=[0, 1])
    x = torch.linspace(-2, 2, 7, dtype=torch.float64)[:, None]
    t, label = 0.5, torch.ones(7, dtype=torch.int64)
    steers = [PosteriorGuidance(lambda x1, t: -x1[:, 0]), CFG(2.0)]
    moved = solve(field, x, [t, 1.0], "ddim", cond={"label": label}, steers=steers).x  # one step gives the estimate
    leaf = x.clone().requires_grad_(True)
    null = torch.full((7,), 2)
    guided = 2 * field.data(leaf, t, label=label) - field.data(leaf, t, label=null)
    (slope,) = torch.autograd.grad(guided.sum(), leaf)
    torch.testing.assert_close(moved, guided.detach() + 0.5**2 / 0.5 * slope)


def test_it_needs_a_gaussian_source():
    field = Field(torch.nn.Linear(1, 1), gaussian=False, shape=(1,))
    with pytest.raises(SourceNotGaussianError):
        draw(field, 2, steps=2, steers=[PosteriorGuidance(energy)])
