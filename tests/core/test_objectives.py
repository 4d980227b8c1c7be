"""Objectives put together from their parts."""

import pytest
import torch
from torch import nn

from rheos.core import Draws, Field, FlowMatching, Gibbs, GivenPairs, ShiftedTime, TwoTimes
from rheos.core.errors import OptionError, ShapeError, UnknownOptionError
from rheos.core.sources import FromCondition


class Linear(nn.Module):
    """A small network in float64 with a label."""

    conditions = frozenset({"label"})

    def __init__(self):
        super().__init__()
        self.body = nn.Linear(4, 3, dtype=torch.float64)
        with torch.no_grad():
            self.body.weight.copy_(torch.linspace(-1, 1, 12).reshape(3, 4))
            self.body.bias.fill_(0.1)

    def null(self, name, rows):
        return torch.full((rows,), 9)

    def forward(self, x, t, label):
        return self.body(torch.cat((x, t[:, None].to(x) + 0.01 * label[:, None]), 1))


def batch(n=8):
    draws = Draws.training(0, 3, n)
    x1 = draws.normal(torch.empty(n, 3, dtype=torch.float64), "data")
    return x1, {"label": torch.arange(n) % 4}, draws


@pytest.mark.parametrize("coupling", [None, Gibbs(epsilon=2.0)])
def test_slices_of_a_plan_sum_to_the_whole_batch_with_one_gradient(coupling):
    x1, cond, draws = batch()
    objective = FlowMatching() if coupling is None else FlowMatching(coupling=coupling)
    field = Field(Linear())
    plan = objective.prepare(field, x1, cond, draws)
    whole = objective.loss(field, plan).value
    (g,) = torch.autograd.grad(whole, field.net.body.weight)
    parts = [objective.loss(field, plan.slice(a, a + 2)).value for a in (0, 2, 4, 6)]
    (h,) = torch.autograd.grad(sum(parts), field.net.body.weight)
    torch.testing.assert_close(sum(parts), whole, rtol=1e-14, atol=0)
    torch.testing.assert_close(h, g, rtol=1e-13, atol=1e-15)


def test_the_plain_loss_is_the_mean_square_of_velocity_minus_difference():
    x1, cond, draws = batch()
    objective, field = FlowMatching(dropout=0.0), Field(Linear())
    plan = objective.prepare(field, x1, cond, draws)
    t = plan.t[:, None]
    predicted = field.net((1 - t) * plan.x0 + t * x1, plan.t, plan.cond["label"])
    expected = (predicted - (x1 - plan.x0)).square().mean()
    torch.testing.assert_close(objective.loss(field, plan).value, expected)


def test_a_loss_on_data_of_a_velocity_head_is_weighed_by_the_square_of_the_time_left():
    """On the linear path x1^ - x1 = (1 - t)(v^ - v)."""
    x1, cond, draws = batch()
    field = Field(Linear())
    on_v, on_data = FlowMatching(dropout=0.0), FlowMatching(dropout=0.0, loss_on="data")
    plan = on_v.prepare(field, x1, cond, draws)
    expected = on_v.loss(field, plan).rows * (1 - plan.t) ** 2
    torch.testing.assert_close(on_data.loss(field, plan).rows, expected)


@pytest.mark.parametrize("head", ["velocity", "data", "noise", "score", "v_prediction", "edm"])
def test_every_head_has_zero_loss_when_it_predicts_its_target(head):
    x1, _, draws = batch()

    class Oracle(nn.Module):
        answer = None

        def forward(self, x, t):
            return self.answer

    field = Field(Oracle(), "gvp", head)
    objective = FlowMatching()
    plan = objective.prepare(field, x1, {}, draws)
    plan = plan._replace(t=plan.t.clamp(*field.finite))
    sample = field.path.sample(plan.x0, plan.x1, plan.t)
    field.net.answer = field.path.target(sample, head)
    assert objective.loss(field, plan).value == 0
    # and the field then knows the data exactly
    torch.testing.assert_close(field.data(sample.xt, plan.t), x1, rtol=1e-8, atol=1e-8)


def test_dropout_replaces_whole_rows_by_null_and_one_replaces_all():
    x1, cond, draws = batch()
    field = Field(Linear())
    assert (FlowMatching(dropout=1.0).prepare(field, x1, cond, draws).cond["label"] == 9).all()
    assert torch.equal(FlowMatching(dropout=0.0).prepare(field, x1, cond, draws).cond["label"], cond["label"])
    some = FlowMatching(dropout=0.5).prepare(field, x1.repeat(50, 1), {"label": cond["label"].repeat(50)},
                                             Draws.training(0, 0, 400))  # fmt: skip
    share = (some.cond["label"] == 9).double().mean()
    assert abs(share - 0.5) < 4 * (0.25 / 400) ** 0.5  # four standard errors


def test_the_shift_of_the_field_moves_training_times_towards_the_noise():
    x1, cond, draws = batch()
    plain = FlowMatching().prepare(Field(Linear()), x1, cond, draws).t
    shifted = FlowMatching().prepare(Field(Linear(), shift=3.0), x1, cond, draws).t
    torch.testing.assert_close(shifted, plain / (plain + 3 * (1 - plain)))


def test_a_source_column_is_used_up_and_pairs_stay_together():
    x1, cond, draws = batch()
    objective = FlowMatching(coupling=GivenPairs(), source=FromCondition("x0"), dropout=0.0)
    plan = objective.prepare(Field(Linear()), x1, {**cond, "x0": -x1}, draws)
    assert plan.cond.keys() == {"label"}
    assert torch.equal(plan.x0, -x1)
    assert not objective.gaussian
    assert FlowMatching().gaussian


def test_the_plan_depends_on_the_draws_alone():
    x1, cond, _ = batch()
    field = Field(Linear())
    one, two, other = (FlowMatching().prepare(field, x1, cond, Draws.training(0, s, 8)) for s in (5, 5, 6))
    assert torch.equal(one.x0, two.x0)
    assert torch.equal(one.t, two.t)
    assert not torch.equal(one.t, other.t)


def test_wrong_options_are_refused():
    with pytest.raises(OptionError, match=r"dropout must lie in \[0, 1\]"):
        FlowMatching(dropout=1.5)
    with pytest.raises(UnknownOptionError, match="did you mean 'logit-normal'"):
        FlowMatching(times="logit-norml")
    with pytest.raises(UnknownOptionError, match="loss_on 'velocty'"):
        FlowMatching(loss_on="velocty")
    with pytest.raises(OptionError, match="TwoTimes is for flow maps"):
        FlowMatching(times=TwoTimes("uniform"))
    x1, cond, draws = batch()
    with pytest.raises(OptionError, match="shifted twice: by k=3 in the law and by shift=2 on the field"):
        FlowMatching(times=ShiftedTime("uniform", 3.0)).prepare(Field(Linear(), shift=2.0), x1, cond, draws)
    with pytest.raises(ShapeError, match="draws have 3 rows for a batch of 8"):
        FlowMatching().prepare(Field(Linear()), x1, cond, Draws.training(0, 0, 3))
