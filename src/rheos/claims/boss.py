"""Claim `boss`: steps searched for a field, and a field straightened for its steps, at few evaluations."""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import ClassVar, final

import torch
from torch import Tensor

from rheos.claims.harness import Say
from rheos.claims.record import Figure, Outcome, spread
from rheos.claims.teacher import Bench, bench, train_teacher, uniform
from rheos.claims.timing import one_thread
from rheos.core.draws import Draws, row_seeds
from rheos.core.field import Field
from rheos.core.mixture import GaussianMixtureField
from rheos.core.objectives import FlowMatching
from rheos.data import Data
from rheos.distill import BellmanCosts, BellmanSearch, Recipe, Straightening, bellman_costs, boss, generate, reflow
from rheos.metrics import frechet
from rheos.nets import MLP
from rheos.sample import draw, solve
from rheos.train import Options, fit

__all__ = ["CLAIM", "Boss", "exact_errors"]

TUNED = (2, 4)
SEARCHED = range(2, 11)
MANY = (6, 8, 10)
CURVED = (4, 6, 8)
ANCHORS, ROWS = 50, 5000
NOISE, DRAWN = 10_000, 2000
STRICTLY = 1 - 1e-6


@final
@dataclass
class Found:
    """What was measured, by name a value a seed."""

    distance: dict[str, list[float]] = field(default_factory=dict)
    cost: dict[int, list[float]] = field(default_factory=dict)
    error: dict[int, list[float]] = field(default_factory=dict)
    exact: dict[int, list[tuple[float, float]]] = field(default_factory=dict)
    ends: dict[str, list[float]] = field(default_factory=dict)
    shown: dict[str, Tensor] = field(default_factory=dict)

    def note(self, name: str, value: float) -> None:
        """A Fréchet distance."""
        self.distance.setdefault(name, []).append(value)

    def ratios(self, a: str, b: str) -> list[float]:
        """Of two distances, seed by seed."""
        return [x / y for x, y in zip(self.distance[a], self.distance[b], strict=True)]


@final
@dataclass(frozen=True)
class Boss:
    """Digits at two and four evaluations, an exact flow, and a curved path."""

    slug: ClassVar[str] = "boss"
    statement: ClassVar[str] = (
        "Steps found by dynamic programming have a lower summed error than even ones, and lower the end-point error of "
        "an exact flow; straightened for its K steps, a flow on digits has at 2 and 4 evaluations at most 0.6 of the "
        "Fréchet distance of reflow with the same number of training steps."
    )

    def run(self, quick: bool, seeds: tuple[int, ...], progress: Say) -> Outcome:
        """See `Claim.run`."""
        found = Found()
        with one_thread():
            data = bench()
            for seed in seeds:
                progress(f"Searching steps of an exact flow in one dimension, seed {seed}.")
                for k, pair in exact_errors((2, 3, 4), seed).items():
                    found.exact.setdefault(k, []).append(pair)
                progress(f"Training a flow on digits, seed {seed}.")
                teacher = train_teacher(data.train, 1000 if quick else 4000, seed)
                measure_digits(found, data, teacher, seed, 200 if quick else 800, progress)
                progress(f"Training a flow on the VP path, seed {seed}.")
                measure_curved(found, data, train_curved(data.train, 1000 if quick else 2000, seed), seed)
        return Outcome(tuple(_figures(found, quick)), tuple(_notes(found)), _picture(found, data.train))


def _figures(found: Found, quick: bool) -> list[Figure]:
    limit = 1.0 if quick else 0.6
    figures = [
        Figure.worst(
            f"digits, {k} evaluations: Fréchet distance, BOSS / reflow, the worst seed",
            found.ratios(f"BOSS, {k}", f"reflow, {k}"), "<=", limit,
        )
        for k in TUNED
    ]  # fmt: skip
    worst = [max(values) for values in zip(*found.cost.values(), strict=True)]  # a seed
    what = "digits: summed cost, Bellman / even steps, worst of K = 2 to 10"
    figures.append(Figure.worst(what, worst, "<=", STRICTLY))
    figures += [
        Figure.mean(f"digits, K = {k}: end-point error, Bellman / uniform steps, mean of seeds", v, "<=", 1.0)
        for k, v in found.error.items()
    ]
    figures += [
        Figure.worst(f"exact flow in one dimension, K = {k}: end-point error, Bellman / uniform steps, the worst seed",
                     [b / a for a, b in pairs], "<=", 0.95)
        for k, pairs in found.exact.items()
    ]  # fmt: skip
    figures += [
        Figure.mean(
            f"digits on the VP path, {k} evaluations, nothing tuned: Fréchet distance, Bellman / uniform steps, mean",
            found.ratios(f"VP teacher, Bellman, {k}", f"VP teacher, uniform, {k}"), "<=", 1.0,
        )
        for k in CURVED
    ]  # fmt: skip
    return figures


def _notes(found: Found) -> list[str]:
    notes = [spread(f"Fréchet distance, {name} evaluations", values) for name, values in found.distance.items()]
    notes += [
        f"Exact flow, K = {k}: root mean square end-point error {fmean(a for a, _ in v):.3f} with uniform steps, "
        f"{fmean(b for _, b in v):.3f} with Bellman steps."
        for k, v in found.exact.items()
    ]
    notes += [
        f"Digits on the VP path, mean squared distance to the end of 100 steps, {name} steps: {fmean(v):.3g}."
        for name, v in found.ends.items()
    ]
    costs = ", ".join(f"{k}: {fmean(v):.3f}" for k, v in found.cost.items())
    notes.append(f"Digits, summed cost, Bellman / even steps, by K: {costs}.")
    notes.append(
        f"Digits: {ANCHORS} anchors, 100 trajectories for the search, {ROWS} for tuning; every tuned flow has the same "
        "number of steps at batch 128 and the same learning rate, and reflow has as many pairs of the same fine Euler. "
        "2,000 samples against held-out digits in the features of the net 'digits'."
    )
    own = f"teacher, {ANCHORS}"
    for k in TUNED:
        floor = fmean(found.ratios(own, f"reflow, {k}"))
        added = zip(*(found.distance[name] for name in (f"BOSS, {k}", f"reflow, {k}", own)), strict=True)
        shares = [(a - t) / (b - t) for a, b, t in added]
        notes.append(
            f"Digits, {k} evaluations: the teacher with {ANCHORS} steps has {floor:.2f} of reflow's distance; of what "
            f"reflow adds to the teacher's, BOSS leaves {fmean(shares):.2f}."
        )
    notes.append(
        "The teacher on the VP path predicts v and is trained half as long. With noise prediction its distance is "
        "nearly twice as large (11.6 against 6.6 after 1,000 steps of training, both with 100 Euler steps)."
    )
    return notes


def measure_digits(found: Found, data: Bench, teacher: Field, seed: int, steps: int, progress: Say) -> None:
    """Costs, end-point errors, and Fréchet distances of the teacher and of everything tuned from it."""

    def far(x: Tensor) -> float:
        return frechet(data.net.features(x), data.real)

    costs = bellman_costs(teacher, BellmanSearch(anchors=ANCHORS, seed=seed))
    for k in SEARCHED:
        found.cost.setdefault(k, []).append(costs.best(k).cost / costs.even(k))
    truth = draw(teacher, DRAWN, steps=uniform(ANCHORS), solver="euler", seed=NOISE)
    found.note(f"teacher, {ANCHORS}", far(truth))
    for k in MANY:
        ends = [draw(teacher, DRAWN, steps=g, solver="euler", seed=NOISE) for g in (uniform(k), costs.best(k).times)]
        even, best = (float((x - truth).square().mean()) for x in ends)
        found.error.setdefault(k, []).append(best / even)
    options = Options(lr=1e-3, seed=seed, sample_every=0, save_every=0, log_every=steps)
    progress(f"Reflow, seed {seed}.")
    with tempfile.TemporaryDirectory() as folder:
        recipe = Recipe(steps=ANCHORS, solver="euler", seed=seed)
        pairs = generate(teacher, Path(folder) / "pairs", ROWS, recipe=recipe)
        straight = reflow(teacher, pairs, steps=steps, options=options, progress=False).field
    for k in TUNED:
        progress(f"Straightening for {k} steps, seed {seed}.")
        drawn = {name: make() for name, make in _rivals(teacher, straight, costs, k, steps, options).items()}
        for name, x in drawn.items():
            found.note(f"{name}, {k}", far(x))
        if seed == 0 and k == TUNED[0]:
            names = ("teacher, uniform", "reflow", "BOSS")
            found.shown = {f"{n}, {k} steps": drawn[n][:40] for n in names} | {f"teacher, {ANCHORS} steps": truth[:40]}


def _rivals(
    teacher: Field, straight: Field, costs: BellmanCosts, k: int, steps: int, options: Options
) -> dict[str, Callable[[], Tensor]]:
    """Samples of the same noise with k evaluations, by method."""
    times = costs.best(k).times

    def euler(flow: Field, grid: Sequence[float] | int) -> Tensor:
        return draw(flow, DRAWN, steps=grid, solver="euler", seed=NOISE)

    def tuned(grid: str | tuple[float, ...], lora: int = 0) -> Tensor:
        how = Straightening(rows=ROWS, search=costs.search, grid=grid, lora=lora)
        return euler(boss(teacher, k, steps=steps, how=how, options=options, progress=False).field, k)

    rivals = {
        "teacher, uniform": lambda: euler(teacher, uniform(k)),
        "teacher, Bellman": lambda: euler(teacher, times),
        "BOSS": lambda: tuned(times),
        "uniform chords": lambda: tuned("even"),
        "K-step distilled reflow": lambda: tuned("line"),
        "reflow": lambda: euler(straight, uniform(k)),
    }
    adapted = {"BOSS with adapters of rank 4": lambda: tuned(times, 4)}
    return rivals | adapted if k == TUNED[-1] else rivals


def train_curved(data: Data, steps: int, seed: int) -> Field:
    """The teacher of the claims on the variance-preserving path, where trajectories bend near the data."""
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        net = MLP(64, hidden=160, depth=2, activation="silu", residual=True, time_features=64)
    options = Options(lr=1e-3, seed=seed, sample_every=0, save_every=0, log_every=max(steps, 1))
    run = fit(Field(net, "vp", "v_prediction"), FlowMatching(), data, steps=steps, options=options, progress=False)
    return run.field


def measure_curved(found: Found, data: Bench, teacher: Field, seed: int) -> None:
    """Fréchet distances of bare steps, uniform and Bellman, on the curved path, and distances to its fine ends."""
    costs = bellman_costs(teacher, BellmanSearch(anchors=100, seed=seed))
    truth = draw(teacher, DRAWN, steps=100, solver="euler", seed=NOISE)
    found.note("VP teacher, 100", frechet(data.net.features(truth), data.real))
    for k in CURVED:
        for name, grid in (("uniform", k), ("Bellman", costs.best(k))):
            x = draw(teacher, DRAWN, steps=grid, solver="euler", seed=NOISE)
            found.note(f"VP teacher, {name}, {k}", frechet(data.net.features(x), data.real))
            found.ends.setdefault(f"{name}, {k}", []).append(float((x - truth).square().mean()))


def exact_errors(counts: Sequence[int], seed: int) -> dict[int, tuple[float, float]]:
    """Root mean square distance to the exact end with uniform and with Bellman steps, by their number.

    The flow is that of two Gaussians on a line, weights 0.3 and 0.7, means -2 and 1.5, deviations 0.5 and 0.3.
    """
    flow = GaussianMixtureField(means=[[-2.0], [1.5]], stds=[0.5, 0.3], weights=[0.3, 0.7])
    x = Draws(row_seeds(NOISE, 2000)).normal(torch.empty(2000, 1, dtype=torch.float64), "source")
    truth = solve(flow, x, uniform(200), "rk4").x
    costs = bellman_costs(flow, BellmanSearch(seed=seed))

    def error(grid: Sequence[float]) -> float:
        return float((solve(flow, x, grid, "euler").x - truth).square().mean().sqrt())  # type: ignore[operator]

    return {k: (error(uniform(k)), error(costs.best(k).times)) for k in counts}


def _picture(found: Found, data: Data) -> bytes:
    from rheos.show import beside, grid, png, upscale

    sheets = {name: upscale(grid(data.to_pictures(x).cpu(), 8), 240) for name, x in found.shown.items()}
    return png(beside(sheets))


CLAIM = Boss()
