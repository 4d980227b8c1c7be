"""Pillow pictures of any kind to uint8 arrays of one shape.

Orientation tags are obeyed, transparency is laid on white, 16-bit grey becomes 8-bit, CMYK and palettes
become RGB; another shape is reached by scaling the shorter side (Lanczos) and cropping the centre.
"""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from rheos.core.errors import DataError
from rheos.data.resizing import fit

__all__ = ["Header", "channels_of", "common_shape", "decode", "header", "stack"]

_GREY = ("1", "L", "LA", "La", "I", "I;16", "I;16L", "I;16B", "I;16N")
_ORIENTATION = 0x0112
_MOST = 4 << 30  # bytes that may be read without an explicit size


class Header(NamedTuple):
    """What a file says of its picture before it is decoded; height and width as a viewer shows it."""

    height: int
    width: int
    grey: bool


def header(picture: Image.Image) -> Header:
    """Size and colour of an opened picture; nothing is decoded."""
    width, height = picture.size
    tagged = picture.format != "PNG" or "exif" in picture.info  # else asking a PNG for its tags decodes it
    if tagged and picture.getexif().get(_ORIENTATION, 1) in (5, 6, 7, 8):
        width, height = height, width
    return Header(height, width, picture.mode in _GREY)


def common_shape(headers: Sequence[Header], size: int | None, channels: int) -> tuple[tuple[int, int], list[str]]:
    """The (height, width) to read pictures at, and what must be said about it.

    Args:
        headers: One a picture, at least one.
        size: A square's side, or None: the shape of most pictures, or 32 × 32 if no shape has a majority.
        channels: Of the result.

    Raises:
        DataError: If no size is given and the pictures would take more than 4 GiB.

    Example:
        >>> common_shape([Header(8, 8, True), Header(9, 7, True)], None, 1)[0]
        (32, 32)
    """
    shapes = Counter((h.height, h.width) for h in headers)
    shape, count = min(shapes.items(), key=lambda item: (-item[1], item[0]))
    notes = []
    if size is not None:
        shape = (size, size)
    elif count * 2 <= len(headers):
        shape = (32, 32)
        notes.append(f"The pictures have {len(shapes)} shapes and none has a majority, so they were read at 32 × 32.")
    elif len(shapes) > 1:
        notes.append(
            f"{count} of {len(headers)} pictures are {shape[0]} × {shape[1]} (height × width); the others were "
            "scaled and cropped to it."
        )
    bytes_needed = len(headers) * channels * shape[0] * shape[1]
    if size is None and bytes_needed > _MOST:
        raise DataError(
            f"{len(headers)} pictures of {shape[0]} × {shape[1]} would take {bytes_needed / 2**30:.0f} GiB of memory. "
            "Give a size, for example size=64."
        )
    return shape, notes


def decode(picture: Image.Image, channels: int, shape: tuple[int, int]) -> NDArray[np.uint8]:
    """uint8 (channels, height, width) of an opened picture.

    Args:
        picture: Opened, perhaps not yet decoded.
        channels: 1 for grey, 3 for RGB.
        shape: (height, width).

    Raises:
        DataError: If the picture holds floating numbers, or integers of more than 16 bits.
    """
    if picture.format == "JPEG":  # decode at a lower resolution where twice the needed one is still left
        picture.draft(picture.mode, (2 * max(shape), 2 * max(shape)))
    picture = _plain(ImageOps.exif_transpose(picture)).convert("L" if channels == 1 else "RGB")
    height, width = picture.height, picture.width
    if (height, width) != shape:
        (tall, wide), (top, left) = fit(height, width, shape)
        y, x = height / tall, width / wide
        box = (left * x, top * y, min(width, (left + shape[1]) * x), min(height, (top + shape[0]) * y))
        picture = picture.resize((shape[1], shape[0]), Image.Resampling.LANCZOS, box=box, reducing_gap=3.0)
    pixels = np.asarray(picture, dtype=np.uint8)
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)


def _plain(picture: Image.Image) -> Image.Image:
    """8 bits a channel, no transparency."""
    if picture.mode == "F":
        raise DataError("it holds floating numbers; save the numbers as .npy and declare their range")
    if picture.mode.startswith("I"):  # grey, 16 bits
        values = np.asarray(picture).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise DataError("it holds integers of more than 16 bits; save the numbers as .npy and declare their range")
        return Image.fromarray(((values + 128) // 257).astype(np.uint8))
    if "A" in picture.mode or "a" in picture.mode or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    return picture


def stack(pictures: Sequence[Image.Image], size: int | None, colour: str | None) -> tuple[NDArray[np.uint8], list[str]]:
    """Pillow pictures as uint8 (N, C, H, W), and notes; grey only if all are, unless a colour is asked for."""
    headers = [header(p) for p in pictures]
    channels = channels_of(headers, colour)
    shape, notes = common_shape(headers, size, channels)
    out = np.empty((len(pictures), channels, *shape), dtype=np.uint8)
    for i, picture in enumerate(pictures):
        try:
            out[i] = decode(picture, channels, shape)
        except (DataError, OSError) as error:
            raise DataError(f"Picture {i} cannot be read: {error}.", row=i) from None
    return out, notes


def channels_of(headers: Sequence[Header], colour: str | None) -> int:
    """1 or 3: as asked for, else 1 only if every picture is grey."""
    return 1 if colour == "grey" or (colour is None and all(h.grey for h in headers)) else 3
