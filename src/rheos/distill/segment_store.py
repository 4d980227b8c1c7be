"""A folder of segments on disk: opened by any number of processes, each of which marks the chunks that it has made.

`.npy` files beside `segments.json`: `x` (K + 1, n, ...), `seed`, one file a condition, and `done`, a byte a chunk.
"""

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from rheos.core.errors import DataError, NonFiniteError, RunError
from rheos.data.about import About
from rheos.data.dataset import Data
from rheos.distill.chunks import Maps, first_bad, marks, new_store, read_index, readable, rows_of, same
from rheos.distill.fine import nodes
from rheos.distill.inherited import Inheriting

__all__ = ["SegmentStore", "opened", "write"]

FORMAT = 1


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
        self.about: dict[str, Any] = read_index(index)
        try:
            if self.about["format"] > FORMAT:
                raise DataError(f"{index} has format {self.about['format']}; this rheos reads up to {FORMAT}.")
            n, chunk = int(self.about["n"]), int(self.about["recipe"]["chunk"])
            shapes = {"x": (self.segments + 1, n, *self.about["shape"]), "seed": (n,), "done": (-(-n // chunk),)}
            shapes |= {f"cond_{name}": (n,) for name in self.about["conditions"]}
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{index} is damaged: {error}. Delete the folder and generate again.") from error
        self._maps = readable(self.folder, shapes, "c")
        self._at: list[int] | None = None  # which of the times that are stored; None: all

    def again(self) -> "SegmentStore":
        """The same store, as it is now."""
        found = SegmentStore(self.folder)
        found._inheritance = self._inheritance
        return found if self._at is None else found.at(self.times)

    def at(self, times: Sequence[float]) -> "SegmentStore":
        """The same trajectories at some of their times; the states at these are copied when they are used.

        Args:
            times: At least two, increasing.

        Raises:
            TimeError: For times that are not stored.
        """
        picked = nodes(times, self.times, "times of the store")
        made = copy.copy(self)
        made._at = picked if self._at is None else [self._at[k] for k in picked]
        made.about = {**self.about, "times": [self.times[k] for k in picked]}
        return made

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
        return rows_of(self._maps["done"], int(self.about["n"]), int(self.about["recipe"]["chunk"]))

    def _kept(self, name: str, axis: int = 0) -> Tensor:
        """A file's complete rows: the file itself where all are there."""
        whole: np.ndarray[Any, Any] = self._maps[name]
        if name == "x" and self._at is not None:
            whole = np.take(whole, self._at, 0)
        return torch.from_numpy(whole if self.complete else np.take(whole, self._rows(), axis))

    def states(self, k: int) -> Tensor:
        """The complete rows' states at the k-th time, (rows, ...)."""
        one: np.ndarray[Any, Any] = self._maps["x"][k if self._at is None else self._at[k]]
        return torch.from_numpy(one if self.complete else np.take(one, self._rows(), 0))

    @property
    def given(self) -> dict[str, Tensor]:
        """The complete rows' conditions, by name."""
        return {name: self.column(name) for name in self.about["conditions"]}

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
        DataError: If a file is damaged.
    """
    index, n, chunk = folder / "segments.json", about["n"], about["recipe"]["chunk"]
    length = len(about["times"])
    if not index.exists():
        arrays: dict[str, Any] = {name: value.cpu().numpy() for name, value in columns.items()}
        arrays |= {"done": marks(n, chunk), "x": (np.float32, (length, n, *about["shape"]))}
        new_store(folder, index.name, about, arrays, "segments")
    same(folder, read_index(index), about, "segments")
    shapes = {"x": (length, n, *about["shape"]), "done": (-(-n // chunk),), **dict.fromkeys(columns, (n,))}
    return readable(folder, shapes, "r+")


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
    bad = first_bad(x.transpose(0, 1))
    if bad is not None:
        row = rows.start + bad
        raise NonFiniteError(f"The teacher's states hold a NaN or an infinity in row {row}.", row=row)
    maps["x"][:, rows], maps["seed"][rows] = x.numpy(), seeds.cpu().numpy()
    for name in ("x", "seed"):
        maps[name].flush()
    maps["done"][rows.start // chunk] = 1
    maps["done"].flush()
