"""What is known of a set of samples besides its numbers."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, final

from torch import Tensor

from rheos.core.draws import Draws
from rheos.data.recipe import Range, Recipe

__all__ = ["About", "Coded"]


class Coded(ABC):
    """What stands between stored rows and samples where these are not the same numbers: latents, for example."""

    delivers: Range | None
    """(low, high) of pictures of samples; None if they are no pictures."""
    mirrored: bool
    """Whether rows are stored for either side, so that flips can choose."""
    measured: bool = False
    """Whether numbers of it were measured on all rows: a part of them, read alone, would then be coded otherwise."""

    @abstractmethod
    def shape(self, stored: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of one sample."""

    @abstractmethod
    def samples(self, stored: Tensor, flips: Tensor | None, draws: Draws | None) -> Tensor:
        """Samples of stored rows; `flips` (B,) says which are mirrored, `draws` is one stream a row for the rest."""

    @abstractmethod
    def decode(self, x: Tensor) -> Tensor:
        """Pictures, in the range `delivers`, of samples."""

    @abstractmethod
    def rows(self, index: Tensor) -> "Coded":
        """The same for the rows at `index`."""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Changes when what the rows stand for changes."""


@final
@dataclass(frozen=True)
class About:
    """What is known of a set besides its numbers.

    Args:
        name: For people.
        class_names: One a class; empty for an unlabelled set.
        range: (low, high) of the stored numbers; None if they have no range.
        delivers: (low, high) that batches are mapped to; None leaves the numbers alone.
        notes: What the reader decided on the user's behalf, a sentence each.
        recipe: How to read the set again.
        coded: What makes samples of the stored rows; None where they are the samples.
        real: For samples of a flow: how `load` reads the rows that the flow learned from.
        mask_classes: How many classes the masks of the whole set have; 0 where nobody counted.
    """

    name: str = "data"
    class_names: tuple[str, ...] = ()
    range: Range | None = None
    delivers: Range | None = None
    notes: tuple[str, ...] = ()
    recipe: Recipe = field(default_factory=Recipe)
    coded: Coded | None = None
    real: Mapping[str, Any] | None = None
    mask_classes: int = 0
