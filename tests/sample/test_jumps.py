"""Jumps and churn keep the marginals.

On a Gaussian a step is affine, x' = A x + B + S z + K k, so the law of a run needs no samples; k is the noise of the
kick before the step, z that of the jump at its end.
"""

import itertools
import math

import pytest
import torch

from rheos.core import AffinePath, Steer
from rheos.core.errors import OptionError, SourceNotGaussianError, TimeError, UnknownOptionError
from rheos.core.solver import DONE
from rheos.sample import DDIM, SDE, SDEDPM, Ancestral, Churn, DPMSolver, Renoise, draw, solve
from strategies import SCHEDULES, gaussian, mixture, randn

M, C = 1.5, 0.3
METHODS = {
    "constant": SDE(diffusion="constant"),
    "sigma": SDE(),
    "sbdm": SDE(diffusion="sbdm"),
    "flow-grpo": SDE(diffusion="sbdm", scale=0.5 * 0.7**2),
    "ddim eta 0.5": DDIM(eta=0.5),
    "ddpm": DDIM(eta=1.0),
    "sde-dpm++": SDEDPM(order=1),
    "sde-dpm++ eta 0.5": SDEDPM(order=1, eta=0.5),
    "ancestral": Ancestral(),
    "ancestral eta 0.5": Ancestral(eta=0.5),
    "churn": Churn.edm(40.0, 400),
    "churn of Euler": Churn(gamma=0.02, heun=False),
    "churn in a range": Churn(gamma=0.05, low=0.05, high=50.0),
}


def one_step(method, field, x, t, end, z, k):
    s = method.start(method.init(x), t, end)
    if method.kicks:
        s = method.kick(s, torch.full_like(x, k))
    while s["stage"] != DONE:
        ask = method.ask(s)
        value = field.data(ask.x, ask.t) if ask.kind == "data" else field(ask.x, ask.t)
        s = method.tell(s, value, torch.full_like(x, z))
    return s["x"]


def final_law(method, path, n, start=0.0):
    """Mean and standard deviation at the end of a uniform grid."""
    field = gaussian(path, M, C)
    bound, law = method.bind(field.path, (0.0, 1.0)), field.path.law
    mean, variance = law.alpha(start) * M, (law.alpha(start) * C) ** 2 + law.sigma(start) ** 2
    probe = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    grid = [start + (1 - start) * j / n for j in range(n + 1)]
    for t, end in itertools.pairwise(grid):
        (b,), (ab,) = one_step(bound, field, probe, t, end, 0.0, 0.0).tolist()
        s = float(one_step(bound, field, probe, t, end, 1.0, 0.0)[0]) - b
        k = float(one_step(bound, field, probe, t, end, 0.0, 1.0)[0]) - b
        mean, variance = (ab - b) * mean + b, (ab - b) ** 2 * variance + s * s + k * k
    return mean, math.sqrt(variance)


@pytest.mark.parametrize("name", METHODS)
def test_four_hundred_steps_end_at_the_data(name):
    mean, std = final_law(METHODS[name], "linear", 400)
    assert mean == pytest.approx(M, abs=5e-3)
    assert std == pytest.approx(C, abs=4e-3)


@pytest.mark.parametrize("path", ["gvp", "vp"])
@pytest.mark.parametrize("name", METHODS)
def test_the_error_of_the_law_falls_with_the_step(name, path):
    coarse, fine = (final_law(METHODS[name], path, n) for n in (50, 200))
    for a, b, true in zip(coarse, fine, (M, C), strict=True):
        assert abs(b - true) < 0.55 * abs(a - true) or abs(b - true) < 1e-3  # 0.55: the churn stays as it is


@pytest.mark.parametrize("path", ["linear", "gvp"])
def test_samples_of_the_second_order_jump_have_the_law_too(path):
    x = draw(gaussian(path, M, C), 40_000, steps=100, solver=SDEDPM(), seed=1)
    assert float(x.mean()) == pytest.approx(M, abs=3 * C / 200 + 2e-3)
    assert float(x.std()) == pytest.approx(C, abs=3 * C / math.sqrt(80_000) + 3e-3)


def test_the_second_order_jump_is_more_accurate_than_the_first():
    """Without drawing: with eta small the mean path is nearly the ODE's, and errors of first and second order show."""
    field, x = mixture("vp"), randn(50, 2)
    grid = [0.05 + 0.9 * k / 20 for k in range(21)]
    reference = solve(field, x, [0.05 + 0.9 * k / 400 for k in range(401)], "rk4").x
    errors = [
        float((solve(field, x, grid, SDEDPM(order=order, eta=1e-6), seed=0).x - reference).norm()) for order in (1, 2)
    ]
    assert errors[1] < 0.5 * errors[0]


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("method", [SDEDPM(order=1, eta=0.7), Ancestral(eta=0.6), DDIM(eta=0.6)], ids=repr)
def test_jumps_with_the_true_data_land_on_the_marginal_exactly(schedule, method):
    """For known x1 and x0 the mean is alpha' x1 + r x0, and r^2 + std^2 is sigma'^2."""
    law = SCHEDULES[schedule]
    field = gaussian(AffinePath(law))
    bound = method.bind(field.path, (0.0, 1.0))
    x1 = torch.full((1, 1), 0.7, dtype=torch.float64)
    for t, end in ((0.0, 0.3), (0.2, 0.5), (0.5, 0.9), (0.8, 1.0)):
        ends = []
        for x0 in (0.0, 1.0):
            x = law.alpha(t) * x1 + law.sigma(t) * x0
            mean, std = bound.jump(bound.start(bound.init(x), t, end), x1)
            ends.append(float(mean))
        assert ends[0] == pytest.approx(law.alpha(end) * 0.7, rel=1e-9, abs=1e-9)
        assert (ends[1] - ends[0]) ** 2 + float(std) ** 2 == pytest.approx(law.sigma(end) ** 2, rel=1e-6, abs=1e-12)


def test_renoising_lands_on_the_marginal_of_its_estimate():
    bound = Renoise().bind(gaussian("gvp").path, (0.0, 1.0))
    x1 = randn(3, 1)
    mean, std = bound.jump(bound.start(bound.init(randn(3, 1, seed=1)), 0.2, 0.6), x1)
    torch.testing.assert_close(mean, bound.law.alpha(0.6) * x1)
    assert std == bound.law.sigma(0.6)
    assert bound.jump(bound.start(bound.init(x1), 0.6, 1.0), x1)[1] == 0


@pytest.mark.parametrize("order", [1, 2])
def test_without_fresh_noise_they_are_their_ode(order):
    field, x, grid = mixture("gvp"), randn(4, 2), [0.05 + 0.9 * k / 9 for k in range(10)]
    torch.testing.assert_close(
        solve(field, x, grid, SDEDPM(order=order, eta=0.0)).x, solve(field, x, grid, DPMSolver(order=order)).x,
        rtol=1e-11, atol=1e-11,
    )  # fmt: skip
    torch.testing.assert_close(
        solve(field, x, grid, Ancestral(eta=0.0)).x, solve(field, x, grid, "ddim").x, rtol=1e-11, atol=1e-11
    )
    torch.testing.assert_close(
        solve(field, x, grid, Churn(gamma=0.0)).x, solve(field, x, grid, "heun").x, rtol=1e-11, atol=1e-11
    )


def test_ancestral_sampling_is_its_formula_on_the_linear_path():
    t, end, eta = 0.3, 0.55, 0.8
    bound = Ancestral(eta=eta).bind(gaussian().path, (0.0, 1.0))
    x, x1 = randn(3, 1), randn(3, 1, seed=1)
    s, r = 1 - t, 1 - end
    down = r * (1 + (r / s - 1) * eta)
    noise = (x - t * x1) / s
    there = (1 - down) * x1 + down * noise
    ratio = end / (1 - down)
    mean, std = bound.jump(bound.start(bound.init(x), t, end), x1)
    torch.testing.assert_close(mean, ratio * there)
    assert std == pytest.approx(math.sqrt(r * r - (ratio * down) ** 2))


def test_churn_asks_the_network_where_the_noise_has_put_the_state():
    asked = []

    class Spy(torch.nn.Module):
        def forward(self, x, t):
            asked.append(float(t[0]))
            return x

    field = gaussian()
    bound = Churn(gamma=0.3).bind(field.path, (0.0, 1.0))
    s = bound.kick(bound.start(bound.init(randn(2, 1)), 0.5, 0.6), randn(2, 1, seed=1))
    back = 1 / (1 + 1.3 * (1 - 0.5) / 0.5)  # the time whose (1 - t) / t is larger by 1.3
    assert bound.ask(s).t == pytest.approx(back)
    assert bound.ask(s).span == (s["t"], 0.6)
    first = bound.kick(bound.start(bound.init(randn(2, 1)), 0.0, 0.1), randn(2, 1, seed=1))
    assert torch.equal(first["x"], randn(2, 1))  # nothing is noisier than t = 0


@pytest.mark.parametrize("method", [SDEDPM(), Ancestral(), Churn(), Renoise()], ids=repr)
def test_a_row_depends_on_its_seed_alone(method):
    field, order, seeds = gaussian(dim=2), torch.tensor([3, 0, 2, 1]), torch.tensor([11, 12, 13, 14])
    whole = draw(field, 4, steps=7, solver=method, seed=seeds)
    assert torch.equal(draw(field, 4, steps=7, solver=method, seed=seeds[order]), whole[order])
    assert torch.equal(draw(field, 4, steps=7, solver=method, seed=seeds, batch=3), whole)


@pytest.mark.parametrize("method", [SDEDPM(), Ancestral(), Churn(), Renoise()], ids=repr)
def test_rows_that_have_ended_stay_while_others_walk_on(method):
    from rheos.sample import Loop, drive, join

    field, x, seeds = gaussian(dim=2), randn(2, 2), torch.arange(2)
    loop = Loop(field, method)
    grids = [(0.0, 0.5, 1.0), (0.0, 0.2, 0.4, 0.6, 0.8)]
    flights = [loop.begin(x[k : k + 1], g, {}, seeds[k : k + 1]) for k, g in enumerate(grids)]
    both, _ = drive(loop, field, join(flights))
    for k in range(2):
        torch.testing.assert_close(both.x[k : k + 1], drive(loop, field, flights[k])[0].x, rtol=1e-11, atol=1e-11)


def test_what_cannot_be_is_refused():
    for bad, text in (
        (lambda: SDEDPM(eta=-1.0), "eta must be at least 0 and finite"),
        (lambda: SDEDPM(order=3), "SDEDPM has the orders 1, 2, got order=3"),
        (lambda: SDEDPM(warmup="rk"), "has no warm-up"),
        (lambda: Ancestral(eta=1.5), r"eta must lie in \[0, 1\]"),
        (lambda: Churn(gamma=-0.1), "gamma must be at least 0"),
        (lambda: Churn(low=2.0, high=1.0), "0 <= low < high"),
        (lambda: Churn(size=0.0), "size must be positive"),
    ):
        with pytest.raises(OptionError, match=text):
            bad()
    with pytest.raises(UnknownOptionError, match="warmup 'slow'"):
        SDEDPM(warmup="slow")
    field = gaussian()
    for method in (SDEDPM(), Ancestral(), Churn(), Renoise()):
        with pytest.raises(TimeError, match=f"{type(method).__name__} adds noise on the way to the data"):
            solve(field, randn(2, 1), (0.9, 0.1), method)
    field.gaussian = False
    for method in (SDEDPM(), Ancestral(), Churn(), Renoise()):
        with pytest.raises(SourceNotGaussianError, match=f"{type(method).__name__} adds noise by the score"):
            draw(field, 2, solver=method)


class Twice(Steer):
    """Walks every interval three times."""

    def rounds(self, view):
        return 3


@pytest.mark.parametrize("method", [Churn(gamma=0.4), DDIM(eta=1.0), SDEDPM(order=1)], ids=repr)
def test_repeating_intervals_keeps_the_law_of_a_churned_run_too(method):
    x = draw(gaussian(mean=M, std=C), 20_000, steps=60, solver=method, steers=[Twice()], seed=1)
    assert float(x.mean()) == pytest.approx(M, abs=2e-2)
    assert float(x.std()) == pytest.approx(C, abs=4e-2)
