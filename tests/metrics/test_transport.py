import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import wasserstein_distance

from rheos.core.errors import NonFiniteError, OptionError, ShapeError
from rheos.metrics import sliced_wasserstein, transport, wasserstein

quick = settings(max_examples=25, deadline=None, derandomize=True)
seeds = st.integers(0, 2**31 - 1)
counts = st.integers(1, 12)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def line(x):
    """The same rows on a line in the plane, so that the program or the assignment must find the sorted plan."""
    return torch.stack((0.6 * x, 0.8 * x), 1)


@quick
@given(n=counts, seed=seeds)
def test_gradients_of_convex_functions_are_optimal_maps(n, seed):
    a, root = normal(n, 4, seed=seed), normal(4, 4, seed=seed + 1)
    b = a @ (root @ root.T) + normal(4, seed=seed + 2)  # Brenier: x ↦ Ax + c with A ⪰ 0 couples optimally
    expected = float((a - b).square().sum(1).mean().sqrt())
    assert wasserstein(a, b[torch.randperm(n)]) == pytest.approx(expected, rel=1e-9)


@quick
@given(n=counts, m=counts, seed=seeds, p=st.sampled_from([1.0, 1.5, 2.0, 3.0]))
def test_the_sorted_plan_the_assignment_and_the_program_agree(n, m, seed, p):
    a, b = normal(n, seed=seed), normal(m, seed=seed + 1)
    assert wasserstein(line(a), line(b), p) == pytest.approx(wasserstein(a, b, p), rel=1e-9)
    equal = torch.ones(n, dtype=torch.float64)
    assert wasserstein(line(a), line(a.flip(0) ** 3), p, equal) == pytest.approx(wasserstein(a, a**3, p), rel=1e-9)


@quick
@given(n=counts, m=counts, seed=seeds, weighted=st.booleans())
def test_on_a_line_p_1_agrees_with_scipy(n, m, seed, weighted):
    a, b = normal(n, seed=seed), normal(m, seed=seed + 1)
    weights = (normal(n, seed=seed + 2).abs(), normal(m, seed=seed + 3).abs()) if weighted else (None, None)
    expected = wasserstein_distance(a, b, *weights)
    assert wasserstein(a, b, 1.0, *weights) == pytest.approx(expected, rel=1e-9)
    assert wasserstein(line(a), line(b), 1.0, *weights) == pytest.approx(expected, rel=1e-9)


@quick
@given(seed=seeds)
def test_masses_are_repeated_rows(seed):
    a, b = normal(4, 2, seed=seed), normal(6, 2, seed=seed + 1)
    repeats = torch.tensor([1, 3, 0, 2])
    expected = wasserstein(a.repeat_interleave(repeats, dim=0), b)
    assert wasserstein(a, b, weight_a=repeats.double()) == pytest.approx(expected, rel=1e-9)
    assert wasserstein(a.repeat(3, 1), b.repeat(2, 1)) == pytest.approx(wasserstein(a, b), rel=1e-9)


@quick
@given(seed=seeds, p=st.sampled_from([1.0, 2.0]))
def test_it_is_a_metric_and_grows_with_p(seed, p):
    a, b, c = (normal(6, 3, seed=seed + i) for i in range(3))
    assert wasserstein(a, c, p) <= wasserstein(a, b, p) + wasserstein(b, c, p) + 1e-9
    assert wasserstein(a, b, p) == pytest.approx(wasserstein(b, a, p), rel=1e-9)
    assert wasserstein(a, a.flip(0), p) == 0.0
    assert wasserstein(a, b, p) <= wasserstein(a, b, p + 1) + 1e-9


def test_quantiles_of_gaussians_have_the_distance_of_gaussians():
    quantiles = torch.special.ndtri((torch.arange(20000, dtype=torch.float64) + 0.5) / 20000)
    value = wasserstein(quantiles, 3 * quantiles + 4)  # √(4² + (3 - 1)²), the tails beyond 1/40000 missing
    assert value == pytest.approx(math.sqrt(20), rel=1e-4)


@pytest.mark.parametrize("p", [1.0, 2.0, 3.0])
def test_a_shift_costs_its_length_whatever_p(p):
    a = normal(30, 2, 2)
    assert wasserstein(a, a.flip(0) + 0.5, p) == pytest.approx(1.0, rel=1e-9)


@quick
@given(d=st.integers(1, 8), n=st.integers(1, 30), scale=st.floats(0, 3), seed=seeds)
def test_sliced_shifts_and_scales_have_closed_forms_in_full_frames(d, n, scale, seed):
    a, shift = normal(n, d, seed=seed), normal(d, seed=seed + 1)
    value = sliced_wasserstein(a, a.flip(0) + shift, projections=4 * d, seed=seed % 7)
    assert value**2 == pytest.approx(float(shift.square().sum()) / d, rel=1e-9)
    value = sliced_wasserstein(a, scale * a, projections=2 * d)
    assert value**2 == pytest.approx((scale - 1) ** 2 * float(a.square().sum(1).mean()) / d, rel=1e-9, abs=1e-18)


@quick
@given(n=counts, m=counts, seed=seeds, p=st.sampled_from([1.0, 2.0]))
def test_sliced_is_exact_on_a_line_and_below_the_exact_distance_in_space(n, m, seed, p):
    a, b = normal(n, seed=seed), normal(m, seed=seed + 1)
    assert sliced_wasserstein(a, b, p, projections=3) == pytest.approx(wasserstein(a, b, p), rel=1e-9)
    a, b = normal(n, 3, seed=seed), normal(m, 3, seed=seed + 1)
    assert sliced_wasserstein(a, b, p, projections=16) <= wasserstein(a, b, p) + 1e-9


@quick
@given(n=counts, m=counts, seed=seeds)
def test_repeating_all_rows_changes_no_sliced_distance(n, m, seed):
    a, b = normal(n, 3, seed=seed), normal(m, 3, seed=seed + 1)
    expected = sliced_wasserstein(a, b, projections=9)
    assert sliced_wasserstein(a.repeat(2, 1), b.repeat(3, 1), projections=9) == pytest.approx(expected, rel=1e-9)


def test_random_directions_are_uniform_on_the_sphere():
    # rows at the origin against one unit row: the mean of |θ₁| is 1/2 in space, its standard deviation 1/√12
    value = sliced_wasserstein(torch.zeros(1, 3), torch.tensor([[1.0, 0.0, 0.0]]), p=1.0, projections=30000)
    assert value == pytest.approx(0.5, abs=4 / math.sqrt(12 * 30000))


def test_a_seed_fixes_the_directions_and_blocks_of_directions_change_nothing(monkeypatch):
    a, b = normal(20, 5, seed=1), normal(30, 5, seed=2)
    expected = sliced_wasserstein(a, b, projections=33, seed=4)
    assert sliced_wasserstein(a, b, projections=33, seed=4) == expected
    assert sliced_wasserstein(a, b, projections=33, seed=5) != expected
    monkeypatch.setattr(transport, "_PROJECTED", 350)  # seven directions at a time
    assert sliced_wasserstein(a, b, projections=33, seed=4) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("metric", [wasserstein, sliced_wasserstein])
@pytest.mark.parametrize("p", [0.5, math.nan, math.inf])
def test_p_is_at_least_one(metric, p):
    with pytest.raises(OptionError, match="p must be a number of at least 1"):
        metric(torch.zeros(2, 2), torch.zeros(2, 2), p)


def test_projections_are_at_least_one():
    with pytest.raises(OptionError, match="projections must be at least 1, got 0"):
        sliced_wasserstein(torch.zeros(2, 2), torch.zeros(2, 2), projections=0)


@pytest.mark.parametrize("weight", [[1.0, -1.0], [0.0, 0.0], [1.0, math.nan]])
def test_masses_are_not_negative_nan_or_all_zero(weight):
    with pytest.raises(OptionError, match="weight_b must hold finite masses"):
        wasserstein(torch.zeros(3, 2), torch.zeros(2, 2), weight_b=torch.tensor(weight))


def test_masses_match_the_rows():
    with pytest.raises(ShapeError, match=r"weight_a needs one mass a row, shape \(3,\), got \(2,\)"):
        wasserstein(torch.zeros(3, 2), torch.zeros(2, 2), weight_a=torch.ones(2))


def test_a_program_without_optimum_is_an_error_and_no_number(monkeypatch):
    monkeypatch.setattr("ot.emd2", lambda *_, **__: (0.0, {"warning": "numItermax reached."}))
    with pytest.raises(NonFiniteError, match=r"no optimum: numItermax reached\. Use fewer rows"):
        wasserstein(torch.zeros(3, 2), torch.ones(2, 2))
