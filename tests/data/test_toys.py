"""Toy distributions against their closed-form moments and supports.

Means are of 40,000 points; five standard errors are allowed.
"""

import math

import pytest
import torch

from rheos.core.errors import OptionError, UnknownOptionError
from rheos.data import load, toy
from rheos.data.toys import TOYS

N = 40_000


def agrees(sample, expected):
    """Whether the mean of a sample lies within five of its standard errors of the expected value."""
    sample = sample.double()
    return abs(float(sample.mean()) - expected) <= 5 * float(sample.std()) / math.sqrt(len(sample))


def test_the_helper_tells_a_wrong_mean_from_a_right_one():
    x = toy("moons", N).x[:, 0]
    assert agrees(x, 0.5)
    assert not agrees(x, 0.6)


@pytest.mark.parametrize("name", TOYS)
def test_a_point_depends_on_its_row_and_the_seed_alone(name):
    x = toy(name, 500).x
    assert x.dtype == torch.float32
    assert torch.equal(x[:50], toy(name, 50).x)
    assert not torch.equal(x[:50], toy(name, 50, seed=1).x)
    assert len(x.unique(dim=0)) == 500


@pytest.mark.parametrize("name", TOYS)
def test_a_toy_is_loaded_by_name_unlabelled_and_without_a_range(name):
    data = load(name, limit=20)
    assert torch.equal(data.x, toy(name, 20).x)
    assert (data.classes, data.columns, data.delivers) == (0, {}, None)
    assert data.spec == {"source": name, "limit": 20}
    assert load(**toy(name, 20).spec).fingerprint == data.fingerprint


def test_a_toy_of_another_seed_has_no_source():
    assert toy("moons", 20, seed=3).spec == {"source": None}


def test_eight_gaussians_have_radius_5_and_variance_a_tenth():
    x = toy("8gaussians", N).x.double()
    which = (torch.atan2(x[:, 1], x[:, 0]) / (math.pi / 4)).round()
    offset = x - 5 * torch.stack(((which * math.pi / 4).cos(), (which * math.pi / 4).sin()), 1)
    assert agrees(offset.square().mean(1), 0.1)
    assert agrees(x.square().sum(1), 25.2)
    for k in range(8):
        assert agrees((which.remainder(8) == k).double(), 1 / 8)


def test_moons_are_two_half_circles_with_noise_a_twentieth_then_scaled():
    x = (toy("moons", N).x.double() + 1) / 3
    upper = x[:, 1] > 0.25  # where the noise cannot mix them up, compare with the nearer circle
    centre = torch.where(upper[:, None], torch.zeros(2).double(), torch.tensor([1.0, 0.5]).double())
    distance = (x - centre).norm(dim=1) - 1
    far = (x[:, 1] > 0.6) | (x[:, 1] < -0.1)
    assert agrees(distance[far].square(), 0.05**2)  # curvature enters at 0.05⁴, below the standard error
    assert agrees(x[:, 0], 0.5)
    assert agrees(x[:, 1], 0.25)


def test_the_checkerboard_fills_its_dark_squares_evenly_and_no_other():
    square = ((toy("checkerboard", N).x + 4) / 2).floor().long()
    assert square.min() == 0
    assert square.max() == 3
    assert (square.sum(1) % 2 == 0).all()
    for count in (square[:, 0] * 4 + square[:, 1]).bincount(minlength=16)[[0, 2, 5, 7, 8, 10, 13, 15]]:
        assert abs(int(count) - N / 8) < 5 * math.sqrt(N * 7 / 64)


def test_spirals_have_their_second_moment_and_are_symmetric():
    x = toy("spirals", N).x.double()
    arm = 9 * math.pi**2 / 2 + 0.5 * (4 / (3 * math.pi) + 2 - 8 / (9 * math.pi**2)) + 0.5 / 3
    assert agrees(x.square().sum(1), arm / 9 + 0.02)
    assert agrees(x[:, 0], 0.0)
    assert agrees(x[:, 1], 0.0)


def test_the_pinwheel_has_its_second_moment_and_five_blades():
    x = toy("pinwheel", N).x.double()
    assert agrees(x.square().sum(1), 4 * (1 + 0.3**2 + 0.1**2))
    fifth = torch.complex(x[:, 0], x[:, 1]) / x.norm(dim=1)
    assert agrees(fifth.real, 0.0)  # the first four harmonics of the angle vanish, the fifth does not
    assert agrees((fifth**4).imag, 0.0)
    assert float((fifth**5).mean().abs()) > 0.3


def test_the_swiss_roll_has_the_second_moment_of_its_radius():
    x = toy("swissroll2d", N).x.double()
    assert agrees((5 * x).square().sum(1), 13 * (1.5 * math.pi) ** 2 / 3 + 2)


def test_an_unknown_toy_or_no_points_are_refused():
    with pytest.raises(UnknownOptionError, match="did you mean 'moons'"):
        toy("moon")
    with pytest.raises(OptionError, match="n must be at least 1, got 0"):
        toy("moons", 0)
