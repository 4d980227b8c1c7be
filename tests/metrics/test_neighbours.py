import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rheos.core.errors import OptionError, ShapeError
from rheos.metrics import _sets, prdc

quick = settings(max_examples=25, deadline=None, derandomize=True)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_a_hand_made_line_gives_the_counted_figures():
    real = torch.tensor([0.0, 1.0, 3.0, 10.0])  # radii for k = 1: 1, 1, 2, 7
    fake = torch.tensor([2.0, 4.0, 30.0])  # radii 2, 2, 26
    # balls of real: [-1, 1], [0, 2], [1, 5], [3, 17]: 2 lies in two (an edge counts), 4 in two, 30 in none
    # balls of fake: [0, 4], [2, 6], [4, 56]: they hold 0, 1, 3 and 10
    assert prdc(real, fake, k=1) == (2 / 3, 1.0, 4 / 3, 3 / 4)


@quick
@given(n=st.integers(7, 30), k=st.integers(1, 6), seed=st.integers(0, 2**31 - 1))
def test_a_set_against_itself_holds_k_neighbours_and_itself(n, k, seed):
    x = normal(n, 3, seed=seed)
    assert prdc(x, x.flip(0), k) == (1.0, 1.0, pytest.approx((k + 1) / k, rel=1e-12), 1.0)


def test_sets_far_apart_share_nothing():
    x = normal(20, 2)
    assert prdc(x, x + 1e4) == (0.0, 0.0, 0.0, 0.0)


def test_a_dropped_mode_costs_recall_and_coverage_but_not_precision():
    near, far = normal(100, 2, seed=1), normal(100, 2, seed=2) + 100
    figures = prdc(torch.cat((near, far)), near + 1e-6)
    assert figures.precision == 1.0
    assert figures.recall == figures.coverage == 0.5


def test_a_fake_outlier_lifts_recall_but_not_coverage():
    real, fake = normal(100, 2, seed=1) + 50, normal(100, 2, seed=2)
    assert prdc(real, fake).recall == 0.0
    with_outlier = prdc(real, torch.cat((fake, torch.full((1, 2), 120.0))))
    assert with_outlier.recall == 1.0
    assert with_outlier.coverage == with_outlier.density == 0.0


def test_equal_laws_reach_the_expected_coverage_and_density_of_one():
    n, m, k, repeats = 60, 80, 5, 200
    figures = torch.tensor([prdc(normal(n, 2, seed=s), normal(m, 2, seed=s + 10**6), k) for s in range(repeats)])
    missed = torch.tensor([(n - i) / (n + m - i) for i in range(1, k + 1)]).prod()
    error = figures.std(0) / repeats**0.5
    assert float(figures[:, 3].mean()) == pytest.approx(1 - float(missed), abs=4 * float(error[3]))
    assert float(figures[:, 2].mean()) == pytest.approx(1.0, abs=4 * float(error[2]))


@quick
@given(seed=st.integers(0, 2**31 - 1))
def test_scales_and_row_order_change_nothing_and_roles_swap_precision_and_recall(seed):
    real, fake = normal(25, 3, seed=seed), normal(31, 3, seed=seed + 1) + 0.3
    figures = prdc(real, fake, k=3)
    assert prdc(4 * real.flip(0), 4 * fake.flip(0), k=3) == pytest.approx(figures, rel=1e-12)
    assert prdc(fake, real, k=3)[:2] == (figures.recall, figures.precision)


def test_repeated_rows_have_balls_of_radius_zero_that_hold_their_copies():
    real = torch.tensor([1.0, 1.0, 1.0, 5.0]) / 3
    assert prdc(real, real[:3], k=2) == (1.0, 0.75, 2.0, 1.0)  # each fake: three balls of radius 0 and an edge


def test_blocks_change_nothing(monkeypatch):
    real, fake = normal(37, 4, seed=1), normal(23, 4, seed=2)
    expected = prdc(real, fake)
    monkeypatch.setattr(_sets, "_BLOCK", 100)
    assert prdc(real, fake) == expected


def test_k_is_at_least_one_and_below_the_rows():
    with pytest.raises(OptionError, match="k must be at least 1, got 0"):
        prdc(normal(9, 2), normal(9, 2), k=0)
    with pytest.raises(ShapeError, match=r"fake needs at least 6 non-empty rows.*got \(5, 2\)"):
        prdc(normal(9, 2), normal(5, 2), k=5)
