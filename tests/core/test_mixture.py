import math

import pytest
import torch
from hypothesis import given

from rheos.core import AffinePath, GaussianMixtureField, Query
from rheos.core.errors import OptionError, ShapeError, UnknownOptionError
from rheos.core.paths import KINDS
from strategies import SCHEDULES, gaussian, mixture, randn, schedules, times, untyped

each = pytest.mark.parametrize("law", SCHEDULES.values(), ids=SCHEDULES)
M, C = 1.5, 0.3


@given(law=schedules, t=times)
def test_one_component_has_the_closed_forms_of_a_gaussian(law, t):
    field, x = gaussian(AffinePath(law), M, C), randn(5, 1) * (law.alpha(t) + law.sigma(t))
    a, da, s, ds = law.alpha(t), law.d_alpha(t), law.sigma(t), law.d_sigma(t)
    v = a * a * C * C + s * s
    half_dv = a * da * C * C + s * ds
    gap = x - a * M

    def near(value, expected):
        torch.testing.assert_close(value, expected, rtol=1e-9, atol=1e-9 * float(expected.abs().max()))

    near(field(x, t), da * M + half_dv / v * gap)
    near(field.data(x, t), M + a * C * C / v * gap)
    near(field.score(x, t), -gap / v)
    near(field.noise(x, t), s * gap / v)
    density = torch.distributions.Normal(*(torch.tensor(z, dtype=torch.float64) for z in (a * M, math.sqrt(v))))
    near(field.log_density(x, t), density.log_prob(x)[:, 0])


@each
def test_every_kind_says_the_same_of_a_mixture(law):
    path = AffinePath(law, sigma_data=0.8)
    field, x, t = mixture(path), randn(4, 2), torch.tensor([0.1, 0.4, 0.6, 0.9]).double()
    data = field.answer(Query(x, t, (t, t), {}, "data")).value
    for kind in KINDS:
        value = field.answer(Query(x, t, (t, t), {}, kind)).value
        back = path.convert(value, x, t, kind, "data")
        torch.testing.assert_close(back, data, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", ["linear", "gvp", "vp", "sub-vp"])
def test_every_kind_is_finite_at_both_ends_and_the_data_is_the_state_at_the_last(name):
    path = AffinePath(SCHEDULES[name])
    field, x = mixture(path), randn(4, 2)
    for t in (0.0, 1.0):
        for kind in ("velocity", "data", "noise", "score", "v_prediction", "edm"):
            assert field.answer(Query(x, t, (t, t), {}, kind)).value.isfinite().all()
    torch.testing.assert_close(field.data(x, 1.0), x, rtol=1e-12, atol=1e-12)


@each
def test_the_score_is_the_slope_of_the_log_density(law):
    field, x = mixture(AffinePath(law)), randn(6, 2).requires_grad_(True)
    (slope,) = torch.autograd.grad(field.log_density(x, 0.6).sum(), x)
    torch.testing.assert_close(field.score(x.detach(), 0.6), slope, rtol=1e-9, atol=1e-12)


@each
def test_velocity_and_density_obey_the_continuity_equation(law):
    if law is SCHEDULES["ddpm"]:
        pytest.skip("its slope jumps at the steps of the table")
    field, t = mixture(AffinePath(law)), 0.55
    x = randn(5, 2) * (law.alpha(t) + law.sigma(t))
    clock = torch.tensor(t, dtype=torch.float64, requires_grad=True)
    rate = torch.stack([torch.autograd.grad(field.log_density(x[i : i + 1], clock).sum(), clock)[0] for i in range(5)])
    flow = torch.func.jacrev(lambda y: field.answer(Query(y[None], t, (t, t), {})).value[0])
    divergence = torch.stack([flow(row).trace() for row in x])
    carried = (field(x, t) * field.score(x, t)).sum(1)
    torch.testing.assert_close(rate, -divergence - carried, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("t", [0.0, 0.3, 0.8, 1.0])
def test_the_posterior_is_a_mixture_whose_mean_is_the_data_estimate(t):
    field, x = mixture(), randn(6, 2)
    weights, means, variances = field.posterior(x, t)
    torch.testing.assert_close(weights.sum(1), torch.ones(6, dtype=torch.float64))
    torch.testing.assert_close((weights[..., None] * means).sum(1), field.data(x, t), rtol=1e-12, atol=1e-12)
    assert bool((variances >= 0).all())
    if t == 0:  # noise says nothing: the posterior is the prior
        torch.testing.assert_close(weights, field.log_weights.exp().expand(6, 3))
        torch.testing.assert_close(variances, field.variances.expand(6, 3, 2))
    if t == 1:
        assert float(variances.max()) == 0


@given(law=schedules, s=times, t=times)
def test_the_flow_map_composes_and_solves_the_ode(law, s, t):
    field = GaussianMixtureField([[1.5, -0.5]], [[0.3, 2.0]], path=AffinePath(law))
    x = randn(4, 2)
    middle = 0.5 * (s + t)
    direct = field.flow_map(x, s, t)
    detour = field.flow_map(field.flow_map(x, s, middle), middle, t)
    torch.testing.assert_close(detour, direct, rtol=1e-9, atol=1e-9 * float(direct.abs().max()))
    clock = torch.tensor(t, dtype=torch.float64)
    if law is not SCHEDULES["ddpm"]:
        arrived, speed = torch.func.jvp(lambda c: field.flow_map(x, s, c), (clock,), (torch.ones_like(clock),))
        expected = field(arrived, t)
        torch.testing.assert_close(speed, expected, rtol=1e-7, atol=1e-7 * float(expected.abs().max()))


def test_a_label_restricts_the_mixture_to_its_class_and_null_means_all():
    field, x = mixture(labels=True), randn(5, 2)
    part = GaussianMixtureField([[1.5, 1.0], [0.5, -1.5]], [0.5, 0.4], weights=[0.5, 0.3])
    label = torch.ones(5, dtype=torch.int64)
    for t in (0.2, 0.9):
        torch.testing.assert_close(field(x, t, label=label), part(x, t), rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(field.log_density(x, t, label), part.log_density(x, t), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(field(x, t), mixture()(x, t), rtol=1e-12, atol=1e-12)
    assert field.null({"label": label})["label"].tolist() == [2] * 5


def test_drawn_data_have_the_law_of_the_mixture():
    field = mixture()
    x = field.sample_data(20000, seed=1)
    share = field.responsibilities(x).mean(0)
    # shares have standard errors below 3.6e-3, means of the coordinates below 1.2e-2
    assert float((share - torch.tensor([0.2, 0.5, 0.3])).abs().max()) < 4 * 3.6e-3
    mean = (field.log_weights.exp()[:, None] * field.means).sum(0)
    assert float((x.mean(0) - mean).abs().max()) < 4 * 1.2e-2
    assert torch.equal(x, field.sample_data(20000, seed=1))


def test_a_fitted_mixture_finds_the_components_of_the_data():
    found = GaussianMixtureField.fit(mixture().sample_data(4000), 3, seed=0)
    order = found.means[:, 0].argsort()
    torch.testing.assert_close(
        found.means[order], torch.tensor([[-2.0, 0.5], [0.5, -1.5], [1.5, 1.0]]).double(), rtol=0, atol=0.08
    )
    torch.testing.assert_close(
        found.log_weights.exp()[order], torch.tensor([0.2, 0.3, 0.5]).double(), rtol=0, atol=0.05
    )


@pytest.mark.parametrize(
    ("make", "error", "said"),
    [
        pytest.param(lambda: GaussianMixtureField([1.0], [1.0]), ShapeError, r"means are \(K, D\)", marks=untyped),
        (lambda: GaussianMixtureField([[1.0]], [1.0, 2.0]), ShapeError, r"got \(1, 1\) and \(2,\)"),
        (lambda: GaussianMixtureField([[1.0]], [0.0]), OptionError, "stds must be positive.* from 0"),
        (lambda: GaussianMixtureField([[1.0]], [1.0], weights=[0.5, 0.5]), OptionError, "1 weights and all stds"),
        (
            lambda: GaussianMixtureField([[1.0]], [1.0], labels=[0, 1]),
            ShapeError,
            r"one class a component, \(1,\), got",
        ),
        (lambda: mixture().flow_map(randn(1, 2), 0.0, 1.0), OptionError, "this mixture has 3"),
        (lambda: mixture().log_density(randn(1, 2), {"a": 0.5}), ShapeError, "one time a row"),
        (
            lambda: mixture().answer(Query(randn(1, 2), 0.5, (0.5, 1.0), {}, "average")),
            UnknownOptionError,
            "kind 'average' is unknown",
        ),
    ],
)
def test_impossible_mixtures_and_questions_are_refused(make, error, said):
    with pytest.raises(error, match=said):
        make()
