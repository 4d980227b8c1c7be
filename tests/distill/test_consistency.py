"""Consistency models on an exact flow, and progressive halving of its steps."""

import pytest
import torch

from rheos import nets, sample, train
from rheos.core import Draws, Field, FlowMatching, GaussianMixtureField, TransportField, row_seeds
from rheos.core.errors import OptionError
from rheos.data import load
from rheos.distill import Consistency, Halving, Teacher, consistency, progressive
from strategies import GaussianMap, randn


def mean_square(a, b):
    return (a - b).square().flatten(1).mean(1)


OPTIONS = train.Options(batch=16, ema=0.9, sample_every=0, save_every=0, warmup=0)


def truth():
    return Teacher(GaussianMixtureField([[1.5, 1.5]], [0.4]))


def exact(off=0.0):
    return TransportField(GaussianMap(off=off), shape=(2,))


def planned(loss, field, n=64):
    return loss.prepare(field, 1.5 + 0.4 * randn(n, 2, seed=5), {}, Draws(row_seeds(0, n)))


def net():
    torch.manual_seed(0)
    return nets.MLP(2, hidden=8, depth=1, time_features=8)


def test_on_the_exact_transport_only_eulers_error_is_left_and_it_shrinks_with_delta():
    residues = []
    for delta in (0.02, 0.01):
        loss = Consistency(truth(), delta)
        residues.append(float(loss.loss(exact(), planned(loss, exact())).value.detach()))
    assert 12 < residues[0] / residues[1] < 20  # (delta^2)^2


def test_the_second_jump_has_no_gradient_and_ends_at_the_data():
    field, loss = exact(off=0.3), Consistency(truth(), 0.05)
    plan = planned(loss, field)
    plan.t[:4] = 0.97  # nearer to the end than delta: the second point is the end, and its jump is nothing
    rows = loss.loss(field, plan).rows
    rows.sum().backward()
    with torch.no_grad():
        t = plan.t
        later = (t + 0.05).clamp(max=1.0)
        x = field.path.sample(plan.x0, plan.x1, t).xt
        ahead = x + (later - t)[:, None] * truth().velocity(x, t, {})
        gap = field.data(x, t) - field.data(ahead, later)
        slope = (1 - t)[:, None] * x
    torch.testing.assert_close(rows.detach(), gap.square().mean(1))
    torch.testing.assert_close(field.net.off.grad, (2 * gap * slope).mean(1).sum())
    torch.testing.assert_close(field.data(ahead, later)[:4], ahead[:4])


def test_training_without_a_teacher_compares_two_times_of_one_pair():
    field, loss = exact(off=0.3), Consistency(delta=0.05)
    plan = planned(loss, field)
    later = (plan.t + 0.05).clamp(max=1.0)
    a, b = (field.data(field.path.sample(plan.x0, plan.x1, t).xt, t) for t in (plan.t, later))
    torch.testing.assert_close(loss.loss(field, plan).rows, mean_square(a, b))


def test_phases_end_at_their_own_ends():
    loss = Consistency(truth(), 0.05, phases=4)
    t = torch.tensor([0.0, 0.24, 0.25, 0.6, 0.99, 1.0], dtype=torch.float64)
    assert loss.ends(t).tolist() == [0.25, 0.25, 0.5, 0.75, 1.0, 1.0]


def test_targets_may_come_from_the_average():
    field, loss = exact(off=0.3), Consistency(truth(), 0.05, averaged=True)
    average = nets.EMA(field.net, 0.9)
    with torch.no_grad():
        field.net.off.fill_(0.0)
    plan = planned(loss, field)
    swapped, own = (made.loss(field, plan).rows for made in (loss.averaging(average.swap), loss))
    assert not torch.allclose(swapped, own)
    with pytest.raises(OptionError, match="average of weights"):
        loss.averaging(None)


def test_halving_regresses_on_two_steps_of_the_teacher():
    field, loss = exact(off=0.3), Halving(truth(), 4)
    plan = planned(loss, field)
    assert set(plan.t.tolist()) == {0.0, 0.25, 0.5, 0.75}
    x = field.path.sample(plan.x0, plan.x1, plan.t).xt
    ends = torch.stack([
        sample.solve(truth().field, row[None], (t, t + 0.125, t + 0.25), "euler").x[0]
        for row, t in zip(x, plan.t.tolist(), strict=True)
    ])  # fmt: skip
    target = (ends - x) * 4
    torch.testing.assert_close(loss.loss(field, plan).rows, mean_square(field(x, plan.t), target))


def test_rounds_halve_the_steps_and_each_has_its_directory(tmp_path):
    data, field = load("moons", limit=64), Field(net(), shape=(2,))
    run = progressive(field, data, steps=7, start=8, out=tmp_path, options=OPTIONS)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["steps_001", "steps_002", "steps_004"]
    assert [train.load(tmp_path / f"steps_00{n}").step for n in (4, 2, 1)] == [2, 2, 3]
    assert sample.draw_solution(run.field, 4, steps=1).calls == 1
    again = progressive(field, data, steps=7, start=8, out=tmp_path, options=OPTIONS)
    assert torch.equal(sample.draw(again.field, 4, steps=1), sample.draw(run.field, 4, steps=1))


def test_consistency_distils_a_field_with_its_own_network(tmp_path):
    data, field = load("moons", limit=64), Field(net(), shape=(2,))
    run = consistency(field, data, steps=2, out=tmp_path / "run", options=OPTIONS, progress=False)
    assert sample.draw(run.field, 4, steps=1).shape == (4, 2)
    assert sample.draw_solution(run.field, 4, steps=2, solver="renoise").calls == 2


def test_bad_input_is_refused():
    with pytest.raises(OptionError, match="delta must be shorter than a phase"):
        Consistency(delta=0.3, phases=4)
    with pytest.raises(OptionError, match="is not sampled in one jump"):
        planned(Consistency(), Field(net()))
    with pytest.raises(OptionError, match="is not sampled in few steps"):
        planned(Halving(truth(), 2), Field(net()))
    with pytest.raises(OptionError, match="steps must be at least 1, got 0"):
        Halving(truth(), 0)
    with pytest.raises(OptionError, match="start must be end times 2, 4, 8 and so on, got 6 and 4"):
        progressive(Field(net()), load("moons", limit=64), steps=4, start=6, end=4)
    with pytest.raises(OptionError, match="4 rounds need as many steps at least, got 2"):
        progressive(Field(net()), load("moons", limit=64), steps=2)
    with pytest.raises(OptionError, match="guidance belongs to the objective's teacher"):
        consistency(Field(net()), load("moons", limit=64), steps=1, objective=Consistency(truth()), guidance=2.0)
    field = exact()
    for loss in (Consistency(Teacher(field)), Halving(Teacher(field), 1)):
        with pytest.raises(OptionError, match="The student is the teacher itself"):
            planned(loss, field)
    assert FlowMatching(dropout=0.0).gaussian
