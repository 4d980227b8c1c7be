import math
from itertools import pairwise

import pytest
import torch

from rheos.claims.heads import FEATURES, HEADS, Gated, Split, train_head
from rheos.claims.orders import HIGH, LOW, ORDERS, Study, errors, slope, uniform, uniform_in_lambda
from rheos.core import AffinePath
from rheos.core.base import Context
from rheos.core.premetrics import MSE
from rheos.data import load


def test_the_slope_of_a_power_law_is_its_exponent():
    assert slope({n: 3.0 * n**-2.5 for n in (10, 20, 80)}) == pytest.approx(2.5, abs=1e-12)


@pytest.mark.parametrize("path", ["linear", "gvp", "vp"])
def test_the_grids_begin_and_end_where_the_reference_does(path):
    law = AffinePath(path).law
    for grid in (uniform(7), uniform_in_lambda(7, law)):
        assert (grid[0], grid[-1], len(grid)) == (LOW, HIGH, 8)
    lam = [float(law.lam(t)) for t in uniform_in_lambda(7, law)]
    steps = [b - a for a, b in pairwise(lam)]
    assert max(steps) - min(steps) < 1e-6 * max(steps)


def test_orders_show_on_the_linear_path_with_a_short_reference():
    found = errors("linear", ["euler", "heun", "dpm++2m"], Study(rows=16, reference=400), steps=(80, 160))
    for name, error in found.items():
        assert slope(error) == pytest.approx(ORDERS[name].order, abs=0.15)


def test_the_common_loss_is_the_same_number_on_every_head():
    torch.manual_seed(0)
    path, t = AffinePath("linear", sigma_data=0.7), torch.rand(16, dtype=torch.float64) * 0.9 + 0.05
    x0, x1, guess = (torch.randn(16, 5, dtype=torch.float64) for _ in range(3))
    sample = path.sample(x0, x1, t)
    losses = []
    for kind in HEADS:
        predicted = path.convert(guess, sample.xt, t, "data", kind)
        distance = MSE()(predicted, path.target(sample, kind), Context(sample.xt, t))
        losses.append(distance * Split().factor(t, path, kind))
    for loss in losses[1:]:
        torch.testing.assert_close(loss, losses[0], rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(losses[0], t.square() * (guess - x1).square().mean(1))


@pytest.mark.parametrize("kind", HEADS)
def test_the_factor_of_the_common_loss_is_bounded_on_every_head(kind):
    t = torch.tensor([1e-6, 0.5, 1 - 1e-6], dtype=torch.float64)
    assert float(Split().factor(t, AffinePath("linear"), kind).max()) <= 1.0 + 1e-9


def test_the_gate_is_shut_at_first_and_copies_the_input_when_opened():
    net = Gated(4, 8)
    x, t = torch.randn(3, 4), torch.rand(3)
    with torch.no_grad():
        before = net(x, t)
        torch.testing.assert_close(before, net.net(x, t))
        net.gate.bias.fill_(2.0)
        torch.testing.assert_close(net(x, t), before + 2 * x)
    assert net.gate.weight.shape == (1, FEATURES)


def test_equal_seeds_begin_with_equal_weights_and_learn_something():
    data = load("digits", conditions=[], limit=200)
    a, b = (train_head(data, "edm", 3, seed=5, hidden=8) for _ in range(2))
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))
    assert math.isfinite(float(a(torch.zeros(1, 1, 8, 8), 0.5).abs().sum()))
