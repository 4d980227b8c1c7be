"""What stores of a teacher's samples share: chunks that several processes make, marks of what is there, and filters.

A store is a folder of `.npy` files beside an index. `done.npy` has a byte a chunk; a process makes the chunks of its
share, so nobody waits, and an interruption costs one chunk.
"""

import json
import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, Self, TypeVar, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rheos.core.base import Cond
from rheos.core.draws import Draws
from rheos.core.errors import DataError, OptionError, RunError
from rheos.core.files import write_whole

__all__ = [
    "Filter", "Maps", "Shared", "filtered", "first_bad", "marks", "named", "new_store", "read_index", "readable",
    "rows_of", "same", "share", "shares", "whole",
]  # fmt: skip

ATTEMPTS = 20
Filter = Callable[[Tensor, Cond], Tensor]
"""From final states and their conditions to (B,) bool: which are good enough to be kept."""
Maps = dict[str, np.memmap[Any, Any]]


def shares() -> tuple[int, int]:
    """(k, of): which of the processes of a launcher such as torchrun this one is."""
    return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


def share(n: int, chunk: int, shard: tuple[int, int]) -> list[slice]:
    """The rows of the chunks k, k + of, ... of n rows.

    Raises:
        OptionError: For a shard outside its number.

    Example:
        >>> share(10, 4, (0, 2))
        [slice(0, 4, None), slice(8, 10, None)]
    """
    if not 0 <= shard[0] < shard[1]:
        raise OptionError(f"shard is (k, of) with 0 <= k < of, got {shard}.")
    return [slice(c * chunk, min((c + 1) * chunk, n)) for c in range(shard[0], -(-n // chunk), shard[1])]


def named(keep: Filter | None) -> str | None:
    """What a filter is called in the index, so that a store is not continued with another one."""
    if keep is None or is_dataclass(keep):
        return None if keep is None else repr(keep)
    own = keep if hasattr(keep, "__qualname__") else type(keep)
    return f"{own.__module__}:{own.__qualname__}"


def filtered(
    make: Callable[[Tensor, Cond], Mapping[str, Tensor]],
    end: Callable[[Mapping[str, Tensor]], Tensor],
    keep: Filter | None,
    seeds: Tensor,
    cond: Cond,
) -> tuple[dict[str, Tensor], Tensor]:
    """What `make` makes of seeds, rows first, and the seeds: rows that the filter refuses are made anew of others.

    Raises:
        DataError: If it refuses a row 20 times.
    """
    made = dict(make(seeds, cond))
    if keep is None:
        return made, seeds
    made, used = {name: v.clone() for name, v in made.items()}, seeds.clone()
    poor = ~keep(end(made), cond)
    for attempt in range(1, ATTEMPTS):
        if not bool(poor.any()):
            return made, used
        again = Draws(seeds[poor.cpu()]).fold("again", attempt).seed
        part = {name: v[poor.to(v.device)] for name, v in cond.items()}
        fresh = make(again, part)
        for name, value in fresh.items():
            made[name][poor.to(value.device)] = value
        used[poor.cpu()] = again
        poor[poor.clone()] = ~keep(end(fresh), part)
    if bool(poor.any()):
        raise DataError(
            f"The filter refused {int(poor.sum())} of {len(seeds)} rows {ATTEMPTS} times each. Ask for less."
        )
    return made, used


def read_index(index: Path) -> dict[str, Any]:
    """An index that must be there.

    Raises:
        DataError: If it is damaged.
    """
    try:
        found = json.loads(index.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise DataError(f"{index} is damaged: {error}. Delete the folder and generate again.") from error
    if not isinstance(found, dict) or not isinstance(found.get("recipe", {}), dict):
        raise DataError(f"{index} is damaged: it holds no store's description. Delete the folder and generate again.")
    return found


def same(folder: Path, old: Mapping[str, Any], new: Mapping[str, Any], what: str) -> None:
    """Raise `RunError` unless two indices say the same, but for their format."""
    wanted = json.loads(json.dumps(new))
    if other := [k for k, v in wanted.items() if k != "format" and old.get(k) != v]:
        raise RunError(
            f"{folder} holds {what} of another recipe (other {', '.join(other)}). "
            "Choose another folder, or delete this one."
        )


def readable(folder: Path, shapes: Mapping[str, tuple[int, ...]], mode: Literal["c", "r+"]) -> Maps:
    """Maps of a store's files.

    Args:
        folder: Of the store.
        shapes: Names, and the first lengths of each array.
        mode: "c" to read, "r+" to write.

    Raises:
        DataError: For a file that is missing, cut off or of another shape, with its name.
    """
    maps: Maps = {}
    for name, shape in shapes.items():
        file = folder / f"{name}.npy"
        try:
            found = np.load(file, mmap_mode="c", allow_pickle=False)  # "r+" would lengthen a file that was cut off
            maps[name] = found if mode == "c" else np.load(file, mmap_mode=mode, allow_pickle=False)
        except (ValueError, OSError, EOFError) as error:
            raise DataError(f"{file} cannot be read: {error}. Delete the folder and generate again.") from error
        if maps[name].shape[: len(shape)] != shape:
            raise DataError(
                f"{file} has shape {maps[name].shape}, not {shape} first. Delete the folder and generate again."
            )
    return maps


def new_store(folder: Path, index: str, about: Mapping[str, Any], arrays: Mapping[str, Any], what: str) -> None:
    """An empty store, whole or not at all; of several makers at once the first one wins.

    Args:
        folder: Made; it must be empty if it is there.
        index: Name of the index file.
        about: What it says.
        arrays: Name to an array, or to (dtype, shape) of one that is filled later.
        what: Is in the store, for the error.

    Raises:
        RunError: If the folder holds anything else.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())) and not (folder / index).exists():
        raise RunError(f"{folder} is not empty and holds no {what}. Choose another folder.")
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.{id(about)}.tmp")
    temporary.mkdir(parents=True)
    try:
        for name, array in arrays.items():
            if isinstance(array, tuple):
                np.lib.format.open_memmap(temporary / f"{name}.npy", "w+", *array).flush()
            else:
                np.save(temporary / f"{name}.npy", array, allow_pickle=False)
        write_whole(temporary / index, json.dumps(about, indent=1) + "\n")
        temporary.rename(folder)
    except OSError:
        if not (folder / index).exists():  # nobody else was faster: a real failure
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def marks(n: int, chunk: int, done: int = 0) -> NDArray[np.uint8]:
    """A byte a chunk, of which those that lie in the first rows are there."""
    found = np.zeros(-(-n // chunk), np.uint8)
    found[: len(found) if done >= n else done // chunk] = 1
    return found


def rows_of(done: NDArray[Any], n: int, chunk: int) -> NDArray[np.int64]:
    """The rows of the chunks that are there."""
    return np.flatnonzero(np.repeat(done != 0, chunk)[:n])


@runtime_checkable
class Shared(Protocol):
    """A store that several processes fill."""

    @property
    def complete(self) -> bool:
        """Whether every row is there."""
        ...

    def again(self) -> Self:
        """The same store, as it is now."""
        ...


S = TypeVar("S", bound=Shared)


def whole(store: S) -> S:
    """The store when the other processes have made their shares; a launcher that loses one stops us all."""
    while not store.complete:
        time.sleep(0.2)
        store = store.again()
    return store


def first_bad(x: Tensor) -> int | None:
    """The first row with a NaN or an infinity."""
    good = x.isfinite().flatten(1).all(1) if x.is_floating_point() else torch.ones(len(x), dtype=torch.bool)
    return None if bool(good.all()) else int((~good).nonzero()[0])
