"""A teacher's trajectories on a fine grid: states where they are wanted, and the velocities that left them.

Nothing else of the fine walk is kept, so a store of a few times costs the memory of those times only.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple, cast, final

import torch
from torch import Tensor

from rheos.core.base import Cond
from rheos.core.errors import OptionError, TimeError
from rheos.core.field import Field
from rheos.core.query import Name
from rheos.core.solver import Solver
from rheos.core.state import State
from rheos.core.steer import Steer, View
from rheos.sample.draw import draw_solution
from rheos.sample.guidance import CFG
from rheos.sample.methods import solver as named_solver

__all__ = ["Walk", "check_fine", "nodes", "walk"]

NEAR = 1e-9
"""Two times as close as this are one."""


class Walk(NamedTuple):
    """Trajectories at the times that were kept.

    Args:
        x: (K + 1, B, ...) states, in the order of the walk.
        v: (K, B, ...) velocities at all of them but the last, guidance included.
    """

    x: Tensor
    v: Tensor


@final
class _Watch(Steer):
    """Keeps what passes by; as the outermost hook it sees velocities after guidance."""

    kind = "velocity"

    def __init__(self, starts: Sequence[float], ends: Sequence[float]) -> None:
        self.starts, self.ends = frozenset(starts), frozenset(ends)
        self.v: list[Tensor] = []
        self.x: list[Tensor] = []

    def velocity(self, view: View, values: dict[Name, State]) -> dict[Name, State]:
        """An interval's first velocity."""
        if view.t == view.span[0] and view.t in self.starts:
            self.v.append(cast(Tensor, values[()]))
        return values

    def state(self, view: View, start: State, end: State, velocity: State) -> State:
        """An interval's end."""
        if view.t in self.ends:
            self.x.append(cast(Tensor, end))
        return end


def walk(
    field: Field,
    source: Tensor | None,
    times: Sequence[float],
    keep: Sequence[int],
    *,
    solver: Solver | str,
    guidance: float,
    seeds: Tensor,
    cond: Cond,
) -> Walk:
    """Walk a fine grid and keep some of its times.

    Args:
        field: The teacher.
        source: States at the first time; the noise of the seeds where there are none.
        times: The fine grid, increasing or decreasing.
        keep: Which of them are kept, from the first to the last.
        solver: Deterministic, with fixed steps.
        guidance: Scale of classifier-free guidance; 1 for none.
        seeds: int64 (B,), a seed a row.
        cond: Conditions with B rows.
    """
    kept = [times[k] for k in keep]
    watch = _Watch(kept[:-1], kept[1:])
    steers: tuple[Steer, ...] = (watch,) if guidance == 1.0 else (watch, CFG(guidance))
    given: dict[str, object] = dict(cond) if source is None else {**cond, "source": source}
    found = draw_solution(
        field, len(seeds), steps=times, solver=solver, guidance=None, seed=seeds, steers=steers, **given
    )
    return Walk(torch.stack([cast(Tensor, found.source), *watch.x]), torch.stack(watch.v))


def check_fine(field: Field, solver: Solver | str, guidance: float) -> Solver:
    """The solver of a fine walk.

    Raises:
        OptionError: If it draws noise or chooses its own steps, the field's space is curved or its shape unknown, or
            guidance is asked of a field without conditions.
        UnknownOptionError: For an unknown name.
    """
    method = named_solver(solver) if isinstance(solver, str) else solver
    if method.stochastic or method.kicks or method.adaptive:
        why = "chooses its own steps" if method.adaptive else "draws noise"
        raise OptionError(
            f"Fine trajectories need a deterministic solver with the steps of its grid; {type(method).__name__} {why}. "
            "Use euler, heun or rk4."
        )
    if not field.path.flat:
        raise OptionError(f"Chords are straight lines of a flat space, this field lives on {field.path.space}.")
    if field.shape is None:
        raise OptionError("This field does not know the shape of its data; set field.shape first.")
    if guidance != 1.0 and not field.conditions:
        raise OptionError(f"guidance {guidance} needs a conditional field; this one takes no conditions.")
    return method


def nodes(times: Sequence[float], grid: Sequence[float], what: str = "anchors") -> list[int]:
    """Where times stand on a grid.

    Args:
        times: Some of the grid's times.
        grid: Increasing.
        what: What the grid's times are called.

    Raises:
        TimeError: If one of them is not on the grid; the nearest is named.

    Example:
        >>> nodes([0.0, 0.5, 1.0], [0.0, 0.25, 0.5, 0.75, 1.0])
        [0, 2, 4]
    """
    found = []
    for t in times:
        k = min(range(len(grid)), key=lambda j: abs(grid[j] - t))
        if abs(grid[k] - t) > NEAR:
            raise TimeError(f"{t:g} is none of the {len(grid)} {what}; the nearest is {grid[k]:.6g}.")
        found.append(k)
    if any(b <= a for a, b in pairwise(found)) or len(found) < 2:
        raise TimeError(f"Times are at least two and increase, got {', '.join(f'{t:g}' for t in times)}.")
    return found
