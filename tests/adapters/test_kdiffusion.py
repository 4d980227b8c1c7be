"""The calling style of k-diffusion, against its samplers written out."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from rheos.adapters import StepTable, as_kdiffusion, from_kdiffusion, kdiffusion_sampler
from rheos.adapters.doors import exact_clock
from rheos.adapters.table import alpha_bars
from rheos.core import AffinePath, Field, GaussianMixtureField
from rheos.core.errors import ConditionError, OptionError, TimeError
from rheos.core.paths import JointPath
from rheos.sample import solve

SIGMAS = torch.tensor([20.0, 8.0, 3.0, 1.0, 0.3, 0.0], dtype=torch.float64)
CENTRE, SPREAD = 1.5, 0.4


def gaussian(x: Tensor, sigma: Tensor, **extra: Any) -> Tensor:
    """The exact denoiser of N(1.5, 0.4^2)."""
    s2 = sigma.reshape(-1, *[1] * (x.ndim - 1)).square()
    return CENTRE + SPREAD**2 / (SPREAD**2 + s2) * (x - CENTRE)


def euler(model: Callable[..., Tensor], x: Tensor, sigmas: Tensor) -> Tensor:
    for s, after in pairwise(sigmas):
        x = x + (x - model(x, s.expand(len(x)))) / s * (after - s)
    return x


def dpmpp_2m(model: Callable[..., Tensor], x: Tensor, sigmas: Tensor) -> Tensor:
    old, h_last = None, None
    for s, after in pairwise(sigmas):
        d = model(x, s.expand(len(x)))
        h = s.log() - after.log()
        mixed = d if old is None or after == 0 else d + (d - old) * h / (2 * h_last)
        x = after / s * x - torch.expm1(-h) * mixed
        old, h_last = d, h
    return x


TABLE = StepTable(tuple(alpha_bars("linear", 100, 1e-3, 0.2)))


@pytest.mark.parametrize("path", ["linear", "gvp", "vp", AffinePath(TABLE)])
def test_a_field_denoises_data_plus_noise_on_any_path(path: Any) -> None:
    model = as_kdiffusion(GaussianMixtureField([[CENTRE, CENTRE]], [SPREAD], path=path))
    x = torch.randn(5, 2, dtype=torch.float64) * 3
    sigma = torch.tensor([0.05, 0.5, 1.0, 3.0, 8.0], dtype=torch.float64)
    torch.testing.assert_close(model(x, sigma), gaussian(x, sigma))
    torch.testing.assert_close(model(x, torch.zeros(5)), x, rtol=0, atol=1e-3 if path == "vp" else 1e-12)


def test_the_highest_level_is_that_of_the_path() -> None:
    assert as_kdiffusion(GaussianMixtureField([[0.0]], [1.0])).sigma_max == float("inf")
    assert as_kdiffusion(GaussianMixtureField([[0.0]], [1.0], path="edm")).sigma_max == pytest.approx(80.0)


def test_conditions_are_extra_arguments() -> None:
    model = as_kdiffusion(GaussianMixtureField([[3.0], [-3.0]], [0.1, 0.1], labels=[0, 1]))
    x, sigma = torch.zeros(2, 1, dtype=torch.float64), torch.tensor(50.0)
    found = model(x, sigma, label=torch.tensor([0, 1]))
    torch.testing.assert_close(found, torch.tensor([[3.0], [-3.0]], dtype=torch.float64), rtol=0, atol=1e-3)
    with pytest.raises(ConditionError, match="Unknown condition"):
        model(x, sigma, words=torch.zeros(2))


def test_a_denoiser_is_a_field_on_the_linear_path() -> None:
    field, exact = from_kdiffusion(gaussian), GaussianMixtureField([[CENTRE, CENTRE]], [SPREAD])
    x, t = torch.randn(4, 2, dtype=torch.float64), torch.tensor([0.05, 0.3, 0.6, 0.9], dtype=torch.float64)
    torch.testing.assert_close(field(x, t), exact(x, t))
    torch.testing.assert_close(field.score(x, t), exact.score(x, t))
    # at t = 0 it is asked at sigma_max, where it still looks at x a little: (0.4 / 80)^2 x_VE = 2e-3 x
    torch.testing.assert_close(field(x, 0.0), exact(x, 0.0), rtol=0, atol=0.02)
    back = as_kdiffusion(field)
    torch.testing.assert_close(back(x, 1 / t - 1), gaussian(x, 1 / t - 1))


def test_conditions_reach_the_denoiser() -> None:
    field = from_kdiffusion(lambda x, sigma, shift: 0 * x + shift[:, None], conditions=["shift"])
    assert float(field.data(torch.zeros(1, 1), 0.5, shift=torch.tensor([2.0]))) == 2.0


@pytest.mark.parametrize(("name", "peer"), [("ddim", euler), ("dpm++2m", dpmpp_2m)])
def test_our_solvers_are_its_samplers(name: str, peer: Callable[..., Tensor]) -> None:
    x = torch.randn(8, 2, dtype=torch.float64) * SIGMAS[0]
    ours = kdiffusion_sampler(name)(gaussian, x, SIGMAS)
    torch.testing.assert_close(ours, peer(gaussian, x, SIGMAS), rtol=0, atol=1e-10)
    field = as_kdiffusion(GaussianMixtureField([[CENTRE, CENTRE]], [SPREAD]))
    torch.testing.assert_close(ours, kdiffusion_sampler(name)(field, x, SIGMAS), rtol=0, atol=1e-8)


def test_a_sampler_may_stop_before_zero_noise() -> None:
    x = torch.randn(4, 2, dtype=torch.float64) * SIGMAS[0]
    ours = kdiffusion_sampler("ddim")(gaussian, x, SIGMAS[:-1])
    torch.testing.assert_close(ours, euler(gaussian, x, SIGMAS[:-1]), rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", ["heun", "rk4", "ddpm", "unipc"])
def test_every_solver_reaches_the_data(name: str) -> None:
    x = torch.randn(2000, 1, dtype=torch.float64) * 50
    sigmas = torch.cat((torch.logspace(1.7, -2, 40, dtype=torch.float64), torch.zeros(1)))
    done = kdiffusion_sampler(name, seed=3)(gaussian, x, sigmas)
    # standard errors 0.4 / sqrt(2000) = 0.009 and 0.006; ancestral steps of 40 are biased by 0.01
    assert float(done.mean()) == pytest.approx(CENTRE, abs=0.04)
    assert float(done.std()) == pytest.approx(SPREAD, abs=0.04)


def test_the_callback_sees_every_step_once() -> None:
    seen: list[dict[str, Any]] = []
    x = torch.randn(2, 2, dtype=torch.float64) * SIGMAS[0]
    kdiffusion_sampler("heun")(gaussian, x, SIGMAS, {"anything": 1}, seen.append, disable=True)
    assert [d["i"] for d in seen] == [0, 1, 2, 3, 4]
    assert [d["sigma"] for d in seen] == SIGMAS[:-1].tolist()
    torch.testing.assert_close(seen[0]["x"], x)
    for d in seen:
        torch.testing.assert_close(d["denoised"], gaussian(d["x"], torch.full((2,), d["sigma"])))


def test_the_result_is_that_of_solve() -> None:
    x = torch.randn(2, 2, dtype=torch.float64) * SIGMAS[0]
    times = [1 / (1 + float(s)) for s in SIGMAS]
    ours = solve(from_kdiffusion(gaussian), x * times[0], times, "midpoint").x
    torch.testing.assert_close(kdiffusion_sampler("midpoint")(gaussian, x, SIGMAS), ours)


def test_misuse_is_an_error() -> None:
    with pytest.raises(OptionError, match="sigma_max must be positive"):
        from_kdiffusion(gaussian, sigma_max=0)
    with pytest.raises(TimeError, match="noise levels that fall"):
        kdiffusion_sampler("euler")(gaussian, torch.zeros(1, 1), [3.0, 1.0, 2.0])
    with pytest.raises(OptionError, match="not one a variable"):
        exact_clock({"a": 0.5}, {"a": torch.zeros(1, 1)})
    joint = Field(torch.nn.Identity(), JointPath({"a": AffinePath("linear")}))
    with pytest.raises(OptionError, match="needs an affine path"):
        as_kdiffusion(joint)
