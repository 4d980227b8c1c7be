r"""Adaptive weights: each row's squared error divided by a power of itself."""

from dataclasses import dataclass
from typing import final

from torch import Tensor

from rheos.core.base import Context, Premetric
from rheos.core.errors import OptionError
from rheos.core.premetrics import MSE
from rheos.core.state import State, tensors

__all__ = ["Adaptive"]


@final
@dataclass(frozen=True)
class Adaptive(Premetric):
    r"""$e / \mathrm{sg}(e + c)^q$ with $e = \lVert \hat y - y \rVert^2$, the sum over the whole row.

    With q = 1 the value is nearly constant and says nothing; the gradient is that of $\ln(e + c)$. With q = 1/2 it is
    like pseudo-Huber's, with q = 0 plain squares.

    Args:
        power: q, in [0, 1].
        c: Positive.

    Raises:
        OptionError: For values out of range.

    Example:
        >>> import torch
        >>> x = torch.zeros(1, 4)
        >>> Adaptive(0.5, 9.0)(x + 2, x, Context(x, torch.zeros(1)))
        tensor([3.2000])

    Reference: Mean Flows, Geng et al. (2025), https://arxiv.org/abs/2505.13447, eq. 22.
    """

    power: float = 1.0
    c: float = 0.01

    def __post_init__(self) -> None:
        if not 0 <= self.power <= 1:
            raise OptionError(f"power must lie in [0, 1], got {self.power}.")
        if not 0 < self.c < float("inf"):
            raise OptionError(f"c must be positive and finite, got {self.c}.")

    def __call__(self, prediction: State, target: State, context: Context) -> Tensor:
        """(B,) weighted squared errors."""
        parts = tensors(prediction)
        n = sum(v[0].numel() for v in parts)
        mean = {str(k): v.flatten(1).shape[1] / n for k, v in enumerate(parts)}
        weights = None if not isinstance(prediction, dict) else dict(zip(prediction, mean.values(), strict=True))
        error = MSE(weights)(prediction, target, context) * n
        return error / (error.detach() + self.c) ** self.power
