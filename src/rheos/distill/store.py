"""A folder of pairs on disk: read as a data set, written chunk by chunk, continued after an interruption.

`.npy` files beside `store.json`: `x1`, `seed`, one a condition, `done` (a byte a chunk), and `x0` unless the noise is
that of the seeds, which then bring it back bit by bit. Any number of processes may fill one store.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from rheos.core.base import Cond, Source
from rheos.core.draws import Draws
from rheos.core.errors import DataError, NonFiniteError, RunError
from rheos.core.files import write_whole
from rheos.core.sources import FromCondition, FromSeed
from rheos.data.about import About
from rheos.data.dataset import Data
from rheos.data.ranges import deliver, to_pictures
from rheos.distill.chunks import Maps, first_bad, marks, new_store, read_index, readable, rows_of, same, share
from rheos.distill.inherited import Inheriting

__all__ = ["PairStore", "fill"]

FORMAT = 3
"""Of which 1 and 2 counted their complete rows in store.json; 2 could keep seeds and bytes."""
BYTES = (0.0, 255.0)
OLDER = {"grid": None, "noise": "stored", "store": "float32"}
"""What recipes of format 1 did without saying so."""


@final
class PairStore(Inheriting):
    """A complete or growing store; open it with its folder.

    Args:
        folder: Written by `generate` or `invert_pairs`.

    Raises:
        RunError: If there is no store.
        DataError: If a file is missing, damaged or of another length, or the format is newer.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        index = self.folder / "store.json"
        if not index.is_file():
            raise RunError(f"{self.folder} holds no pairs (no store.json). Make them with rheos.distill.generate.")
        self.about: dict[str, Any] = read_index(index)
        try:
            if self.about["format"] > FORMAT:
                raise DataError(f"{index} has format {self.about['format']}; this rheos reads up to {FORMAT}.")
            n, chunk, shape = int(self.about["n"]), int(self.about["recipe"]["chunk"]), tuple(self.about["shape"])
            shapes = {"seed": (n,), **{f"cond_{name}": (n,) for name in self.about["conditions"]}}
            shapes |= dict.fromkeys(self._states(), (n, *shape))
            old = None if self.about["format"] > 2 else _counted(index, self.about)
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{index} is damaged: {error}. Delete the folder and generate again.") from error
        self._maps = readable(self.folder, shapes if old is not None else {**shapes, "done": (-(-n // chunk),)}, "c")
        self._rows = np.arange(old) if old is not None else rows_of(self._maps["done"], n, chunk)

    def __len__(self) -> int:
        """Complete rows, wherever they lie."""
        return len(self._rows)

    def again(self) -> "PairStore":
        """The same store, as it is now."""
        found = PairStore(self.folder)
        found._inheritance = self._inheritance
        return found

    def _states(self) -> list[str]:
        return ["x1"] if self.seeded else ["x0", "x1"]

    @property
    def complete(self) -> bool:
        """Whether every row is there."""
        return len(self) == int(self.about["n"])

    @property
    def seeded(self) -> bool:
        """Whether the noise is kept as its seeds."""
        return bool(self.about["recipe"].get("noise") == "seed")

    @property
    def source(self) -> Source:
        """What gives x0 to a batch of `data`: the column "x0", or the noise of the column "seed"."""
        return FromSeed("seed") if self.seeded else FromCondition("x0", noise=True)

    def column(self, name: str) -> Tensor:
        """A column's complete rows: "x0", "x1", "seed" or a condition.

        It is backed by the file, not read at once, but for the noise of seeds and for bytes, which are made.
        """
        if name == "x0" and self.seeded:
            shape = (len(self), *self.about["shape"])
            return torch.as_tensor(Draws(self.column("seed")).normal(torch.empty(shape), "source"))
        stored = self._stored(name)
        return deliver(stored, BYTES, self._range()) if name == "x1" and stored.dtype == torch.uint8 else stored

    def _stored(self, name: str) -> Tensor:
        key = name if name in self._maps else f"cond_{name}"
        kept, rows = self._maps[key], self._rows
        whole = len(rows) == 0 or int(rows[-1]) == len(rows) - 1  # the first rows, as they lie in the file
        return torch.from_numpy(kept[: len(rows)] if whole else np.take(kept, rows, 0))

    def check(self) -> "PairStore":
        """The same store, after a look at all its noise and samples.

        Raises:
            DataError: For a NaN or an infinity, with its row.
        """
        for name in self._states():
            stored, most = self._stored(name), int(self.about["recipe"]["chunk"])
            for start in range(0, len(stored), most):
                bad = first_bad(stored[start : start + most])
                if bad is not None:
                    row = int(self._rows[start + bad])
                    raise DataError(
                        f"{self.folder / name}.npy holds a NaN or an infinity in row {row}. Generate it again.", row=row
                    )
        return self

    @property
    def given(self) -> Cond:
        """The conditions of all n rows, also of those that are not there yet."""
        return {name: torch.from_numpy(self._maps[f"cond_{name}"]) for name in self.about["conditions"]}

    def _range(self) -> tuple[float, float] | None:
        span = self.about["value_range"]
        return (span[0], span[1]) if span else None

    def rows(self, index: Tensor) -> tuple[Tensor, Tensor, Cond]:
        """(x0, x1, conditions) of some rows, in float32."""
        index = index.cpu()
        x1 = self._stored("x1")[index]
        if x1.dtype == torch.uint8:
            x1 = deliver(x1, BYTES, self._range())
        cond = {n: self._stored(n)[index] for n in self.about["conditions"]}
        if self.seeded:
            return torch.as_tensor(Draws(self._stored("seed")[index]).normal(x1, "source")), x1, cond
        return self._stored("x0")[index], x1, cond

    def data(self) -> Data:
        """The pairs as a data set whose batches carry x0, or its seed, beside the conditions: see `source`.

        Pairs of a run in latents know its codec, if they were generated from the run, or `inheriting(run)`.
        """
        if len(self) == 0:
            raise DataError(f"The pair store {self.folder} is empty.")
        names, carried = self.about["conditions"], "seed" if self.seeded else "x0"
        columns = {carried: self._stored(carried), **{n: self._stored(n) for n in names}}
        x1, value_range = self._stored("x1"), self._range()
        about = About(
            name=f"pairs:{self.folder.name}",
            class_names=tuple(self.about["class_names"]),
            range=BYTES if x1.dtype == torch.uint8 else value_range,
            delivers=value_range,
        )
        return self.inheritance.told(Data(x1, columns, about, conditions=(carried, *names)))


def fill(
    folder: Path,
    about: Mapping[str, Any],
    columns: Mapping[str, Tensor],
    chunk: int,
    make: Callable[[int, int], Mapping[str, Tensor]],
    progress: Callable[[int, int], None] | None,
    shard: tuple[int, int] = (0, 1),
) -> PairStore:
    """Write a store, or finish one, or a share of it.

    Args:
        folder: Created, or continued if its `about` is the same.
        about: What store.json says; "n", "shape", "value_range" and "recipe" are read here.
        columns: What is known before: "seed", and conditions as "cond_NAME".
        chunk: Rows made at a time.
        make: (start, stop) to the states "x1" and, unless it is the seeds' noise, "x0" of these rows, float; also
            "seed" where others were used than were known before.
        progress: Called (done, rows of this shard) after each chunk that was made.
        shard: (k, of): this call makes chunks k, k + of, ...

    Raises:
        OptionError: For a shard outside its number.
        RunError: If the folder holds a store of another recipe, teacher or conditions, or anything else.
        DataError: If a file is damaged.
        NonFiniteError: For a NaN or an infinity; the rows of its chunk are not written.
    """
    mine, span = share(about["n"], chunk, shard), about["value_range"]
    maps = _open(folder, {k: v for k, v in about.items() if k != "done"} | {"format": FORMAT}, columns)
    done, total = 0, sum(rows.stop - rows.start for rows in mine)
    for rows in mine:
        done += rows.stop - rows.start
        if maps["done"][rows.start // chunk]:
            continue
        made = {name: value.detach().cpu() for name, value in make(rows.start, rows.stop).items()}
        for name, value in made.items():
            bad = first_bad(value)
            if bad is not None:
                row = rows.start + bad
                raise NonFiniteError(f"Pairs hold a NaN or an infinity in {name}, row {row}.", row=row)
        for name, value in made.items():
            if maps[name].dtype == np.uint8:
                value = to_pictures(value.float(), (span[0], span[1]))
            maps[name][rows] = (value if name == "seed" else value.float()).numpy()
            maps[name].flush()
        maps["done"][rows.start // chunk] = 1
        maps["done"].flush()
        if progress is not None:
            progress(done, total)
    return PairStore(folder)


def _open(folder: Path, about: dict[str, Any], columns: Mapping[str, Tensor]) -> Maps:
    """Writable maps of a new or an unfinished store, which then has the newest format."""
    index, recipe, n = folder / "store.json", about["recipe"], int(about["n"])
    chunk, shape = int(recipe["chunk"]), (n, *about["shape"])
    states = dict.fromkeys(["x1"] if recipe.get("noise") == "seed" else ["x0", "x1"], shape)
    if not index.exists():
        small = recipe.get("store") == "uint8"
        arrays: dict[str, Any] = {name: value.cpu().numpy() for name, value in columns.items()}
        arrays |= {name: (np.uint8 if small and name == "x1" else np.float32, shape) for name in states}
        new_store(folder, index.name, about, {**arrays, "done": marks(n, chunk)}, "pairs")
    old = read_index(index)
    old["recipe"] = {**{k: v for k, v in OLDER.items() if k in recipe}, **old.get("recipe", {})}
    old.setdefault("filter", None)
    same(folder, old, about, "pairs")
    if old.get("format", 1) < 3:
        np.save(folder / "done.npy", marks(n, chunk, _counted(index, old)), allow_pickle=False)
        write_whole(index, json.dumps(about, indent=1) + "\n")
    return readable(folder, {**states, "done": (-(-n // chunk),), **dict.fromkeys(columns, (n,))}, "r+")


def _counted(index: Path, about: Mapping[str, Any]) -> int:
    """The complete rows of a store of format 1 or 2."""
    done, n = int(about["done"]), int(about["n"])
    if not 0 <= done <= n:
        raise DataError(f"{index} is damaged: it counts {done} complete rows of {n}. Delete it and generate again.")
    return done
