"""A folder of segments on disk: opened by any number of processes, each of which marks the chunks that it has made.

`.npy` files beside `segments.json`: `x` (K + 1, n, ...), `seed`, one file a condition, and `done`, a byte a chunk.
"""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from rheos.core.errors import DataError, NonFiniteError, RunError
from rheos.core.files import write_whole
from rheos.data.dataset import About, Data
from rheos.distill.inherited import Inheriting

__all__ = ["SegmentStore", "opened", "write"]

FORMAT = 1
Maps = dict[str, np.memmap[Any, Any]]


@final
class SegmentStore(Inheriting):
    """A complete or growing store; open it with its folder.

    Args:
        folder: Written by `generate_segments`.

    Raises:
        RunError: If there is no store.
        DataError: If a file is missing, of another length, or the format is newer.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        index = self.folder / "segments.json"
        if not index.is_file():
            raise RunError(
                f"{self.folder} holds no segments (no segments.json). Make them with rheos.distill.generate_segments."
            )
        try:
            self.about: dict[str, Any] = json.loads(index.read_text(encoding="utf-8"))
            if self.about["format"] > FORMAT:
                raise DataError(f"{index} has format {self.about['format']}; this rheos reads up to {FORMAT}.")
            names = ["x", "seed", "done", *(f"cond_{n}" for n in self.about["conditions"])]
            self._maps = {n: np.load(self.folder / f"{n}.npy", mmap_mode="c", allow_pickle=False) for n in names}
            wanted = {"x": (self.segments + 1, int(self.about["n"])), "seed": (int(self.about["n"]),)}
        except (ValueError, KeyError, OSError, TypeError) as error:
            raise DataError(f"The segment store {self.folder} cannot be read: {error}. Generate it again.") from error
        for name, shape in wanted.items():
            if self._maps[name].shape[: len(shape)] != shape:
                raise DataError(f"{self.folder / name}.npy has shape {self._maps[name].shape}, not {shape} first.")

    @property
    def times(self) -> tuple[float, ...]:
        """The K + 1 times of the states."""
        return tuple(self.about["times"])

    @property
    def segments(self) -> int:
        """K, segments a row."""
        return len(self.about["times"]) - 1

    @property
    def complete(self) -> bool:
        """Whether every row is there."""
        return bool((self._maps["done"] != 0).all())

    def __len__(self) -> int:
        """Complete rows, wherever they lie."""
        return len(self._rows())

    def _rows(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        chunk, n = int(self.about["recipe"]["chunk"]), int(self.about["n"])
        return np.flatnonzero(np.repeat(self._maps["done"] != 0, chunk)[:n])

    def _kept(self, name: str, axis: int = 0) -> Tensor:
        """A file's complete rows: the file itself where all are there."""
        whole = self._maps[name]
        return torch.from_numpy(whole if self.complete else np.take(whole, self._rows(), axis))

    def states(self, k: int) -> Tensor:
        """The complete rows' states at the k-th time, (rows, ...)."""
        return self._kept("x", 1)[k]

    def column(self, name: str) -> Tensor:
        """The complete rows of "seed" or of a condition."""
        return self._kept(name if name in self._maps else f"cond_{name}")

    def data(self) -> Data:
        """All segments as a data set: x is the state at their end, batches carry "x_s", "s" and "t" beside conditions.

        Of a complete store nothing is read before it is used; of a growing one the complete rows are copied.

        Raises:
            DataError: If there are no rows.
        """
        if len(self) == 0:
            raise DataError(f"The segment store {self.folder} is empty.")
        x, names = self._kept("x", 1), self.about["conditions"]
        k, rows = self.segments, x.shape[1]
        times = torch.tensor(self.times, dtype=torch.float64)
        columns = {
            "x_s": x[:-1].flatten(0, 1),
            "s": times[:-1].repeat_interleave(rows),
            "t": times[1:].repeat_interleave(rows),
            **{n: self.column(n).repeat(k, *(1,) * (self.column(n).ndim - 1)) for n in names},
        }
        span = self.about["value_range"]
        value_range = (span[0], span[1]) if span else None
        about = About(
            name=f"segments:{self.folder.name}",
            class_names=tuple(self.about["class_names"]),
            range=value_range,
            delivers=value_range,
        )
        made = Data(x[1:].flatten(0, 1), columns, about, conditions=("x_s", "s", "t", *names))
        return self.inheritance.told(made)


def opened(folder: Path, about: Mapping[str, Any], columns: Mapping[str, Tensor]) -> Maps:
    """Writable maps of a store, which is made if it is not there; of several makers at once the first one wins.

    Args:
        folder: Of the store.
        about: What segments.json says.
        columns: "seed", and conditions as "cond_NAME".

    Raises:
        RunError: If the folder holds a store of another recipe, teacher or conditions, or anything else.
        DataError: If its index is damaged.
    """
    index = folder / "segments.json"
    if not index.exists():
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise RunError(f"{folder} is not empty and holds no segments. Choose another folder.")
        _make(folder, about, columns)
    try:
        old = json.loads(index.read_text(encoding="utf-8"))
        new = json.loads(json.dumps(about))
        other = [k for k, v in new.items() if k != "format" and old.get(k) != v]
    except (ValueError, AttributeError) as error:
        raise DataError(f"{index} is damaged: {error}. Delete the folder and generate again.") from error
    if other:
        raise RunError(
            f"{folder} holds segments of another recipe (other {', '.join(other)}). "
            "Choose another folder, or delete this one."
        )
    return {n: np.load(folder / f"{n}.npy", mmap_mode="r+", allow_pickle=False) for n in ("x", "done", *columns)}


def _make(folder: Path, about: Mapping[str, Any], columns: Mapping[str, Tensor]) -> None:
    """An empty store, whole or not at all."""
    n, chunk = about["n"], about["recipe"]["chunk"]
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.{id(about)}.tmp")
    temporary.mkdir(parents=True)
    try:
        arrays = {name: value.cpu().numpy() for name, value in columns.items()}
        arrays["done"] = np.zeros(-(-n // chunk), np.uint8)
        for name, array in arrays.items():
            np.save(temporary / f"{name}.npy", array, allow_pickle=False)
        shape = (len(about["times"]), n, *about["shape"])
        np.lib.format.open_memmap(temporary / "x.npy", "w+", np.float32, shape).flush()
        write_whole(temporary / "segments.json", json.dumps(about, indent=1) + "\n")
        temporary.rename(folder)
    except OSError:
        if not (folder / "segments.json").exists():  # nobody else was faster: a real failure
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write(maps: Maps, rows: slice, x: Tensor, seeds: Tensor, chunk: int) -> None:
    """One chunk, and the mark that it is there.

    Args:
        maps: Of `opened`.
        rows: Of the chunk.
        x: (K + 1, rows, ...) states.
        seeds: int64, those that were used.
        chunk: Rows of a chunk.

    Raises:
        NonFiniteError: For a NaN or an infinity; nothing is written.
    """
    x = x.detach().float().cpu()
    good = x.isfinite().flatten(2).all(2).all(0)
    if not bool(good.all()):
        row = rows.start + int((~good).nonzero()[0])
        raise NonFiniteError(f"The teacher's states hold a NaN or an infinity in row {row}.", row=row)
    maps["x"][:, rows], maps["seed"][rows] = x.numpy(), seeds.cpu().numpy()
    for name in ("x", "seed"):
        maps[name].flush()
    maps["done"][rows.start // chunk] = 1
    maps["done"].flush()
