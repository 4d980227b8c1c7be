import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rheos.core.errors import NonFiniteError, OptionError, ShapeError, TimeError
from rheos.metrics import (
    curvature,
    normalised_path_energy,
    path_energy,
    straightness,
    transport_cost,
    turning,
    wasserstein,
)

quick = settings(max_examples=25, deadline=None, derandomize=True)
seeds = st.integers(0, 2**31 - 1)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def grid(n, seed):
    """n + 1 increasing times from 0 to 1."""
    steps = torch.rand(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 0.1
    return torch.cat((torch.zeros(1).double(), (steps / steps.sum()).cumsum(0)))


def arc(angle, radius, n):
    """(n + 1, 2, 3): two arcs at constant speed, one of them lifted out of the plane."""
    phi = torch.linspace(0, angle, n + 1, dtype=torch.float64)
    x = radius * torch.stack((phi.cos(), phi.sin(), torch.zeros_like(phi)), 1)
    return torch.stack((x, x.roll(1, dims=1) + 5), 1)


@quick
@given(n=st.integers(1, 9), seed=seeds)
def test_straight_lines_at_constant_speed_are_straight_and_cost_the_transport(n, seed):
    x0, x1, times = normal(6, 2, 2, seed=seed), normal(6, 2, 2, seed=seed + 1), grid(n, seed)
    path = x0 + times[:, None, None, None] * (x1 - x0)
    cost = transport_cost(x0, x1)
    assert straightness(path, times) == pytest.approx(0.0, abs=1e-24 * n + 1e-20)
    assert path_energy(path, times) == pytest.approx(cost, rel=1e-9)
    assert turning(path) == pytest.approx(0.0, abs=1e-11)
    assert curvature(path) == pytest.approx(0.0, abs=1e-11)


@quick
@given(n=st.integers(1, 9), seed=seeds, span=st.floats(0.1, 10))
def test_straightness_is_the_energy_beyond_that_of_the_chord(n, seed, span):
    path, times = normal(n + 1, 5, 3, seed=seed), span * grid(n, seed)
    chord = transport_cost(path[0], path[-1]) / span
    assert straightness(path, times) == pytest.approx(path_energy(path, times) - chord, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("angle", [0.3, 2.0, 6.0])
@pytest.mark.parametrize("radius", [0.1, 7.0])
@pytest.mark.parametrize("n", [2, 5, 100])
def test_arcs_have_their_closed_forms_at_every_number_of_steps(angle, radius, n):
    path, times = arc(angle, radius, n), torch.linspace(0, 1, n + 1, dtype=torch.float64)
    energy = (2 * radius * n * math.sin(angle / (2 * n))) ** 2
    chord = (2 * radius * math.sin(angle / 2)) ** 2
    assert path_energy(path, times) == pytest.approx(energy, rel=1e-9)
    assert straightness(path, times) == pytest.approx(energy - chord, rel=1e-9)
    assert curvature(path) == pytest.approx(1 / radius, rel=1e-9)
    assert turning(path) == pytest.approx(angle * (n - 1) / n, rel=1e-9)


def test_uneven_speed_on_a_line_is_not_straight_but_does_not_turn():
    times = torch.linspace(0, 1, 1001, dtype=torch.float64)
    path = (times**2)[:, None, None]  # ∫ (2t - 1)² dt = 1/3
    assert straightness(path, times) == pytest.approx(1 / 3, rel=1e-5)
    assert turning(path) == 0.0
    assert curvature(path) == 0.0


@quick
@given(n=st.integers(1, 5), seed=seeds)
def test_no_path_costs_less_energy_than_optimal_transport_of_its_ends(n, seed):
    path, times = normal(n + 1, 7, 2, seed=seed), grid(n, seed)
    squared = wasserstein(path[0], path[-1]) ** 2
    assert path_energy(path, times) >= squared * (1 - 1e-9)
    assert transport_cost(path[0], path[-1], 1.0) >= wasserstein(path[0], path[-1], 1.0) * (1 - 1e-9)


def test_the_optimal_flow_has_no_excess_energy_and_detours_count_in_units_of_it():
    x0 = normal(8, 2)
    x1, times = 3 * x0 + 1, torch.tensor([0.0, 0.5, 1.0])
    w2_squared = wasserstein(x0, x1) ** 2
    middle = (x0 + x1) / 2
    assert normalised_path_energy(torch.stack((x0, middle, x1)), times, w2_squared) == pytest.approx(0.0, abs=1e-12)
    detour = torch.stack((x0, middle + torch.tensor([0.0, 1.0]), x1))  # adds 2 · ½ · (1 / ½)² = 4 for any middle
    assert normalised_path_energy(detour, times, w2_squared) == pytest.approx(4 / w2_squared, rel=1e-9)


@quick
@given(seed=seeds, scale=st.floats(0.1, 10))
def test_turning_has_no_scale_and_curvature_has_one_over_length(seed, scale):
    path = normal(6, 4, 3, seed=seed)
    assert turning(scale * path) == pytest.approx(turning(path), rel=1e-9)
    assert curvature(scale * path) == pytest.approx(curvature(path) / scale, rel=1e-9)


def test_pauses_do_not_turn_and_a_way_back_turns_by_half_a_circle():
    go = torch.tensor([0.0, 1.0, 1.0, 2.0])[:, None, None]
    assert turning(go) == 0.0
    assert curvature(torch.zeros(3, 2, 2)) == 0.0
    assert turning(torch.tensor([0.0, 1.0, 0.0])[:, None, None]) == pytest.approx(math.pi, rel=1e-12)
    assert curvature(torch.tensor([0.0, 1.0, 0.0])[:, None, None]) == 0.0  # its circle is a line


def test_times_must_be_one_a_state_and_increase():
    path = torch.zeros(3, 1, 1)
    with pytest.raises(TimeError, match=r"3 states needs times of shape \(3,\), got \(2,\)"):
        straightness(path, torch.tensor([0.0, 1.0]))
    with pytest.raises(TimeError, match="strictly increasing"):
        path_energy(path, torch.tensor([0.0, 0.5, 0.5]))
    with pytest.raises(TimeError, match="strictly increasing"):
        path_energy(path, torch.tensor([0.0, 0.5, math.nan]))


@pytest.mark.parametrize("metric", [turning, curvature])
def test_a_path_has_two_states_and_rows(metric):
    with pytest.raises(ShapeError, match=r"at least 2 states, got \(1, 4, 2\)"):
        metric(torch.zeros(1, 4, 2))
    with pytest.raises(ShapeError, match=r"at least 2 states, got \(3, 0, 2\)"):
        metric(torch.zeros(3, 0, 2))


def test_a_nan_is_placed_in_time():
    path = torch.zeros(4, 2, 2)
    path[2, 1] = math.nan
    with pytest.raises(NonFiniteError, match="first at state 2 of 4"):
        path_energy(path, torch.linspace(0, 1, 4))


def test_costs_need_pairs_and_sane_numbers():
    with pytest.raises(ShapeError, match="two ends of the same rows, got 2 and 3"):
        transport_cost(torch.zeros(2, 1), torch.zeros(3, 1))
    with pytest.raises(OptionError, match="p must be a positive number"):
        transport_cost(torch.zeros(2, 1), torch.zeros(2, 1), 0.0)
    with pytest.raises(OptionError, match=r"w2_squared must be a positive number, got 0\.0; use wasserstein"):
        normalised_path_energy(torch.zeros(2, 1, 1), torch.tensor([0.0, 1.0]), 0.0)
