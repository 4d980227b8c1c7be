import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import sqrtm

from rheos.core.errors import NonFiniteError, OptionError, ShapeError
from rheos.metrics import frechet, frechet_gaussians, standard_error

quick = settings(max_examples=25, deadline=None, derandomize=True)
seeds = st.integers(0, 2**31 - 1)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def covariance(d, seed, rank=None):
    a = normal(d, rank or d, seed=seed)
    return a @ a.T


@quick
@given(m=st.floats(-5, 5), s1=st.floats(0, 5), s2=st.floats(0, 5))
def test_on_a_line_it_is_the_difference_of_means_and_of_deviations_squared(m, s1, s2):
    one = torch.ones(1, 1, dtype=torch.float64)
    value = frechet_gaussians(torch.zeros(1), s1**2 * one, torch.tensor([m], dtype=torch.float64), s2**2 * one)
    assert value == pytest.approx(m**2 + (s1 - s2) ** 2, rel=1e-12, abs=1e-24)


@quick
@given(seed=seeds)
def test_in_the_plane_the_root_has_a_closed_trace(seed):
    c1, c2, mean = covariance(2, seed), covariance(2, seed + 1), normal(2, seed=seed + 2)
    product = c1 @ c2  # tr √M = √(tr M + 2 √det M) for 2 × 2
    root = math.sqrt(float(product.trace()) + 2 * math.sqrt(max(float(c1.det() * c2.det()), 0.0)))
    expected = float(mean.square().sum() + c1.trace() + c2.trace()) - 2 * root
    assert frechet_gaussians(mean, c1, torch.zeros(2).double(), c2) == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_rank_one_covariances_are_exact():
    u, v = normal(6, seed=1), normal(6, seed=2)
    value = frechet_gaussians(torch.zeros(6), u.outer(u), torch.zeros(6), v.outer(v))
    assert value == pytest.approx(float(u @ u + v @ v - 2 * (u @ v).abs()), rel=1e-9)


def test_it_agrees_with_the_matrix_square_root_where_that_is_well_conditioned():
    c1, c2 = covariance(16, 1) + torch.eye(16).double(), covariance(16, 2) + torch.eye(16).double()
    root = sqrtm((c1 @ c2).numpy()).real
    expected = float(c1.trace() + c2.trace()) - 2 * root.trace()
    assert frechet_gaussians(torch.zeros(16), c1, torch.zeros(16), c2) == pytest.approx(expected, rel=1e-10)


@quick
@given(seed=seeds, scale=st.floats(0.1, 10))
def test_rotations_change_nothing_and_a_scale_enters_squared(seed, scale):
    a, b = normal(40, 5, seed=seed), normal(30, 5, seed=seed + 1) * 2 + 1
    q = torch.linalg.qr(normal(5, 5, seed=seed + 2)).Q
    expected = frechet(a, b)
    assert frechet(a @ q, b @ q) == pytest.approx(expected, rel=1e-10)
    assert frechet(b, a) == pytest.approx(expected, rel=1e-10)
    assert frechet(scale * a, scale * b) == pytest.approx(scale**2 * expected, rel=1e-10)


@quick
@given(seed=seeds, scale=st.floats(0, 3), n=st.integers(2, 12))
def test_scaled_copies_have_a_closed_form_also_with_fewer_rows_than_dimensions(seed, scale, n):
    a = normal(n, 8, seed=seed) + 1
    expected = (scale - 1) ** 2 * float(torch.cov(a.T).trace() + a.mean(0).square().sum())
    assert frechet(a, scale * a) == pytest.approx(expected, rel=1e-7, abs=1e-12)


@quick
@given(seed=seeds, n=st.integers(2, 12), m=st.integers(2, 12))
def test_sets_have_the_distance_of_their_moments_whatever_their_counts(seed, n, m):
    a, b = normal(n, 6, seed=seed), 2 * normal(m, 6, seed=seed + 1) + 1
    moments = [(z.mean(0), torch.cov(z.T)) for z in (a, b)]
    assert frechet(a, b) == pytest.approx(frechet_gaussians(*moments[0], *moments[1]), rel=1e-9)


def test_a_shift_costs_its_square_and_equal_sets_cost_nothing():
    a = normal(50, 3, 2, 2)
    assert frechet(a, a + 0.5) == pytest.approx(12 * 0.25, rel=1e-12)
    assert frechet(a, a.flip(0)) < 1e-24  # the trace formula stops near 1e-14
    assert frechet(a.flatten(1), a) < 1e-24


def test_the_covariance_part_keeps_its_digits_for_nearly_equal_covariances():
    c, step = covariance(5, 3), 1e-7
    value = frechet_gaussians(torch.zeros(5), c, torch.zeros(5), (1 + step) ** 2 * c)
    assert value == pytest.approx(step**2 * float(c.trace()), rel=1e-6)


def test_large_samples_reach_the_distance_of_their_gaussians():
    a, b = normal(20000, 3, seed=1), 2 * normal(20000, 3, seed=2) + 1
    estimate = standard_error(frechet, a, b)
    assert estimate.value == pytest.approx(3 + 3, abs=4 * estimate.error)
    assert 0 < estimate.error < 0.1


def test_half_precision_rows_are_computed_in_double():
    a = normal(500, 4).bfloat16()
    assert frechet(a, a + a.new_ones(4)) == pytest.approx(frechet(a.double(), (a + a.new_ones(4)).double()), rel=1e-12)


def test_shapes_that_do_not_fit_are_named():
    with pytest.raises(ShapeError, match=r"\(3,\), \(3, 3\), \(3,\), \(2, 2\)"):
        frechet_gaussians(torch.zeros(3), torch.eye(3), torch.zeros(3), torch.eye(2))


@pytest.mark.parametrize("cov", [[[1.0, 0.5], [0.0, 1.0]], [[1.0, 2.0], [2.0, 1.0]]])
def test_a_matrix_that_is_no_covariance_is_refused(cov):
    with pytest.raises(OptionError, match=r"cov2 is not symmetric and positive semi-definite; pass torch\.cov"):
        frechet_gaussians(torch.zeros(2), torch.eye(2), torch.zeros(2), torch.tensor(cov))


def test_nan_moments_are_refused():
    with pytest.raises(NonFiniteError, match="cov1 holds NaN"):
        frechet_gaussians(torch.zeros(2), torch.full((2, 2), math.nan), torch.zeros(2), torch.eye(2))
    with pytest.raises(NonFiniteError, match="A mean holds NaN"):
        frechet_gaussians(torch.full((2,), math.inf), torch.eye(2), torch.zeros(2), torch.eye(2))
