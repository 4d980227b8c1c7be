"""Stochastic methods keep the marginals of the flow.

On a Gaussian every step is affine, x' = A x + B + std z, so the law of a run is a recursion for mean and variance
that needs no samples; drawing checks the noise itself.
"""

import itertools
import math

import pytest
import torch

from rheos.core.errors import OptionError, SourceNotGaussianError, UnknownOptionError
from rheos.sample import DDIM, SDE, SDEDPM, Ancestral, DPMSolver, draw, solve
from strategies import gaussian, randn

M, C = 1.5, 0.3
METHODS = {
    "constant": SDE(diffusion="constant"),
    "sigma": SDE(),
    "2 sigma": SDE(scale=2.0),
    "sbdm": SDE(diffusion="sbdm"),
    "ddim eta 0.5": DDIM(eta=0.5),
    "ddpm": DDIM(eta=1.0),
    "sde-dpm++": SDEDPM(order=1),
    "sde-dpm++ eta 0.4": SDEDPM(order=1, eta=0.4),
    "ancestral": Ancestral(),
    "ancestral eta 0.5": Ancestral(eta=0.5),
}


def law_of(method, path, grid):
    """Mean and variance at every time of the grid, beginning with the flow's own."""
    field = gaussian(path, M, C)
    bound = method.bind(field.path, (0.0, 1.0))
    schedule = field.path.law
    mean, variance = schedule.alpha(grid[0]) * M, (schedule.alpha(grid[0]) * C) ** 2 + schedule.sigma(grid[0]) ** 2
    out = [(mean, variance)]
    probe = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    for t, end in itertools.pairwise(grid):
        s = bound.start(bound.init(probe), t, end)
        ask = bound.ask(s)
        value = field.data(ask.x, ask.t) if ask.kind == "data" else field(ask.x, ask.t)
        moved, std = bound.jump(s, value)
        b, a = float(moved[0]), float(moved[1] - moved[0])
        mean, variance = a * mean + b, a * a * variance + float(std) ** 2
        out.append((mean, variance))
    return out


@pytest.mark.parametrize("path", ["linear", "gvp", "vp"])
@pytest.mark.parametrize("name", METHODS)
def test_mean_and_variance_follow_the_flow_with_an_error_of_first_order(name, path):
    law = gaussian(path).path.law
    start = 0.5 if name == "sbdm" else 0.0  # its rate is 2 / t: no step size is small near t = 0, and it forgets

    def worst(n):
        grid = [k / n for k in range(n + 1)]
        gaps = [
            (abs(mean - law.alpha(t) * M), abs(math.sqrt(v) - math.hypot(law.alpha(t) * C, law.sigma(t))))
            for t, (mean, v) in zip(grid, law_of(METHODS[name], path, grid), strict=True)
            if t >= start
        ]
        return [max(g[k] for g in gaps) for k in (0, 1)]

    coarse, fine = worst(200), worst(800)
    assert fine[0] < 8e-3
    assert fine[1] < 1e-2
    assert all(b < 0.45 * a or b < 1e-6 for a, b in zip(coarse, fine, strict=True))


@pytest.mark.parametrize("name", ["constant", "sigma"])
def test_from_data_to_noise_the_marginals_are_kept_too(name):
    n = 1000
    grid = [1 - 1e-3 - (1 - 2e-3) * k / n for k in range(n + 1)]
    law = gaussian().path.law
    for t, (mean, v) in list(zip(grid, law_of(METHODS[name], "linear", grid), strict=True))[::100]:
        assert mean == pytest.approx(law.alpha(t) * M, abs=2e-2)
        assert v == pytest.approx((law.alpha(t) * C) ** 2 + law.sigma(t) ** 2, abs=2e-2)


@pytest.mark.parametrize("name", METHODS)
def test_samples_have_the_predicted_law(name):
    n, rows = 60, 6000
    grid = [k / n for k in range(n + 1)]
    mean, variance = law_of(METHODS[name], "linear", grid)[-1]
    x = solve(gaussian(mean=M, std=C), randn(rows, 1), grid, METHODS[name], seed=1).x
    assert float(x.mean()) == pytest.approx(mean, abs=3 * math.sqrt(variance / rows))
    assert float(x.var()) == pytest.approx(variance, abs=3 * variance * math.sqrt(2 / rows))


def test_without_noise_it_is_euler():
    field, x, grid = gaussian("gvp"), randn(4, 1), [k / 9 for k in range(10)]
    torch.testing.assert_close(
        solve(field, x, grid, SDE(scale=0.0)).x, solve(field, x, grid, "euler").x, rtol=0, atol=1e-14
    )


def test_the_step_that_reaches_the_data_takes_the_mean_alone():
    for method in METHODS.values():
        bound = method.bind(gaussian().path, (0.0, 1.0))
        s = bound.start(bound.init(randn(2, 1)), 0.9, 1.0)
        assert bound.jump(s, randn(2, 1))[1] == 0


def test_the_first_step_of_the_reverse_diffusion_is_the_odes():
    bound = SDE(diffusion="sbdm").bind(gaussian().path, (0.0, 1.0))
    x, v = randn(2, 1), randn(2, 1, seed=1)
    mean, std = bound.jump(bound.start(bound.init(x), 0.0, 0.1), v)
    torch.testing.assert_close(mean, x + 0.1 * v)
    assert std == 0


@pytest.mark.parametrize("name", METHODS)
def test_splitting_and_permuting_the_batch_changes_no_row(name):
    field, order = gaussian(dim=2), torch.tensor([3, 0, 2, 1])
    seeds = torch.tensor([11, 12, 13, 14])
    whole = draw(field, 4, steps=7, solver=METHODS[name], seed=seeds)
    assert torch.equal(draw(field, 4, steps=7, solver=METHODS[name], seed=seeds[order]), whole[order])
    assert torch.equal(draw(field, 4, steps=7, solver=METHODS[name], seed=seeds, batch=3), whole)
    assert torch.equal(draw(field, 1, steps=7, solver=METHODS[name], seed=seeds[2:3]), whole[2:3])


def test_a_source_that_is_not_gaussian_and_options_out_of_range_are_refused():
    field = gaussian()
    field.gaussian = False
    with pytest.raises(SourceNotGaussianError, match="SDE adds noise by the score"):
        draw(field, 2, solver="sde")
    with pytest.raises(UnknownOptionError, match="diffusion 'sigam' is unknown; did you mean 'sigma'"):
        SDE(diffusion="sigam")
    for scale in (-1.0, math.inf, math.nan):
        with pytest.raises(OptionError, match="scale must be at least 0 and finite"):
            SDE(scale=scale)
    assert DPMSolver().stochastic is False
