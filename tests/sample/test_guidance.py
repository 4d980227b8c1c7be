import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from rheos.core import Field, GaussianMixtureField, Routed
from rheos.core.errors import ConditionError, OptionError
from rheos.sample import CFG, SOLVERS, AutoGuidance, ClassifierGuidance, SeveralConditions, draw, solve, solver
from strategies import mixture, randn

GRID = (0.0, 0.2, 0.5, 0.8, 1.0)
LABEL = {"label": torch.tensor([0, 1, 0])}
ODE = [n for n in SOLVERS if not solver(n).stochastic]


def sampled(*steers, name="euler", cond=LABEL, field=None, grid=GRID):
    return solve(field or mixture(labels=True), randn(3, 2), grid, name, cond=cond, steers=steers)


@pytest.mark.parametrize("name", SOLVERS)
def test_a_scale_of_one_is_the_conditional_field_bit_for_bit_in_as_many_calls_and_rows(name):
    plain, guided = sampled(name=name), sampled(CFG(1.0), name=name)
    assert torch.equal(plain.x, guided.x)
    assert (plain.calls, plain.rows) == (guided.calls, guided.rows)


@pytest.mark.parametrize("name", ODE)
def test_a_scale_of_zero_is_the_unconditional_field_and_costs_twice_the_rows_but_no_call(name):
    guided = sampled(CFG(0.0), name=name)
    torch.testing.assert_close(guided.x, sampled(name=name, cond=None).x, rtol=1e-12, atol=1e-12)
    assert guided.rows == 6 * guided.calls
    assert solver(name).adaptive or guided.calls == sampled(name=name).calls


@given(scale=st.floats(-2, 8))
def test_the_guided_velocity_is_extrapolated_from_the_unconditional_one(scale):
    field, x = mixture(labels=True), randn(3, 2)
    end = solve(field, x, (0.3, 0.4), "euler", cond=LABEL, steers=[CFG(scale)]).x
    null, cond = field(x, 0.3), field(x, 0.3, **LABEL)
    torch.testing.assert_close(end, x + 0.1 * (null + scale * (cond - null)), rtol=1e-12, atol=1e-12)


def test_guidance_on_data_estimates_is_guidance_on_velocities():
    a, b = sampled(CFG(3.0), name="euler").x, sampled(CFG(3.0), name="ddim").x
    torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11)


def test_a_scale_a_row_is_each_rows_own_run():
    scales = torch.tensor([0.0, 1.0, 4.0])
    together = sampled(CFG(scales)).x
    for row, scale in enumerate(scales.tolist()):
        torch.testing.assert_close(together[row], sampled(CFG(scale)).x[row], rtol=1e-12, atol=1e-12)


def test_outside_its_interval_guidance_costs_and_changes_nothing():
    field, x = mixture(labels=True), randn(3, 2)
    found = solve(field, x, GRID, "euler", cond=LABEL, steers=[CFG(4.0, interval=(0.4, 0.6))])
    assert found.rows == 3 * (4 + 1)  # only the step from 0.5 asks for both branches
    y = x
    for t, end in itertools.pairwise(GRID):
        y = solve(field, y, (t, end), "euler", cond=LABEL, steers=[CFG(4.0)] if t == 0.5 else []).x
    assert torch.equal(found.x, y)


def test_a_negative_prompt_takes_the_place_of_the_null():
    away = CFG(2.0, negative={"label": torch.tensor([1])})
    rows = CFG(2.0, negative={"label": torch.tensor([1, 1, 1])})
    field, x = mixture(labels=True), randn(3, 2)
    end = solve(field, x, (0.3, 0.4), "euler", cond=LABEL, steers=[away]).x
    other, cond = field(x, 0.3, label=torch.tensor([1, 1, 1])), field(x, 0.3, **LABEL)
    torch.testing.assert_close(end, x + 0.1 * (2 * cond - other), rtol=1e-12, atol=1e-12)
    assert torch.equal(sampled(away).x, sampled(rows).x)
    whole = draw(field, 3, label=LABEL["label"], guidance=rows, steps=3)
    assert torch.equal(whole, draw(field, 3, label=LABEL["label"], guidance=rows, steps=3, batch=2))


@pytest.mark.parametrize("name", ["euler", "heun", "dpm++2m", "rk4"])
def test_rescaling_gives_the_data_estimate_the_spread_of_the_conditional_one(name):
    field, x, phi = mixture(labels=True), randn(3, 2), 0.7
    end = solve(field, x, (0.3, 1.0), "ddim", cond=LABEL, steers=[CFG(3.0, rescale=phi)]).x
    null, cond = field.data(x, 0.3), field.data(x, 0.3, **LABEL)
    guided = null + 3 * (cond - null)
    ratio = cond.std(1, keepdim=True) / guided.std(1, keepdim=True)
    torch.testing.assert_close(end, (phi * ratio + 1 - phi) * guided, rtol=1e-9, atol=1e-9)
    assert sampled(CFG(3.0, rescale=phi), name=name).x.isfinite().all()  # also where a stage stands at t = 1
    torch.testing.assert_close(
        sampled(CFG(3.0, rescale=phi), name="euler").x,
        sampled(CFG(3.0, rescale=phi), name="ddim").x,
        rtol=1e-9,
        atol=1e-9,
    )


def test_cfg_zero_star_projects_the_unconditional_velocity():
    field, x = mixture(labels=True), randn(3, 2)
    end = solve(field, x, (0.3, 0.4), "euler", cond=LABEL, steers=[CFG(3.0, zero_star=True)]).x
    null, cond = field(x, 0.3), field(x, 0.3, **LABEL)
    # the multiple of the unconditional velocity that is nearest to the conditional one
    s = torch.linalg.lstsq(null[:, :, None], cond[:, :, None]).solution.flatten(1)
    torch.testing.assert_close(end, x + 0.1 * (s * null + 3 * (cond - s * null)), rtol=1e-9, atol=1e-9)
    start = sampled(CFG(3.0, zero_star=True, zero_steps=1), grid=GRID[:2]).x
    assert torch.equal(start, randn(3, 2))


def test_several_conditions_add_their_own_differences():
    class Two(nn.Module):
        conditions = frozenset({"a", "b"})

        def forward(self, x, t, a, b):
            return x * 0 + a[:, None] + 10 * b[:, None]

        def null(self, name, rows):
            return torch.zeros(rows, dtype=torch.float64)

    field, x = Field(Two()), torch.zeros(2, 1, dtype=torch.float64)
    cond = {"a": torch.tensor([1.0, 2.0]).double(), "b": torch.tensor([3.0, 4.0]).double()}
    end = solve(field, x, (0.0, 1.0), "euler", cond=cond, steers=[SeveralConditions({"a": 2.0, "b": 0.5})])
    assert end.x.flatten().tolist() == [2 * 1 + 0.5 * 30, 2 * 2 + 0.5 * 40]
    assert end.rows == 6
    scales = SeveralConditions({"a": torch.tensor([2.0, 0.0]), "b": 0.5})
    assert solve(field, x, (0.0, 1.0), "euler", cond=cond, steers=[scales]).x.flatten().tolist() == [17.0, 20.0]
    with pytest.raises(ConditionError, match="scales name c; the field takes a, b"):
        solve(field, x, (0.0, 1.0), "euler", cond=cond, steers=[SeveralConditions({"c": 1.0})])


def test_autoguidance_leads_away_from_the_weak_model():
    strong = mixture()
    weak = GaussianMixtureField(strong.means, strong.variances.sqrt() * 1.5, strong.log_weights.exp())
    field, x = Routed(strong, weak=weak), randn(3, 2)
    end = solve(field, x, (0.3, 0.4), "euler", steers=[AutoGuidance(2.5)]).x
    expected = weak(x, 0.3) + 2.5 * (strong(x, 0.3) - weak(x, 0.3))
    torch.testing.assert_close(end, x + 0.1 * expected, rtol=1e-12, atol=1e-12)
    one = solve(field, x, GRID, "heun", steers=[AutoGuidance(1.0)]).x
    torch.testing.assert_close(one, solve(strong, x, GRID, "heun").x, rtol=1e-12, atol=1e-12)


def test_autoguidance_and_classifier_free_guidance_nest():
    strong = mixture(labels=True)
    weak = GaussianMixtureField(
        strong.means, strong.variances.sqrt() * 1.5, strong.log_weights.exp(), labels=strong.classes
    )
    field, x = Routed(strong, weak=weak), randn(3, 2)
    end = solve(field, x, (0.3, 0.4), "euler", cond=LABEL, steers=[CFG(3.0), AutoGuidance(2.0)])

    def auto(**cond):
        return weak(x, 0.3, **cond) + 2 * (strong(x, 0.3, **cond) - weak(x, 0.3, **cond))

    torch.testing.assert_close(end.x, x + 0.1 * (auto() + 3 * (auto(**LABEL) - auto())), rtol=1e-10, atol=1e-10)
    assert end.rows == 12


@pytest.mark.parametrize("path", ["linear", "gvp", "vp"])
@pytest.mark.parametrize("name", ["euler", "heun", "ddim", "dpm++2m"])
def test_an_exact_classifier_makes_the_conditional_field_of_the_unconditional_one(path, name):
    """Bayes: the score of p(x | y) is that of p(x) plus the gradient of ln p(y | x)."""
    field, x = mixture(path, labels=True), randn(3, 2)
    label = torch.tensor([0, 1, 0])

    def log_prob(y, t):
        joint = field.log_density(y, t, label) + torch.tensor([0.2, 0.8, 0.2]).log()
        return joint - field.log_density(y, t)

    guided = solve(field, x, GRID[1:], name, steers=[ClassifierGuidance(log_prob)]).x
    torch.testing.assert_close(guided, solve(field, x, GRID[1:], name, cond=LABEL).x, rtol=1e-7, atol=1e-7)
    scales = torch.tensor([0.0, 1.0, 2.0])
    rows = solve(field, x, GRID[1:], name, steers=[ClassifierGuidance(log_prob, scales)]).x
    torch.testing.assert_close(rows[0], solve(field, x, GRID[1:], name).x[0], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(rows[1], guided[1], rtol=1e-12, atol=1e-12)


def test_at_the_noise_a_classifier_says_nothing():
    calls = []

    def log_prob(y, t):
        calls.append(t)
        return y.square().sum(1)

    field, x = mixture(), randn(3, 2)
    guided = solve(field, x, (0.0, 0.5), "euler", steers=[ClassifierGuidance(log_prob)]).x
    torch.testing.assert_close(guided, solve(field, x, (0.0, 0.5), "euler").x, rtol=1e-14, atol=1e-14)


@settings(max_examples=20)
@given(order=st.permutations(range(3)))
def test_guidance_does_not_look_at_batch_mates(order):
    order = torch.tensor(order)
    steer = CFG(torch.tensor([1.0, 2.0, 3.0]), rescale=0.5)
    whole = sampled(steer).x
    part = solve(
        mixture(labels=True), randn(3, 2)[order], GRID, "euler", cond={"label": LABEL["label"][order]},
        steers=[CFG(torch.tensor([1.0, 2.0, 3.0])[order], rescale=0.5)],
    ).x  # fmt: skip
    torch.testing.assert_close(part, whole[order], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"scale": math.nan}, "scale must be a finite number, got nan"),
        ({"interval": (0.6, 0.4)}, "two increasing times"),
        ({"rescale": 1.5}, r"rescale must lie in \[0, 1\], got 1.5"),
        ({"zero_steps": 2}, "needs zero_star=True, got 2"),
    ],
)
def test_options_out_of_range_are_refused(options, said):
    with pytest.raises(OptionError, match=said):
        CFG(**options)


def test_a_negative_condition_that_the_field_does_not_take_is_refused():
    with pytest.raises(ConditionError, match=r"negative names \['text'\], the field takes \['label'\]"):
        sampled(CFG(2.0, negative={"text": torch.zeros(1)}))
