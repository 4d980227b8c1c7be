import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rheos.core.errors import OptionError
from rheos.metrics import _sets, kernel_distance, median_bandwidth, mmd, standard_error

quick = settings(max_examples=25, deadline=None, derandomize=True)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gaussian_mmd(shift, s1, s2, bandwidth, d):
    """MMD² of N(0, s1² I) and N(m, s2² I): a Gaussian kernel against Gaussians is a Gaussian integral."""

    def mean(variance, distance):
        total = bandwidth**2 + variance
        return (bandwidth**2 / total) ** (d / 2) * math.exp(-(distance**2) / (2 * total))

    return mean(2 * s1**2, 0) + mean(2 * s2**2, 0) - 2 * mean(s1**2 + s2**2, shift)


@pytest.mark.parametrize("bandwidth", [0.5, 2.0, 10.0])
def test_gaussians_have_the_distance_of_the_gaussian_integral(bandwidth):
    a, b = normal(1500, 2, seed=1), 1.5 * normal(1200, 2, seed=2) + torch.tensor([1.0, 0.0])
    estimate = standard_error(lambda a, b: mmd(a, b, bandwidth), a, b, groups=10)
    assert estimate.value == pytest.approx(gaussian_mmd(1.0, 1.0, 1.5, bandwidth, 2), abs=4 * estimate.error)


def test_the_unbiased_estimate_is_unbiased_in_tiny_sets():
    a, b = normal(4000, 3, 1, seed=3), normal(4000, 4, 1, seed=4) + 1.0
    values = torch.tensor([mmd(x, y, bandwidth=1.0) for x, y in zip(a, b, strict=True)])
    expected = gaussian_mmd(1.0, 1.0, 1.0, 1.0, 1)
    assert float(values.mean()) == pytest.approx(expected, abs=4 * float(values.std()) / 4000**0.5)


@quick
@given(n=st.integers(2, 9), m=st.integers(2, 9), seed=st.integers(0, 2**31 - 1))
def test_on_a_line_the_cubic_kernel_compares_three_raw_moments(n, m, seed):
    a, b = normal(n, seed=seed), normal(m, seed=seed + 1) + 0.5
    expected = 0.0
    for power, weight in ((1, 3.0), (2, 3.0), (3, 1.0)):  # (xy + 1)³ = 1 + 3 xy + 3 x²y² + x³y³
        u, v = a**power, b**power
        within = [float(z.sum() ** 2 - (z * z).sum()) / (len(z) * (len(z) - 1)) for z in (u, v)]
        expected += weight * (sum(within) - 2 * float(u.mean() * v.mean()))
    assert kernel_distance(a, b) == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_the_biased_estimate_of_a_set_with_itself_is_zero_and_never_exceeds_two():
    a = normal(20, 3)
    assert mmd(a, a.flip(0), bandwidth=1.0, unbiased=False) == pytest.approx(0.0, abs=1e-14)
    assert mmd(a, a + 1e6, bandwidth=1e-3, unbiased=False) == pytest.approx(2 / 20, rel=1e-12)  # only diagonals remain
    assert mmd(a[:1], a[:1] + 1e6, bandwidth=1.0, unbiased=False) == pytest.approx(2.0, rel=1e-12)


def test_wide_bandwidths_measure_the_distance_of_means():
    a, b = normal(50, 3, seed=1), normal(60, 3, seed=2) + 2.0
    gap = float((a.mean(0) - b.mean(0)).square().sum())
    assert 1e8 * mmd(a, b, bandwidth=1e4, unbiased=False) == pytest.approx(gap, rel=1e-5)


@pytest.mark.parametrize("metric", [kernel_distance, lambda a, b: mmd(a, b, 1.0), lambda a, b: mmd(a, b, 1.0, False)])
def test_blocks_change_nothing(metric, monkeypatch):
    a, b = normal(37, 4, seed=1), normal(23, 4, seed=2)
    expected = metric(a, b)
    monkeypatch.setattr(_sets, "_BLOCK", 100)  # 4 rows at a time, with a rest
    assert metric(a, b) == pytest.approx(expected, rel=1e-12)


def test_the_median_bandwidth_is_a_distance_scale():
    x = normal(300, 5)
    assert median_bandwidth(3 * x) == pytest.approx(3 * median_bandwidth(x), rel=1e-12)
    big = normal(40001, 1)  # |x - y| of N(0, 2) has median 0.6745 √2; 1,000 rows leave a few per cent
    assert median_bandwidth(big) == pytest.approx(0.6745 * 2**0.5, rel=0.08)


def test_equal_rows_have_no_median_bandwidth():
    with pytest.raises(OptionError, match="median distance between rows is 0"):
        median_bandwidth(torch.ones(5, 2))


@pytest.mark.parametrize("bandwidth", [0.0, -1.0, math.nan, math.inf])
def test_a_bandwidth_is_a_positive_number(bandwidth):
    with pytest.raises(OptionError, match=r"bandwidth must be a positive number.*median_bandwidth"):
        mmd(torch.zeros(2, 1), torch.zeros(2, 1), bandwidth)
