"""The calling style of azula, with stand-ins, and with azula itself where it is installed."""

import math
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from rheos.adapters import as_azula, from_azula
from rheos.core import AffinePath, Field, GaussianMixtureField
from rheos.core.errors import OptionError
from rheos.core.paths import JointPath
from rheos.sample import draw, solve

CENTRE, SPREAD = 1.5, 0.4
EXACT = GaussianMixtureField([[CENTRE, CENTRE]], [SPREAD])


class Posterior(NamedTuple):
    mean: Tensor


class Denoiser:
    """The exact denoiser of N(1.5, 0.4^2) on a cosine schedule that stops short of both ends, as azula's do."""

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []

    def schedule(self, t: Tensor) -> tuple[Tensor, Tensor]:
        alpha = torch.cos(math.acos(1e-3) * t)
        return alpha, torch.sqrt(1 - alpha**2 + 1e-6)

    def __call__(self, x: Tensor, t: Tensor, push: Tensor | None = None) -> Posterior:
        self.shapes.append(tuple(t.shape))
        a, s = (c.reshape(-1, 1) for c in self.schedule(t))
        mean = CENTRE + a * SPREAD**2 / (a**2 * SPREAD**2 + s**2) * (x - a * CENTRE)
        return Posterior(mean if push is None else mean + push[:, None])


def test_a_denoiser_is_a_field_on_the_linear_path() -> None:
    field = from_azula(Denoiser())
    x, t = torch.randn(4, 2, dtype=torch.float64), torch.tensor([0.01, 0.3, 0.6, 0.99], dtype=torch.float64)
    torch.testing.assert_close(field(x, t), EXACT(x, t), rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(field.data(x, 0.3), EXACT.data(x, 0.3))
    # its schedule stops at sigma / alpha = 1000 and 0.001, where ours goes on: x counts 0.4^2 / 1000
    torch.testing.assert_close(field(x, 0.0), EXACT(x, 0.0), rtol=0, atol=1e-3)


def test_a_shared_time_stays_one_number() -> None:
    denoiser = Denoiser()
    field = from_azula(denoiser)
    field.data(torch.zeros(3, 2), 0.5)
    field.data(torch.zeros(3, 2), torch.tensor([0.1, 0.2, 0.3]))
    assert denoiser.shapes == [(), (3,)]


def test_conditions_reach_the_denoiser() -> None:
    field = from_azula(Denoiser(), conditions=["push"])
    x = torch.zeros(2, 2, dtype=torch.float64)
    plain, pushed = field.data(x, 0.5, push=torch.zeros(2)), field.data(x, 0.5, push=torch.ones(2))
    torch.testing.assert_close(pushed - plain, torch.ones_like(x))


def test_a_field_has_its_schedule_and_its_clock() -> None:
    denoiser = as_azula(EXACT)
    alpha, sigma = denoiser.schedule(torch.tensor([0.0, 0.25, 1.0]))
    assert (alpha.tolist(), sigma.tolist()) == ([1.0, 0.75, 0.0], [0.0, 0.25, 1.0])
    x = torch.randn(2, 2, dtype=torch.float64)
    torch.testing.assert_close(denoiser(x, torch.tensor(0.25)).mean, EXACT.data(x, 0.75))
    torch.testing.assert_close(denoiser(x, torch.tensor([0.25, 0.5])).mean[1:], EXACT.data(x[1:], 0.5))


def test_there_and_back_is_the_same_field() -> None:
    for path in ("linear", "gvp"):
        exact = GaussianMixtureField([[1.0, 0.0], [-1.0, 0.5]], [0.3, 0.5], path=path)
        again = from_azula(as_azula(exact))
        x = torch.randn(3, 2, dtype=torch.float64)
        torch.testing.assert_close(again.data(x, 0.4), exact.on("linear").data(x, 0.4))


def test_misuse_is_an_error() -> None:
    with pytest.raises(OptionError, match="has none"):
        from_azula(lambda x, t: x)
    joint = Field(torch.nn.Identity(), JointPath({"a": AffinePath("linear")}))
    with pytest.raises(OptionError, match="affine paths"):
        as_azula(joint)


class TestWithAzula:
    """azula 0.11 itself."""

    @pytest.fixture
    def azula(self) -> Any:
        pytest.importorskip("azula")
        import azula.denoise
        import azula.linalg.covariance
        import azula.noise
        import azula.sample

        return azula

    def test_its_sampler_on_our_field_is_our_ddim(self, azula: Any) -> None:
        x = torch.randn(5, 2, dtype=torch.float64)
        theirs = azula.sample.DDIMSampler(as_azula(EXACT), steps=8, silent=True, dtype=torch.float64)(x)
        ours = solve(EXACT, x, [k / 8 for k in range(9)], "ddim").x
        torch.testing.assert_close(theirs, ours)

    def test_our_solver_on_its_denoiser_reaches_the_data(self, azula: Any) -> None:
        covariance = azula.linalg.covariance.DiagonalCovariance(torch.full((2,), SPREAD**2, dtype=torch.float64))
        mean = torch.full((2,), CENTRE, dtype=torch.float64)
        denoiser = azula.denoise.GaussianDenoiser(mean, covariance, azula.noise.VPSchedule())
        field = from_azula(denoiser)
        x = torch.randn(3, 2, dtype=torch.float64)
        torch.testing.assert_close(field(x, 0.4), EXACT(x, 0.4), rtol=1e-6, atol=1e-8)
        drawn = draw(field, 500, steps=20, shape=(2,))
        assert float(drawn.mean()) == pytest.approx(CENTRE, abs=0.05)  # the standard error is 0.013
