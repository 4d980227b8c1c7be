"""Annealed pairs."""

import math

import pytest
import torch

from rheos.core import AnnealedPairs, Draws, PerCondition, config, row_seeds
from rheos.core.couplings import check_pairs
from rheos.core.errors import OptionError, ShapeError, UnknownOptionError

SCHEDULES = [
    AnnealedPairs("linear", over=100),
    AnnealedPairs("cosine", over=100),
    AnnealedPairs("exponential", over=100),
]


def pairs(n: int, step: int = 0, seed: int = 0, dim: int = 1):
    g = torch.Generator().manual_seed(seed)
    x0 = torch.randn(n, dim, generator=g, dtype=torch.float64)
    return x0, 2 * x0 + 1, {"row": torch.arange(n)}, Draws.training(seed, step, n)


@pytest.mark.parametrize("beta", [0.0, 0.3, 0.8, 1.0])
def test_the_source_stays_standard_normal_and_its_covariance_with_the_given_noise_is_the_root(beta):
    n = 40_000
    x0, x1, cond, draws = pairs(n)
    mixed = AnnealedPairs(beta)(x0, x1, cond, draws).x0
    error = 5 / math.sqrt(n)  # of a mean, a variance (twice that) and a covariance of standard normals
    assert abs(float(mixed.mean())) < error
    assert abs(float(mixed.var()) - 1) < 2 * error
    assert abs(float((mixed * x0).mean()) - math.sqrt(1 - beta**2)) < 2 * error


def test_at_zero_the_pairs_are_left_alone_and_at_one_they_are_independent():
    x0, x1, cond, draws = pairs(20_000)
    kept = AnnealedPairs(0.0)(x0, x1, cond, draws)
    assert torch.equal(kept.x0, x0)
    assert torch.equal(kept.x1, x1)
    free = AnnealedPairs(1.0)(x0, x1, cond, draws).x0
    both = torch.stack((free[:, 0], x1[:, 0]))
    assert abs(float(torch.corrcoef(both)[0, 1])) < 5 / math.sqrt(20_000)


def test_schedules_fall_from_one_by_their_formulas():
    linear, cosine, exponential = SCHEDULES
    for k in (0, 1, 30, 99, 100, 250):
        part = min(1.0, k / 100)
        assert linear.share(k) == 1 - part
        assert cosine.share(k) == pytest.approx((1 + math.cos(math.pi * part)) / 2, abs=1e-15)
        assert exponential.share(k) == pytest.approx(math.exp(-k / 100), rel=1e-15)
    assert all(s.share(0) == 1 for s in SCHEDULES)
    assert linear.share(100) == cosine.share(100) == 0
    assert AnnealedPairs(0.4).share(10**6) == 0.4


@pytest.mark.parametrize("couple", [*SCHEDULES, AnnealedPairs(0.5)], ids=repr)
def test_what_a_step_sees_is_a_function_of_its_number_alone_and_row_by_row(couple):
    x0, x1, cond, draws = pairs(12, step=40, dim=3)
    whole = couple(x0, x1, cond, draws)
    part = torch.tensor([7, 2])
    again = couple(x0[part], x1[part], {"row": part}, draws.select(part))
    assert torch.equal(again.x0, whole.x0[part])
    assert torch.equal(whole.x1, x1)
    assert torch.equal(whole.cond["row"], cond["row"])
    assert whole.logs["beta"] == couple.share(40)


def test_the_step_travels_with_the_draws():
    draws = Draws.training(3, 17, 4)
    parts = draws.fold("a"), draws.select(torch.tensor([1])), draws.to("cpu"), draws.fold("b", 2).select(slice(2))
    assert all(d.step == 17 for d in parts)
    assert Draws(row_seeds(0, 2)).step is None


def test_it_anneals_inside_groups_and_dict_states_too():
    x0, x1, _, draws = pairs(6, step=50)
    cond = {"label": torch.tensor([0, 1, 0, 1, 2, 2])}
    inner = AnnealedPairs("linear", over=100)
    couple = PerCondition(inner)
    check_pairs(couple)
    assert torch.equal(couple(x0, x1, cond, draws).x0, inner(x0, x1, cond, draws).x0)
    state = {"a": x0, "b": 2 * x0}
    mixed = inner(state, state, {}, draws).x0
    fresh = {k: (mixed[k] - state[k] * math.sqrt(0.75)) / 0.5 for k in state}
    assert torch.allclose(fresh["a"], draws.normal(state, "anneal")["a"])


def test_only_constant_independence_leaves_a_score():
    assert AnnealedPairs(1.0).gaussian
    assert not AnnealedPairs(0.5).gaussian
    assert not AnnealedPairs("linear", over=10).gaussian


def test_it_is_written_and_read_as_plain_values():
    for couple in (*SCHEDULES, AnnealedPairs(0.25)):
        assert config.load(config.dump(couple)) == couple


def test_bad_options_say_what_came():
    with pytest.raises(OptionError, match="needs over, at least 1 step, got 0"):
        AnnealedPairs("linear", over=0)
    with pytest.raises(OptionError, match="needs over"):
        AnnealedPairs()
    with pytest.raises(UnknownOptionError, match="did you mean 'linear'"):
        AnnealedPairs("liner", over=3)
    with pytest.raises(OptionError, match=r"beta must lie in \[0, 1\], got 1.5"):
        AnnealedPairs(1.5)
    with pytest.raises(OptionError, match="does not end"):
        AnnealedPairs(0.5, over=3)
    x0, x1, cond, _ = pairs(4)
    with pytest.raises(OptionError, match="needs the training's step"):
        AnnealedPairs("linear", over=3)(x0, x1, cond, Draws(row_seeds(0, 4)))
    with pytest.raises(ShapeError):
        AnnealedPairs(0.5)(x0, x1[:3], cond, Draws(row_seeds(0, 4)))
