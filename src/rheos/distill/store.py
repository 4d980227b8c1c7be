"""A folder of pairs on disk: read as a data set, written chunk by chunk, continued after an interruption.

`.npy` files beside `store.json`, which says how many rows are complete: `x1`, `seed`, one a condition, and `x0` unless
the noise is that of the seeds, which then bring it back bit by bit.
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
from rheos.core.errors import DataError, RunError
from rheos.core.files import write_whole
from rheos.core.sources import FromCondition, FromSeed
from rheos.data.dataset import About, Data
from rheos.data.ranges import deliver, to_pictures
from rheos.distill.inherited import Inheriting

__all__ = ["PairStore", "fill"]

FORMAT = 2
BYTES = (0.0, 255.0)
OLDER = {"grid": None, "noise": "stored", "store": "float32"}
"""What stores of format 1 did without saying so."""


@final
class PairStore(Inheriting):
    """A complete or growing store; open it with its folder.

    Args:
        folder: Written by `generate` or `invert_pairs`.

    Raises:
        RunError: If there is no store.
        DataError: If a file is missing, of another length, or the format is newer.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        index = self.folder / "store.json"
        if not index.is_file():
            raise RunError(f"{self.folder} holds no pairs (no store.json). Make them with rheos.distill.generate.")
        try:
            self.about: dict[str, Any] = json.loads(index.read_text())
            if self.about["format"] > FORMAT:
                raise DataError(f"{index} has format {self.about['format']}; this rheos reads up to {FORMAT}.")
            names = [*self._states(), "seed", *(f"cond_{n}" for n in self.about["conditions"])]
            self._maps = {n: np.load(self.folder / f"{n}.npy", mmap_mode="c", allow_pickle=False) for n in names}
        except (ValueError, KeyError, OSError) as error:
            raise DataError(f"The pair store {self.folder} cannot be read: {error}. Generate it again.") from error
        short = [n for n, m in self._maps.items() if len(m) != self.about["n"]]
        if short:
            raise DataError(f"The pair store {self.folder} has {short[0]}.npy of other length than {self.about['n']}.")

    def __len__(self) -> int:
        """Complete rows."""
        return int(self.about["done"])

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
        return torch.from_numpy(self._maps[key][: len(self)])

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
) -> PairStore:
    """Write a store, or finish one.

    Args:
        folder: Created, or continued if its `about` is the same.
        about: What store.json says, with "done" at 0; "n", "shape", "value_range" and "recipe" are read here.
        columns: What is known before: "seed", and conditions as "cond_NAME".
        chunk: Rows made at a time.
        make: (start, stop) to the states "x1" and, unless it is the seeds' noise, "x0" of these rows, float.
        progress: Called (done, n) after each chunk.

    Raises:
        RunError: If the folder holds a store of another recipe, teacher or conditions, or anything else.
        DataError: If its index is damaged.
    """
    maps, done = _open(folder, dict(about), columns)
    n, span = about["n"], about["value_range"]
    while done < n:
        stop = min(done + chunk, n)
        for name, value in make(done, stop).items():
            value = value.detach().float().cpu()
            if maps[name].dtype == np.uint8:
                value = to_pictures(value, (span[0], span[1]))
            maps[name][done:stop] = value.numpy()
        done = stop
        for m in maps.values():
            m.flush()
        _write(folder / "store.json", {**about, "done": done})
        if progress is not None:
            progress(done, n)
    return PairStore(folder)


def _open(folder: Path, about: dict[str, Any], columns: Mapping[str, Tensor]) -> tuple[dict[str, np.memmap], int]:
    """Writable maps of a new or an unfinished store, and how many rows are complete."""
    index = folder / "store.json"
    recipe = about["recipe"]
    states = ["x1"] if recipe.get("noise") == "seed" else ["x0", "x1"]
    if index.exists():
        done = _done(index, about)
        return {n: np.load(folder / f"{n}.npy", mmap_mode="r+", allow_pickle=False) for n in (*states, *columns)}, done
    if folder.is_dir() and any(folder.iterdir()):
        raise RunError(f"{folder} is not empty and holds no pairs. Choose another folder.")
    folder.mkdir(parents=True, exist_ok=True)
    n, shape = about["n"], tuple(about["shape"])
    maps: dict[str, np.memmap] = {}
    for name in states:
        dtype = np.uint8 if name == "x1" and recipe.get("store") == "uint8" else np.float32
        maps[name] = np.lib.format.open_memmap(folder / f"{name}.npy", "w+", dtype, (n, *shape))
    for name, value in columns.items():
        array = value.cpu().numpy()
        maps[name] = np.lib.format.open_memmap(folder / f"{name}.npy", "w+", array.dtype, array.shape)
        maps[name][:] = array
        maps[name].flush()
    _write(index, about)
    return maps, 0


def _done(index: Path, about: Mapping[str, Any]) -> int:
    """The complete rows of a store that must be the one that is asked for."""
    try:
        old = json.loads(index.read_text())
        new = json.loads(json.dumps(about))
        old["recipe"] = {**{k: v for k, v in OLDER.items() if k in new["recipe"]}, **old["recipe"]}
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{index} is damaged: {error}. Delete the folder and generate again.") from error
    other = [k for k, v in new.items() if k not in ("done", "format") and old.get(k) != v]
    if other:
        raise RunError(
            f"{index.parent} holds pairs of another recipe (other {', '.join(other)}). "
            "Choose another folder, or delete this one."
        )
    return int(old["done"])


def _write(path: Path, value: Mapping[str, Any]) -> None:
    write_whole(path, json.dumps(value, indent=1))
