"""Shapes cut out of textures: pictures whose masks are known, made of three real textures.

Brick, grass and gravel of scikit-image, at a third of their size, so that a shape holds enough of a pattern. A picture
has a background of one texture and two shapes (ellipses, rectangles, triangles) of the other two, at random places of
the textures. Training and test take their pixels from different parts of the textures. All three are grey and of much
the same brightness (their contrast is doubled around it), so a class is a pattern.
"""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rheos.core.draws import Draws, row_seeds
from rheos.core.errors import missing_extra
from rheos.data import About, Data

__all__ = ["TEXTURES", "shapes_on_textures"]

TEXTURES = ("brick", "grass", "gravel")
MIDDLE = 118.0
"""Mean grey of the three; their own means are 111, 118 and 126."""


def shapes_on_textures(n: int, size: int = 32, *, held_out: bool = False, seed: int = 0) -> Data:
    """Grey pictures with masks: the class of a pixel is its texture.

    Args:
        n: How many.
        size: Side in pixels.
        held_out: Whether pixels come from the last quarter of each texture, which training never sees.
        seed: Of shapes and places.
    """
    draws = Draws(row_seeds(seed, n)).fold("textures", str(held_out))
    sheets = [_texture(name, held_out) for name in TEXTURES]
    patches = torch.stack([_patches(sheet, draws.fold(k), size) for k, sheet in enumerate(sheets)], 1)
    order = draws.uniform("order", shape=(3,)).argsort(1)
    masks = order[:, :1, None].expand(n, size, size).clone()
    for k in (1, 2):
        masks = torch.where(_shape(draws.fold("shape", k), size), order[:, k, None, None], masks)
    return Data(patches.gather(1, masks[:, None]), {"mask": masks}, About("textures"), conditions=("mask",))


def _texture(name: str, held_out: bool) -> Tensor:
    """uint8 (H, W): the part for training or for the test."""
    from PIL import Image

    spec = find_spec("skimage")
    if spec is None or spec.origin is None:
        raise missing_extra("The textures of the claim 'symmflow'", "scikit-image", "data")
    with Image.open(Path(spec.origin).parent / "data" / f"{name}.png") as picture:
        small = picture.convert("L").resize((picture.width // 3, picture.height // 3), Image.Resampling.LANCZOS)
    grey = (MIDDLE + 2 * (np.array(small, dtype=np.float32) - MIDDLE)).round().clip(0, 255)
    sheet = torch.from_numpy(grey.astype(np.uint8))
    cut = sheet.shape[0] * 3 // 4
    return sheet[cut:] if held_out else sheet[:cut]


def _patches(sheet: Tensor, draws: Draws, size: int) -> Tensor:
    """(N, size, size): crops at random places."""
    place = draws.uniform("place", shape=(2,))
    steps = torch.arange(size)
    top = (place[:, 0] * (sheet.shape[0] - size + 1)).long()[:, None, None] + steps[:, None]
    left = (place[:, 1] * (sheet.shape[1] - size + 1)).long()[:, None, None] + steps
    return sheet[top, left]


def _shape(draws: Draws, size: int) -> Tensor:
    """(N, size, size): inside an ellipse, a rectangle or a triangle, turned at random."""
    u = draws.uniform("form", shape=(6,)).float()[..., None, None]
    grid = torch.linspace(-1, 1, size)
    y, x = grid[:, None] - (1.2 * u[:, 0] - 0.6), grid - (1.2 * u[:, 1] - 0.6)
    angle = 2 * torch.pi * u[:, 2]
    a, b = x * angle.cos() + y * angle.sin(), y * angle.cos() - x * angle.sin()
    wide, tall = 0.45 + 0.4 * u[:, 3], 0.45 + 0.4 * u[:, 4]
    a, b = a / wide, b / tall
    ellipse, box = a.square() + b.square() < 1, (a.abs() < 1) & (b.abs() < 1)
    triangle = (b > -0.7) & (b < 1.1 - 1.8 * a.abs())
    kind = (3 * u[:, 5]).long()
    return torch.where(kind == 0, ellipse, torch.where(kind == 1, box, triangle))
