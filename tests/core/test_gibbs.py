import math
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rheos.core.draws import Draws, row_seeds
from rheos.core.errors import NonFiniteError, OptionError, ShapeError, UnknownOptionError
from rheos.core.gibbs import Gibbs, Tilted, all_costs, calibrate, effective_share, pair_costs, tilt
from rheos.core.transport import sinkhorn, squared_distances

few = settings(max_examples=20, deadline=None, derandomize=True)
M, S = 2.0, 0.5  # the line's data law N(2, 0.25); the source is N(0, 1)


def line(n, seed=0):
    g = torch.Generator().manual_seed(seed)
    x0, z = (torch.randn(n, 1, generator=g, dtype=torch.float64) for _ in range(2))
    return x0, M + S * z


def weigh(couple, x0, x1):
    return couple(x0, x1, {}, Draws(torch.arange(len(x0))))


def tilted_gaussian(epsilon):
    """Mean and covariance of pi ~ exp(-(x - y)^2 / epsilon) p0(x) p1(y)."""
    r = 2 / epsilon
    cov = torch.linalg.inv(torch.tensor([[1 + r, -r], [-r, 1 / S**2 + r]], dtype=torch.float64))
    return cov @ torch.tensor([0.0, M / S**2], dtype=torch.float64), cov


def exact_velocity(epsilon, t, x):
    mean, cov = tilted_gaussian(epsilon)
    u, xt = torch.tensor([-1.0, 1.0], dtype=torch.float64), torch.tensor([1 - t, t], dtype=torch.float64)
    return float(u @ mean + (u @ cov @ xt) / (xt @ cov @ xt) * (x - xt @ mean))


@pytest.mark.parametrize(("epsilon", "velocity"), [(1.0, 1.135802), (4.0, 1.803922), (math.inf, 2.243902)])
def test_weighted_regression_learns_the_velocity_of_the_gibbs_coupling(epsilon, velocity):
    assert exact_velocity(epsilon, 0.3, 0.4) == pytest.approx(velocity, abs=1e-6)
    x0, x1 = line(1_000_000)
    w = weigh(Gibbs(epsilon, cost="sqeuclidean"), x0, x1).weight
    xt, u = (0.7 * x0 + 0.3 * x1).flatten(), (x1 - x0).flatten()
    dx, du = xt - (w * xt).mean(), u - (w * u).mean()  # the exact velocity is affine in x_t
    fit = (w * u).mean() + (w * dx * du).sum() / (w * dx * dx).sum() * (0.4 - (w * xt).mean())
    assert float(fit) == pytest.approx(velocity, rel=0.01)


def test_the_weighted_pairs_have_the_tilted_means():
    mean, cov = tilted_gaussian(1.0)
    assert mean.tolist() == pytest.approx([1.142857, 1.714286], abs=1e-6)
    x0, x1 = line(400_000)
    w = weigh(Gibbs(1.0, cost="sqeuclidean"), x0, x1).weight[:, None]
    ends = torch.cat((x0, x1), 1)
    assert (w * ends).mean(0).tolist() == pytest.approx(mean.tolist(), abs=0.01)
    gap = ends - mean
    assert torch.allclose((w * gap).T @ gap / len(w), cov, atol=0.01)


def test_a_huge_epsilon_is_plain_flow_matching_in_loss_and_gradient():
    x0, x1 = line(256)
    xt, u = 0.5 * (x0 + x1), x1 - x0
    out = []
    for w in (torch.ones(256, dtype=torch.float64), weigh(Gibbs(1e9), x0, x1).weight):
        theta = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
        loss = (w * (theta * xt - u).square().flatten()).mean()
        loss.backward()
        out.append((loss.item(), theta.grad.item()))
    assert out[1] == pytest.approx(out[0], rel=1e-6)


@few
@given(b=st.integers(1, 40), d=st.integers(1, 6), seed=st.integers(0, 999), cost=st.sampled_from(["l2", "sqeuclidean"]))
def test_named_costs_are_those_of_the_definition_for_pairs_and_for_all(b, d, seed, cost):
    g = torch.Generator().manual_seed(seed)
    x0, x1 = (torch.randn(b, d, 2, generator=g, dtype=torch.float64) for _ in range(2))
    squared = (x1 - x0).square().sum((1, 2))
    assert torch.allclose(pair_costs(x0, x1, cost), squared if cost == "sqeuclidean" else squared.sqrt(), rtol=1e-12)
    assert torch.allclose(all_costs(x0, x1, cost).diagonal(), pair_costs(x0, x1, cost), rtol=1e-9)
    parts = [{"a": x[:, :1], "b": x[:, 1:]} for x in (x0, x1)]
    assert torch.allclose(pair_costs(*parts, cost), pair_costs(x0, x1, cost), rtol=1e-12)


def test_a_function_is_a_cost_for_pairs_and_for_all_of_them():
    x0, x1 = line(300)

    def l1(a, b):
        return (a - b).abs().sum(1)

    assert torch.equal(pair_costs(x0, x1, l1), (x0 - x1).abs().flatten())
    assert torch.allclose(all_costs(x0, x1, l1), (x0 - x1.T).abs())
    assert torch.allclose(weigh(Gibbs(2.0, l1), x0, x1).weight, weigh(Gibbs(2.0, "l2"), x0, x1).weight)
    with pytest.raises(ShapeError, match=r"one number a pair, shape \(300,\), got \(300, 1\)"):
        weigh(Gibbs(2.0, lambda a, b: (a - b).abs()), x0, x1)


@few
@given(shift=st.floats(-1e6, 1e6), seed=st.integers(0, 99))
def test_batch_weights_have_mean_one_and_forget_a_constant_in_the_cost(shift, seed):
    x0, x1 = line(64, seed)
    plain = weigh(Gibbs(2.0), x0, x1).weight
    moved = weigh(Gibbs(2.0, lambda a, b: pair_costs(a, b, "l2") + shift), x0, x1).weight
    assert float(plain.mean()) == pytest.approx(1.0, rel=1e-12)
    assert torch.allclose(moved, plain, rtol=1e-9)  # 1e6 leaves 10 digits of a cost


def test_costs_of_five_hundred_epsilon_neither_under_nor_overflow_in_float32():
    x0, x1 = line(64)
    far = [(x * s).float() for x, s in ((x0, 1.0), (x1 + 500, 1.0))]
    assert float(pair_costs(*far, "l2").min()) > 490
    w = weigh(Gibbs(1.0), *far).weight
    near = weigh(Gibbs(1.0, lambda a, b: pair_costs(a, b, "l2") - 500), x0, x1 + 500).weight
    assert torch.allclose(w, near, rtol=1e-3)  # float32 keeps 3e-5 of 500
    assert float(w.max()) > 1


def test_plain_weights_are_the_kernel_and_ema_weights_divide_it_by_its_mean():
    x0, x1 = line(4096)
    kernel = (-(x1 - x0).abs().flatten() / 2).exp()
    assert torch.allclose(weigh(Gibbs(2.0, normalize="none"), x0, x1).weight, kernel, rtol=1e-12)
    ready = Gibbs(2.0, normalize="ema").prepare(x0, x1, {}, Draws(torch.arange(4096)))
    assert ready.log_mean == pytest.approx(math.log(float(kernel.mean())), rel=1e-12)
    assert torch.allclose(weigh(ready, x0, x1).weight, kernel / kernel.mean(), rtol=1e-12)
    # E exp(-(x - y)^2) = exp(-m^2 / (1 + 2 v)) / sqrt(1 + 2 v), v = 1 + s^2
    gauss = Gibbs(1.0, "sqeuclidean", "ema").prepare(*line(400_000), {}, Draws(torch.arange(400_000)))
    assert gauss.log_mean == pytest.approx(-(M**2) / 3.5 - 0.5 * math.log(3.5), abs=0.01)


def test_the_effective_share_is_the_mean_square_ratio():
    w = torch.tensor([0.3, 2.0, 0.1, 0.9], dtype=torch.float64)
    assert float(effective_share(w.log() - 800)) == pytest.approx(float(w.sum() ** 2 / (4 * w.square().sum())))
    x0, x1 = line(64)
    pairs = weigh(Gibbs(2.0), x0, x1)
    assert float(pairs.logs["ess"]) == pytest.approx(float(1 / pairs.weight.square().mean()))


@few
@given(seed=st.integers(0, 99), scale=st.floats(1e-6, 1e6), share=st.floats(0.05, 0.95))
def test_calibration_meets_its_share_and_scales_with_the_costs(seed, scale, share):
    costs = pair_costs(*line(512, seed), "l2")
    epsilon = calibrate(costs, share)
    assert float(effective_share(costs / -epsilon)) == pytest.approx(share, rel=1e-9)
    assert calibrate((costs + 7) * scale, share) == pytest.approx(epsilon * scale, rel=1e-9)


def test_automatic_epsilon_is_fixed_once_and_for_all():
    x0, x1 = line(4096)
    draws = Draws(torch.arange(4096))
    ready = Gibbs("auto").prepare(x0, x1, {}, draws)
    assert float(weigh(ready, x0, x1).logs["ess"]) == pytest.approx(0.5, rel=1e-9)
    assert ready.prepare(*line(4096, 1), {}, draws) is ready
    assert Gibbs("auto").prepare(x0, x1, {}, draws) == ready
    order = torch.randperm(4096, generator=torch.Generator().manual_seed(0))
    again = Gibbs("auto").prepare(x0[order], x1[order], {}, draws)
    assert again.epsilon == pytest.approx(ready.epsilon, rel=1e-12)


def test_a_prepared_coupling_survives_its_configuration_file():
    from pydantic import TypeAdapter

    ready = Gibbs("auto", normalize="ema").prepare(*line(1024), {}, Draws(torch.arange(1024)))
    adapter = TypeAdapter(Gibbs)
    assert adapter.validate_json(adapter.dump_json(ready)) == ready


def test_open_constants_are_refused_with_the_way_out():
    x0, x1 = line(8)
    with pytest.raises(OptionError, match=r"epsilon='auto' once, on a pilot.*coupling.prepare"):
        weigh(Gibbs(), x0, x1)
    with pytest.raises(OptionError, match=r"mean weight of normalize='ema' once"):
        weigh(Gibbs(1.0, normalize="ema"), x0, x1)


def test_starved_weights_warn_with_an_epsilon_that_keeps_half():
    x0, x1 = line(4096)
    half = calibrate(pair_costs(x0, x1, "l2"))
    with pytest.warns(RuntimeWarning, match="epsilon=0.05 leave less than a tenth of a batch at work"):
        weigh(Gibbs(0.05), x0, x1)
    with pytest.warns(RuntimeWarning, match=rf"pairs at work. Try epsilon={half:.3g}, which keeps half"):
        Gibbs(0.05).prepare(x0, x1, {}, Draws(torch.arange(4096)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        weigh(Gibbs(half), x0, x1)


def test_one_half_step_makes_the_mean_weight_of_each_source_row_one():
    # E[w | x0] = 1, so moments of x0 under the weights are those of p0; without it the mean is 1.14
    x0, x1 = line(3000)
    w = weigh(Gibbs(1.0, "sqeuclidean", half_steps=1), x0, x1).weight[:, None]
    assert float((w * x0).mean()) == pytest.approx(0.0, abs=0.15)
    assert float((w * x0.square()).mean()) == pytest.approx(1.0, abs=0.25)


def test_many_half_steps_give_the_diagonal_of_the_entropic_plan():
    x0, x1 = line(64)
    w = weigh(Gibbs(1.0, "sqeuclidean", "none", half_steps=400), x0, x1).weight
    plan = sinkhorn(squared_distances(x0, x1), 1.0, iterations=5000, tolerance=1e-13)
    assert torch.allclose(w, plan.log.diagonal().exp() * 64**2, rtol=1e-8)
    assert Gibbs(1.0, normalize="ema", half_steps=1).prepare(x0, x1, {}, Draws(torch.arange(64))).log_mean == 0.0


def test_concentric_circles_are_not_tilted():
    angle = torch.arange(64, dtype=torch.float64) * (2 * math.pi / 64)
    circle = torch.stack((angle.cos(), angle.sin()), 1)
    for cost in ("l2", "sqeuclidean"):
        both = tilt(circle, 3 * circle, 0.5, cost)
        assert max(both.source.abs().max(), both.data.abs().max()) < 1e-12


def test_the_tilt_of_gaussians_has_its_closed_form():
    # ln p~0 / p0 is quadratic in x: N(x; mean, var) of the Gibbs coupling's marginal over N(x; 0, 1)
    mean, cov = tilted_gaussian(1.0)
    x = torch.linspace(0, 2.5, 41, dtype=torch.float64)  # whose partners lie where the quadrature is dense
    x1 = M + S * torch.special.ndtri((torch.arange(4000, dtype=torch.float64) + 0.5) / 4000)  # a quadrature of p1
    have = tilt(x[:, None], x1[:, None], 1.0, "sqeuclidean")
    want = 0.5 * x.square() - 0.5 * (x - mean[0]).square() / cov[0, 0]
    gap = have.source - want
    assert (gap - gap.mean()).abs().max() < 2e-3
    assert float(have.source.exp().mean()) == pytest.approx(1.0, rel=1e-12)
    assert float(have.data.exp().mean()) == pytest.approx(1.0, rel=1e-12)


def test_the_tilted_source_has_the_marginal_that_training_saw():
    mean, cov = tilted_gaussian(1.0)
    _, x1 = line(200, 1)
    start = Tilted(x1, Gibbs(1.0, "sqeuclidean"), candidates=64)
    x = start(torch.empty(1500, 1, dtype=torch.float64), {}, Draws(row_seeds(0, 1500)))
    assert float(x.mean()) == pytest.approx(float(mean[0]), abs=0.1)  # 200 data rows and 64 candidates
    assert float(x.var()) == pytest.approx(float(cov[0, 0]), abs=0.1)
    assert not start.gaussian
    some = start(torch.empty(5, 1, dtype=torch.float64), {}, Draws(row_seeds(0, 1500)[7:12]))
    assert torch.equal(some, x[7:12])


def test_one_candidate_is_the_base_source():
    draws = Draws(row_seeds(0, 4))
    x = Tilted(torch.zeros(2, 3), Gibbs(1.0), candidates=1)(torch.empty(4, 3), {}, draws)
    assert torch.equal(x, draws.fold("candidate", 0).normal(torch.empty(4, 3), "source"))


@pytest.mark.parametrize("epsilon", [0.0, -1.0, math.nan])
def test_an_epsilon_without_meaning_is_refused(epsilon):
    with pytest.raises(OptionError, match="epsilon must be positive or 'auto'"):
        Gibbs(epsilon)


def test_other_options_are_refused_too():
    with pytest.raises(OptionError, match="half_steps must be 0 or more"):
        Gibbs(1.0, half_steps=-1)
    with pytest.raises(OptionError, match=r"share must lie in \(0, 1\), got 1\.0"):
        Gibbs(share=1.0)
    with pytest.raises(OptionError, match="epsilon must be positive"):
        tilt(*line(4), epsilon=0.0)
    with pytest.raises(OptionError, match="the epsilon of the training"):
        Tilted(torch.zeros(2, 1), Gibbs())
    with pytest.raises(OptionError, match="candidates must be at least 1"):
        Tilted(torch.zeros(2, 1), Gibbs(1.0), candidates=0)


@pytest.mark.skipif(hasattr(effective_share, "__wrapped__"), reason="the shape checker speaks first")
def test_unknown_words_are_refused_with_near_ones():
    with pytest.raises(UnknownOptionError, match="did you mean 'sqeuclidean'"):
        Gibbs(1.0, "sqeuclid")
    with pytest.raises(UnknownOptionError, match="normalize 'batches' is unknown"):
        Gibbs(1.0, normalize="batches")
    with pytest.raises(OptionError, match="epsilon must be positive or 'auto', got 'large'"):
        Gibbs("large")


def test_costs_that_are_not_finite_or_all_tie_are_refused():
    x0, x1 = line(8)
    bad = x1.clone()
    bad[3] = math.nan
    with pytest.raises(NonFiniteError, match="A pair's cost is NaN or infinite"):
        weigh(Gibbs(1.0), x0, bad)
    with pytest.raises(NonFiniteError, match="pilot's costs hold a NaN"):
        Gibbs().prepare(x0, bad, {}, Draws(torch.arange(8)))
    with pytest.raises(OptionError, match="100% of the pilot's pairs tie"):
        Gibbs().prepare(x0, x0 + 1, {}, Draws(torch.arange(8)))
    with pytest.raises(OptionError, match=r"effective share must lie in \(0, 1\), got 0"):
        calibrate(torch.zeros(2, dtype=torch.float64), 0.0)
