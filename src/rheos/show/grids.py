"""Batches of pictures as one picture, and PNG files that know how they were made."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from rheos.core.errors import ShapeError
from rheos.core.files import write_whole

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["beside", "grid", "png", "save_png", "upscale"]


def grid(pictures: UInt8[Tensor, "n c h w"], columns: int = 8, gap: int = 2, background: int = 255) -> "Image":
    """Pictures in rows of `columns`, first row first.

    Args:
        pictures: 1 or 3 channels.
        columns: Pictures a row.
        gap: Pixels between pictures.
        background: Grey value between pictures and behind a last short row.

    Raises:
        ShapeError: If the tensor is not (N, 1 or 3, H, W) of uint8.

    Example:
        >>> grid(torch.zeros(5, 1, 4, 4, dtype=torch.uint8), columns=3, gap=1).size
        (16, 11)
    """
    from PIL import Image

    if pictures.dtype != torch.uint8 or pictures.ndim != 4 or pictures.shape[1] not in (1, 3):
        raise ShapeError(
            f"A grid shows uint8 pictures (N, 1 or 3, H, W), got {pictures.dtype} {tuple(pictures.shape)}."
        )
    n, c, h, w = pictures.shape
    columns = min(columns, n)
    lines = -(-n // columns)
    sheet = np.full((lines * (h + gap) + gap, columns * (w + gap) + gap, c), background, dtype=np.uint8)
    cells = pictures.permute(0, 2, 3, 1).cpu().numpy()
    for k in range(n):
        top, left = gap + (k // columns) * (h + gap), gap + (k % columns) * (w + gap)
        sheet[top : top + h, left : left + w] = cells[k]
    return Image.fromarray(sheet[..., 0] if c == 1 else sheet)


def upscale(image: "Image", least: int = 480) -> "Image":
    """Whole-number enlargement with sharp pixels until the width is at least `least`."""
    from PIL import Image

    factor = max(1, -(-least // image.width))
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)


def beside(images: "Mapping[str, Image]", gap: int = 12) -> "Image":
    """Pictures side by side on white, their names above.

    Example:
        >>> one = grid(torch.zeros(1, 1, 8, 8, dtype=torch.uint8))
        >>> beside({"raw": one, "ema": one}).size
        (60, 40)
    """
    from PIL import Image, ImageDraw

    head = 16
    parts = list(images.items())
    width = sum(i.width for _, i in parts) + gap * (len(parts) + 1)
    height = max(i.height for _, i in parts) + head + gap
    sheet = Image.new("RGB", (width, height), "white")
    pen, left = ImageDraw.Draw(sheet), gap
    for name, image in parts:
        pen.text((left, 2), name, fill="black")
        sheet.paste(image.convert("RGB"), (left, head))
        left += image.width + gap
    return sheet


def png(image: "Image", text: Mapping[str, str] | None = None) -> bytes:
    """PNG bytes, with text fields: seeds, solver, whatever makes the picture again."""
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    for key, value in (text or {}).items():
        info.add_text(key, value)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", pnginfo=info, optimize=True)
    return buffer.getvalue()


def save_png(path: str | Path, image: "Image", text: Mapping[str, str] | None = None) -> None:
    """Write a PNG under a temporary name, then rename."""
    write_whole(path, png(image, text))
