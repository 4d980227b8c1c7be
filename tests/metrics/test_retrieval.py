import pytest
import torch

from rheos.core.errors import ConditionError, NonFiniteError, ShapeError
from rheos.metrics import retrieval


def rows(n, d=3, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_truth_itself_is_always_found():
    assert retrieval(rows(40), rows(40)) == pytest.approx((1.0, 1.0, 1 / 40, 5 / 40, 40), abs=1e-12)


def test_a_permutation_without_fixed_rows_is_never_found():
    truth = 100.0 * torch.arange(12.0)[:, None]
    assert retrieval(truth.roll(6, 0), truth)[:2] == (0.0, 0.0)  # six places away: not among five


def test_samples_that_know_nothing_are_found_as_often_as_by_chance():
    n = 2000
    found = retrieval(rows(n), rows(n, seed=1))
    for share, chance in ((found.top1, found.chance1), (found.top5, found.chance5)):
        assert abs(share - chance) < 4 * (chance / n) ** 0.5


@pytest.mark.parametrize("n", [3, 5, 8])
def test_samples_that_are_all_alike_get_chance_exactly(n):
    found = retrieval(torch.zeros(n, 2), torch.ones(n, 2))
    assert found.top1 == pytest.approx(1 / n, abs=1e-12)
    assert found.top5 == pytest.approx(min(1, 5 / n), abs=1e-12)
    assert (found.chance1, found.chance5) == (found.top1, found.top5)


def test_a_tie_of_two_is_half_a_hit():
    truth = torch.tensor([0.0, 2.0, 100.0])
    assert retrieval(torch.tensor([1.0, 1.0, 100.0]), truth).top1 == pytest.approx((0.5 + 0.5 + 1) / 3)


def test_rows_of_equal_conditions_stand_for_each_other():
    truth = torch.tensor([0.0, 10.0, 20.0, 30.0])
    samples = truth[[1, 0, 3, 2]]  # each sits on its partner
    assert retrieval(samples, truth).top1 == 0.0
    found = retrieval(samples, truth, torch.tensor([7, 7, 3, 3]))
    assert found.top1 == 1.0
    assert found.chance1 == pytest.approx(1 / 2)


def test_chance_among_equal_conditions_is_that_of_drawing_without_putting_back():
    same = torch.tensor([0] * 3 + list(range(1, 8)))  # one condition of three rows, seven of one
    chance = retrieval(rows(10), rows(10), same).chance5
    several = 1 - (7 * 6 * 5 * 4 * 3) / (10 * 9 * 8 * 7 * 6)
    assert chance == pytest.approx((3 * several + 7 * 0.5) / 10, abs=1e-12)


def test_ties_among_equal_conditions_are_counted_together():
    truth = torch.tensor([1.0, -1.0, 1.0, -1.0])  # all at distance one of the first sample
    samples = torch.tensor([0.0, -1.0, 1.0, -1.0])
    found = retrieval(samples, truth, torch.tensor([0, 0, 1, 2]))
    assert found.top1 == pytest.approx((2 / 4 + 1 / 2 + 1 / 2 + 1 / 2) / 4)


def test_one_order_of_the_rows_is_as_good_as_another():
    samples, truth, order = rows(30), rows(30) + 0.4 * rows(30, seed=2), torch.randperm(30)
    assert retrieval(samples[order], truth[order]) == pytest.approx(retrieval(samples, truth))


def test_large_sets_are_looked_at_in_blocks():
    n = 1500  # more than one block of a million distances
    truth = torch.arange(float(n))[:, None]
    assert retrieval(truth + 0.25, truth).top1 == 1.0


def test_what_does_not_fit_is_said():
    with pytest.raises(ShapeError, match="3 samples and 4 true rows"):
        retrieval(rows(3), rows(4))
    with pytest.raises(ShapeError, match="at least 2"):
        retrieval(rows(1), rows(1))
    with pytest.raises(ShapeError, match="one length"):
        retrieval(rows(4, 2), rows(4, 3))
    with pytest.raises(ConditionError, match="4 integers"):
        retrieval(rows(4), rows(4), torch.zeros(3, dtype=torch.int64))
    with pytest.raises(NonFiniteError, match="samples has NaN"):
        retrieval(rows(4) * torch.nan, rows(4))
