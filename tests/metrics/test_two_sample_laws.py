"""What every figure of two sets of rows obeys."""

import math

import pytest
import torch

import rheos.metrics as metrics
from rheos.core.errors import NonFiniteError, ShapeError

FIGURES = {
    "frechet": metrics.frechet,
    "kernel_distance": metrics.kernel_distance,
    "mmd": lambda a, b: metrics.mmd(a, b, 1.0),
    "mmd_biased": lambda a, b: metrics.mmd(a, b, 1.0, unbiased=False),
    "wasserstein": metrics.wasserstein,
    "sliced_wasserstein": lambda a, b: metrics.sliced_wasserstein(a, b, projections=8),
    "prdc": lambda a, b: metrics.prdc(a, b, k=3),
}
figures = pytest.mark.parametrize("figure", FIGURES.values(), ids=FIGURES.keys())


def sets(n=9, m=11, d=(2, 3)):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(n, *d, generator=generator), torch.randn(m, *d, generator=generator) + 0.5


@figures
def test_the_order_of_rows_means_nothing(figure):
    a, b = sets()
    assert figure(a.flip(0), b.roll(3, 0)) == pytest.approx(figure(a, b), rel=1e-9)


@figures
def test_rows_are_flattened_and_computed_in_double(figure):
    a, b = sets()
    expected = figure(a.double(), b.double())
    assert figure(a, b) == expected
    assert figure(a.flatten(1), b) == expected


@figures
def test_a_vector_is_as_many_rows_of_one_number(figure):
    a, b = sets(d=())
    assert figure(a, b) == figure(a[:, None], b[:, None])


@figures
def test_inputs_stay_as_they_were_and_gradients_are_not_kept(figure):
    a, b = sets()
    copy = a.clone()
    result = figure(a.requires_grad_(), b)
    assert torch.equal(a, copy)
    assert all(isinstance(v, float) for v in (result if isinstance(result, tuple) else (result,)))


@figures
def test_rows_of_different_lengths_are_refused_with_both_shapes(figure):
    with pytest.raises(ShapeError, match=r"rows of one length, got \(9, 2\) and \(9, 3\): 2 and 3 numbers a row"):
        figure(torch.zeros(9, 2), torch.zeros(9, 3))


@figures
def test_nan_is_refused_with_its_row(figure):
    a, b = sets()
    b[4] = math.nan
    b[7, 0, 0] = math.inf
    with pytest.raises(NonFiniteError, match="NaN or infinite numbers in 2 of 11 rows, first in row 4") as caught:
        figure(a, b)
    assert caught.value.values["rows"].tolist() == [4, 7]


@figures
def test_empty_sets_are_refused(figure):
    with pytest.raises(ShapeError, match=r"needs at least \d non-empty rows? of shape \(N, \.\.\.\), got \(0, 2\)"):
        figure(torch.zeros(0, 2), torch.zeros(9, 2))


@pytest.mark.parametrize("name", ["frechet", "kernel_distance", "mmd"])
def test_a_single_row_has_no_covariance_and_no_unbiased_kernel(name):
    with pytest.raises(ShapeError, match=r"b needs at least 2 non-empty rows"):
        FIGURES[name](torch.zeros(9, 2), torch.zeros(1, 2))


def test_all_names_exist():
    assert len(set(metrics.__all__)) == len(metrics.__all__)  # the linter keeps their order
    assert all(hasattr(metrics, name) for name in metrics.__all__)
