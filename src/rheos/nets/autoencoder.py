r"""A small convolutional autoencoder of pictures with a Gaussian posterior.

The encoder halves a picture until its side is the f-th part and gives mean and logarithm of the variance of
$q(z \mid x) = N(\mu(x), \mathrm{diag}\,\sigma^2(x))$; the decoder doubles it back. Pictures are
in [-1, 1].

Reference: Auto-Encoding Variational Bayes, Kingma and Welling (2014); Latent Diffusion, Rombach et al. (2022).
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from rheos.core.errors import OptionError, ShapeError
from rheos.nets.blocks import GroupNorm, zeroed

__all__ = ["Autoencoder", "Posterior", "Reconstruction"]

FACTORS = (1, 2, 4, 8, 16)
LOG_VARIANCE = (-30.0, 20.0)
"""Between which the logarithm of the posterior's variance is kept, so that its exponential is a number."""


class Posterior(NamedTuple):
    """Mean and standard deviation of the latents of each row; a std of None is a deterministic encoder's."""

    mean: Tensor
    std: Tensor | None = None


class Reconstruction(NamedTuple):
    """What `Autoencoder.forward` returns: the picture decoded from a sample, and the posterior that it came from."""

    x: Tensor
    mean: Tensor
    log_variance: Tensor


@final
class Autoencoder(nn.Module):
    """Pictures (B, C, H, W) to latents (B, latent, H / factor, W / factor) and back.

    Args:
        channels: Of the pictures.
        latent: Channels of the latents.
        factor: By how much height and width shrink: 1, 2, 4, 8 or 16.
        width: Channels at full size.
        multipliers: Channels of each size as multiples of `width`; 1, 2, 4, 4, 4 as far as needed, unless given.
        blocks: Residual blocks a size and side.
        channels_last: Whether feature maps keep the channels last in memory; see `UNet`.

    Raises:
        OptionError: For a factor that is no power of two up to 16, or a number out of range.

    Example:
        >>> net = Autoencoder(channels=3, factor=4, width=8)
        >>> posterior = net.encode(torch.zeros(2, 3, 16, 16))
        >>> posterior.mean.shape, net.decode(posterior.mean).shape
        (torch.Size([2, 4, 4, 4]), torch.Size([2, 3, 16, 16]))
    """

    def __init__(
        self,
        channels: int,
        *,
        latent: int = 4,
        factor: int = 4,
        width: int = 32,
        multipliers: Sequence[int] | None = None,
        blocks: int = 1,
        channels_last: bool = True,
    ) -> None:
        super().__init__()
        if factor not in FACTORS:
            raise OptionError(f"factor must be one of {', '.join(map(str, FACTORS))}, got {factor}.")
        halvings = int(math.log2(factor))
        grown = (1, 2, 4, 4, 4)[: halvings + 1] if multipliers is None else tuple(multipliers)
        if min(channels, latent, width, blocks, *grown) < 1 or len(grown) != halvings + 1:
            raise OptionError(
                f"An autoencoder of factor {factor} has {halvings + 1} sizes, each with a positive multiplier, and "
                f"positive channels, latent, width and blocks; got multipliers {list(grown)}, {channels}, {latent}, "
                f"{width} and {blocks}."
            )
        self.config: dict[str, Any] = {
            "channels": channels,
            "latent": latent,
            "factor": factor,
            "width": width,
            "multipliers": None if multipliers is None else list(multipliers),
            "blocks": blocks,
            "channels_last": channels_last,
        }
        self.channels, self.latent, self.factor = channels, latent, factor
        self.conditions: frozenset[str] = frozenset()
        widths = [width * m for m in grown]
        self.encoder = _encoder(channels, widths, blocks, 2 * latent)
        self.decoder = _decoder(latent, widths[::-1], blocks, channels)
        if channels_last:
            self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def encode(self, x: Float[Tensor, "b *_d"]) -> Posterior:
        """The posterior of each picture.

        Raises:
            ShapeError: If x is no batch of pictures with these channels, or the factor does not divide its sides.
        """
        mean, log_variance = self._moments(x)
        return Posterior(mean, (0.5 * log_variance).exp())

    def decode(self, z: Float[Tensor, "b *_d"]) -> Float[Tensor, "b *_e"]:
        """Pictures of latents.

        Raises:
            ShapeError: If z has other channels than `latent`.
        """
        if z.ndim != 4 or z.shape[1] != self.latent:
            raise ShapeError(
                f"Latents have the shape (B, {self.latent}, height, width), got {tuple(z.shape)}.", shape=tuple(z.shape)
            )
        return self.decoder(z)  # type: ignore[no-any-return]

    def forward(self, x: Float[Tensor, "b *_d"], noise: Tensor | None = None) -> Reconstruction:
        """Encode, sample, decode.

        Args:
            x: Pictures.
            noise: Standard normal numbers of the latents' shape; None decodes the mean.

        Raises:
            ShapeError: If the noise has another shape: an autoencoder is no flow, and takes no time.
        """
        mean, log_variance = self._moments(x)
        z = mean
        if noise is not None:
            if noise.shape != mean.shape:
                raise ShapeError(
                    f"An autoencoder is no flow: it takes noise of shape {tuple(mean.shape)}, got {tuple(noise.shape)}."
                    " Train a flow on its latents: rheos.data.load(..., codec=the autoencoder's run)."
                )
            z = torch.addcmul(mean, (0.5 * log_variance).exp(), noise)
        return Reconstruction(self.decode(z), mean, log_variance)

    def _moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if x.ndim != 4 or x.shape[1] != self.channels:
            raise ShapeError(f"x must be pictures of shape (B, {self.channels}, height, width), got {tuple(x.shape)}.")
        if x.shape[2] % self.factor or x.shape[3] % self.factor:
            raise ShapeError(
                f"Height and width must be divisible by the factor {self.factor}, got {x.shape[2]} x {x.shape[3]}. "
                "Resize or pad the pictures.",
                factor=self.factor,
            )
        mean, log_variance = self.encoder(x).chunk(2, 1)
        return mean, log_variance.clamp(*LOG_VARIANCE)


def _encoder(channels: int, widths: list[int], blocks: int, out: int) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Conv2d(channels, widths[0], 3, padding=1)]
    for level, wide in enumerate(widths):
        if level:
            layers.append(nn.Conv2d(widths[level - 1], wide, 4, stride=2, padding=1))
        layers += [_Block(wide) for _ in range(blocks)]
    return nn.Sequential(*layers, GroupNorm(widths[-1]), nn.SiLU(), nn.Conv2d(widths[-1], out, 3, padding=1))


def _decoder(latent: int, widths: list[int], blocks: int, out: int) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Conv2d(latent, widths[0], 3, padding=1)]
    for level, wide in enumerate(widths):
        if level:
            layers.append(nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(widths[level - 1], wide, 3, padding=1)))
        layers += [_Block(wide) for _ in range(blocks)]
    return nn.Sequential(*layers, GroupNorm(widths[-1]), nn.SiLU(), nn.Conv2d(widths[-1], out, 3, padding=1))


class _Block(nn.Module):
    """h + conv(silu(norm(conv(silu(norm(h)))))), nothing but h at the start."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm_in, self.norm_out = GroupNorm(channels), GroupNorm(channels)
        self.conv_in = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv_out = zeroed(nn.Conv2d(channels, channels, 3, padding=1))

    def forward(self, h: Tensor) -> Tensor:
        inner = self.conv_in(functional.silu(self.norm_in(h)))
        return h + self.conv_out(functional.silu(self.norm_out(inner)))  # type: ignore[no-any-return]
