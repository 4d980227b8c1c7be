"""Where the flows of an objective begin, and what their ends stand for; on the way of a training and afterwards."""

from collections.abc import Mapping
from typing import Any, Protocol, cast, runtime_checkable

import torch
from torch import Tensor

from rheos.core.base import Cond, Source
from rheos.core.draws import Draws
from rheos.core.field import Field
from rheos.core.paths import AffinePath
from rheos.core.state import State, map_state

__all__ = ["Begins", "given", "looked_at"]


@runtime_checkable
class Begins(Protocol):
    """An objective whose states are more than the data, or begin at something that is encoded."""

    @property
    def consumes(self) -> tuple[str, ...]:
        """Columns that say where a flow begins; the network never sees them."""

    def starts(self, field: Field, x1: State, cond: Cond, draws: Draws) -> State:
        """States at t = 0 of rows with these columns; of x1 only the shape matters."""

    def shows(self, field: Field, x: State) -> Tensor:
        """What a state at t = 1 stands for, of the data's kind."""


def given(law: object, field: Field, x: Tensor, cond: Mapping[str, Tensor], draws: Draws) -> dict[str, Any]:
    """What `sample.draw` is told of rows: the conditions of the network, and where flows begin if not at fresh noise.

    Args:
        law: The objective or source that the field was trained with, or None.
        field: The field.
        x: Rows of the data's shape.
        cond: Columns of these rows.
        draws: One stream a row.

    Raises:
        ConditionError: If a column is missing that says where flows begin.
    """
    consumed = getattr(law, "consumes", ())
    kept: dict[str, Any] = {name: v for name, v in cond.items() if name not in consumed}
    provided = {n: v for n, v in getattr(law, "provides", {}).items() if n in field.conditions}
    source = law if isinstance(law, Source) else getattr(law, "source", None)
    with torch.no_grad():
        if isinstance(law, Begins):
            kept["source"] = law.starts(field, x, dict(cond), draws)
        elif isinstance(source, Source) and not source.noise:
            start = source(x, dict(cond), draws)
            level = field.path.law.sigma(field.finite[0]) if isinstance(field.path, AffinePath) else 1.0
            kept["source"] = start if level == 1.0 else map_state(lambda v: v * level, start)
    return {**kept, **provided}


def looked_at(law: object, field: Field, x: State) -> Tensor:
    """What a state at t = 1 stands for: itself, or what an objective of `Begins` says."""
    if isinstance(law, Begins):
        with torch.no_grad():
            return law.shows(field, x)
    return cast(Tensor, x)
