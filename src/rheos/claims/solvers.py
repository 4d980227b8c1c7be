"""Claim `solvers`: every solver has its order on exact flows, and the better ones are better on a real network."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from statistics import fmean
from typing import ClassVar, final

import torch
from torch import Tensor

from rheos.claims.harness import Say
from rheos.claims.orders import mixture
from rheos.claims.record import Figure, Outcome, spread
from rheos.claims.teacher import bench, train_teacher, uniform
from rheos.claims.timing import one_thread
from rheos.core.draws import Draws, row_seeds
from rheos.core.field import Field
from rheos.core.solver import Solver
from rheos.sample import DEIS, SOLVERS, DormandPrince, DPMSolver, UniPC, draw, log_likelihood, solve, solver
from rheos.sample.multistep import Multistep

__all__ = ["CLAIM", "Solvers"]

BUDGETS = (4, 8, 16, 32)
PATHS = ("linear", "gvp", "vp")
CONVERGENCE = {"unipc": 3, "unipc3": 4, "ipndm": 2}
"""Orders of convergence that are not the solver's number: UniPC's is its predictor's, iPNDM ignores unequal steps."""
SLOPES = {1: (80, 160), 2: (160, 320), 3: (320, 640), 4: (640, 1280)}
"""Steps between which a slope is taken, by order: where it is asymptotic."""
TRIED = (
    "The usual warm-up (first steps of lower order) makes every multistep method one of order two at best; orders are "
    "measured after a warm-up by Runge-Kutta 4.",
    "On [0, 1] lambda is infinite at both ends, and the order of methods in lambda shows late or not at all; they are "
    "measured on [0.1, 0.9], and at 8 evaluations on [0, 1].",
)


def exact_orders() -> Mapping[str, tuple[Solver, int]]:
    """Every deterministic method with a fixed step, warmed up, and the order that it should have."""
    found: dict[str, tuple[Solver, int]] = {}
    for name in SOLVERS:
        method = solver(name)
        if method.stochastic or method.adaptive:
            continue
        warm = replace(method, warmup="rk") if isinstance(method, Multistep) and method.order > 1 else method
        found[name] = warm, CONVERGENCE.get(name, method.order)
    return found | {
        "unipc1": (UniPC(order=1), 2),
        "unip3": (UniPC(order=3, corrector=False, warmup="rk"), 3),
        "deis4": (DEIS(order=4, warmup="rk"), 4),
        "dpm++3m, as published": (DPMSolver(order=3, compat="published", warmup="rk"), 2),
    }


@final
@dataclass(frozen=True)
class Solvers:
    """Orders on an exact mixture, errors on digits, likelihoods."""

    slug: ClassVar[str] = "solvers"
    statement: ClassVar[str] = (
        "In flow coordinates every solver converges with its order on exact flows, likelihoods are exact to 1e-4 nats, "
        "and at eight evaluations of a network trained on digits DPM-Solver++(2M) and the midpoint rule halve Euler's "
        "error."
    )

    def run(self, quick: bool, seeds: tuple[int, ...], progress: Say) -> Outcome:
        """See `Claim.run`."""
        with one_thread():
            figures, notes = measure_orders(quick, seeds[0], progress)
            nats = likelihood_error(seeds[0])
            what = "largest error of a log-likelihood in nats, mixture, linear and GVP path"
            figures.append(Figure(what, nats, "<=", 1e-4))
            table, errors = measure_digits(1000 if quick else 4000, 64 if quick else 256, seeds, progress)
        for name, limit in (("dpm++2m", 0.5), ("midpoint", 0.5)):
            ratios = [a / b for a, b in zip(errors[name][8], errors["euler"][8], strict=True)]
            what = f"digits, 8 evaluations: error of {name} / Euler's, the worst seed"
            figures.append(Figure.worst(what, ratios, "<=", 1.0 if quick else limit))
        return Outcome(tuple(figures), (*notes, *table, *TRIED), _picture(errors))


def measure_orders(quick: bool, seed: int, progress: Say) -> tuple[list[Figure], list[str]]:
    """The largest distance of a measured order from the true one, for each order."""
    methods, worst = exact_orders(), dict[int, tuple[float, str]]()
    lines: dict[str, list[float]] = {name: [] for name in methods}
    for path in PATHS:
        progress(f"Measuring the orders of {len(methods)} methods on the {path} path.")
        field = mixture(path)
        x = Draws(row_seeds(seed, 24)).normal(torch.empty(24, 2, dtype=torch.float64), "source")
        truth = _inner(field, x, solver("rk4"), 1000 if quick else 4000)
        for name, (method, order) in methods.items():
            coarse, fine = SLOPES[order] if not quick else (80, 160)
            a, b = (_distance(_inner(field, x, method, n), truth) for n in (coarse, fine))
            lines[name].append(math.log2(a / b))
            worst[order] = max(worst.get(order, (0.0, "")), (abs(lines[name][-1] - order), f"{name}, {path}"))
    limit = 0.8 if quick else 0.25
    figures = [
        Figure(f"order {order}: largest distance of a measured order, {len(PATHS)} paths ({where})", gap, "<=", limit)
        for order, (gap, where) in sorted(worst.items())
    ]
    notes = [
        f"Order of {name} (true: {methods[name][1]}) on {', '.join(PATHS)}: {', '.join(f'{s:.2f}' for s in slopes)}."
        for name, slopes in lines.items()
    ]
    return figures, notes


def _inner(field: Field, x: object, method: Solver, n: int) -> Tensor:
    """The end of n steps from 0.1 to 0.9."""
    return solve(field, x, [0.1 + 0.8 * k / n for k in range(n + 1)], method).x  # type: ignore[arg-type,return-value]


def _distance(a: Tensor, b: Tensor) -> float:
    return float((a - b).square().mean().sqrt())


def likelihood_error(seed: int) -> float:
    """Of the exact divergence at dopri5 1e-7, against the mixture's own density, on two paths."""
    gaps = []
    for path in ("linear", "gvp"):
        field = mixture(path)
        x = field.sample_data(64, seed=seed).double()
        told = log_likelihood(field, x, solver=DormandPrince(rtol=1e-7, atol=1e-7), divergence="exact")
        gaps.append(float((told.logp - field.log_density(x)).abs().max()))
    return max(gaps)


Errors = dict[str, dict[int, list[float]]]


def measure_digits(steps: int, rows: int, seeds: tuple[int, ...], progress: Say) -> tuple[list[str], Errors]:
    """Mean squared distance to the end of a fine solve from the same noise, by method, evaluations and seed."""
    data = bench()
    methods = [n for n in SOLVERS if not solver(n).stochastic and not solver(n).adaptive]
    found: Errors = {name: {n: [] for n in BUDGETS} for name in methods}
    for seed in seeds:
        progress(f"Training a flow on digits, seed {seed}.")
        field = train_teacher(data.train, steps, seed)
        truth = draw(field, rows, steps=64, solver="rk4", seed=20_000)
        progress(f"Sampling it with {len(methods)} methods.")
        for name in methods:
            method = solver(name)
            for budget in BUDGETS:
                count = (budget - method.extra) // method.evaluations
                if count < 1:
                    continue
                x = draw(field, rows, steps=uniform(count), solver=method, seed=20_000)
                found[name][budget].append(float((x - truth).square().mean()))
    lines = []
    for name in sorted(methods, key=lambda n: fmean(found[n][8])):
        cells = ", ".join(f"{n}: {fmean(v):.2g}" for n, v in found[name].items() if v)
        lines.append(f"Digits, mean squared error by evaluations on uniform times, {name}: {cells}.")
    lines.append(spread("Euler's error at 8 evaluations", found["euler"][8]))
    return lines, found


def _picture(errors: Errors) -> bytes:
    from rheos.show import curves, figure_png

    shown = ("euler", "heun", "midpoint", "fireflow", "ab2", "dpm++2m", "dpm++3m", "unipc", "deis", "rk4")
    lines = {n: ([b for b in BUDGETS if errors[n][b]], [fmean(v) for v in errors[n].values() if v]) for n in shown}
    return figure_png(curves(lines, "network evaluations", "mean squared error on digits"))


CLAIM = Solvers()
