"""A folder of masks beside a folder of pictures: class numbers a pixel, paired by name.

A mask has its picture's relative path, up to the suffix. It is scaled and cropped exactly like its picture, by the
nearest pixel, so that no class is made up in between.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from rheos.core.errors import DataError
from rheos.data.resizing import fit

__all__ = ["SUFFIXES", "read_masks", "resize_masks"]

SUFFIXES = (".png", ".bmp", ".gif", ".webp", ".tif", ".tiff")
"""Kinds that keep numbers exactly; JPEG does not."""
_MOST_COLOURS = 256


def read_masks(folder: Path, files: Sequence[str], shape: tuple[int, int]) -> tuple[Tensor, list[str]]:
    """int64 masks (N, H, W) of pictures, and what must be said about them.

    Grey and palette masks hold class numbers; grey ones of 0 and 255 alone hold two classes. Colour masks are numbered
    in the order of their colours, read as (r, g, b).

    Args:
        folder: Of the masks.
        files: Relative paths of the pictures, with forward slashes.
        shape: (height, width) of the pictures as read.

    Raises:
        DataError: If masks are missing, cannot be read, or hold too many colours to be classes.
    """
    if not folder.is_dir():
        raise DataError(f"There is no folder {folder} of masks.", path=folder)
    paths = [_beside(folder, file) for file in files]
    if missing := [f for f, p in zip(files, paths, strict=True) if p is None]:
        raise DataError(
            f"{len(missing)} of {len(files)} pictures have no mask in {folder}, first {missing[0]!r}. A mask has its "
            f"picture's name with one of the suffixes {', '.join(SUFFIXES)}.",
            files=missing,
        )
    with ThreadPoolExecutor(8) as pool:
        numbers = list(pool.map(lambda p: _numbers(p, shape), [p for p in paths if p is not None]))
    colour = {n.ndim for n in numbers} == {3}
    if not colour and any(n.ndim == 3 for n in numbers):
        raise DataError(f"Some masks in {folder} are grey and some in colour. Save all of them alike.", path=folder)
    stacked = np.stack(numbers)
    if colour:
        return _by_colour(stacked, folder)
    values = np.unique(stacked)
    if values.tolist() == [0, 255]:
        return torch.from_numpy((stacked > 0).astype(np.int64)), ["Masks of 0 and 255 were read as classes 0 and 1."]
    return torch.from_numpy(stacked.astype(np.int64)), []


def _beside(folder: Path, file: str) -> Path | None:
    stem = file.rpartition(".")[0]
    return next((p for s in SUFFIXES if (p := folder / f"{stem}{s}").is_file()), None)


def _numbers(path: Path, shape: tuple[int, int]) -> NDArray[np.int64]:
    """(H, W) numbers, or (H, W, 3) colours."""
    try:
        with Image.open(path) as opened:
            picture = ImageOps.exif_transpose(opened)
            if picture.mode not in ("1", "L", "P", "I", "I;16", "RGB"):
                picture = picture.convert("RGB")
            pixels = np.asarray(picture).astype(np.int64)
    except (OSError, ValueError, SyntaxError) as error:
        raise DataError(f"The mask {path} cannot be read: {error}.", path=path) from None
    y, x = _nearest(pixels.shape[:2], shape)
    return pixels[y[:, None], x]


def _nearest(size: tuple[int, ...], shape: tuple[int, int]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows and columns of the old pixels nearest to the new ones, scaled and cropped as pictures are."""
    scaled, corner = fit(size[0], size[1], shape)
    axes = [
        ((np.arange(new) + offset + 0.5) * old / full).astype(np.int64).clip(0, old - 1)
        for new, offset, old, full in zip(shape, corner, size, scaled, strict=True)
    ]
    return axes[0], axes[1]


def _by_colour(pixels: NDArray[np.int64], folder: Path) -> tuple[Tensor, list[str]]:
    keys = (pixels[..., 0] << 16) | (pixels[..., 1] << 8) | pixels[..., 2]
    found = np.unique(keys)
    if len(found) > _MOST_COLOURS:
        raise DataError(
            f"The masks in {folder} hold {len(found)} colours, too many to be classes (at most {_MOST_COLOURS}). Save "
            "them without smoothing, in a lossless format.",
            path=folder,
        )
    names = ", ".join(f"#{k:06x}" for k in found[:8].tolist()) + (", ..." if len(found) > 8 else "")
    masks = np.searchsorted(found, keys)
    return torch.from_numpy(masks.astype(np.int64)), [f"Mask colours became classes 0..{len(found) - 1}: {names}."]


def resize_masks(masks: Tensor, shape: tuple[int, int]) -> Tensor:
    """Masks (N, H, W) scaled and cropped like pictures, by the nearest pixel.

    Example:
        >>> resize_masks(torch.tensor([[[0, 0, 1, 1], [0, 0, 1, 1]]]), (1, 2))
        tensor([[[0, 1]]])
    """
    y, x = (torch.from_numpy(a).to(masks.device) for a in _nearest(tuple(masks.shape[1:]), shape))
    return masks[:, y[:, None], x]
