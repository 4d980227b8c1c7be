"""DualFast against what it must leave alone, what it turns DDIM into, and what it costs where the network is exact."""

import itertools
import math
import warnings

import pytest
import torch
from torch import nn

from rheos.core import AffinePath, Field
from rheos.core.errors import OptionError, UnknownOptionError
from rheos.sample import (
    CFG,
    DEIS,
    SDE,
    SDEDPM,
    SOLVERS,
    DPMSolver,
    DualFast,
    Loop,
    UniPC,
    draw,
    drive,
    join,
    solve,
    solver,
)  # fmt: skip
from strategies import mixture, randn, untyped

LEADING = sorted(n for n in SOLVERS if solver(n).leads)


def uniform(n, a=0.0, b=1.0):
    return [a + (b - a) * k / n for k in range(n + 1)]


@pytest.mark.parametrize("name", LEADING)
def test_without_a_coefficient_it_is_the_solver_bit_for_bit(name):
    field, x = mixture(), randn(5, 2)
    for steers in ([DualFast(0.0)], [DualFast(0.5, low=0.99)], [DualFast((0.0,) * 6)]):
        steered = solve(field, x, uniform(6), name, steers=steers)
        plain = solve(field, x, uniform(6), name)
        assert torch.equal(steered.x, plain.x)
        assert steered.calls == plain.calls == 6


@pytest.mark.parametrize("name", LEADING)
def test_it_changes_the_samples_for_no_further_call(name):
    field, x = mixture("gvp"), randn(5, 2)
    mixed, plain = (solve(field, x, uniform(6), name, steers=s) for s in ([DualFast(0.5)], []))
    assert not torch.allclose(mixed.x, plain.x, atol=1e-4)
    assert mixed.calls == plain.calls


@pytest.mark.parametrize("name", LEADING)
def test_one_step_is_never_mixed(name):
    field, x = mixture(), randn(5, 2)
    assert torch.equal(solve(field, x, (0.0, 1.0), name, steers=[DualFast(1.0)]).x, solve(field, x, (0.0, 1.0), name).x)


@pytest.mark.parametrize("name", ["ddim", "dpm++2m", "unipc", "deis", "euler"])
def test_a_constant_noise_estimate_is_unchanged_by_any_coefficient(name):
    noise = randn(4, 2, seed=1)
    net = nn.Sequential()
    net.forward = lambda x, t: noise
    field, x = Field(net, AffinePath("gvp"), "noise"), randn(4, 2)
    plain = solve(field, x, uniform(5, 0.1, 0.9), name).x
    torch.testing.assert_close(
        solve(field, x, uniform(5, 0.1, 0.9), name, steers=[DualFast(1.0, rule="constant")]).x, plain,
        rtol=1e-11, atol=1e-11,
    )  # fmt: skip


@pytest.mark.parametrize("path", ["linear", "gvp", "vp"])
def test_ddim_with_half_the_ratio_of_steps_is_dpm_solver_2m_of_noise(path):
    field, x = mixture(path), randn(5, 2)
    grid = (0.1, 0.2, 0.4, 0.5, 0.7)
    law = field.path.law
    h = [law.lam(b) - law.lam(a) for a, b in itertools.pairwise(grid)]
    c = (0.0, *(0.5 * b / a for a, b in itertools.pairwise(h)))
    mixed = solve(field, x, grid, "ddim", steers=[DualFast(c)]).x
    torch.testing.assert_close(mixed, solve(field, x, grid, "dpm2m").x, rtol=1e-10, atol=1e-10)


def test_one_step_of_2m_is_the_formula():
    """The estimate is replaced in the first-order term, and stays in the difference."""
    field, x = mixture("vp"), randn(4, 2)
    law, (t0, t1, t2) = field.path.law, (0.3, 0.45, 0.7)
    c = 0.3
    y = solve(field, x, (t0, t1), "ddim").x
    m0, m1 = field.data(x, t0), field.data(y, t1)
    e0, e1 = field.noise(x, t0), field.noise(y, t1)
    lead = (y - law.sigma(t1) * ((1 + c) * e1 - c * e0)) / law.alpha(t1)
    h, before = law.lam(t2) - law.lam(t1), law.lam(t1) - law.lam(t0)
    d = lead + h / (2 * before) * (m1 - m0)
    expected = law.sigma(t2) / law.sigma(t1) * y + law.alpha(t2) * (1 - math.exp(-h)) * d
    found = solve(field, x, (t0, t1, t2), "dpm++2m", steers=[DualFast((0.0, c))]).x
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)


def test_velocity_solvers_and_data_solvers_are_mixed_alike():
    field, x = mixture(), randn(4, 2)
    a, b = (solve(field, x, uniform(6), n, steers=[DualFast(0.7)]).x for n in ("euler", "ddim"))
    torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11)


def test_with_an_exact_network_it_helps_ddim_at_few_steps_and_hurts_2m_at_many():
    field, x = mixture(), randn(200, 2)
    reference = solve(field, x, uniform(400), "rk4").x

    def error(name, n, c, **options):
        steers = [DualFast(c, **options)]
        return float((solve(field, x, uniform(n), name, steers=steers).x - reference).square().mean().sqrt())

    assert error("ddim", 10, 0.5) < error("ddim", 10, 0.0)
    assert error("dpm++2m", 40, 0.5) > 1.5 * error("dpm++2m", 40, 0.0)
    assert error("dpm++2m", 160, 0.5, auto=True) < error("dpm++2m", 160, 0.5)


def test_an_automatic_coefficient_keeps_order_two_and_a_fixed_one_does_not():
    field, x = mixture(), randn(24, 2)
    reference = solve(field, x, uniform(1000, 0.1, 0.9), "rk4").x

    def error(n, auto):
        end = solve(field, x, uniform(n, 0.1, 0.9), "dpm++2m", steers=[DualFast(0.5, auto=auto)]).x
        return float((end - reference).norm())

    def slope(auto):
        return math.log2(error(160, auto) / error(320, auto))

    assert slope(True) == pytest.approx(2, abs=0.25)
    assert slope(False) == pytest.approx(1, abs=0.25)


@pytest.mark.parametrize("lag", [1, 2, 3, "first"])
def test_the_lag_says_which_estimate_is_mixed_in(lag):
    field, x, grid = mixture(), randn(3, 2), uniform(5, 0.1, 0.9)
    y, kept = x, []
    for i, (t, end) in enumerate(itertools.pairwise(grid)):
        e = field.noise(y, t)
        back = {1: 1, 2: min(2, i), 3: min(3, i), "first": i}[lag] if i else 0
        new = e + 0.5 * i / 4 * (e - (kept[i - back] if i else e))
        y = (end * (y - (1 - t) * new) / t) + (1 - end) * new
        kept.append(e)
    torch.testing.assert_close(
        solve(field, x, grid, "ddim", steers=[DualFast(0.5, lag=lag)]).x, y, rtol=1e-11, atol=1e-11
    )


@pytest.mark.parametrize("rule", ["linear", "quadratic", "constant", "lambda"])
def test_coefficients_begin_at_zero_and_never_fall(rule):
    seen = []

    class Spy(nn.Module):
        pass

    field, x = mixture(), randn(2, 2)
    steer = DualFast(0.8, rule=rule)
    original = DualFast.coefficient
    try:
        DualFast.coefficient = lambda self, view: seen.append(original(self, view)) or seen[-1]
        solve(field, x, uniform(8), "ddim", steers=[steer])
    finally:
        DualFast.coefficient = original
    assert seen == sorted(seen)
    assert seen[-1] == pytest.approx(0.8, abs=0.3)


@pytest.mark.parametrize(
    "method", [DPMSolver(), UniPC(), UniPC(leads_corrector=True), DEIS(), SDEDPM(), SDE()], ids=repr
)
def test_rows_with_other_grids_and_coefficients_walk_together_as_alone(method):
    field, x, seeds = mixture(), randn(2, 2), torch.arange(2)
    grids, cs = [tuple(uniform(6)), tuple(uniform(4))], [0.3, 1.0]
    loops = [Loop(field, method, (DualFast(c),)) for c in cs]
    flights = [loops[k].begin(x[k : k + 1], grids[k], {}, seeds[k : k + 1]) for k in range(2)]
    both, _ = drive(loops[0], field, join(flights))
    for k in range(2):
        alone, _ = drive(loops[k], field, flights[k])
        torch.testing.assert_close(both.x[k : k + 1], alone.x, rtol=1e-10, atol=1e-10)


def test_guidance_is_mixed_in_whatever_the_order_of_the_steers():
    field = mixture(labels=True)
    ends = [
        draw(field, 3, steps=5, solver="dpm++2m", label=1, steers=steers, seed=3)
        for steers in ([CFG(2.0), DualFast(0.5)], [DualFast(0.5), CFG(2.0)])
    ]
    assert torch.equal(*ends)


def test_a_low_precision_network_mixes_in_float32():
    class Half(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(2, dtype=torch.bfloat16))

        def forward(self, x, t):
            assert x.dtype == torch.bfloat16
            return x * self.weight

    out = draw(Field(Half(), shape=(2,)), 4, steps=6, solver="dpm++2m", steers=[DualFast(0.5)])
    assert out.dtype == torch.float32
    assert out.isfinite().all()


@pytest.mark.parametrize("name", ["heun", "rk4", "dopri5", "dpm++2s", "fireflow", "renoise", "churn"])
def test_solvers_without_a_leading_term_are_refused(name):
    with pytest.raises(OptionError, match="DualFast changes the leading term of a step of one evaluation, which"):
        draw(mixture(), 2, solver=name, steers=[DualFast()])


def test_values_out_of_range_are_refused():
    with pytest.raises(OptionError, match=r"c must be at most 2, got 2\.5"):
        DualFast(2.5)
    with pytest.raises(OptionError, match="lag must be at least 1 or 'first', got 0"):
        DualFast(lag=0)
    with pytest.raises(UnknownOptionError, match="lag 'last' is unknown"):
        DualFast(lag="last")
    with pytest.raises(UnknownOptionError, match="rule 'cubic' is unknown"):
        DualFast(rule="cubic")
    with pytest.raises(OptionError, match="0 <= low < high <= 1"):
        DualFast(low=0.5, high=0.5)
    with pytest.raises(OptionError, match="lag must be below the number of steps, got lag 4 for 4 steps"):
        draw(mixture(), 2, solver="ddim", steps=4, steers=[DualFast(lag=4)])
    with pytest.raises(OptionError, match="c has 3 coefficients for 4 steps"):
        draw(mixture(), 2, solver="ddim", steps=4, steers=[DualFast((0.0, 0.1, 0.2))])
    with pytest.raises(OptionError, match="CFG is active in a part of the times only"):
        draw(mixture(labels=True), 2, solver="ddim", label=1, steers=[DualFast(), CFG(2.0, interval=(0.3, 0.7))])
    with pytest.warns(UserWarning, match=r"c = -0\.1 is negative: DualFast then averages"):
        DualFast(-0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        DualFast(1.0)


@untyped
def test_a_word_is_no_coefficient():
    with pytest.raises(OptionError, match="c is a number, or one a step, got 'auto'"):
        DualFast("auto")
