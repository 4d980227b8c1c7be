"""A user's arrays: numpy, torch, .npy and .npz; nothing about them is guessed in silence.

What numbers mean is fixed by their type: uint8 pictures are 0..255; floating pictures need a declared range;
vectors are delivered as they are. Files are read without pickle, so an array of Python objects is refused.
"""

import json
import os
import zipfile
import zlib
from collections.abc import Mapping, Sequence, Sized
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rheos.core.errors import ConditionError, DataError, ShapeError
from rheos.data.about import About
from rheos.data.dataset import Column, Data
from rheos.data.ranges import check_finite, check_within
from rheos.data.recipe import Range, Recipe, read_range

__all__ = ["SAMPLES", "labels_from_names", "load_arrays", "load_file", "save"]

Array = Tensor | NDArray[Any]

SAMPLES = ("x", "images", "image", "data")
_LABELS = ("label", "labels", "y")
_META = "rheos"  # the entry of an .npz in which `save` keeps names and ranges


def load_file(path: Path, recipe: Recipe) -> Data:
    """A .npy of samples, or an .npz of samples with columns.

    Raises:
        DataError: If the file is truncated, foreign, or holds Python objects.
    """
    try:
        with path.open("rb") as file:
            loaded = np.load(file, allow_pickle=False)
            named = isinstance(loaded, np.lib.npyio.NpzFile)
            arrays = {name: loaded[name] for name in loaded.files} if named else {"x": loaded}
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.", path=path) from None
    except (ValueError, EOFError, KeyError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        if "allow_pickle" in str(error) or "pickled" in str(error):
            raise DataError(
                f"{path} holds Python objects, or is no numpy file at all; pickles are never loaded. "
                "Save plain arrays of numbers or of strings.",
                path=path,
            ) from None
        raise DataError(f"{path} is truncated or not a numpy file: {error}.", path=path) from None
    if len(arrays) == 1 and next(iter(arrays)) not in SAMPLES:
        arrays = {"x": next(iter(arrays.values()))}
    return load_arrays(arrays, recipe, path.stem)


def load_arrays(arrays: Mapping[str, object], recipe: Recipe, name: str = "arrays") -> Data:
    """Samples under "x" (or "images", "data"), labels under "label" (or "labels", "y"), all else as columns.

    Args:
        arrays: By name, arrays or lists of N rows.
        recipe: Its range is obeyed.
        name: For people.

    Raises:
        DataError: If samples are missing or of a wrong type, or a column has another number of rows.
        NonFiniteError: If a number is NaN or infinite.
        ConditionError: If labels are negative, not whole numbers, or out of range.
    """
    meta = _meta(arrays[_META], name) if _META in arrays else {}
    given = {k: v for k, v in arrays.items() if k != _META}
    key = next((k for k in SAMPLES if k in given), None)
    if key is None:
        raise DataError(f"{name} has no samples: give them the name 'x' (found: {', '.join(given) or 'nothing'}).")
    declared = recipe.range if recipe.range is not None or not meta else read_range(meta["range"] or "raw")
    x, about = _samples(_tensor(given.pop(key), key), declared, name)
    columns: dict[str, Column] = {}
    names = tuple(str(n) for n in meta.get("class_names", ()))
    if len(twice := [k for k in given if k in _LABELS]) > 1:
        raise DataError(f"{name} has labels twice, under {' and '.join(twice)}; keep one, or rename the other.")
    for k, value in given.items():
        rows = len(value) if isinstance(value, Sized) and getattr(value, "ndim", True) else 1
        if rows != len(x):
            raise DataError(f"The column {k!r} has {rows} rows, but there are {len(x)} samples.")
        if k in _LABELS:
            columns["label"], names = _labels(value, names)
        else:
            columns[k] = _column(value, k)
    about = About(meta.get("name", name), names, about.range, about.delivers, about.notes, recipe)
    return Data(x, columns, about)


def save(data: Data, path: str | Path) -> None:
    """Write a set with its columns, classes and range to one .npz that `load` reads back.

    Args:
        data: Any set.
        path: Ends in .npz; written to a temporary name and renamed.
    """
    path = Path(path)
    if path.suffix != ".npz":
        raise DataError(f"The file's name must end in .npz, got {path.name!r}.")
    arrays = {
        k: c.cpu().numpy() if isinstance(c, Tensor) else np.array(c, dtype=np.str_) for k, c in data.columns.items()
    }
    meta = {"name": data.name, "class_names": data.class_names, "range": data.range}
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            np.savez(file, x=data.x.cpu().numpy(), **{_META: np.array(json.dumps(meta))}, **arrays)  # type: ignore[arg-type]
        temporary.replace(path)
    except OSError as error:
        raise DataError(f"{path} cannot be written: {error.strerror}.", path=path) from None
    finally:
        temporary.unlink(missing_ok=True)


def labels_from_names(labels: Sequence[str]) -> tuple[Tensor, tuple[str, ...]]:
    """Numbers for labels given as text, and the class names in sorted order (numbers in text sort as numbers).

    Example:
        >>> labels_from_names(["dog", "cat", "dog"])
        (tensor([1, 0, 1]), ('cat', 'dog'))
    """
    numeric = all(label.isascii() and label.isdigit() for label in labels)
    names = tuple(sorted(set(labels), key=(lambda v: (int(v), v)) if numeric else None))
    place = {name: i for i, name in enumerate(names)}
    return torch.tensor([place[label] for label in labels], dtype=torch.int64), names


def _meta(entry: object, name: str) -> dict[str, Any]:
    """What `save` wrote beside the numbers."""
    try:
        meta = json.loads(str(entry))
        return {"name": str(meta["name"]), "class_names": list(meta["class_names"]), "range": meta["range"]}
    except (ValueError, KeyError, TypeError):
        raise DataError(f"{name} has an entry 'rheos' that rheos did not write; rename it.") from None


def _tensor(value: object, name: str) -> Tensor:
    if isinstance(value, Tensor):
        return value.detach()
    array = np.asarray(value)
    if array.dtype.kind not in "fiub":
        raise DataError(
            f"{name} has the type {array.dtype}, but numbers are needed. "
            "Convert it to floating numbers, or to uint8 for pictures of 0..255."
        )
    array = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))
    return torch.from_numpy(array if array.flags.writeable else array.copy())


def _samples(x: Tensor, declared: Range | str | None, name: str) -> tuple[Tensor, About]:
    """Samples in their stored form, with ranges and notes."""
    if x.ndim < 2 or x.numel() == 0:
        raise ShapeError(
            f"{name}: samples need a shape (N, ...) with N ≥ 1, got {tuple(x.shape)}; one number a row is (N, 1)."
        )
    if not (x.is_floating_point() or x.dtype == torch.uint8):
        raise DataError(
            f"{name}: samples are {_kind(x)}, but uint8 pictures (0..255) or floating numbers are needed. "
            "Convert them with .astype('uint8') or .astype('float32')."
        )
    if x.is_floating_point():
        x = x.to(torch.float32)
        check_finite(x, name)
    if x.ndim == 2 or declared == "raw":
        return _plain(x, declared, name)
    if x.dtype == torch.uint8:
        declared = declared or (0.0, 255.0)
    elif declared is None:
        low, high = (float(v) for v in x.aminmax())
        raise DataError(
            f"{name}: floating pictures from {low:.4g} to {high:.4g} need a declared range. "
            'Pass range=(0, 1) or range=(-1, 1) for pictures, or range="raw" for numbers to be delivered as they are.',
            low=low,
            high=high,
        )
    assert not isinstance(declared, str)
    x, notes = _channels_first(x, name)
    check_within(x, declared, name)
    if x.dtype == torch.uint8 and (top := int(x.max())) * 4 < declared[1]:
        notes += (f"No value exceeds {top}, although the range is declared as 0..{declared[1]:g}.",)
    return x, About(range=declared, delivers=(-1.0, 1.0), notes=notes)


def _plain(x: Tensor, declared: Range | str | None, name: str) -> tuple[Tensor, About]:
    """Numbers that are delivered as they are."""
    if declared is None or isinstance(declared, str):
        if x.dtype == torch.uint8 and declared is None:
            raise DataError(
                f"{name}: uint8 samples of shape (N, {x.shape[1]}) are no pictures yet. "
                'Reshape them to (N, C, H, W), or pass range="raw".'
            )
        return x.to(torch.float32), About()
    check_within(x, declared, name)
    return x.to(torch.float32), About(range=declared, delivers=declared)


def _channels_first(x: Tensor, name: str) -> tuple[Tensor, tuple[str, ...]]:
    """(N, C, H, W) from that, from (N, H, W, C) or from (N, H, W); C is 1, 3 or 4, and the second axis wins."""
    if x.ndim == 3:
        return x[:, None], ("Samples of shape (N, H, W) were taken as grey pictures.",)
    if x.ndim == 4 and x.shape[1] in (1, 3, 4):
        return x, ()
    if x.ndim == 4 and x.shape[3] in (1, 3, 4):
        return x.permute(0, 3, 1, 2).contiguous(), ("Samples of shape (N, H, W, C) were transposed to (N, C, H, W).",)
    raise ShapeError(
        f"{name}: pictures have the shape (N, C, H, W) or (N, H, W, C) with 1, 3 or 4 channels, got {tuple(x.shape)}. "
        'Pass range="raw" if these are no pictures.'
    )


def _column(value: object, name: str) -> Column:
    if not isinstance(value, Tensor):
        array = np.asarray(value)
        if array.dtype.kind in "US":
            return [v.decode() if isinstance(v, bytes) else str(v) for v in array.reshape(len(array)).tolist()]
        value = array
    x = _tensor(value, f"The column {name!r}")
    if x.is_floating_point():
        x = x.to(torch.float32)
        check_finite(x, f"The column {name!r}")
    return x if x.dtype in (torch.float32, torch.bool, torch.uint8) else x.to(torch.int64)


def _labels(value: object, names: tuple[str, ...]) -> tuple[Tensor, tuple[str, ...]]:
    column = _column(value, "label")
    if isinstance(column, list):
        return labels_from_names(column)
    if column.is_floating_point() or column.dtype == torch.bool or column.ndim != 1:
        raise ConditionError(
            f"Labels must be whole numbers of shape (N,), got {_kind(column)} {tuple(column.shape)}. "
            "Convert them with .astype('int64'), one-hot labels with .argmax(1)."
        )
    column = column.to(torch.int64)
    low, high = (int(v) for v in column.aminmax())
    limit = len(names) or max(1000, len(column))
    if low < 0 or high >= limit:
        raise ConditionError(
            f"Labels must lie in 0..{limit - 1}, got {low}..{high}; number the classes from 0.", low=low, high=high
        )
    return column, names or tuple(str(i) for i in range(high + 1))


def _kind(x: Tensor) -> str:
    return str(x.dtype).removeprefix("torch.")
