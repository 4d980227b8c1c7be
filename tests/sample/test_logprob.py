import math

import pytest
import torch
from torch import nn

from rheos.core import Field, Steer
from rheos.core.errors import OptionError, ShapeError
from rheos.sample import CFG, DDIM, SDE, SDEDPM, Ancestral, draw_solution, step_logprob
from strategies import gaussian, mixture

METHODS = {"sde": SDE(), "ddim": DDIM(eta=0.7), "ancestral": Ancestral(), "dpm": SDEDPM(order=1), "2m": SDEDPM()}


@pytest.mark.parametrize("name", METHODS)
def test_the_density_of_a_drawn_step_is_that_of_its_noise(name):
    """x' = mean + std z, so ln p = -z^2 / 2 - d ln std - d ln(2 pi) / 2: on average - d (1 / 2 + ln std + ...)."""
    field = gaussian(dim=3)
    drawn = draw_solution(field, 4000, steps=6, solver=METHODS[name], trace=True, seed=1)
    logp = step_logprob(field, drawn.path, drawn.times, METHODS[name])
    assert logp.shape == (6, 4000)
    assert (logp[-1] == 0).all()  # the last step has no noise
    inner = logp[1:-1]
    spread = inner.std(1)  # of a half chi-square with three degrees of freedom: sqrt(3 / 2)
    torch.testing.assert_close(spread, torch.full_like(spread, math.sqrt(1.5)), rtol=0.06, atol=0)


def test_a_step_of_the_sde_is_the_formula():
    field, method = gaussian(), SDE(diffusion="constant")
    drawn = draw_solution(field, 5, steps=4, solver=method, trace=True)
    logp = step_logprob(field, drawn.path, drawn.times, method)
    x, reached, t, h = drawn.path[2], drawn.path[3], 0.5, 0.25
    w = min(1.0, 0.25 * 0.5**2 / h)
    mean = x + h * (field(x, t) + 0.5 * w * field.score(x, t))
    expected = torch.distributions.Normal(mean, math.sqrt(w * h)).log_prob(reached).sum(1)
    torch.testing.assert_close(logp[2], expected)


class Line(nn.Module):
    conditions = frozenset()

    def __init__(self, slope):
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(slope, dtype=torch.float64))

    def forward(self, x, t):
        return self.slope * x


def test_it_can_be_differentiated_and_the_gradient_is_that_of_the_log_density():
    field = Field(Line(0.3), shape=(2,))
    drawn = draw_solution(field, 3, steps=4, solver="sde", trace=True)
    logp = step_logprob(field, drawn.path, drawn.times, "sde")
    (grad,) = torch.autograd.grad(logp.sum(), [field.net.slope])
    with torch.no_grad():
        ends = [
            float(step_logprob(Field(Line(slope), shape=(2,)), drawn.path, drawn.times, "sde").sum())
            for slope in (0.3 - 1e-5, 0.3 + 1e-5)
        ]
    assert float(grad) == pytest.approx((ends[1] - ends[0]) / 2e-5, rel=1e-5)
    with torch.no_grad():
        assert not step_logprob(field, drawn.path, drawn.times, "sde").requires_grad


def test_guidance_and_conditions_are_those_of_the_run():
    field, label = mixture(labels=True), torch.tensor([0, 1, 1])
    drawn = draw_solution(field, 3, steps=5, solver="sde", guidance=2.0, label=label, trace=True)
    right = step_logprob(field, drawn.path, drawn.times, "sde", cond={"label": label}, steers=[CFG(2.0)])
    wrong = step_logprob(field, drawn.path, drawn.times, "sde", cond={"label": label})
    assert right.sum() > wrong.sum()


def test_solvers_without_a_density_and_paths_of_another_length_are_refused():
    drawn = draw_solution(gaussian(), 2, steps=4, solver="sde", trace=True)
    for name in ("heun", "ddim", "churn"):
        with pytest.raises(OptionError, match="has no Gaussian step, so no density"):
            step_logprob(gaussian(), drawn.path, drawn.times, name)
    with pytest.raises(ShapeError, match=r"path has \[5\] states for 4 times"):
        step_logprob(gaussian(), drawn.path, drawn.times[:-1], "sde")


class Push(Steer):
    def state(self, view, start, end, velocity):
        return end + 0.5


def test_steers_that_move_states_are_refused():
    drawn = draw_solution(gaussian(), 2, steps=4, solver="sde", trace=True)
    with pytest.raises(OptionError, match="Push changes states by its hook 'state'"):
        step_logprob(gaussian(), drawn.path, drawn.times, "sde", steers=[Push()])
