"""Pairs (noise, sample) of a field, on disk and memory-mapped.

A store is a folder of `.npy` files, `x0`, `x1`, `seed` and one a condition, beside `store.json`, which says how
many rows are complete. It is written chunk by chunk and can be continued after an interruption; since a row is a
function of its own seed, a continued store equals an uninterrupted one.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from rheos.core.base import Cond
from rheos.core.draws import row_seeds
from rheos.core.errors import DataError, OptionError, RunError
from rheos.core.field import Field
from rheos.core.files import write_whole
from rheos.data.dataset import About, Data
from rheos.sample.draw import conditions, draw_solution
from rheos.sample.guidance import CFG

__all__ = ["PairStore", "Recipe", "generate"]

FORMAT = 1


@final
@dataclass(frozen=True)
class Recipe:
    """How the samples of a store are drawn.

    Args:
        steps: Steps of the teacher's grid.
        solver: Name of the teacher's solver.
        guidance: Scale of classifier-free guidance that is baked into the pairs; 1: none.
        seed: Of the rows' seeds.
        chunk: Rows a network call.

    Raises:
        OptionError: For steps or chunk below 1.
    """

    steps: int = 20
    solver: str = "heun"
    guidance: float = 1.0
    seed: int = 0
    chunk: int = 256

    def __post_init__(self) -> None:
        if self.steps < 1 or self.chunk < 1:
            raise OptionError(f"steps and chunk must be at least 1, got {self.steps} and {self.chunk}.")


class PairStore:
    """A complete or growing store; open it with its folder.

    Args:
        folder: Written by `generate`.

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
            names = ["x0", "x1", "seed", *(f"cond_{n}" for n in self.about["conditions"])]
            self._maps = {n: np.load(self.folder / f"{n}.npy", mmap_mode="c", allow_pickle=False) for n in names}
        except (ValueError, KeyError, OSError) as error:
            raise DataError(f"The pair store {self.folder} cannot be read: {error}. Generate it again.") from error
        short = [n for n, m in self._maps.items() if len(m) != self.about["n"]]
        if short:
            raise DataError(f"The pair store {self.folder} has {short[0]}.npy of other length than {self.about['n']}.")

    def __len__(self) -> int:
        """Complete rows."""
        return int(self.about["done"])

    @property
    def complete(self) -> bool:
        """Whether every row is there."""
        return len(self) == int(self.about["n"])

    def column(self, name: str) -> Tensor:
        """A column's complete rows: "x0", "x1", "seed" or a condition; backed by the file, not read at once."""
        key = name if name in self._maps else f"cond_{name}"
        return torch.from_numpy(self._maps[key][: len(self)])

    def data(self) -> Data:
        """The pairs as a data set whose batches carry x0 beside the conditions, for `GivenPairs`."""
        if len(self) == 0:
            raise DataError(f"The pair store {self.folder} is empty.")
        names = self.about["conditions"]
        columns = {"x0": self.column("x0"), **{n: self.column(n) for n in names}}
        span = self.about["value_range"]
        value_range = (span[0], span[1]) if span else None
        about = About(
            name=f"pairs:{self.folder.name}",
            class_names=tuple(self.about["class_names"]),
            range=value_range,
            delivers=value_range,
        )
        return Data(self.column("x1"), columns, about, conditions=("x0", *names))


def generate(
    field: Field,
    folder: str | Path,
    n: int,
    *,
    recipe: Recipe | None = None,
    cond: Cond | None = None,
    class_names: Sequence[str] = (),
    progress: Callable[[int, int], None] | None = None,
) -> PairStore:
    """Draw n samples of a field and keep them beside their noise.

    Args:
        field: The teacher; it must know its data's shape.
        folder: Created, or continued if it holds an unfinished store of the same recipe.
        n: Rows.
        recipe: Steps, solver, guidance, seed.
        cond: Conditions with n rows; labels are balanced when they are not given.
        class_names: Names to keep beside labels; numbers unless given.
        progress: Called (done, n) after each chunk.

    Returns:
        The complete store; opened at once if it was there already.

    Raises:
        OptionError: For n < 1, a field without a shape, or conditions that cannot be made up.
        RunError: If the folder holds a store of another recipe, teacher or conditions, or anything else.
    """
    recipe = recipe or Recipe()
    if n < 1:
        raise OptionError(f"n must be at least 1, got {n}.")
    if field.shape is None:
        raise OptionError("This field does not know the shape of its data; set field.shape first.")
    given = conditions(field, n, dict(_conditions(field, n, cond)))
    folder = Path(folder)
    classes = int(getattr(field.net, "config", {}).get("classes", 0) or 0)
    about = {
        "format": FORMAT,
        "n": n,
        "done": 0,
        "recipe": asdict(recipe),
        "teacher": _fingerprint(field, given),
        "shape": list(field.shape),
        "value_range": field.value_range,
        "conditions": sorted(given),
        "class_names": list(class_names) or [str(k) for k in range(classes)],
    }
    maps, done = _open(folder, about, given)
    seeds = row_seeds(recipe.seed, n)
    while done < n:
        stop = min(done + recipe.chunk, n)
        part = {name: v[done:stop] for name, v in given.items()}
        guidance = None if recipe.guidance == 1.0 else CFG(recipe.guidance)
        solution = draw_solution(
            field, stop - done, steps=recipe.steps, solver=recipe.solver, guidance=guidance,
            seed=seeds[done:stop], **part,
        )  # fmt: skip
        maps["x0"][done:stop] = solution.source.float().cpu().numpy()  # type: ignore[union-attr]
        maps["x1"][done:stop] = solution.x.float().cpu().numpy()  # type: ignore[union-attr]
        done = stop
        for m in maps.values():
            m.flush()
        _write(folder / "store.json", {**about, "done": done})
        if progress is not None:
            progress(done, n)
    return PairStore(folder)


def _fingerprint(field: Field, given: Cond) -> str:
    """What the pairs depend on beside the recipe: the teacher's weights and meaning, and the conditions."""
    digest = blake2b(digest_size=16)
    digest.update(repr((field.path, field.predicts, field.shift)).encode())
    for name, value in [*field.state_dict().items(), *sorted(given.items())]:
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _conditions(field: Field, n: int, cond: Cond | None) -> Cond:
    """The given conditions, with balanced labels where a class-conditional field gets none."""
    given = dict(cond or {})
    missing = field.conditions - given.keys()
    classes = int(getattr(field.net, "config", {}).get("classes", 0) or 0)
    if "label" in missing and classes:
        given["label"] = torch.arange(n) % classes
        missing = missing - {"label"}
    if missing:
        raise OptionError(f"Pairs need the conditions {', '.join(sorted(missing))}: give cond with {n} rows.")
    return given


def _open(folder: Path, about: dict[str, Any], given: Cond) -> tuple[dict[str, np.memmap], int]:
    """Writable maps of a new or an unfinished store, and how many rows are complete."""
    index = folder / "store.json"
    if index.exists():
        try:
            old = json.loads(index.read_text())
        except ValueError as error:
            raise DataError(f"{index} is damaged: {error}. Delete the folder and generate again.") from error
        other = [k for k, v in json.loads(json.dumps(about)).items() if k != "done" and old.get(k) != v]
        if other:
            raise RunError(
                f"{folder} holds pairs of another recipe (other {', '.join(other)}). "
                "Choose another folder, or delete this one."
            )
        names = ["x0", "x1", "seed", *(f"cond_{n}" for n in given)]
        return {n: np.load(folder / f"{n}.npy", mmap_mode="r+", allow_pickle=False) for n in names}, int(old["done"])
    if folder.is_dir() and any(folder.iterdir()):
        raise RunError(f"{folder} is not empty and holds no pairs. Choose another folder.")
    folder.mkdir(parents=True, exist_ok=True)
    n, shape = about["n"], tuple(about["shape"])
    maps: dict[str, np.memmap] = {}
    for name in ("x0", "x1"):
        maps[name] = np.lib.format.open_memmap(folder / f"{name}.npy", "w+", np.float32, (n, *shape))
    columns = {"seed": row_seeds(about["recipe"]["seed"], n), **{f"cond_{k}": v.cpu() for k, v in given.items()}}
    for name, value in columns.items():
        array = value.numpy()
        maps[name] = np.lib.format.open_memmap(folder / f"{name}.npy", "w+", array.dtype, array.shape)
        maps[name][:] = array
        maps[name].flush()
    _write(index, about)
    return maps, 0


def _write(path: Path, value: dict[str, Any]) -> None:
    write_whole(path, json.dumps(value, indent=1))
