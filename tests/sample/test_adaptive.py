import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torchdiffeq import odeint

from rheos.core import Field, Query
from rheos.core.errors import OptionError, StepSizeError
from rheos.sample import DormandPrince, solve
from strategies import gaussian, mixture, randn


@pytest.mark.parametrize("path", ["linear", "gvp"])
@pytest.mark.parametrize("span", [(0.0, 1.0), (1.0, 0.0), (0.2, 0.7)])
def test_it_agrees_with_an_independent_implementation(path, span):
    field, x = mixture(path), randn(8, 2)

    def velocity(t, y):  # it looks a little beyond the ends of time, where the formula goes on
        return field.answer(Query(y, t, (t, t), {})).value

    oracle = odeint(velocity, x, torch.tensor(span).double(), rtol=1e-10, atol=1e-10, method="dopri5")[-1]
    ours = solve(field, x, span, DormandPrince(rtol=1e-9, atol=1e-9)).x
    torch.testing.assert_close(ours, oracle, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("tolerance", [1e-3, 1e-5, 1e-7])
def test_the_error_stays_near_the_tolerance(tolerance):
    field, x = gaussian(dim=2), randn(16, 2)
    solution = solve(field, x, (0.0, 1.0), DormandPrince(rtol=tolerance, atol=tolerance))
    error = (solution.x - field.flow_map(x, 0.0, 1.0)).abs().max()
    assert float(error) < 40 * tolerance
    assert solution.calls < {1e-3: 80, 1e-5: 160, 1e-7: 330}[tolerance]


@settings(max_examples=8)
@given(rows=st.permutations(range(6)), cut=st.integers(1, 5))
def test_a_row_does_not_depend_on_its_batch_mates(rows, cut):
    field, x = mixture(), randn(6, 2) * torch.tensor([0.01, 0.1, 1.0, 1.0, 3.0, 10.0]).double()[:, None]
    whole = solve(field, x, (0.0, 0.5, 1.0), "dopri5").x
    order = torch.tensor(rows)
    torch.testing.assert_close(
        solve(field, x[order], (0.0, 0.5, 1.0), "dopri5").x, whole[order], rtol=1e-13, atol=1e-13
    )
    torch.testing.assert_close(solve(field, x[:cut], (0.0, 0.5, 1.0), "dopri5").x, whole[:cut], rtol=1e-13, atol=1e-13)


def test_a_grid_in_between_changes_little_and_costs_little():
    field, x = mixture(), randn(8, 2)
    one, ten = (solve(field, x, [k / n for k in range(n + 1)], "dopri5") for n in (1, 10))
    torch.testing.assert_close(ten.x, one.x, rtol=0, atol=1e-4)
    assert ten.calls < 2.5 * one.calls  # a step cut short by a grid time does not shrink the next one


def test_a_field_without_motion_costs_a_handful_of_calls():
    solution = solve(Field(Still()), randn(3, 2), (0.0, 1.0), "dopri5")
    assert torch.equal(solution.x, randn(3, 2))
    assert solution.calls <= 1 + 6 * 6


def test_dict_states_and_single_numbers_a_row_are_measured_together():
    class Decay(nn.Module):
        def forward(self, x, t):
            return {"a": -x["a"], "b": -2 * x["b"]}

    start = {"a": randn(3, 2), "b": randn(3, seed=1)}
    field = Field(Decay())
    end = solve(field, start, (0.0, 1.0), DormandPrince(rtol=1e-8, atol=1e-8)).x
    torch.testing.assert_close(end["a"], start["a"] * torch.exp(torch.tensor(-1.0).double()), rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(end["b"], start["b"] * torch.exp(torch.tensor(-2.0).double()), rtol=1e-7, atol=1e-7)


class Still(nn.Module):
    def forward(self, x, t):
        return torch.zeros_like(x)


class Jumps(nn.Module):
    """A velocity of size 1 that turns around at a wall; no step across it is accurate, so steps shrink."""

    def forward(self, x, t):
        return torch.where(x.double() * 1e9 % 2 < 1, 1e6, -1e6).to(x)


class Breaks(nn.Module):
    def forward(self, x, t):
        return torch.where((t > 0.5)[:, None], torch.nan, 1.0) * torch.ones_like(x)


def test_a_tolerance_that_cannot_be_met_is_an_error_with_row_time_and_a_way_out():
    with pytest.raises(
        StepSizeError, match=r"stuck in row 0 at t = .*Loosen rtol and atol, or use a fixed-step"
    ) as caught:
        solve(Field(Jumps()), randn(2, 1), (0.0, 1.0), DormandPrince(most=50))
    assert caught.value.values["row"] == 0


def test_a_field_that_breaks_down_on_the_way_is_an_error_that_says_where():
    with pytest.raises(StepSizeError, match=r"stuck in row 0 at t = 0\.[45]"):
        solve(Field(Breaks()), randn(2, 1), (0.0, 1.0), "dopri5")


@pytest.mark.parametrize("bad", [{"atol": 0.0}, {"rtol": -1.0}, {"atol": float("nan")}])
def test_tolerances_are_positive(bad):
    with pytest.raises(OptionError, match="Tolerances need rtol >= 0 and atol > 0"):
        DormandPrince(**bad)
