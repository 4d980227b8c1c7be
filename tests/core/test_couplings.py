import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rheos.core.couplings import (
    ExactOT,
    Gibbs,
    GivenPairs,
    Independent,
    PerCondition,
    Sinkhorn,
    check_pairs,
    coupling,
)
from rheos.core.draws import Draws, row_seeds
from rheos.core.errors import ConditionError, NonFiniteError, OptionError, ShapeError, UnknownOptionError

few = settings(max_examples=25, deadline=None, derandomize=True)
ALL = [
    Independent(),
    GivenPairs(),
    ExactOT(),
    ExactOT(power=1.0),
    Sinkhorn(0.5),
    Sinkhorn(0.5, sampled="permutation"),
    Gibbs(2.0),
    Gibbs(2.0, half_steps=1),
    PerCondition("exact-ot"),
    PerCondition(Gibbs(2.0)),
]
named = pytest.mark.parametrize("couple", ALL, ids=repr)


def batch(b, *shape, seed=0, dtype=torch.float32):
    g = torch.Generator().manual_seed(seed)
    x0, x1 = (torch.randn(b, *shape, generator=g, dtype=dtype) for _ in range(2))
    cond = {"label": torch.arange(b) % 3, "row": torch.arange(b)}
    return x0, x1 + 1, cond, Draws(row_seeds(seed, b))


@named
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_data_and_conditions_stay_where_they_are_and_every_source_row_is_one_that_was_given(couple, dtype):
    x0, x1, cond, draws = batch(12, 2, 3, dtype=dtype)
    pairs = couple(x0, x1, cond, draws)
    assert torch.equal(pairs.x1, x1)
    assert all(torch.equal(pairs.cond[k], cond[k]) for k in cond)
    index = torch.arange(12) if pairs.index0 is None else pairs.index0
    assert torch.equal(pairs.x0, x0[index])
    assert pairs.x0.dtype == dtype
    assert pairs.index1 is None
    assert pairs.weight is None or (pairs.weight.shape == (12,) and pairs.weight.dtype == torch.float64)


@named
def test_a_dict_state_couples_like_its_parts_side_by_side(couple):
    x0, x1, cond, draws = batch(12, 5)
    parts = [{"a": x[:, :2], "b": x[:, 2:].reshape(12, 3, 1)} for x in (x0, x1)]
    whole, split = couple(x0, x1, cond, draws), couple(*parts, cond, draws)
    assert torch.equal(torch.cat([split.x0["a"], split.x0["b"].flatten(1)], 1), whole.x0)
    if whole.weight is not None:
        assert torch.allclose(split.weight, whole.weight, rtol=1e-6)


@pytest.mark.parametrize("couple", [c for c in ALL if not isinstance(c, Sinkhorn)], ids=repr)
def test_permuting_the_batch_permutes_the_pairs(couple):
    x0, x1, cond, draws = batch(12, 2)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(3))
    a = couple(x0, x1, cond, draws)
    b = couple(x0[order], x1[order], {k: v[order] for k, v in cond.items()}, draws.select(order))
    assert torch.equal(b.x0, a.x0[order])
    if a.weight is not None:
        assert torch.allclose(b.weight, a.weight[order], rtol=1e-12)


@named
def test_a_coupling_is_a_pure_function(couple):
    first, second = couple(*batch(12, 2)), couple(*batch(12, 2))
    assert torch.equal(first.x0, second.x0)
    assert first.weight is None or torch.equal(first.weight, second.weight)


@named
def test_a_coupling_without_open_constants_prepares_to_itself(couple):
    assert couple.prepare(*batch(12, 2)) is couple


@pytest.mark.parametrize("couple", ALL[1:], ids=repr)
def test_unequal_batches_are_refused_with_both_shapes_and_the_way_out(couple):
    _, _, cond, draws = batch(4, 2)
    with pytest.raises(ShapeError, match=r"x0 \(3, 2\) and x1 \(4, 2\).*randn_like"):
        couple(torch.zeros(3, 2), torch.zeros(4, 2), cond, draws)


@pytest.mark.parametrize("couple", [ExactOT(), Sinkhorn(0.5)], ids=repr)
def test_a_nan_is_refused_with_its_row(couple):
    x0, x1, cond, draws = batch(4, 2)
    x1[2, 1] = math.nan
    with pytest.raises(NonFiniteError, match=r"Row 2 of x1 has a NaN"):
        couple(x0, x1, cond, draws)


def test_only_an_independent_gaussian_source_has_scores():
    assert Independent().gaussian
    assert PerCondition(Independent()).gaussian
    assert not any(c.gaussian for c in ALL[1:])


@few
@given(b=st.integers(1, 24), seed=st.integers(0, 2**31 - 1), power=st.sampled_from([1.5, 2.0, 3.0]))
def test_in_one_dimension_the_plan_is_the_sorted_one(b, seed, power):
    x0, x1, cond, draws = batch(b, 1, seed=seed, dtype=torch.float64)
    pairs = ExactOT(power)(x0, x1, cond, draws)
    assert torch.equal(pairs.x0[x1.flatten().argsort()], x0.sort(dim=0).values)


def test_exact_transport_undoes_a_shuffle_of_a_small_shift_and_reports_its_cost():
    x0 = torch.randn(64, 3, generator=torch.Generator().manual_seed(0))
    order = torch.randperm(64, generator=torch.Generator().manual_seed(1))
    pairs = ExactOT()(x0, x0[order] + 0.01, {}, Draws(torch.arange(64)))
    assert torch.equal(pairs.index0, order)
    assert float(pairs.logs["pair_cost"]) == pytest.approx(3e-4, rel=1e-3)


def test_a_power_below_one_is_refused():
    with pytest.raises(OptionError, match=r"power must be at least 1, got 0\.5"):
        ExactOT(0.5)


def test_conditional_draws_have_the_plans_frequencies():
    # two by two: p(same | data row) = odds / (1 + odds), odds = exp((c01 + c10 - c00 - c11) / 2 epsilon) = e
    x0 = torch.tensor([[0.0], [1.0]])
    hits = torch.stack(
        [
            Sinkhorn(1.0, tolerance=1e-9)(x0, x0, {}, Draws.training(0, step, 2)).index0 == torch.arange(2)
            for step in range(1500)
        ]
    ).double()
    want = math.e / (1 + math.e)
    assert float(hits.mean()) == pytest.approx(want, abs=4 * math.sqrt(want * (1 - want) / 3000))


@pytest.mark.parametrize("sampled", ["conditional", "permutation"])
def test_a_small_epsilon_gives_the_exact_pairing(sampled):
    x0, x1, cond, draws = batch(32, 2, dtype=torch.float64)
    pairs = Sinkhorn(1e-4, iterations=20000, sampled=sampled)(x0, x1, cond, draws)
    assert torch.equal(pairs.index0, ExactOT()(x0, x1, cond, draws).index0)


def test_permutation_sampling_repeats_no_source_row_and_forgets_the_cost_at_a_large_epsilon():
    x0, x1, cond, _ = batch(6, 2)
    couple = Sinkhorn(1e6, sampled="permutation")
    draws = [couple(x0, x1, cond, Draws.training(0, step, 6)).index0 for step in range(1200)]
    assert all(sorted(i.tolist()) == list(range(6)) for i in draws)
    kept = torch.stack([i == torch.arange(6) for i in draws]).double().mean(0)  # 1/6 each, standard error 0.011
    assert (kept - 1 / 6).abs().max() < 0.043


def test_conditional_sampling_at_a_large_epsilon_is_uniform_over_the_source():
    x0, x1, cond, draws = batch(500, 2)
    counts = torch.bincount(Sinkhorn(1e6)(x0, x1, cond, draws).index0, minlength=500)
    assert float(counts.double().var()) == pytest.approx(1.0, abs=0.3)  # Poisson(1)


def test_a_plan_that_has_not_converged_warns_with_the_way_out():
    x0, x1, cond, draws = batch(32, 2)
    with pytest.warns(RuntimeWarning, match=r"Raise iterations, or epsilon=0\.001"):
        Sinkhorn(1e-3, iterations=1, tolerance=1e-12)(x0, x1, cond, draws)


def test_sinkhorns_options_are_checked_when_it_is_made():
    with pytest.raises(OptionError, match="epsilon must be positive"):
        Sinkhorn(-1.0)


@pytest.mark.skipif(hasattr(Independent.__call__, "__wrapped__"), reason="the shape checker speaks first")
def test_an_unknown_way_of_sampling_is_refused_with_near_ones():
    with pytest.raises(UnknownOptionError, match="sampled 'permutations' is unknown; did you mean 'permutation'"):
        Sinkhorn(1.0, sampled="permutations")


def test_per_condition_pairs_within_groups_as_the_inner_coupling_does_alone():
    x0, x1, cond, draws = batch(30, 2)
    pairs = PerCondition(ExactOT())(x0, x1, cond, draws)
    for k in range(3):
        m = (cond["label"] == k).nonzero().flatten()
        alone = ExactOT()(x0[m], x1[m], {}, draws.select(m))
        assert torch.equal(pairs.index0[m], m[alone.index0])
    assert torch.equal(cond["label"][pairs.index0], cond["label"])


def test_per_condition_weights_have_mean_one_in_each_group_and_logs_are_shared_by_size():
    x0, x1, cond, draws = batch(31, 2)
    pairs = PerCondition(Gibbs(2.0))(x0, x1, cond, draws)
    shares = []
    for k in range(3):
        m = cond["label"] == k
        assert float(pairs.weight[m].mean()) == pytest.approx(1.0, rel=1e-12)
        shares.append(float(Gibbs(2.0)(x0[m], x1[m], {}, draws.select(m)).logs["ess"]) * int(m.sum()) / 31)
    assert float(pairs.logs["ess"]) == pytest.approx(sum(shares), rel=1e-12)


def test_one_group_is_the_inner_coupling_and_groups_of_one_are_left_alone():
    x0, x1, _, draws = batch(10, 2)
    same = PerCondition("exact-ot", "c")(x0, x1, {"c": torch.zeros(10, 2)}, draws)
    assert torch.equal(same.index0, ExactOT()(x0, x1, {}, draws).index0)
    alone = PerCondition("exact-ot", "c")(x0, x1, {"c": torch.arange(10.0)}, draws)
    assert torch.equal(alone.x0, x0)


def test_per_condition_prepares_its_inner_coupling():
    x0, x1, cond, draws = batch(512, 2)
    ready = PerCondition(Gibbs()).prepare(x0, x1, cond, draws)
    assert ready == PerCondition(Gibbs().prepare(x0, x1, cond, draws))
    assert ready.prepare(x0, x1, cond, draws) is ready


def test_a_missing_group_condition_is_named_with_those_at_hand():
    x0, x1, cond, draws = batch(4, 2)
    with pytest.raises(ConditionError, match=r"groups by 'class', which the batch lacks; it has: label, row"):
        PerCondition("exact-ot", "class")(x0, x1, cond, draws)


def test_pairs_of_a_data_set_are_refused_by_couplings_that_would_change_them():
    check_pairs(GivenPairs())
    check_pairs(Gibbs(1.0, on_pairs=True))
    check_pairs(PerCondition(GivenPairs()))
    with pytest.raises(OptionError, match=r"Gibbs would re-couple.*Use GivenPairs\(\), or Gibbs\(on_pairs=True\)"):
        check_pairs(Gibbs(1.0))
    with pytest.raises(OptionError, match=r"ExactOT would re-couple data that come in pairs"):
        check_pairs(PerCondition(ExactOT()))


def test_couplings_are_found_by_name():
    assert coupling("independent") == Independent()
    assert coupling("exact-ot") == ExactOT()
    assert coupling("gibbs") == Gibbs()
    assert coupling("given-pairs") == GivenPairs()
    own = Sinkhorn(0.1)
    assert coupling(own) is own
    with pytest.raises(UnknownOptionError, match="did you mean 'exact-ot'"):
        coupling("exactot")
    with pytest.raises(OptionError, match=r"Sinkhorn\(epsilon=0.05\)"):
        coupling("sinkhorn")
