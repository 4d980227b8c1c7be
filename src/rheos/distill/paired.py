"""What the objectives on pairs, times and a premetric of flow matching take over from it."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any, TypeVar, cast

from rheos.core.base import Cond, Source
from rheos.core.draws import Draws
from rheos.core.errors import OptionError
from rheos.core.objectives import FlowMatching
from rheos.core.state import State

__all__ = ["Averaged", "Paired"]

P = TypeVar("P", bound="Paired")
A = TypeVar("A", bound="Averaged")


class Paired:
    """An objective with a field `flow`, whose coupling, source and times it uses."""

    flow: FlowMatching | None

    @property
    def pairing(self) -> FlowMatching:
        """Coupling, source, times, premetric."""
        return cast(FlowMatching, self.flow)

    @property
    def gaussian(self) -> bool:
        """Whether x0 is N(0, I) independent of x1 under this objective."""
        return self.pairing.gaussian

    @property
    def source(self) -> Source:
        """The law at t = 0."""
        return self.pairing.parts.source

    @property
    def consumes(self) -> tuple[str, ...]:
        """Columns of the batch that the source uses up."""
        return self.pairing.consumes

    def calibrate(self: P, x1: State, cond: Cond, draws: Draws) -> P:
        """Fix what the coupling measures on a pilot batch."""
        made: P = replace(cast(Any, self), flow=self.pairing.calibrate(x1, cond, draws))
        return made


class Averaged:
    """An objective with fields `averaged` and `_swap`, whose targets may come from the average of weights."""

    averaged: bool

    def averaging(self: A, swap: Callable[[], AbstractContextManager[Any]] | None) -> A:
        """This objective, with the average of weights that training keeps.

        Raises:
            OptionError: If targets come from the average and training keeps none.
        """
        if not self.averaged:
            return self
        if swap is None:
            raise OptionError("averaged=True takes targets from the average of weights; train with Options(ema=0.999).")
        made: A = replace(cast(Any, self))
        object.__setattr__(made, "_swap", swap)
        return made
