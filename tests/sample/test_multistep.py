"""The bookkeeping that all multistep methods share: which estimates count, row by row."""

import itertools
import math
from dataclasses import replace

import pytest
import torch

from rheos.core.errors import OptionError, UnknownOptionError
from rheos.sample import DEIS, IPNDM, AdamsBashforth, DPMSolver, Loop, UniPC, draw, drive, join, solve, split
from rheos.sample.multistep import integrals
from strategies import mixture, randn

METHODS = {
    "ab4": AdamsBashforth(order=4),
    "3m": DPMSolver(order=3),
    "3m of noise": DPMSolver(order=3, estimates="noise"),
    "2m heun": DPMSolver(variant="heun"),
    "deis4": DEIS(order=4),
    "ipndm": IPNDM(),
    "unipc3": UniPC(order=3),
    "unip2 bh1": UniPC(corrector=False, variant="bh1"),
    "ab3 rk": AdamsBashforth(order=3, warmup="rk"),
    "3m rk": DPMSolver(order=3, warmup="rk"),
}
each = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)


@each
def test_the_weights_of_a_correction_sum_to_zero(method):
    bound = method.bind(mixture("gvp").path, (0.0, 1.0))
    where = tuple(bound.position(t) for t in (0.5, 0.42, 0.3, 0.21))[: method.order]
    found = bound.corrections(0.6, bound.position(0.6), where)
    assert len(found) == len(where)
    assert sum(found) == pytest.approx(0.0, abs=1e-12 * max(abs(w) for w in found))


@each
def test_estimates_at_infinity_drop_out_and_an_infinite_step_has_no_correction(method):
    bound = method.bind(mixture().path, (0.0, 1.0))
    ends = [0.5, 0.5, 0.4, 1.0]
    starts = [(0.4, 0.3, 0.2), (0.4, 0.3, 0.0), (0.3, 0.0, 0.0), (0.6, 0.3, 0.1)]
    z = [tuple(bound.position(t) for t in s)[: method.order] for s in starts]
    single = [bound._weights(e, bound.position(e), w) for e, w in zip(ends, z, strict=True)]
    if method.order > 2 and method.asks == "data":
        assert len(single[1]) == 2  # the one at t = 0 is of no use
    padded = torch.tensor([[*w, *[0.0] * (len(z[0]) - len(w))] for w in single], dtype=torch.float64)
    end = torch.tensor(ends, dtype=torch.float64)
    columns = tuple(torch.tensor(c, dtype=torch.float64) for c in zip(*z, strict=True))
    rows = bound._weights(end, bound.position(end), columns)
    torch.testing.assert_close(torch.stack(rows, 1), padded, rtol=1e-11, atol=1e-13)


@each
def test_rows_on_different_grids_walk_together_as_they_would_alone(method):
    field, x, seeds = mixture(), randn(3, 2), torch.arange(3)
    grids = [(0.0, 0.2, 0.5, 0.6, 1.0), (0.1, 0.2, 0.3, 0.7, 0.8), (0.0, 0.5, 0.75, 0.9, 0.95)]
    loop = Loop(field, method)
    flights = [loop.begin(x[k : k + 1], g, {}, seeds[k : k + 1]) for k, g in enumerate(grids)]
    together, _ = drive(loop, field, join(flights))
    for k, grid in enumerate(grids):
        alone = solve(field, x[k : k + 1], grid, method).x
        torch.testing.assert_close(together.x[k : k + 1], alone, rtol=1e-11, atol=1e-11)


@each
def test_a_flight_cut_in_the_middle_goes_on_as_if_it_were_whole(method):
    field, x = mixture(), randn(4, 2)
    loop, grid = Loop(field, method), tuple(k / 8 for k in range(9))
    flight = loop.begin(x, grid, {}, torch.arange(4))
    for _ in range(5):
        query = loop.ask(flight)
        flight = loop.tell(flight, query, field.answer(query))
    ends = [drive(loop, field, part)[0].x for part in split(flight, [1, 3])]
    assert torch.equal(torch.cat(ends), solve(field, x, grid, method).x)


def test_integrals_are_those_of_the_polynomial_through_the_estimates():
    nodes, end = (0.5, 0.3, 0.2), 0.9
    found = integrals(end, nodes)
    for power in range(3):
        exact = (end ** (power + 1) - 0.5 ** (power + 1)) / (power + 1)
        values = [z**power for z in nodes]
        total = (end - 0.5) * values[0] + sum(w * v for w, v in zip(found, values, strict=True))
        assert total == pytest.approx(exact, rel=1e-12)


def test_the_third_order_is_the_published_one_but_for_its_factor():
    field, x = mixture("vp"), randn(4, 2)
    law, times = field.path.law, (0.2, 0.35, 0.5, 0.7)
    published = solve(field, x, times, DPMSolver(order=3, compat="published")).x
    correct = solve(field, x, times, DPMSolver(order=3)).x
    y = solve(field, x, times[:3], DPMSolver(order=2), trace=True)
    m = [field.data(state, t) for state, t in zip(y.path, times, strict=False)]
    lam = [law.lam(t) for t in times]
    h, r0, r1 = lam[3] - lam[2], (lam[2] - lam[1]) / (lam[3] - lam[2]), (lam[1] - lam[0]) / (lam[3] - lam[2])
    d10, d11 = (m[2] - m[1]) / r0, (m[1] - m[0]) / r1
    d1, d2 = d10 + r0 / (r0 + r1) * (d10 - d11), (d10 - d11) / (r0 + r1)
    a, e = law.alpha(times[3]), math.expm1(-h)
    base = law.sigma(times[3]) / law.sigma(times[2]) * y.x - a * e * m[2] + a * (e / h + 1) * d1
    curve = a * ((e + h) / h**2 - 0.5) * d2
    torch.testing.assert_close(published, base - curve, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(correct, base - 2 * curve, rtol=1e-11, atol=1e-11)


def test_noise_and_data_estimates_make_one_method_of_first_order_and_two_of_second():
    field, x, grid = mixture("gvp"), randn(4, 2), (0.2, 0.4, 0.7, 0.9)
    one = [solve(field, x, grid, DPMSolver(order=1, estimates=e)).x for e in ("data", "noise")]
    torch.testing.assert_close(one[0], one[1], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(one[0], solve(field, x, grid, "ddim").x, rtol=1e-12, atol=1e-12)
    two = [solve(field, x, grid, DPMSolver(estimates=e)).x for e in ("data", "noise")]
    assert not torch.allclose(two[0], two[1], atol=1e-4)


def test_second_order_of_noise_is_the_formula_of_its_paper():
    field, x = mixture("vp"), randn(4, 2)
    law, times = field.path.law, (0.2, 0.35, 0.6, 0.8)
    y, last, h_last = x, None, None
    for t, end in itertools.pairwise(times):
        h = law.lam(end) - law.lam(t)
        e = field.noise(y, t)
        d = e if last is None else e + h / (2 * h_last) * (e - last)
        y = law.alpha(end) / law.alpha(t) * y - law.sigma(end) * math.expm1(h) * d
        last, h_last = e, h
    torch.testing.assert_close(solve(field, x, times, "dpm2m").x, y, rtol=1e-10, atol=1e-10)


@each
def test_options_that_a_method_has_not_are_refused(method):
    with pytest.raises(OptionError, match=rf"{type(method).__name__} has the orders 1, .*got order=9"):
        replace(method, order=9)
    with pytest.raises(UnknownOptionError, match="warmup 'slow' is unknown"):
        replace(method, warmup="slow")


def test_unknown_kinds_and_variants_are_refused():
    for bad in ({"estimates": "velocity"}, {"variant": "mid"}, {"compat": "wrong"}):
        with pytest.raises(UnknownOptionError, match=rf"{next(iter(bad))} '{next(iter(bad.values()))}' is unknown"):
            DPMSolver(**bad)
    with pytest.raises(UnknownOptionError, match="estimates 'noise' is unknown"):
        UniPC(estimates="noise")


def test_float32_states_stay_float32():
    assert draw(mixture(), 2, solver="unipc3", steps=5, source=randn(2, 2).float()).dtype == torch.float32


def test_a_step_far_beyond_the_last_one_takes_two_estimates_unless_told_otherwise():
    field, x, grid = mixture("gvp"), randn(4, 2), (0.2, 0.25, 0.3, 0.6)  # the last step is six times as long
    third = solve(field, x, grid, DPMSolver(order=3, reach=math.inf)).x
    guarded = solve(field, x, grid, DPMSolver(order=3)).x
    before = solve(field, x, grid[:3], DPMSolver(order=3), trace=True)
    assert not torch.allclose(third, guarded)
    m = [field.data(before.path[k], grid[k]) for k in (1, 2)]
    law = field.path.law
    lam = [law.lam(t) for t in grid[1:]]
    h, r = lam[2] - lam[1], (lam[1] - lam[0]) / (lam[2] - lam[1])
    second = m[1] + (m[1] - m[0]) / (2 * r)
    y = law.sigma(0.6) / law.sigma(0.3) * before.x - law.alpha(0.6) * math.expm1(-h) * second
    torch.testing.assert_close(guarded, y, rtol=1e-11, atol=1e-11)
    assert DPMSolver(order=3, compat="published").reach == math.inf
    with pytest.raises(OptionError, match=r"reach must be at least 1, got 0\.5"):
        UniPC(reach=0.5)


def test_half_precision_states_become_float32():
    assert solve(mixture(), randn(2, 2).bfloat16(), (0.0, 0.5, 1.0), "dpm++2m").x.dtype == torch.float32
