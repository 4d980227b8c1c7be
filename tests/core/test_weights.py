import math
from itertools import product

import pytest
import torch

from rheos.core.errors import OptionError, UnknownOptionError
from rheos.core.paths import KINDS, AffinePath, GeodesicPath
from rheos.core.spaces import Euclidean
from rheos.core.weights import SNR, EDMWeight, Likelihood, Matched, MinSNR, One, Sigmoid, matched, weight

T = torch.tensor([0.01, 0.3, 0.5, 0.77, 0.99], dtype=torch.float64)
PATHS = [AffinePath(name, sigma_data=0.7) for name in ("linear", "gvp", "vp", "sub-vp", "ve", "edm", "ddpm")]
paths = pytest.mark.parametrize("path", PATHS, ids=lambda p: type(p.law).__name__)
ALL = [One(), SNR(), MinSNR(), EDMWeight(), Likelihood(), Sigmoid(-1.0), matched("velocity", "score")]


def slopes(path):
    """|error of kind| / |error of the data estimate| on one state, from the definition of each kind."""
    law = path.law
    a, s, da, ds = law.alpha(T), law.sigma(T), law.d_alpha(T), law.d_sigma(T)
    d = da * s - a * ds
    noise = a / s  # x = a x1 + s x0
    c_out = (s / a) * path.sigma_data / ((s / a) ** 2 + path.sigma_data**2).sqrt()
    return {
        "data": torch.ones_like(T),
        "noise": noise,
        "velocity": d / s,  # v = a' x1 + s' x0
        "score": noise / s,  # s = -x0 / sigma
        "v_prediction": a * noise + s,  # a x0 - s x1, errors of opposite sign
        "edm": 1 / c_out,  # x1 = c_skip x + c_out F
    }


@paths
@pytest.mark.parametrize(("src", "dst"), list(product(KINDS, KINDS)))
def test_matched_losses_are_equal_for_every_pair_of_kinds(path, src, dst):
    ratio = slopes(path)
    assert torch.allclose(matched(src, dst)(T, path), (ratio[src] / ratio[dst]).square(), rtol=1e-8)


@paths
def test_matched_losses_are_equal_on_actual_predictions(path):
    g = torch.Generator().manual_seed(0)
    x0, x1, error = (torch.randn(5, 4, generator=g, dtype=torch.float64) for _ in range(3))
    x = path.sample(x0, x1, T).xt
    gaps = {k: path.convert(x1 + error, x, T, "data", k) - path.convert(x1, x, T, "data", k) for k in KINDS}
    squares = {k: gap.square().mean(1) for k, gap in gaps.items()}
    for src, dst in product(KINDS, KINDS):
        assert torch.allclose(squares[dst] * matched(src, dst)(T, path), squares[src], rtol=1e-4)


def test_the_linear_path_has_the_factors_of_the_textbook():
    path = AffinePath("linear")
    assert torch.allclose(matched("velocity", "data")(T, path), (1 - T) ** -2)
    assert torch.allclose(matched("velocity", "noise")(T, path), T**-2)
    assert torch.allclose(matched("velocity", "score")(T, path), ((1 - T) / T).square())
    gvp = AffinePath("gvp")  # v = -(pi / 2) v_prediction
    assert torch.allclose(matched("velocity", "v_prediction")(T, gvp), torch.full_like(T, math.pi**2 / 4))


@paths
@pytest.mark.parametrize("law", ALL, ids=repr)
def test_a_weight_makes_one_loss_whatever_kind_it_is_formed_on(path, law):
    ratio = slopes(path)
    losses = [law.factor(T, path, kind) * ratio[kind].square() for kind in KINDS]
    if law.on is None:
        assert all(torch.equal(law.factor(T, path, kind), law(T, path)) for kind in KINDS)
        return
    for loss in losses:
        assert torch.allclose(loss, losses[0], rtol=1e-7)
    assert torch.equal(law.factor(T, path, law.on), law(T, path))


@paths
@pytest.mark.parametrize("law", ALL, ids=repr)
def test_a_weight_is_positive_float64_and_of_the_times_shape(path, law):
    for t in (T, T.float(), T.reshape(5, 1)):
        w = law(t, path)
        assert w.shape == t.shape
        assert w.dtype == torch.float64
        assert bool((w > 0).all())
        assert w.isfinite().all()


@paths
def test_the_signal_to_noise_weight_is_the_plain_loss_on_the_noise(path):
    assert torch.allclose(SNR().factor(T, path, "noise"), torch.ones_like(T))
    assert torch.allclose(SNR()(T, path), (2 * torch.as_tensor(path.law.lam(T))).exp(), rtol=1e-8)
    assert torch.allclose(MinSNR(5.0)(T, path), SNR()(T, path).clamp(max=5.0))


@paths
def test_the_edm_weight_is_the_plain_loss_on_the_network_of_edm(path):
    s = torch.as_tensor(path.law.sigma(T) / path.law.alpha(T))
    assert torch.allclose(EDMWeight()(T, path), (s**2 + 0.49) / (s * 0.7) ** 2)
    assert torch.allclose(EDMWeight().factor(T, path, "edm"), torch.ones_like(T), rtol=1e-8)


@paths
def test_the_likelihood_weight_is_half_the_growth_of_the_signal_to_noise_ratio(path):
    t = T.clone().requires_grad_()
    snr = (path.law.alpha(t) / path.law.sigma(t)) ** 2
    (growth,) = torch.autograd.grad(snr.sum(), t)
    assert torch.allclose(Likelihood().factor(T, path, "data"), growth / 2, rtol=1e-8)


@paths
def test_the_likelihood_does_not_depend_on_the_schedule_between_the_same_noise_levels(path):
    # the integral of lambda' f(lambda) over t is the integral of f over lambda
    grid = torch.linspace(0.05, 0.95, 20_001, dtype=torch.float64)
    lam = torch.as_tensor(path.law.lam(grid))
    integral = torch.trapezoid(Likelihood()(grid, path) / (1 + lam.square()), grid)
    want = lam[-1].atan() - lam[0].atan()
    assert float(integral) == pytest.approx(float(want), rel=1e-3)  # the discrete table has kinks


def test_the_sigmoid_weight_halves_the_likelihood_where_the_log_signal_to_noise_is_b():
    path = AffinePath("linear")
    t = torch.sigmoid(torch.tensor([0.4], dtype=torch.float64))  # ln SNR = 0.8
    assert torch.allclose(Sigmoid(0.8)(t, path), Likelihood()(t, path) / 2)
    assert torch.allclose(Sigmoid(50.0)(T, path), Likelihood()(T, path))


def test_weights_by_noise_level_need_an_affine_path():
    other = GeodesicPath(Euclidean())
    assert torch.equal(One().factor(T, other, "velocity"), torch.ones_like(T))
    for law in (SNR(), Likelihood(), Sigmoid(), EDMWeight(), matched("data", "velocity")):
        with pytest.raises(
            OptionError, match=r"need an AffinePath and one time a row, got GeodesicPath\. Use weight='one'"
        ):
            law(T, other)


def test_a_time_by_variable_has_no_single_noise_level_and_takes_no_weight():
    t = {"x": T, "y": T}
    assert torch.equal(One().factor(t, PATHS[0], "velocity"), torch.ones_like(T))
    with pytest.raises(OptionError, match=r"got times by variable, \['x', 'y'\]"):
        SNR()(t, PATHS[0])


def test_options_out_of_range_are_refused():
    with pytest.raises(OptionError, match="gamma must be positive, got 0"):
        MinSNR(0.0)
    with pytest.raises(OptionError, match="b must be finite, got nan"):
        Sigmoid(math.nan)


@pytest.mark.skipif(hasattr(One.__call__, "__wrapped__"), reason="the shape checker speaks first")
def test_an_unknown_kind_is_refused_with_near_ones():
    with pytest.raises(UnknownOptionError, match="src 'velocities' is unknown; did you mean 'velocity'"):
        Matched("velocities", "data")


def test_weights_are_found_by_name():
    want = {"one": One(), "snr": SNR(), "min-snr": MinSNR(), "edm": EDMWeight(), "likelihood": Likelihood()}
    assert {name: weight(name) for name in want} == want
    assert weight("sigmoid") == Sigmoid()
    own = MinSNR(1.0)
    assert weight(own) is own
    with pytest.raises(UnknownOptionError, match="did you mean 'min-snr'"):
        weight("minsnr")
