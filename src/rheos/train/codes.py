"""Code words of classes: corners of a simplex, numbers on a line, colours."""

from dataclasses import dataclass
from functools import cached_property
from typing import final

import torch
from torch import Tensor

from rheos.core.errors import OptionError, ShapeError
from rheos.train.semantics import Pool, WordCodec

__all__ = ["OneHotCode", "PaletteCode", "ScalarCode"]


@final
@dataclass(frozen=True)
class OneHotCode(WordCodec):
    r"""Corners of a simplex, $c\,(e_k - 1/K)$ in K channels: no order among classes. Recommended for small K.

    Args:
        classes: K.
        form: See `WordCodec`.
        pool: See `WordCodec`.
        size: See `WordCodec`.
        ignore: See `WordCodec`.
        grain: See `WordCodec`.
        spacing: Distance between any two words; unless given, 2 K / sqrt(K - 1): an element then has mean square 2,
            twice that of the noise at the other end of the path. Nearer words are confused more on the way; further
            ones make the semantics outweigh the picture in a network.
        beta: Half-width of the noise as a share of the half-gap, in [0, 1).

    Example:
        >>> codec = OneHotCode(3, spacing=2.0)
        >>> codec.decode(codec.encode(torch.tensor([2, 0]), (1, 8, 8)))
        tensor([2, 0])
    """

    spacing: float | None = None
    beta: float = 0.25

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.spacing is not None and not 0 < self.spacing < float("inf"):
            raise OptionError(f"spacing must be positive and finite, got {self.spacing}.")
        self._check_margin("Use a beta below 1.")

    @cached_property
    def words(self) -> Tensor:
        """Centred and scaled unit vectors."""
        return (torch.eye(self.classes, dtype=torch.float64) - 1 / self.classes) * (self._gap / 2**0.5)

    @property
    def _gap(self) -> float:
        k = self.classes
        return self.spacing if self.spacing is not None else 2 * k / (k - 1) ** 0.5

    @property
    def noise(self) -> float:
        """A share beta of the half-gap, which is spacing / sqrt 8 an element."""
        return self.beta * self._gap / 8**0.5


@final
@dataclass(frozen=True)
class ScalarCode(WordCodec):
    r"""$\frac\beta2 (\frac{2k}{K-1} - 1) + \frac{\beta}{2 (K-1)} (U - \frac12)$ in one channel.

    It puts the classes in an order, which the flow has to learn finely: fine after long training, poor after short.

    Args:
        classes: K.
        form: See `WordCodec`.
        pool: See `WordCodec`.
        size: See `WordCodec`.
        ignore: See `WordCodec`.
        grain: See `WordCodec`.
        beta: Codes lie in [-beta / 2, beta / 2].

    Example:
        >>> ScalarCode(5).words.flatten()
        tensor([-2., -1.,  0.,  1.,  2.], dtype=torch.float64)
    """

    beta: float = 4.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_margin("Use a positive beta.")

    @cached_property
    def words(self) -> Tensor:
        """Evenly spaced numbers."""
        k = torch.arange(self.classes, dtype=torch.float64)
        return (self.beta / 2 * (2 * k / (self.classes - 1) - 1))[:, None]

    @property
    def noise(self) -> float:
        """Half of the paper's interval, which is a quarter of the spacing."""
        return self.beta / 4 / (self.classes - 1)


@final
@dataclass(frozen=True)
class PaletteCode(WordCodec):
    r"""Colours in $[-1, 1]^3$ with noise $\beta (U - \frac12) / 127.5$: masks as pictures, labels as plain colours.

    Args:
        classes: K.
        form: See `WordCodec`.
        pool: See `WordCodec`; the paper reads colour maps by "distance".
        size: See `WordCodec`.
        ignore: See `WordCodec`.
        grain: See `WordCodec`.
        colours: K colours (r, g, b) in 0..255, say a data set's own; unless given, K evenly spaced ones of the grid
            {0, step, 2 step, ...}^3.
        grid: (levels, step) of that grid: the paper has (4, 75) for classes and (6, 50) for COCO.
        beta: Noise in steps of 1/255; the paper has 10 for CelebAMask, 6 for COCO, 4 for classes.

    Raises:
        OptionError: If the palette is too small for K, or not made of distinct colours.

    Example:
        >>> PaletteCode(3, colours=((0, 0, 0), (255, 0, 0), (0, 255, 0))).paint(torch.tensor([[[0, 1]]])).flatten(1)
        tensor([[  0, 255,   0,   0,   0,   0]], dtype=torch.uint8)
    """

    pool: Pool = "distance"
    colours: tuple[tuple[int, int, int], ...] | None = None
    grid: tuple[int, int] = (4, 75)
    beta: float = 4.0

    def __post_init__(self) -> None:
        super().__post_init__()
        levels, step = self.grid
        if self.colours is None and levels**3 < self.classes:
            raise OptionError(
                f"The palette of {levels}^3 = {levels**3} colours is too small for {self.classes} classes. Use a grid "
                "of more levels, such as (6, 50)."
            )
        if self.colours is None and not (step > 0 and (levels - 1) * step <= 255):
            raise OptionError(f"grid is (levels, step) with (levels - 1) step in 1..255, got {self.grid}.")
        if self.colours is not None:
            if len(self.colours) != self.classes:
                raise OptionError(f"The palette has {len(self.colours)} colours for {self.classes} classes.")
            if not all(len(c) == 3 and all(0 <= v <= 255 for v in c) for c in self.colours):
                raise OptionError("A palette holds colours (r, g, b) in 0..255.")
        self._check_margin("Use a smaller beta, or colours further apart.")

    @cached_property
    def palette(self) -> Tensor:
        """int64 (K, 3), in 0..255."""
        if self.colours is not None:
            return torch.tensor(self.colours, dtype=torch.int64)
        levels, step = self.grid
        pick = torch.linspace(0, levels**3 - 1, self.classes, dtype=torch.float64).round().long()
        return torch.stack([pick // levels**2, pick // levels % levels, pick % levels], 1) * step

    @cached_property
    def words(self) -> Tensor:
        """Colours in [-1, 1]."""
        return self.palette.double() / 127.5 - 1

    @property
    def noise(self) -> float:
        """The paper's interval, halved."""
        return self.beta / 255

    def paint(self, masks: Tensor) -> Tensor:
        """uint8 colour pictures (B, 3, H, W) of masks (B, H, W); pixels without a class are white."""
        ignored = masks == self.ignore if self.ignore is not None else torch.zeros_like(masks, dtype=torch.bool)
        colours = self.palette.to(masks.device)[torch.where(ignored, 0, masks.long())]
        return torch.where(ignored[..., None], 255, colours).movedim(-1, 1).to(torch.uint8)

    def read(self, pictures: Tensor) -> Tensor:
        """int64 masks (B, H, W) of uint8 colour pictures (B, 3, H, W): the nearest colour of each pixel.

        Raises:
            ShapeError: If they are not pictures of three channels.
        """
        if pictures.ndim != 4 or pictures.shape[1] != 3:
            raise ShapeError(
                f"A palette reads colour pictures (B, 3, H, W), got {tuple(pictures.shape)}. A mask that holds class "
                "numbers already needs no palette: use it as it is."
            )
        apart = (pictures.double()[:, None] - self.palette.double()[None, :, :, None, None]).square().sum(2)
        return apart.argmin(1)
