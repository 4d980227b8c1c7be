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
from rheos.data.palette import NONE, Palette, check_classes, count_classes
from rheos.data.resizing import fit

__all__ = ["SUFFIXES", "read_masks", "resize_masks"]

SUFFIXES = (".png", ".bmp", ".gif", ".webp", ".tif", ".tiff")
"""Kinds that keep numbers exactly; JPEG does not."""


def read_masks(
    folder: Path, files: Sequence[str], shape: tuple[int, int], palette: Palette | None = None
) -> tuple[Tensor, Palette, list[str]]:
    """int64 masks (N, H, W) of pictures, what their values mean, and what must be said about them.

    Unless a palette says otherwise, grey and palette masks hold class numbers, and 255 where there is no class; grey
    ones of 0 and 255 alone hold two classes; colour masks are numbered in the order of their colours, as (r, g, b).

    Args:
        folder: Of the masks.
        files: Relative paths of the pictures, with forward slashes.
        shape: (height, width) of the pictures as read.
        palette: What the values mean; found in the masks unless given.

    Raises:
        DataError: If masks are missing, cannot be read, or hold other values than the palette's, none but 255, or too
            many colours to be classes.
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
    values = np.stack(numbers)
    if colour:
        values = (values[..., 0] << 16) | (values[..., 1] << 8) | values[..., 2]
    palette = palette or _found(values, colour, folder)
    return torch.from_numpy(_classes(values, colour, palette, folder)), palette, _said(palette)


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


def _found(values: NDArray[np.int64], colour: bool, folder: Path) -> Palette:
    """What values mean where nobody said it."""
    if not colour:
        classes = count_classes(torch.from_numpy(values))
        if classes == 1 and np.unique(values).tolist() == [0, NONE]:
            return 0, NONE
        if not classes:
            raise DataError(
                f"The masks in {folder} hold {NONE} alone, which stands for no class. If they show two classes, say "
                f"so: palette=[0, {NONE}].",
                path=folder,
            )
        return classes
    found = np.unique(values)
    if len(found) > NONE:
        raise DataError(
            f"The masks in {folder} hold {len(found)} colours, too many to be classes (at most {NONE}). Save them "
            "without smoothing, in a lossless format.",
            path=folder,
        )
    return tuple(_shown(k, True) for k in found.tolist())


def _classes(values: NDArray[np.int64], colour: bool, palette: Palette, folder: Path) -> NDArray[np.int64]:
    """Class numbers of grey numbers, or of colours as numbers."""
    wanted = isinstance(palette, tuple) and isinstance(palette[0], str)
    if colour != wanted:
        kinds = ("in colour", "grey")
        raise DataError(
            f"The masks in {folder} are {kinds[not colour]}, but those of these classes are {kinds[not wanted]} "
            f"({_list(palette)}). Save them alike.",
            path=folder,
        )
    if isinstance(palette, int):
        check_classes(torch.from_numpy(values), palette, f"The masks in {folder}")
        return values
    keys = np.array([int(v[1:], 16) if isinstance(v, str) else v for v in palette], dtype=np.int64)
    numbers = np.arange(len(keys))
    if not colour and NONE not in palette:
        keys, numbers = np.append(keys, NONE), np.append(numbers, NONE)
    order = np.argsort(keys)
    place = np.searchsorted(keys[order], values).clip(max=len(keys) - 1)
    if len(wrong := np.unique(values[keys[order][place] != values])):
        more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        raise DataError(
            f"The masks in {folder} hold {_shown(int(wrong[0]), colour)}{more}, which is none of the classes "
            f"{_list(palette)}.",
            path=folder,
        )
    found: NDArray[np.int64] = numbers[order][place]
    return found


def _said(palette: Palette) -> list[str]:
    if isinstance(palette, int):
        return []
    if palette == (0, NONE):
        return [f"Masks of 0 and {NONE} were read as classes 0 and 1."]
    return [f"Mask {'colours' if isinstance(palette[0], str) else 'values'} became classes {_list(palette)}."]


def _list(palette: Palette) -> str:
    if isinstance(palette, int):
        return f"0..{palette - 1}"
    names = ", ".join(map(str, palette[:8])) + (", ..." if len(palette) > 8 else "")
    return f"0..{len(palette) - 1}: {names}"


def _shown(value: int, colour: bool) -> str:
    return f"#{value:06x}" if colour else str(value)


def resize_masks(masks: Tensor, shape: tuple[int, int]) -> Tensor:
    """Masks (N, H, W) scaled and cropped like pictures, by the nearest pixel.

    Example:
        >>> resize_masks(torch.tensor([[[0, 0, 1, 1], [0, 0, 1, 1]]]), (1, 2))
        tensor([[[0, 1]]])
    """
    y, x = (torch.from_numpy(a).to(masks.device) for a in _nearest(tuple(masks.shape[1:]), shape))
    return masks[:, y[:, None], x]
