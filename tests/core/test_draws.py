import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from rheos.core import Draws, row_seeds
from rheos.core.errors import OptionError
from strategies import seeds, untyped

KEYS = st.lists(st.one_of(st.integers(-5, 2**40), st.text(max_size=3)), max_size=3)


@given(seed=seeds, n=st.integers(1, 8), key=KEYS, data=st.data())
def test_splitting_permuting_and_merging_rows_changes_no_bit(seed, n, key, data):
    whole, like = Draws(row_seeds(seed, n)), torch.empty(n, 3, 2)
    x, u = whole.normal(like, *key), whole.uniform(*key, shape=(5,))
    order = torch.tensor(data.draw(st.permutations(range(n))))
    part = whole.select(order)
    assert torch.equal(part.normal(like, *key), x[order])
    assert torch.equal(part.uniform(*key, shape=(5,)), u[order])
    cut = data.draw(st.integers(1, n))
    assert torch.equal(Draws(whole.seed[:cut]).normal(like[:cut], *key), x[:cut])


@given(seed=seeds, key=KEYS)
def test_folding_a_key_is_drawing_with_it(seed, key):
    draws, like = Draws(row_seeds(seed, 3)), torch.empty(3, 2)
    assert torch.equal(draws.fold(*key).normal(like), draws.normal(like, *key))
    assert torch.equal(draws.fold(*key).normal(like, "z", 1), draws.normal(like, *key, "z", 1))


def test_a_key_a_row_draws_what_each_row_draws_with_its_own():
    draws, like = Draws(row_seeds(0, 4)), torch.empty(4, 5)
    steps = torch.tensor([3, 0, 7, 3])
    mixed = draws.normal(like, "step", steps)
    for row, k in enumerate(steps.tolist()):
        assert torch.equal(mixed[row], draws.normal(like, "step", k)[row])


def test_the_numbers_of_a_dict_are_those_of_its_names():
    draws = Draws(row_seeds(0, 2))
    like = {"a": torch.empty(2, 3), "b": torch.empty(2, 3)}
    x = draws.normal(like, "k")
    assert torch.equal(x["a"], draws.normal(like["a"], "k", "a"))
    assert not torch.equal(x["a"], x["b"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_normal_numbers_are_normal(dtype):
    # 4e5 numbers: the standard error of the mean is 1.6e-3, of the variance 2.2e-3, of the kurtosis 7.7e-3
    x = Draws(row_seeds(5, 400)).normal(torch.empty(400, 1000, dtype=dtype), "x").double().flatten()
    assert x.mean().abs() < 4 * 1.6e-3
    assert (x.var() - 1).abs() < 4 * 2.2e-3
    assert (x.pow(4).mean() - 3).abs() < 4 * math.sqrt(96 / len(x))
    assert stats.kstest(x.numpy()[::7], "norm").pvalue > 1e-3
    assert x.dtype == torch.float64


def test_uniform_numbers_are_uniform_and_never_zero_or_one():
    u = Draws(row_seeds(6, 400)).uniform("u", shape=(500,)).flatten()
    assert stats.kstest(u.numpy(), "uniform").pvalue > 1e-3
    assert 0 < u.min() < 1e-4
    assert 1 - 1e-4 < u.max() < 1


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (lambda d: d.normal(torch.empty(2000, 50), "a"), lambda d: d.normal(torch.empty(2000, 50), "b")),
        (lambda d: d.normal(torch.empty(2000, 50), 0), lambda d: d.normal(torch.empty(2000, 50), 1)),
        (lambda d: d.normal(torch.empty(2000, 50), 0, 1), lambda d: d.normal(torch.empty(2000, 50), 1, 0)),
        (lambda d: d.normal(torch.empty(2000, 50)), lambda d: d.normal(torch.empty(2000, 50)).roll(1, 0)),
        (lambda d: d.normal(torch.empty(2000, 50)), lambda d: d.normal(torch.empty(2000, 50)).roll(25, 1)),
        (lambda d: d.normal(torch.empty(2000, 50)), lambda d: d.normal(torch.empty(2000, 50)).square()),
    ],
    ids=["names", "integers", "order of a key", "neighbouring rows", "halves of a row", "not with its own square"],
)
def test_streams_are_uncorrelated(first, second):
    draws = Draws(torch.arange(2000))
    a, b = first(draws).flatten().double(), second(draws).flatten().double()
    correlation = torch.corrcoef(torch.stack((a, b)))[0, 1]
    assert correlation.abs() < 4 / math.sqrt(len(a))


def test_no_two_seeds_steps_or_keys_share_a_stream():
    rows = torch.cat([row_seeds(seed, 500) for seed in range(40)])
    assert len(rows.unique()) == len(rows)
    training = torch.cat([Draws.training(seed, step, 50).seed for seed in range(20) for step in range(20)])
    assert len(training.unique()) == len(training)
    small = Draws(torch.arange(-20, 20))
    folded = torch.cat([small.fold(a, b).seed for a in range(20) for b in range(20)])
    assert len(folded.unique()) == len(folded)


@given(seed=seeds, step=st.integers(0, 10**6), start=st.integers(0, 20), n=st.integers(1, 20))
def test_training_streams_do_not_depend_on_how_rows_are_dealt_out(seed, step, start, n):
    assert torch.equal(
        Draws.training(seed, step, 40).seed[start : start + n], Draws.training(seed, step, n, start).seed
    )


@given(seed=seeds, n=st.integers(1, 50))
def test_a_permutation_is_one_and_depends_on_the_first_row_alone(seed, n):
    draws = Draws(row_seeds(seed, n))
    order = draws.permutation("p")
    assert sorted(order.tolist()) == list(range(n))
    other = Draws(torch.cat((draws.seed[:1], draws.seed[1:] + 1)))
    assert torch.equal(order, other.permutation("p"))


@untyped
def test_given_seeds_are_taken_as_they_are_and_integers_of_any_library_derive_them():
    assert row_seeds([5, 6], 2).tolist() == [5, 6]
    assert row_seeds(np.array([5, 6]), 2).tolist() == [5, 6]
    assert torch.equal(row_seeds(np.int64(3), 4), row_seeds(3, 4))
    assert torch.equal(row_seeds(3, 4)[:2], row_seeds(3, 2))
    assert row_seeds(2**70, 1).dtype == torch.int64


@pytest.mark.parametrize(
    ("seed", "said"),
    [([1, 2, 3], "3 values for 2 rows"), pytest.param(1.5, "an integer", marks=untyped), ([True], "an integer")],
)
def test_seeds_that_are_no_integers_or_too_few_are_refused(seed, said):
    with pytest.raises(OptionError, match=said):
        row_seeds(seed, 2)


def test_draws_want_an_integer_a_row_and_a_state_of_as_many_rows():
    with pytest.raises(OptionError, match=r"int64 of shape \(B,\), got torch.float32 \(2,\)"):
        Draws(torch.zeros(2))
    with pytest.raises(OptionError, match="Draws of 2 rows asked for a state of 3 rows"):
        Draws(row_seeds(0, 2)).normal(torch.empty(3, 1))
