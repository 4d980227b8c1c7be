"""A network that predicts at several resolutions: a transformer at the coarsest, convolutions above it (DiMR)."""

from typing import cast, final

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.nn import functional

from rheos.core.errors import OptionError, ShapeError
from rheos.nets.attention import Tap
from rheos.nets.base import Net
from rheos.nets.blocks import zeroed
from rheos.nets.conditioning import Conditioning
from rheos.nets.conditions import Conditions
from rheos.nets.dit import _Block, positions

__all__ = ["MultiRes"]


@final
class MultiRes(Net):
    r"""Pictures at sides $s / 2^{k}$, the coarsest first: transformer blocks, then ConvNeXt blocks at each finer side.

    Each resolution sees the state averaged down to its side, and the features of the one below; it predicts the target
    averaged down alike. `forward` gives the finest prediction, `scales` all of them, for a loss that weighs them by
    `scale_weights` ($\frac14, \frac12, 1$ for three).

    Args:
        channels: Of the pictures.
        size: Side in pixels, which 2^(stages - 1) and then the patch divide.
        stages: How many resolutions, at least 1.
        patch: Side of a patch at the coarsest resolution.
        dim: Width of a token there, divisible by 4 and by `heads`.
        width: Channels of the convolutions.
        depth: Transformer blocks.
        blocks: ConvNeXt blocks at each finer resolution.
        heads: Of every attention.
        classes: Labels 0..classes - 1 and the null label `classes`; 0 for none.
        embedding: Width of the `embedding` condition; 0 for none.

    Raises:
        OptionError: For sizes out of range or that do not divide.

    Example:
        >>> net = MultiRes(1, 8, stages=2, dim=16, width=8, depth=1, blocks=1, heads=2)
        >>> [y.shape[-1] for y in net.scales(torch.zeros(1, 1, 8, 8), torch.zeros(1))], net.scale_weights
        ([4, 8], (0.5, 1.0))

    Reference: Alleviating Distortion in Image Generation via Multi-Resolution Diffusion Models, Liu et al. (2024),
        https://arxiv.org/abs/2406.09416
    """

    def __init__(
        self,
        channels: int,
        size: int,
        *,
        stages: int = 2,
        patch: int = 2,
        dim: int = 128,
        width: int = 64,
        depth: int = 6,
        blocks: int = 3,
        heads: int = 4,
        classes: int = 0,
        embedding: int = 0,
    ) -> None:
        super().__init__(
            {
                "channels": channels, "size": size, "stages": stages, "patch": patch, "dim": dim, "width": width,
                "depth": depth, "blocks": blocks, "heads": heads, "classes": classes, "embedding": embedding,
            },
            Conditions(classes=classes, embedding=embedding),
        )  # fmt: skip
        if min(channels, size, stages, patch, dim, width, depth, blocks, heads) < 1:
            raise OptionError(f"MultiRes needs positive sizes, got {self.config}.")
        if dim % 4 or dim % heads or size % (patch * 2 ** (stages - 1)):
            raise OptionError(
                f"dim={dim} must be divisible by 4 and by heads={heads}, and a side of {size} by "
                f"{patch * 2 ** (stages - 1)} (patch and stages)."
            )
        self.channels, self.size, self.stages, self.patch = channels, size, stages, patch
        self.conditioning = Conditioning(dim, classes=classes, embedding=embedding)
        self.side = size // 2 ** (stages - 1) // patch
        self.enter = nn.Linear(channels * patch**2, dim)
        self.register_buffer("position", positions(self.side, self.side, dim), persistent=False)
        self.blocks = nn.ModuleList(_Block(dim, heads, f"blocks.{i}", cross=False) for i in range(depth))
        self.features = nn.Linear(dim, width * patch**2)
        self.finer = nn.ModuleList(_Stage(channels, width, dim, blocks) for _ in range(stages - 1))
        self.leave = nn.ModuleList(zeroed(nn.Conv2d(width, channels, 3, padding=1)) for _ in range(stages))

    @property
    def scale_weights(self) -> tuple[float, ...]:
        """Weights of the losses, the coarsest first: each half of the next."""
        return tuple(0.5 ** (self.stages - 1 - k) for k in range(self.stages))

    @property
    def attentions(self) -> tuple[str, ...]:
        """Names of the attention layers in the order in which they run, as taps see them."""
        return tuple(f"blocks.{i}.self" for i in range(len(self.blocks)))

    def forward(
        self, x: Float[Tensor, "b *_d"], t: Shaped[Tensor, "*_t"], *, taps: tuple[Tap, ...] = (), **cond: Tensor
    ) -> Float[Tensor, "b *_o"]:
        """The prediction at the finest resolution; see `Net.forward`.

        Raises:
            ShapeError: If x is no batch of pictures of the size that the network was made for.
        """
        return self._all(x, t, taps, cond, last_only=True)[-1]

    def scales(self, x: Tensor, t: Tensor, **cond: Tensor) -> tuple[Tensor, ...]:
        """The predictions at all resolutions, the coarsest first."""
        return tuple(self._all(x, t, (), cond, last_only=False))

    def _all(
        self, x: Tensor, t: Tensor, taps: tuple[Tap, ...], cond: dict[str, Tensor], last_only: bool
    ) -> list[Tensor]:
        self.check(x, t, cond)
        self.check_picture(x, self.channels)
        if tuple(x.shape[2:]) != (self.size, self.size):
            raise ShapeError(
                f"This network was made for {self.size} x {self.size} pixels, got {x.shape[2]} x {x.shape[3]}."
            )
        c = self.conditioning(t, **cond)
        seen = [x if k == 0 else functional.avg_pool2d(x, 2**k) for k in reversed(range(self.stages))]
        h = self.enter(functional.pixel_unshuffle(seen[0], self.patch).flatten(2).mT) + cast(Tensor, self.position)
        for block in self.blocks:
            h = block(h, c, None, taps)
        h = functional.pixel_shuffle(self.features(h).mT.unflatten(2, (self.side, self.side)), self.patch)
        out = []
        for k, leave in enumerate(self.leave):
            if k:
                h = self.finer[k - 1](seen[k], h, c)
            if not last_only or k == self.stages - 1:
                out.append(leave(h))
        return out


class _Stage(nn.Module):
    """The state at one side joined to the features below, then ConvNeXt blocks."""

    def __init__(self, channels: int, width: int, condition: int, blocks: int) -> None:
        super().__init__()
        self.enter = nn.Conv2d(channels + width, width, 3, padding=1)
        self.blocks = nn.ModuleList(_ConvNeXt(width, condition) for _ in range(blocks))

    def forward(self, x: Tensor, below: Tensor, c: Tensor) -> Tensor:
        below = functional.interpolate(below, scale_factor=2.0, mode="nearest")
        h: Tensor = self.enter(torch.cat((x, below), 1))
        for block in self.blocks:
            h = block(h, c)
        return h


class _ConvNeXt(nn.Module):
    """A 7 x 7 convolution of each channel, a modulated layer norm, two dense layers a pixel; zero at the start."""

    def __init__(self, width: int, condition: int) -> None:
        super().__init__()
        self.spread = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.modulation = zeroed(nn.Linear(condition, 2 * width))
        self.dense = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), zeroed(nn.Linear(4 * width, width)))

    def forward(self, h: Tensor, c: Tensor) -> Tensor:
        scale, shift = self.modulation(c)[:, None, None].chunk(2, 3)
        inner = self.spread(h).permute(0, 2, 3, 1)
        inner = torch.addcmul(shift, functional.layer_norm(inner, inner.shape[-1:]), scale + 1)
        whole: Tensor = h + self.dense(inner).permute(0, 3, 1, 2)
        return whole
