"""`load`: one call for every source."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from rheos.core.errors import DataError, OptionError, check_choice
from rheos.data.arrays import load_arrays, load_file
from rheos.data.builtin import BUILTIN
from rheos.data.dataset import Data
from rheos.data.palette import check_classes, palette_size, read_palette
from rheos.data.recipe import Recipe, Split, read_conditions, read_range, read_split
from rheos.data.toys import TOYS, toy

__all__ = ["SOURCES", "load"]

SOURCES = (*BUILTIN, *TOYS)


def load(
    source: object,
    *,
    size: int | None = None,
    flip: bool | None = None,
    limit: int | None = None,
    colour: str | None = None,
    split: str | Sequence[Any] | None = None,
    conditions: Sequence[str] | None = None,
    range: Sequence[float | int] | str | None = None,  # noqa: A002
    skip_corrupt: bool = False,
    download: bool = False,
    masks: str | os.PathLike[str] | None = None,
    codec: str | os.PathLike[str] | None = None,
    embed: str | None = None,
    palette: int | Sequence[int | str] | None = None,
) -> Data:
    """Read a set of samples into memory.

    The keywords are plain values, each one fact, so that `load(**data.spec)` reads the same set again; one that the
    source cannot obey is an error.

    Args:
        source: A name of `SOURCES`; a folder of pictures; a .npy or .npz file; an array or tensor; a mapping of arrays
            like an .npz; a list of Pillow pictures; a `Data`; or "hf:NAME" of the Hugging Face hub.
        size: Pictures of size × size: the shorter side is scaled, the centre cropped.
        flip: Let batches mirror pictures at random; default False.
        limit: At most so many rows, each class in proportion; of toys and photos exactly so many are made.
        colour: "rgb" or "grey"; default: as the source has it.
        split: "train" or "held_out" for nine or one tenth of the rows, or (part, fraction, seed).
        conditions: Columns that batches carry; default: "label" where there is one.
        range: (low, high) of a user's numbers, or "raw" for numbers to be delivered as they are.
        skip_corrupt: Leave out a folder's unreadable pictures, with a note, instead of stopping.
        download: Allow "hf:" sources to use the network.
        masks: A folder of masks with the names of a folder's pictures; they become the column "mask", which batches
            carry. See `rheos.data.masks.read_masks`.
        codec: Folder of a `LatentCodec`, or of an autoencoder's run: batches then carry latents, kept in a cache there.
        embed: What makes numbers of captions, or of class names where there are none, by name; batches then carry the
            column "embedding". See `rheos.data.embedding.embedder`.
        palette: What masks hold: K for class numbers 0 .. K - 1, or the value of each class in order, grey numbers or
            colours "#rrggbb"; default: as found. It is kept in `Data.spec`, so that other masks get the same classes.

    Raises:
        UnknownOptionError: If a name is unknown; near names are listed.
        OptionError: If an option is out of its range, or the source has no use for it.
        DataError: If the source cannot be read; `NonFiniteError`, `ShapeError` and `ConditionError` say which rows.
        MissingExtraError: If a source needs an optional package.

    Example:
        >>> data = load("digits", size=16, limit=100)
        >>> data
        Data('digits': 100 × (1, 16, 16) uint8, 10 classes)
        >>> load(**data.spec).fingerprint == data.fingerprint
        True
    """
    parts, names = read_split(split), read_conditions(conditions)
    beside = None if masks is None else str(Path(masks).expanduser().resolve())
    recipe = Recipe(
        None, size, flip, limit, colour, read_range(range), parts, names, skip_corrupt, download, beside,
        palette=read_palette(palette),
    )  # fmt: skip
    given = isinstance(source, Data)
    if isinstance(source, str | os.PathLike):
        _check_exists(source, recipe)
    _refuse_idle(source, recipe)
    data = source if isinstance(source, Data) else _read(source, recipe)
    data = data if recipe.palette is None or beside is not None else _counted(data, palette_size(recipe.palette))
    made = data.about.recipe
    data = data if limit is None else data.limit(limit)
    data = data if colour is None else data.recolour(colour)
    data = data if size is None else data.resize(size)
    data = data if recipe.split is None else _part(data, recipe.split)
    if not given:
        data = replace(data, about=replace(data.about, recipe=made))
    if embed is not None:
        from rheos.data.embedding import embedded as with_embedding

        data = with_embedding(data, embed)
    if flip is not None:
        data = replace(data, flip=flip)
    data = data if recipe.conditions is None else replace(data, conditions=recipe.conditions)
    if codec is None:
        return data
    from rheos.data.codecs import LatentCodec
    from rheos.data.latents import encoded

    return encoded(data, LatentCodec.read(Path(codec).expanduser()), cache="auto")


def _named(source: object) -> bool:
    return isinstance(source, str) and (source in SOURCES or source.startswith("hf:"))


def _check_exists(source: str | os.PathLike[str], recipe: Recipe) -> None:
    """Raise unless there is such a set, file or folder; a folder where an option is of folders only."""
    path = Path(source).expanduser()
    if _named(source) or path.exists():
        return
    if recipe.masks is not None or recipe.skip_corrupt:
        raise DataError(f"There is no folder {path} of pictures.", path=path)
    if isinstance(source, str) and os.sep not in source and not path.suffix:
        check_choice("source", source, SOURCES)
    raise DataError(f"There is no file or folder {path}.", path=path)


def _counted(data: Data, classes: int) -> Data:
    """A set whose own masks have so many classes."""
    masks = data.columns.get("mask")
    if not isinstance(masks, Tensor):
        raise OptionError(
            f"palette says what masks hold, and {data.name!r} has no column 'mask'. Give masks=, or leave it out."
        )
    check_classes(masks, classes, f"The masks of {data.name!r}")
    return replace(data, about=replace(data.about, mask_classes=classes))


def _read(source: object, recipe: Recipe) -> Data:
    """The whole set; readers that can, obey size, colour and limit while reading."""
    if isinstance(source, str) and _named(source):
        recipe = replace(recipe, source=source)
        if source in BUILTIN:
            return BUILTIN[source](recipe)
        if source in TOYS:
            made = toy(source) if recipe.limit is None else toy(source, recipe.limit)
            return replace(made, about=replace(made.about, recipe=recipe))
        from rheos.data.hub import load_hub

        return load_hub(source.removeprefix("hf:"), recipe)
    if isinstance(source, str | os.PathLike):
        return _read_path(source, recipe)
    if isinstance(source, Tensor | np.ndarray):
        return load_arrays({"x": source}, recipe, "array")
    if isinstance(source, Mapping):
        return load_arrays(source, recipe)
    if isinstance(source, list | tuple) and source:
        from PIL import Image

        from rheos.data.pictures import stack

        if all(isinstance(p, Image.Image) for p in source):
            x, notes = stack(source, recipe.size, recipe.colour)
            data = load_arrays({"x": x}, recipe, "pictures")
            return replace(data, about=replace(data.about, notes=(*notes, *data.notes)))
    if source is None:
        raise DataError(
            "This set was made in memory, so it cannot be read again. "
            "Make it once more, or keep it with rheos.data.save and load that file."
        )
    raise DataError(
        f"Data cannot be read from {type(source).__name__}. "
        "Give a name, a path, an array, a mapping of arrays, or a list of Pillow pictures."
    )


def _read_path(source: str | os.PathLike[str], recipe: Recipe) -> Data:
    path = Path(source).expanduser()
    recipe = replace(recipe, source=str(path.resolve()))
    if path.is_dir():
        from rheos.data.folder import load_folder

        return load_folder(path, recipe)
    if path.suffix not in (".npy", ".npz"):
        raise DataError(f"{path} is neither a folder of pictures nor a .npy or .npz file.", path=path)
    return load_file(path, recipe)


def _refuse_idle(source: object, recipe: Recipe) -> None:
    """Raise if an option is set that this kind of source would ignore."""
    path = isinstance(source, str | os.PathLike) and not _named(source)
    folder = path and Path(source).expanduser().is_dir()  # type: ignore[arg-type]
    arrays = isinstance(source, Tensor | np.ndarray | Mapping) or (path and not folder)
    if recipe.range is not None and not arrays:
        raise OptionError("range is only for arrays, .npy and .npz files; other sources know their own.")
    if recipe.skip_corrupt and not folder:
        raise OptionError("skip_corrupt is only for folders of pictures.")
    if recipe.masks is not None and not folder:
        raise OptionError("masks are read beside a folder of pictures only; other sources bring a column 'mask'.")
    if recipe.download and not (isinstance(source, str) and source.startswith("hf:")):
        raise OptionError("download is only for hf: sources; nothing else uses the network.")


def _part(data: Data, split: Split) -> Data:
    part, fraction, seed = (split, 0.1, 0) if isinstance(split, str) else split
    train, held_out = data.split(fraction, seed)
    return train if part == "train" else held_out
