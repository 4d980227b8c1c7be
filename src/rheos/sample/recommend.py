"""Which solver and which grid: measured on a field of one's own against a fine reference.

Every solver carries the same noise along the same flow. Its error is the distance of its end points from those of a
fine reference, so it says how well the flow is followed, not how good the flow is. The choice looks at one half of
the rows, the errors that are reported come from the other half: the smallest of many noisy errors is too small.
"""

from collections.abc import Callable, Iterator, Sequence
from math import ceil
from typing import cast

import torch
from torch import Tensor

from rheos.core.errors import OptionError, RheosError, check_choice
from rheos.core.field import Field
from rheos.core.solver import Solver
from rheos.core.state import State, dtype_of, flat_rows, like, tensors
from rheos.sample.draw import draw_solution, grid_for
from rheos.sample.grids import Grid
from rheos.sample.guidance import CFG
from rheos.sample.loop import Loop
from rheos.sample.methods import SOLVERS
from rheos.sample.recommendation import Recommendation, Trial
from rheos.sample.rungekutta import MIDPOINT, RK4, RungeKutta

__all__ = ["GRIDS", "recommend"]

GRIDS = ("uniform", "uniform@3", "quadratic", "logsnr", "karras", "beta", "sway")
"""Candidates, as `Grid.read` understands them."""

PLAIN = ("euler", "heun")
"""Always measured on the field's own grid, for comparison."""


def recommend(
    field: Field,
    evaluations: Sequence[int] = (4, 8, 16),
    *,
    solvers: Sequence[str] | None = None,
    grids: Sequence[str | Grid] | None = None,
    n: int = 64,
    seed: int | Sequence[int] | Tensor = 0,
    guidance: float | CFG | None = None,
    reference: int = 64,
    progress: Callable[[int, int], None] | None = None,
    **cond: object,
) -> Recommendation:
    """Measure solvers on grids within budgets of network calls, and say which to use.

    Euler and Heun on the field's own uniform grid are always among them. With guidance a call holds two rows a sample.

    Args:
        field: The flow.
        evaluations: Budgets: network calls a sample; none is exceeded.
        solvers: Names of `SOLVERS`; all that take a fixed number of deterministic steps unless given.
        grids: Grids, or texts as `Grid.read` takes them, with the field's own shift where they have none.
        n: Rows, at least 4: half to choose on, half to measure on.
        seed: As in `draw`.
        guidance: As in `draw`.
        reference: Steps of the coarser one of two references (classical Runge-Kutta of order 4, or midpoint on a curved
            space); the finer one, with twice as many, is the truth, and their distance says how accurate it is.
        progress: Called with the number of trials done and their total.
        **cond: The field's conditions and further options, as in `draw_solution`.

    Returns:
        The errors of all trials, and the best of each budget.

    Raises:
        OptionError: For budgets or rows that are too few, a solver that is stochastic or adaptive, or one that was
            asked for and cannot run on this field.
        UnknownOptionError: For unknown solvers or grids.
        RheosError: As `draw_solution` does; also when the reference itself fails.

    Example:
        >>> from rheos.core import GaussianMixtureField
        >>> field = GaussianMixtureField(means=[[-2.0, 0.0], [2.0, 0.0]], stds=[0.5, 0.5])
        >>> found = recommend(field, (4, 8), solvers=["euler", "midpoint", "dpm++2m"], grids=["uniform", "sway"], n=32)
        >>> found.best(8).calls <= 8, found.best(8).error < 0.5 * found.plainly("euler", 8).error
        (True, True)
    """
    budgets = _checked(evaluations, n, reference, cond)
    makers, left_out = _solvers(field, solvers)
    plain = Grid(shift=field.shift)
    candidates = _grids(grids, plain)
    calls_each = ceil(n / cast(int, cond.get("batch") or n))  # draw_solution counts those of all batches together

    def run(times: Sequence[float], solver: Solver) -> tuple[State, int]:
        found = draw_solution(field, n, steps=times, solver=solver, guidance=guidance, seed=seed, **cond)
        return found.x, found.calls // calls_each

    fine = RungeKutta(tableau=RK4 if field.path.flat else MIDPOINT)
    coarse, truth = (run(grid_for(field, plain, k), fine)[0] for k in (reference, 2 * reference))
    bench = _Bench(field, run, truth, n // 2)
    plan = list(_plan(budgets, makers, candidates, plain))
    for done, (budget, name, grid) in enumerate(plan, 1):
        bench.measure(budget, name, makers[name], grid)
        if progress is not None:
            progress(done, len(plan))
    return Recommendation(
        trials=tuple(bench.kept.values()),
        evaluations=budgets,
        plain=plain,
        measured_on=n - n // 2,
        accuracy=max(_median(_errors(field, coarse, truth)), _rounding(truth)),
        reference=f"{'rk4' if field.path.flat else 'midpoint'} on the grid {plain} with {2 * reference} steps",
        left_out=left_out,
    )


Key = tuple[str, tuple[float, ...]]
"""A solver's name and the times it steps between, rounded: what makes two trials the same."""


class _Bench:
    """Runs trials, each once, and keeps those that fit into their budget."""

    def __init__(
        self,
        field: Field,
        run: Callable[[Sequence[float], Solver], tuple[State, int]],
        truth: State,
        half: int,
    ) -> None:
        self.field, self.run, self.truth, self.half = field, run, truth, half
        self.done: dict[Key, Trial] = {}
        self.kept: dict[Key, Trial] = {}
        self.more: dict[str, int] = {}  # calls of a solver beyond those that it announces

    def measure(self, budget: int, name: str, solver: Solver, grid: Grid) -> None:
        """The most steps that fit into a budget; none if not even one does."""
        most = (budget - self.more.get(name, 0)) // solver.evaluations + (
            solver.evaluations > 1
        )  # a last step may be cheap
        for steps in range(most, 0, -1) if grid.steps is None else [grid.steps] * (grid.steps <= most):
            times = grid_for(self.field, grid, steps)
            key = (name, tuple(round(t, 9) for t in times))
            if key not in self.done:
                self.done[key] = self._trial(name, solver, grid, steps, times)
            trial = self.done[key]
            if trial.calls <= budget:
                self.kept[key] = trial
                return
            self.more[name] = trial.calls - steps * solver.evaluations

    def _trial(self, name: str, solver: Solver, grid: Grid, steps: int, times: tuple[float, ...]) -> Trial:
        try:
            x, calls = self.run(times, solver)
        except RheosError as error:  # the reference has run with the same arguments, so it is this combination
            return Trial(name, grid, steps, steps * solver.evaluations, failed=str(error))
        errors = _errors(self.field, x, self.truth)
        seen, held = errors[: self.half], errors[self.half :]
        low, middle, high = held.quantile(held.new_tensor([0.25, 0.5, 0.75])).tolist()
        return Trial(name, grid, steps, calls, _median(seen), middle, low, high)


def _errors(field: Field, x: State, truth: State) -> Tensor:
    """Root mean square of each row's difference, float64; on a curved space of the tangent that leads to the truth."""
    gap = field.path.space.diff(like(x, torch.float64), like(truth, torch.float64))
    return torch.cat([flat_rows(v) for v in tensors(gap)], 1).square().mean(1).sqrt()


def _rounding(x: State) -> float:
    """What one rounding of a row's numbers amounts to: no distance below it means anything."""
    size = torch.cat([flat_rows(v).double() for v in tensors(x)], 1).square().mean(1).sqrt()
    return torch.finfo(dtype_of(x)).eps * _median(size)


def _median(errors: Tensor) -> float:
    return float(errors.quantile(0.5))


def _checked(evaluations: Sequence[int], n: int, reference: int, cond: dict[str, object]) -> tuple[int, ...]:
    """The budgets, increasing."""
    budgets = tuple(sorted(set(evaluations)))
    if not budgets or budgets[0] < 1:
        raise OptionError(f"evaluations are whole numbers of at least 1, got {list(evaluations)}.")
    if n < 4:
        raise OptionError(f"n must be at least 4, half to choose on and half to measure on, got {n}.")
    if reference < 1:
        raise OptionError(f"reference must be at least 1 step, got {reference}.")
    for name in ("steps", "solver", "trace"):
        if name in cond:
            raise OptionError(f"recommend has no option {name!r}: it tries solvers, grids and evaluations.")
    return budgets


def _solvers(field: Field, names: Sequence[str] | None) -> tuple[dict[str, Solver], dict[str, str]]:
    """Solvers by name, Euler and Heun among them, and those that cannot run here with the reason."""
    found: dict[str, Solver] = {}
    left_out: dict[str, str] = {}
    for name in names or ():
        check_choice("solver", name, SOLVERS)
    for name in SOLVERS if names is None else dict.fromkeys((*PLAIN, *names)):
        made = SOLVERS[name]()
        kind = "stochastic" if made.stochastic else "adaptive" if made.adaptive else ""
        try:
            if kind:
                raise OptionError(f"{name} is {kind}: it has no fixed number of steps to one end point.")
            if names is None and made in found.values():
                raise OptionError(f"{name} is another name of a solver that was tried.")
            Loop(field, made)
        except RheosError as error:
            if names is not None and name in names:
                raise
            left_out[name] = str(error)
            continue
        found[name] = made
    return found, left_out


def _grids(grids: Sequence[str | Grid] | None, plain: Grid) -> list[Grid]:
    """The candidates; the first of two that are equal stays."""
    if grids is None:
        grids = GRIDS if plain.shift == 1 else (*GRIDS, "uniform@1")
    read = [Grid.read(g, plain.shift) if isinstance(g, str) else g for g in grids]
    return list(dict.fromkeys(read))


def _plan(
    budgets: tuple[int, ...], solvers: dict[str, Solver], grids: list[Grid], plain: Grid
) -> Iterator[tuple[int, str, Grid]]:
    for budget in budgets:
        for name in solvers:
            own = (plain,) if name in PLAIN else ()
            for grid in dict.fromkeys((*own, *grids)):
                yield budget, name, grid
