"""Claim `instaflow`: reflow first, and one step is easy to distil."""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, final

import torch
from torch import Tensor

from rheos.claims.found import Found
from rheos.claims.harness import Say
from rheos.claims.record import Figure, Outcome, spread
from rheos.claims.teacher import Bench, bench, train_teacher
from rheos.claims.timing import one_thread
from rheos.core.field import Field
from rheos.core.objectives import FlowMatching
from rheos.data import load
from rheos.distill import Recipe, Stages, distil, generate, instaflow, paths, reflow
from rheos.metrics import FeatureExtractor, frechet, transport_cost
from rheos.nets import MLP
from rheos.sample import draw
from rheos.train import Options, fit

__all__ = ["CLAIM", "InstaFlow"]

CALLS = (1, 2, 4)
SAMPLES, UNSEEN = 10_000, 20_000
"""Seeds of samples that are measured, and of noise that no training saw."""

Values = dict[str, list[float]]


@final
@dataclass(frozen=True)
class Budget:
    """How much is done."""

    teacher: int = 4000
    pairs: int = 6000
    reflow: int = 1500
    distil: tuple[int, ...] = (100, 300, 900)
    rows: int = 2000


QUICK = Budget(teacher=800, pairs=1500, reflow=500, distil=(100, 300), rows=500)


@final
@dataclass(frozen=True)
class InstaFlow:
    """Digits, without and with classes."""

    slug: ClassVar[str] = "instaflow"
    statement: ClassVar[str] = (
        "Reflow on a flow's own pairs straightens it at least fivefold and makes one and two Euler steps at least four "
        "times closer to the data, at no higher transport cost; a one-step student of the straightened flow then errs "
        "at most half as much against its teacher as one of the curved flow, at every budget."
    )

    def run(self, quick: bool, seeds: tuple[int, ...], progress: Say) -> Outcome:
        """See `Claim.run`."""
        budget = QUICK if quick else Budget()
        found, data = Found(), bench()
        with one_thread():
            for seed in seeds:
                with tempfile.TemporaryDirectory(prefix="rheos-") as folder:
                    measure(found, data, budget, seed, Path(folder), progress)
                    measure_classes(found, data.net, budget, seed, progress)
        return Outcome(figures(found, budget, quick), notes(found, budget, data), _picture(found.pictures))


def figures(found: Found, budget: Budget, quick: bool) -> tuple[Figure, ...]:
    """Ratios of means over seeds beside the card's thresholds; quick ones ask for the direction only."""

    def ratio(name: str, of: str, to: str, limit: float) -> Figure:
        return Figure.ratio(name, found.values[of], found.values[to], "<=", 1.0 if quick else limit)

    distance, cost = "Fréchet distance of {}, Euler {}", "E|x1 - x0|^2 of {} pairs"
    student = "class accuracy of the student, 1 call"
    return (
        ratio("straightness S, 2-RF / teacher", "S of 2-RF", "S of the teacher", 0.2),
        *(
            ratio(f"Fréchet distance, Euler {n}, 2-RF / teacher", distance.format("2-RF", n),
                  distance.format("the teacher", n), 0.25)
            for n in CALLS[:2]
        ),
        ratio("E|x1 - x0|^2, teacher's / independent pairs", cost.format("the teacher's"), cost.format("independent"),
              1.0),
        ratio("E|x1 - x0|^2, 2-RF's / teacher's pairs", cost.format("2-RF's"), cost.format("the teacher's"), 1.0),
        *(
            ratio(f"error of one-step students to their own teacher, {n} steps, after reflow / direct",
                  f"error after reflow, {n} steps", f"error of direct distillation, {n} steps", 0.5)
            for n in budget.distil
        ),
        Figure.ratio("classes: accuracy of the student in 1 call / of the teacher guided by 3 in 50 calls",
                     found.values[student], found.values["class accuracy of the teacher, guided"],
                     ">=", 0.7 if quick else 0.95),
    )  # fmt: skip


def notes(found: Found, budget: Budget, data: Bench) -> tuple[str, ...]:
    """Values by seed, and how they were made."""
    return (
        *(spread(name[0].upper() + name[1:], values) for name, values in found.values.items()),
        f"Teacher: {budget.teacher} steps of flow matching; {budget.pairs} pairs by Runge-Kutta 4 with 8 steps; reflow "
        f"{budget.reflow} steps; batch 128, learning rate 1e-3, average 0.999 throughout. Distances: {budget.rows} "
        f"samples against {len(data.real)} held-out digits in the features of the net {data.net.name!r}. Errors: mean "
        "square for each element over 1000 rows of noise that no training saw, against 8 steps of Runge-Kutta 4 of the "
        "student's own teacher.",
        "Not claimed: a better Fréchet distance of the distilled student. On digits the straightened flow is itself a "
        "little further from the data than the teacher, and distillation with many steps inherits that.",
    )


def options(seed: int, steps: int) -> Options:
    """Those of the shared teacher."""
    return Options(lr=1e-3, seed=seed, sample_every=0, save_every=0, log_every=max(steps, 1))


def measure(found: Found, data: Bench, budget: Budget, seed: int, folder: Path, progress: Say) -> None:
    """Without classes: straightness, distances, transport costs, and errors of students."""
    progress(f"Training the teacher and drawing its pairs, seed {seed}.")
    teacher = train_teacher(data.train, budget.teacher, seed)
    recipe = Recipe(steps=8, solver="rk4", seed=seed, chunk=1000)
    pairs = generate(teacher, folder / "teacher", budget.pairs, recipe=recipe)
    progress(f"Reflow, seed {seed}.")
    straight = reflow(teacher, pairs, steps=budget.reflow, options=options(seed, budget.reflow), progress=False).field
    own = generate(straight, folder / "straight", budget.pairs, recipe=recipe)
    flows: Mapping[str, Field] = {"the teacher": teacher, "2-RF": straight}
    for name, flow in flows.items():
        found.add(f"S of {name}", paths(flow, 512, seed=UNSEEN).straightness)
        for n in CALLS:
            x = draw(flow, budget.rows, steps=n, solver="euler", seed=SAMPLES)
            found.add(f"Fréchet distance of {name}, Euler {n}", frechet(data.net.features(x), data.real))
            if n == 1:
                found.pictures.setdefault(f"{name}, 1 step", x[:32])
    x0, x1 = pairs.column("x0"), pairs.column("x1")
    found.add("E|x1 - x0|^2 of independent pairs", transport_cost(x0, x1.roll(1, 0)))
    found.add("E|x1 - x0|^2 of the teacher's pairs", transport_cost(x0, x1))
    found.add("E|x1 - x0|^2 of 2-RF's pairs", transport_cost(own.column("x0"), own.column("x1")))
    progress(f"Distilling, seed {seed}.")
    for name, flow, store in (("of direct distillation", teacher, pairs), ("after reflow", straight, own)):
        for steps in budget.distil:
            student = distil(flow, store, steps=steps, options=options(seed, steps), progress=False).field
            found.add(f"error {name}, {steps} steps", error(student, flow))
            x = draw(student, budget.rows, steps=1, solver="euler", seed=SAMPLES)
            found.add(f"Fréchet distance {name}, {steps} steps", frechet(data.net.features(x), data.real))
    found.pictures.setdefault("student after reflow, 1 step", x[:32])


def error(student: Field, flow: Field, rows: int = 1000) -> float:
    """Mean square between one step of a student and the flow's own end, from unseen noise."""
    once = draw(student, rows, steps=1, solver="euler", seed=UNSEEN)
    there = draw(flow, rows, steps=8, solver="rk4", seed=UNSEEN)
    return float((once - there).double().square().mean())


def measure_classes(found: Found, net: FeatureExtractor, budget: Budget, seed: int, progress: Say) -> None:
    """With classes: a teacher guided by 3, a straightened flow guided by 1.5, a student that is called once."""
    progress(f"The same with classes and guidance, seed {seed}.")
    train, _ = load("digits").split(0.2, seed=0)
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        mlp = MLP(64, hidden=160, depth=2, activation="silu", residual=True, time_features=64, classes=10)
    teacher = fit(
        Field(mlp), FlowMatching(dropout=0.1), train, steps=budget.teacher, options=options(seed, budget.teacher),
        progress=False,
    ).field  # fmt: skip
    steps = budget.distil[-1]
    how = Stages(pairs=budget.pairs, steps=budget.reflow, distil=steps, polish=0, guidance=3.0, again=1.5)
    student = instaflow(teacher, how=how, options=options(seed, steps), progress=False).field
    label = torch.arange(1000) % 10
    once = draw(student, 1000, steps=1, solver="euler", seed=UNSEEN, label=label)
    there = draw(teacher, 1000, steps=25, solver="dpm++2m", guidance=3.0, seed=UNSEEN, label=label)
    found.add("class accuracy of the student, 1 call", net.accuracy(once, label))
    found.add("class accuracy of the teacher, guided", net.accuracy(there, label))
    found.pictures.setdefault("with classes, student, 1 step", once[:32])


def _picture(pictures: Mapping[str, Tensor]) -> bytes:
    from rheos.data.ranges import to_pictures
    from rheos.show import beside, grid, png, upscale

    return png(beside({name: upscale(grid(to_pictures(x, (-1.0, 1.0)), 8, 1), 240) for name, x in pictures.items()}))


CLAIM = InstaFlow()
