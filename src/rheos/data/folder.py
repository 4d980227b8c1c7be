"""A folder of pictures."""

import os
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from rheos.core.errors import DataError
from rheos.data import pictures, rows
from rheos.data.about import About
from rheos.data.captions import describe
from rheos.data.dataset import Column, Data
from rheos.data.masks import read_masks
from rheos.data.palette import palette_size
from rheos.data.recipe import Recipe

__all__ = ["SUFFIXES", "find_pictures", "load_folder"]

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif")
_BAR_FROM = 2000  # a progress bar for more pictures than this
_T = TypeVar("_T")


def load_folder(folder: Path, recipe: Recipe) -> Data:
    """Read every picture below a folder, in sorted order; captions and labels by `captions.describe`.

    Args:
        folder: Any depth; hidden files and folders are left out.
        recipe: size, colour, limit, skip_corrupt, masks and palette are obeyed.

    Raises:
        DataError: If the folder cannot be read, holds no picture, or a picture cannot be read.
    """
    files = find_pictures(folder)
    words = describe(folder, files)
    labels = words.columns.get("label")
    keep = list(range(len(files)))
    if recipe.limit is not None and recipe.limit < len(files):
        stratify = labels if isinstance(labels, torch.Tensor) else None
        keep = rows.choose(len(files), recipe.limit, stratify, 0, "limit").tolist()

    bad: dict[int, str] = {}
    headers = _headers(folder, files, keep, bad)
    good = [i for i in keep if i not in bad]
    if not good:
        _stop_at_bad(folder, files, bad, len(keep), recipe.skip_corrupt)
    heads = [h for i in good if (h := headers[i]) is not None]
    channels = pictures.channels_of(heads, recipe.colour)
    shape, notes = pictures.common_shape(heads, recipe.size, channels)
    x = np.empty((len(good), channels, *shape), dtype=np.uint8)
    for _ in _each(range(len(good)), lambda k: _decode(folder / files[good[k]], x, k, bad, good[k]), "pictures"):
        pass
    _stop_at_bad(folder, files, bad, len(keep), recipe.skip_corrupt)

    kept = torch.tensor([k for k, i in enumerate(good) if i not in bad])
    if bad:
        notes.append(f"{len(bad)} unreadable pictures were left out, first {files[min(bad)]!r}.")
    numbers = torch.tensor(good)[kept]
    columns: dict[str, Column] = {
        k: c[numbers] if isinstance(c, torch.Tensor) else [c[i] for i in numbers.tolist()]
        for k, c in words.columns.items()
    }
    carried, classes = None, 0
    if recipe.masks is not None:
        beside, names = Path(recipe.masks), [files[i] for i in numbers.tolist()]
        columns["mask"], palette, said = read_masks(beside, names, shape, recipe.palette)
        notes, carried, classes = [*notes, *said], ("mask",), palette_size(palette)
        recipe = replace(recipe, palette=palette)
    about = About(folder.resolve().name, words.class_names, notes=(*words.notes, *notes), mask_classes=classes)
    images = torch.from_numpy(x)
    return Data(images[kept] if bad else images, columns, replace(about, recipe=recipe), conditions=carried)


def find_pictures(folder: Path) -> list[str]:
    """Relative paths of all pictures below a folder, with forward slashes, sorted: the order of the rows.

    Raises:
        DataError: If it is no folder, cannot be read, or holds no picture.
    """

    def stop(error: OSError) -> None:
        raise DataError(f"The folder {error.filename} cannot be read: {error.strerror}.", path=folder) from None

    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder.", path=folder)
    found, others = [], 0
    for top, folders, files in os.walk(folder, onerror=stop):
        folders[:] = sorted(f for f in folders if not f.startswith(".") and f != "__MACOSX")
        here = Path(top).relative_to(folder)
        visible = [f for f in files if not f.startswith(".")]
        matching = [(here / f).as_posix() for f in visible if f.lower().endswith(SUFFIXES)]
        found += matching
        others += len(visible) - len(matching)
    if not found:
        what = f"holds no picture among its {others} files" if others else "is empty"
        raise DataError(f"The folder {folder} {what}; known types are {', '.join(SUFFIXES)}.", path=folder)
    return sorted(found)


def _each(items: Iterable[int], work: Callable[[int], _T], what: str) -> Iterator[_T]:
    """`work` of each item in order, by threads (Pillow decodes without the GIL), with a bar if it takes long."""
    todo = list(items)
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        results = pool.map(work, todo)
        if len(todo) > _BAR_FROM and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import track

            yield from track(results, f"reading {what}", len(todo), console=Console(stderr=True), transient=True)
        else:
            yield from results


def _headers(folder: Path, files: list[str], keep: list[int], bad: dict[int, str]) -> dict[int, pictures.Header | None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # refused below, where others only warn
        found = _each(keep, lambda i: _header(folder / files[i], bad, i), "headers")
        return dict(zip(keep, found, strict=True))


def _header(path: Path, bad: dict[int, str], i: int) -> pictures.Header | None:
    try:
        with Image.open(path) as picture:
            if picture.width * picture.height > (Image.MAX_IMAGE_PIXELS or sys.maxsize):
                raise Image.DecompressionBombError
            return pictures.header(picture)
    except Exception as error:  # Pillow's plug-ins raise a dozen types on broken files
        bad[i] = _reason(error)
        return None


def _decode(path: Path, x: NDArray[np.uint8], k: int, bad: dict[int, str], i: int) -> None:
    try:
        with Image.open(path) as picture:
            x[k] = pictures.decode(picture, x.shape[1], (x.shape[2], x.shape[3]))
    except Exception as error:
        bad[i] = _reason(error)


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "not a picture, or cut off at its start"
    if isinstance(error, Image.DecompressionBombError):
        return f"more than {Image.MAX_IMAGE_PIXELS} pixels, PIL.Image.MAX_IMAGE_PIXELS, the guard against bombs"
    return str(error.strerror if isinstance(error, OSError) and error.strerror else error) or type(error).__name__


def _stop_at_bad(folder: Path, files: list[str], bad: dict[int, str], total: int, skip: bool) -> None:
    if not bad or (skip and len(bad) < total):
        return
    some = "; ".join(f"{files[i]} ({bad[i]})" for i in sorted(bad)[:5]) + ("; ..." if len(bad) > 5 else "")
    way = "None is left." if skip else "Repair or remove them, or pass skip_corrupt=True to leave them out."
    raise DataError(
        f"{len(bad)} of {total} pictures in {folder} cannot be read: {some}. {way}",
        files=[files[i] for i in sorted(bad)],
    )
