"""Networks that bring their own words and pictures: a pipeline's text encoders and autoencoder around a network."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from torch import Tensor

from rheos.core.base import Cond
from rheos.core.field import Field

__all__ = ["Prompted", "prompted"]


@runtime_checkable
class Prompted(Protocol):
    """A network that reads prompts and decodes its samples by itself, as those of `rheos.adapters` do."""

    delivers: tuple[float, float]
    """Range of its pictures."""

    @property
    def surrounded(self) -> bool:
        """Whether what reads and decodes is known: a network alone can do neither."""

    def encode_prompt(self, prompt: str | Sequence[str], shape: tuple[int, ...] | None = None) -> Cond:
        """Conditions of prompts, a row each."""

    def decode(self, latents: Tensor) -> Tensor:
        """Pictures of samples."""


def prompted(field: Field) -> Prompted | None:
    """What reads the prompts of a field and decodes its samples; None where nothing inside it can.

    Args:
        field: A pipeline's field, or a student of one by whatever method.

    Example:
        >>> from rheos.nets import MLP
        >>> print(prompted(Field(MLP(2))))
        None
    """
    return next((m for m in field.modules() if isinstance(m, Prompted) and m.surrounded), None)
