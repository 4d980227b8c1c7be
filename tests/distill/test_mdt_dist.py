"""Distillation of the transport to the data, against the exact transport of a Gaussian."""

import json

import pytest
import torch
from torch import nn

from rheos import nets, sample, train
from rheos.core import (
    Derivative,
    Draws,
    Field,
    FlowMapField,
    GaussianMixtureField,
    TransportField,
    row_seeds,
)
from rheos.core import config as plain
from rheos.core.errors import OptionError, TimeError
from rheos.core.packed import pad
from rheos.data import load
from rheos.distill import Teacher, TransportLoss, mdt_dist, transport
from strategies import GaussianMap, randn


def mean_square(a, b):
    return (a - b).square().flatten(1).mean(1)


OPTIONS = train.Options(batch=16, ema=0.9, sample_every=0, save_every=0, warmup=0)
JVP = Derivative("jvp")


def truth(mean=1.5):
    return Teacher(GaussianMixtureField([[mean, mean]], [0.4]))


def exact(mean=1.5, off=0.0):
    return TransportField(GaussianMap(mean, off=off), shape=(2,))


def planned(loss, field, n=32, step=None):
    draws = Draws(row_seeds(0, n), step)
    return loss.prepare(field, 1.5 + 0.4 * randn(n, 2, seed=5), {}, draws)


def matching(**more):
    return TransportLoss(truth(), more.pop("derivative", JVP), distillation=0.0, **more)


# --- velocity matching ----------------------------------------------------------------------------------------------


def test_the_transport_minus_its_slope_is_the_teachers_velocity():
    field, x, t = exact(), randn(6, 2), torch.full((6,), 0.35, dtype=torch.float64)
    v = truth().velocity(x, t, {})
    slope = JVP(lambda a, b: field(a, b), x, t, v)
    torch.testing.assert_close(field(x, t) - (1 - t)[:, None] * slope, v, rtol=1e-10, atol=1e-10)


def test_the_exact_transport_has_no_loss_and_a_difference_leaves_one_that_shrinks():
    loss = matching()
    assert float(loss.loss(exact(), planned(loss, exact())).value.detach()) < 1e-20
    residues = []
    for delta in (0.02, 0.01):
        loss = matching(derivative=Derivative("fd", delta))
        residues.append(float(loss.loss(exact(), planned(loss, exact())).value.detach()))
    assert 3.0 < residues[0] / residues[1] < 5.0  # the square of a first-order error


def test_at_the_data_it_is_velocity_matching():
    field, loss = exact(off=0.3), matching()
    plan = planned(loss, field)
    t = torch.ones_like(plan.t)
    x = field.path.sample(plan.x0, plan.x1, t).xt
    rows = loss.loss(field, plan._replace(t=t)).rows
    torch.testing.assert_close(rows, mean_square(field(x, t), truth().velocity(x, t, {})))


@pytest.mark.parametrize("how", [JVP, Derivative("fd", 0.02)])
def test_no_gradient_flows_into_teacher_slope_or_target(how):
    field, loss = exact(off=0.3), matching(derivative=how)
    plan = planned(loss, field)
    loss.loss(field, plan).value.backward()
    with torch.no_grad():
        t = plan.t
        x = field.path.sample(plan.x0, plan.x1, t).xt
        v = truth().velocity(x, t, {})
        gap = field(x, t) - v - (1 - t)[:, None] * how(lambda a, b: field(a, b), x, t, v)
    torch.testing.assert_close(field.net.off.grad, (2 * gap * x).mean(), rtol=1e-10, atol=1e-10)


def test_differences_keep_times_away_from_the_end_and_refuse_others():
    loss = matching(derivative=Derivative("fd", 0.25))
    plan = planned(loss, exact(), 512)
    assert float(plan.t.max()) <= 0.75
    with pytest.raises(TimeError, match="steps beyond 1"):
        loss.loss(exact(), plan._replace(t=torch.full_like(plan.t, 0.9)))


def test_normalisation_is_off_unless_asked_for():
    assert TransportLoss(truth()).derivative == Derivative("fd", 0.01, "none")
    field = exact(off=0.3)
    rows = [
        loss.loss(field, planned(loss, field)).rows.detach()
        for loss in (matching(), matching(derivative=Derivative(normalize="rms")))
    ]
    assert not torch.allclose(*rows)


# --- velocity distillation ------------------------------------------------------------------------------------------


def test_distillation_pushes_nothing_where_the_student_follows_the_teacher():
    loss = TransportLoss(truth(), JVP, matching=0.0, distillation=1.0)
    field = exact()
    loss.loss(field, planned(loss, field)).value.backward()
    assert abs(float(field.net.off.grad)) < 1e-12


class Shifted(nn.Module):
    """The transport to a Gaussian whose mean is learned."""

    conditions = frozenset()

    def __init__(self, mean):
        super().__init__()
        self.mean = nn.Parameter(torch.tensor(mean, dtype=torch.float64))
        self.rest = GaussianMap(0.0, 0.4)

    def forward(self, x, t):
        return self.rest(x - t[:, None] * self.mean, t) + self.mean


def test_descent_raises_a_student_mean_that_lies_below_the_target():
    field = TransportField(Shifted(0.5), shape=(2,))
    loss = TransportLoss(truth(), JVP, matching=0.0, distillation=1.0)
    plan = planned(loss, field, 512)
    loss.loss(field, plan).value.backward()
    assert float(field.net.mean.grad) < 0
    # u_phi - v_T = (dX/dx) (v_phi - v_T), because the slope is taken along v_T; dX/dx is the ratio of the spreads
    with torch.no_grad():
        fake = plan.extra["first"] + field(plan.extra["first"], 0.0)
        x = field.path.sample(plan.extra["second"], fake, plan.t).xt
        gap = truth(0.5).velocity(x, plan.t, {}) - truth(1.5).velocity(x, plan.t, {})
        g = 0.4 / GaussianMap().spread(plan.t)[:, None] * gap
    torch.testing.assert_close(field.net.mean.grad, (2 * g).mean(), rtol=1e-8, atol=1e-8)


def test_the_scales_of_matching_and_distillation_add():
    field = exact(off=0.3)
    parts = [TransportLoss(truth(), JVP, matching=a, distillation=b) for a, b in ((1.0, 0.0), (0.0, 1.0), (0.5, 0.25))]
    plan = planned(parts[2], field)
    rows = [loss.loss(field, plan if loss.distillation else plan._replace(extra={})).rows.detach() for loss in parts]
    torch.testing.assert_close(rows[2], 0.5 * rows[0] + 0.25 * rows[1])
    logs = parts[2].loss(field, plan).logs
    assert logs.keys() == {"matching", "distillation"}


def test_parts_of_a_plan_add_up_to_the_whole():
    field, loss = exact(off=0.3), TransportLoss(truth(), JVP)
    plan = planned(loss, field)
    parts = [loss.loss(field, plan.slice(a, b)).value for a, b in ((0, 5), (5, 32))]
    torch.testing.assert_close(sum(parts), loss.loss(field, plan).value, rtol=1e-12, atol=1e-12)


def test_distillation_begins_after_its_steps():
    loss = TransportLoss(truth(), after=10)
    assert "first" not in planned(loss, exact(), step=9).extra
    assert "first" in planned(loss, exact(), step=10).extra
    alone = TransportLoss(truth(), matching=0.0, distillation=1.0, after=10)
    field = exact(off=0.3)
    value = alone.loss(field, planned(alone, field, step=0)).value
    value.backward()
    assert float(value.detach()) == 0.0
    assert float(field.net.off.grad) == 0.0


def test_distillation_may_have_a_scale_of_its_own_and_zero_guidance_is_no_guidance():
    field = GaussianMixtureField([[2.0], [-2.0]], [0.5, 0.5], labels=[0, 1])
    x, t, cond = randn(4, 1), torch.full((4,), 0.4, dtype=torch.float64), {"label": torch.tensor([0, 1, 0, 1])}
    teacher = Teacher(field, 41.0)  # the paper's w = 40
    null, given = field(x, t), field(x, t, **cond)
    torch.testing.assert_close(teacher.velocity(x, t, cond), (1 + 40) * given - 40 * null)
    one = teacher.velocity(x, t, cond, torch.ones(4, dtype=torch.float64))
    torch.testing.assert_close(one, given)
    loss = TransportLoss(teacher, guidance=101.0)
    student = TransportField(Labelled(), shape=(1,))
    plan = loss.prepare(student, randn(8, 1), {"label": torch.zeros(8, dtype=torch.long)}, Draws(row_seeds(0, 8)))
    assert plan.extra["scales"].tolist() == [41.0] * 8
    assert plan.extra["scales of distillation"].tolist() == [101.0] * 8
    loss.loss(student, plan).value.backward()


class Labelled(nn.Module):
    conditions = frozenset({"label"})

    def __init__(self):
        super().__init__()
        self.a = nn.Parameter(torch.tensor(0.5, dtype=torch.float64))

    def null(self, name, rows):
        return torch.full((rows,), 2)

    def forward(self, x, t, label):
        return self.a * x + label[:, None].double()


# --- sets of different sizes ----------------------------------------------------------------------------------------


class Tokens(nn.Module):
    """Each token apart, and the mean of those that exist."""

    conditions = frozenset({"mask"})
    present = "mask"

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.own, self.all = (nn.Linear(3, 3).double() for _ in range(2))

    def forward(self, x, t, mask):
        kept = mask[..., None].double()
        mean = (x * kept).sum(1, keepdim=True) / kept.sum(1, keepdim=True)
        return torch.tanh(self.own(x) + self.all(mean)) * t[:, None, None]


def test_a_batch_of_a_long_and_a_short_set_is_two_calls():
    student, teacher = TransportField(Tokens(), shape=(5, 3)), Field(Tokens(), shape=(5, 3))
    with torch.no_grad():
        student.net.own.weight.mul_(1.5)
    loss = TransportLoss(Teacher(teacher), JVP, matching=1.0, distillation=0.5)
    sizes, width = (2, 5), 5
    offsets = torch.tensor([0, 2, 7])
    parts = [randn(7, 3, seed=k) for k in range(4)]

    def plan(tokens, ends):
        x0, mask = pad(tokens[0], ends)
        x1, first, second = (pad(v, ends)[0] for v in tokens[1:])
        n = len(x0)
        return loss.prepare(student, x1, {"mask": mask}, Draws(row_seeds(0, n)))._replace(
            x0=x0,
            x1=x1,
            t=torch.full((n,), 0.3, dtype=torch.float64),
            weight=torch.full((n,), 0.5, dtype=torch.float64),
            extra={"first": first, "second": second},
        )

    both = loss.loss(student, plan(parts, offsets)).rows
    singles = [
        loss.loss(student, plan([p[a : a + n] for p in parts], [0, n])).rows[0]
        for a, n in zip((0, 2), sizes, strict=True)
    ]
    torch.testing.assert_close(both, torch.stack(singles), rtol=1e-12, atol=1e-12)
    noisy = plan(parts, offsets)
    noisy.x0[0, 2:] = 1e3  # what padding holds does not matter
    noisy.extra["first"][0, 2:] = 1e3
    torch.testing.assert_close(loss.loss(student, noisy).rows, both, rtol=1e-12, atol=1e-12)
    assert width == noisy.x0.shape[1]


# --- using it -------------------------------------------------------------------------------------------------------


def net(**more):
    torch.manual_seed(0)
    return nets.MLP(2, hidden=8, depth=1, time_features=8, **more)


def test_a_field_learns_to_jump_with_its_own_network_and_comes_back_from_its_directory(tmp_path):
    data, field = load("moons", limit=64), Field(net(), shape=(2,))
    before = [p.clone() for p in field.parameters()]
    run = mdt_dist(field, data, steps=4, out=tmp_path / "run", options=OPTIONS, progress=False)
    assert all(torch.equal(a, b) for a, b in zip(field.parameters(), before, strict=True))
    assert [p.shape for p in run.field.parameters()] == [p.shape for p in before]
    solution = sample.draw_solution(run.field, 5, steps=1)
    assert solution.calls == 1
    torch.testing.assert_close(solution.x, run.field.data(solution.source, 0.0))
    again = train.load(tmp_path / "run")
    assert torch.equal(sample.draw(again.field, 5, steps=1), solution.x)
    longer = mdt_dist(field, data, steps=6, objective=TransportLoss(Teacher(field), after=3), options=OPTIONS,
                      out=tmp_path / "run", progress=False)  # fmt: skip
    assert longer.step == 6


def test_more_steps_follow_chords_or_noise_afresh():
    field = exact()
    solution = sample.draw_solution(field, 6, steps=(0.0, 0.5, 1.0))
    x = solution.source
    half = x + 0.5 * field(x, 0.0)
    torch.testing.assert_close(solution.x, half + 0.5 * field(half, 0.5))
    torch.testing.assert_close(half, (x + field.data(x, 0.0)) / 2)  # on the chord
    afresh = sample.draw(field, 4000, steps=(0.0, 0.5, 1.0), solver="renoise")
    assert abs(float(afresh.mean()) - 1.5) < 4 * 0.4 / 8000**0.5
    assert abs(float(afresh.std()) - 0.4) < 4 * 0.4 / 16000**0.5


def test_a_student_begins_as_its_teacher_on_any_path_and_from_any_head():
    x = randn(4, 2).float()
    for kind in ("velocity", "data", "noise"):
        teacher = Field(net(), "gvp", kind, shape=(2,), shift=3.0)
        made = transport(teacher, 2.0)
        torch.testing.assert_close(made(x, 0.3), teacher(x, 0.3))
        torch.testing.assert_close(made.data(x, 0.3), x + 0.7 * teacher(x, 0.3))
        assert (made.shift, made.baked) == (3.0, 2.0)


def test_guidance_is_baked_and_more_of_it_is_warned_of():
    data = load("digits", limit=64)
    torch.manual_seed(0)
    field = Field(nets.MLP(64, hidden=8, depth=1, time_features=8, classes=10), shape=data.shape)
    run = mdt_dist(field, data, steps=2, guidance=3.0, options=OPTIONS, progress=False)
    assert run.field.baked == 3.0
    with pytest.warns(UserWarning, match="trained with guidance 3 in its weights"):
        sample.draw(run.field, 4, steps=1, label=1, guidance=2.0)


def test_an_objective_survives_json_but_for_its_teacher():
    loss = TransportLoss(truth(), Derivative("jvp"), after=5, guidance=1.0)
    stored = json.loads(json.dumps(plain.dump(loss)))
    assert plain.load(stored, custom={"rheos.distill.teacher:Teacher": loss.teacher}) == loss


def test_fields_that_do_not_fit_are_refused():
    loss = TransportLoss(truth())
    with pytest.raises(OptionError, match=r"has two times: train it with FlowMapLoss"):
        planned(loss, FlowMapField(GaussianMap()))
    with pytest.raises(OptionError, match=r"A Field is not sampled in one jump. Train distill.transport\(field\)"):
        planned(loss, Field(net()))
    field = exact()
    with pytest.raises(OptionError, match="The student is the teacher itself"):
        planned(TransportLoss(Teacher(field)), field)
    with pytest.raises(OptionError, match="jumps already"):
        transport(FlowMapField(GaussianMap()))
    with pytest.raises(OptionError, match="is a field of its own kind"):
        transport(truth().field)
    with pytest.raises(OptionError, match="trained on tensor states"):
        loss.prepare(exact(), {"a": randn(4, 2)}, {}, Draws(row_seeds(0, 4)))


def test_numbers_out_of_range_are_refused():
    with pytest.raises(OptionError, match="Weights are at least 0 and not both 0"):
        TransportLoss(truth(), matching=0.0, distillation=0.0)
    with pytest.raises(OptionError, match="after counts steps"):
        TransportLoss(truth(), after=-1)
    with pytest.raises(OptionError, match=r"guidance 2\.0 needs a conditional teacher"):
        TransportLoss(truth(), guidance=2.0)
    with pytest.raises(OptionError, match="guidance belongs to the objective's teacher"):
        mdt_dist(Field(net()), load("moons", limit=64), steps=1, objective=TransportLoss(truth()), guidance=2.0)


def test_a_condition_without_a_null_value_cannot_be_guided():
    class Given(nn.Module):
        conditions = frozenset({"pose"})

        def __init__(self):
            super().__init__()
            self.a = nn.Parameter(torch.ones(()))

        def forward(self, x, t, pose):
            return self.a * x

    from rheos.core.errors import ConditionError

    teacher = Teacher(Field(Given()), 2.0)
    x, t = torch.zeros(2, 3), torch.zeros(2, dtype=torch.float64)
    with pytest.raises(ConditionError, match="no null value for 'pose'"):
        teacher.velocity(x, t, {"pose": torch.zeros(2, 1)})
    Teacher(Field(Given()), 2.0, {"pose": torch.zeros(1, 1)}).velocity(x, t, {"pose": torch.ones(2, 1)})


def test_half_precision_with_a_small_step_cancels():
    loss = matching(derivative=Derivative("fd", 5e-4))
    torch.manual_seed(0)
    field = TransportField(nets.MLP(2, hidden=8, depth=1, time_features=8), shape=(2,))
    plan = loss.prepare(field, randn(4, 2).half(), {}, Draws(row_seeds(0, 4)))
    with pytest.raises(OptionError, match="cancels in float16"):
        loss.loss(field, plan)


def test_distillation_jumps_from_the_noise_that_sampling_begins_with():
    """On VE the source has the standard deviation 50, not 1."""
    seen = []

    class Spy(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(()))

        def forward(self, x, t):
            seen.append((float(t.max()), float(x.detach().std())))
            return self.weight * x

    field = transport(Field(Spy(), "ve", shape=(2,)))
    loss = TransportLoss(Teacher(GaussianMixtureField([[1.0, 1.0]], [0.4], path="ve")), matching=0.0, distillation=1.0)
    plan = loss.prepare(field, randn(512, 2).float(), {}, Draws(row_seeds(0, 512)))
    loss.loss(field, plan)
    start = field.path.law.sigma(0.0)
    assert any(t < 1e-2 and spread == pytest.approx(start, rel=0.1) for t, spread in seen)
