r"""Students on paths whose noise is no unit noise (VE, EDM), against the exact flow of a Gaussian.

With $S_t^2 = \sigma_t^2 + c^2$ the flow of N(m, c^2) on $x_t = x_1 + \sigma_t x_0$ carries $x_s$ to
$m + \frac{S_t}{S_s}(x_s - m)$. Sampling begins at $\sigma_0 x_0$, so it ends at the mean $m (1 - S_1 / S_0)$ and the
spread $\sigma_0 S_1 / S_0$.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from rheos.core import (
    AffinePath,
    Derivative,
    Draws,
    Field,
    FlowMapField,
    GaussianMixtureField,
    TransportField,
    row_seeds,
)
from rheos.core.schedule import Schedule
from rheos.core.schedules import EDM, VE
from rheos.data import Data
from rheos.distill import (
    AtTimes,
    BellmanSearch,
    Consistency,
    Flip,
    FlowMapLoss,
    Halving,
    Recipe,
    Rectification,
    Slimming,
    Stages,
    Straightening,
    Teacher,
    TransportLoss,
    boss,
    distil,
    equivariance_gap,
    generate,
    instaflow,
    invert_pairs,
    reflow,
    rfpp,
    same_teacher,
    slimflow,
)
from rheos.distill.kit import linear
from rheos.distill.segments import SegmentRecipe, generate_segments
from rheos.sample import draw
from rheos.train import Options
from strategies import randn

MEAN, STD = 1.5, 0.4
PATHS = {"ve": VE(0.01, 20.0), "edm": EDM(0.002, 20.0)}
JVP = Derivative("jvp")
QUICK = Options(batch=128, lr=0.03, optimiser="adam", warmup=0, ema=0.0, clip=0.0, sample_every=0, save_every=0,
                log_every=1000)  # fmt: skip


@pytest.fixture(params=sorted(PATHS))
def law(request: pytest.FixtureRequest) -> Schedule:
    return PATHS[request.param]


class Exact(nn.Module):
    """The exact average velocity from s to t, or to 1, of the flow of N(m, c^2); `lift` is added to m."""

    conditions = frozenset[str]()

    def __init__(self, law: Schedule, lift: float = 0.0) -> None:
        super().__init__()
        self.law = law
        self.lift = nn.Parameter(torch.tensor(lift, dtype=torch.float64))

    def forward(self, x: Tensor, s: Tensor, t: Tensor | None = None) -> Tensor:
        end = torch.ones_like(s) if t is None else t
        s, end = s[:, None], end[:, None]
        mean = MEAN + self.lift
        spread, there = ((self.law.sigma(v) ** 2 + STD**2).sqrt() for v in (s, end))
        slope = self.law.sigma(s) * self.law.d_sigma(s) / spread**2 * (x - mean)
        apart = end - s > 1e-9
        gap = torch.where(apart, end - s, 1.0)
        return torch.where(apart, (there / spread - 1) * (x - mean) / gap, slope)


class Affine(nn.Module):
    """a x + b: enough for a student that is asked at t = 0 alone."""

    conditions = frozenset[str]()

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = (nn.Parameter(torch.zeros(1, dtype=torch.float64)) for _ in range(2))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.a * x + self.b


class Trainable(nn.Module):
    """The exact velocity and a line beside it."""

    conditions = frozenset[str]()

    def __init__(self, law: Schedule) -> None:
        super().__init__()
        self.exact = Exact(law).requires_grad_(False)
        self.a, self.b = (nn.Parameter(torch.zeros(1, dtype=torch.float64)) for _ in range(2))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        velocity: Tensor = self.exact(x, t, t)
        return velocity + (1 - t[:, None]) * (self.a * x + self.b)


def truth(law: Schedule) -> GaussianMixtureField:
    return GaussianMixtureField([[MEAN]], [STD], path=AffinePath(law))


def started(law: Schedule, n: int, seed: int) -> Tensor:
    """Where samples of a seed begin."""
    return law.sigma(0.0) * torch.as_tensor(Draws(row_seeds(seed, n)).normal(torch.empty(n, 1).double(), "source"))


def rows(n: int = 256) -> Tensor:
    return MEAN + STD * randn(n, 1, seed=5)


def shrunk(law: Schedule) -> float:
    """S_1 / S_0."""
    return ((law.sigma(1.0) ** 2 + STD**2) / (law.sigma(0.0) ** 2 + STD**2)) ** 0.5


def check(x: Tensor, law: Schedule, slack: float = 0.0) -> None:
    """Mean and spread of samples within four standard errors, and the slack."""
    n, rate = len(x), shrunk(law)
    assert abs(float(x.mean()) - MEAN * (1 - rate)) < 4 * STD / n**0.5 + slack
    assert abs(float(x.std()) - rate * law.sigma(0.0)) < 4 * STD / (2 * n) ** 0.5 + slack


# --- exact students -------------------------------------------------------------------------------------------------


def test_one_jump_of_the_exact_student_has_the_moments_of_the_data(law: Schedule) -> None:
    path = AffinePath(law)
    for field, solver in ((TransportField(Exact(law), path), "euler"), (FlowMapField(Exact(law), path), "jump")):
        field.shape = (1,)
        check(draw(field, 4000, steps=1, solver=solver), law)
        again = draw(field, 4, steps=1, solver=solver, seed=3)
        expected = MEAN + shrunk(law) * (started(law, 4, 3) - MEAN)
        torch.testing.assert_close(again, expected, rtol=1e-10, atol=1e-10)


Made = Callable[[Schedule, Field], "Consistency | FlowMapLoss | TransportLoss"]
OBJECTIVES: dict[str, tuple[Made, type]] = {
    "matching": (lambda law, f: TransportLoss(Teacher(f), JVP, distillation=0.0), TransportField),
    "distillation": (lambda law, f: TransportLoss(Teacher(f), JVP, matching=0.0, distillation=1.0), TransportField),
    "split": (lambda law, f: FlowMapLoss("split", teacher=Teacher(f)), FlowMapField),
    "half": (lambda law, f: FlowMapLoss("half", teacher=Teacher(f)), FlowMapField),
    "jvp": (lambda law, f: FlowMapLoss("jvp", teacher=Teacher(f)), FlowMapField),
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_exact_student_has_no_loss_and_no_gradient(name: str, law: Schedule) -> None:
    made, kind = OBJECTIVES[name]
    objective = made(law, truth(law))
    for lift, least, most in ((0.0, 0.0, 1e-16), (0.5, 1e-6, float("inf"))):
        field = kind(Exact(law, lift), AffinePath(law), shape=(1,))
        plan = objective.prepare(field, rows(), {}, Draws(row_seeds(0, 256)))
        value = objective.loss(field, plan).value
        value.backward()
        assert least <= float(value.detach()) <= most
        gradient = abs(float(field.net.lift.grad))
        assert least <= gradient <= max(most, 1e-8)


def test_a_consistency_loss_of_the_exact_jump_is_that_of_the_teachers_euler_step(law: Schedule) -> None:
    field = TransportField(Exact(law), AffinePath(law), shape=(1,))
    values = []
    for delta in (0.02, 0.01):
        loss = Consistency(Teacher(truth(law)), delta)
        plan = loss.prepare(field, rows(), {}, Draws(row_seeds(0, 256)))
        values.append(float(loss.loss(field, plan).value.detach()))
    assert 12 < values[0] / values[1] < 20  # the square of a step's second-order error


class Halved(nn.Module):
    """The mean velocity of two Euler steps of a field."""

    conditions = frozenset[str]()

    def __init__(self, field: Field, steps: int) -> None:
        super().__init__()
        self.field, self.h = field, 0.5 / steps
        self.scale = nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        first = self.field(x, t)
        return self.scale * 0.5 * (first + self.field(x + self.h * first, t + self.h))


def test_a_halved_teacher_has_no_loss_and_draws_the_teachers_samples(law: Schedule) -> None:
    teacher, n = truth(law), 4
    field = TransportField(Halved(teacher, n), AffinePath(law), shape=(1,))
    loss = Halving(Teacher(teacher), n)
    plan = loss.prepare(field, rows(), {}, Draws(row_seeds(0, 256)))
    assert float(loss.loss(field, plan).value.detach()) < 1e-16
    x = draw(field, 64, steps=n, solver="euler", seed=2)
    torch.testing.assert_close(x, draw(teacher, 64, steps=2 * n, solver="euler", source=started(law, 64, 2)))


# --- trained students -----------------------------------------------------------------------------------------------


def test_distillation_alone_finds_the_mean(law: Schedule) -> None:
    field = TransportField(Exact(law, 1.0), AffinePath(law), shape=(1,))
    loss = TransportLoss(Teacher(truth(law)), JVP, matching=0.0, distillation=1.0)
    optimiser = torch.optim.SGD(field.parameters(), lr=0.5)
    for step in range(60):
        optimiser.zero_grad()
        loss.loss(field, loss.prepare(field, rows(), {}, Draws(row_seeds(step, 256)))).value.backward()
        field.net.lift.grad.clamp_(-1, 1)
        optimiser.step()
    assert abs(float(field.net.lift.detach())) < 0.02


def test_the_best_single_step_leads_to_the_samples_of_the_fine_walk(law: Schedule) -> None:
    teacher = Field(Trainable(law), AffinePath(law), shape=(1,))
    how = Straightening(rows=256, search=BellmanSearch(anchors=200, rows=8))
    run = boss(teacher, 1, steps=800, how=how, options=replace(QUICK, lr=0.1), progress=False)
    fine = draw(teacher, 2000, steps=200, solver="euler", seed=7)
    torch.testing.assert_close(draw(run.field, 2000, seed=7), fine, rtol=0, atol=0.02)
    check(fine, law, slack=0.05)  # of Euler's first order


def test_pairs_are_unit_noise_and_samples_wherever_the_flow_begins(law: Schedule, tmp_path: Path) -> None:
    teacher = truth(law)
    pairs = generate(teacher, tmp_path / "pairs", 2000, recipe=Recipe(steps=60, chunk=2000))
    x0, x1 = pairs.column("x0"), pairs.column("x1")
    assert abs(float(x0.std()) - 1) < 4 / 4000**0.5
    check(x1, law, slack=0.01)
    torch.testing.assert_close((x1 - x1.mean()) / x1.std(), x0.double().to(x1) - x0.mean(), rtol=0, atol=0.15)
    same_teacher(teacher, pairs)
    data = Data(rows(500).float())
    back = invert_pairs(teacher, data, tmp_path / "back", recipe=Recipe(steps=60, chunk=500))
    noise = back.column("x0")
    expected = (data.x - MEAN) / STD
    torch.testing.assert_close(noise.float(), expected, rtol=0.05, atol=0.15)  # beside the mean that x_0 still has


def test_segments_begin_at_the_noise_of_the_path(law: Schedule, tmp_path: Path) -> None:
    store = generate_segments(truth(law), tmp_path / "s", 2000, [0.0, 1.0], recipe=SegmentRecipe(steps=200, chunk=2000))
    assert abs(float(store.states(0).std()) / law.sigma(0.0) - 1) < 4 / 4000**0.5
    check(store.states(1), law, slack=0.05)


def test_students_on_the_line_learn_from_pairs_of_any_path(law: Schedule, tmp_path: Path) -> None:
    pairs = generate(truth(law), tmp_path / "pairs", 1000, recipe=Recipe(steps=60))
    begin, how = Field(Affine(), shape=(1,)), Slimming(1000, steps=300, distil=300, loss="mse", weight=0.0)
    for run in (
        distil(begin, pairs, steps=300, options=QUICK, progress=False),
        reflow(begin, pairs, steps=300, time=AtTimes((0.0,)), options=QUICK, progress=False),
        slimflow(truth(law), Affine(), how=how, pairs=pairs, options=QUICK, progress=False),
    ):
        check(draw(run.field, 4000, steps=1, solver="euler"), law, slack=0.02)


def test_a_distilled_teacher_begins_by_its_raw_output_and_ends_where_it_leads(law: Schedule) -> None:
    teacher = Field(Trainable(law), AffinePath(law), shape=(1,))
    how = Stages(pairs=500, rounds=0, distil=600, polish=0, teacher=Recipe(steps=60))
    run = instaflow(teacher, how=how, options=replace(QUICK, lr=0.1), progress=False)
    check(draw(run.field, 4000), law, slack=0.02)


def test_a_retimed_teacher_draws_the_gaussian_from_the_line(law: Schedule) -> None:
    teacher = Field(Trainable(law), AffinePath(law), shape=(1,))
    how, still = Rectification(loss="huber"), replace(QUICK, lr=1e-9)
    run = rfpp(teacher, pairs=64, steps=1, evaluations=3, how=how, options=still, progress=False)
    assert linear(run.field)
    check(draw(run.field, 4000, steps=100, solver="heun"), law, slack=0.02)


def test_a_symmetry_is_looked_for_where_sampling_begins(law: Schedule) -> None:
    """A mean that leans to one side leads a moved start to another end: |m - g m|^2 over 2 Var."""
    field = GaussianMixtureField([[0.2, 0.0]], [STD], path=AffinePath(law))
    gap = equivariance_gap(field, Flip(), n=4000, steps=60)
    assert gap == pytest.approx((2 * 0.2**2) / (2 * 2 * STD**2), rel=0.1)
