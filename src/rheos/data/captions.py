"""Labels and captions of a folder of pictures: subfolders, metadata.csv, captions.txt, sidecar .txt files."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import final

from rheos.core.errors import DataError
from rheos.data.arrays import labels_from_names
from rheos.data.dataset import Column

__all__ = ["Words", "describe"]

_FILE = ("file_name", "filename", "file", "image", "path")
_CAPTION = ("caption", "text")


@final
@dataclass(frozen=True)
class Words:
    """Columns, class names and notes of a folder."""

    columns: Mapping[str, Column] = field(default_factory=dict)
    class_names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def describe(folder: Path, files: Sequence[str]) -> Words:
    """Everything that is written about the pictures.

    - `metadata.csv`: a column file_name (relative path), caption or text, label; other columns stay text.
    - `captions.txt`: a line a picture, path and caption separated by a tab or the first comma.
    - `NAME.txt` beside `NAME.png`: its caption.
    - Without labels in metadata.csv, two or more subfolders become the classes, in sorted order (numbers as numbers).

    Args:
        folder: The pictures' folder.
        files: Relative paths with forward slashes, in the order of the rows.

    Raises:
        DataError: If a table does not name every picture, or is not text.
    """
    table = _table(folder)
    columns: dict[str, Column] = {}
    notes: list[str] = []
    names: tuple[str, ...] = ()
    if table is not None:
        where, rows = table
        missing = [f for f in files if f not in rows]
        if missing:
            raise DataError(
                f"{where} does not name {len(missing)} of {len(files)} pictures, first {missing[0]!r}; add a line."
            )
        for name in next(iter(rows.values()), {}):
            columns[name] = [rows[f][name] for f in files]
    sidecars = [folder / f"{f.rpartition('.')[0]}.txt" for f in files] if "caption" not in columns else []
    if present := [p for p in sidecars if p.is_file()]:
        columns["caption"] = [_text(p).strip() if p.is_file() else "" for p in sidecars]
        if len(present) < len(files):
            notes.append(f"{len(files) - len(present)} of {len(files)} pictures have no caption file; theirs is empty.")
    if "label" in columns:
        columns["label"], names = labels_from_names([str(v) for v in columns["label"]])
    else:
        tops = [f.partition("/")[0] if "/" in f else "" for f in files]
        found = sorted(set(tops))
        if len(found) >= 2 and "" not in found:
            columns["label"], names = labels_from_names(tops)
        elif len(found) >= 2:
            notes.append("Some pictures lie outside the subfolders, so the subfolders were not taken as classes.")
    return Words(columns, names, tuple(notes))


def _table(folder: Path) -> tuple[Path, dict[str, dict[str, str]]] | None:
    path = folder / "metadata.csv"
    if path.is_file():
        return path, _csv(path)
    path = folder / "captions.txt"
    if path.is_file():
        lines = [line for line in _text(path).split("\n") if line.strip()]
        pairs = [line.partition("\t") if "\t" in line else line.partition(",") for line in lines]
        return path, {_slashes(file): {"caption": caption.strip()} for file, _, caption in pairs}
    return None


def _csv(path: Path) -> dict[str, dict[str, str]]:
    try:  # a value in quotes may have lines of its own
        lines = list(csv.DictReader(io.StringIO(_text(path), newline="")))
    except csv.Error as error:
        raise DataError(f"{path} cannot be read as a table: {error}. Is a quote left open?") from None
    head = list(lines[0]) if lines else []
    key = next((k for k in _FILE if k in head), None)
    if key is None:
        raise DataError(
            f"{path} has no column 'file_name' (its columns: {', '.join(map(str, head)) or 'none'}); add one."
        )
    if any(None in line or None in line.values() for line in lines):
        raise DataError(f"{path} has lines of unequal length; quote values that hold commas.")
    rename = {k: "caption" if k in _CAPTION else k for k in head if k != key}
    return {_slashes(line[key]): {new: line[old] for old, new in rename.items()} for line in lines}


def _slashes(file: str) -> str:
    return file.strip().replace("\\", "/").removeprefix("./")


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise DataError(f"{path} is not UTF-8 text; save it as UTF-8.") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from None
