"""A network that predicts noise is told from a velocity, whatever the width of the data."""

import warnings

import pytest
import torch
from torch import Tensor, nn

from rheos.core import Field, GaussianMixtureField
from rheos.core.errors import OptionError
from rheos.distill.kit import check_teacher


class Exact(nn.Module):
    """Closed forms of a Gaussian of the given deviations: `kind` says of what."""

    conditions: frozenset[str] = frozenset()

    def __init__(self, kind: str, *std: float, off: float = 0.0) -> None:
        super().__init__()
        self.kind, self.off = kind, off
        self.std = nn.Parameter(torch.tensor(std))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        t, s = t[:, None], self.std
        if self.kind == "straight":  # x1 = s x0
            return (s - 1) * x / (1 - t + t * s)
        spread = ((1 - t) ** 2 + (t * s) ** 2).clamp(min=1e-6)
        if self.kind == "velocity":  # independent pairs
            return (t * s**2 - (1 - t)) / spread * x
        return (1 - self.off) * (1 - t) / spread * x + self.off * x.flip(1)  # E[x0 | x_t], and an error beside it


def teacher(kind: str, *std: float, **given) -> Field:
    off = given.pop("off", 0.0)
    return Field(Exact(kind, *std, off=off), shape=(2,), **given)


@pytest.mark.parametrize("kind", ["velocity", "straight"])
@pytest.mark.parametrize("std", [(0.5,), (1.0,), (2.0,), (4.0,), (2.1,), (3.6,), (3.5, 0.5)])
def test_true_velocities_pass_whatever_the_width_of_their_data(kind, std):
    field = teacher(kind, *std)
    if kind == "straight" and std in ((2.0,), (2.1,)):  # v(x0, 0) is x0, or nearly
        with pytest.warns(UserWarning, match="seems to predict noise.*along straight paths, look the same"):
            check_teacher(field)
        return
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_teacher(field)


def test_velocities_of_mixtures_pass():
    for means, std in (([[-2.0, 0.0], [2.0, 0.0]], 0.5), ([[5.0, 5.0]], 1.0), ([[0.0, 0.0]], 3.0)):
        check_teacher(GaussianMixtureField(means, [std] * len(means)))


@pytest.mark.parametrize("std", [0.05, 0.5, 1.0, 2.0, 4.0])
def test_an_estimate_of_the_noise_is_refused(std):
    for off in (0.0, 0.1):
        with pytest.raises(OptionError, match=r"seems to predict noise. Declare it: Field\(net, path='vp'"):
            check_teacher(teacher("noise", std, off=off))
    check_teacher(Field(Exact("noise", std), "vp", "noise", shape=(2,)))


def test_a_poor_estimate_of_the_noise_is_warned_of():
    with pytest.warns(UserWarning, match="seems to predict noise"):
        check_teacher(teacher("noise", 0.7, off=0.3))


def test_a_range_of_values_decides_what_straight_paths_leave_open():
    with pytest.raises(OptionError, match="seems to predict noise"):
        check_teacher(teacher("straight", 2.0, value_range=(-1.0, 1.0)))
    with pytest.warns(UserWarning, match="seems to predict noise"):
        check_teacher(teacher("straight", 2.0, value_range=(-8.0, 8.0)))
