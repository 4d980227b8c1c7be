"""The bound on W2: closed forms of its terms, and that it holds."""

import math

import pytest
import torch

from rheos import core
from rheos.core import Draws, GaussianMixtureField, row_seeds
from rheos.core.errors import OptionError
from rheos.data import Functions, LatentCodec
from rheos.metrics import frechet
from rheos.sample import draw
from rheos.train.latent_bound import W2Bound, latent_w2_bound, spectral_norm


def same(name: str = "same") -> LatentCodec:
    return LatentCodec(Functions(lambda x: x, lambda z: z, name=name), 1.0)


def linear_flow(c: float, c_hat: float, n: int = 2) -> tuple[core.Field, object]:
    """Exact velocities of N(0, c² I) and, as the learned field, of N(0, c_hat² I)."""

    def law(s):
        return GaussianMixtureField(means=[[0.0] * n], stds=[s])

    return law(c_hat), lambda x, t: law(c)(x, t)


def test_the_bound_holds_for_a_linear_decoder_and_gaussian_latents():
    g = torch.Generator().manual_seed(0)
    a = torch.randn(3, 2, generator=g, dtype=torch.float64)
    back = torch.linalg.pinv(a)
    codec = LatentCodec(Functions(lambda x: x @ back.T, lambda z: z @ a.T, name="plane"), 1.0)
    field, exact = linear_flow(1.0, 0.8)
    z = torch.randn(2000, 2, generator=g, dtype=torch.float64)
    x = z @ a.T + 0.1 * torch.randn(2000, 3, generator=g, dtype=torch.float64)
    bound = latent_w2_bound(field.double(), codec, x, rows=500, velocity=exact)
    assert bound.decoder == pytest.approx(float(torch.linalg.matrix_norm(a, 2)), rel=1e-6)
    off = x - (x @ back.T) @ a.T
    assert bound.reconstruction == pytest.approx(float(off[:500].square().sum(1).mean()), rel=1e-9)
    w2 = (frechet(x, draw(field, 2000, steps=50, seed=1).double() @ a.T)) ** 0.5  # exact for Gaussians
    assert 0.1 < w2 < bound.w2
    loose = latent_w2_bound(field.double(), codec, x, rows=500)
    assert loose.flow > bound.flow  # the loss holds what no field can predict


def test_the_flow_error_and_its_slope_are_those_of_the_closed_form():
    field, exact = linear_flow(1.0, 0.5, n=3)
    z = torch.randn(4000, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    bound = latent_w2_bound(field.double(), same(), z, rows=4000, times=4, velocity=exact)

    def slope(t, s):
        return (t * s**2 - (1 - t)) / (t**2 * s**2 + (1 - t) ** 2)

    times = [0.125, 0.375, 0.625, 0.875]
    want = sum((slope(t, 1.0) - slope(t, 0.5)) ** 2 * 3 * (t**2 + (1 - t) ** 2) for t in times) / 4
    assert bound.flow == pytest.approx(want, rel=0.1)  # 4000 rows of chi-squared with 3 degrees
    assert bound.field == pytest.approx(max(abs(slope(t, 0.5)) for t in times), rel=1e-5)
    assert bound.reconstruction == 0


def test_the_printed_sum_of_squares_can_fail_where_the_sum_of_roots_cannot():
    shifts = W2Bound(reconstruction=1.0, flow=1.0, decoder=1.0, field=0.0)
    exact = (1 + 1) ** 2  # reconstruction off by 1, and a velocity off by 1 in the same direction
    assert shifts.printed < exact < shifts.w2**2
    assert W2Bound(1.0, 1.0, 1.0, 1e4).w2 == math.inf


def test_the_jacobian_norm_is_the_largest_singular_value_of_every_row():
    g = torch.Generator().manual_seed(0)
    a = torch.randn(4, 5, 3, generator=g, dtype=torch.float64)
    found = spectral_norm(
        lambda x: torch.einsum("bij,bj->bi", a, x), torch.randn(4, 3, generator=g, dtype=torch.float64), 200,
        Draws(row_seeds(0, 4)),
    )  # fmt: skip
    torch.testing.assert_close(found, torch.linalg.matrix_norm(a, 2), rtol=1e-6, atol=0)


def test_the_bound_refuses_what_it_cannot_measure():
    with pytest.raises(OptionError, match="must be at least 1, got 0"):
        latent_w2_bound(linear_flow(1.0, 1.0)[0], same(), torch.zeros(2, 2), rows=0)
