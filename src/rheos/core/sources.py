"""Sources: the law at t = 0. All randomness is keyed by row, so batches may be split or merged."""

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from rheos.core.base import Cond, Source
from rheos.core.draws import Draws
from rheos.core.errors import ConditionError, OptionError, ShapeError, check_choice
from rheos.core.spaces import Euclidean, Space
from rheos.core.state import State, map_state, map_state_named, rows

__all__ = ["Dataset", "FromCondition", "FromSeed", "FromSpace", "Gaussian", "Uniform", "source"]


@final
@dataclass(frozen=True)
class Gaussian(Source):
    """N(0, std^2 I); scores and SDEs are defined for std = 1 only.

    Args:
        std: Standard deviation, positive.

    Example:
        >>> import torch
        >>> noise = Gaussian()(torch.empty(4, 2), {}, Draws(torch.arange(4)))
        >>> torch.equal(Gaussian()(torch.empty(1, 2), {}, Draws(torch.tensor([2]))), noise[2:3])
        True
    """

    std: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.std < float("inf"):
            raise OptionError(f"std must be positive and finite, got {self.std}.")
        object.__setattr__(self, "gaussian", self.std == 1.0)
        object.__setattr__(self, "noise", self.std == 1.0)

    def __call__(self, like: State, cond: Cond, draws: Draws) -> State:
        """Normal rows."""
        noise = draws.normal(like, "source")
        return noise if self.std == 1.0 else map_state(lambda v: v.mul_(self.std), noise)


@final
@dataclass(frozen=True)
class Uniform(Source):
    """Every element uniform on (low, high).

    Args:
        low: Lower end.
        high: Upper end, above low.
    """

    low: float = -1.0
    high: float = 1.0

    def __post_init__(self) -> None:
        if not -float("inf") < self.low < self.high < float("inf"):
            raise OptionError(f"A uniform source needs finite low < high, got {self.low} and {self.high}.")

    def __call__(self, like: State, cond: Cond, draws: Draws) -> State:
        """Uniform rows."""
        if isinstance(like, dict):
            return map_state_named(lambda name, v: self._one(v, draws.fold(name)), like)
        return self._one(like, draws)

    def _one(self, like: Tensor, draws: Draws) -> Tensor:
        _check_rows(like, draws)
        u = draws.to(like.device).uniform("source", shape=like.shape[1:])
        return u.mul_(self.high - self.low).add_(self.low).to(like.dtype)


@final
@dataclass(frozen=True, eq=False)
class Dataset(Source):
    """Rows of a data set, drawn with replacement: flows from one data set to another.

    Args:
        x: The rows; a tensor, or a dict of tensors of one length.

    Raises:
        OptionError: If there are none.

    Example:
        >>> import torch
        >>> Dataset(torch.tensor([[5.0]]))(torch.empty(2, 1), {}, Draws(torch.arange(2))).flatten()
        tensor([5., 5.])
    """

    x: State

    def __post_init__(self) -> None:
        if rows(self.x) == 0:
            raise OptionError("A data set used as source needs at least one row.")

    def __call__(self, like: State, cond: Cond, draws: Draws) -> State:
        """Rows of the data set, cast to the dtype and device of `like`."""
        _check_rows(like, draws)
        n = rows(self.x)
        index = (draws.uniform("source") * n).long().clamp_(max=n - 1)

        def take(rows_: Tensor, want: Tensor) -> Tensor:
            if rows_.shape[1:] != want.shape[1:]:
                raise ShapeError(f"Source rows have shape {tuple(rows_.shape[1:])}, data rows {tuple(want.shape[1:])}.")
            return rows_[index.to(rows_.device)].to(want)

        return map_state(take, self.x, like)


@final
@dataclass(frozen=True)
class FromCondition(Source):
    """A column of the batch as x0: the low-resolution picture of a pair, or another modality's latent.

    Args:
        name: The condition, of the data's row shape.
        keep: Whether the network gets the column as a condition too.
        noise: Whether the column holds the noise of pairs; samples then begin with fresh noise, and need no column.
    """

    name: str
    keep: bool = False
    noise: bool = False

    @property
    def consumes(self) -> tuple[str, ...]:
        """The column, unless it is kept."""
        return () if self.keep else (self.name,)

    def __call__(self, like: State, cond: Cond, draws: Draws) -> State:
        """The column, cast to the dtype and device of `like`.

        Raises:
            ConditionError: If the batch has no such column.
            ShapeError: If its shape is not the data's, or the state is a dict.
        """
        if self.name not in cond:
            known = ", ".join(sorted(cond)) or "none"
            raise ConditionError(f"The source is the condition {self.name!r}, which the batch lacks; it has: {known}.")
        column = cond[self.name]
        if isinstance(like, dict):
            raise ShapeError(f"One column cannot be the source of a state with parts {sorted(like)}.")
        if column.shape != like.shape:
            raise ShapeError(
                f"The source column {self.name!r} has shape {tuple(column.shape)}, the data {tuple(like.shape)}. "
                "Resize or encode it to the data's shape."
            )
        return column.to(like)


@final
@dataclass(frozen=True)
class FromSeed(Source):
    """The noise of a row's own seed: eight bytes stand for x0, and what `draw` begins with comes back bit by bit.

    Args:
        name: The column of int64 seeds, which is used up.

    Example:
        >>> import torch
        >>> seed = torch.tensor([5, 9])
        >>> noise = FromSeed()(torch.empty(2, 3), {"seed": seed}, Draws(torch.arange(2)))
        >>> torch.equal(noise, Draws(seed).normal(torch.empty(2, 3), "source"))
        True
    """

    name: str = "seed"
    noise = True

    @property
    def consumes(self) -> tuple[str, ...]:
        """The column."""
        return (self.name,)

    def __call__(self, like: State, cond: Cond, draws: Draws) -> State:
        """Normal rows.

        Raises:
            ConditionError: If the batch has no such column, or it is not int64 with one number a row.
        """
        if self.name not in cond:
            known = ", ".join(sorted(cond)) or "none"
            raise ConditionError(f"The source is the seed {self.name!r}, which the batch lacks; it has: {known}.")
        seed = cond[self.name]
        if seed.dtype != torch.int64 or seed.shape != (rows(like),):
            raise ConditionError(
                f"The seeds {self.name!r} must be int64 ({rows(like)},), got {seed.dtype} {tuple(seed.shape)}."
            )
        return Draws(seed).normal(like, "source")


@final
@dataclass(frozen=True)
class FromSpace(Source):
    """A space's own source law: N(0, I) in flat space, uniform on rotations.

    Args:
        space: The geometry.
    """

    space: Space

    def __post_init__(self) -> None:
        object.__setattr__(self, "gaussian", isinstance(self.space, Euclidean))
        object.__setattr__(self, "noise", True)  # of the path's space, whatever it is

    def __call__(self, like: State, cond: Cond, draws: Draws) -> State:
        """Random points of the space."""
        return self.space.random(like, draws, "source")


def _check_rows(like: State, draws: Draws) -> None:
    if rows(like) != len(draws):
        raise OptionError(f"Draws of {len(draws)} rows asked for a source of {rows(like)} rows.")


def source(name: str | Source) -> Source:
    """A source by name, "gaussian" or "uniform"; a `Source` passes through.

    Raises:
        UnknownOptionError: With near names.

    Example:
        >>> source("gaussian")
        Gaussian(std=1.0)
    """
    if isinstance(name, Source):
        return name
    leaves: dict[str, type[Source]] = {"gaussian": Gaussian, "uniform": Uniform}
    check_choice("source", name, leaves)
    return leaves[name]()
