"""Flow-guided distillation, and the pipeline to a small student."""

import copy
from dataclasses import replace

import pytest
import torch
from tests.strategies import randn, untyped
from torch import nn

from rheos.core import Draws, Field, GaussianMixtureField, config
from rheos.core.errors import DataError, OptionError, ShapeError, TimeError, UnknownOptionError
from rheos.distill import (
    Flip,
    FlowGuided,
    PairStore,
    Recipe,
    Slimming,
    distillation,
    generate,
    given_pairs,
    sizes,
    slimflow,
)
from rheos.distill.kit import known
from rheos.distill.teacher import Teacher
from rheos.nets import EMA, MLP
from rheos.sample import draw
from rheos.train import Options, load

M, C = 1.5, 0.3


class Reflowed(nn.Module):
    """The optimal reflow of z -> m + c z: constant on each line, v = m + (c - 1) (x - t m) / (1 - t + t c)."""

    conditions: frozenset[str] = frozenset()

    def __init__(self, m: float = M, c: float = C) -> None:
        super().__init__()
        self.m, self.c = (nn.Parameter(torch.tensor(v, dtype=torch.float64)) for v in (m, c))
        self.asked: list[tuple[float, bool]] = []

    def forward(self, x, t):
        self.asked.append((float(t[0]), torch.is_grad_enabled()))
        t = t[:, None].to(x.dtype)
        return self.m + (self.c - 1) * (x - t * self.m) / (1 - t + t * self.c)


class Curved(nn.Module):
    """A velocity whose two steps and one step differ."""

    conditions: frozenset[str] = frozenset()

    def __init__(self, a: float = 0.5) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor(a, dtype=torch.float64))

    def forward(self, x, t):
        return self.a * x.sin() + t[:, None]


def objective(guide: nn.Module, weight: float = 1.0, first: str = "student", span=(0.2, 0.8), n: int = 32):
    x0 = randn(n, 1).float()
    data = given_pairs(x0, M + C * x0)
    made = FlowGuided(distillation(known(data)), Teacher(Field(guide, shape=(1,))), weight, span, first)
    return made, data.batch(torch.arange(n))


def planned(made: FlowGuided, field: Field, batch, step: int = 0):
    return made.prepare(field, batch.x, batch.cond, Draws.training(0, step, len(batch.x)))


def test_a_straight_guide_and_its_copy_have_no_loss_and_no_gradient():
    made, batch = objective(Reflowed())
    student = Field(Reflowed(), shape=(1,))
    loss = made.loss(student, planned(made, student, batch))
    assert float(loss.rows.detach().abs().max()) < 1e-12  # pairs are float32
    loss.value.backward()
    assert float(student.net.m.grad.abs()) < 1e-6
    assert float(loss.logs["two_steps"]) < 1e-12


def test_the_two_step_target_is_the_formula():
    guide, made_of = Curved(0.5), Curved(-0.3)
    made, batch = objective(guide)
    student = Field(made_of, shape=(1,))
    plan = planned(made, student, batch)
    z, t = plan.x0["fresh"].double(), plan.t["fresh"][:, None]
    with torch.no_grad():
        p = made_of(z, torch.zeros(len(z)))
        half = z + t * p
        target = half + (1 - t) * guide(half, t[:, 0])
        rows = (target - (z + p)).square().mean(1)
        pairs = (batch.x - batch.cond["x0"] - made_of(batch.cond["x0"].double(), torch.zeros(len(z)))).square().mean(1)
    found = made.loss(student, plan)
    torch.testing.assert_close(found.rows.detach().double(), pairs + rows, rtol=1e-5, atol=1e-6)
    assert float(found.logs["jump"]) == pytest.approx(float(p.square().mean().sqrt()), rel=1e-5)
    by_guide, _ = objective(guide, first="guide")
    with torch.no_grad():
        half = z + t * guide(z, torch.zeros(len(z)))
        rows = (half + (1 - t) * guide(half, t[:, 0]) - (z + p)).square().mean(1)
    torch.testing.assert_close(by_guide.loss(student, plan).rows.detach().double(), pairs + rows, rtol=1e-5, atol=1e-6)


def test_gradient_reaches_the_student_through_its_jump_alone():
    made, batch = objective(Curved(0.5))
    made = replace(made, pairs=replace(made.pairs, weight="one"))
    student = Field(Curved(-0.3), shape=(1,))
    plan = planned(made, student, batch)
    made.loss(student, plan).value.backward()
    assert made.guide.field.net.a.grad is None
    z, t, a = plan.x0["fresh"].double(), plan.t["fresh"][:, None], -0.3
    with torch.no_grad():  # the derivative with x_t held fixed: 2 (z + a sin z - target) sin z
        half = z + t * a * z.sin()
        target = half + (1 - t) * made.guide.field.net(half, t[:, 0])
        x0 = batch.cond["x0"].double()
        slope = (
            2 * ((z + a * z.sin() - target) * z.sin()).mean() + 2 * ((x0 + a * x0.sin() - batch.x) * x0.sin()).mean()
        )
    assert float(student.net.a.grad) == pytest.approx(float(slope), rel=1e-5)


def test_the_guide_is_asked_without_gradient_inside_the_span_and_the_student_at_zero():
    net = Reflowed()
    made, batch = objective(net, span=(0.4, 0.5))
    student = Field(Reflowed(), shape=(1,))
    plan = planned(made, student, batch)
    assert float(plan.t["fresh"].min()) >= 0.4
    assert float(plan.t["fresh"].max()) <= 0.5
    assert bool((plan.t["pairs"] == 0).all())
    made.loss(student, plan)
    assert [grad for _, grad in net.asked] == [False]
    assert student.net.asked == [(0.0, True), (0.0, True)]


def test_without_weight_it_is_the_plain_distillation_bit_for_bit():
    made, batch = objective(Curved(), weight=0.0)
    student = Field(Curved(-0.3), shape=(1,))
    plain = made.pairs.prepare(student, batch.x, batch.cond, Draws.training(0, 0, 32))
    assert torch.equal(made.loss(student, planned(made, student, batch)).rows, made.pairs.loss(student, plain).rows)


def test_a_plan_in_two_slices_has_the_loss_of_the_whole():
    made, batch = objective(Curved())
    student = Field(Curved(-0.3), shape=(1,))
    plan = planned(made, student, batch)
    whole = made.loss(student, plan).value
    parts = [made.loss(student, plan.slice(a, b)).value for a, b in ((0, 20), (20, 32))]
    torch.testing.assert_close(sum(parts), whole, rtol=1e-6, atol=0)
    first, second = (planned(made, student, batch, step).x0["fresh"] for step in (0, 1))
    assert not torch.equal(first, second)


def test_a_run_names_its_guide_by_a_fingerprint():
    made, _ = objective(Curved())
    other, _ = objective(Curved(0.6))
    a, b = (config.dump(one)["config"]["guide"]["config"]["fingerprint"] for one in (made, other))
    assert a != b
    assert a == config.dump(objective(Curved())[0])["config"]["guide"]["config"]["fingerprint"]


def test_guides_that_do_not_fit_are_refused():
    made, batch = objective(Curved())
    with pytest.raises(OptionError, match="must both live on the linear path"):
        planned(made, Field(Curved(), "gvp", shape=(1,)), batch)
    labelled = Field(MLP(1, hidden=4, depth=1, classes=2), shape=(1,))
    with pytest.raises(OptionError, match="both must take the same"):
        planned(made, labelled, batch)
    with pytest.raises(OptionError, match="student is the teacher itself"):
        planned(made, made.guide.field, batch)
    with pytest.raises(OptionError, match="weight must be 0 or positive, got -1"):
        replace(made, weight=-1.0)
    with pytest.raises(TimeError, match="range of times"):
        replace(made, span=(0.8, 0.2))
    with pytest.raises(UnknownOptionError, match="first 'teacher' is unknown"):
        replace(made, first="teacher")


def test_options_of_the_pipeline_are_checked_before_any_work():
    for bad, words in (
        ({"pairs": 0}, "pairs must be at least 1"),
        ({"over": 0}, "needs over, at least 1 step"),
        ({"beta": 2.0}, "beta must lie in"),
        ({"beta": "sine"}, "beta 'sine' is unknown"),
        ({"begin": "teacher"}, "begin 'teacher' is unknown"),
        ({"source": "data"}, "source 'data' is unknown"),
    ):
        with pytest.raises(OptionError, match=words):
            Slimming(**bad)
    assert Slimming(steps=10).annealed().share(0) == 1
    assert Slimming(steps=10).annealed().over == 5


# --- the pipeline -----------------------------------------------------------------------------------------------------

TEACHER = GaussianMixtureField([[2.0, -1.0], [-1.0, 2.0]], [0.4, 0.4], [0.5, 0.5])
OPTIONS = Options(batch=32, sample_every=0, save_every=4, log_every=4)
HOW = Slimming(pairs=96, recipe=Recipe(steps=4, chunk=32), steps=8, distil=8, loss="mse", group=Flip())


def small() -> Field:
    torch.manual_seed(5)
    return Field(MLP(2, hidden=8, depth=1), shape=(2,))


def test_the_pipeline_makes_one_call_a_sample_and_every_stage_can_be_read(tmp_path):
    run = slimflow(TEACHER, small(), out=tmp_path / "s", how=HOW, options=OPTIONS, progress=False)
    assert run.field.times == (0.0, 1.0)
    assert draw(run.field, 3).shape == (3, 2)
    assert len(PairStore(tmp_path / "s" / "pairs")) == 96
    flow = load(tmp_path / "s" / "flow")
    assert flow.objective.parts.coupling == HOW.annealed()
    assert flow.field.times is None
    assert torch.equal(draw(load(tmp_path / "s" / "student").field, 3), draw(run.field, 3))
    assert {"pairs", "two_steps", "jump"} <= run.metrics()[-1].keys()
    memory = slimflow(TEACHER, small(), how=HOW, options=OPTIONS, progress=False)
    assert torch.equal(draw(memory.field, 3), draw(run.field, 3))


def test_an_interrupted_pipeline_ends_like_an_uninterrupted_one(tmp_path):
    import shutil

    run = slimflow(TEACHER, small(), out=tmp_path / "s", how=HOW, options=OPTIONS, progress=False)
    shutil.rmtree(tmp_path / "s" / "student")
    written = (tmp_path / "s" / "flow" / "model.safetensors").stat().st_mtime_ns
    again = slimflow(TEACHER, small(), out=tmp_path / "s", how=HOW, options=OPTIONS, progress=False)
    assert torch.equal(draw(again.field, 5), draw(run.field, 5))
    assert (tmp_path / "s" / "flow" / "model.safetensors").stat().st_mtime_ns >= written


@pytest.mark.parametrize(
    "switch",
    [{"begin": "fresh"}, {"source": "flow"}, {"weight": 0.0}, {"beta": 0.0}, {"first": "guide"}, {"schedule": 2},
     {"schedule": "ends"}, {"schedule": (0.0, 0.5)}, {"group": None}, {"loss": "huber"}],
    ids=repr,
)  # fmt: skip
def test_every_switch_of_the_ablations_changes_what_is_learned(switch):
    plain = slimflow(TEACHER, small(), how=HOW, options=OPTIONS, progress=False)
    other = slimflow(TEACHER, small(), how=replace(HOW, **switch), options=OPTIONS, progress=False)
    weights = [torch.cat([p.flatten() for p in r.field.parameters()]) for r in (plain, other)]
    assert not torch.equal(*weights)


def test_teachers_and_pairs_that_do_not_fit_are_refused(tmp_path):
    lopsided = GaussianMixtureField([[2.0, -1.0], [-1.0, -2.0]], [0.4, 0.4])
    with pytest.raises(OptionError, match="not equivariant"):
        slimflow(lopsided, small(), how=HOW)
    store = generate(TEACHER, tmp_path / "p", 32, recipe=Recipe(steps=4))
    with pytest.raises(DataError, match="not of this teacher"):
        slimflow(lopsided, small(), how=replace(HOW, group=None), pairs=store)
    with pytest.raises(ShapeError, match=r"the student's have \(3,\)"):
        slimflow(TEACHER, Field(MLP(3), shape=(3,)), how=HOW)
    with pytest.raises(OptionError, match="must live on the linear path"):
        slimflow(TEACHER, Field(MLP(2), "vp"), how=HOW)


@untyped
def test_a_network_alone_is_no_teacher():
    with pytest.raises(OptionError, match="Run or a Field is wanted, got MLP"):
        slimflow(MLP(2), small(), how=HOW)


class Noise(nn.Module):
    """A network that predicts noise perfectly at t = 0."""

    conditions: frozenset[str] = frozenset()

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.ones(()))

    def forward(self, x, t):
        return self.w * x


def test_a_noise_predictor_that_was_declared_a_velocity_is_refused():
    with pytest.raises(OptionError, match=r"slope 1.00.*seems to predict noise"):
        slimflow(Field(Noise(), shape=(2,)), small(), how=replace(HOW, group=None))


def test_sizes_of_teacher_and_student_are_counted():
    teacher = Field(MLP(2, hidden=16, depth=2), shape=(2,))
    student = Field(MLP(2, hidden=8, depth=1), shape=(2,))
    report = sizes(teacher, student)
    # plain MLPs on (x, t): 3 h + h, h h + h for the second layer, 2 h + 2
    assert report.teacher.parameters == (4 * 16) + (16 * 16 + 16) + (2 * 16 + 2)
    assert report.student.parameters == (4 * 8) + (2 * 8 + 2)
    assert report.student.macs == 3 * 8 + 8 * 2
    assert report.shrunk == report.student.parameters / report.teacher.parameters
    assert "student: 50 parameters, 40 MACs a row" in str(report)
    with pytest.raises(OptionError, match="does not know the shape"):
        sizes(teacher, Field(MLP(2)))


def test_a_young_average_forgets_fast_so_a_slow_one_is_no_trap_in_short_runs():
    net = MLP(1, hidden=2, depth=1)
    ema = EMA(net, 0.999999)
    start = copy.deepcopy(net.state_dict())
    with torch.no_grad():
        for p in net.parameters():
            p.add_(1.0)
    for _ in range(100):
        ema.update()
    # the weight of the beginning is the product of (1 + n) / (10 + n): 9! 100! / 109!, about 3e-13
    for name, value in ema.weights().items():
        torch.testing.assert_close(value, start[name] + 1, rtol=0, atol=1e-6)
