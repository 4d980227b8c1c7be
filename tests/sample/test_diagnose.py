import pytest
import torch
from torch import nn

from rheos.core import Field, Query
from rheos.core.errors import OptionError, ShapeError
from rheos.sample import DualFast, sampling_error
from strategies import gaussian, mixture, randn


class Off(nn.Module):
    """An exact field with a push whose effect grows towards the data."""

    def __init__(self, truth, push):
        super().__init__()
        self.truth, self.push = truth, push

    def forward(self, x, t):
        return self.truth.answer(Query(x, t.double(), (t, t), {})).value + self.push * t.view(-1, 1)


def test_an_exact_field_has_no_approximation_error_and_a_coarse_sampler_errs_by_its_steps():
    field, data = mixture(), mixture().sample_data(4000, seed=5)
    told = sampling_error(field, data, 6, "euler", fine=200, seed=1)
    assert max(told.fine) < 3 * max(told.floor) + 1e-3
    assert told.coarse[-1] > 10 * told.fine[-1]
    assert told.discretisation[-1] == told.coarse[-1] - told.fine[-1]
    assert told.evaluations == 6


def test_a_wrong_field_errs_more_towards_the_data_and_many_steps_do_not_help():
    truth = gaussian(dim=2)
    field, data = Field(Off(truth, 0.4), shape=(2,)).double(), truth.sample_data(4000, seed=5)
    field._clock = torch.float64
    told = sampling_error(field, data, 40, "heun", fine=400, seed=1)
    assert told.fine[-1] > 5 * told.fine[len(told.fine) // 2] > 0
    assert told.coarse[-1] == pytest.approx(told.fine[-1], rel=0.1)


def test_hooks_belong_to_the_sampler_alone():
    field, data = mixture(), mixture().sample_data(500, seed=5)
    plain = sampling_error(field, data, 6, fine=60)
    mixed = sampling_error(field, data, 6, steers=[DualFast(0.5)], fine=60)
    assert plain.fine == mixed.fine
    assert plain.coarse[-1] != mixed.coarse[-1]


def test_what_cannot_be_measured_is_refused():
    with pytest.raises(OptionError, match="fine must be at least 100, ten times the steps, got 50"):
        sampling_error(mixture(), randn(10, 2), 10, fine=50)
    with pytest.raises(OptionError, match="this grid runs backwards"):
        sampling_error(mixture(), randn(10, 2), (0.9, 0.1))
    with pytest.raises(ShapeError, match=r"samples of shape \(3,\), the field of \(2,\)"):
        sampling_error(mixture(), randn(10, 3))
