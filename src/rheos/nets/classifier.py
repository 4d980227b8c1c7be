"""A small classifier of pictures whose features distances between sets of pictures look at."""

import math
from itertools import pairwise
from typing import Any, final

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from rheos.core.errors import OptionError, ShapeError

__all__ = ["FeatureNet"]

_STAGES = 3


@final
class FeatureNet(nn.Module):
    """Three convolutional stages, a dense layer of features, and the class scores.

    Pictures of any size are first resized (bilinear, antialiased) to the net's own, so one net measures runs at
    several sizes; a figure still belongs to one size, because resizing takes detail away.

    Args:
        channels: Of the pictures, whose values are in [-1, 1].
        classes: Number of classes.
        size: Side in pixels at which the net looks, a multiple of 8.
        width: Channels of the first stage; the next have two and four times as many.
        features: D, numbers a picture.
        dropout: Fraction of features dropped before the class scores while training.

    Raises:
        OptionError: If a number is out of range.

    Example:
        >>> import torch
        >>> net = FeatureNet(1, 10, 16).eval()
        >>> net.features(torch.zeros(2, 1, 28, 28)).shape, net(torch.zeros(2, 1, 8, 8)).shape
        (torch.Size([2, 64]), torch.Size([2, 10]))
    """

    def __init__(
        self, channels: int, classes: int, size: int = 32, *, width: int = 24, features: int = 64, dropout: float = 0.1
    ) -> None:
        super().__init__()
        if min(channels, classes, width, features) < 1 or size < 8 or size % 8 or not 0 <= dropout < 1:
            raise OptionError(
                "FeatureNet needs positive numbers, a size that 8 divides and a dropout in [0, 1), got "
                f"channels={channels}, classes={classes}, size={size}, width={width}, features={features}, "
                f"dropout={dropout}."
            )
        self.config: dict[str, Any] = {
            "channels": channels,
            "classes": classes,
            "size": size,
            "width": width,
            "features": features,
            "dropout": dropout,
        }
        self.channels, self.classes, self.size = channels, classes, size
        widths = [channels, *(width * 2**i for i in range(_STAGES))]
        self.stages = nn.Sequential(*(_stage(a, b) for a, b in pairwise(widths)))
        self.dense = nn.Linear(widths[-1] * (size // 2**_STAGES) ** 2, features)
        self.head = nn.Sequential(nn.Dropout(dropout), nn.Linear(features, classes))

    def features(self, x: Float[Tensor, "b *_d"]) -> Float[Tensor, "b d"]:
        """Features of pictures, the inputs of the last layer.

        Args:
            x: Pictures in [-1, 1], of any height and width.

        Raises:
            ShapeError: If x is no batch of pictures with the net's channels.
        """
        if x.ndim != 4 or x.shape[1] != self.channels:
            raise ShapeError(
                f"This feature net looks at pictures of shape (B, {self.channels}, height, width), "
                f"got {tuple(x.shape)}."
            )
        if x.shape[2:] != (self.size, self.size):
            x = functional.interpolate(x, size=(self.size, self.size), mode="bilinear", antialias=True)
        return functional.silu(self.dense(self.stages(x).flatten(1)))

    def forward(self, x: Float[Tensor, "b *_d"]) -> Float[Tensor, "b k"]:
        """Class scores (logits)."""
        return self.head(self.features(x))  # type: ignore[no-any-return]


def _stage(channels: int, width: int) -> nn.Sequential:
    groups = math.gcd(width, 8)
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, padding=1),
        nn.GroupNorm(groups, width),
        nn.SiLU(),
        nn.Conv2d(width, width, 3, padding=1),
        nn.GroupNorm(groups, width),
        nn.SiLU(),
        nn.AvgPool2d(2),
    )
