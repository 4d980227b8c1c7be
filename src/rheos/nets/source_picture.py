"""Encoders whose source is a picture: for captioning, depth and super-resolution."""

import math
from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional

from rheos.core.errors import ConditionError, OptionError, ShapeError, check_choice
from rheos.nets.blocks import GroupNorm
from rheos.nets.source_encoder import LOG_VARIANCE, Latent, SourceEncoder

__all__ = ["PictureEncoder", "Upsampled"]


def _no_mask(mask: Tensor | None) -> None:
    if mask is not None:
        raise ConditionError("A picture has no tokens, so a mask has no meaning.")


@final
class PictureEncoder(SourceEncoder):
    """Convolutions from a picture (or its latents) to a law over another picture, or over vectors.

    To a picture of the source's height and width it is convolutional throughout (depth from colour). To any other shape
    the feature map is halved until a side is at most four, flattened, and read by a linear layer (captions).

    Args:
        channels: Of the source.
        size: (height, width) of the source.
        shape: Of the target.
        width: Channels inside.
        depth: Convolutions before the last layer.

    Raises:
        OptionError: For sizes below 1.

    Example:
        >>> PictureEncoder(3, (8, 8), (1, 8, 8), width=8)(torch.zeros(2, 3, 8, 8)).mean.shape
        torch.Size([2, 1, 8, 8])
        >>> PictureEncoder(1, (8, 8), (16,), width=8)(torch.zeros(2, 1, 8, 8)).mean.shape
        torch.Size([2, 16])
    """

    def __init__(
        self, channels: int, size: Sequence[int], shape: Sequence[int], *, width: int = 64, depth: int = 3
    ) -> None:
        super().__init__(
            {"channels": channels, "size": list(size), "shape": list(shape), "width": width, "depth": depth}, shape
        )
        if min(channels, width, depth, *size) < 1 or len(size) != 2:
            raise OptionError(f"PictureEncoder needs positive sizes, got {self.config}.")
        self.source = (channels, *size)
        same = len(shape) == 3 and tuple(shape[1:]) == tuple(size)
        layers: list[nn.Module] = [nn.Conv2d(channels, width, 3, padding=1)]
        for _ in range(depth - 1):
            layers += [GroupNorm(width), nn.SiLU(), nn.Conv2d(width, width, 3, padding=1)]
        layers += [GroupNorm(width), nn.SiLU()]
        height, breadth = size
        while not same and max(height, breadth) > 4:
            layers += [nn.Conv2d(width, width, 3, stride=2, padding=1), GroupNorm(width), nn.SiLU()]
            height, breadth = (height + 1) // 2, (breadth + 1) // 2
        if same:
            layers += [nn.Conv2d(width, 2 * shape[0], 3, padding=1), nn.Flatten()]
        else:
            layers += [nn.Flatten(), nn.Linear(width * height * breadth, 2 * math.prod(self.shape))]
        self.layers = nn.Sequential(*layers)

    def forward(self, source: Tensor, mask: Tensor | None = None) -> Latent:
        """See `SourceEncoder.forward`.

        Raises:
            ShapeError: If a source has another shape.
        """
        _no_mask(mask)
        if tuple(source.shape[1:]) != self.source:
            raise ShapeError(f"This encoder was made for sources of {self.source}, got {tuple(source.shape[1:])}.")
        return self.shaped(self.layers(source.to(self.layers[0].weight.dtype)))  # type: ignore[arg-type]


@final
class Upsampled(SourceEncoder):
    r"""$N(\mathrm{up}(c), s^2 I)$: a small picture resized to the target's size, with noise; nothing is learned.

    For super-resolution, where source and target share a space: no contrastive loss and no KL.

    Args:
        shape: (C, H, W) of the target.
        std: s, positive; or 0 for none.
        mode: "bicubic", "bilinear" or "nearest".

    Raises:
        OptionError: For a negative std, or a shape that is no picture.
        UnknownOptionError: For an unknown mode.

    Example:
        >>> law = Upsampled((1, 4, 4), std=0.1, mode="nearest")(torch.ones(1, 1, 2, 2))
        >>> law.mean.unique(), law.log_variance.exp().sqrt().unique()
        (tensor([1.]), tensor([0.1000]))
    """

    def __init__(self, shape: Sequence[int], std: float = 0.1, mode: str = "bicubic") -> None:
        super().__init__({"shape": list(shape), "std": std, "mode": mode}, shape)
        check_choice("mode", mode, ("bicubic", "bilinear", "nearest"))
        if len(shape) != 3 or not 0 <= std < math.inf:
            raise OptionError(f"Upsampled makes pictures (C, H, W) with a std of at least 0, got {self.config}.")
        self.std, self.mode = std, mode

    def forward(self, source: Tensor, mask: Tensor | None = None) -> Latent:
        """See `SourceEncoder.forward`.

        Raises:
            ShapeError: If a source is no picture with the target's channels.
        """
        _no_mask(mask)
        if source.ndim != 4 or source.shape[1] != self.shape[0]:
            raise ShapeError(
                f"Sources to upsample have shape (B, {self.shape[0]}, height, width), got {tuple(source.shape)}."
            )
        corners = None if self.mode == "nearest" else False
        mean = functional.interpolate(source, self.shape[1:], mode=self.mode, align_corners=corners)
        level = 2 * math.log(self.std) if self.std else LOG_VARIANCE[0]
        return Latent(mean, torch.full_like(mean, max(level, LOG_VARIANCE[0])))
