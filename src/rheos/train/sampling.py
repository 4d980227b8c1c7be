"""How a run is sampled where nobody says otherwise: a small record in its description."""

from dataclasses import dataclass
from typing import final

from rheos.core.errors import OptionError, check_choice

__all__ = ["Sampling"]


@final
@dataclass(frozen=True)
class Sampling:
    """The way of drawing samples that a run was made for.

    An objective that trains for certain steps, or for a solver, says so by an attribute `sampling`, and `train.fit`
    writes it down. What is asked for when samples are drawn wins over it.

    Args:
        steps: Their number; None: what is usual for the field, or its own times.
        solver: A name of `rheos.sample.SOLVERS`, or "jump"; None: what is usual for the field.

    Raises:
        OptionError: For steps below 1.
        UnknownOptionError: For an unknown solver.

    Example:
        >>> Sampling(steps=2, solver="renoise")
        Sampling(steps=2, solver='renoise')
    """

    steps: int | None = None
    solver: str | None = None

    def __post_init__(self) -> None:
        if self.steps is not None and (isinstance(self.steps, bool) or self.steps < 1):
            raise OptionError(f"steps must be a whole number of at least 1, got {self.steps!r}.")
        if self.solver is not None:
            from rheos.sample import MAPS, SOLVERS

            check_choice("solver", self.solver, SOLVERS | MAPS)
