"""What a claim measures on the way: values by figure, one a seed, and samples to show."""

from dataclasses import dataclass, field
from statistics import fmean
from typing import final

from torch import Tensor

__all__ = ["Found"]


@final
@dataclass
class Found:
    """Values by figure, one a seed, and samples of the first seed."""

    values: dict[str, list[float]] = field(default_factory=dict)
    pictures: dict[str, Tensor] = field(default_factory=dict)

    def add(self, name: str, value: float) -> None:
        """A value of the present seed."""
        self.values.setdefault(name, []).append(value)

    def mean(self, name: str) -> float:
        """Over seeds."""
        return fmean(self.values[name])
