"""Distillation on pairs and on segments: times, premetrics, and what a student remembers."""

import math

import pytest
import torch
from tests.strategies import gaussian, randn
from torch import nn

from rheos.core import MSE, Context, Draws, Field, GaussianMixtureField, Huber, Perceptual, config, row_seeds
from rheos.core.errors import DataError, OptionError, ShapeError, TimeError
from rheos.core.times import UniformTime
from rheos.distill import (
    AtTimes,
    Decoded,
    Distillation,
    Recipe,
    SegmentRecipe,
    distil,
    distillation,
    generate,
    generate_segments,
    given_pairs,
    t_schedule,
)  # fmt: skip
from rheos.distill.distillation import between, seen
from rheos.distill.kit import known, student_of
from rheos.sample import draw, draw_solution
from rheos.train import Options, load


class Line(nn.Module):
    """The velocity a x + b + c t, which remembers the times at which it was asked."""

    conditions: frozenset[str] = frozenset()

    def __init__(self, dim: int = 1) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Parameter(torch.zeros(dim, dtype=torch.float64)) for _ in range(3))
        self.asked: list[float] = []

    def forward(self, x, t):
        self.asked += t[:1].tolist()
        return self.a * x + self.b + self.c * t[:, None]


quick = Options(
    batch=64, lr=0.05, optimiser="adam", warmup=0, ema=0.0, clip=0.0, sample_every=0, save_every=0, log_every=1000
)


def straight_pairs(n: int = 256, mean: float = 1.5, std: float = 0.3):
    """x1 = mean + std x0: what the flow to a Gaussian does."""
    x0 = randn(n, 1).float()
    return given_pairs(x0, mean + std * x0)


@pytest.mark.parametrize("k", [1, 2, 5])
def test_a_student_of_k_steps_learns_at_k_times_and_is_asked_there_and_nowhere_else(k):
    assert t_schedule(k).points == tuple(j / k for j in range(k))
    student = Field(Line(), shape=(1,))
    run = distil(student, straight_pairs(), steps=2, schedule=k, options=quick, progress=False)
    assert run.field.times == tuple(j / k for j in range(k + 1))
    run.field.net.asked.clear()
    solution = draw_solution(run.field, 3)
    assert solution.calls == k
    assert run.field.net.asked == pytest.approx([j / k for j in range(k)])


def test_steps_add_up_to_one():
    net = Line()
    nn.init.ones_(net.b)
    field = Field(net, shape=(1,), times=(*t_schedule(5).points, 1.0))
    solution = draw_solution(field, 4)
    torch.testing.assert_close(solution.x, solution.source + 1, rtol=0, atol=1e-15)


def test_at_the_times_of_one_step_k_is_the_plain_loss_at_t_zero():
    data = straight_pairs(16)
    field = Field(Line(), shape=(1,))
    nn.init.constant_(field.net.a, 0.4)
    objective = distillation(known(data), 1)
    batch = data.batch(torch.arange(16))
    plan = objective.prepare(field, batch.x, batch.cond, Draws.training(0, 0, 16))
    assert bool((plan.t == 0).all())
    x0 = batch.cond["x0"]
    expected = (x0 + 0.4 * x0.double() - batch.x).square().mean(1)
    torch.testing.assert_close(objective.loss(field, plan).rows.double(), expected, rtol=1e-6, atol=1e-6)


def test_premetrics_that_do_not_scale_agree_on_velocities_and_on_ends_at_t_zero():
    data = straight_pairs(8)
    field = Field(Line(), shape=(1,))
    batch = data.batch(torch.arange(8))
    ends = Perceptual(lambda x: x)  # the identity as feature net: the mean square of data estimates
    losses = []
    for metric in (MSE(), ends, Decoded(MSE(), lambda x: x)):
        objective = distillation(known(data), 1, metric)
        plan = objective.prepare(field, batch.x, batch.cond, Draws.training(0, 0, 8))
        losses.append(objective.loss(field, plan).rows)
    for other in losses[1:]:
        torch.testing.assert_close(losses[0].to(other), other, rtol=1e-6, atol=1e-7)


def test_distilling_the_flow_to_a_gaussian_finds_its_map():
    student = Field(Line(), shape=(1,))
    run = distil(student, straight_pairs(), steps=300, options=quick, progress=False)
    # x0 + a x0 + b = 1.5 + 0.3 x0; the optimum is exact, what is left is Adam's last steps
    assert float(run.field.net.a) == pytest.approx(-0.7, abs=1e-3)
    assert float(run.field.net.b) == pytest.approx(1.5, abs=1e-3)


def test_on_chords_k_steps_follow_the_curved_flow_itself(tmp_path):
    teacher = gaussian("gvp", 2.0, 1.0)  # x_t = 2 sin(pi t / 2) + x0: shifted, along a curve
    store = generate_segments(teacher, tmp_path / "s", 64, [0.0, 0.5, 1.0], recipe=SegmentRecipe(steps=200))
    student = Field(Line(), shape=(1,), gaussian=False)
    run = distil(student, store, steps=300, options=quick, progress=False)
    assert run.field.times == (0.0, 0.5, 1.0)
    first = float(run.field(torch.zeros(1, 1, dtype=torch.float64), 0.0).detach())
    second = float(run.field(torch.full((1, 1), math.sqrt(2), dtype=torch.float64), 0.5).detach())
    # chords of 2 sin(pi t / 2) over halves: 2 sqrt 2 and 4 - 2 sqrt 2; Euler's fine grid is off by about 1/200
    assert first == pytest.approx(2 * math.sqrt(2), abs=0.05)
    assert second == pytest.approx(4 - 2 * math.sqrt(2), abs=0.05)


def test_times_on_points_come_equally_often():
    n = 6000
    t = AtTimes((0.0, 0.5, 0.75)).sample(n, Draws(row_seeds(0, n)))
    for point in (0.0, 0.5, 0.75):
        assert abs(float((t == point).double().mean()) - 1 / 3) < 4 * math.sqrt(2 / 9 / n)


def test_schedules_are_read():
    assert t_schedule("ends").points == (0.0, 1.0)
    assert t_schedule("uniform") == UniformTime()
    t = t_schedule((0.2, 0.8)).sample(500, Draws(row_seeds(1, 500)))
    assert 0.2 <= float(t.min()) < 0.25
    assert 0.75 < float(t.max()) <= 0.8
    assert between(0.0, 1.0).density(torch.tensor([0.3])) == 1
    law = AtTimes((0.5,))
    assert t_schedule(law) is law
    assert Distillation(times=AtTimes((0.0, 1.0))).grid == (0.0, 1.0)
    assert Distillation(times="uniform").grid is None
    assert config.load(config.dump(Distillation())) == Distillation()


@pytest.mark.parametrize(
    ("bad", "error", "words"),
    [
        (0, OptionError, "at least 1, got 0"),
        (True, OptionError, "whole number"),
        ((0.5, 0.5), TimeError, "increases"),
        ((-0.1, 0.5), TimeError, r"lies in \[0, 1\]"),
    ],
)
def test_schedules_out_of_range_are_refused(bad, error, words):
    with pytest.raises(error, match=words):
        t_schedule(bad)


def test_points_are_checked_and_have_no_density():
    for points in ((), (0.5, 0.5), (0.0, 1.5)):
        with pytest.raises(TimeError, match="increasing times"):
            AtTimes(points)
    with pytest.raises(TimeError, match="no density"):
        AtTimes((0.0,)).density(torch.zeros(1))
    with pytest.raises(OptionError, match="one time a row"):
        AtTimes((0.0,)).sample(3, Draws(row_seeds(0, 2)))


def test_no_gradient_flows_into_a_decoded_target_and_states_with_parts_are_refused():
    x, y = (randn(2, 3, seed=k).requires_grad_() for k in (0, 1))
    context = Context(x, torch.zeros(2))
    Decoded(Huber(), lambda v: 2 * v)(x, y, context).sum().backward()
    assert y.grad is None
    assert x.grad is not None
    with pytest.raises(OptionError, match="has parts"):
        Decoded(MSE(), lambda v: v)({"a": x}, {"a": y}, context)


def test_the_second_stage_looks_at_pictures_where_there_are_any():
    assert seen("auto", (2,), None) is None
    assert seen("auto", (1, 8, 8), None) is None
    assert isinstance(seen("auto", (1, 8, 8), (-1.0, 1.0)), Perceptual)
    assert seen("huber", (2,), None) == Huber()
    decoded = seen(MSE(), (4, 2, 2), None, lambda v: v)
    assert isinstance(decoded, Decoded)
    assert decoded.metric == MSE()


def test_guidance_is_refused_once_it_is_inside(tmp_path):
    teacher = GaussianMixtureField([[-2.0], [2.0]], [0.2, 0.2], labels=[0, 1])
    label, recipe = torch.arange(32) % 2, Recipe(steps=4, guidance=1.5)
    pairs = generate(teacher, tmp_path / "p", 32, recipe=recipe, cond={"label": label}, class_names=("left", "right"))

    class Labelled(Line):
        conditions = frozenset({"label"})

        def forward(self, x, t, label):
            return super().forward(x, t)

        def null(self, name, rows):
            return torch.full((rows,), 2)

    run = distil(Field(Labelled(), shape=(1,)), pairs, steps=1, options=quick, progress=False)
    assert draw(run.field, 4, label=1).shape == (4, 1)
    with pytest.raises(OptionError, match=r"hold their guidance already, got guidance 2\.0\. Leave it out"):
        draw(run.field, 4, label=1, guidance=2.0)


def test_pairs_of_another_shape_or_normalisation_are_refused():
    x0 = randn(400, 2).float()
    with pytest.raises(ShapeError, match=r"shape \(2,\), the student's have \(1,\)"):
        distil(Field(Line(), shape=(1,)), given_pairs(x0, x0), steps=1)
    with pytest.raises(DataError, match="size 3 and should have 1"):
        known(given_pairs(3 * x0 / x0.square().mean().sqrt(), x0))
    from rheos.data import Data

    with pytest.raises(OptionError, match="deliver no x0"):
        known(Data(x0))


def test_a_student_lives_on_the_linear_path():
    with pytest.raises(OptionError, match="must live on the linear path"):
        student_of(Field(Line(), "gvp"))
    assert student_of(Line()).predicts == "velocity"


def test_segments_have_their_own_number_of_steps(tmp_path):
    store = generate_segments(gaussian(), tmp_path / "s", 8, [0.0, 0.5, 1.0], recipe=SegmentRecipe(steps=4))
    with pytest.raises(OptionError, match="2 segments a path, got schedule=3"):
        distil(Field(Line(), shape=(1,)), store, steps=1, schedule=3)


def test_a_distilled_run_is_continued_and_read_again(tmp_path):
    from rheos.nets import MLP

    torch.manual_seed(0)
    student = Field(MLP(1, hidden=8, depth=1), shape=(1,))
    options = Options(batch=16, ema=0.0, sample_every=0, save_every=2, log_every=2)
    whole = distil(student, straight_pairs(), steps=4, options=options, progress=False)
    run = distil(student, straight_pairs(), steps=4, out=tmp_path / "r", options=options, progress=False)
    again = distil(student, straight_pairs(), steps=4, out=tmp_path / "r", options=options, progress=False)
    read = load(tmp_path / "r")
    x = draw(whole.field, 5)
    for other in (run, again, read):
        assert other.field.times == (0.0, 1.0)
        assert torch.equal(draw(other.field, 5), x)
