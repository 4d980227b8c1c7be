"""Fields around fields: the plain wrapper, and one that sends branches to different networks."""

from typing import cast

import torch
from torch import Tensor, nn

from rheos.core.base import Cond
from rheos.core.errors import OptionError
from rheos.core.field import Field
from rheos.core.paths import Path
from rheos.core.query import Name, Query, Reply, gather, spread, spread_query
from rheos.core.state import State, concat

__all__ = ["Routed", "Wrapped"]


class Wrapped(Field):
    """A field around another one; everything is the inner field's until a subclass says otherwise.

    Args:
        base: The inner field.
        path: The path that the outside sees; the inner one's unless given.
    """

    def __init__(self, base: Field, path: Path | None = None) -> None:
        super().__init__(
            base.net,
            path or base.path,
            "velocity",
            shift=base.shift,
            gaussian=base.gaussian,
            shape=base.shape,
            value_range=base.value_range,
            times=base.times,
        )
        self.base = base
        self.conditions = base.conditions
        self.edges = base.edges

    @property
    def dtype(self) -> torch.dtype:
        """The inner field's."""
        return self.base.dtype

    @property
    def finite(self) -> tuple[float, float]:
        """The inner field's."""
        return self.base.finite

    def answer(self, q: Query) -> Reply:
        """The inner field's answer."""
        return self.base.answer(q)

    def null(self, cond: Cond) -> Cond:
        """The inner field's null conditions."""
        return self.base.null(cond)

    def _null(self, name: str, n: int) -> Tensor:
        return self.base._null(name, n)

    def as_velocity(self) -> Field:
        """The inner field's."""
        return self.base.as_velocity()

    @property
    def remembers(self) -> bool:
        """Whether the inner field has a memory."""
        return self.base.remembers

    def memory(self, x: State) -> State | None:
        """The inner field's memory."""
        return self.base.memory(x)


class Routed(Wrapped):
    """A field whose branches are answered by different fields: a weak model beside a strong one.

    Steers name what they need: `AutoGuidance` asks for a field called "weak".

    Args:
        main: Answers every branch that no other claims.
        **others: Field by the last part of a branch's name.

    Raises:
        OptionError: If the paths or the conditions differ: their velocities could not be mixed.
    """

    def __init__(self, main: Field, **others: Field) -> None:
        super().__init__(main)
        for name, other in others.items():
            if other.path != main.path:
                raise OptionError(
                    f"Field {name!r} lives on {other.path}, the main one on {main.path}. Move it: field.on(path)."
                )
            if other.conditions != main.conditions:
                raise OptionError(
                    f"Field {name!r} takes the conditions {sorted(other.conditions)}, the main one "
                    f"{sorted(main.conditions)}; both must take the same."
                )
        self.others = nn.ModuleDict(others)

    @property
    def finite(self) -> tuple[float, float]:
        """Where all of the fields are finite."""
        ends = [self.base.finite, *(cast(Field, f).finite for f in self.others.values())]
        return max(low for low, _ in ends), min(high for _, high in ends)

    def _route(self, name: Name) -> str | None:
        last = name[-1] if name else None
        return last if isinstance(last, str) and last in self.others else None

    def answer(self, q: Query) -> Reply:
        """One call a field, each with all of its branches, and the replies back in order."""
        routes = [self._route(name) for name, _ in q.branches]
        if not any(routes):
            return self.base.answer(q)
        parts = spread_query(q)
        replies: list[Reply | None] = [None] * len(parts)
        for route in dict.fromkeys(routes):
            mine = [k for k, r in enumerate(routes) if r == route]
            field = self.base if route is None else cast(Field, self.others[route])
            reply = field.answer(gather([parts[k] for k in mine]))
            for k, part in zip(mine, spread(reply, [parts[k] for k in mine]), strict=True):
                replies[k] = part
        whole = [r for r in replies if r is not None]
        memory = None if any(r.memory is None for r in whole) else concat([cast(State, r.memory) for r in whole])
        return Reply(concat([r.value for r in whole]), memory)
