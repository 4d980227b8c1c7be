import math

import pytest
import torch
from torch import nn

from rheos.core import Field, GeodesicPath, Query, UnitQuaternion, row_seeds
from rheos.core.errors import (
    ConditionError,
    DataError,
    NonFiniteError,
    OptionError,
    ShapeError,
    SourceNotGaussianError,
    TimeError,
    UnknownOptionError,
)  # fmt: skip
from rheos.metrics import Nfe
from rheos.nets import MLP, UNet
from rheos.sample import CFG, SOLVERS, DormandPrince, Grid, draw, solver
from rheos.sample.divergence import NOISES
from rheos.sample.likelihood import Likelihood, dequantise, log_likelihood
from strategies import gaussian, mixture, randn, untyped

TIGHT = DormandPrince(rtol=1e-7, atol=1e-7)
PATHS = ["linear", "gvp", "vp", "sub-vp"]


class Head(nn.Module):
    """The exact estimate of a mixture as a float64 network of any kind."""

    def __init__(self, truth, kind):
        super().__init__()
        self.truth, self.kind = truth, kind
        self.conditions = truth.conditions
        self.zero = nn.Parameter(torch.zeros((), dtype=torch.float64))

    def null(self, name, rows):
        return self.truth._null(name, rows)

    def forward(self, x, t, **cond):
        return self.truth.answer(Query(x, t, (t, t), cond, self.kind)).value + 0 * self.zero


class Normal(nn.Module):
    """The velocity of N(mean, e^2s) on the linear path, with parameters."""

    def __init__(self, mean=1.5, std=0.3):
        super().__init__()
        self.mean = nn.Parameter(torch.tensor(mean, dtype=torch.float64))
        self.log_std = nn.Parameter(torch.tensor(math.log(std), dtype=torch.float64))

    def forward(self, x, t):
        t = t.reshape(-1, *(1,) * (x.ndim - 1))
        variance = (2 * self.log_std).exp()
        slope = (t * variance - (1 - t)) / (t * t * variance + (1 - t) ** 2)
        return self.mean + slope * (x - t * self.mean)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("make", [gaussian, mixture])
def test_the_likelihood_is_the_exact_log_density(path, make):
    field = make(path)
    x = field.sample_data(32, seed=1)
    # VP keeps a little of the data at t = 0; with the true marginal there, nothing is left but the solver's error
    told = log_likelihood(field, x, solver=TIGHT, divergence="exact", base=lambda z: field.log_density(z, 0.0))
    torch.testing.assert_close(told.logp, field.log_density(x), rtol=0, atol=1e-4)
    assert told.logp.shape == told.error.shape == (32,)
    assert torch.equal(told.error, torch.zeros(32).double())


@pytest.mark.parametrize("path", ["linear", "gvp"])
def test_the_default_base_is_the_standard_normal_source(path):
    field = mixture(path)
    x = field.sample_data(16, seed=2)
    told = log_likelihood(field, x, solver=TIGHT, divergence="exact")
    torch.testing.assert_close(told.logp, field.log_density(x), rtol=0, atol=1e-5)


@pytest.mark.parametrize("path", ["ve", "edm"])
def test_the_base_of_an_exploding_path_has_its_own_width(path):
    field = gaussian(path, mean=0.0)  # at t = 0 a data variance of 0.09 beside one of 2500 and more
    x = field.sample_data(8, seed=2)
    told = log_likelihood(field, x, solver=TIGHT, divergence="exact")
    torch.testing.assert_close(told.logp, field.log_density(x), rtol=0, atol=1e-4)


def test_at_the_default_tolerance_the_error_is_below_a_thousandth():
    for field in (gaussian(dim=2), mixture(), mixture("gvp")):
        x = field.sample_data(32, seed=1)
        told = log_likelihood(field, x, divergence="exact")
        torch.testing.assert_close(told.logp, field.log_density(x), rtol=0, atol=1e-3)


@pytest.mark.parametrize("kind", ["velocity", "data", "noise", "score", "v_prediction"])
def test_whatever_the_head_predicts_the_likelihood_is_the_same(kind):
    truth = gaussian(dim=2)
    field = Field(Head(truth, kind), predicts=kind)
    x = truth.sample_data(8, seed=3)
    told = log_likelihood(field, x, solver=TIGHT, divergence="exact")
    assert told.times[0] == field.finite[1]
    # the walk neglects the noise that a score head needs at the end: (1e-3 / 0.3)^2 / 2 nats where (x - m)^2 = 2 s^2
    torch.testing.assert_close(told.logp, truth.log_density(x), rtol=0, atol=1e-4)


def test_a_flow_without_motion_gives_the_source():
    class Tilted(nn.Module):
        def forward(self, x, t):
            return 0 * x

    x = randn(4, 3, 2)
    told = log_likelihood(Field(Tilted()), x)
    expected = torch.distributions.Normal(0, 1).log_prob(x).flatten(1).sum(1)
    torch.testing.assert_close(told.logp, expected, rtol=1e-14, atol=0)
    assert torch.equal(told.z, x)
    assert told.error.isnan().all()  # one probe says nothing of its spread


def test_the_latents_give_the_data_back():
    field = mixture()
    x = field.sample_data(8, seed=4)
    told = log_likelihood(field, x, solver=TIGHT)
    torch.testing.assert_close(draw(field, 8, source=told.z, solver=TIGHT, steps=1), x, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["euler", "midpoint", "heun", "ralston", "rk3", "rk4", "ab2"])
def test_every_velocity_solver_converges_to_the_density_with_its_order(name):
    field = gaussian()
    x = field.sample_data(8, seed=5)
    error = [
        float((log_likelihood(field, x, solver=name, steps=n).logp - field.log_density(x)).abs().mean())
        for n in (100, 200)
    ]
    order = solver(name).order
    assert math.log2(error[0] / error[1]) == pytest.approx(order, abs=0.35)


@pytest.mark.parametrize("t", [0.3, 0.7])
def test_times_from_the_middle_give_the_density_of_the_marginal_there(t):
    field = mixture()
    x = 0.7 * randn(8, 2)
    told = log_likelihood(field, x, steps=(0.0, t), solver=TIGHT, divergence="exact")
    torch.testing.assert_close(told.logp, field.log_density(x, t), rtol=0, atol=1e-5)
    assert told.times == (t, 0.0)


# --- Hutchinson ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("noise", NOISES)
def test_hutchinson_is_unbiased_and_its_standard_error_is_true(noise):
    field, n = mixture(), 1500
    x = torch.tensor([[0.4, 0.2]]).double().expand(n, 2).contiguous()
    exact = log_likelihood(field, x[:1], solver="heun", steps=12, divergence="exact").logp
    told = log_likelihood(field, x, solver="heun", steps=12, probes=4, noise=noise)
    spread = float(told.logp.std())
    assert spread > 0.05  # or nothing is tested
    assert abs(float(told.logp.mean() - exact)) < 4 * spread / math.sqrt(n)
    # the mean square of the reported error is the variance of the mean, within 5 of its own standard errors
    square = told.error.square()
    assert abs(float(square.mean()) - spread**2) < 5 * float(square.std() + 1.5 * spread**2) / math.sqrt(n)


def test_signs_are_exact_where_the_jacobian_is_diagonal():
    field = gaussian(dim=3)
    x = field.sample_data(6, seed=6)
    exact = log_likelihood(field, x, solver="rk4", steps=20, divergence="exact").logp
    told = log_likelihood(field, x, solver="rk4", steps=20, probes=3)
    torch.testing.assert_close(told.logp, exact, rtol=1e-12, atol=1e-12)
    assert float(told.error.max()) < 1e-12


def test_signs_are_plus_and_minus_one_and_keyed_by_row_and_probe():
    from rheos.core import Draws
    from rheos.sample.divergence import draw_probes

    e = draw_probes(Draws(row_seeds(0, 50)), torch.empty(50, 3, 4, 4), 3, "rademacher")
    assert e.shape == (50, 3, 3, 4, 4)
    assert torch.equal(e.abs(), torch.ones_like(e))
    assert abs(float(e.mean())) < 4 / math.sqrt(e.numel())
    assert float((e[:, 0] * e[:, 1]).mean().abs()) < 4 / math.sqrt(e.numel() / 3)


def test_permuting_the_rows_permutes_the_result_and_seeds_follow_their_rows():
    field, seeds, order = mixture(), row_seeds(7, 6), torch.tensor([3, 0, 5, 1, 4, 2])
    x = field.sample_data(6, seed=8)
    whole = log_likelihood(field, x, probes=2, seed=seeds)
    mixed = log_likelihood(field, x[order], probes=2, seed=seeds[order])
    torch.testing.assert_close(mixed.logp, whole.logp[order], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(mixed.error, whole.error[order], rtol=1e-12, atol=1e-12)
    part = log_likelihood(field, x[2:4], probes=2, seed=seeds[2:4])
    torch.testing.assert_close(part.logp, whole.logp[2:4], rtol=1e-12, atol=1e-12)
    assert torch.equal(log_likelihood(field, x, probes=2, seed=7).logp, whole.logp)
    assert not torch.allclose(log_likelihood(field, x, probes=2, seed=8).logp, whole.logp)


# --- shapes, networks, counts ----------------------------------------------------------------------------------------


def test_pictures_have_the_likelihood_of_their_flat_rows():
    field = mixture()
    flat = type(field)(means=randn(2, 12), stds=[0.4, 0.6])
    pictures = type(field)(means=randn(2, 12), stds=[0.4, 0.6])
    pictures.shape = (3, 2, 2)
    x = flat.sample_data(4, seed=9)
    told = log_likelihood(pictures, x.reshape(4, 3, 2, 2), solver="rk4", steps=30, divergence="exact")
    same = log_likelihood(flat, x, solver="rk4", steps=30, divergence="exact")
    torch.testing.assert_close(told.logp, same.logp, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(told.logp, flat.log_density(x), rtol=0, atol=1e-4)
    assert told.z.shape == (4, 3, 2, 2)


@pytest.mark.parametrize("block", [1, 200, 10**6])
def test_copies_of_the_batch_change_nothing(block, monkeypatch):
    torch.manual_seed(0)
    net = UNet(channels=1, width=8, multipliers=(1,), classes=2).double()
    for p in net.parameters():
        p.data.add_(0.05 * torch.randn_like(p))
    field, x = Field(net), randn(3, 1, 4, 4)
    label = torch.tensor([0, 1, 1])
    monkeypatch.setattr(
        "rheos.sample.divergence.BLOCK", block
    )  # 1: a pass for each direction; then 4; then all at once
    told = log_likelihood(field, x, solver="midpoint", steps=2, divergence="exact", label=label)

    def velocity(row, t):
        return field(row[None], t, label=label[k : k + 1])[0]

    for k in range(3):  # the same two midpoint steps with the Jacobian of autograd
        at, gain = x[k], 0.0
        for t, h in ((1.0, -0.5), (0.5, -0.5)):
            middle = (at + h / 2 * velocity(at, t)).detach()
            jacobian = torch.autograd.functional.jacobian(lambda row, t=t, h=h: velocity(row, t + h / 2), middle)
            gain += h * float(jacobian.reshape(16, 16).trace())
            at = (at + h * velocity(middle, t + h / 2)).detach()
        source = float(torch.distributions.Normal(0, 1).log_prob(at).sum())
        assert float(told.logp[k]) == pytest.approx(source + gain, abs=1e-9)


@pytest.mark.parametrize("divergence", ["exact", "hutchinson"])
@pytest.mark.parametrize("name", ["heun", "dopri5"])
def test_calls_are_those_of_the_network(divergence, name):
    torch.manual_seed(0)
    field = Field(MLP(2, hidden=8, classes=2))
    with Nfe(field.net) as nfe:
        plain = log_likelihood(field, randn(4, 2).float(), steps=5, solver=name, divergence=divergence, label=1)
        assert plain.calls == nfe.calls
        guided = log_likelihood(field, randn(4, 2).float(), steps=5, solver=name, divergence=divergence, guidance=2.0)
        assert plain.calls + guided.calls == nfe.calls
    assert name != "heun" or plain.calls == 10


def test_conditions_give_the_density_of_their_class():
    field, label = mixture(labels=True), torch.tensor([0, 1, 1, 0])
    x = torch.stack([field.sample_data(40, seed=1)[k] for k in range(4)])
    told = log_likelihood(field, x, solver=TIGHT, divergence="exact", label=label)
    expected = field.log_density(x, 1.0, label)
    # far from its own class the density is below e^-100, and errors are relative
    torch.testing.assert_close(told.logp, expected, rtol=1e-5, atol=1e-4)
    both = log_likelihood(field, x, solver=TIGHT, divergence="exact")
    torch.testing.assert_close(both.logp, field.log_density(x), rtol=0, atol=1e-4)


def test_guidance_gives_the_density_of_guided_samples():
    field, label = mixture(labels=True), torch.tensor([1, 1, 0])

    class Guided(nn.Module):
        def __init__(self):
            super().__init__()
            self.zero = nn.Parameter(torch.zeros((), dtype=torch.float64))  # so that its clock is float64

        def forward(self, x, t):
            null, cond = field(x, t), field(x, t, label=label.repeat(len(x) // 3))
            return null + 1.7 * (cond - null)

    x = torch.tensor([[1.5, 1.0], [0.6, -1.4], [-2.0, 0.5]]).double()
    walked = {"solver": "rk4", "steps": 30}
    for divergence in ("exact", "hutchinson"):
        told = log_likelihood(field, x, guidance=1.7, label=label, divergence=divergence, **walked)
        same = log_likelihood(Field(Guided()), x, divergence=divergence, **walked)
        torch.testing.assert_close(told.logp, same.logp, rtol=1e-9, atol=1e-9)
    one = log_likelihood(field, x, guidance=1.0, label=label, **walked)
    assert torch.equal(one.logp, log_likelihood(field, x, label=label, **walked).logp)


def test_the_mode_of_the_network_is_put_back_and_dropout_is_off():
    field, x = Field(Dropping()).train(), randn(4, 2)
    one, two = (log_likelihood(field, x, steps=3, solver="heun").logp for _ in range(2))
    assert torch.equal(one, two)
    assert field.training


class Dropping(nn.Module):
    def __init__(self):
        super().__init__()
        self.drop = nn.Dropout(0.5)

    def forward(self, x, t):
        return self.drop(x)


# --- gradients -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("divergence", ["exact", "hutchinson"])
def test_gradients_in_the_data_and_in_the_parameters_are_those_of_the_normal_law(divergence):
    net, c = Normal(), 0.3
    field = Field(net)
    x = torch.tensor([[1.2], [1.5], [2.1]]).double().requires_grad_(True)
    told = log_likelihood(field, x, solver="rk4", steps=80, divergence=divergence, differentiable=True)
    expected = torch.distributions.Normal(1.5, c).log_prob(x.detach())[:, 0]
    torch.testing.assert_close(told.logp.detach(), expected, rtol=0, atol=1e-6)
    slope, mean, log_std = torch.autograd.grad(told.logp.sum(), (x, net.mean, net.log_std))
    gap = x.detach() - 1.5
    torch.testing.assert_close(slope, -gap / c**2, rtol=0, atol=1e-4)
    torch.testing.assert_close(mean, (gap / c**2).sum(), rtol=0, atol=1e-4)
    torch.testing.assert_close(log_std, (gap.square() / c**2 - 1).sum(), rtol=0, atol=1e-4)


def test_parameters_alone_get_gradients_too():
    net = Normal()
    told = log_likelihood(Field(net), randn(5, 2), solver="rk4", steps=10, differentiable=True)
    told.logp.mean().backward()
    assert net.mean.grad.isfinite()
    assert float(net.mean.grad.abs()) > 0


def test_a_gradient_through_an_unusual_network_is_that_of_finite_differences():
    torch.manual_seed(1)
    field, x = Field(MLP(3, hidden=8).double()), randn(2, 3)
    walked = {"solver": "heun", "steps": 4, "probes": 2}
    leaf = x.clone().requires_grad_(True)
    (slope,) = torch.autograd.grad(log_likelihood(field, leaf, differentiable=True, **walked).logp.sum(), leaf)
    way, h = randn(2, 3, seed=5), 1e-5
    up, down = (log_likelihood(field, x + s * way, **walked).logp.sum() for s in (h, -h))
    assert float((slope * way).sum()) == pytest.approx(float(up - down) / (2 * h), rel=1e-6)


def test_without_the_option_nothing_keeps_a_graph():
    net = Normal()
    told = log_likelihood(Field(net), randn(3, 1).requires_grad_(True), solver="heun", steps=3)
    assert not told.z.requires_grad
    assert not told.logp.requires_grad
    with torch.no_grad():
        same = log_likelihood(Field(net), randn(3, 1), solver="heun", steps=3)
    assert torch.equal(same.logp, told.logp)


# --- bits a dimension ------------------------------------------------------------------------------------------------


def test_bits_of_a_flat_law_over_all_levels_are_the_bits_of_a_level():
    width = 2 / 255
    logp = torch.full((2,), -12 * math.log(256 * width), dtype=torch.float64)  # uniform over all 256 bins, twelve times
    told = Likelihood(logp, logp, randn(2, 3, 2, 2), 0, (1.0, 0.0), torch.arange(2))
    torch.testing.assert_close(told.bits_per_dim((-1.0, 1.0)), torch.full((2,), 8.0).double(), rtol=1e-12, atol=0)
    continuous = torch.full((2,), math.log2(256 * width), dtype=torch.float64)
    torch.testing.assert_close(told.bits_per_dim(), continuous, rtol=1e-12, atol=0)


def test_dequantised_levels_fill_their_bins_evenly():
    x = torch.tensor([[-1.0, 1 / 255, 1.0]]).double().expand(4000, 3)
    offset = (dequantise(x, (-1.0, 1.0), seed=3) - x) * 255 / 2
    assert float(offset.abs().max()) <= 0.5
    assert float(offset.mean().abs()) < 4 * math.sqrt(1 / 12 / offset.numel())
    assert float(offset.var()) == pytest.approx(1 / 12, rel=0.05)
    seeds = row_seeds(3, 4000)
    assert torch.equal(dequantise(x[5:6], (-1.0, 1.0), seed=seeds[5:6]), dequantise(x, (-1.0, 1.0), seed=3)[5:6])


# --- bad input -------------------------------------------------------------------------------------------------------


class Detaching(nn.Module):
    def __init__(self, how):
        super().__init__()
        self.how, self.weight = how, nn.Parameter(torch.ones(()))

    def forward(self, x, t):
        if self.how == "no_grad":
            with torch.no_grad():
                return self.weight * x
        return self.weight * x.detach() if self.how == "detach" else torch.ones_like(x)


@pytest.mark.parametrize("how", ["detach", "no_grad", "constant"])
@pytest.mark.parametrize("divergence", ["hutchinson", "exact"])
def test_a_field_that_detaches_x_is_refused_by_name(how, divergence):
    with pytest.raises(OptionError, match="output of this Field of a Detaching does not depend on x"):
        log_likelihood(Field(Detaching(how)), randn(2, 3), divergence=divergence)


def test_a_source_of_unknown_density_is_refused_unless_it_is_given():
    field = Field(Normal(), gaussian=False)
    with pytest.raises(SourceNotGaussianError, match="Give it: base=f"):
        log_likelihood(field, randn(2, 1))
    told = log_likelihood(field, randn(2, 1), base=lambda z: torch.distributions.Normal(0, 1).log_prob(z)[:, 0])
    torch.testing.assert_close(told.logp, log_likelihood(Field(Normal()), randn(2, 1)).logp, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", sorted(SOLVERS))
def test_solvers_that_would_spoil_the_log_density_are_refused(name):
    method = solver(name)
    if method.stochastic or not method.schedule_free:
        with pytest.raises(OptionError, match="cannot walk the log density"):
            log_likelihood(gaussian(), randn(2, 1), solver=name)
    else:
        steps = None if method.adaptive else 40
        told = log_likelihood(gaussian(), randn(2, 1) * 0.3 + 1.5, solver=name, steps=steps)
        assert told.logp.isfinite().all()


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"divergence": "huchinson"}, UnknownOptionError, "divergence 'huchinson' is unknown"),
        ({"noise": "uniform"}, UnknownOptionError, "noise 'uniform' is unknown"),
        ({"solver": "dopri"}, UnknownOptionError, "solver 'dopri' is unknown"),
        ({"probes": 0}, OptionError, "probes must be at least 1"),
        ({"probes": 2, "divergence": "exact"}, OptionError, "1 for the exact divergence, got 2"),
        ({"steps": 0}, OptionError, "steps must be at least 1, got 0"),
        ({"steps": (1.0, 0.5)}, TimeError, "down to 0, where the source is, these end at 0.5"),
        ({"steps": (1000, 500, 0)}, TimeError, r"Times lie in \[0, 1\]"),
        ({"steps": (1.0, 0.5, 0.7, 0.0)}, TimeError, "strictly monotone"),
        ({"steps": Grid()}, OptionError, "A Grid needs the number of steps too"),
        ({"label": 1}, ConditionError, "Unknown condition or option label"),
        ({"probe": 3}, ConditionError, "Unknown condition or option probe"),
        ({"guidance": 2.0}, OptionError, "guidance 2.0 needs a conditional field"),
        ({"differentiable": True}, OptionError, "differentiable=True needs a fixed-step solver"),
        ({"seed": [1, 2, 3]}, OptionError, "seed has 3 values for 2 rows"),
    ],
)
def test_bad_options_are_refused_before_any_call(options, error, match):
    field = Field(Normal())
    with Nfe(field.net) as nfe, pytest.raises(error, match=match):
        log_likelihood(field, randn(2, 1), **options)
    assert nfe.calls == 0


@untyped
def test_bad_states_are_refused():
    field = mixture()
    with pytest.raises(ShapeError, match="one tensor in a flat space, got a dict state"):
        log_likelihood(field, {"a": randn(2, 2)})
    curved = Field(Normal(), path=GeodesicPath(UnitQuaternion()))
    with pytest.raises(ShapeError, match="one tensor in a flat space, got points of UnitQuaternion"):
        log_likelihood(curved, randn(2, 4))
    with pytest.raises(ShapeError, match=r"rows of the shape \(2,\), got \(3, 5\)"):
        log_likelihood(field, randn(3, 5))
    free = Field(Normal())
    with pytest.raises(ShapeError, match=r"floating numbers of the shape \(B, ...\), got torch.float64 \(3,\)"):
        log_likelihood(free, randn(3))
    with pytest.raises(ShapeError, match=r"got torch\.int64"):
        log_likelihood(free, torch.zeros(3, 2, dtype=torch.int64))
    ranged = Field(Normal(), value_range=(-1.0, 1.0))
    with pytest.raises(DataError, match=r"x holds values from 0 to 255, but \(-1, 1\) is expected"):
        log_likelihood(ranged, torch.tensor([[0.0, 255.0]]))
    with pytest.raises(NonFiniteError, match="x holds 1 NaN"):
        log_likelihood(free, torch.tensor([[0.0, math.nan]]))


def test_guidance_whose_weights_depend_on_the_state_is_refused():
    field = mixture(labels=True)
    for cfg in (CFG(2.0, rescale=0.5), CFG(2.0, zero_star=True)):
        with pytest.raises(OptionError, match="without rescale and zero_star"):
            log_likelihood(field, randn(2, 2), guidance=cfg, label=1)
    with pytest.raises(OptionError, match="differentiable=True works without guidance only"):
        log_likelihood(field, randn(2, 2), guidance=2.0, label=1, solver="rk4", differentiable=True)


def test_labels_outside_the_networks_classes_are_refused():
    field = Field(MLP(2, hidden=4, classes=3))
    with pytest.raises(ConditionError, match=r"label must lie in 0 \.\. 2, got 7"):
        log_likelihood(field, randn(2, 2).float(), label=7)


def test_inference_mode_and_fields_with_a_memory_are_refused():
    class Remembering(Field):
        def memory(self, x):
            return x

    with pytest.raises(OptionError, match="A field with a memory"):
        log_likelihood(Remembering(Normal()), randn(2, 1))
    with torch.inference_mode(), pytest.raises(OptionError, match=r"torch\.inference_mode forbids"):
        log_likelihood(Field(Normal()), randn(2, 1))


@pytest.mark.parametrize(("value_range", "levels"), [((1.0, -1.0), 256), ((0.0, 1.0), 1)])
def test_empty_bins_are_refused(value_range, levels):
    with pytest.raises(OptionError, match="low < high and levels >= 2"):
        dequantise(randn(2, 3), value_range, levels)
