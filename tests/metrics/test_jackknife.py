import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rheos.core.errors import OptionError, ShapeError
from rheos.metrics import Estimate, frechet, kernel_distance, sliced_wasserstein, standard_error


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(n=st.integers(2, 20), seed=st.integers(0, 2**31 - 1))
def test_leaving_single_rows_out_gives_the_textbook_error_of_a_difference_of_means(n, seed):
    a, b = normal(n, seed=seed), 3 * normal(n, seed=seed + 1)
    estimate = standard_error(lambda a, b: float(a.mean() - b.mean()), a, b, groups=n)
    assert estimate.value == float(a.mean() - b.mean())
    assert estimate.error == pytest.approx(float(((a.var() + b.var()) / n).sqrt()), rel=1e-9)


@pytest.mark.parametrize("metric", [frechet, kernel_distance, lambda a, b: sliced_wasserstein(a, b, projections=8)])
def test_the_error_is_the_spread_over_fresh_samples(metric):
    values = torch.tensor([metric(normal(200, 2, seed=s), 2 * normal(200, 2, seed=s + 10**6) + 1) for s in range(300)])
    errors = [
        standard_error(metric, normal(200, 2, seed=s), 2 * normal(200, 2, seed=s + 10**6) + 1).error for s in range(20)
    ]
    assert sum(errors) / 20 == pytest.approx(float(values.std()), rel=0.2)  # 300 values give their spread to 4 %


def test_rows_sorted_by_label_do_not_inflate_the_error():
    a, b = normal(400, 1, seed=1).sort(0).values, normal(400, 1, seed=2).sort(0).values
    estimate = standard_error(lambda a, b: float(a.mean() - b.mean()), a, b)
    assert estimate.error == pytest.approx((2 / 400) ** 0.5, rel=0.4)
    assert standard_error(lambda a, b: float(a.mean() - b.mean()), a, b) == estimate


def test_an_estimate_prints_with_its_error():
    assert str(Estimate(0.123456, 0.0123)) == "0.1235 ± 0.012"


def test_groups_are_at_least_two_and_at_most_the_rows():
    with pytest.raises(OptionError, match="groups must be at least 2, got 1"):
        standard_error(frechet, torch.zeros(9, 1), torch.zeros(9, 1), groups=1)
    with pytest.raises(ShapeError, match="20 groups need as many rows in each set, got 9 and 30"):
        standard_error(frechet, torch.zeros(9, 1), torch.zeros(30, 1))
