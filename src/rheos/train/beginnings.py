"""Where the flows of an objective begin, and what their ends stand for; on the way of a training and afterwards."""

import math
from collections.abc import Mapping
from typing import Any, Protocol, cast, runtime_checkable

import torch
from torch import Tensor

from rheos.core.base import Cond, Source
from rheos.core.draws import Draws
from rheos.core.errors import OptionError
from rheos.core.field import Field
from rheos.core.paths import AffinePath
from rheos.core.state import State, map_state

__all__ = ["Begins", "check_temperature", "from_noise", "given", "looked_at"]


@runtime_checkable
class Begins(Protocol):
    """An objective whose states are more than the data, or begin at something that is encoded."""

    @property
    def asks(self) -> tuple[str, ...]:
        """Columns that say where a flow begins; the network never sees them."""

    def starts(self, field: Field, x1: State, cond: Cond, draws: Draws, temperature: float = 1.0) -> State:
        """States at t = 0 of rows with these columns, with noise of a temperature; of x1 only the shape matters."""

    def shows(self, field: Field, x: State) -> Tensor:
        """What a state at t = 1 stands for, of the data's kind."""


def from_noise(law: object) -> bool:
    """Whether flows begin at noise that needs no column: not at what an objective encodes, nor at another source."""
    source = law if isinstance(law, Source) else getattr(law, "source", None)
    return not (isinstance(law, Begins) or (isinstance(source, Source) and not source.noise))


def check_temperature(temperature: float) -> None:
    """Raise `OptionError` unless it is a number of at least 0."""
    if isinstance(temperature, bool) or not 0 <= temperature < math.inf:
        raise OptionError(f"temperature must be 0 or positive and finite, got {temperature}.")


def given(
    law: object, field: Field, x: Tensor, cond: Mapping[str, Tensor], draws: Draws, temperature: float = 1.0
) -> dict[str, Any]:
    """What `sample.draw` is told of rows: the conditions of the network, and where flows begin if not at fresh noise.

    Args:
        law: The objective or source that the field was trained with, or None.
        field: The field.
        x: Rows of the data's shape.
        cond: Columns of these rows.
        draws: One stream a row.
        temperature: What the noise at the start is multiplied by; 0 begins at its mean.

    Raises:
        ConditionError: If a column is missing that says where flows begin.
        OptionError: For a negative temperature, or one other than 1 where flows begin at no normal noise.
    """
    check_temperature(temperature)
    consumed = getattr(law, "consumes", ())
    kept: dict[str, Any] = {name: v for name, v in cond.items() if name not in consumed}
    provided = {n: v for n, v in getattr(law, "provides", {}).items() if n in field.conditions}
    source = law if isinstance(law, Source) else getattr(law, "source", None)
    with torch.no_grad():
        if isinstance(law, Begins):
            kept["source"] = law.starts(field, x, dict(cond), draws, temperature)
        elif isinstance(source, Source) and not source.noise:
            _refuse_temperature(temperature)
            kept["source"] = _levelled(field, source(x, dict(cond), draws))
        elif temperature != 1.0:
            if not isinstance(field.path, AffinePath):
                _refuse_temperature(temperature)
            kept["source"] = _levelled(field, draws.normal(x, "source"), temperature)
    return {**kept, **provided}


def _levelled(field: Field, start: State, factor: float = 1.0) -> State:
    """At the noise level of the path's first time."""
    level = factor * (field.path.law.sigma(field.finite[0]) if isinstance(field.path, AffinePath) else 1.0)
    return start if level == 1.0 else map_state(lambda v: v * level, start)


def _refuse_temperature(temperature: float) -> None:
    if temperature != 1.0:
        raise OptionError(f"These flows begin at no normal noise, so temperature={temperature:g} has no meaning.")


def looked_at(law: object, field: Field, x: State) -> Tensor:
    """What a state at t = 1 stands for: itself, or what an objective of `Begins` says."""
    if isinstance(law, Begins):
        with torch.no_grad():
            return law.shows(field, x)
    return cast(Tensor, x)
