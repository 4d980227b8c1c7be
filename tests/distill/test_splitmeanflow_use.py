"""Distilled flow maps as a whole: training, sampling, and what is refused."""

import copy
import json

import pytest
import torch
from torch import nn

from rheos import nets, sample, train
from rheos.core import (
    Deployed,
    Derivative,
    Draws,
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
from rheos.core.flowmap import semigroup_residual
from rheos.data import load
from rheos.distill import FlowMapLoss, Teacher, splitmeanflow, student
from strategies import GaussianMap, randn, untyped

PLAIN = FlowMatching(dropout=0.0)


KINDS = ("split", "half", "jvp", "fd", "imf")


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


def two_classes():
    return GaussianMixtureField([[2.0], [-2.0]], [0.5, 0.5], labels=[0, 1])


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
