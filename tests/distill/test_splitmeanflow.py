"""SplitMeanFlow and its relatives against the exact flow map of a Gaussian, and against each other in their limits."""

from itertools import pairwise

import pytest
import torch
from torch import nn

from rheos import nets
from rheos.core import (
    Derivative,
    Draws,
    Dyadic,
    FlowMapField,
    FlowMatching,
    GaussianMixtureField,
    TwoTimes,
    row_seeds,
)
from rheos.core.errors import OptionError
from rheos.core.flowmap import eulerian_target
from rheos.distill import FlowMapLoss, Teacher
from rheos.distill.flowmaps import split_target
from strategies import GaussianMap, randn

PLAIN = FlowMatching(dropout=0.0)


KINDS = ("split", "half", "jvp", "fd", "imf")


def mean_square(a, b):
    return (a - b).square().flatten(1).mean(1)


def truth():
    return Teacher(GaussianMixtureField([[1.5, 1.5]], [0.4]))


def exact(off=0.0):
    return FlowMapField(GaussianMap(off=off), shape=(2,))


def clock(t, n=6):
    return torch.full((n,), t, dtype=torch.float64)


def planned(loss, field, n=32, x1=None):
    draws = Draws(row_seeds(0, n))
    x1 = 1.5 + 0.4 * randn(n, 2, seed=5) if x1 is None else x1
    return loss.prepare(field, x1, {}, draws)


@pytest.mark.parametrize("lam", [0.0, 0.3, 0.9, 1.0])
def test_the_splitting_identity_holds_for_the_exact_map_to_rounding(lam):
    x, s, t = randn(6, 2), clock(0.15), clock(0.85)
    value = exact().average(x, s, t)
    torch.testing.assert_close(split_target(exact(), x, s, t, clock(lam)), value, rtol=1e-10, atol=1e-10)


def test_the_average_tends_to_the_velocity_and_meanflows_identity_holds():
    field, x, s, t = exact(), randn(6, 2), clock(0.15), clock(0.85)
    v = truth().field(x, s)
    torch.testing.assert_close(field(x, s), v, rtol=1e-12, atol=1e-12)
    gaps = [float((field.average(x, s, s + h) - v).detach().abs().max()) for h in (1e-2, 1e-3)]
    assert gaps[1] < 0.12 * gaps[0]  # first order in the length
    value, target = eulerian_target(field.net, v, x, s, t)
    torch.testing.assert_close(value, target, rtol=1e-10, atol=1e-10)


def test_the_split_target_tends_to_meanflows_as_the_first_part_vanishes():
    """(target(lambda) - u) / lambda has the limit (target of MeanFlow - u), with an error of first order."""
    field, x, s, t = exact(off=0.3), randn(6, 2), clock(0.2), clock(0.8)
    with torch.no_grad():
        u, v = field.average(x, s, t), field(x, s)
        _, differential = eulerian_target(field.net, v, x, s, t)
        quotients = [(split_target(field, x, s, t, clock(lam)) - u) / lam for lam in (0.02, 0.01, 0.005)]
    errors = [float((q - (differential - u)).abs().max()) for q in quotients]
    assert 1.7 < errors[0] / errors[1] < 2.3
    assert 1.8 < errors[1] / errors[2] < 2.2
    # Richardson: the leading error cancels
    better = [2 * b - a for a, b in pairwise(quotients)]
    assert float((better[1] - (differential - u)).abs().max()) < 0.3 * errors[2]


def test_half_of_a_dyadic_interval_has_the_target_of_shortcut_models():
    field, loss = exact(off=0.2), FlowMapLoss("half", Dyadic(4, 0.5), PLAIN)
    plan = planned(loss, field)
    far = plan.extra["apart"]
    s, t = plan.t[:, 0], plan.t[:, 1]
    d = (t - s) / 2
    with torch.no_grad():
        x = field.path.sample(plan.x0, plan.x1, s).xt
        first = field.between(x, s, s + d, {})
        second = field.between(x + d[:, None] * first, s + d, t, {})
        shortcut = (first + second) / 2
        found = loss.loss(field, plan).rows
        expected = mean_square(field.between(x, s, t, {}), shortcut)
    torch.testing.assert_close(found[far], expected[far], rtol=1e-12, atol=1e-12)
    assert bool(((s / d) % 1 == 0)[far].all())  # the middle is on the finer grid


@pytest.mark.parametrize("kind", KINDS)
def test_with_every_row_on_the_diagonal_it_is_flow_matching(kind):
    field, loss = exact(off=0.2), FlowMapLoss(kind, TwoTimes("uniform", 1.0), PLAIN)
    plan = planned(loss, field)
    flat = PLAIN.loss(field, plan._replace(t=plan.t[:, 0], extra={}))
    torch.testing.assert_close(loss.loss(field, plan).rows, flat.rows, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", ["split", "half", "jvp", "imf"])
def test_the_exact_map_has_no_loss_beside_an_exact_teacher(kind):
    loss = FlowMapLoss(kind, TwoTimes("uniform", 0.25), PLAIN, truth())
    rows = loss.loss(exact(), planned(loss, exact())).rows
    assert float(rows.detach().max()) < 1e-18


def test_a_finite_difference_leaves_a_residue_that_shrinks_with_its_square():
    def residue(delta):
        loss = FlowMapLoss("fd", TwoTimes("uniform", 0.25), PLAIN, truth(), derivative=Derivative("fd", delta))
        return float(loss.loss(exact(), planned(loss, exact())).value.detach())

    assert 3.0 < residue(0.02) / residue(0.01) < 5.0


def test_improved_meanflow_differs_from_meanflow_in_the_tangent_alone():
    field = exact(off=0.3)
    a, b = (FlowMapLoss(kind, TwoTimes("uniform", 0.5), PLAIN) for kind in ("jvp", "imf"))
    plan = planned(a, field)
    near = ~plan.extra["apart"]
    rows = [loss.loss(field, plan).rows.detach() for loss in (a, b)]
    assert torch.equal(rows[0][near], rows[1][near])
    far = ~near
    s, t = plan.t[far, 0], plan.t[far, 1]
    with torch.no_grad():
        sampled = field.path.sample(plan.x0[far], plan.x1[far], s)
        slope = torch.func.jvp(
            lambda x, c: field.between(x, c, t, {}), (sampled.xt, s), (field(sampled.xt, s), torch.ones_like(s))
        )[1]
        compared = field.between(sampled.xt, s, t, {}) - (t - s)[:, None] * slope  # V of the paper
    torch.testing.assert_close(rows[1][far], mean_square(compared, sampled.u))


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_flow_through_the_prediction_alone(kind):
    field = exact(off=0.3)
    loss = FlowMapLoss(kind, TwoTimes("uniform", 0.5), PLAIN, truth())
    plan = planned(loss, field)
    loss.loss(field, plan).value.backward()
    with torch.no_grad():
        s, t = plan.t[:, 0], plan.t[:, 1]
        x = field.path.sample(plan.x0, plan.x1, s).xt
        target, _ = loss._target(field, x, field.path.sample(plan.x0, plan.x1, s).u, s, t, plan)
        gap = field.between(x, s, t, {}) - target
        by_hand = (2 * gap * x).mean()  # d u / d off = x
    torch.testing.assert_close(field.net.off.grad, by_hand, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_parts_of_a_plan_add_up_to_the_whole(kind):
    field, loss = exact(off=0.3), FlowMapLoss(kind, TwoTimes("uniform", 0.5), PLAIN, truth())
    plan = planned(loss, field)
    whole = loss.loss(field, plan).value
    parts = [loss.loss(field, plan.slice(a, b)).value for a, b in ((0, 5), (5, 32))]
    torch.testing.assert_close(sum(parts), whole, rtol=1e-12, atol=1e-12)


def test_rows_on_the_diagonal_take_no_derivative():
    class Counted(GaussianMap):
        seen = ()

        def forward(self, x, s, t=None):
            from rheos.nets.transforms import transformed

            if transformed():
                self.seen = (*self.seen, len(x))
            return super().forward(x, s, t)

    field = FlowMapField(Counted(), shape=(2,))
    loss = FlowMapLoss("jvp", TwoTimes("uniform", 0.75), PLAIN)
    loss.loss(field, planned(loss, field, 32))
    assert field.net.seen == (8,)


def test_averaged_targets_come_from_the_average_of_weights():
    field, loss = exact(off=0.3), FlowMapLoss("split", TwoTimes("uniform", 0.5), PLAIN, truth(), averaged=True)
    average = nets.EMA(field.net, 0.9)
    with torch.no_grad():
        field.net.off.fill_(0.0)
    used = loss.averaging(average.swap)
    plan = planned(loss, field)
    s, t = plan.t[:, 0], plan.t[:, 1]
    x = field.path.sample(plan.x0, plan.x1, s).xt
    far = plan.extra["apart"]
    target = split_target(exact(off=0.3), x, s, t, plan.extra["lam"])
    rows = used.loss(field, plan).rows
    torch.testing.assert_close(rows[far], mean_square(field.between(x, s, t, {}), target)[far])
    assert float(field.net.off.detach()) == 0.0  # its own weights are back
    rows.sum().backward()
    with pytest.raises(OptionError, match=r"train with Options\(ema=0\.999\)"):
        loss.averaging(None)
    assert FlowMapLoss().averaging(None) == FlowMapLoss()


def two_classes():
    return GaussianMixtureField([[2.0], [-2.0]], [0.5, 0.5], labels=[0, 1])


def test_a_guided_teacher_extrapolates_from_its_null_branch_and_w_one_is_the_plain_one():
    field, x, t = two_classes(), randn(4, 1), clock(0.4, 4)
    cond = {"label": torch.tensor([0, 1, 0, 1])}
    given, null = field(x, t, **cond), field(x, t)
    assert torch.equal(Teacher(field).velocity(x, t, cond), given)
    torch.testing.assert_close(Teacher(field, 3.0).velocity(x, t, cond), null + 3 * (given - null))
    other = Teacher(field, 3.0, {"label": torch.tensor([0])}).velocity(x, t, {"label": torch.ones(4, dtype=torch.long)})
    away, to = (field(x, t, label=torch.full((4,), k)) for k in (0, 1))
    torch.testing.assert_close(other, away + 3 * (to - away))


def test_of_several_scales_each_row_gets_one():
    scales = Teacher(two_classes(), (1.0, 2.0, 5.0)).scales(3000, Draws(row_seeds(0, 3000)))
    assert sorted(set(scales.tolist())) == [1.0, 2.0, 5.0]
    assert abs(float((scales == 2.0).double().mean()) - 1 / 3) < 4 * (2 / 9 / 3000) ** 0.5


class Labelled(nn.Module):
    """u = a + b label, with the null label 2."""

    conditions = frozenset({"label"})
    config = {"classes": 2}  # noqa: RUF012

    def __init__(self):
        super().__init__()
        self.a = nn.Parameter(torch.tensor(0.5, dtype=torch.float64))

    def null(self, name, rows):
        return torch.full((rows,), 2)

    def forward(self, x, s, t, label):
        return self.a * x + label[:, None].double()


@pytest.mark.parametrize("k", [0.0, 0.5])
def test_meanflows_guided_target_mixes_path_null_and_condition_and_leaves_dropped_rows(k):
    field = FlowMapField(Labelled(), shape=(1,))
    loss = FlowMapLoss("jvp", TwoTimes("uniform", 1.0), FlowMatching(dropout=0.5), guidance=(2.0, k))
    assert loss.scale == 2.0 / (1 - k)
    n = 64
    x1, cond = randn(n, 1), {"label": torch.zeros(n, dtype=torch.long)}
    plan = loss.prepare(field, x1, cond, Draws(row_seeds(0, n)))
    dropped = plan.extra["dropped"]
    assert torch.equal(dropped, plan.cond["label"] == 2)
    assert 10 < int(dropped.sum()) < 54
    s = plan.t[:, 0]
    sampled = field.path.sample(plan.x0, plan.x1, s)
    with torch.no_grad():
        null, given = field(sampled.xt, s), field(sampled.xt, s, label=cond["label"])
        mixed = 2 * sampled.u + (1 - 2 - k) * null + k * given
        target = torch.where(dropped[:, None], sampled.u, mixed)
        value = field(sampled.xt, s, **plan.cond)
        torch.testing.assert_close(loss.loss(field, plan).rows, mean_square(value, target))


def test_a_velocity_head_gives_the_tangent_and_is_trained():
    class Headed(GaussianMap):
        def __init__(self):
            super().__init__()
            self.head = nn.Parameter(torch.tensor(0.1, dtype=torch.float64))

        def velocity(self, x, s):
            return self.head * x

    field = FlowMapField(Headed(), shape=(2,))
    loss = FlowMapLoss("imf", TwoTimes("uniform", 1.0), PLAIN)
    plan = planned(loss, field)
    sampled = field.path.sample(plan.x0, plan.x1, plan.t[:, 0])
    without = FlowMapLoss("jvp", TwoTimes("uniform", 1.0), PLAIN).loss(field, plan).rows
    rows = loss.loss(field, plan).rows
    torch.testing.assert_close(rows - without, mean_square(0.1 * sampled.xt, sampled.u))
    rows.sum().backward()
    assert float(field.net.head.grad) != 0


def net(**more):
    torch.manual_seed(0)
    return nets.MLP(2, hidden=8, depth=1, time_features=8, **more)
