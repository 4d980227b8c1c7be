"""SplitMeanFlow and its relatives against the exact flow map of a Gaussian, and against each other in their limits."""

import copy
import json
from itertools import pairwise

import pytest
import torch
from torch import nn

from rheos import nets, sample, train
from rheos.core import (
    Deployed,
    Derivative,
    Draws,
    Dyadic,
    Field,
    FlowMapField,
    FlowMatching,
    GaussianMixtureField,
    Perceptual,
    Query,
    TwoTimes,
    row_seeds,
)
from rheos.core import config as plain
from rheos.core.errors import OptionError, TimeError, UnknownOptionError
from rheos.core.flowmap import eulerian_target, semigroup_residual
from rheos.data import load
from rheos.distill import FlowMapLoss, Teacher, splitmeanflow, student
from rheos.distill.flowmaps import split_target
from strategies import GaussianMap, randn, untyped

PLAIN = FlowMatching(dropout=0.0)
KINDS = ("split", "half", "jvp", "fd", "imf")


def mean_square(a, b):
    return (a - b).square().flatten(1).mean(1)


OPTIONS = train.Options(batch=16, ema=0.9, sample_every=0, save_every=0, warmup=0)


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


# --- the identities -------------------------------------------------------------------------------------------------


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


# --- gradients ------------------------------------------------------------------------------------------------------


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


# --- guidance -------------------------------------------------------------------------------------------------------


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


# --- using it -------------------------------------------------------------------------------------------------------


def net(**more):
    torch.manual_seed(0)
    return nets.MLP(2, hidden=8, depth=1, time_features=8, **more)


@pytest.mark.parametrize("kind", KINDS)
def test_a_field_becomes_a_flow_map_that_draws_in_one_call_and_comes_back_from_its_directory(kind, tmp_path):
    data = load("moons", limit=64)
    field = Field(net(), shape=(2,))
    run = splitmeanflow(
        field, data, steps=3, objective=FlowMapLoss(kind), out=tmp_path / "run", options=OPTIONS, progress=False
    )
    solution = sample.draw_solution(run.field, 5, steps=1)
    assert solution.calls == 1
    noise = sample.draw_solution(run.field, 5, steps=1).source
    assert torch.equal(solution.x, run.field.jump(noise, 0.0, 1.0))
    again = train.load(tmp_path / "run")
    assert torch.equal(sample.draw(again.field, 5, steps=2), sample.draw(run.field, 5, steps=2))
    longer = splitmeanflow(
        field, data, steps=5, objective=FlowMapLoss(kind), out=tmp_path / "run", options=OPTIONS, progress=False
    )
    assert longer.step == 5


def test_a_killed_run_goes_on_where_it_was(tmp_path):
    data, field = load("moons", limit=64), Field(net(), shape=(2,))
    options = train.Options(batch=16, ema=0.9, sample_every=0, save_every=2, warmup=0, decay="constant", log_every=1)
    loss = FlowMapLoss("split", averaged=True)
    whole = splitmeanflow(field, data, steps=4, objective=loss, out=tmp_path / "a", options=options, progress=False)
    splitmeanflow(field, data, steps=2, objective=loss, out=tmp_path / "b", options=options, progress=False)
    both = splitmeanflow(field, data, steps=4, objective=loss, out=tmp_path / "b", options=options, progress=False)
    assert [line["loss"] for line in both.metrics()] == [line["loss"] for line in whole.metrics()]


def test_a_student_begins_as_its_teacher_whatever_it_predicts():
    x = randn(4, 2).float()
    for kind in ("velocity", "data", "noise"):
        teacher = Field(net(), "gvp", kind, shape=(2,))
        made = student(teacher, 2.0)
        for t in (0.3, 0.9):
            torch.testing.assert_close(made.average(x, 0.3, t), teacher(x, 0.3))
        assert made.baked == 2.0
        assert made.net.net is not teacher.net


def test_a_flow_map_trains_on_without_a_teacher_and_from_scratch():
    data = load("moons", limit=64)
    run = splitmeanflow(FlowMapField(nets.TwoTimeAdapter(net())), data, steps=2, options=OPTIONS, progress=False)
    assert run.objective.teacher is None
    torch.manual_seed(0)
    scratch = FlowMapField(nets.TwoTimeAdapter(net()))
    other = train.fit(scratch, FlowMapLoss("jvp"), data, steps=2, options=OPTIONS, progress=False)
    assert sample.draw(other.field, 3, steps=4).shape == (3, 2)
    assert "error" in other.metrics()[0]


def test_pictures_on_the_way_are_drawn_by_jumps(tmp_path):
    options = train.Options(batch=16, sample_every=2, save_every=0)
    run = splitmeanflow(
        Field(net(), shape=(2,)),
        load("moons", limit=64),
        steps=2,
        out=tmp_path / "run",
        options=options,
        progress=False,
    )
    (picture,) = (run.path / "samples").glob("*.png")
    assert picture.stat().st_size > 1000


def test_guidance_is_baked_and_more_of_it_is_warned_of():
    data = load("digits", limit=64)
    torch.manual_seed(0)
    field = Field(nets.MLP(64, hidden=8, depth=1, time_features=8, classes=10), shape=data.shape)
    run = splitmeanflow(field, data, steps=2, guidance=3.0, options=OPTIONS, progress=False)
    assert run.field.baked == 3.0
    assert run.config["objective"]["teacher"]["config"]["guidance"] == [3.0]
    assert sample.draw_solution(run.field, 4, steps=1, label=1).rows == 4  # one call a row
    with pytest.warns(UserWarning, match="trained with guidance 3 in its weights"):
        sample.draw(run.field, 4, steps=1, label=1, guidance=2.0)


def test_an_objective_survives_json_but_for_its_teacher():
    loss = FlowMapLoss("fd", Deployed(), PLAIN, truth())
    stored = json.loads(json.dumps(plain.dump(loss)))
    with pytest.raises(OptionError, match="which the file only names"):
        plain.load(stored)
    again = plain.load(stored, custom={"rheos.distill.teacher:Teacher": loss.teacher})
    assert again == loss
    assert plain.load(json.loads(json.dumps(plain.dump(FlowMapLoss("imf"))))) == FlowMapLoss("imf")


# --- bad input ------------------------------------------------------------------------------------------------------


def test_intervals_that_go_backwards_or_leave_the_unit_interval_are_refused():
    with pytest.raises(TimeError, match="goes from s to a later t"):
        exact().average(randn(6, 2), 0.5, 0.4)
    with pytest.raises(TimeError, match="goes from s to a later t"):
        exact().jump(randn(6, 2), clock(0.5), clock(0.4))
    with pytest.raises(TimeError, match=r"Times lie in \[0, 1\]"):
        exact().average(randn(6, 2), 0.5, 1.4)


def test_a_network_with_one_time_is_refused_with_the_way_out():
    loss = FlowMapLoss()
    with pytest.raises(OptionError, match=r"A flow map has two times, and this is a Field.*TwoTimeAdapter"):
        planned(loss, Field(net()))
    with pytest.raises(OptionError, match="trained on tensor states"):
        planned(loss, exact(), x1={"a": randn(32, 2)})


def test_shares_kinds_and_guidance_out_of_range_are_refused():
    with pytest.raises(OptionError, match=r"share of rows with s = t must lie in \(0, 1\]"):
        FlowMapLoss(times=TwoTimes("uniform", 0.0))
    with pytest.raises(OptionError, match="A flow map is trained on intervals"):
        FlowMapLoss(times=TwoTimes("uniform").inner)
    with pytest.raises(UnknownOptionError, match="target 'splt' is unknown"):
        FlowMapLoss("splt")
    with pytest.raises(OptionError, match=r"guidance is \(w, k\)"):
        FlowMapLoss(guidance=(1.0, 1.0))
    with pytest.raises(OptionError, match="With a teacher the guidance is the teacher's"):
        FlowMapLoss(teacher=truth(), guidance=(2.0, 0.0))
    with pytest.raises(OptionError, match="looks at data estimates"):
        FlowMapLoss(flow=FlowMatching(premetric=Perceptual(nn.Identity())))
    with pytest.raises(OptionError, match=r"target='jvp' and Derivative\('fd'\) disagree"):
        FlowMapLoss("jvp", derivative=Derivative("fd"))
    with pytest.raises(OptionError, match="guidance belongs to the teacher"):
        splitmeanflow(exact(), load("moons", limit=64), steps=1, guidance=2.0)


def test_teachers_that_are_students_or_cannot_be_guided_are_refused():
    field = exact()
    with pytest.raises(OptionError, match="The student is the teacher itself"):
        planned(FlowMapLoss(teacher=Teacher(field)), field)
    with pytest.raises(OptionError, match="needs a conditional teacher"):
        Teacher(field, 2.0)
    with pytest.raises(OptionError, match="guidance is one finite number or several"):
        Teacher(two_classes(), ())
    from rheos.core.errors import ConditionError

    with pytest.raises(ConditionError, match="does not take the negative conditions text"):
        Teacher(two_classes(), 2.0, {"text": torch.zeros(1)})
    with pytest.raises(OptionError, match="is a field of its own kind"):
        student(two_classes())


@untyped
def test_a_teacher_is_a_field_or_a_run():
    with pytest.raises(OptionError, match="A Run or a Field is wanted, got str"):
        Teacher("runs/mine")


def test_forward_mode_through_a_wrapped_network_is_refused():
    class DistributedDataParallel(nn.Module):
        def __init__(self, module):
            super().__init__()
            self.module = module

        def forward(self, x, s, t):
            return self.module(x, s, t)

    field = FlowMapField(DistributedDataParallel(GaussianMap()), shape=(2,))
    for kind in ("jvp", "imf"):
        with pytest.raises(OptionError, match=r"wrapped for several processes.*target='split' or 'fd'"):
            planned(FlowMapLoss(kind), field)
    planned(FlowMapLoss("split"), field)


def test_short_types_and_finite_differences_do_not_go_together():
    data, field = load("moons", limit=64), Field(net(), shape=(2,))
    options = train.Options(batch=16, precision="bf16", sample_every=0, save_every=0)
    with pytest.raises(OptionError, match="cancels in bfloat16"):
        splitmeanflow(field, data, steps=1, objective=FlowMapLoss("fd"), options=options, progress=False)


# --- the semigroup, and the field -----------------------------------------------------------------------------------


def test_the_metric_of_consistency_is_zero_for_the_exact_map_and_the_semigroup_residual_otherwise():
    from rheos.metrics import flow_map_consistency

    x = randn(6, 2)
    assert flow_map_consistency(exact(), x, (0.1, 0.4, 0.9)) < 1e-20
    off = exact(off=0.3)
    residual = semigroup_residual(off.net, x, clock(0.1), clock(0.4), clock(0.9)).detach()
    jump = off.average(x, 0.1, 0.9).detach()
    expected = float(residual.square().sum() / jump.square().sum())
    assert abs(flow_map_consistency(off, x, (0.1, 0.4, 0.9)) - expected) < 1e-12
    with pytest.raises(TimeError, match="times must increase"):
        flow_map_consistency(off, x, (0.1, 0.9, 0.4))
    with pytest.raises(OptionError, match="a FlowMapField is wanted"):
        flow_map_consistency(Field(net()), x)


def test_the_field_answers_averages_and_estimates_and_copies_keep_doing_so():
    field, x = copy.deepcopy(exact()), randn(6, 2)
    v = truth().field(x, 0.3)
    torch.testing.assert_close(field.answer(Query(x, 0.3, (0.3, 0.3), {}, "velocity")).value, v)
    torch.testing.assert_close(field.data(x, 0.3), truth().field.data(x, 0.3))
    torch.testing.assert_close(field.score(x, 0.3), truth().field.score(x, 0.3))
    span = field.answer(Query(x, 0.3, (0.3, 0.8), {}, "average")).value
    assert torch.equal(span, field.average(x, 0.3, 0.8))
    with pytest.raises(OptionError, match="only a flow map knows their average"):
        sample.draw(Field(net(), shape=(2,)), 2, steps=1, solver="jump")
