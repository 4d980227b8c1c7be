"""Holes to fill in: masks of 1 where a picture is hidden, drawn by key.

Large holes as inpainting papers train with: thick random strokes and boxes, both over the same picture. All masks of
a batch are drawn at once, and each is a function of its own stream.

Reference: MAT, Li et al. (2022), https://arxiv.org/abs/2203.15270, appendix; Flow Matching in Latent Space, sec. 5.
"""

import math
import warnings
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from rheos.core.draws import Draws
from rheos.core.errors import OptionError, ShapeError

__all__ = ["Holes", "check_hole", "halves"]

MOST = 0.95
"""A hole that is larger than this fraction of all pictures is probably a mask of what is visible."""


@final
@dataclass(frozen=True)
class Holes:
    """Random strokes and boxes.

    Args:
        strokes: (fewest, most) strokes in a picture.
        corners: Straight parts of a stroke.
        reach: Longest part of a stroke, as a fraction of the shorter side.
        thickness: (thinnest, thickest) of a stroke, as fractions of the shorter side.
        boxes: (fewest, most) boxes in a picture.
        side: (shortest, longest) side of a box, as fractions of the picture's.

    Raises:
        OptionError: For numbers out of range, or no holes at all.

    Example:
        >>> from rheos.core.draws import row_seeds
        >>> Holes()(Draws(row_seeds(0, 3)), 16, 16).shape
        torch.Size([3, 1, 16, 16])
    """

    strokes: tuple[int, int] = (1, 4)
    corners: int = 6
    reach: float = 0.4
    thickness: tuple[float, float] = (0.05, 0.15)
    boxes: tuple[int, int] = (0, 2)
    side: tuple[float, float] = (0.2, 0.6)

    def __post_init__(self) -> None:
        for name in ("strokes", "boxes", "thickness", "side"):
            low, high = getattr(self, name)
            if not 0 <= low <= high or (name in ("thickness", "side") and high > 1):
                raise OptionError(f"{name} must be two increasing numbers of at least 0, got {low} and {high}.")
        if self.corners < 1 or not self.reach > 0:
            raise OptionError(f"corners and reach must be positive, got {self.corners} and {self.reach}.")
        if self.strokes[1] == 0 and self.boxes[1] == 0:
            raise OptionError("Holes need strokes or boxes: with neither, nothing is hidden.")

    def __call__(self, draws: Draws, height: int, width: int) -> Float[Tensor, "b 1 _h _w"]:
        """(B, 1, height, width) float32: 1 in the hole, 0 where the picture is visible."""
        y = torch.arange(height, dtype=torch.float32, device=draws.seed.device)[:, None] + 0.5
        x = torch.arange(width, dtype=torch.float32, device=draws.seed.device)[None] + 0.5
        hole = torch.zeros(len(draws), height, width, dtype=torch.bool, device=draws.seed.device)
        for k in range(self.strokes[1]):
            hole |= self._stroke(draws.fold("stroke", k), y, x) & self._present(draws, "strokes", k)
        for k in range(self.boxes[1]):
            hole |= self._box(draws.fold("box", k), y, x) & self._present(draws, "boxes", k)
        return hole[:, None].float()

    def _present(self, draws: Draws, name: str, k: int) -> Tensor:
        """(B, 1, 1): whether a picture has a k-th one."""
        low, high = {"strokes": self.strokes, "boxes": self.boxes}[name]
        count = low + (draws.uniform(name) * (high - low + 1)).floor()
        return (count > k)[:, None, None]

    def _stroke(self, draws: Draws, y: Tensor, x: Tensor) -> Tensor:
        """A walk with turns; whatever is nearer to it than half its thickness."""
        height, width = len(y), x.shape[1]
        short = min(height, width)
        u = draws.uniform("walk", shape=(3 + 2 * self.corners,)).float()
        at_y, at_x = u[:, 0] * height, u[:, 1] * width
        radius = short * (self.thickness[0] + u[:, 2] * (self.thickness[1] - self.thickness[0])) / 2
        hole = torch.zeros(len(u), height, width, dtype=torch.bool, device=y.device)
        for k in range(self.corners):
            angle, length = 2 * math.pi * u[:, 3 + 2 * k], short * self.reach * u[:, 4 + 2 * k]
            to_y = (at_y + length * angle.sin()).clamp(0, height)
            to_x = (at_x + length * angle.cos()).clamp(0, width)
            hole |= _near(y, x, (at_y, at_x), (to_y, to_x), radius)
            at_y, at_x = to_y, to_x
        return hole

    def _box(self, draws: Draws, y: Tensor, x: Tensor) -> Tensor:
        height, width = len(y), x.shape[1]
        u = draws.uniform("corner", shape=(4,)).float()[:, :, None, None]
        tall, wide = (
            (self.side[0] + u[:, k] * (self.side[1] - self.side[0])) * n for k, n in ((0, height), (1, width))
        )
        top, left = u[:, 2] * (height - tall), u[:, 3] * (width - wide)
        inside: Tensor = (y >= top) & (y < top + tall) & (x >= left) & (x < left + wide)
        return inside


def _near(y: Tensor, x: Tensor, a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor], radius: Tensor) -> Tensor:
    """(B, H, W): pixels whose distance from the segment a b is below the radius."""
    ay, ax, by, bx, r = (v[:, None, None] for v in (*a, *b, radius))
    dy, dx = by - ay, bx - ax
    along = (((y - ay) * dy + (x - ax) * dx) / (dy.square() + dx.square()).clamp(min=1e-12)).clamp(0, 1)
    return (y - ay - along * dy).square() + (x - ax - along * dx).square() < r.square()


def halves(rows: int, height: int, width: int, which: str = "lower") -> Float[Tensor, "b 1 _h _w"]:
    """One half of every picture hidden.

    Args:
        rows: B.
        height: In pixels.
        width: In pixels.
        which: "lower", "upper", "left" or "right".

    Example:
        >>> halves(1, 2, 2)[0, 0]
        tensor([[0., 0.],
                [1., 1.]])
    """
    from rheos.core.errors import check_choice

    parts = {
        "upper": (slice(0, height // 2), slice(None)),
        "lower": (slice(height // 2, None), slice(None)),
        "left": (slice(None), slice(0, width // 2)),
        "right": (slice(None), slice(width // 2, None)),
    }
    check_choice("half", which, parts)
    hole = torch.zeros(rows, 1, height, width)
    hole[:, :, *parts[which]] = 1.0
    return hole


def check_hole(hole: Tensor, pictures: Tensor) -> None:
    """Raise unless `hole` is a mask of 0 and 1 of the pictures' size; warn where it hides nearly everything.

    Args:
        hole: (B, 1, H, W): 1 where a picture is hidden.
        pictures: (B, C, H, W).

    Raises:
        ShapeError: If it has another shape.
        OptionError: If it holds other numbers than 0 and 1.
        UserWarning: If more than 95 % is hidden: such a mask probably says what is visible.
    """
    wanted = (len(pictures), 1, *pictures.shape[2:])
    if tuple(hole.shape) != wanted:
        raise ShapeError(f"A hole has the shape of its pictures with one channel, {wanted}, got {tuple(hole.shape)}.")
    if not bool(((hole == 0) | (hole == 1)).all()):
        raise OptionError(
            f"A hole holds 1 (hidden) and 0 (visible), got values from {float(hole.min()):g} to {float(hole.max()):g}."
        )
    share = float(hole.double().mean())
    if share > MOST:
        warnings.warn(
            f"{share:.0%} of the pictures is hidden. Pass a mask of what is visible as 1 - mask: 1 is the hole.",
            UserWarning,
            stacklevel=3,
        )
