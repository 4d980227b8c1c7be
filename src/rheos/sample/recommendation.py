"""What `recommend` found: rows of a table, the best of them, and a sentence."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, final

from rheos.core.errors import OptionError
from rheos.sample.grids import Grid

__all__ = ["HEAD", "Recommendation", "Trial"]

HEAD = ("solver", "grid", "steps", "calls", "error", "half of the rows between")
TIE = 1.01
"""Errors within one percent are the same: then the fewer calls win, then the earlier name."""


@final
@dataclass(frozen=True)
class Trial:
    """One solver on one grid with one number of steps.

    Args:
        solver: A name of `SOLVERS`.
        grid: The grid.
        steps: Its steps.
        calls: Network calls, counted; for a failed trial what was intended.
        chosen_by: Median error over the first half of the rows, which the choice looks at; NaN where it failed.
        error: Median error over the second half, which the choice never sees; NaN where it failed.
        low: A quarter of the rows of the second half has a smaller error.
        high: A quarter has a larger one.
        failed: Why there is no result; empty where there is one.
    """

    solver: str
    grid: Grid
    steps: int
    calls: int
    chosen_by: float = math.nan
    error: float = math.nan
    low: float = math.nan
    high: float = math.nan
    failed: str = ""

    def cells(self) -> tuple[str, ...]:
        """Texts for a table, under `HEAD`."""
        name = (self.solver, str(self.grid), str(self.steps), str(self.calls))
        if self.failed:
            return (*name, "failed", self.failed)
        return (*name, f"{self.error:.3g}", f"{self.low:.3g} and {self.high:.3g}")

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON; a failed trial has None for its errors."""
        named = {"chosen_by": self.chosen_by, "error": self.error, "low": self.low, "high": self.high}
        errors = {name: None if math.isnan(v) else v for name, v in named.items()}
        about = {"solver": self.solver, "spacing": self.grid.spacing, "shift": self.grid.shift, "steps": self.steps}
        return {**about, "calls": self.calls, **errors, "failed": self.failed}


@final
@dataclass(frozen=True)
class Recommendation:
    """Errors of solvers and grids against a fine reference, from the same noise.

    Args:
        trials: All that was measured, failures too.
        evaluations: The budgets that were asked for, increasing.
        plain: The field's own grid, which Euler and Heun are compared on.
        measured_on: Rows that the errors are medians of; the choice was made on other rows.
        accuracy: Median distance between the reference and a coarser one, or one rounding where that is larger: how
            far the reference itself may be off.
        reference: What the reference is.
        left_out: Solvers that cannot run on this field, with the reason.
    """

    trials: tuple[Trial, ...]
    evaluations: tuple[int, ...]
    plain: Grid
    measured_on: int
    accuracy: float
    reference: str
    left_out: Mapping[str, str] = field(default_factory=dict)

    def within(self, evaluations: int | None = None) -> list[Trial]:
        """Trials of at most so many calls that have a result, the best of the choosing half first.

        Args:
            evaluations: The largest budget unless given.
        """
        most = self.evaluations[-1] if evaluations is None else evaluations
        return sorted((t for t in self.trials if t.calls <= most and not t.failed), key=lambda t: t.chosen_by)

    def best(self, evaluations: int | None = None) -> Trial:
        """The trial to use with at most so many network calls, chosen by the first half of the rows.

        Errors that differ by a percent, or by less than the reference is accurate, are the same; then fewer calls
        are better.

        Args:
            evaluations: The largest budget unless given.

        Raises:
            OptionError: If nothing was measured with so few calls.
        """
        found = self.within(evaluations)
        if not found:
            least = min((t.calls for t in self.trials if not t.failed), default=None)
            raise OptionError(
                f"Nothing that works was measured with at most {evaluations or self.evaluations[-1]} evaluations; "
                f"{'every trial failed' if least is None else f'the smallest number is {least}'}."
            )
        limit = max(found[0].chosen_by * TIE, self.accuracy)
        same = {id(t) for t in found if t.chosen_by <= limit} | {id(found[0])}
        return min((t for t in self.trials if id(t) in same), key=lambda t: t.calls)

    def plainly(self, solver: str, evaluations: int | None = None) -> Trial | None:
        """The trial of a solver on the field's own grid that makes most of the calls, or None."""
        found = [t for t in self.within(evaluations) if t.solver == solver and t.grid == self.plain]
        return max(found, key=lambda t: t.calls, default=None)

    def sentence(self, evaluations: int | None = None) -> str:
        """What to use with at most so many network calls, and by how much it beats Euler and Heun.

        Args:
            evaluations: The largest budget unless given.

        Raises:
            OptionError: If nothing was measured with so few calls.
        """
        best = self.best(evaluations)
        plain = {name: self.plainly(name, evaluations) for name in ("euler", "heun")}
        most = self.evaluations[-1] if evaluations is None else evaluations
        said = [f"{_ratio(t, best)} of {name}" for name, t in plain.items() if t is not None and t is not best]
        against = f", {' and '.join(said)} on the grid {self.plain}" if said else ""
        text = (
            f"With at most {most} network calls use {best.solver} on the grid {best.grid} with {best.steps} "
            f"step{'s' if best.steps > 1 else ''}: error {best.error:.3g}{against}. It was chosen on other rows than "
            f"the {self.measured_on} that these errors are measured on."
        )
        if best.error < 3 * self.accuracy:
            text += f" The reference is only known to {self.accuracy:.2g}, so smaller errors say nothing."
        return text

    def shown(self, evaluations: int | None = None, most: int = 8) -> list[Trial]:
        """The best first, then the next best by the choosing half, then plain Euler and Heun, then what failed.

        Args:
            evaluations: The largest budget unless given.
            most: At most so many of the best.
        """
        found = self.within(evaluations)
        best = [self.best(evaluations)] if found else []
        plain = [t for t in (self.plainly(name, evaluations) for name in ("euler", "heun")) if t is not None]
        budget = self.evaluations[-1] if evaluations is None else evaluations
        failed = [t for t in self.trials if t.failed and t.calls <= budget]
        chosen = [*best, *(t for t in found if t not in best)][:most]
        return [*chosen, *(t for t in plain if t not in chosen), *failed]

    def table(self, evaluations: int | None = None, most: int = 8) -> str:
        """`shown` as text in columns.

        Args:
            evaluations: The largest budget unless given.
            most: At most so many of the best.
        """
        rows = [HEAD, *(t.cells() for t in self.shown(evaluations, most))]
        widths = [max(len(row[k]) for row in rows) for k in range(len(HEAD))]
        return "\n".join("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows)

    def curves(self, most: int = 5) -> dict[str, tuple[Sequence[float], Sequence[float]]]:
        """Error against network calls, for `rheos.show.curves`: the best solvers, plain Euler and Heun, the floor.

        Args:
            most: At most so many solvers, the best at the largest budget first; each on the grid that the choosing
                half prefers for it at each budget.
        """
        ranked = list(dict.fromkeys(t.solver for t in self.within()))[:most]
        lines = {name: self._line([t for t in self.trials if t.solver == name]) for name in ranked}
        for name in ("euler", "heun"):
            own = [t for t in self.trials if t.solver == name and t.grid == self.plain]
            lines[f"{name} on {self.plain}"] = self._line(own)
        ends = (self.evaluations[0], self.evaluations[-1])
        lines["the reference's accuracy"] = ([float(e) for e in ends], [self.accuracy, self.accuracy])
        return {name: line for name, line in lines.items() if len(line[0]) and min(line[1]) > 0}

    def _line(self, trials: Sequence[Trial]) -> tuple[list[float], list[float]]:
        """The best of these at each number of calls, with the error of the other half."""
        good = [t for t in trials if not t.failed]
        calls = sorted({t.calls for t in good})
        best = [min((t for t in good if t.calls == c), key=lambda t: t.chosen_by) for c in calls]
        return [float(c) for c in calls], [t.error for t in best]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON: every trial, and the best of each budget that has one."""
        budgets = [e for e in self.evaluations if self.within(e)]
        return {
            "evaluations": list(self.evaluations),
            "measured_on": self.measured_on,
            "reference": self.reference,
            "accuracy": self.accuracy,
            "best": {str(e): {**self.best(e).to_dict(), "sentence": self.sentence(e)} for e in budgets},
            "left_out": dict(self.left_out),
            "trials": [t.to_dict() for t in self.trials],
        }


def _ratio(other: Trial, best: Trial) -> str:
    """How the best error stands to another: "5.2 times smaller than the 0.06"."""
    if best.error == other.error:
        return f"equal to the {other.error:.3g}"
    smaller = best.error < other.error
    a, b = (other.error, best.error) if smaller else (best.error, other.error)
    factor = f"{a / b:.3g} times " if b > 0 else ""
    return f"{factor}{'smaller' if smaller else 'larger'} than the {other.error:.3g}"
