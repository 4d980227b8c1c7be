"""Order, training steps and splits are pure functions of small integers."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rheos.core.errors import OptionError
from rheos.data.rows import choose, epoch_order, step_rows

quick = settings(max_examples=25, deadline=None, derandomize=True)


@quick
@given(n=st.integers(1, 60), seed=st.integers(-(2**40), 2**40), epoch=st.integers(0, 10**6))
def test_an_epoch_visits_every_row_once(n, seed, epoch):
    assert torch.equal(epoch_order(n, seed, epoch).sort().values, torch.arange(n))


def test_epochs_and_seeds_have_different_orders_and_a_repeat_has_the_same():
    first = epoch_order(100, 0, 0)
    assert torch.equal(first, epoch_order(100, 0, 0))
    assert not torch.equal(first, epoch_order(100, 0, 1))
    assert not torch.equal(first, epoch_order(100, 1, 0))


def test_the_order_is_the_same_on_every_machine():
    assert epoch_order(8, 0, 0).tolist() == [6, 7, 5, 4, 2, 3, 0, 1]
    assert choose(10, 3, None, 0, "split").tolist() == [1, 7, 9]


def test_a_caller_that_writes_into_an_order_spoils_no_later_one():
    kept = epoch_order(9, 3, 0)
    epoch_order(9, 3, 0).zero_()
    step_rows(9, 3, 0, 4).zero_()
    assert torch.equal(epoch_order(9, 3, 0), kept)


@quick
@given(n=st.integers(1, 40), batch=st.integers(1, 100), steps=st.integers(1, 12), seed=st.integers(0, 99))
def test_steps_walk_through_the_epochs_without_skipping_or_repeating(n, batch, steps, seed):
    walked = torch.cat([step_rows(n, seed, k, batch) for k in range(steps)])
    epochs = -(-steps * batch // n)
    assert torch.equal(walked, torch.cat([epoch_order(n, seed, e) for e in range(epochs)])[: steps * batch])


def test_a_step_far_away_needs_no_earlier_one():
    assert torch.equal(step_rows(7, 0, 10**12, 7), epoch_order(7, 0, 10**12))


@pytest.mark.parametrize(("step", "batch"), [(-1, 4), (0, 0)])
def test_a_negative_step_or_an_empty_batch_is_refused(step, batch):
    with pytest.raises(OptionError, match="at least 0 and batch at least 1"):
        step_rows(5, 0, step, batch)


@quick
@given(
    sizes=st.lists(st.integers(0, 30), min_size=1, max_size=8).filter(lambda s: sum(s) > 0),
    share=st.floats(0, 1),
    seed=st.integers(0, 99),
)
def test_a_stratified_choice_takes_each_class_in_proportion_within_one_row(sizes, share, seed):
    labels = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    n = len(labels)
    labels = labels[torch.randperm(n, generator=torch.Generator().manual_seed(seed))]
    count = int(share * n)
    chosen = choose(n, count, labels, seed, "split")
    assert len(chosen) == count
    assert torch.equal(chosen, chosen.unique())
    taken = labels[chosen].bincount(minlength=len(sizes))
    assert all(abs(int(t) - s * count / n) < 1 for t, s in zip(taken, sizes, strict=True))


def test_a_choice_is_uniform_over_the_rows():
    # each of 50 rows is chosen in 0.2 of 2000 seeds: standard error 0.009, five of them allowed
    hits = torch.zeros(50)
    for seed in range(2000):
        hits[choose(50, 10, None, seed, "split")] += 1
    assert ((hits / 2000 - 0.2).abs() < 5 * 0.009).all()
