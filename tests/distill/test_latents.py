"""Few-step inversion, translation and interpolation, against flows whose map is known."""

import math

import pytest
import torch
from torch import nn

from rheos.core import Draws, Field, GeodesicPath, UnitQuaternion, row_seeds
from rheos.core.errors import OptionError, ShapeError
from rheos.distill import encode, interpolate, slerp, translate
from strategies import gaussian, randn


class Straight(nn.Module):
    """x1 = 3 x0 + label: paths are straight, so Euler is exact at any number of steps."""

    conditions = frozenset({"label"})

    def __init__(self):
        super().__init__()
        self.p = nn.Parameter(torch.zeros((), dtype=torch.float64))
        self.config = {"classes": 5}

    def null(self, name, rows):
        return torch.full((rows,), 5)

    def forward(self, x, t, label):
        t, c = t.reshape(-1, 1), label.double().reshape(-1, 1)
        return 2 * (x - t * c) / (1 + 2 * t) + c


def straight():
    return Field(Straight(), shape=(2,))


@pytest.mark.parametrize("evaluations", [1, 4, 8])
def test_on_a_straight_flow_encoding_undoes_sampling_at_any_number_of_steps(evaluations):
    z = randn(5, 2)
    found = encode(straight(), 3 * z + 2, evaluations=evaluations, noise=0.0, label=2)
    assert torch.allclose(found, z, atol=1e-12)


def test_encoding_begins_a_thousandth_before_the_data_with_noise_of_its_seed():
    z = randn(5, 2)
    x = 3 * z + 2
    noise = Draws(row_seeds(3, 5)).normal(x, "encode")
    start = 0.999 * x + 1e-3 * noise
    want = (start - 0.999 * 2) / (0.001 + 0.999 * 3)  # x_t = (1 - t) z + t (3 z + 2), solved for z
    assert torch.allclose(encode(straight(), x, seed=3, label=2), want, atol=1e-12)


def test_translation_keeps_the_noise_and_changes_the_class():
    z = randn(5, 2)
    found = translate(straight(), 3 * z + 2, 2, 4)
    assert torch.allclose(found, 3 * z + 4, atol=0.02)  # the thousandth of noise at the start, three times as large


def test_interpolation_begins_and_ends_at_its_ends_and_follows_the_sphere_of_noise_between():
    a, b = randn(2, seed=1), randn(2, seed=2)
    found = interpolate(straight(), 3 * a + 1, 3 * b + 1, torch.tensor([0.0, 0.5, 1.0]), label=1)
    between = slerp(a[None], b[None], 0.5)[0]
    want = 3 * torch.stack((a, between, b)) + 1
    assert torch.allclose(found, want, atol=0.02)  # as above


def test_slerp_keeps_the_length_of_unit_rows_and_divides_their_angle():
    a, b = torch.tensor([[1.0, 0.0]]).double(), torch.tensor([[math.cos(2.0), math.sin(2.0)]]).double()
    for w in (0.0, 0.25, 0.5, 1.0):
        want = torch.tensor([[math.cos(2 * w), math.sin(2 * w)]]).double()
        assert torch.allclose(slerp(a, b, w), want, atol=1e-12)
    w = torch.tensor([0.25, 0.75])
    rows = slerp(a.expand(2, 2), b.expand(2, 2), w)
    assert torch.allclose(rows, torch.cat((slerp(a, b, 0.25), slerp(a, b, 0.75))))


def test_slerp_of_parallel_and_of_opposite_rows_is_the_straight_line():
    a = randn(3, 4)
    assert torch.allclose(slerp(a, 2 * a, 0.25), 1.25 * a)
    assert torch.allclose(slerp(a, -a, 0.25), 0.5 * a)
    near = slerp(a, a + 1e-6, 0.5)
    assert torch.allclose(near, a + 5e-7, atol=1e-9)


def test_slerp_of_normal_noise_has_its_length_where_the_straight_line_has_less():
    a, b = randn(50, 400, seed=1), randn(50, 400, seed=2)
    length = slerp(a, b, 0.5).norm(dim=1).mean() / 20
    assert float(length) == pytest.approx(1.0, abs=0.02)  # the mean of 50 lengths of standard error 0.035 / 7
    assert float(((a + b) / 2).norm(dim=1).mean() / 20) < 0.75


def test_eight_steps_bring_gaussian_data_back_to_their_noise():
    field = gaussian(mean=1.0, std=0.8, dim=2)
    z = randn(20, 2)
    error = (encode(field, 0.8 * z + 1, evaluations=8, noise=0.0) - z).abs().max()
    half = (encode(field, 0.8 * z + 1, evaluations=16, noise=0.0) - z).abs().max()
    assert float(error / half) == pytest.approx(2, abs=0.4)  # Euler's order


def test_bad_input_is_refused():
    field, x = straight(), randn(2, 2)
    with pytest.raises(OptionError, match="evaluations must be at least 1"):
        encode(field, x, evaluations=0)
    with pytest.raises(OptionError, match=r"noise must lie in \[0, 1\)"):
        encode(field, x, noise=1.0)
    with pytest.raises(ShapeError, match="two samples of one shape"):
        interpolate(field, x[0], x[0, :1], torch.zeros(2))
    with pytest.raises(ShapeError, match="rows of one shape"):
        slerp(x, x[:1], 0.5)
    curved = Field(nn.Linear(4, 3), GeodesicPath(UnitQuaternion()), shape=(4,))
    with pytest.raises(OptionError, match="affine path"):
        encode(curved, torch.zeros(2, 4))
