"""Masked completion against a mixture whose conditional law is known."""

import pytest
import torch

from rheos.core import GaussianMixtureField
from rheos.core.errors import DataError, OptionError, ShapeError, UnknownOptionError
from rheos.guide import Completion, Inpaint, restore
from rheos.sample import draw, solve


@pytest.fixture
def field():
    """Two components; the first coordinate tells which, the second follows from it."""
    return GaussianMixtureField(means=[[-3.0, 2.0], [3.0, -2.0]], stds=[0.3, 0.3])


MASK = torch.tensor([[1.0, 0.0]])


@pytest.mark.parametrize("method", ["complete", "repaint"])
def test_the_hidden_coordinate_takes_the_value_that_the_visible_one_implies(field, method):
    y = torch.tensor([[-3.0, 0.0]] * 40 + [[3.0, 0.0]] * 40)
    x = restore(field, y, Inpaint(MASK), method=method, steps=40, seed=3)
    assert torch.equal(x[:, 0], y[:, 0])
    expected = torch.where(y[:, 0] < 0, 2.0, -2.0)
    # the conditional law is N(+-2, 0.3^2); "complete" is biased by about 0.3 towards the middle (measured on 400
    # rows), and the mean of 40 rows has a standard error of 0.05
    assert (x[:40, 1].mean() - 2.0).abs() < 0.45
    assert (x[40:, 1].mean() + 2.0).abs() < 0.45
    # projecting the estimate is an approximation: a few rows may stop short
    assert ((x[:, 1] - expected).abs() < 1.5).float().mean() > 0.95


def test_a_full_mask_returns_the_known_data_and_an_empty_one_changes_nothing(field):
    y = torch.randn(6, 2, generator=torch.Generator().manual_seed(0))
    assert torch.equal(restore(field, y, Inpaint(torch.ones(1, 2)), steps=5), y)
    free = restore(field, y, Inpaint(torch.zeros(1, 2)), steps=5, solver="euler", seed=4)
    plain = draw(field, 6, steps=5, solver="euler", seed=4)
    torch.testing.assert_close(free, plain, atol=1e-5, rtol=1e-5)  # data and back to velocity rounds


def test_holes_may_hold_nan(field):
    y = torch.tensor([[-3.0, float("nan")]])
    assert torch.isfinite(restore(field, y, Inpaint(MASK), steps=5)).all()


def test_rows_do_not_depend_on_their_batch_mates(field):
    y = torch.tensor([[-3.0, 0.0], [3.0, 0.0], [-2.5, 0.0]])
    seeds = [5, 6, 7]
    together = restore(field, y, Inpaint(MASK), method="repaint", steps=8, seed=seeds)
    alone = restore(field, y[1:2], Inpaint(MASK), method="repaint", steps=8, seed=seeds[1:2])
    torch.testing.assert_close(together[1:2], alone)


def test_repeats_walk_each_interval_again_until_the_last_time(field):
    y = torch.zeros(2, 2)
    steer = Completion(y, MASK, mode="replace", repeats=3, last=0.5)
    solution = solve(field, torch.randn(2, 2), [0.0, 0.25, 0.5, 0.75, 1.0], "euler", steers=[steer])
    assert solution.calls == 3 + 3 + 1 + 1


def test_bad_input_is_refused_before_any_step(field):
    y = torch.zeros(2, 2)
    with pytest.raises(ShapeError, match=r"mask \(3, 3\) does not broadcast to the data \(2, 2\)"):
        restore(field, y, Inpaint(torch.ones(3, 3)))
    with pytest.raises(OptionError, match="A mask holds 0"):
        restore(field, y, Inpaint(torch.full((1, 2), 0.5)))
    with pytest.raises(UnknownOptionError, match="did you mean 'repaint'"):
        restore(field, y, Inpaint(MASK), method="repant")
    with pytest.raises(ShapeError, match=r"rows of shape \(3,\)"):
        restore(field, torch.zeros(2, 3), Inpaint(torch.ones(1, 3)))
    with pytest.raises(OptionError, match="repeats must be at least 1"):
        Completion(y, MASK, repeats=0)
    with pytest.raises(OptionError, match=r"Use Inpaint\(mask\)"):
        restore(field, y, MASK)
    with pytest.raises(OptionError, match="mask must be a tensor, got ndarray"):
        restore(field, y, Inpaint(MASK.numpy()))
    with pytest.raises(OptionError, match="one sample for each row of y"):
        restore(field, y, Inpaint(MASK), n=3)
    field.value_range = (-1.0, 1.0)
    with pytest.raises(DataError, match="255"):
        restore(field, torch.full((2, 2), 255.0), Inpaint(MASK))
