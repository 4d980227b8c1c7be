r"""Symmetries of a teacher as free pairs: where $g F(x_0) = F(g x_0)$, the pair $(g x_0, g F(x_0))$ is another one.

A teacher that was trained on data with mirrored copies is equivariant under mirroring, nearly. Noise and sample are
moved *together*, each row by its own element.

Reference: SlimFlow, Zhu, Liu and Liu (2024), https://arxiv.org/abs/2407.12718, section 3.1
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any, cast, final

import torch
from torch import Tensor

from rheos.core.base import Cond, Coupling, Pairs
from rheos.core.couplings import coupling
from rheos.core.draws import Draws, row_seeds
from rheos.core.errors import ConditionError, OptionError, ShapeError
from rheos.core.field import Field
from rheos.core.state import State, map_state, where_rows
from rheos.distill.pairs import balanced, level_of
from rheos.sample.draw import conditions, draw, grid_for

__all__ = ["Flip", "Group", "QuarterTurns", "Together", "check_equivariant", "equivariance_gap"]


class Group(ABC):
    """A finite group that acts on samples and keeps N(0, I)."""

    @property
    @abstractmethod
    def order(self) -> int:
        """How many elements."""

    @abstractmethod
    def act(self, x: Tensor, element: int) -> Tensor:
        """The rows moved by an element, 0 being the one that moves nothing; the shape stays."""


@final
@dataclass(frozen=True)
class Flip(Group):
    """Mirroring along an axis: -1 is left to right; up and down (-2) is a symmetry of few pictures.

    Args:
        axis: Of a sample, counted from the end, so negative.

    Raises:
        OptionError: For an axis that is not negative.

    Example:
        >>> Flip().act(torch.tensor([[1.0, 2.0, 3.0]]), 1)
        tensor([[3., 2., 1.]])
    """

    axis: int = -1

    def __post_init__(self) -> None:
        if self.axis >= 0:
            raise OptionError(f"axis counts from the end and is negative (-1: left to right), got {self.axis}.")

    @property
    def order(self) -> int:
        """Two."""
        return 2

    def act(self, x: Tensor, element: int) -> Tensor:
        """Mirrored, or not."""
        return x.flip(self.axis) if element else x


@final
@dataclass(frozen=True)
class QuarterTurns(Group):
    """Quarter turns of square pictures."""

    @property
    def order(self) -> int:
        """Four."""
        return 4

    def act(self, x: Tensor, element: int) -> Tensor:
        """Turned to the left so many times.

        Raises:
            ShapeError: If pictures are not square.
        """
        if x.ndim < 3 or x.shape[-1] != x.shape[-2]:
            raise ShapeError(f"Quarter turns need square pictures, got samples of shape {tuple(x.shape[1:])}.")
        return torch.rot90(x, element, (-2, -1))


@final
@dataclass(frozen=True)
class Together(Coupling):
    """Move noise and sample of each row by the same random element, then couple.

    Args:
        group: Under which the teacher of the pairs is equivariant.
        inner: What couples then, or its name.
        conditions: Conditions that are moved as well, such as a picture.

    Raises:
        OptionError: If the inner coupling would couple given pairs anew.
    """

    group: Group
    inner: Coupling | str = "given-pairs"
    conditions: tuple[str, ...] = ()
    accepts_pairs = True

    def __post_init__(self) -> None:
        law = coupling(self.inner)
        object.__setattr__(self, "inner", law)
        object.__setattr__(self, "gaussian", law.gaussian)
        if not law.accepts_pairs:
            raise OptionError(f"{type(law).__name__} would re-couple data that come in pairs. Use GivenPairs().")

    @property
    def law(self) -> Coupling:
        """The inner coupling, never a name."""
        return self.inner  # type: ignore[return-value]

    def __call__(self, x0: State, x1: State, cond: Cond, draws: Draws) -> Pairs:
        """Move, then couple.

        Raises:
            ConditionError: If the batch lacks a condition that is to move.
            ShapeError: If the group changes a shape.
        """
        missing = sorted(set(self.conditions) - cond.keys())
        if missing:
            raise ConditionError(f"Together moves the condition {missing[0]!r}, which the batch lacks: {sorted(cond)}.")
        element = (draws.uniform("group") * self.group.order).long().clamp_(max=self.group.order - 1)
        moved = {name: self._move(v, element) if name in self.conditions else v for name, v in cond.items()}
        first, second = (map_state(lambda v: self._move(v, element), x) for x in (x0, x1))
        return self.law(first, second, moved, draws)

    def _move(self, x: Tensor, element: Tensor) -> Tensor:
        out = x
        for k in range(1, self.group.order):
            out = cast(Tensor, where_rows((element == k).to(x.device), self.group.act(x, k), out))
        return out

    def prepare(self, x0: State, x1: State, cond: Cond, draws: Draws) -> Coupling:
        """Prepare the inner coupling."""
        inner = self.law.prepare(x0, x1, cond, draws)
        return self if inner is self.inner else replace(self, inner=inner)


@torch.no_grad()
def equivariance_gap(field: Field, group: Group, n: int = 32, steps: int = 8, cond: Cond | None = None) -> float:
    r"""How far a flow is from $F(g x_0) = g F(x_0)$: mean squared distance over that of unrelated samples.

    0: equivariant; about 1: the group says nothing about this flow.

    Args:
        field: The flow; it must know its data's shape.
        group: Acts on its samples.
        n: Rows of noise.
        steps: Of Heun's method.
        cond: Conditions with n rows; labels are balanced when they are not given.

    Raises:
        OptionError: For a field without a shape.
    """
    if field.shape is None:
        raise OptionError("This field does not know the shape of its data; set field.shape first.")
    given = conditions(field, n, dict(balanced(field, n, cond)))
    x0 = cast(Tensor, Draws(row_seeds(0, n)).normal(torch.empty(n, *field.shape, dtype=field.dtype), "gap"))
    x0 = x0.to(field.device) * level_of(field, grid_for(field, steps)[0])  # where sampling begins
    x1 = draw(field, n, steps=steps, source=x0, **cast("dict[str, Any]", given))
    unrelated = 2 * x1.double().flatten(1).var(0, correction=1).sum()
    gaps = []
    for k in range(1, group.order):
        there = draw(field, n, steps=steps, source=group.act(x0, k).contiguous(), **cast("dict[str, Any]", given))
        gaps.append((there - group.act(x1, k)).double().flatten(1).square().sum(1).mean() / unrelated.clamp(min=1e-12))
    return float(torch.stack(gaps).max())


def check_equivariant(field: Field, group: Group, cond: Cond | None = None, tolerance: float = 0.3) -> float:
    """The gap of a teacher, which must be small before its pairs are moved.

    Args:
        field: The teacher.
        group: The symmetry that is claimed.
        cond: Conditions of some rows.
        tolerance: Largest gap; a network that learned a symmetry from data has some.

    Raises:
        OptionError: If the gap is larger.
    """
    rows = {name: v[:32] for name, v in (cond or {}).items()}
    n = len(next(iter(rows.values()))) if rows else 32
    gap = equivariance_gap(field, group, n, cond=rows)
    if gap > tolerance:
        raise OptionError(
            f"The teacher is not equivariant under {group}: moved noise leads elsewhere (gap {gap:.2f} of at most "
            f"{tolerance:g}, 1 is unrelated). Leave the group out, or train the teacher on moved data.",
            gap=gap,
        )
    return gap
