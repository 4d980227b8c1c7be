"""Claim `mdt_dist`: velocity matching makes a one-step generator of a flow with the flow's own network."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import fmean
from typing import ClassVar, final

from torch import Tensor

from rheos.claims.harness import Say
from rheos.claims.record import Figure, Outcome, spread
from rheos.claims.teacher import Bench, bench, train_teacher, uniform
from rheos.claims.timing import one_thread
from rheos.core.derivative import Derivative
from rheos.core.field import Field
from rheos.distill import Consistency, Teacher, TransportLoss, consistency, mdt_dist, progressive
from rheos.metrics import frechet
from rheos.sample import draw
from rheos.train import Options

__all__ = ["CLAIM", "TransportClaim"]

DELTA = 0.02
TEACHER, CONSISTENCY, MATCHING = "teacher, Euler", "consistency distillation", "velocity matching"
HALVING = "progressive distillation, 8 to 1 steps"
MORE = {"continued": 0.0, "with a tenth of velocity distillation": 0.1, "with all of velocity distillation": 1.0}
Distances = dict[str, dict[int, list[float]]]


@final
@dataclass
class Found:
    """Fréchet distances by name and evaluations, a value a seed."""

    distances: Distances = field(default_factory=dict)
    ode: list[float] = field(default_factory=list)

    def once(self, name: str) -> list[float]:
        """Distances in one evaluation."""
        return self.distances[name][1]


@final
@dataclass(frozen=True)
class TransportClaim:
    """Digits in one and two evaluations."""

    slug: ClassVar[str] = "mdt_dist"
    statement: ClassVar[str] = (
        "In one budget and with the teacher's own network, velocity matching reaches in one step a Fréchet distance of "
        "three fifths of consistency distillation's and a twentieth of the teacher's in one step; a tenth of velocity "
        "distillation afterwards keeps it within 15 %."
    )

    def run(self, quick: bool, seeds: tuple[int, ...], progress: Say) -> Outcome:
        """See `Claim.run`."""
        with one_thread():
            sizes = (600, 300, 120, 500) if quick else (4000, 1200, 500, 2000)
            found = measure(*sizes, seeds, progress)
        limits = (1.0, 0.3, 1.5) if quick else (0.6, 0.05, 1.15)
        plain, tenth = (f"velocity matching, {name}" for name in list(MORE)[:2])
        pairs = ((MATCHING, CONSISTENCY), (MATCHING, TEACHER), (tenth, plain))
        what = "digits, 1 evaluation: Fréchet distance"
        figures = tuple(
            Figure.ratio(f"{what}, {a} / {b}", found.once(a), found.once(b), "<=", limit)
            for (a, b), limit in zip(pairs, limits, strict=True)
        )
        notes = [_line(name, by) for name, by in found.distances.items()]
        notes.append(spread("Fréchet distance of the teacher's ODE, 64 steps of RK4", found.ode))
        notes.append(
            f"Students begin as the teacher and train {sizes[1]} steps at batch 128 with a learning rate of 3e-4, "
            f"D = {DELTA:g} and uniform times; continued ones {sizes[2]} more. Distances are those of {sizes[3]} "
            "samples to held-out digits in the features of the net 'digits'. The paper's domain, shapes, needs TRELLIS "
            "and its data: not measured here."
        )
        return Outcome(figures, tuple(notes), _picture(found))


def measure(before: int, steps: int, more: int, rows: int, seeds: tuple[int, ...], progress: Say) -> Found:
    """Teachers, baselines and students."""
    data, found = bench(), Found()
    for seed in seeds:
        progress(f"Training the teacher, seed {seed}.")
        teacher = train_teacher(data.train, before, seed)
        found.ode.append(_distance(data, draw(teacher, rows, steps=64, solver="rk4", seed=50_000)))
        for name, made in students(data, teacher, steps, more, seed, progress).items():
            by = found.distances.setdefault(name, {1: [], 2: []})
            for n, values in by.items():
                x = draw(made, rows, steps=uniform(n), solver="euler", seed=50_000)
                values.append(_distance(data, x))
    return found


def students(data: Bench, teacher: Field, steps: int, more: int, seed: int, progress: Say) -> Mapping[str, Field]:
    """The teacher and what is made of it, by name."""
    guide, how = Teacher(teacher), Derivative("fd", DELTA)
    options = Options(lr=3e-4, seed=seed, sample_every=0, save_every=0, log_every=steps)
    made = {TEACHER: teacher}
    progress(f"Consistency distillation, seed {seed}.")
    agree = Consistency(guide, DELTA)
    made[CONSISTENCY] = consistency(
        teacher, data.train, steps=steps, objective=agree, options=options, progress=False
    ).field
    progress(f"Progressive distillation, seed {seed}.")
    made[HALVING] = progressive(teacher, data.train, steps=steps, start=8, options=options, progress=False).field
    progress(f"Velocity matching, seed {seed}.")
    loss = TransportLoss(guide, how, distillation=0.0)
    made[MATCHING] = mdt_dist(teacher, data.train, steps=steps, objective=loss, options=options, progress=False).field
    for name, share in MORE.items():
        progress(f"Velocity matching, {name}, seed {seed}.")
        loss = TransportLoss(guide, how, distillation=share)
        made[f"velocity matching, {name}"] = mdt_dist(
            made[MATCHING], data.train, steps=more, objective=loss, options=options, progress=False
        ).field
    return made


def _distance(data: Bench, x: Tensor) -> float:
    return frechet(data.net.features(x), data.real)


def _line(name: str, by: Mapping[int, list[float]]) -> str:
    cells = "; ".join(f"{n}: {', '.join(f'{v:.3g}' for v in values)}" for n, values in by.items())
    return f"Fréchet distance of {name} by evaluations: {cells}."


def _picture(found: Found) -> bytes:
    from rheos.show import curves, figure_png

    shown = {name: by for name, by in found.distances.items() if name != TEACHER}
    lines = {name: ([1, 2], [fmean(by[n]) for n in (1, 2)]) for name, by in shown.items()}
    ode = fmean(found.ode)
    return figure_png(
        curves(lines | {"teacher's ODE": ([1, 2], [ode, ode])}, "network evaluations", "Fréchet distance")
    )


CLAIM = TransportClaim()
